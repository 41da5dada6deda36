"""What a newcomer mistypes, and what the answer hands over to type next."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from leantune.cli.commands import COMMANDS
from leantune.cli.main import main
from leantune.cli.parser import parse
from leantune.training.run import run_training
from tiny import quiet, recipe_for, save_tiny_encoder, write_rows


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    return desk_in(tmp_path_factory.mktemp("desk"))


def desk_in(folder: Path) -> Path:
    """A folder as a newcomer has it: rows in several forms, an encoder, a run."""
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
    for name, header, lines in (
        ("blank.csv", ["text", "label"], [*rows, (" ", "a"), ("", "b")]),
        ("one-class.csv", ["text", "label"], [(text, "a") for text, _ in rows]),
        ("prices.csv", ["text", "label"], [(text, f"{i}.5") for i, (text, _) in enumerate(rows)]),
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


TRAIN = "leantune train --model encoder --data"
FAST = "--init-rank 2 --epochs 1 --max-length 32"
MISTAKES = {
    "a mistyped command": ("leantune trian --data train.csv", None),
    "nothing but the command": ("leantune train", None),
    "rows in the place of the recipe": (
        "leantune train train.csv",
        "leantune plan --data train.csv --model encoder",
    ),
    "no encoder": ("leantune train --data train.csv", "leantune plan --data train.csv --model encoder"),
    "a file that does not exist": (f"{TRAIN} trian.csv", f"{TRAIN} train.csv {FAST} --output runs/a"),
    "a column of another name": (
        f"{TRAIN} reviews.csv",
        "leantune plan --model encoder --data reviews.csv --text-column review --label-column stars",
    ),
    "a column inside an object": (
        f"{TRAIN} nested.jsonl",
        "leantune plan --model encoder --data nested.jsonl --text-column data.text",
    ),
    "exchanged columns": (
        f"{TRAIN} train.csv --text-column label --label-column text",
        "leantune plan --model encoder --data train.csv --text-column text --label-column label",
    ),
    "blank texts": (f"{TRAIN} blank.csv", f"{TRAIN} blank.csv --skip-blank-rows {FAST} --output runs/b"),
    "an empty file": (f"{TRAIN} empty.csv", None),
    "lines of text to train on": (f"{TRAIN} texts.txt", None),
    "one class": (f"{TRAIN} one-class.csv", None),
    "numbers to predict": (f"{TRAIN} prices.csv", None),
    "test labels that training does not have": (
        f"{TRAIN} train.csv --test sports.csv",
        f"{TRAIN} train.csv --test sports.csv --unknown-test-labels skip {FAST} --output runs/c",
    ),
    "a limit that is too small": (
        f"{TRAIN} train.csv --budget 20",
        "leantune plan --model encoder --data train.csv --budget 68",
    ),
    "a mistyped flag": (f"{TRAIN} train.csv --lerning-rate 1", None),
    "a mistyped key": (f"{TRAIN} train.csv epoch=3", None),
    "a word for a number": (f"{TRAIN} train.csv --epochs three", None),
    "a mistyped recipe": ("leantune train quickstrat", None),
    "an asset by its bare name": ("leantune train --data train.csv --model minilm", None),
    "a mistyped asset": ("leantune train --data train.csv --model asset:minilmm", None),
    "a file for an encoder": ("leantune train --data train.csv --model train.csv", None),
    "an output that holds a run": (
        f"{TRAIN} train.csv --output runs/mine",
        "leantune train --resume runs/mine",
    ),
    "a folder without a run to resume": ("leantune train --resume runs", None),
    "an encoder to predict with": (
        "leantune predict encoder new.csv",
        f"{TRAIN} train.csv {FAST} --output runs/d",
    ),
    "a mistyped file to predict": (
        "leantune predict runs/mine nwe.csv",
        "leantune predict runs/mine --text nwe.csv",
    ),
    "rows without the column": (
        "leantune predict runs/mine reviews.csv",
        "leantune predict runs/mine reviews.csv --text-column review",
    ),
    "nothing to predict": ("leantune predict runs/mine", "leantune predict runs/mine new.csv"),
    "a text and a file": ("leantune predict runs/mine new.csv --text word1", None),
    "a flag of a file with a text": (
        "leantune predict runs/mine 'two words' --probabilities",
        "leantune predict runs/mine 'two words'",
    ),
    "an output that exists": (
        "leantune predict runs/mine new.csv --output train.csv",
        "leantune predict runs/mine new.csv --output train.csv --overwrite",
    ),
    "rows without labels to measure": ("leantune evaluate runs/mine unlabelled.csv", None),
    "the folder of the runs": ("leantune report runs", "leantune report runs/mine"),
    "a precision of 95": (
        "leantune abstain runs/mine --precision 95",
        "leantune abstain runs/mine --precision 95%",
    ),
    "an answer below a threshold before one was chosen": (
        "leantune predict runs/mine new.csv --abstain",
        "leantune abstain runs/mine --precision 95%",
    ),
    "neither a text nor the errors to explain": ("leantune explain runs/mine", None),
    "a run that does not exist to serve": ("leantune serve runs/none", None),
    "a format that does not exist": ("leantune export runs/mine --format loar", None),
    "an export that was not made": (
        "leantune evaluate runs/mine test.csv --engine openvino",
        None,
    ),
}
"""What a newcomer types, and a command that the answer leads to, if it leads to one."""
TRANSCRIPT = Path(__file__).with_name("mistakes.txt")
UPDATE = "python tests/test_newcomer.py"
PLACEHOLDER = re.compile(r"\b(RUN|FOLDER|FILE)\b")


def words_of(command: str) -> list[str]:
    return shlex.split(command)[1:]


def answer_to(command: str, folder: Path) -> str:
    """The exit code of a command and the last line that it prints on standard error."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.chdir(folder)
        try:
            code: object = main(words_of(command))
        except SystemExit as end:
            code = end.code
    return f"[{code}] {stderr.getvalue().strip().splitlines()[-1]}".replace(str(folder), "DESK")


def transcript_of(folder: Path) -> str:
    """All mistakes with their answers."""
    blocks = [
        f"# {name}\n$ {command}\n{answer_to(command, folder)}\n" for name, (command, _) in MISTAKES.items()
    ]
    return "\n".join(blocks)


@pytest.mark.parametrize("name", MISTAKES)
def test_the_answer_is_that_of_the_transcript_and_leads_on(desk, tmp_path, monkeypatch, name):
    command, next_command = MISTAKES[name]
    folder = shutil.copytree(desk, tmp_path / "desk")
    known = dict(
        block.split("\n", 1) for block in TRANSCRIPT.read_text("utf-8").removeprefix("# ").split("\n\n# ")
    )
    answer = answer_to(command, folder)
    # argparse quotes choices, or not, by the version of Python
    expected, found = (each.replace("'", "") for each in (known[name].strip(), f"$ {command}\n{answer}"))
    assert found == expected, f"look at it, then run: {UPDATE}"
    assert re.match(r"\[[2-5]\] leantune: error: ", answer)
    for offered in re.findall(
        rf"leantune (?:{'|'.join(COMMANDS)}) [^;:,()]+", answer.partition("error: ")[2]
    ):
        if "--help" not in offered:
            parse(words_of(offered))  # exits if it is not a command
    if next_command is not None:
        monkeypatch.chdir(folder)
        assert main(words_of(next_command)) == 0


def test_a_hub_name_that_cannot_be_fetched_is_answered_with_what_to_give(at_desk, capsys):
    assert main(["train", "--offline", "--data", "train.csv", "--model", "o/b"]) == 2
    assert "give a folder" in capsys.readouterr().err


def test_the_transcript_has_every_mistake_once():
    names = [
        line.removeprefix("# ")
        for line in TRANSCRIPT.read_text("utf-8").splitlines()
        if line.startswith("# ")
    ]
    assert names == list(MISTAKES)


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


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        TRANSCRIPT.write_text(transcript_of(desk_in(Path(temporary))), "utf-8")
