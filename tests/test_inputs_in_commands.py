"""Training, evaluation and prediction take every kind of input alike, and say how they read it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import openpyxl
import pytest

from leantune.cli.main import main
from leantune.errors import UsageError
from leantune.training.before.folder import check_inputs_stay
from tiny import recipe_for


def rows_in(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


def write_folder(folder: Path, rows: list[tuple[str, str]]) -> None:
    for number, (text, label) in enumerate(rows):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number:04}.txt").write_text(text + "\n")


def evaluation(capsys, run: Path, *words: str) -> dict:
    assert main(["evaluate", str(run), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_kind_of_file_gives_the_same_evaluation(run, inputs, tmp_path, capsys):
    rows = rows_in(inputs / "test.csv")
    write_folder(tmp_path / "folder" / "test", rows)
    write_folder(tmp_path / "folder" / "train", rows[:9])
    (tmp_path / "a.json").write_text(json.dumps([{"in": {"text": t}, "label": y} for t, y in rows], indent=1))
    (tmp_path / "b.csv").write_text("text;label\n" + "".join(f"{t};{y}\n" for t, y in rows[:20]))
    (tmp_path / "b.jsonl").write_text(
        "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows[20:])
    )
    workbook = openpyxl.Workbook()
    for row in [("text", "label"), *rows]:
        workbook.active.append(row)
    workbook.save(tmp_path / "c.xlsx")
    expected = evaluation(capsys, run, "--data", str(inputs / "test.csv"))
    for words in (["folder"], ["a.json", "--text-column", "in.text"], ["b.*"], ["c.xlsx"]):
        assert evaluation(capsys, run, "--data", str(tmp_path / words[0]), *words[1:])[
            "accuracy"
        ] == pytest.approx(expected["accuracy"])
    main(["evaluate", str(run), "--data", str(tmp_path / "b.*")])
    assert f"{tmp_path / 'b.csv'}: columns separated by semicolons\n" in capsys.readouterr().err


def test_a_prediction_has_a_row_for_every_line_of_a_text_file(run, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("word1 word2\n\nword3, word4\n\n")
    words = ["predict", str(run), "--input", str(tmp_path / "a.txt"), "--output", str(tmp_path / "p.csv")]
    assert main(words) == 0
    assert [line.split(",")[0] for line in (tmp_path / "p.csv").read_text().splitlines()] == [
        "id",
        "0",
        "1",
        "2",
    ]
    said = capsys.readouterr().err
    assert f"{tmp_path / 'a.txt'}: no header, read as one text a line\n" in said
    assert "1 without text" in said


def test_a_pattern_does_not_read_what_is_written(run, tmp_path, capsys):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("text\nword1\n")
    words = ["--input", str(tmp_path / "*.csv"), "--output", str(tmp_path / "b.csv"), "--overwrite"]
    assert main(["predict", str(run), *words]) == 2
    assert "is also the input" in capsys.readouterr().err
    assert (tmp_path / "b.csv").read_text() == "text\nword1\n"


def test_a_pattern_of_files_that_a_new_run_replaces_is_refused(inputs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "pseudo_labels.csv").write_text("text,label\n")
    recipe = recipe_for(inputs, tmp_path / "run", data=str(tmp_path / "run" / "*.csv"))
    with pytest.raises(UsageError, match="where a new run replaces it"):
        check_inputs_stay(tmp_path / "run", recipe)


def test_a_folder_for_each_class_is_trained_on(inputs, tmp_path, capsys):
    write_folder(tmp_path / "texts" / "train", rows_in(inputs / "train.csv"))
    write_folder(tmp_path / "texts" / "test", rows_in(inputs / "test.csv"))
    texts = tmp_path / "texts"
    settings = ["init_r=2", "target_r=1", "epochs=1", "batch_size=16", "max_length=16", "precision=fp32"]
    words = [f"data={texts}", f"test={texts}", f"model={inputs / 'encoder'}", f"output={tmp_path / 'run'}"]
    assert main(["train", *words, *settings]) == 0
    said = capsys.readouterr().err
    assert f"{texts}: 240 texts of the classes 'a', 'b', 'c'" in said
    assert f"{texts}: 60 texts of the classes 'a', 'b', 'c'" in said
    assert "test: 60 rows" in said
