"""What a run keeps of its answers, and the rows that it picks for a person to look at, on real runs."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from leantune.config.rows_to_check import (
    MAX_BYTES,
    MAX_CHARACTERS,
    RowToCheck,
    read_rows_to_check,
    shown_text,
)
from leantune.data.text import read as read_module
from leantune.errors import CheckpointError
from leantune.evaluation.confidence import NUM_BINS, Answers, confidence_record
from leantune.evaluation.metrics import evaluate_probabilities
from leantune.report import write_report
from leantune.training.after import rows_to_check as rows_module
from leantune.training.after.answers import read_answers, saved_answers
from leantune.training.before.dataset import LENGTH_BINS, lengths_of
from leantune.training.run import run_training
from tiny import quiet, recipe_for


def lines_of(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def record_of(folder):
    return json.loads((folder / "record.json").read_text("utf-8"))


def wrong_rows(folder, part) -> list[RowToCheck]:
    return [row for row in read_rows_to_check(folder) if row.finding == "wrong" and row.part == part]


@pytest.fixture(scope="module")
def noisy(inputs, tmp_path_factory):
    """A run with wrong labels among the first rows, and texts that are there under two labels."""
    folder = tmp_path_factory.mktemp("noisy")
    lines = lines_of(inputs / "train.csv")
    for line in lines[:40]:
        line["label"] = "abc"[("abc".index(line["label"]) + 1) % 3]
    lines += [{"text": line["text"], "label": "c" if line["label"] == "b" else "b"} for line in lines[40:43]]
    with (folder / "train.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(lines)
    recipe = recipe_for(inputs, folder / "run", data=str(folder / "train.csv"), epochs=3, validation_size=80)
    return run_training(recipe, console=quiet())


@pytest.mark.parametrize(("part", "file"), [("validation", "train.csv"), ("test", "test.csv")])
def test_wrong_predictions_have_the_text_and_the_label_of_their_row(noisy, inputs, part, file):
    lines = lines_of((noisy.parent if part == "validation" else inputs) / file)
    rows = wrong_rows(noisy, part)
    assert rows
    for row in rows:
        assert (row.text, row.label) == (lines[row.row]["text"], lines[row.row]["label"])
        assert row.predicted != row.label
        assert not row.is_decoded
    probabilities = [row.probability for row in rows]
    assert probabilities == sorted(probabilities, reverse=True)
    measured = record_of(noisy)["metrics"][part]
    wrong = sum(number for i, j, number in measured["confusion"] if i != j)
    assert min(wrong, rows_module.MAX_WRONG) <= len(rows) <= 2 * rows_module.MAX_WRONG


def test_equal_texts_under_two_labels_are_listed_in_groups(noisy):
    lines = lines_of(noisy.parent / "train.csv")
    equal = [row for row in read_rows_to_check(noisy) if row.finding == "equal"]
    conflicting = record_of(noisy)["data"]["train"]["conflicting_rows"]
    assert len(equal) == conflicting > 0, "each label has one row"
    for row in equal:
        assert (row.text, row.label) == (lines[row.row]["text"], lines[row.row]["label"])
    groups = {row.group: [other for other in equal if other.group == row.group] for row in equal}
    for group in groups.values():
        assert len({row.text for row in group}) == 1
        assert len({row.label for row in group}) == len(group) == 2


def test_the_page_shows_what_the_run_kept(noisy, tmp_path):
    copy = shutil.copytree(noisy, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "merged"))
    page = write_report(copy).read_text("utf-8")
    for anchor in ("wrong", "suspects", "confidence", "equal", "lengths"):
        assert f'<section id="{anchor}"' in page
    for row in [*wrong_rows(copy, "test")[:20], *wrong_rows(copy, "validation")[:20]]:
        assert row.text in page


@pytest.mark.parametrize("part", ["validation", "test"])
def test_the_confidence_agrees_with_the_metrics(run, part):
    record = record_of(run)
    confidence, metrics = record["confidence"][part], record["metrics"][part]
    assert sum(each["rows"] for each in confidence["bins"]) == metrics["num_rows"]
    assert confidence["coverage"][-1]["rows"] == metrics["num_rows"]
    assert confidence["coverage"][-1]["accuracy"] == metrics["accuracy"]
    right = sum(each["rows"] * (each["accuracy"] or 0) for each in confidence["bins"])
    assert right == pytest.approx(metrics["accuracy"] * metrics["num_rows"])
    least = [each["least_confidence"] for each in confidence["coverage"]]
    assert least == sorted(least, reverse=True)


def test_a_source_that_changed_meanwhile_is_not_quoted(inputs, tmp_path, monkeypatch):
    """Its rows are put together from their tokens then, be it gone or another one."""
    other = tmp_path / "other.csv"
    other.write_text("text,label\n" + 300 * "another text,a\n", "utf-8")

    def gone(*_, **__):
        raise OSError("gone")

    def another(_, columns, **rest):
        return read_module.open_examples(str(other), columns, **rest)

    found = []
    for name, opens in (("gone", gone), ("another", another)):
        with monkeypatch.context() as patch:
            patch.setattr(rows_module, "open_examples", opens)
            folder = run_training(recipe_for(inputs, tmp_path / name, epochs=1), console=quiet())
        found.append(read_rows_to_check(folder))
    assert found[0] == found[1]
    assert found[0]
    lines = lines_of(inputs / "test.csv")
    for row in found[0]:
        assert row.is_decoded
        if row.part == "test":
            assert row.text == lines[row.row]["text"], "of words that the tokenizer has, nothing is lost"
    assert "decoded from tokens" in write_report(tmp_path / "gone").read_text("utf-8")


def test_of_pairs_both_texts_are_there(inputs, tmp_path):
    lines = lines_of(inputs / "train.csv")
    path = tmp_path / "pairs.csv"
    text = "".join(f"word9,{line['text']},{line['label']}\n" for line in lines)
    path.write_text(f"question,context,label\n{text}", "utf-8")
    columns = {"text_column": "question", "text_pair_column": "context"}
    recipe = recipe_for(inputs, tmp_path / "run", epochs=1, data=str(path), test=None, **columns)
    rows = wrong_rows(run_training(recipe, console=quiet()), "validation")
    assert rows
    assert all((row.text, row.pair) == ("word9", lines[row.row]["text"]) for row in rows)


def test_a_resumed_run_keeps_the_same(run, inputs, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    before, record = (copy / "rows_to_check.jsonl").read_bytes(), record_of(copy)
    (copy / "rows_to_check.jsonl").unlink()
    run_training(recipe_for(inputs, copy, keep_best=2), console=quiet(), resume=True)
    assert (copy / "rows_to_check.jsonl").read_bytes() == before
    assert record_of(copy)["confidence"] == record["confidence"]


def test_without_held_out_rows_there_is_nothing_to_say(inputs, tmp_path):
    recipe = recipe_for(inputs, tmp_path / "run", epochs=1, test=None, validation_size=0)
    folder = run_training(recipe, console=quiet())
    assert "confidence" not in record_of(folder)
    assert read_rows_to_check(folder) == ()
    write_report(folder)


def test_suspects_are_what_the_model_contradicts_with_more_than_usual_confidence():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.85, 0.15], [0.75, 0.25], [0.51, 0.49]])
    answers = Answers.of(probabilities, np.array([0, 0, 1, 1, 1, 1]))
    assert answers.suspects().tolist() == [False, False, False, True, False, False], (
        "0.8 is usual of the first class"
    )
    assert confidence_record(answers).suspect_labels == 1
    assert rows_module.wrong_positions(answers).tolist() == [3, 4, 5]


def test_a_class_that_no_row_has_makes_no_suspects():
    answers = Answers.of(np.array([[0.1, 0.1, 0.8], [0.6, 0.2, 0.2]]), np.array([0, 0]))
    assert not answers.suspects().any()


def test_bins_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], 500)
    labels = rng.integers(0, 3, 500)
    answers = Answers.of(probabilities, labels)
    found = confidence_record(answers)
    top, right = probabilities.max(1), probabilities.argmax(1) == labels
    for i, each in enumerate(found.bins):
        inside = (top > i / NUM_BINS) & (top <= (i + 1) / NUM_BINS)
        assert each.rows == inside.sum()
        if each.rows:
            assert each.mean_confidence == pytest.approx(top[inside].mean(), abs=1e-6)
            assert each.accuracy == pytest.approx(right[inside].mean())
    assert found.coverage[-1].accuracy == evaluate_probabilities(probabilities, labels, "abc").accuracy
    assert len(confidence_record(Answers.of(probabilities[:3], labels[:3])).coverage) == 3


def test_a_checkpoint_keeps_the_answers_and_an_older_one_is_told():
    labels = np.array([0, 1, 1])
    answers = Answers.of(np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]]), labels)
    saved = saved_answers(answers)
    again = read_answers(saved, labels)
    assert again is not None
    assert all(np.array_equal(getattr(again, name), getattr(answers, name)) for name in Answers.__slots__)
    assert read_answers({"predicted": saved["predicted"]}, labels) is None
    assert read_answers(saved | {"confidence": torch.ones(2)}, labels) is None


def test_the_histogram_has_every_text_and_the_cut():
    lengths = np.array([*range(3, 203), 9_000], dtype=np.int32)
    found = lengths_of(lengths, 128)
    assert len(found.counts) == LENGTH_BINS
    assert sum(found.counts) == len(lengths)
    assert (found.median, found.longest, found.max_length) == (103, 9_000, 128)
    assert found.width * LENGTH_BINS < 300, "one long text does not flatten the others"
    assert lengths_of(np.array([1], dtype=np.int32), 512).width == 1


@pytest.mark.parametrize(
    "damage",
    [
        b"{\n",
        b"\xff\xfe\n",
        b'{"finding": "wrong", "part": "test", "row": -1, "text": "", "label": "a"}\n',
        b'{"finding": "wrong", "part": "test", "row": 1e400, "text": "", "label": "a"}\n',
        b'{"finding": "wrong", "part": "test", "row": ' + b"9" * 400 + b', "text": "", "label": "a"}\n',
        b'{"finding": "wrong", "part": "test", "row": 1, "text": "", "label": "a", "probability": NaN}\n',
        b'{"finding": "wrong", "part": "elsewhere", "row": 1, "text": "", "label": "a"}\n',
        b" " * (MAX_BYTES + 1),
    ],
)
def test_a_damaged_file_of_rows_costs_the_page_nothing_else(run, tmp_path, damage):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "merged"))
    (copy / "rows_to_check.jsonl").write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"rows_to_check\.jsonl.*: damaged"):
        read_rows_to_check(copy)
    page = write_report(copy).read_text("utf-8")
    assert "rows_to_check.jsonl cannot be read" in page
    assert "Test accuracy" in page


def test_a_link_out_of_the_run_is_not_followed(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "merged"))
    (tmp_path / "secret").write_bytes((copy / "rows_to_check.jsonl").read_bytes())
    (copy / "rows_to_check.jsonl").unlink()
    (copy / "rows_to_check.jsonl").symlink_to(tmp_path / "secret")
    assert "rows_to_check.jsonl cannot be read" in write_report(copy).read_text("utf-8")


def test_a_run_of_an_earlier_version_has_no_such_rows(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "merged"))
    (copy / "rows_to_check.jsonl").unlink()
    record = record_of(copy)
    del record["confidence"], record["lengths"]
    (copy / "record.json").write_text(json.dumps(record), "utf-8")
    page = write_report(copy).read_text("utf-8")
    assert "cannot be read" not in page
    for anchor in ("wrong", "suspects", "confidence", "lengths"):
        assert f'id="{anchor}"' not in page


def test_a_text_is_cut_and_can_be_written():
    assert shown_text("x" * 300) == "x" * 300
    assert shown_text("x" * 100_000) == "x" * (MAX_CHARACTERS - 1) + "…"
    assert shown_text("a\ud800b") == "a?b"
