"""Run folders, adapters, checkpoints and records of earlier versions are read, and mean what they meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from leantune.cli.main import main
from leantune.inference.adapters import load_adapter
from leantune.inference.load import load_run
from leantune.inference.multi_adapter import SharedEncoder
from leantune.packing.batch import pack

ARTEFACTS = Path(__file__).with_name("artefacts")
TOLERANCE = 1e-5
"""Of probabilities: other processors and versions of torch sum in another order."""


@pytest.fixture(params=["v0.2.0"])
def older(request, tmp_path, monkeypatch) -> Path:
    """A folder with ``run``, its inputs and what it predicted, as that version left it, in a place of its own."""
    folder = tmp_path / "older"
    shutil.copytree(ARTEFACTS / request.param, folder)
    record = folder / "run" / "record.json"
    moved = json.loads(record.read_text("utf-8")) | {"directory": str(folder)}
    record.write_text(json.dumps(moved), "utf-8")
    monkeypatch.chdir(folder)
    return folder


def predicted(older: Path) -> tuple[list[str], np.ndarray]:
    expected = json.loads((older / "expected.json").read_text("utf-8"))
    return expected["texts"], np.array(expected["probabilities"])


def test_its_run_predicts_what_it_did(older):
    texts, expected = predicted(older)
    np.testing.assert_allclose(load_run("run").predict_proba(texts), expected, atol=TOLERANCE)


def test_its_run_is_evaluated_and_exported(older):
    assert main(["evaluate", "run", "--data", "test.csv"]) == 0
    for form in ("lora", "adalora", "merged"):
        assert main(["export", "run", "--format", form, "--output", form]) == 0
    assert load_file(older / "merged" / "model.safetensors").keys() >= {"classifier.weight"}
    assert main(["report", "run"]) == 0


def test_its_adapter_gives_the_logits_of_its_merged_model(older):
    texts, expected = predicted(older)
    run = load_run("run")
    encoded = run.tokenizer.encode(texts)
    classifier = load_adapter("run/adapter", base="encoder").classifier
    batch = pack(encoded.input_ids, np.arange(len(texts)), position_offset=classifier.position_offset)
    with torch.inference_mode():
        logits = classifier(batch)
    found = torch.empty_like(logits).index_copy(0, batch.rows, logits).softmax(-1)
    np.testing.assert_allclose(found.numpy(), expected, atol=TOLERANCE)
    shared = SharedEncoder("encoder", precision="fp32")
    shared.load("older", "run")
    np.testing.assert_allclose(shared.predict_proba("older", texts), expected, atol=TOLERANCE)


def test_its_checkpoint_goes_on_to_where_it_went(older):
    trained = load_file(older / "run" / "adapter" / "adapter_model.safetensors")
    shutil.rmtree(older / "run" / "checkpoints" / "step-000012")
    for name in ("adapter", "merged"):
        shutil.rmtree(older / "run" / name)
    record = older / "run" / "record.json"
    record.write_text(json.dumps(json.loads(record.read_text("utf-8")) | {"status": "running"}), "utf-8")
    assert main(["train", "--resume", "run"]) == 0
    resumed = load_file(older / "run" / "adapter" / "adapter_model.safetensors")
    assert resumed.keys() == trained.keys()
    for name, tensor in trained.items():
        torch.testing.assert_close(resumed[name], tensor, atol=1e-4, rtol=1e-3)


def test_its_recipe_trains_to_the_same_classifier(older):
    assert main(["train", "run/recipe.yaml", "output=again"]) == 0
    texts, expected = predicted(older)
    np.testing.assert_allclose(load_run("again").predict_proba(texts), expected, atol=1e-3)
