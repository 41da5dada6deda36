"""Model files from strangers: refused by name, never run, never silently something else."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
)

from leantune.cli.main import main
from leantune.data.labels import LabelMap
from leantune.errors import CheckpointError, LeantuneError, UnsafeFileError
from leantune.inference.adapters import load_adapter
from leantune.inference.load import load_run
from leantune.inference.multi_adapter import SharedEncoder
from leantune.model.build import load_pretrained, reinitialise_head
from leantune.model.pretrained import Pretrained
from leantune.training.build import build_classifier, prepare_run
from leantune.training.run import run_training
from tiny import classifier_from, quiet, recipe_for, save_tiny_encoder, tiny_config, words_of

LABELS = LabelMap(("a", "b", "c"))
WEIGHTS = "model.safetensors"
QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture
def encoder(tmp_path) -> Path:
    return save_tiny_encoder(tmp_path / "encoder")


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """A finished run that a test may spoil."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture
def unsummed(copy) -> Path:
    """The same, without checksums: an early run, or a stranger's."""
    record = json.loads((copy / "record.json").read_text("utf-8"))
    for artefact in record["artefacts"].values():
        del artefact["files"]
    change_json(copy / "record.json", **record)
    return copy


def load(encoder: Path, **options: bool):
    return load_pretrained(Pretrained.at(str(encoder), num_labels=3, **options), LABELS)


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


def change_tensors(path: Path, **values: torch.Tensor | None) -> None:
    tensors = {**load_file(path), **{name.replace("__", "."): value for name, value in values.items()}}
    save_file({k: v for k, v in tensors.items() if v is not None}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("command", ["train", "plan"])
def test_a_model_with_code_is_refused_and_its_code_not_read(inputs, encoder, tmp_path, capsys, file, command):
    canary = tmp_path / "ran"
    for name in ("configuration_own.py", "modeling_own.py", "tokenization_own.py"):
        (encoder / name).write_text(f"open({str(canary)!r}, 'w')\n")
    own = {"AutoConfig": "configuration_own.Own", "AutoTokenizer": ["tokenization_own.Own", None]}
    change_json(encoder / file, auto_map=own)
    words = [f"data={inputs / 'train.csv'}", f"model={encoder}", f"output={tmp_path / 'run'}"]
    assert main([command, *words]) == 4
    line = capsys.readouterr().err.strip()
    assert f"its {file} refers to code that comes with it (auto_map)" in line
    assert "--trust-remote-code" in line
    assert not canary.exists()


OWN_MODEL = """
from transformers import BertConfig, BertForSequenceClassification

class OwnConfig(BertConfig):
    model_type = "own"

class OwnForSequenceClassification(BertForSequenceClassification):
    config_class = OwnConfig
"""


def test_trusted_code_trains_and_predicts_and_is_not_trusted_again(inputs, encoder, tmp_path):
    (encoder / "modeling_own.py").write_text(OWN_MODEL)
    own = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForSequenceClassification": "modeling_own.OwnForSequenceClassification",
    }
    change_json(encoder / "config.json", auto_map=own, model_type="own")
    output = tmp_path / "run"
    words = words_of(inputs, output, model=str(encoder))

    def leantune(*arguments: str) -> subprocess.CompletedProcess[str]:
        """A process that has met the code in no other way, and no terminal to ask at."""
        return subprocess.run(
            [sys.executable, "-m", "leantune", *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"},
            check=False,
        )

    assert leantune("train", *words).returncode == 4
    trained = leantune("train", *words, "--trust-remote-code", "true")
    assert trained.returncode == 0, trained.stderr
    assert json.loads((output / "record.json").read_text())["model"]["architecture"] == "own"
    evaluate = ("evaluate", str(output), "--data", str(inputs / "test.csv"))
    refused = leantune(*evaluate)
    assert refused.returncode == 4
    assert "auto_map" in refused.stderr
    assert leantune(*evaluate, "--trust-remote-code").returncode == 0


def test_a_run_folder_cannot_trust_itself(unsummed):
    """The recipe in a stranger's run may say trust_remote_code; it is not asked."""
    recipe = unsummed / "recipe.yaml"
    recipe.write_text(
        recipe.read_text("utf-8").replace("trust_remote_code: false", "trust_remote_code: true")
    )
    change_json(unsummed / "merged" / "config.json", auto_map={"AutoConfig": "configuration_own.Own"})
    with pytest.raises(UnsafeFileError, match="auto_map"):
        load_run(unsummed)


def test_a_decoder_without_a_padding_token_gets_that_of_its_tokenizer(inputs, tmp_path):
    """Transformers refuses batches of a decoder that names none."""
    encoder = save_tiny_encoder(tmp_path / "decoder", "qwen2")
    change_json(encoder / "config.json", pad_token_id=None)
    recipe = recipe_for(inputs, tmp_path / "run", model=str(encoder), epochs=1)
    run_training(recipe, console=quiet())
    merged = json.loads((tmp_path / "run" / "merged" / "config.json").read_text("utf-8"))
    assert merged["pad_token_id"] == 1


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_weights_in_a_pickle_alone_are_refused(encoder, name):
    torch.save({}, encoder / name)
    load(encoder)
    (encoder / WEIGHTS).unlink()
    with pytest.raises(UnsafeFileError, match=rf"its weights are only in {name}, a pickle"):
        load(encoder)


def test_a_cut_base_is_named(encoder):
    path = encoder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"encoder/model.safetensors: damaged: "):
        load(encoder)


def test_a_base_of_another_size_is_named_with_the_tensor_and_both_shapes(encoder):
    change_tensors(encoder / WEIGHTS, **{QUERY: torch.zeros(32, 16)})
    expected = rf"bert\.{QUERY} has shape \(32, 16\), its config.json says \(32, 32\)".replace(".w", r"\.w")
    with pytest.raises(CheckpointError, match=expected):
        load(encoder)


def test_a_base_that_lacks_a_tensor_is_named_and_not_filled_with_noise(encoder):
    change_tensors(encoder / WEIGHTS, **{QUERY: None})
    with pytest.raises(CheckpointError, match=f"its weights lack bert.{QUERY} of the architecture"):
        load(encoder)


def test_a_base_of_another_architecture_is_refused(encoder, tmp_path):
    other = save_tiny_encoder(tmp_path / "other", "distilbert")
    shutil.copy(other / WEIGHTS, encoder / WEIGHTS)
    with pytest.raises(CheckpointError, match="more tensors of the architecture in its"):
        load(encoder)


def test_a_base_with_a_head_of_other_classes_gets_a_fresh_one(copy):
    """A finished classifier of three classes is a fine start for one of two."""
    merged = copy / "merged"
    two = LabelMap(("yes", "no"))
    model = load_pretrained(Pretrained.at(str(merged), num_labels=2), two)
    assert model.output_layer.weight.shape == (2, 32)
    assert model.settings["id2label"] == two.id2label


def test_an_adapter_of_another_base_is_named_with_both_shapes(run, tmp_path):
    other = save_tiny_encoder(tmp_path / "other")
    config = BertConfig.from_pretrained(str(other), hidden_size=16)
    BertModel(config).save_pretrained(str(other))
    with pytest.raises(CheckpointError, match=r"the adapter has shape \(32, 32\), the model \(16, 16\)"):
        load_adapter(run / "adapter", base=str(other))


def spoil_order(copy: Path) -> None:
    change_json(copy / "merged" / "config.json", id2label={"0": "b", "1": "a", "2": "c"})


def spoil_names(copy: Path) -> None:
    record = json.loads((copy / "record.json").read_text("utf-8"))
    change_json(copy / "record.json", labels={**record["labels"], "names": ["b", "a", "c"]})


def spoil_count(copy: Path) -> None:
    change_tensors(
        copy / "merged" / WEIGHTS, classifier__weight=torch.zeros(2, 32), classifier__bias=torch.zeros(2)
    )


def spoil_head(copy: Path) -> None:
    change_tensors(copy / "merged" / WEIGHTS, classifier__weight=None)


def spoil_bytes(copy: Path) -> None:
    path = copy / "merged" / WEIGHTS
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_order, r"its labels \['b', 'a', 'c'\] are not those of record.json \['a', 'b', 'c'\]"),
        (spoil_names, "the names are not those that were saved"),
        (spoil_count, r"classifier.weight has shape \(2, 32\), its config.json says \(3, 32\)"),
        (spoil_head, "its weights lack classifier.weight"),
        (spoil_bytes, "merged/model.safetensors: damaged"),
    ],
)
def test_a_run_whose_labels_or_weights_were_changed_is_refused(unsummed, spoil, message):
    spoil(unsummed)
    with pytest.raises(LeantuneError, match=message) as caught:
        load_run(unsummed)
    assert caught.value.exit_code == 5


def flip_a_bit(path: Path) -> None:
    """Of the last number: every reader takes the file for whole."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def commands_on(run: Path, inputs: Path) -> dict[str, list[str]]:
    output = str(run / "written")
    return {
        "predict": ["predict", str(run), "--input", str(inputs / "test.csv"), "--output", f"{output}.csv"],
        "evaluate": ["evaluate", str(run), "--data", str(inputs / "test.csv")],
        "export lora": ["export", str(run), "--format", "lora", "--output", output],
        "export adalora": ["export", str(run), "--format", "adalora", "--output", output],
        "export merged": ["export", str(run), "--format", "merged", "--output", output],
        "export openvino": ["export", str(run), "--format", "openvino", "--output", output],
    }


LOADED = {
    "predict": "merged",
    "evaluate": "merged",
    "export lora": "adapter",
    "export adalora": "adapter",
    "export merged": "merged",
    "export openvino": "merged",
}
"""Command -> the artefact that it reads."""


@pytest.mark.parametrize("name", ["adapter", "merged"])
def test_the_record_has_the_checksum_of_every_file(run, name):
    files = json.loads((run / "record.json").read_text("utf-8"))["artefacts"][name]["files"]
    there = [path for path in (run / name).iterdir() if path.name != "README.md"]
    assert files == {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in there
    }
    assert {"tokenizer.json", "adapter_model.safetensors" if name == "adapter" else WEIGHTS} <= set(files)


@pytest.mark.parametrize("command", LOADED)
def test_one_changed_bit_is_named_by_every_command_that_reads_it(copy, inputs, capsys, command):
    weights = next((copy / LOADED[command]).glob("*.safetensors"))
    before = hashlib.sha256(weights.read_bytes()).hexdigest()
    flip_a_bit(weights)
    after = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert main(commands_on(copy, inputs)[command]) == 5
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"leantune: error: {weights.parent}: {weights.name} has SHA-256 {after[:12]}…, expected {before[:12]}… "
        "by record.json: it was damaged or changed after training; restore the file that the run wrote, or write it "
        f"again with: leantune train --resume {copy}"
    )
    assert not list(copy.glob("written*"))


@pytest.mark.parametrize(
    ("file", "spoil", "problem"),
    [
        ("tokenizer.json", Path.unlink, "tokenizer.json is missing"),
        ("config.json", lambda path: path.write_text("{}"), r"config.json has 2 bytes, expected \d+"),
    ],
)
def test_a_missing_or_cut_file_of_a_run_is_named(copy, file, spoil, problem):
    spoil(copy / "merged" / file)
    with pytest.raises(CheckpointError, match=f"merged: {problem} by record.json"):
        load_run(copy)


def test_a_changed_adapter_is_refused_by_a_shared_encoder(copy, inputs):
    flip_a_bit(copy / "adapter" / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"adapter: adapter_model\.safetensors has SHA-256"):
        SharedEncoder(str(inputs / "encoder"), precision="fp32").load("a", copy)


def test_resuming_writes_a_damaged_artefact_again(copy, inputs):
    for name in ("adapter", "merged"):
        flip_a_bit(next((copy / name).glob("*.safetensors")))
    assert main(["train", "--resume", str(copy)]) == 0
    for command in ("predict", "export lora"):
        assert main(commands_on(copy, inputs)[command]) == 0


def test_only_what_is_read_is_checked(copy, inputs):
    """A page for people, and files of others, are no part of it."""
    flip_a_bit(copy / "adapter" / "adapter_model.safetensors")
    (copy / "merged" / "README.md").write_text("what we use it for")
    (copy / "merged" / "notes.txt").write_text("precious")
    assert main(commands_on(copy, inputs)["predict"]) == 0


@pytest.mark.parametrize("command", ["export lora", "export merged"])
def test_an_export_holds_files_of_the_run_alone(copy, inputs, tmp_path, command):
    part = copy / ("merged" if command == "export merged" else "adapter")
    (part / "onnx").mkdir()
    (part / "notes.txt").write_text("precious")
    assert main([*commands_on(copy, inputs)[command], "--output", str(part / "exported")]) == 0
    artefacts = json.loads((copy / "record.json").read_text("utf-8"))["artefacts"]
    assert {path.name for path in (part / "exported").iterdir()} == set(artefacts[part.name]["files"])


def test_an_adapter_that_lies_in_a_model_folder_is_not_added_to_it(copy, inputs, capsys):
    """transformers would do so without a word."""
    for file in (copy / "adapter").iterdir():
        if file.name.startswith("adapter"):
            shutil.copy2(file, copy / "merged" / file.name)
    assert main(commands_on(copy, inputs)["predict"]) == 5
    assert "holds an adapter (adapter_config.json) beside the model" in capsys.readouterr().err
    words = [f"data={inputs / 'train.csv'}", f"model={copy / 'merged'}", "max_trainable_params=5000"]
    assert main(["plan", *words]) == 2


def test_a_record_that_lacks_what_is_needed_is_named(copy, inputs, capsys):
    (copy / "record.json").write_text('{"status": "finished"}', "utf-8")
    assert main(commands_on(copy, inputs)["predict"]) == 5
    assert "record.json: damaged: no run_id in it" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "evaluate", "export lora", "export merged"])
def test_a_run_without_checksums_is_read(unsummed, inputs, command):
    assert main(commands_on(unsummed, inputs)[command]) == 0


@pytest.mark.parametrize("model_type", ["modernbert", "bert", "roberta", "mpnet", "deberta-v2"])
def test_the_encoder_in_bf16_is_that_of_transformers_in_bf16(tmp_path, model_type):
    folder = save_tiny_encoder(tmp_path / "encoder", model_type)
    classifier = load_pretrained(Pretrained.at(str(folder), num_labels=3), LABELS)
    classifier.set_encoder_dtype(torch.bfloat16)
    ours = classifier.named_weights()
    theirs = dict(AutoModel.from_pretrained(str(folder), dtype=torch.bfloat16).named_parameters())
    in_encoder = {name for name in ours if name.startswith(f"{classifier.prefix}.") and "pooler" not in name}
    assert in_encoder == {f"{classifier.prefix}.{name}" for name in theirs if "pooler" not in name}
    for name in in_encoder:
        assert torch.equal(ours[name], theirs[name.partition(".")[2]]), name
        assert ours[name].dtype == torch.bfloat16
    assert {p.dtype for p in classifier.head.parameters()} == {torch.float32}


def test_buffers_of_a_padded_encoder_keep_their_type(tmp_path):
    folder = save_tiny_encoder(tmp_path / "encoder", "nomic_bert")
    classifier = load_pretrained(Pretrained.at(str(folder), num_labels=3), LABELS)
    expected = {name: buffer.clone() for name, buffer in classifier.named_buffers()}
    assert expected
    classifier.set_encoder_dtype(torch.bfloat16)
    assert all(torch.equal(buffer, expected[name]) for name, buffer in classifier.named_buffers())


def test_no_part_of_the_head_of_a_base_is_used(tmp_path):
    model = AutoModelForSequenceClassification.from_config(tiny_config("modernbert"))
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.fill_(5)
    classifier = classifier_from(model)
    reinitialise_head(classifier, seed=1)
    for parameter in classifier.head.parameters():
        assert (parameter != 5).all()
    assert torch.equal(classifier.head.norm.weight, torch.ones(32))


@pytest.mark.parametrize("model_type", ["xlm-roberta-xl", "roberta-prelayernorm", "data2vec-text"])
def test_positions_behind_the_padding_id_count_in_encoders_that_are_not_listed(
    inputs, tmp_path, capsys, model_type
):
    folder = save_tiny_encoder(tmp_path / "encoder", model_type, max_position_embeddings=34)
    words = ["plan", f"data={inputs / 'train.csv'}", f"model={folder}", "max_trainable_params=5000"]
    assert main([*words, "max_length=33"]) == 2
    assert "max_length=33 is more than the 32 tokens" in capsys.readouterr().err
    assert main([*words, "max_length=32"]) == 0


@pytest.mark.parametrize(
    ("model_type", "is_changed"), [("fnet", True), ("albert", False), ("roberta-prelayernorm", False)]
)
def test_an_encoder_that_padding_changes_is_told(inputs, tmp_path, model_type, is_changed):
    folder = save_tiny_encoder(tmp_path / "encoder", model_type)
    said = io.StringIO()
    recipe = recipe_for(inputs, tmp_path / "run", model=str(folder), targets="all-linear")
    console = Console(file=said, width=300)
    build_classifier(prepare_run(recipe, console=console, overwrite=False, resume=False))
    assert (
        f"% in {model_type}, which leantune runs padded: predictions depend" in said.getvalue()
    ) == is_changed
