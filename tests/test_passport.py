"""A passport: every form of a run on the same rows, and an exit code if one lost a class."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from leantune.cli.main import main
from leantune.data.text.columns import Columns
from leantune.data.text.read import open_examples
from leantune.inference.load import load
from leantune.questions.passport.compute import passport
from leantune.questions.passport.forms import Form
from servers import ServerProcess

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def rows_of(inputs):
    return open_examples(str(inputs / "test.csv"), Columns(), labels="required")


def test_every_form_is_compared_with_what_was_measured(run_with_onnx, inputs):
    with ServerProcess(run_with_onnx) as server:
        found = passport(run_with_onnx, rows_of(inputs), url=server.url)
    forms = {form.name.split(" http")[0]: form for form in found.forms}
    assert {
        "as measured",
        "adapter",
        "merged, fp32",
        "merged, transformers",
        "onnx",
        "onnx-int8",
        "server",
    } <= set(forms)
    for name in ("adapter", "merged, transformers", "onnx", "server"):
        assert forms[name].agreement == 1.0, name
        assert forms[name].comparison.p_value == 1.0
    record = json.loads((run_with_onnx / "record.json").read_text())
    assert forms["as measured"].accuracy == record["metrics"]["test"]["accuracy"]
    assert forms["onnx"].bytes > forms["onnx-int8"].bytes > 0
    assert "openvino" in found.absent
    assert "not exported yet" in found.absent["openvino"]


def test_the_command_writes_a_table_and_json(run_with_onnx, inputs, tmp_path, capsys):
    own = shutil.copytree(run_with_onnx, tmp_path / "run")
    assert main(["passport", str(own), str(inputs / "test.csv"), "--max-class-loss", "100"]) == 0
    said = capsys.readouterr().out
    assert "merged, transformers" in said
    assert "60 rows" in said
    assert json.loads((own / "passport.json").read_text())["num_rows"] == 60


def test_a_form_that_loses_a_class_ends_with_5(run_with_onnx, inputs, tmp_path, monkeypatch, capsys):
    """A form that never says ``a``."""

    def never_a(texts, pairs):
        probabilities = load(run_with_onnx).predict_proba(texts, pairs)
        probabilities[:, 0] = 0
        return probabilities

    forms = [
        Form("as measured", lambda: load(run_with_onnx).predict_proba, None),
        Form("broken", lambda: never_a, None),
    ]
    monkeypatch.setattr("leantune.questions.passport.compute.forms_of", lambda run, url: forms)
    words = [
        "passport",
        str(run_with_onnx),
        str(inputs / "train.csv"),
        "--output",
        str(tmp_path / "passport.json"),
    ]
    assert main(words) == 5
    assert "broken: the accuracy on" in capsys.readouterr().err
    assert main([*words, "--max-class-loss", "100"]) == 0


def test_a_server_that_is_none_is_left_out_with_a_reason(run_with_onnx, inputs):
    found = passport(run_with_onnx, rows_of(inputs), url="http://127.0.0.1:1")
    assert "no valid answer" in found.absent["server http://127.0.0.1:1"]


def test_probabilities_of_a_server_are_in_the_order_of_the_classes(run_with_onnx):
    from leantune.questions.passport.forms import forms_of

    with ServerProcess(run_with_onnx) as server:
        by_server = forms_of(run_with_onnx, server.url)[-1].open()(["word1 word2", "word9"], None)
    by_torch = load(run_with_onnx).predict_proba(["word1 word2", "word9"])
    assert np.abs(by_server - by_torch).max() < 1e-4
