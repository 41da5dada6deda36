"""The examples run and do what they say."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from pathlib import Path

import pytest

MINIMAL = Path(__file__).parents[1] / "examples" / "minimal.py"
MOST_LINES = 150
"""It is there to be read in one sitting."""


@pytest.fixture(scope="module")
def minimal():
    spec = importlib.util.spec_from_file_location("minimal", MINIMAL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed(minimal) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        minimal.main()
    return out.getvalue()


@pytest.fixture(scope="module")
def out(minimal) -> str:
    return printed(minimal)


def test_the_minimal_example_learns_within_its_budget(minimal, out):
    before, after = (float(found) for found in re.findall(r"test accuracy ([\d.]+)", out))
    assert before < 0.6
    assert after > 0.85
    initial, final = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) trainable parameters", out))
    assert final < initial <= minimal.LIMIT


def test_the_minimal_example_moves_ranks_by_importance(out):
    live = [int(found) for found in re.findall(r"(\d+) triplets live", out)]
    assert live == sorted(live, reverse=True)
    assert live[0] > live[-1]
    ranks = [int(found) for found in re.findall(r": rank (\d+)", out)]
    assert sum(ranks) == live[-1]
    assert len(set(ranks)) > 1, "every layer kept the same"


def test_the_minimal_example_prints_the_same_twice(minimal, out):
    assert printed(minimal) == out


def test_the_minimal_example_is_short_and_made_of_the_pieces_of_the_package():
    text = MINIMAL.read_text("utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    for room in ("adalora", "packing", "model.encoder"):
        assert f"from leantune.{room}" in text
    assert "kernels" not in "".join(re.findall(r"^from .*$", text, re.MULTILINE))
