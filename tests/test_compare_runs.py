"""Runs on the same rows: the numbers are those of `evaluate`, and the rows are those that no run was trained on."""

from __future__ import annotations

import csv
import html

import numpy as np
import pytest

import leantune
from leantune.cli.main import main
from leantune.config import recipe_of_run
from leantune.config.record.run import read_finished_record
from leantune.errors import DataError, UsageError
from leantune.evaluation.comparison import compare
from leantune.inference.load import load
from leantune.questions.compare.compute import MAX_LISTED, compare_runs
from leantune.questions.compare.page import write_comparison
from leantune.training.after.rows_again import read_rows_again
from leantune.training.run import run_training
from tiny import quiet, recipe_for, save_tiny_encoder, write_label_sets, write_rows


@pytest.fixture(scope="module")
def weak(inputs, shelf):
    """A run that is worse than ``run``: half of the rows of ``b`` and ``c`` that it learnt from say ``a``."""

    def build(folder):
        rows = rows_of(inputs / "train.csv")
        lines = [f"{text},{'a' if i % 2 else label}" for i, (text, label) in enumerate(rows)]
        (folder / "train.csv").write_text("\n".join(["text,label", *lines]) + "\n")
        recipe = recipe_for(inputs, folder / "run", data=str(folder / "train.csv"), epochs=1)
        run_training(recipe, console=quiet())

    return shelf.folder("weak", build) / "run"


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


def predicted(run, rows):
    return np.array(load(run).predict([text for text, _ in rows]))


def right_in(run, rows):
    return predicted(run, rows) == np.array([label for _, label in rows])


def test_the_difference_is_that_of_the_predictions(run, weak, inputs):
    rows = rows_of(inputs / "test.csv")
    found = compare_runs([run, weak])
    assert (found.rows, found.num_rows) == ("test", len(rows))
    is_right, is_right_too = right_in(run, rows), right_in(weak, rows)
    expected = compare(is_right.astype(int), is_right_too.astype(int), np.ones(len(rows), int))
    (difference,) = found.against_first
    assert difference.comparison == expected
    assert expected.only_a_right > expected.only_b_right
    assert [each.metrics.accuracy for each in found.runs] == [is_right.mean(), is_right_too.mean()]


def test_each_row_in_which_they_disagree_is_named(run, weak, inputs):
    rows = rows_of(inputs / "test.csv")
    (difference,) = compare_runs([run, weak]).against_first
    wrong = np.flatnonzero(right_in(run, rows) & ~right_in(weak, rows))
    assert len(difference.only_first_right) == min(MAX_LISTED, len(wrong))
    guesses = predicted(weak, rows)
    for each in difference.only_first_right:
        assert each.row in wrong
        assert (each.texts[0], each.label) == rows[each.row]
        assert each.predicted == guesses[each.row]
    sure = [each.probability for each in difference.only_first_right]
    assert sure == sorted(sure, reverse=True)


def test_classes_have_their_f1_and_their_own_test(run, weak, inputs):
    rows = rows_of(inputs / "test.csv")
    (difference,) = compare_runs([run, weak]).against_first
    labels, first, other = np.array([label for _, label in rows]), predicted(run, rows), predicted(weak, rows)
    for each in difference.classes:
        has = labels == each.label
        assert each.rows == has.sum()
        hits = (has & (first == each.label)).sum()
        assert each.f1_first == pytest.approx(2 * hits / (has.sum() + (first == each.label).sum()))
        both = [(guess == each.label) == has for guess in (first, other)]
        assert each.comparison == compare(*(one.astype(int) for one in both), np.ones(len(rows), int))


def test_runs_without_test_rows_are_compared_on_rows_that_both_held_out(inputs, tmp_path):
    runs = []
    for seed in (1, 2):
        run = tmp_path / str(seed)
        run_training(
            recipe_for(inputs, run, test=None, epochs=1, seed=seed, validation_size=120), console=quiet()
        )
        runs.append(run)
    found = compare_runs(runs)
    assert found.rows == "validation"
    assert 0 < found.num_rows < 120
    trained = {row for run in runs for row in _trained_rows(run)}
    listed = [
        each.row for each in found.against_first[0].only_first_right + found.against_first[0].only_other_right
    ]
    assert not trained & set(listed)
    assert found.num_rows == 240 - len(trained)


def _trained_rows(run):
    record = read_finished_record(run)
    return read_rows_again(run, record, recipe_of_run(run, record.recipe), advice="").train.row_of.tolist()


def test_three_runs_and_rows_in_memory(run, weak, inputs):
    rows = rows_of(inputs / "train.csv")[:50]
    found = leantune.compare([run, weak, run], rows, quiet=True)
    assert (found.rows, found.num_rows, len(found.against_first)) == ("data", 50, 2)
    assert found.against_first[1].comparison.difference == 0.0
    assert found.against_first[1].comparison.p_value == 1.0


def test_other_columns_are_those_of_the_rows(run, weak, tmp_path, inputs, capsys):
    content = (inputs / "test.csv").read_text().replace("text,label", "body,topic")
    (tmp_path / "other.csv").write_text(content)
    words = ["report", str(run), str(weak)]
    columns = ["--text-column", "body", "--label-column", "topic"]
    assert main([*words, "--data", str(tmp_path / "other.csv"), *columns]) == 0
    assert "60 rows" in capsys.readouterr().out
    assert main([*words, *columns]) == 2
    assert "give labelled rows with --data FILE" in capsys.readouterr().err


def test_several_labels(tmp_path):
    save_tiny_encoder(tmp_path / "encoder")
    write_label_sets(tmp_path / "train.csv", 120)
    write_label_sets(tmp_path / "test.csv", 60, seed=1)
    runs = [tmp_path / "one", tmp_path / "two"]
    for seed, run in enumerate(runs):
        recipe = recipe_for(tmp_path, run, problem_type="multi_label_classification", epochs=2, seed=seed)
        run_training(recipe, console=quiet())
    found = compare_runs(runs)
    rates = [each.metrics.accuracy for each in found.runs]
    assert found.against_first[0].comparison.difference == pytest.approx(rates[1] - rates[0])
    assert {each.label for each in found.against_first[0].classes} == {"a", "b", "c"}


def test_the_command_prints_and_writes_a_page(run, weak, inputs, tmp_path, capsys):
    page = tmp_path / "comparison.html"
    assert main(["report", str(run), str(weak), "--output", str(page)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "60 rows: the test rows of all runs" in said
    assert f"{run} is more accurate than {weak}" in said
    assert f"open it: {page}" in said
    shown = html.unescape(page.read_text("utf-8"))
    (difference,) = compare_runs([run, weak]).against_first
    assert shown.count("<table") == 2
    for each in (*difference.only_first_right, *difference.only_other_right):
        assert each.texts[0] in shown


def test_a_text_is_not_a_part_of_the_page(tmp_path, run, weak, inputs):
    rows = rows_of(inputs / "test.csv")
    tagged = [(f"{text} <script>alert(1)</script>", label) for text, label in rows]
    found = leantune.compare([run, weak], tagged, quiet=True)
    write_comparison(tmp_path / "page.html", found)
    assert "<script>alert" not in (tmp_path / "page.html").read_text("utf-8")
    assert "&lt;script&gt;alert" in (tmp_path / "page.html").read_text("utf-8")


def test_runs_that_cannot_be_compared(run, weak, inputs, tmp_path, capsys):
    write_rows(tmp_path / "train.csv", 120, labels=("a", "b", "d"))
    write_rows(tmp_path / "test.csv", 30, labels=("a", "b", "d"))
    (tmp_path / "encoder").symlink_to(inputs / "encoder")
    run_training(recipe_for(tmp_path, tmp_path / "run", epochs=1), console=quiet())
    with pytest.raises(UsageError, match=r"only .* has 'c'; only .* has 'd'"):
        compare_runs([run, tmp_path / "run"])
    with pytest.raises(UsageError, match="Got 1 instead"):
        leantune.compare([run])
    with pytest.raises(UsageError, match="can be read only once"):
        compare_runs([run, weak], "-")
    assert main(["report", str(run), "--output", str(tmp_path / "page.html")]) == 2
    assert "--output is for the comparison of two runs or more" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_runs_measured_on_other_files_need_rows(run, inputs, tmp_path):
    recipe = recipe_for(inputs, tmp_path / "run", epochs=1, data=str(tmp_path / "train.csv"), test=None)
    write_rows(tmp_path / "train.csv", 120, seed=5)
    run_training(recipe, console=quiet())
    with pytest.raises(
        UsageError, match="not measured on the same file; give labelled rows with --data FILE"
    ):
        compare_runs([run, tmp_path / "run"])


def test_runs_with_other_label_columns_are_refused(inputs, tmp_path):
    rows = rows_of(inputs / "train.csv")
    other = [label for _, label in rows[1:]] + ["a"]
    lines = [
        "text,label,other",
        *(f"{text},{label},{new}" for (text, label), new in zip(rows, other, strict=True)),
    ]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "encoder").symlink_to(inputs / "encoder")
    runs = [tmp_path / "label", tmp_path / "other"]
    for run in runs:
        recipe = recipe_for(tmp_path, run, test=str(tmp_path / "train.csv"), epochs=1, label_column=run.name)
        run_training(recipe, console=quiet())
    with pytest.raises(DataError, match="they use other label columns"):
        compare_runs(runs)
