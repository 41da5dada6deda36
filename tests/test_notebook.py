"""What a notebook shows, in a kernel; and the same calls in a script."""

from __future__ import annotations

import html
import json
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import leantune
from commands import Process
from leantune.errors import DataError, UsageError
from leantune.report.inline import Inline
from leantune.system.notebook import SHOWN_LINES, CellOutput, html_table
from tiny import write_label_sets

TRAIN = """import leantune
settings = {"encoder": "encoder", "budget": 5000, "epochs": 12, "evaluate_every": 5}
classifier = leantune.train("train.csv", test="test.csv", **settings)"""
QUIET = 'leantune.train("train.csv", quiet=True, **settings | {"epochs": 1})'
PLAN = 'leantune.plan("train.csv", encoder="encoder", budget=5000)'
CELLS = (TRAIN, "classifier", "classifier.report()", "classifier.confusion()", PLAN, QUIET)


@pytest.fixture(scope="module")
def desk(inputs, tmp_path_factory) -> Path:
    return Path(shutil.copytree(inputs, tmp_path_factory.mktemp("notebook") / "desk"))


@pytest.fixture(scope="module")
def shown(desk):
    """The last outputs of each cell but for lines of other libraries, and all that the kernel sent for the first."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    sent: list[str] = []

    class Client(nbclient.NotebookClient):
        def process_message(self, msg, cell, cell_index):
            data = msg["content"].get("data", {})
            if cell_index == 0 and msg["msg_type"] in ("display_data", "update_display_data"):
                sent.append(data["text/plain"])
            return super().process_message(msg, cell, cell_index)

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    Client(notebook, timeout=240, resources={"metadata": {"path": str(desk)}}).execute()
    outputs = [
        [each for each in cell.outputs if "Tqdm" not in each.get("text", "")] for cell in notebook.cells
    ]
    return outputs, sent


def test_a_cell_shows_one_bar_that_moves_and_then_a_few_lines(shown):
    (output,), sent = shown[0][0], shown[1]
    assert output.output_type == "display_data"
    steps = [int(found) for text in sent for found in re.findall(r"step (\d+)/\d+", text)]
    assert len(set(steps)) > 1
    assert steps == sorted(steps)
    assert all(len(re.findall(r"step \d+/\d+", text)) <= 1 for text in sent)
    assert max(len(text.splitlines()) for text in sent) < 40
    last = output.data["text/html"]
    assert "earlier lines" in last
    in_view = html.unescape(last.rpartition("<pre")[2].partition(">")[2].removesuffix("</pre>"))
    assert len(in_view.splitlines()) == SHOWN_LINES
    assert "━" not in in_view, "the bar is gone when the run is done"
    assert "accuracy" in in_view.splitlines()[-1]


def test_a_quiet_cell_shows_its_value_alone(shown):
    assert [each.output_type for each in shown[0][5]] == ["execute_result"]


def test_a_classifier_and_a_plan_are_tables(shown):
    (classifier,), (plan,) = shown[0][1], shown[0][4]
    assert len(classifier.data["text/plain"].splitlines()) <= 2
    for part in ("test accuracy", "trainable parameters", "encoder", "size of merged"):
        assert f">{part}</th>" in classifier.data["text/html"]
    assert re.fullmatch(r"<Plan: LoRA .*, [\d,]+ trainable parameters>", plan.data["text/plain"])
    assert ">budget used</th>" in plan.data["text/html"]


def test_report_and_confusion_are_frames_with_their_styles_inside(shown):
    for (output,), part in (
        (shown[0][2], "How to reproduce this run"),
        (shown[0][3], "Confusion matrix, test rows"),
    ):
        frame = re.fullmatch(
            r'<iframe srcdoc="([^"]*)" sandbox="" style="[^"]*"></iframe>', output.data["text/html"]
        )
        page = html.unescape(frame[1])
        assert page.lstrip().startswith("<!doctype html>")
        assert part in page


def test_what_rich_redraws_replaces_its_lines():
    cell = CellOutput()
    cell.write("first\nbar 1\nbelow\r\x1b[2K\x1b[1A\x1b[2Ksecond\nbar 2\x1b[?25h")
    assert cell._lines == ["first", "second", "bar 2"]


def test_texts_in_tables_are_escaped():
    assert html_table([["<b>", "&"]]).count("&lt;b&gt;</th>") == 1
    page = Inline(Path("report.html"), '<p title="x">', 100)._repr_html_()
    assert 'srcdoc="&lt;p title=&quot;x&quot;&gt;"' in page


@pytest.fixture(scope="module")
def classifier(desk):
    settings = {
        "encoder": desk / "encoder",
        "budget": 5000,
        "epochs": 2,
        "max_length": 32,
        "precision": "fp32",
    }
    return leantune.train(desk / "train.csv", test=desk / "test.csv", quiet=True, **settings)


def test_a_classifier_without_its_run_has_no_report(classifier):
    alone = leantune.load(classifier.source / "merged")
    assert len(repr(alone).splitlines()) == 1
    assert ">size</th>" in alone._repr_html_()
    for ask in (alone.report, alone.confusion):
        with pytest.raises(UsageError, match="merged: no run found"):
            ask()
    (classifier.source / "report.html").unlink()
    assert classifier.report().path.is_file(), "written again"


def test_evaluate_measures_what_the_run_did(classifier, desk):
    rows = pd.read_csv(desk / "test.csv")
    found = json.loads(json.dumps(classifier.evaluate(rows.text, rows.label).to_json()))
    expected = classifier.metrics["test"]
    assert found["confusion"] == expected["confusion"]
    assert found["macro_f1_interval"] == expected["macro_f1_interval"]
    assert found["log_loss"] == pytest.approx(expected["log_loss"], rel=1e-4)
    lenient = replace(classifier, settings=replace(classifier.settings, skips_blank=True))
    assert lenient.evaluate([" ", *rows.text], [None, *rows.label]) == classifier.evaluate(
        rows.text, rows.label
    )


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (
            ["word1", "word2"],
            ["a", "A"],
            "rows:2:label: the label 'A' is no class of this model, .*did you mean 'a'",
        ),
        (["word1"], [None], "rows:1:label: no label, expected a class"),
        (["word1"], [["a"]], "rows:1:label: a list of labels, expected one"),
        (["word1", " "], ["a", "a"], r"rows:2:text: a blank text \(1 in all\), expected words"),
        (["word1"], ["a", "b"], "1 texts and 2 labels, lengths must match"),
        (["word1", 3], ["a", "b"], "text 1 .* is a number"),
        ("word1", ["a"], "one text, expected a list of texts"),
        (["word1"], "a", "labels 'a', expected a list with the label of each text"),
        ([], [], "no rows to evaluate on"),
    ],
)
def test_rows_that_cannot_be_evaluated_are_named(classifier, texts, labels, message):
    with pytest.raises(DataError, match=message):
        classifier.evaluate(texts, labels)


def test_several_labels_are_evaluated_and_have_no_confusion_matrix(desk):
    rows = write_label_sets(desk / "sets.csv", 120)
    settings = {
        "encoder": desk / "encoder",
        "budget": 5000,
        "epochs": 1,
        "max_length": 32,
        "precision": "fp32",
    }
    several = leantune.train(
        rows, test=rows, problem_type="multi_label_classification", quiet=True, **settings
    )
    table = pd.read_csv(rows, keep_default_na=False)
    joined = several.evaluate(table.text, table.label)
    assert joined.micro_f1 is not None
    assert several.evaluate(table.text, [each.split("|") if each else [] for each in table.label]) == joined
    assert "test micro F1" in repr(several)
    assert isinstance(several.predict("word1"), list)
    with pytest.raises(UsageError, match="no confusion matrix: a text may have several labels"):
        several.confusion()


def test_one_text_gets_one_label(classifier):
    text = "word1 word2"
    assert classifier.predict(text) == classifier.predict([text])[0]
    assert classifier.predict_proba(text).shape == (3,)
    np.testing.assert_array_equal(classifier.predict_proba(text), classifier.predict_proba([text])[0])
    for nothing in (3, None):
        with pytest.raises(DataError, match=f"^{nothing}, expected a text or a list of texts$"):
            classifier.predict(nothing)
    with pytest.raises(UsageError, match="give no pairs"):
        classifier.predict(text, "word3")


INTERRUPTED = """
import csv, sys, tempfile, leantune
rows = list(csv.DictReader(open("train.csv")))
rows = [row["text"] for row in rows], [row["label"] for row in rows]
settings = {"encoder": "encoder", "budget": 5000, "epochs": 8, "precision": "fp32", "max_length": 32, "quiet": True}
settings |= {"save_every": 1, "output": eval(sys.argv[1]), "resume": eval(sys.argv[2])}
tempfile.tempdir = "temporary"
try:
    classifier = leantune.train(rows, **settings)
except KeyboardInterrupt as stopped:
    print(stopped)
else:
    print(classifier.predict_proba("word1 word2").tolist())
"""


@pytest.mark.parametrize("output", ["kept", None])
def test_after_ctrl_c_the_call_that_the_error_names_goes_on_to_the_same_bits(desk, command, output):
    def start(output: str | None, *, resume: bool) -> Process:
        return command.start(repr(output), repr(resume), code=INTERRUPTED, cwd=desk, stderr=None)

    (desk / "temporary").mkdir(exist_ok=True)
    stopped = start(output, resume=False)
    while not list(desk.glob(f"{output or 'temporary/*/run'}/checkpoints/step-*")) and stopped.poll() is None:
        time.sleep(0.01)
    stopped.send_signal(signal.SIGINT)
    said, _ = stopped.communicate()
    assert stopped.returncode == 0
    found = re.search(
        r"continue with: leantune train --resume (\S+), .* output='(.*)' and resume=True$", said.strip()
    )
    assert found[1] == found[2]
    resumed, _ = start(found[2], resume=True).communicate()
    whole, _ = start(f"{found[2]}-whole", resume=False).communicate()
    assert resumed == whole != ""
    finished, _ = start(found[2], resume=True).communicate()
    assert finished == whole


def test_what_cannot_be_resumed_is_said(desk):
    settings = {"encoder": desk / "encoder", "budget": 5000, "quiet": True, "resume": True}
    for words in ({}, {"output": desk / "x", "overwrite": True}):
        with pytest.raises(UsageError, match="resume continues the run in output"):
            leantune.train(desk / "train.csv", **settings, **words)
    with pytest.raises(UsageError, match="no run to resume"):
        leantune.train(desk / "train.csv", output=desk / "x", **settings)
    assert not (desk / "x").exists()
