"""What a newcomer mistypes, and what the answer hands over to type next."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import pytest

from leantune.cli.main import main
from leantune.training.run import run_training
from tiny import quiet, recipe_for, save_tiny_encoder, write_rows


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder as a newcomer has it: rows in several forms, an encoder, a run."""
    folder = tmp_path_factory.mktemp("desk")
    save_tiny_encoder(folder / "encoder")
    write_rows(folder / "train.csv", 240)
    write_rows(folder / "test.csv", 60, seed=1)
    rows = [
        (row["text"], row["label"])
        for row in csv.DictReader((folder / "train.csv").read_text("utf-8").splitlines())
    ]
    for name, header, lines in (
        ("reviews.csv", ["review", "stars"], rows),
        ("unlabelled.csv", ["text"], [[text] for text, _ in rows]),
        ("new.csv", ["text"], [[text] for text, _ in rows[:20]]),
        (
            "sports.csv",
            ["text", "label"],
            [(text, {"a": "sports"}.get(label, label)) for text, label in rows] + [("word1 word2", "sprots")],
        ),
    ):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *lines])
    nested = [json.dumps({"data": {"text": text}, "label": label}) for text, label in rows]
    (folder / "nested.jsonl").write_text("\n".join(nested), "utf-8")
    (folder / "texts.txt").write_text("\n".join(text for text, _ in rows[:20]), "utf-8")
    (folder / "empty.csv").write_bytes(b"")
    run_training(recipe_for(folder, folder / "runs" / "mine", epochs=1), console=quiet())
    return folder


@pytest.fixture
def at_desk(desk, monkeypatch) -> Path:
    monkeypatch.chdir(desk)
    return desk


TRAIN = ("train", "--model", "encoder", "--data")
MISTAKES = {
    "a column of another name": ((*TRAIN, "reviews.csv"), 3, "--text-column review"),
    "a column inside an object": ((*TRAIN, "nested.jsonl"), 3, "--text-column data"),
    "a file that is not there": ((*TRAIN, "trian.csv"), 2, "did you mean 'train.csv'?"),
    "an empty file": ((*TRAIN, "empty.csv"), 3, "expected a header and rows"),
    "lines of text to train on": ((*TRAIN, "texts.txt"), 3, "a folder of .txt files for each class"),
    "a budget that is too small": ((*TRAIN, "train.csv", "--max-trainable-params", "20"), 2, "the smallest limit"),
    "a hub name offline": (("train", "--offline", "--data", "train.csv", "--model", "o/b"), 2, "give a folder"),
    "an asset by its bare name": (("train", "--data", "train.csv", "--model", "minilm"), 2, "asset:minilm"),
    "a mistyped asset": (("train", "--data", "train.csv", "--model", "asset:minilmm"), 2, "did you mean 'minilm'?"),
    "a file for a model": (("train", "--data", "train.csv", "--model", "train.csv"), 2, "expected a folder"),
    "an output that holds a run": ((*TRAIN, "train.csv", "--output", "runs/mine"), 2, "--overwrite to replace it"),
    "a mistyped flag": ((*TRAIN, "train.csv", "--lerning-rate", "1"), 2, "did you mean '--learning-rate'?"),
    "a mistyped command": (("trian", "--data", "train.csv"), 2, "did you mean 'train'?"),
    "a mistyped key": ((*TRAIN, "train.csv", "epoch=3"), 2, "did you mean epochs?"),
    "a word for a number": ((*TRAIN, "train.csv", "--epochs", "three"), 2, "epochs must be a whole number"),
    "a mistyped recipe": (("train", "quickstrat"), 2, "did you mean quickstart?"),
    "nothing but the command": (("train",), 2, "--data train.csv --model asset:minilm"),
    "an encoder to predict with": (("predict", "encoder", "new.csv"), 5, "train --data train.csv --model encoder"),
    "a mistyped file to predict": (("predict", "runs/mine", "nwe.csv"), 2, "did you mean 'new.csv'?"),
    "rows without the column": (("predict", "runs/mine", "reviews.csv"), 3, "--text-column review"),
    "nothing to predict": (("predict", "runs/mine"), 2, "leantune predict runs/mine rows.csv"),
    "rows without labels to measure": (("evaluate", "runs/mine", "unlabelled.csv"), 3, "--label-column"),
    "the folder of the runs": (("report", "runs"), 2, "runs/mine"),
    "a flag of a file with a text": (("predict", "runs/mine", "two words", "--probabilities"), 2, "leave it out"),
    "a format that is none": (("export", "runs/mine", "--format", "loar"), 2, "lora"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_the_answer_says_what_to_type(at_desk, capsys, name):
    words, code, answer = MISTAKES[name]
    try:
        found = main(list(words))
    except SystemExit as end:
        found = end.code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert found == code, error
    assert error.startswith("leantune: error: ")
    assert answer in error


WORKS = {
    "an adapter": ("predict", "runs/mine/adapter", "new.csv"),
    "a merged model": ("predict", "runs/mine/merged", "new.csv"),
    "lines of text": ("predict", "runs/mine", "texts.txt"),
    "rows by flag": ("predict", "runs/mine", "--input", "new.csv"),
    "rows by position": ("evaluate", "runs/mine", "test.csv"),
    "a huge budget": ("plan", "--data", "train.csv", "--model", "encoder", "--max-trainable-params", "100M"),
    "a budget in thousands": (
        "plan",
        "--data",
        "train.csv",
        "--model",
        "encoder",
        "--max-trainable-params",
        "1.5k",
    ),
    "a path into objects": (
        "plan",
        "--data",
        "nested.jsonl",
        "--model",
        "encoder",
        "--text-column",
        "data.text",
    ),
}


@pytest.mark.parametrize("name", WORKS)
def test_what_one_would_try_works(at_desk, capsys, name):
    assert main(list(WORKS[name])) == 0
    assert capsys.readouterr().out


def test_one_text_gets_its_most_probable_classes(at_desk, capsys):
    assert main(["predict", "runs/mine", "word1 word2 word3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shares = [float(line.split()[1]) for line in lines]
    assert len(lines) == 3
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.2)


def test_a_class_that_may_be_mistyped_is_named(at_desk, capsys, tmp_path):
    words = ["--model", "encoder", "--init-rank", "2", "--epochs", "1", "--max-length", "32"]
    assert main(["train", "--data", "sports.csv", *words, "--output", str(tmp_path / "run")]) == 0
    assert "'sprots' (1 rows) and 'sports'" in capsys.readouterr().err


def test_quiet_prints_the_result_alone(at_desk, capsys):
    assert main(["predict", "runs/mine", "new.csv", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_help_shows_what_a_user_sets_and_help_all_the_rest(capsys):
    pages = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as end:
            main(["train", flag])
        assert end.value.code == 0
        pages[flag] = capsys.readouterr().out
    assert "--orth-reg-weight" not in pages["--help"]
    assert "--orth-reg-weight" in pages["--help-all"]
    assert len(pages["--help"].splitlines()) <= 66
    for page in pages.values():
        assert "examples:" in page
        assert max(map(len, page.splitlines())) <= 100


def test_a_shell_can_complete_the_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", "bash"])
    assert end.value.code == 0
    script = capsys.readouterr().out
    assert "--max-trainable-params" in script
    assert os.linesep in script


def test_a_log_holds_what_the_terminal_showed(at_desk, capsys, tmp_path):
    words = ["--model", "encoder", "--init-rank", "2", "--epochs", "1", "--max-length", "32", "--quiet"]
    run = tmp_path / "run"
    assert main(["train", "--data", "train.csv", *words, "--output", str(run)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "accuracy" in printed.out
    log = (run / "train.log").read_text("utf-8").splitlines()
    assert any("train: 216 rows" in line for line in log), "from before the folder was there"
    assert any("step 7: accuracy" in line for line in log)
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in log)
