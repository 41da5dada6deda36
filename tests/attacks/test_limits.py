"""Numbers and texts that are too large, streams that are full, and Ctrl-C before anything was imported."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leantune.adalora.budget import Target, plan_parameters
from leantune.cli.main import main
from leantune.data.tokens import tokenization as tokens
from leantune.data.tokens.tokenization import Tokenizer
from leantune.errors import UsageError
from leantune.training.warnings import rank_lines
from tiny import save_tiny_encoder

MEMORY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
from leantune.cli.__main__ import main
code = main()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
sys.exit(code)
"""


def start(*arguments: str, code: str = MEMORY, **options) -> subprocess.CompletedProcess[str]:
    """In a fresh interpreter: its memory is its own, and its imports."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, **options)


@pytest.mark.parametrize("limit", ["9e15", "9007199254740992", "999999999999999999"])
def test_a_limit_that_no_rank_can_use_is_planned_in_little_memory(inputs, limit):
    done = start("plan", f"data={inputs / 'train.csv'}", f"model={inputs / 'encoder'}",
                 f"max_trainable_params={limit}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "init_rank is 32, the rank of the largest target: " in done.stdout
    assert int(done.stderr.split()[-1]) < 1500, "MiB"


def test_the_rank_is_that_of_the_largest_target_at_most():
    targets = [Target("a", 8, 32), Target("b", 16, 16)]
    plan = plan_parameters(targets, head=10, base=1000, limit=10**17)
    assert plan.init_rank == 16
    assert list(rank_lines(plan))
    assert not list(rank_lines(plan_parameters(targets, head=10, base=1000, limit=500)))
    with pytest.raises(UsageError, match="init_rank must be at most 16"):
        plan_parameters(targets, head=10, base=1000, init_rank=17)
    with pytest.raises(UsageError, match="target_rank must be at most 16"):
        plan_parameters(targets, head=10, base=1000, target_rank=10**12)


@pytest.mark.parametrize("digits", [300, 4000, 5000])
@pytest.mark.parametrize("key", ["epochs", "max_trainable_params", "seed", "alpha", "max_length", "warmup"])
def test_a_number_of_many_digits_is_refused_in_a_short_line(capsys, key, digits):
    assert main(["plan", "data=x.csv", "model=m", f"{key}={'9' * digits}"]) == 2
    said = capsys.readouterr().err
    assert key in said or "no such folder" in said or "model" in said
    assert len(said) < 600


@pytest.mark.parametrize("variable", ["LEANTUNE_TOKEN_CACHE_MIB", "WORLD_SIZE"])
@pytest.mark.parametrize("value", ["9" * 5000, "9" * 4000, "x" * 100_000, "-1", "1.5"])
def test_a_long_value_in_the_environment_is_a_short_line(
    inputs, tmp_path, monkeypatch, capsys, variable, value
):
    monkeypatch.setenv(variable, value)
    words = [f"data={inputs / 'train.csv'}", f"model={inputs / 'encoder'}", f"output={tmp_path / 'run'}"]
    assert main(["train", *words]) == 2
    said = capsys.readouterr().err
    assert f"{variable} must be a whole number" in said
    assert len(said) < 300


@pytest.mark.parametrize(
    ("arguments", "redirection", "code"),
    [
        ("plan no-such-recipe", "2>/dev/full", 2),
        ("report /no/such/run", "2>/dev/full", 2),
        ("report /no/such/run", "2>&-", 2),
        ("predict /no/such/run --input x.csv", "2>/dev/full >/dev/full", 2),
    ],
)
def test_an_error_that_cannot_be_said_keeps_its_code(arguments, redirection, code):
    command = f"{sys.executable} -m leantune {arguments} {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_a_log_that_is_full_does_not_stop_the_work(run, inputs, tmp_path, command):
    output = tmp_path / "p.csv"
    words = ["predict", run, "--input", inputs / "test.csv", "--output", output]
    with open("/dev/full", "w") as full:
        assert command.run(*words, stderr=full).returncode == 0
    assert len(output.read_text().splitlines()) == 61


def test_a_result_that_is_full_is_a_full_disk(run, inputs, command):
    with open("/dev/full", "w") as full:
        done = command.run("predict", run, "--input", inputs / "test.csv", stdout=full)
    assert done.returncode == 6
    assert done.stderr.startswith("leantune: error: no space left")
    assert len(done.stderr.splitlines()) == 1


INTERRUPTED = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
from leantune.cli.__main__ import main
sys.argv[1:] = ["predict", "/no/such/run", "--input", "x.csv"]
sys.exit(main())
"""


@pytest.mark.parametrize(
    "name",
    ["leantune.cli.main", "yaml", "leantune.config", "torch", "leantune.inference.engines.choose"],
)
def test_ctrl_c_within_an_import_is_one_line(name):
    done = start(code=INTERRUPTED.format(name=name))
    assert (done.returncode, done.stderr) == (130, "leantune: error: interrupted\n")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return Tokenizer.pretrained(str(save_tiny_encoder(tmp_path_factory.mktemp("long") / "encoder")), 32)


TEXTS = {
    "words": " ".join(f"word{i % 97}" for i in range(4000)),
    "one word without end": "x" * 30_000,
    "blanks": " " * 20_000 + "word1 word2" + "\n" * 20_000,
    "words and one without end": "word1 word2 " + "y" * 30_000 + " word3" * 3000,
    "few words far apart": (" " * 3000).join(f"word{i}" for i in range(20)),
    "without a space": ",".join(f"word{i % 97}" for i in range(6000)),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_long_text_is_cut_to_the_same_tokens(tokenizer, monkeypatch, name, side):
    monkeypatch.setattr(tokenizer, "settings", replace(tokenizer.settings, truncation_side=side))
    tokenizer._truncating.enable_truncation(32, direction=side)
    texts = [TEXTS[name], "word5", TEXTS[name][:700]]
    whole = tokenizer.encode(texts)
    monkeypatch.setattr(tokens, "LONG_CHARACTERS", 600)
    monkeypatch.setattr(tokens, "CUT_MARGIN", 50)
    short = tokenizer.encode(texts)
    assert [ids.tolist() for ids in short.input_ids] == [ids.tolist() for ids in whole.input_ids]
    assert short.second_starts.tolist() == whole.second_starts.tolist()
    if name not in ("without a space", "words and one without end"):  # of which words are counted in pieces
        assert short.full_lengths.tolist() == whole.full_lengths.tolist()
    assert np.abs(short.full_lengths - whole.full_lengths).max() <= len(TEXTS[name]) / 600 * 2


def test_a_text_of_fifteen_megabytes_takes_little_memory(run, tmp_path):
    rows = Path(tmp_path / "long.csv")
    rows.write_text("text\n" + "word1 " * 2_500_000 + "\nword2\n")
    done = start("predict", str(run), "--input", str(rows), "--output", str(tmp_path / "p.csv"),
                 env={**os.environ, "LEANTUNE_NATIVE": "0"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 rows" in done.stderr
    assert "1 truncated" in done.stderr
    assert int(done.stderr.split()[-1]) < 1400, "MiB"
