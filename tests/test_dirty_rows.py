"""Files as people have them: blank texts, blanks around labels, labels that training never had, exchanged columns."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from leantune.cli.main import main
from leantune.inference.load import load_run
from tiny import WORDS, words_of, write_rows

openpyxl = pytest.importorskip("openpyxl")


def rows_in(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def write(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(scope="module")
def dirty(tmp_path_factory, inputs) -> Path:
    """Rows of which the 6th, 16th, ... have a blank text, one of them without a label, and blanks around labels."""
    folder = tmp_path_factory.mktemp("dirty")
    shutil.copytree(inputs / "encoder", folder / "encoder")
    header, *rows = rows_in(write_rows(folder / "clean.csv", 160))
    for i in range(5, 160, 10):
        rows[i][0] = ["", "  ", "\t"][i % 3]
    rows[5][1] = ""
    rows[0][1] += " "
    rows[1][1] = " " + rows[1][1]
    write(folder / "train.csv", [header, *rows])
    _, *tests = rows_in(write_rows(folder / "known.csv", 40, seed=1))
    tests[3][1], tests[4][1], tests[5][1] = "d", "d", "aa"
    write(folder / "test.csv", [header, *tests])
    return folder


def run_of(folder: Path, output: Path, capsys, *more: str) -> tuple[int, str]:
    keys = {"data": folder / "train.csv", "model": folder / "encoder", "test": None}
    words = [word for word in words_of(folder, output, **keys) if not word.startswith("test=")]
    code = main(["train", *words, *more])
    return code, capsys.readouterr().err


def test_blank_texts_stop_a_run_once_with_their_number_and_the_first_rows(dirty, tmp_path, capsys):
    code, error = run_of(dirty, tmp_path / "run", capsys)
    assert code == 3
    assert "train.csv:7:text: 16 blank texts, expected words" in error
    assert "--skip-blank-rows" in error
    assert error.rstrip().endswith("Rows: 7, 17, 27, 37, 47, ...")


def test_skipped_rows_are_counted_and_rows_keep_their_numbers(dirty, tmp_path, capsys):
    code, error = run_of(dirty, tmp_path / "run", capsys, "--skip-blank-rows", "--validation-size", "40")
    assert code == 0, error
    assert "left out 16 rows without text" in error
    assert "removed blanks around 2 labels" in error
    record = json.loads((tmp_path / "run" / "record.json").read_text("utf-8"))
    assert record["data"]["train"]["blank_rows"] == 16
    assert record["data"]["train"]["rows"] + record["data"]["validation"]["rows"] == 144
    assert record["labels"]["names"] == ["a", "b", "c"]
    rows = rows_in(dirty / "train.csv")[1:]
    checked = [
        json.loads(line)
        for line in (tmp_path / "run" / "rows_to_check.jsonl").read_text("utf-8").splitlines()
    ]
    shown = [each for each in checked if "row" in each]
    assert shown
    assert all(rows[each["row"]][0].startswith(each["text"][:20]) for each in shown if each.get("text"))

    other = write(tmp_path / "new.csv", [["text"], [WORDS[0]], [""], [WORDS[9]]])
    assert main(["predict", str(tmp_path / "run"), str(other), "--output", str(tmp_path / "out.csv")]) == 0
    found = rows_in(tmp_path / "out.csv")[1:]
    assert [row[0] for row in found] == ["0", "1", "2"]
    assert found[1][1:] == ["", ""]
    assert found[0][1] in "abc"
    assert found[2][1] in "abc"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_prediction_leaves_a_blank_text_without_a_label_only_when_asked(run, tmp_path, capsys, suffix):
    rows = tmp_path / "new.jsonl"
    rows.write_text("\n".join(json.dumps({"text": text}) for text in (WORDS[0], " ", None)), "utf-8")
    words = ["predict", str(run), str(rows), "--output", str(tmp_path / f"out{suffix}")]
    assert main(words) == 3  # a null is no text
    assert "null, expected a text" in capsys.readouterr().err
    assert main([*words, "--skip-blank-rows"]) == 0
    import pyarrow.parquet as pq

    path = tmp_path / f"out{suffix}"
    if suffix == ".parquet":
        labels = pq.read_table(path).column("label").to_pylist()
    elif suffix == ".jsonl":
        labels = [json.loads(line)["label"] for line in path.read_text("utf-8").splitlines()]
    else:
        labels = [row[1] for row in rows_in(path)[1:]]
    assert labels[0]
    assert labels[1:] == ["", ""]
    rows.write_text("\n".join(json.dumps({"text": text}) for text in (WORDS[0], " ")), "utf-8")
    assert main([*words, "--overwrite"]) == 0
    assert load_run(run).predict([" "]) == load_run(run).predict([""])


def test_labels_that_training_never_had_are_listed_with_their_numbers_or_left_out(dirty, tmp_path, capsys):
    test = f"test={dirty / 'test.csv'}"
    code, error = run_of(dirty, tmp_path / "run", capsys, "blank_rows=skip", test)
    assert code == 3
    assert (
        "test.csv:5:label: 2 labels that no training row has: 'd' (2 rows), 'aa' (1 rows), near 'a'" in error
    )
    assert "--unknown-test-labels skip" in error
    code, error = run_of(
        dirty, tmp_path / "run", capsys, "blank_rows=skip", test, "--unknown-test-labels", "skip"
    )
    assert code == 0, error
    assert "test: 37 rows" in error
    assert "left out 3 rows with a label that training does not have" in error
    record = json.loads((tmp_path / "run" / "record.json").read_text("utf-8"))
    assert record["data"]["test"]["unknown_label_rows"] == 3


def test_rows_with_a_blank_text_are_no_part_of_an_evaluation_that_skips_them(dirty, run, capsys):
    rows = str(dirty / "train.csv")
    assert main(["evaluate", str(run), rows]) == 3
    assert "16 blank texts" in capsys.readouterr().err
    assert main(["evaluate", str(run), rows, "--skip-blank-rows", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_rows"] == 144


def test_labels_that_differ_by_case_alone_are_shown_with_their_numbers(dirty, tmp_path, capsys):
    header, *rows = rows_in(dirty / "clean.csv")
    for row in rows[:3]:
        row[1] = "A"
    write(tmp_path / "train.csv", [header, *rows])
    (tmp_path / "encoder").symlink_to(dirty / "encoder")
    code, error = run_of(tmp_path, tmp_path / "run", capsys)
    assert code == 0
    assert "classes that look the same: 'A' (" in error
    assert "'a' (" in error
    assert "U+" not in error


def test_exchanged_columns_are_called_exchanged(dirty, tmp_path, capsys):
    _, *rows = rows_in(dirty / "clean.csv")
    rows = [[label, f"{text} {WORDS[0]} {WORDS[1]} {WORDS[2]}"] for text, label in rows]
    write(tmp_path / "train.csv", [["text", "label"], *rows])
    (tmp_path / "encoder").symlink_to(dirty / "encoder")
    code, error = run_of(tmp_path, tmp_path / "run", capsys)
    assert code == 3
    assert "text and label columns look exchanged; use --text-column label --label-column text" in error


def test_a_column_inside_an_object_and_one_on_another_sheet_are_offered(dirty, tmp_path, capsys):
    nested = [json.dumps({"id": 1, "review": {"text": "a", "stars": 1}, "label": "x"})] * 2
    (tmp_path / "nested.jsonl").write_text("\n".join(nested), "utf-8")
    words = ["train", "--model", str(dirty / "encoder"), "--data"]
    assert main([*words, str(tmp_path / "nested.jsonl")]) == 3
    assert "--text-column review.text" in capsys.readouterr().err
    book = openpyxl.Workbook()
    book.active.append(["notes", "author"])
    book.active.append(["seen", "me"])
    book.create_sheet("Rows").append(["text", "label"])
    book.save(tmp_path / "rows.xlsx")
    assert main([*words, str(tmp_path / "rows.xlsx")]) == 3
    assert "Sheet 'Rows' has it, but only the first sheet is read" in capsys.readouterr().err


def test_every_command_that_reads_rows_says_how_it_read_them(dirty, tmp_path, capsys):
    _, *rows = rows_in(dirty / "test.csv")
    lines = ["text;label", *(f"{text} caf\xe9;{label}" for text, label in rows)]
    (tmp_path / "rows.csv").write_bytes("\n".join(lines).encode("latin-1"))
    assert main(["plan", "--data", str(tmp_path / "rows.csv"), "--model", str(dirty / "encoder")]) == 0
    said = capsys.readouterr().err
    assert "rows.csv: not UTF-8, read as cp1252" in said
    assert "rows.csv: columns separated by semicolons" in said
