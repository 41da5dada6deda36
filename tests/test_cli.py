"""The commands as a user types them: what they print, write, and refuse."""

from __future__ import annotations

import csv
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from leantune.adalora.export import write_lora
from leantune.cli.commands import COMMANDS
from leantune.cli.main import main
from leantune.cli.parser import build_parser, parse
from leantune.cli.process import exit_code_of, stop
from leantune.cli.recipe import recipe_from
from leantune.config.convert import convert
from leantune.config.load import load_recipe
from leantune.data.labels import LabelMap
from leantune.errors import UsageError
from leantune.inference.export.formats import FOLDERS
from leantune.inference.writers import PredictionLayout, open_writer
from tiny import save_tiny_encoder, write_rows

SETTINGS = [
    "init_r=4",
    "target_r=1",
    "epochs=2",
    "batch_size=16",
    "learning_rate=1e-2",
    "max_length=32",
    "precision=fp32",
    "validation_size=48",
]


def fails(capsys, code: int, *arguments: str) -> str:
    """The one line that a failing command prints."""
    assert main(list(arguments)) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("leantune: error: ")
    assert not any("Traceback" in line for line in lines)
    return lines[-1].removeprefix("leantune: error: ")


def test_help_is_quick_and_imports_no_torch():
    code = (
        "import sys, leantune.cli.main\n"
        "try: leantune.cli.main.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy', 'pyarrow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "leantune predict runs/quickstart" in done.stdout


def test_every_command_that_can_be_typed_has_a_function(capsys):
    choices = next(a.choices for a in build_parser()._actions if a.dest == "command")
    assert list(choices) == list(COMMANDS)
    for name in choices:
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        assert f"usage: leantune {name} " in capsys.readouterr().out


def test_every_format_that_can_be_typed_has_a_folder_in_the_run():
    export = next(a.choices for a in build_parser()._actions if a.dest == "command")["export"]
    assert next(a.choices for a in export._actions if a.dest == "format") == tuple(FOLDERS)


def test_train_with_flags_only_prints_where_everything_is(inputs, tmp_path, capsys):
    output = tmp_path / "run"
    arguments = ["train", "--data", str(inputs / "train.csv"), "--model", str(inputs / "encoder")]
    assert main([*arguments, "--output", str(output), "--epochs", "2", "--init-rank", "3", "--target-rank", "1",
                 "--test", str(inputs / "test.csv"), "--max-trainable-params", "5000"]) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert {"report.html", "README.md"} <= {path.name for path in output.iterdir()}
    for part in (
        "test, linear probe",
        "fine-tuning gained",
        "parameters",
        "report.html",
        "merged",
        "leantune predict ",
    ):
        assert part in out


def test_train_with_a_recipe_file_and_overrides(inputs, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"data: {inputs / 'train.csv'}\nmodel: {inputs / 'encoder'}\nlearning_rate: 1e-3\n")
    assert main(["train", str(recipe), *SETTINGS, f"output={tmp_path / 'run'}", "tinit=3", "deltaT=2"]) == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["recipe"]["learning_rate"] == 0.01
    assert record["schedule"]["warmup_steps"] == 3
    assert record["schedule"]["allocate_every"] == 2


def test_the_resolved_recipe_repeats_the_run(run, tmp_path):
    assert main(["train", str(run / "recipe.yaml"), f"output={tmp_path / 'again'}"]) == 0
    name = "merged/model.safetensors"
    assert (run / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.fixture(scope="module")
def roberta_shape(tmp_path_factory) -> Path:
    from transformers import RobertaConfig

    folder = tmp_path_factory.mktemp("roberta")
    RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
    ).save_pretrained(str(folder))
    return folder


def test_plan_prints_the_counts_of_the_reference_run(roberta_shape, capsys):
    arguments = ["plan", "agnews-roberta-as-published", f"model={roberta_shape}", "--offline"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for number in ("999,436", "593,668", "405,768", "888,772"):
        assert number in out
    assert sum("768 x 768" in line and line.startswith("12 x roberta") for line in out.splitlines()) == 2
    assert main([*arguments, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["parameters"]
    assert (plan["initial"], plan["final"], plan["head"], plan["adapters"]) == (
        999_436,
        888_772,
        593_668,
        405_768,
    )
    assert len(plan["modules"]) == 24


def test_plan_with_data_prints_the_schedule(inputs, capsys):
    arguments = ["plan", f"data={inputs / 'train.csv'}", f"model={inputs / 'encoder'}", *SETTINGS]
    assert main(arguments) == 0
    assert "training: 24 steps of 16 texts in 2 epochs, learning rate 0.01;" in capsys.readouterr().out


def test_the_width_of_the_encoder_decides_a_learning_rate_that_is_not_given(
    inputs, roberta_shape, tmp_path, capsys
):
    rows = write_rows(tmp_path / "rows.csv", 400)  # of fewer it would be a third
    words = [f"data={rows}", *SETTINGS, "learning_rate=none"]
    assert main(["plan", *words, f"model={inputs / 'encoder'}"]) == 0
    assert "learning rate 0.003" in capsys.readouterr().out
    assert main(["train", *words, f"model={inputs / 'encoder'}", f"output={tmp_path / 'run'}"]) == 0
    assert json.loads((tmp_path / "run" / "record.json").read_text())["recipe"]["learning_rate"] == 0.003
    assert "learning_rate: 0.003" in (tmp_path / "run" / "recipe.yaml").read_text()
    steps = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert max(each["learning_rate"] for each in steps if each["event"] == "step") == 0.003


def test_plan_with_labels_does_not_hide_what_is_wrong_with_the_rows(inputs, tmp_path, capsys):
    import pickle

    (tmp_path / "evil.csv").write_bytes(pickle.dumps(os.system))
    words = [f"data={tmp_path / 'evil.csv'}", f"model={inputs / 'encoder'}", "labels=a,b,c", *SETTINGS]
    assert "evil.csv" in fails(capsys, 4, "plan", *words)
    words[0] = f"data={tmp_path / 'mistyped.csv'}"
    assert "mistyped.csv: no such file" in fails(capsys, 2, "plan", *words)


def test_plan_refuses_a_budget_below_the_head(roberta_shape, capsys):
    line = fails(
        capsys,
        2,
        "plan",
        "agnews-roberta-as-published",
        f"model={roberta_shape}",
        "max_trainable_params=590000",
    )
    assert "max_trainable_params=590,000 is too small: the head has 593,668" in line
    assert "the smallest limit that fits is 667,444" in line


def test_evaluate_gives_the_accuracy_of_the_record(run, inputs, capsys):
    assert main(["evaluate", str(run), "--data", str(inputs / "test.csv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    record = json.loads((run / "record.json").read_text())
    assert found["accuracy"] == record["metrics"]["test"]["accuracy"]
    assert main(["evaluate", str(run), "--data", str(inputs / "test.csv")]) == 0
    assert "precision" in capsys.readouterr().out


def rows_of(path: Path) -> list[dict[str, str]]:
    if path.suffix == ".parquet":
        return [{k: str(v) for k, v in row.items()} for row in pq.read_table(path).to_pylist()]
    if path.suffix == ".jsonl":
        lines = path.read_text("utf-8").splitlines()
        return [{k: str(v) for k, v in json.loads(line).items()} for line in lines]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_predict_writes_every_row_in_order(run, inputs, tmp_path, suffix):
    output = tmp_path / f"out.{suffix}"
    assert main(["predict", str(run), "--input", str(inputs / "test.csv"), "--output", str(output),
                 "--probabilities"]) == 0  # fmt: skip
    rows = rows_of(output)
    assert [row["id"] for row in rows] == [str(i) for i in range(60)]
    for row in rows:
        probabilities = {name: float(row[f"p_{name}"]) for name in "abc"}
        assert row["label"] == max(probabilities, key=lambda name: probabilities[name])
        assert float(row["score"]) == max(probabilities.values())
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_predictions_do_not_depend_on_the_batch_or_the_order(run, inputs, tmp_path):
    lines = (inputs / "test.csv").read_text("utf-8").splitlines()
    (tmp_path / "reversed.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n", "utf-8")
    outputs = []
    for name, size in ((inputs / "test.csv", "64"), (tmp_path / "reversed.csv", "7")):
        output = tmp_path / f"out{size}.csv"
        assert (
            main(["predict", str(run), "--input", str(name), "--output", str(output), "--batch-size", size])
            == 0
        )
        outputs.append(rows_of(output))
    for a, b in zip(outputs[0], reversed(outputs[1]), strict=True):
        assert a["label"] == b["label"]
        assert float(a["score"]) == pytest.approx(float(b["score"]), abs=1e-5)


@pytest.mark.parametrize("name", ["evaluate", "plan", "report"])
def test_nobody_who_reads_the_output_is_no_error(run, inputs, tmp_path, command, name):
    copy = shutil.copytree(run, tmp_path / "run")
    words = {
        "evaluate": ["evaluate", str(copy), "--data", str(inputs / "test.csv")],
        "plan": ["plan", f"data={inputs / 'train.csv'}", f"model={inputs / 'encoder'}", "init_rank=4"],
        "report": ["report", str(copy)],
    }
    with command.start(*words[name]) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        "train --data {no} --model {encoder} --output {out}",
        "train --data {rows} --test {no} --model {encoder} --output {out}",
        "train --data {rows} --validation {no} --model {encoder} --output {out}",
        "train --data {rows} --unlabelled {no} --model {encoder} --output {out}",
        "train --data {rows} --model {no} --output {out}",
        "train {no}",
        "train --resume {no}",
        "predict {run} {no}",
        "predict {no} {rows}",
        "evaluate {run} --data {no}",
        "evaluate {no} --data {rows}",
        "export {no} --format lora",
        "report {no}",
    ],
)
def test_what_is_named_and_not_there_is_a_usage_error_whatever_it_should_be(
    run, inputs, tmp_path, capsys, words
):
    names = {"no": tmp_path / "no", "out": tmp_path / "out", "run": run}
    names |= {"rows": inputs / "train.csv", "encoder": inputs / "encoder"}
    said = fails(capsys, 2, *words.format(**names).split())
    assert str(tmp_path / "no") in said
    assert not (tmp_path / "out").exists()


def test_an_id_that_no_file_can_hold_is_named_before_anything_is_written(run, tmp_path, capsys):
    (tmp_path / "new.jsonl").write_text('{"text": "word1", "id": "a"}\n{"text": "word2", "id": "\\ud800"}\n')
    words = ["--id-column", "id", "--output", str(tmp_path / "out.csv")]
    assert main(["predict", str(run), "--input", str(tmp_path / "new.jsonl"), *words]) == 3
    said = capsys.readouterr().err
    assert "new.jsonl:2:id: half of a surrogate pair" in said
    assert not (tmp_path / "out.csv").exists()


def test_whole_numbers_that_parquet_has_no_room_for_are_refused(tmp_path):
    labels = LabelMap(("-3", "18446744073709551617"))
    assert labels.is_integer
    with pytest.raises(UsageError, match=r"18446744073709551617 is too large .* write \.csv or \.jsonl"):
        open_writer(PredictionLayout(labels, submission=True), tmp_path / "out.parquet", ".parquet")


def test_a_tilde_is_the_home_of_the_user_in_every_path(run, inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(run, tmp_path / "run")
    shutil.copy(inputs / "test.csv", tmp_path / "new.csv")
    monkeypatch.chdir(inputs)
    assert main(["predict", "~/run", "--input=~/new.csv", "--output=~/out.csv"]) == 0
    assert main(["export", "~/run", "--format", "merged", "--output=~/merged"]) == 0
    assert main(["evaluate", "~/run", "--data=~/new.csv"]) == 0
    assert main(["report", "~/run"]) == 0
    assert (tmp_path / "out.csv").is_file()
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert not (inputs / "~").exists()


def test_whoever_may_read_a_run_may_read_its_weights(run, inputs, tmp_path):
    before = os.umask(0o027)
    try:
        main(["export", str(run), "--format", "lora", "--output", str(tmp_path / "lora")])
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "lora").iterdir()}
    assert set(modes.values()) == {0o640}, modes
    weights = [run / "merged" / "model.safetensors", run / "adapter" / "adapter_model.safetensors"]
    assert {path.stat().st_mode & 0o777 for path in weights} == {0o666 & ~before}


def test_an_export_below_a_file_is_one_line(run, inputs, capsys):
    output = str(inputs / "test.csv" / "lora")
    said = fails(capsys, 2, "export", str(run), "--format", "lora", "--output", output)
    assert f"{inputs / 'test.csv'} is a file; choose another folder" in said


@pytest.mark.parametrize(
    ("words", "value"), [(["--refit"], True), (["--refit", "false"], False), (["--refit=true"], True)]
)
def test_a_switch_needs_no_value(words, value):
    options = parse(["train", "--data", "x.csv", "--model", "m", *words])
    assert recipe_from(options).advanced.refit is value


def test_targets_may_be_a_list_in_a_recipe_file(inputs, tmp_path):
    recipe = {"data": str(inputs / "train.csv"), "model": str(inputs / "encoder")}
    for name, targets in (("list", "[query, value]"), ("text", "query,value")):
        lines = [f"{key}: {value}" for key, value in {**recipe, "target_modules": targets}.items()]
        (tmp_path / f"{name}.yaml").write_text("\n".join(lines))
    assert load_recipe(str(tmp_path / "list.yaml"), {}) == load_recipe(str(tmp_path / "text.yaml"), {})


def test_a_class_reaches_the_terminal_without_its_control_characters(inputs, tmp_path, capsys):
    write_rows(tmp_path / "train.csv", 120, labels=("a", "\x1b[31mred"))
    words = [f"data={tmp_path / 'train.csv'}", f"model={inputs / 'encoder'}", f"output={tmp_path / 'run'}"]
    assert main(["train", *words, *SETTINGS]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "train.csv")]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert "\x1b" not in (tmp_path / "run" / "README.md").read_text("utf-8")


def test_predict_carries_an_id_column_over_and_reads_what_has_no_label(run, tmp_path):
    rows = tmp_path / "new.csv"
    rows.write_text("key,text\nx-1,word1 word2\nx-2,word9\n", "utf-8")
    read = {".csv": pd.read_csv, ".jsonl": partial(pd.read_json, lines=True), ".parquet": pd.read_parquet}
    for suffix, reader in read.items():
        output = tmp_path / f"out{suffix}"
        words = ["--output", str(output), "--id-column", "key"]
        assert main(["predict", str(run), "--input", str(rows), *words]) == 0
        joined = pd.read_csv(rows).merge(reader(output), on="key")
        assert list(joined) == ["key", "text", "label", "score"]
        assert list(joined["key"]) == ["x-1", "x-2"]


@pytest.mark.parametrize("name", ["label", "score", "p_a"])
def test_an_id_column_that_would_hide_a_prediction_is_refused(run, tmp_path, capsys, name):
    (tmp_path / "new.csv").write_text(f"{name},text\nx-1,word1\n", "utf-8")
    output = tmp_path / "out.csv"
    words = ["predict", str(run), str(tmp_path / "new.csv"), "--output", str(output), "--id-column", name]
    said = fails(capsys, 2, *words, "--probabilities")
    assert said.startswith(f"--id-column '{name}': the output has a column of that name")
    assert not output.exists()
    if name == "p_a":  # free without --probabilities
        assert main(words) == 0


def test_an_id_column_whose_name_no_file_can_hold_is_refused(run, tmp_path, capsys):
    (tmp_path / "new.jsonl").write_text('{"text": "word1", "\\udc80": "a"}\n')
    words = ["--output", str(tmp_path / "out.jsonl"), "--id-column", "\udc80"]
    assert "half of a surrogate pair" in fails(
        capsys, 2, "predict", str(run), str(tmp_path / "new.jsonl"), *words
    )
    assert not (tmp_path / "out.jsonl").exists()


def test_predict_from_stdin_to_stdout(run, command):
    done = command.run(
        *predicting(run, "-"), "--output", "-", input="text\nword1 word2\nword17\n", check=True
    )
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["id"] for row in rows] == ["0", "1"]
    assert "2 rows to standard output" in done.stderr


def test_submission_writes_integer_labels_as_the_reference_run_did(inputs, tmp_path):
    write_rows(tmp_path / "train.csv", 240, labels=("1", "2", "10"))
    assert main(["train", f"data={tmp_path / 'train.csv'}", f"model={inputs / 'encoder'}", *SETTINGS,
                 f"output={tmp_path / 'run'}"]) == 0  # fmt: skip
    output = tmp_path / "submission.csv"
    assert main(["predict", str(tmp_path / "run"), "--input", str(inputs / "test.csv"), "--output", str(output),
                 "--submission"]) == 0  # fmt: skip
    rows = rows_of(output)
    assert list(rows[0]) == ["ID", "label"]
    assert [row["ID"] for row in rows] == [str(i) for i in range(60)]
    assert {row["label"] for row in rows} <= {"1", "2", "10"}
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["labels"]["names"] == ["1", "2", "10"]


def test_a_pickled_test_set_is_read_without_running_it(run, tmp_path):
    import pickle

    (tmp_path / "test.pkl").write_bytes(pickle.dumps({"text": ["word1 word2", "word9"]}))
    output = tmp_path / "out.csv"
    assert main(["predict", str(run), "--input", str(tmp_path / "test.pkl"), "--output", str(output)]) == 0
    assert len(rows_of(output)) == 2


@pytest.mark.parametrize("form", ["adalora", "lora", "merged"])
def test_export_gives_the_same_logits_in_every_format(run, inputs, tmp_path, form, capsys):
    import warnings

    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    target = tmp_path / form
    assert main(["export", str(run), "--format", form, "--output", str(target)]) == 0
    assert capsys.readouterr().out.strip() == str(target)

    def load(folder: Path, is_merged: bool):
        if is_merged:
            return AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
        base = AutoModelForSequenceClassification.from_pretrained(str(inputs / "encoder"), num_labels=3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PeftModel.from_pretrained(base, str(folder)).eval()

    encoded = AutoTokenizer.from_pretrained(str(target))(["word1 word2 word9 word30"], return_tensors="pt")
    with torch.no_grad():
        found = load(target, form == "merged")(**encoded).logits
        expected = load(run / "merged", True)(**encoded).logits
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    assert fails(capsys, 2, "export", str(run), "--format", form, "--output", str(target)).endswith(
        "already exists; choose another folder or remove it"
    )


def test_the_merged_export_is_the_merged_model_whatever_became_of_the_encoder(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "leantune.model.hub.resolve_model", lambda *_, **__: pytest.fail("no encoder is needed")
    )
    assert main(["export", str(run), "--format", "merged", "--output", str(tmp_path / "merged")]) == 0
    for file in (run / "merged").iterdir():
        assert (tmp_path / "merged" / file.name).read_bytes() == file.read_bytes()


def test_a_lora_that_is_another_update_is_not_exported(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "leantune.inference.export.formats.write_lora",
        lambda folder, adapter: write_lora(folder, replace(adapter, alpha=2 * adapter.alpha)),
    )
    line = fails(capsys, 5, "export", str(run), "--format", "lora", "--output", str(tmp_path / "lora"))
    assert "computes a different update as LoRA" in line
    assert not (tmp_path / "lora").exists()


BAD_RECIPES = [
    (["train"], "data and model missing: give data=... model=..."),
    (["train", "quickstrat"], "no recipe 'quickstrat': expected a YAML file or one of"),
    (
        ["train", "data=x.csv", "model=m", "learnin_rate=1"],
        "unknown key 'learnin_rate' (did you mean learning_rate?)",
    ),
    (["train", "quickstart", "epochs=1__0"], "epochs must be a whole number. Got '1__0' instead"),
    (["train", "data=x.csv", "model=m", "epochs=two"], "epochs must be a whole number. Got 'two' instead"),
    (["train", "data=x.csv", "model=m", "epochs=0", "head=huge"], "head must be one of full, linear"),
    (
        ["train", "data=x.csv", "model=m", "epochs=0", "alpha=-1"],
        "epochs must be at least 1. Got 0 instead; alpha must",
    ),
    (
        ["train", "data=x.csv", "model=m", "init_r=8", "target_r=8"],
        "init_rank must be above target_rank=8. Got 8",
    ),
    (
        ["train", "data=x.csv", "model=m", "method=lora", "init_rank=4", "target_rank=1"],
        "init_rank must be target_rank=1 with method=lora, which prunes nothing; or give one of them. Got 4",
    ),
    (["train", "quickstart", "epochs"], "'epochs' is not key=value"),
    (
        ["train", "quickstart", "warmpu=1", "per_device_train_batch_size=8"],
        "unknown key 'warmpu' (did you mean warmup?); per_device_train_batch_size is not a recipe key: batch_size "
        "counts the texts of an optimiser step over all processes",
    ),
    (
        ["train", "quickstart", "warmup=3", "advanced.warmup=4"],
        "warmup is given both in and outside of advanced; keep one of them",
    ),
    (["train", "quickstart", "advanced=4"], "advanced must be a group of keys. Got '4' instead"),
    (["train", "quickstart", "epochs=inf"], "epochs must be a whole number. Got 'inf' instead"),
    (["train", "quickstart", "seed=nan"], "seed must be a whole number. Got 'nan' instead"),
    (["train", "quickstart", "labels=a,b,"], "each once and none of them empty. Got a,b, instead"),
    (["train", "quickstart", "epochs=1,5"], "epochs must be a whole number. Got '1,5' instead"),
    (["train", "quickstart", "seed=-1"], "seed must be 0 to 4,294,967,295. Got -1 instead"),
    (
        ["train", "quickstart", "labels=a,b,a"],
        "labels must be two or more, each once and none of them empty. Got a,b,a instead",
    ),
    (
        ["train", "quickstart", "init_rank=4", "init_r=8"],
        "init_r and init_rank are spellings of one key; keep one of them",
    ),
    (
        ["train", "quickstart", "gradient_accumulation_steps=4"],
        "batch_size counts the texts of an optimiser step",
    ),
]


def test_flags_may_stand_between_key_value_words():
    options = parse(["train", "quickstart", "seed=1", "--overwrite", "epochs=2", "--alpha", "8", "output=x"])
    assert (options.recipe, options.overwrite, options.key_alpha) == ("quickstart", True, "8")
    assert options.overrides == ["seed=1", "epochs=2", "output=x"]
    with pytest.raises(SystemExit) as caught:
        parse(["evaluate", "run", "--data", "x.csv", "epochs=2"])
    assert caught.value.code == 2


BAD_YAML = [
    ("epochs: 3\nseed: 1\nepochs: 4\n", "bad.yaml:3: 'epochs' is given here and in line 1; keep one"),
    ("on: 3\n", "unknown key 'True'"),
    ("2: 3\n", "unknown key '2'"),
    ("output:\n", "output must be text. Got None instead"),
    ("labels: [yes, no]\n", "labels must be names; YAML does not read yes, no"),
    ("text_column: 2024-13-45\n", "a value cannot be read as the type that it looks like"),
    (
        "advanced:\n  warmup: 3\n  warmup: 4\n",
        "bad.yaml:3: 'warmup' is given here and in line 2; keep one",
    ),
    (
        "advanced: {warmup: 3}\nwarmup: 4\n",
        "warmup is given both in and outside of advanced; keep one of them",
    ),
    ("advanced: {r_drop: 1}\n", "unknown key 'r_drop'"),
    ("epochs: [1\n", "bad.yaml:2:1: not YAML"),
]


@pytest.mark.parametrize(("text", "message"), BAD_YAML)
def test_a_bad_recipe_file_is_one_line(tmp_path, capsys, text, message):
    (tmp_path / "bad.yaml").write_text(text, "utf-8")
    assert message in fails(capsys, 2, "plan", str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize(
    ("word", "number"),
    [("100,000", 100_000), ("1_000_000", 10**6), ("1e6", 10**6), ("9007199254740993", 9007199254740993)],
)
def test_a_whole_number_may_be_written_in_several_ways(word, number):
    assert convert(word, int) == number


@pytest.mark.parametrize("word", ["none", "None", "null", "", None])
def test_no_value_may_be_written_in_several_ways(word):
    assert convert(word, float | None) is None


def test_paths_may_hold_what_the_command_line_and_the_terminal_give_a_meaning(
    inputs, tmp_path, capsys, monkeypatch
):
    """An equals sign, brackets and a tilde in paths; brackets and colons in labels."""
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = [f"word{i % 9} word{i},{('[/b]', ':heart:')[i % 2]}" for i in range(120)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n", "utf-8")
    shutil.copytree(inputs / "encoder", tmp_path / "encoder")
    output = tmp_path / "lr=1[bold]"
    words = ["data=~/train.csv", "model=~/encoder", f"output={output}"]
    assert main(["train", *words, *SETTINGS]) == 0
    assert f"report: {output / 'report.html'}" in capsys.readouterr().out
    assert main(["plan", str(output / "recipe.yaml")]) == 0
    assert "~/encoder, 2 classes" in capsys.readouterr().out
    assert main(["evaluate", str(output), "--data", str(tmp_path / "train.csv")]) == 0
    printed = capsys.readouterr().out
    assert "[/b] " in printed
    assert ":heart: " in printed


@pytest.mark.parametrize(("arguments", "message"), BAD_RECIPES)
def test_a_bad_recipe_is_one_line(capsys, arguments, message):
    assert message in fails(capsys, 2, *arguments)


def test_bad_input_is_one_line_with_its_code_and_leaves_nothing_behind(inputs, tmp_path, capsys):
    encoder = inputs / "encoder"
    files = {
        "no_column.csv": b"txt,label\nword1,a\n",
        "empty.csv": b"",
        "header_only.csv": b"text,label\n",
        "twice.csv": b"text,text,label\nword1,word2,a\n",
        "bad_utf8.csv": b"text,label\nword\x811,a\n",
        "ragged.csv": b"text,label\nword1,a\nword2,b,extra\n",
        "picture.csv": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "one_class.csv": b"text,label\nword1,a\nword2,a\n",
    }
    expected = {
        "no_column.csv": "no_column.csv",
        "empty.csv": "empty",
        "header_only.csv": "rows",
        "twice.csv": "text",
        "bad_utf8.csv": ":2",
        "ragged.csv": ":3",
        "picture.csv": "picture.csv",
        "one_class.csv": "1 class in the labels",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        line = fails(
            capsys,
            3,
            "train",
            f"data={tmp_path / name}",
            f"model={encoder}",
            *SETTINGS,
            f"output={tmp_path / 'run'}",
        )
        assert expected[name] in line, line
        assert name in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model=./nowhere"], "model ./nowhere: no such folder"),
        (
            ["model=nobody/nothing", "--offline"],
            "model nobody/nothing: no such folder, the hub did not provide it",
        ),
        (["max_trainable_params=100"], "max_trainable_params=100 is too small: the head has 99"),
        (["rank_warmup=0.5", "rank_final=0.5"], "the schedule has no pruning phase"),
        (["max_length=9999"], "max_length=9999 is more than the 512 tokens"),
        (["targets=qery"], "targets qery: no such linear layer in bert; there are dense, key, query, value"),
        (["precision=fp16"], "precision=fp16 needs a GPU"),
        (["batch_size=240", "epochs=1"], "expected at least 3 to warm up, prune and finish"),
        (["validation_size=239"], "the held-out size"),
        (["lora_dropout=1"], "lora_dropout must be at least 0 and below 1"),
        (["warmup=1.5"], "warmup must be below 1 or a whole number"),
        (["rank_warmup=0", "rank_final=23"], "ranks would be final after step 1 of 24"),
    ],
)
def test_what_cannot_be_is_refused_before_training(inputs, tmp_path, capsys, changes, message):
    base = ["train", f"data={inputs / 'train.csv'}", f"model={inputs / 'encoder'}", *SETTINGS]
    assert message in fails(capsys, 2, *base, f"output={tmp_path / 'run'}", *changes)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_unknown_label_is_named_with_its_row(run, tmp_path, capsys):
    (tmp_path / "odd.csv").write_text("text,label\nword1,a\nword2,d\n", "utf-8")
    line = fails(capsys, 3, "evaluate", str(run), "--data", str(tmp_path / "odd.csv"))
    assert f"{tmp_path / 'odd.csv'}:3:label: " in line


@pytest.mark.parametrize(
    ("output", "message"),
    [("out.txt", "unknown suffix '.txt'"), ("new.csv", "is also the input"), ("taken.csv", "already exists")],
)
def test_predict_refuses_an_output_that_would_lose_something(run, tmp_path, capsys, output, message):
    (tmp_path / "new.csv").write_text("text\nword1\n", "utf-8")
    (tmp_path / "taken.csv").write_text("precious", "utf-8")
    line = fails(
        capsys,
        2,
        "predict",
        str(run),
        "--input",
        str(tmp_path / "new.csv"),
        "--output",
        str(tmp_path / output),
    )
    assert message in line
    assert (tmp_path / "taken.csv").read_text("utf-8") == "precious"


@pytest.mark.parametrize("output", ["file/out.csv", "x" * 300 + ".csv"])
def test_an_output_that_cannot_be_is_one_line(run, tmp_path, capsys, output):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "new.csv").write_text("text\nword1\n", "utf-8")
    words = ["--input", str(tmp_path / "new.csv"), "--output", str(tmp_path / output)]
    fails(capsys, 2, "predict", str(run), *words)
    fails(capsys, 2, "export", str(run), "--format", "lora", "--output", str(tmp_path / output))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "new.csv"]


@pytest.mark.parametrize("words", [["--batch-size", "0"], ["--probabilities", "--submission"]])
def test_options_that_cannot_be_are_refused(run, words):
    with pytest.raises(SystemExit) as caught:
        main(["predict", str(run), "--input", "new.csv", *words])
    assert caught.value.code == 2


def predicting(run: Path, rows: Path | str) -> list[str]:
    """The words of a command of another process, to standard output."""
    return ["predict", str(run), "--input", str(rows)]


def test_a_prediction_that_is_stopped_leaves_no_file(run, tmp_path, command):
    (tmp_path / "new.csv").write_text("text\n" + "word1 word2 word3\n" * 300_000, "utf-8")
    process = command.start(*predicting(run, tmp_path / "new.csv"), "--output", tmp_path / "out.csv")
    while len(list(tmp_path.iterdir())) == 1 and process.poll() is None:
        time.sleep(0.02)
    process.terminate()
    _, said = process.communicate()
    assert process.returncode == 143
    assert said.strip().splitlines()[-1] == "leantune: error: stopped by SIGTERM"
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


def test_a_stop_that_comes_while_an_object_is_finalised_is_not_lost():
    class Finalised:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    def command():
        Finalised()
        time.sleep(10)
        raise AssertionError("the stop was lost")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        assert exit_code_of(command) == 143
    finally:
        signal.signal(signal.SIGTERM, before)


def test_predictions_are_utf8_whatever_the_terminal_is(run, tmp_path):
    (tmp_path / "new.csv").write_text('id,text\n文,word1\n"a\rb",word2\n', "utf-8", newline="")
    done = subprocess.run(
        [sys.executable, "-m", "leantune", *predicting(run, tmp_path / "new.csv"), "--id-column", "id"],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    (tmp_path / "out.csv").write_bytes(done.stdout)
    assert [row["id"] for row in rows_of(tmp_path / "out.csv")] == ["文", "a\rb"]


def test_an_output_that_is_a_link_is_written_through(run, tmp_path):
    (tmp_path / "in.csv").write_text("text\nword1\n")
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "out.csv", tmp_path / "link.csv"
    link.symlink_to(target)
    assert main(["predict", str(run), "--input", str(tmp_path / "in.csv"), "--output", str(link)]) == 0
    assert link.is_symlink()
    assert len(target.read_text().splitlines()) == 2


def test_pairs_are_not_predicted_by_a_run_of_single_texts(run, tmp_path, capsys):
    (tmp_path / "in.csv").write_text("text,second\nword1,word2\n")
    said = fails(capsys, 2, "predict", str(run), "--input", str(tmp_path / "in.csv"), "--output", "-",
                 "--text-pair-column", "second")  # fmt: skip
    assert "the classifier was trained on single texts" in said


@pytest.mark.parametrize(
    ("closed", "message"), [("<&-", "standard input is closed"), (">&-", "output is closed")]
)
def test_a_closed_stream_is_one_line(run, closed, message):
    command = f"echo text | {sys.executable} -m leantune predict {run} --input - --output - {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode in (2, 3)


def test_standard_input_is_planned_with_labels_given(inputs, command):
    words = ["plan", "data=-", f"model={inputs / 'encoder'}", "labels=a,b,c"]
    done = command.run(*words, input=(inputs / "train.csv").read_text())
    assert done.returncode == 0, done.stderr
    assert "3 classes" in done.stdout


@pytest.mark.parametrize("length", [1, 2])
def test_a_length_without_room_for_a_text_is_refused(inputs, tmp_path, capsys, length):
    said = fails(capsys, 2, "train", f"data={inputs / 'train.csv'}", f"model={inputs / 'encoder'}",
                 f"output={tmp_path / 'run'}", f"max_length={length}")  # fmt: skip
    assert f"max_length={length}: the tokenizer adds 2 tokens to every text, expected at least 3" in said


def test_a_failed_prediction_leaves_no_file(run, tmp_path, capsys):
    rows = ["text", *["word1"] * 9000, '"unclosed']
    (tmp_path / "late.csv").write_text("\n".join(rows), "utf-8")
    fails(capsys, 3, "predict", str(run), "--input", str(tmp_path / "late.csv"),
          "--output", str(tmp_path / "out.csv"))  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["late.csv"]


def test_a_folder_that_is_no_run_and_one_that_is_not_finished(run, tmp_path, capsys):
    assert "no run found" in fails(capsys, 2, "evaluate", str(tmp_path), "--data", "x.csv")
    shutil.copytree(run, tmp_path / "copy")
    record = json.loads((run / "record.json").read_text())
    (tmp_path / "copy" / "record.json").write_text(json.dumps({**record, "status": "running"}))
    assert "not finished" in fails(capsys, 5, "evaluate", str(tmp_path / "copy"), "--data", "x.csv")


def test_a_damaged_adapter_is_not_exported(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "copy")
    path = tmp_path / "copy" / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    assert "damaged" in fails(capsys, 5, "export", str(tmp_path / "copy"), "--format", "lora")
    assert not (tmp_path / "copy" / "export-lora").exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)]
)
def test_a_signal_saves_and_the_run_goes_on_to_the_same_bits(
    inputs, run, tmp_path, number, code, capsys, command
):
    output = tmp_path / "run"
    slow = save_tiny_encoder(tmp_path / "encoder")  # the same weights as the session's encoder
    arguments = load_recipe(str(run / "recipe.yaml"), {}).by_key()
    words = [f"{key}={','.join(v) if isinstance(v, tuple) else v}" for key, v in arguments.items()]
    process = command.start("train", *words, f"model={slow}", f"output={output}", "save_every=1")
    while not list((output / "checkpoints").glob("step-*")) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f"continue with: leantune train --resume {output}" in err
    assert "remove the other" in fails(capsys, 2, "train", "--resume", str(output), "--overwrite")
    assert main(["train", "--resume", str(output)]) == 0
    name = "adapter/adapter_model.safetensors"
    assert (run / name).read_bytes() == (output / name).read_bytes()


def test_predictions_on_a_terminal_are_a_table_of_the_first_rows(run, tmp_path, command):
    rows = [f"word{i} " * 40 for i in range(30)]
    for num_rows, more in ((2, False), (30, True)):
        file = tmp_path / f"{num_rows}.csv"
        file.write_text("text\n" + "\n".join(rows[:num_rows]), "utf-8")
        terminal, theirs = pty.openpty()
        environment = os.environ | {"TERM": "dumb"}  # 80 columns, no colours
        with open(theirs, "wb") as stdout, open(terminal, "rb", buffering=0) as shown:
            _, said = command.start("predict", run, file, stdout=stdout, env=environment).communicate()
            lines = shown.read(65536).decode().splitlines()
        assert lines[0].split() == ["label", "score", "text"]
        assert len(lines) == 1 + min(num_rows, 20)
        assert [
            line for line in lines[1:] if len(line) > 80 or not line.endswith("...") or " % " not in line
        ] == []
        assert ("these are the first 20 rows" in said) == more
