"""OpenVINO as an engine: the logits of PyTorch, the same files, and what int8 costs in plain words."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from leantune.cli.main import main
from leantune.data.tokens.tokenization import Encoded
from leantune.errors import CheckpointError, UsageError
from leantune.inference.engines.choose import load_engine
from leantune.inference.engines.exported import padded_batches
from leantune.inference.engines.openvino import import_extra
from leantune.inference.export.formats import export
from leantune.inference.load import load_run
from leantune.system.hardware import pick_precision
from leantune.training.run import run_training
from tiny import WORDS, assert_same_logits, quiet, recipe_for, save_tiny_encoder, write_rows

NARROWED = ("bert", "roberta", "distilbert", "electra")
"""Architectures whose last layer nobody reads but its first token."""


def copy_of(run: Path, folder: Path) -> Path:
    """What a finished run needs, so that an export does not reach other tests."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints", "openvino*"))
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    folder = copy_of(run, tmp_path_factory.mktemp("exported") / "run")
    assert main(["export", str(folder), "--format", "openvino"]) == 0
    assert main(["export", str(folder), "--format", "openvino-int8"]) == 0
    return folder


def train_tiny(folder: Path, model_type: str, *, rows: Path, **changes) -> Path:
    """A short run on which does not share the encoder."""
    save_tiny_encoder(folder / "encoder", model_type)
    changes = {"data": str(rows), "test": None, "epochs": 1, "targets": "all-linear"} | changes
    return run_training(recipe_for(folder, folder / "run", **changes), console=quiet())


def write_pairs(path: Path, num_rows: int = 240) -> Path:
    """Pairs whose class is whether both texts are of the same words."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "context", "label"])
        for _ in range(num_rows):
            label = int(rng.integers(2))
            first = rng.integers(0, 8, rng.integers(2, 9))
            second = rng.integers(0, 8, rng.integers(0, 12)) + (0 if label else 50)
            texts = [" ".join(WORDS[i] for i in each) for each in (first, second)]
            writer.writerow([*texts, ("other", "same")[label]])
    return path


def tokens_of(trained, num_rows: int = 40, *, with_pairs: bool = False) -> Encoded:
    """Texts of very different lengths, some of them cut, in no order."""
    rng = np.random.default_rng(5)

    def texts() -> list[str]:
        return [" ".join(rng.choice(WORDS, rng.integers(0, 50))) for _ in range(num_rows)]

    return trained.tokenizer.encode(texts(), texts() if with_pairs else None)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fails(capsys, code: int, *arguments: str) -> str:
    assert main(list(arguments)) == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.strip().splitlines()[-1].removeprefix("leantune: error: ")


@pytest.fixture(scope="module", params=[*NARROWED, "modernbert", "deberta-v2"])
def run_of_type(request, inputs, tmp_path_factory) -> tuple[str, Path]:
    """An architecture and a run of it, exported."""
    run = train_tiny(tmp_path_factory.mktemp(request.param), request.param, rows=inputs / "train.csv")
    export(run, "openvino", None)
    return request.param, run


def test_a_graph_that_holds_on_to_its_shapes_is_refused(inputs, tmp_path, capsys):
    run = train_tiny(tmp_path, "longformer", rows=inputs / "train.csv")
    said = fails(capsys, 2, "export", str(run), "--format", "openvino")
    assert "OpenVINO cannot convert a longformer classifier" in said
    assert not (run / "openvino").exists()


def test_every_architecture_has_the_logits_of_pytorch(run_of_type):
    _, run = run_of_type
    torch_run, openvino_run = (load_engine(each, run, precision="fp32") for each in ("torch", "openvino"))
    rows = tokens_of(torch_run)
    assert_same_logits(openvino_run.logits(rows, 7), torch_run.logits(rows, 64))


def work_by_layer(folder: Path, length: int) -> tuple[list[int], list[int]]:
    """Of a text of ``length`` tokens: how many enter the products of the feed-forwards (of tiny models, width
    48), and how many are queries, both in the order of the layers.
    """
    graph = import_extra("openvino", "this test").Core().read_model(str(folder / "openvino_model.xml"))
    graph.reshape({each: [2, length] for each in graph.inputs})
    tokens, queries = [], []
    for node in graph.get_ordered_ops():
        shapes = [tuple(each.get_shape()) for each in node.inputs()]
        if node.get_type_name() == "MatMul" and 48 in shapes[1]:
            tokens.append(shapes[0][1])
        elif node.get_type_name() == "ScaledDotProductAttention":
            queries.append(shapes[0][2])
    return tokens, queries


def test_the_last_layer_is_computed_for_first_tokens_where_only_they_are_read(run_of_type):
    model_type, run = run_of_type
    tokens, queries = work_by_layer(run / "openvino", 16)
    if model_type in NARROWED:
        assert (tokens, queries) == ([16, 16, 1, 1], [16, 1])
    else:
        assert set(tokens) == {16}


def test_the_last_layer_of_int8_is_computed_for_first_tokens_too(exported):
    assert work_by_layer(exported / "openvino-int8", 16)[0] == [16, 16, 1, 1]


def test_pairs_have_the_logits_of_pytorch_and_their_types_matter(tmp_path):
    run = train_tiny(tmp_path, "bert", rows=write_pairs(tmp_path / "pairs.csv"), text_pair_column="context")
    export(run, "openvino", None)
    torch_run, openvino_run = (load_engine(each, run, precision="fp32") for each in ("torch", "openvino"))
    rows = tokens_of(torch_run, with_pairs=True)
    found = openvino_run.logits(rows, 8)
    assert_same_logits(found, torch_run.logits(rows, 8))
    without_types = Encoded(rows.input_ids, rows.lengths, rows.full_lengths)
    assert np.abs(openvino_run.logits(without_types, 8) - found).max() > 2e-3


def test_the_order_of_the_rows_is_kept_whatever_the_batches(exported):
    trained = load_engine("openvino", exported, precision="fp32")
    rows = tokens_of(trained)
    backwards = Encoded(rows.input_ids[::-1], rows.second_starts[::-1], rows.full_lengths[::-1])
    one_by_one = trained.logits(rows, 1)
    for size in (3, 64):
        assert_same_logits(trained.logits(rows, size), one_by_one)
        assert_same_logits(trained.logits(backwards, size)[::-1].copy(), one_by_one)


def test_batches_have_few_lengths_and_no_more_tokens_than_the_model_has_positions():
    lengths = [*range(1, 61), 3, 61]
    tokens = [np.full(n, n, dtype=np.int32) for n in lengths]
    rows = Encoded(tokens, np.array(lengths, np.int32), np.array(lengths, np.int32))
    names = {"input_ids", "attention_mask"}
    batches = list(padded_batches(rows, 8, names=names, longest=61, pad_id=0))
    assert {inputs["input_ids"].shape[1] for _, inputs in batches} == {16, 32, 48, 61}
    assert sorted(i for positions, _ in batches for i in positions) == list(range(62))
    for positions, inputs in batches:
        assert set(inputs) == names
        assert inputs["attention_mask"].sum(axis=1).tolist() == [lengths[i] for i in positions]
        assert inputs["input_ids"].max(axis=1).tolist() == [lengths[i] for i in positions]


@pytest.mark.parametrize("engine", ["openvino", "openvino-int8"])
def test_predictions_have_the_form_of_those_of_pytorch(exported, inputs, tmp_path, engine):
    files = {}
    for each in ("torch", engine):
        files[each] = tmp_path / f"{each}.csv"
        assert main(["predict", str(exported), "--input", str(inputs / "test.csv"), "--output",
                     str(files[each]), "--probabilities", "--engine", each]) == 0  # fmt: skip
    ours, theirs = rows_of(files["torch"]), rows_of(files[engine])
    assert list(ours[0]) == list(theirs[0]) == ["id", "label", "score", "p_a", "p_b", "p_c"]
    assert [row["id"] for row in ours] == [row["id"] for row in theirs]
    if engine == "openvino":  # the recipe says fp32
        assert [row["label"] for row in ours] == [row["label"] for row in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert float(a["score"]) == pytest.approx(float(b["score"]), abs=1e-5)


def test_evaluate_with_an_engine_agrees_with_pytorch(exported, inputs, capsys):
    command = ["evaluate", str(exported), "--data", str(inputs / "test.csv"), "--json", "--engine"]
    found = []
    for engine in ("torch", "openvino"):
        assert main([*command, engine]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["accuracy"] == found[1]["accuracy"]
    assert found[0]["log_loss"] == pytest.approx(found[1]["log_loss"], abs=1e-5)


@pytest.mark.skipif(
    pick_precision("auto", torch.device("cpu")) != "bf16", reason="needs a CPU that computes bf16 natively"
)
def test_bf16_gives_nearly_the_same_probabilities(exported):
    fp32, bf16 = (load_engine("openvino", exported, precision=each) for each in ("fp32", "bf16"))
    rows = tokens_of(fp32)
    assert_same_logits(bf16.logits(rows, 8), fp32.logits(rows, 8), 0.15)


def test_int8_says_and_records_what_it_costs(run, inputs, tmp_path, capsys):
    folder = copy_of(run, tmp_path / "run")
    assert main(["export", str(folder), "--format", "openvino-int8"]) == 0
    place, cost, verdict = capsys.readouterr().out.splitlines()
    assert place == str(folder / "openvino-int8")
    assert cost.startswith("accuracy on 48 validation rows: ")
    assert "with torch (fp32)" in cost
    assert "of the predictions are equal" in cost
    assert "on 48 rows: difference" in verdict
    recorded = json.loads((folder / "openvino-int8" / "export.json").read_text("utf-8"))["accuracy_cost"]
    validation = json.loads((folder / "record.json").read_text("utf-8"))["metrics"]["validation"]
    assert recorded["torch_accuracy"] == validation["accuracy"]
    assert f"{100 * recorded['int8_accuracy']:.2f} % with int8" in cost
    assert recorded["comparison"]["num_rows"] == 48
    assert recorded["equal_predictions"] > 0.8


def test_int8_weights_are_int8(exported):
    plain, int8 = (
        (exported / form / "openvino_model.bin").stat().st_size for form in ("openvino", "openvino-int8")
    )
    assert int8 < plain / 2


def test_an_export_is_a_folder_that_transformers_and_optimum_know(exported):
    from transformers import AutoConfig, AutoTokenizer

    for form in ("openvino", "openvino-int8"):
        folder = exported / form
        names = {path.name for path in folder.iterdir()}
        assert {"openvino_model.xml", "openvino_model.bin", "config.json", "tokenizer.json"} <= names
        assert AutoConfig.from_pretrained(str(folder)).id2label == {0: "a", 1: "b", 2: "c"}
        assert AutoTokenizer.from_pretrained(str(folder))("word1")["input_ids"] == [2, 6, 3]
        model = import_extra("openvino", "this test").Core().read_model(str(folder / "openvino_model.xml"))
        assert {name for each in model.inputs for name in each.names} == {
            *("input_ids", "attention_mask", "token_type_ids")
        }
        assert [each.names for each in model.outputs] == [{"logits"}]


def test_other_rows_calibrate_and_measure_int8_when_those_of_the_run_are_gone(inputs, tmp_path, capsys):
    rows = write_rows(tmp_path / "train.csv", 240)
    run = train_tiny(tmp_path, "bert", rows=rows)
    rows.write_text(rows.read_text("utf-8") + "word1 word2,a\n", "utf-8")
    command = ["export", str(run), "--format", "openvino-int8"]
    changed = fails(capsys, 3, *command)
    assert changed.startswith(f"{rows}: has changed since")
    rows.unlink()
    gone = fails(capsys, 2, *command)
    assert str(rows) in gone
    assert gone.endswith("give labelled rows with --data FILE")
    assert not (run / "openvino-int8").exists()
    assert main([*command, "--data", str(inputs / "test.csv")]) == 0
    assert f"accuracy on 30 {inputs / 'test.csv'} rows" in capsys.readouterr().out


def test_a_run_that_was_refitted_is_measured_on_other_rows(inputs, tmp_path, capsys):
    run = train_tiny(tmp_path, "bert", rows=inputs / "train.csv", refit=True)
    command = ["export", str(run), "--format", "openvino-int8"]
    assert "was refitted on its validation rows" in fails(capsys, 2, *command)
    assert main([*command, "--data", str(inputs / "test.csv")]) == 0


def test_the_encoder_of_the_run_may_be_gone(inputs, tmp_path):
    run = train_tiny(tmp_path, "bert", rows=inputs / "train.csv")
    shutil.rmtree(tmp_path / "encoder")
    for form in ("openvino", "openvino-int8"):
        assert main(["export", str(run), "--format", form]) == 0


@pytest.mark.parametrize("engine", ["openvino", "openvino-int8"])
def test_an_engine_that_was_not_exported_names_the_command(run, inputs, tmp_path, capsys, engine):
    folder = copy_of(run, tmp_path / "run")
    line = fails(capsys, 2, "predict", str(folder), "--input", str(inputs / "test.csv"), "--engine", engine)
    assert (
        line
        == f"{folder / engine}: not exported yet; make it with: leantune export {folder} --format {engine}"
    )


@pytest.mark.parametrize("name", ["openvino", "nncf"])
def test_a_missing_package_names_what_to_install(run, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    folder = copy_of(run, tmp_path / "run")
    line = fails(capsys, 2, "export", str(folder), "--format", "openvino-int8")
    assert f"needs {name}, which cannot be imported" in line
    assert line.endswith("install it with: pip install 'leantune[openvino]'")
    assert [path.name for path in folder.glob("*openvino*")] == []


def test_an_export_of_an_earlier_run_is_refused_and_replaced(exported, inputs, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(exported, folder)
    record = json.loads((folder / "record.json").read_text("utf-8"))
    (folder / "record.json").write_text(json.dumps(record | {"run_id": "0" * 32}), "utf-8")
    with pytest.raises(CheckpointError, match="exported from an earlier run in this folder"):
        load_engine("openvino", folder)
    command = ["export", str(folder), "--format", "openvino"]
    assert "already exists; add --overwrite" in fails(capsys, 2, *command)
    assert main([*command, "--overwrite"]) == 0
    assert load_engine("openvino", folder).labels.names == ("a", "b", "c")


def test_only_a_folder_of_the_run_is_ever_replaced(exported, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep me", "utf-8")
    line = fails(capsys, 2, "export", str(exported), "--format", "openvino", "--overwrite",
                 "--output", str(tmp_path))  # fmt: skip
    assert "already exists; choose another folder or remove it" in line
    assert (tmp_path / "mine.txt").exists()


def cut_weights(folder: Path) -> None:
    path = folder / "openvino_model.bin"
    path.write_bytes(path.read_bytes()[:1000])


def spoil_graph(folder: Path) -> None:
    (folder / "openvino_model.xml").write_text("<net", "utf-8")


def swap_labels(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["id2label"] = {"0": "b", "1": "a", "2": "c"}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def spoil_about(folder: Path) -> None:
    (folder / "export.json").write_text("{", "utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut_weights, "cannot be loaded"),
        (spoil_graph, "cannot be loaded"),
        (swap_labels, "its labels .* are not those of record.json"),
        (spoil_about, "export.json: damaged"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    ],
)
def test_a_damaged_export_is_named(exported, tmp_path, spoil, message):
    folder = tmp_path / "run"
    shutil.copytree(exported, folder)
    about = json.loads((folder / "openvino" / "export.json").read_text("utf-8"))
    del about["files"]  # as early exports
    (folder / "openvino" / "export.json").write_text(json.dumps(about), "utf-8")
    load_engine("openvino", folder)
    spoil(folder / "openvino")
    with pytest.raises(CheckpointError, match=message):
        load_engine("openvino", folder)


@pytest.mark.parametrize("engine", ["openvino", "openvino-int8"])
def test_one_changed_bit_of_an_export_is_named(exported, inputs, tmp_path, capsys, engine):
    folder = tmp_path / "run"
    shutil.copytree(exported, folder)
    weights = folder / engine / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    command = ["predict", str(folder), "--input", str(inputs / "test.csv"), "--engine", engine]
    line = fails(capsys, 5, *command)
    assert line.startswith(f"{folder / engine}: openvino_model.bin has SHA-256 ")
    assert line.endswith(f"export again with: leantune export {folder} --format {engine} --overwrite")
    assert main(["export", str(folder), "--format", "openvino", "--overwrite"]) == 0
    if engine == "openvino":
        assert main(command) == 0


def test_a_precision_that_a_cpu_has_not_is_refused(exported):
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        load_engine("openvino", exported, precision="fp16")


def test_rows_for_other_formats_are_refused(exported, inputs, tmp_path, capsys):
    line = fails(capsys, 2, "export", str(exported), "--format", "lora", "--data", str(inputs / "test.csv"),
                 "--output", str(tmp_path / "x"))  # fmt: skip
    assert line == "--data is for --format openvino-int8; the other formats need no rows"


def test_nothing_is_reported_to_anyone(exported):
    """OpenVINO and NNCF send statistics of use where this package is at hand."""
    load_engine("openvino", exported)
    assert sys.modules["openvino_telemetry"] is None


def test_the_torch_engine_is_the_default(exported):
    assert type(load_engine("torch", exported)) is type(load_run(exported))


TWO_AND_A_SIGNAL = """
import gc, os, signal, sys
import faulthandler
faulthandler.enable()
from pathlib import Path
from leantune.inference.engines.choose import load_engine
first, second = (load_engine("openvino", Path(sys.argv[1])) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_signals_are_handled_after_two_exports_came_and_went(exported):
    done = subprocess.run(
        [sys.executable, "-c", TWO_AND_A_SIGNAL, str(exported)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
