"""Whatever the bytes, reading a pickle gives a table or one of leantune's errors."""

from __future__ import annotations

import os
import pickle
import pickletools
import random
import runpy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leantune.data.text.read import Columns, open_examples
from leantune.data.text.readers.content import open_content
from leantune.data.text.readers.pickles import open_pickle
from leantune.errors import LeantuneError

MADE = runpy.run_path(str(Path(__file__).with_name("make_fixtures.py")))
SMALL = [case for case in [*MADE["plain"](), *MADE["library_cases"]()] if case[0] != "many-rows"]
BENIGN = [pickle.dumps(value, protocol) for _, value, _ in SMALL for protocol in range(6)]
OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
# LEANTUNE_FUZZ=100 tries a hundred times as many inputs.
EFFORT = int(os.environ.get("LEANTUNE_FUZZ", "1"))


def outcome(path: Path, content: bytes) -> str:
    """Read every cell of a pickle; any error but LeantuneError escapes."""
    path.write_bytes(content)
    try:
        table = open_pickle(open_content(str(path)), "train")
        for batch in table.batches(table.columns, 2):
            assert all(len(cells) == len(batch.rows) for cells in batch.cells.values())
    except LeantuneError as error:
        return checked(error)
    return "read"


def checked(error: LeantuneError) -> str:
    assert "\n" not in str(error)
    return type(error).__name__


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "rows.pkl"


@settings(max_examples=500 * EFFORT, deadline=None)
@given(content=st.binary(min_size=1, max_size=200))
def test_random_bytes(path: Path, content: bytes) -> None:
    outcome(path, content)
    outcome(path, b"\x80\x04" + content + b".")


@settings(max_examples=500 * EFFORT, deadline=None)
@given(parts=st.lists(st.one_of(st.sampled_from(OPCODES), st.binary(max_size=4)), max_size=60))
def test_random_opcodes(path: Path, parts: list[bytes]) -> None:
    outcome(path, b"\x80\x05" + b"".join(parts) + b".")


@pytest.mark.parametrize("seed", range(4))
def test_mutated_benign_pickles(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    found = {outcome(path, mutated(chance.choice(BENIGN), chance)) for _ in range(500 * EFFORT)}
    assert {"read", "UnsafeFileError", "DataError"} <= found


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A pickle with one to eight bytes changed, removed, added or moved."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 8])):
        at = chance.randrange(len(changed))
        action = chance.random()
        if action < 0.5:
            changed[at] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        elif action < 0.65:
            changed[at : at + 1] = chance.choice(OPCODES)
        elif action < 0.8:
            changed[at : at + chance.randrange(1, 9)] = b""
        else:
            start = chance.randrange(len(changed))
            changed[at:at] = changed[start : start + chance.randrange(1, 30)]
        if not changed:
            return b"."
    return bytes(changed)


@settings(max_examples=200 * EFFORT, deadline=None)
@given(
    content=st.binary(max_size=300),
    suffix=st.sampled_from(["csv", "tsv", "jsonl", "parquet", "pkl.gz", "txt"]),
)
def test_any_bytes_under_any_suffix(path: Path, content: bytes, suffix: str) -> None:
    other = path.with_name(f"rows.{suffix}")
    other.write_bytes(content)
    try:
        list(open_examples(str(other), Columns(), labels="ignore").batches())
    except LeantuneError as error:
        checked(error)
