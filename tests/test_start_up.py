"""Prediction needs few packages, and importing leantune none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = {"transformers", "datasets", "sklearn", "pandas", "scipy", "peft", "torch._dynamo", "sympy"}
OF_TRAINING_AND_REPORTS = {"huggingface_hub", "jinja2", "filelock"}

PREDICT = """
import sys
from leantune.cli.main import main
assert main(sys.argv[1:]) == 0
print(*sorted(sys.modules))
"""


def modules_after(*arguments: str, code: str = PREDICT) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("name", ["new.csv", "new.jsonl"])
def test_prediction_imports_neither_transformers_nor_other_heavy_packages(run, tmp_path, name):
    content = {"new.csv": "text\nword1 word2\n", "new.jsonl": '{"text": "word1 word2"}\n'}[name]
    (tmp_path / name).write_text(content)
    arguments = ("--input", str(tmp_path / name), "--output", str(tmp_path / "out.csv"))
    found = modules_after("predict", str(run), *arguments)
    assert {"torch", "tokenizers", "safetensors"} <= found
    assert not (HEAVY | OF_TRAINING_AND_REPORTS) & found


def test_importing_leantune_imports_nothing_heavy():
    found = modules_after(code="import sys, leantune; print(*sorted(sys.modules))")
    assert not (HEAVY | {"torch", "numpy", "pyarrow"}) & found


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_a_tokenizer_read_alone_gives_what_transformers_gives(run, model_type, tmp_path):
    from leantune.data.tokens.tokenization import Tokenizer
    from tiny import save_tiny_encoder

    folder = save_tiny_encoder(tmp_path / "encoder", model_type)
    theirs = Tokenizer.pretrained(str(folder), 9)
    theirs.save(tmp_path / "saved")
    ours = Tokenizer.of_run(tmp_path / "saved", 9)
    texts = ["", "word1", "word2 nothing-like-it " * 9]
    assert ours.fingerprint == theirs.fingerprint
    for pairs in (None, texts[::-1]):
        a, b = ours.encode(texts, pairs), theirs.encode(texts, pairs)
        assert [ids.tolist() for ids in a.input_ids] == [ids.tolist() for ids in b.input_ids]
        assert a.second_starts.tolist() == b.second_starts.tolist()
