"""ONNX: what is exported computes what was trained, and loads where ONNX models are loaded."""

from __future__ import annotations

import json

import numpy as np
import pytest

from leantune.cli.main import main
from leantune.data.text.columns import Columns
from leantune.data.text.read import open_examples
from leantune.errors import CheckpointError, UsageError
from leantune.inference.engines.choose import load_engine
from leantune.inference.evaluate import measure
from leantune.inference.load import load

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_the_export_is_as_accurate_as_the_run(run_with_onnx, inputs):
    source = open_examples(str(inputs / "test.csv"), Columns(), labels="required")
    by_torch = measure(load(run_with_onnx, precision="fp32"), source, 16)
    by_onnx = measure(load_engine("onnx", run_with_onnx), source, 16)
    assert by_onnx.to_json()["accuracy"] == by_torch.to_json()["accuracy"]
    assert abs(by_onnx.to_json()["log_loss"] - by_torch.to_json()["log_loss"]) < 1e-5
    by_int8 = measure(load_engine("onnx-int8", run_with_onnx), source, 16)
    assert abs(by_int8.to_json()["accuracy"] - by_torch.to_json()["accuracy"]) < 0.1


def test_batch_and_length_are_free(run_with_onnx):
    classifier = load_engine("onnx", run_with_onnx)
    texts = ["word1", "word2 word3", " ".join(["word4"] * 25)]
    whole = classifier.predict_proba(texts)
    alone = np.concatenate([classifier.predict_proba([text]) for text in texts])
    assert np.abs(whole - alone).max() < 1e-5


def test_the_folder_has_what_optimum_reads(run_with_onnx):
    """``ORTModelForSequenceClassification.from_pretrained``: config, tokenizer, and the model by its name."""
    import onnx

    names = {path.name for path in (run_with_onnx / "onnx").iterdir()}
    assert {"model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert (run_with_onnx / "onnx-int8" / "model_quantized.onnx").is_file()
    model = onnx.load(run_with_onnx / "onnx" / "model.onnx")
    onnx.checker.check_model(model)
    assert [each.version for each in model.opset_import if not each.domain] == [20]
    config = json.loads((run_with_onnx / "onnx" / "config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "b", "2": "c"}
    assert {each.name for each in model.graph.output} == {"logits"}


def test_the_command_predicts_with_it(run_with_onnx, inputs, tmp_path):
    for engine in ("onnx", "onnx-int8"):
        out = tmp_path / f"{engine}.csv"
        assert (
            main(
                [
                    "predict",
                    str(run_with_onnx),
                    str(inputs / "test.csv"),
                    "--engine",
                    engine,
                    "--output",
                    str(out),
                ]
            )
            == 0
        )
        assert len(out.read_text().splitlines()) == 61


def test_a_damaged_or_missing_export_says_what_to_do(run_with_onnx, run, tmp_path):
    with pytest.raises(UsageError, match=r"not exported yet; make it with: leantune export .* --format onnx"):
        load_engine("onnx", run)
    with pytest.raises(UsageError, match="has one precision"):
        load_engine("onnx", run_with_onnx, precision="bf16")
    damaged = load(run_with_onnx).save(tmp_path / "damaged")
    (damaged / "onnx" / "model.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"model\.onnx has 1 bytes"):
        load_engine("onnx", damaged)
