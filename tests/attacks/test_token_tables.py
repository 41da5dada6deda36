"""A cached table of tokens that is not what leantune wrote is made again, and labels are never taken from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leantune.data.text.read import Columns, open_examples
from leantune.data.tokens import table as tokens
from leantune.data.tokens.table import DIGEST_BYTES, SCHEMA, TokenTable, tokenize
from leantune.data.tokens.tokenization import Tokenizer
from tiny import write_rows

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")


@pytest.fixture(scope="module")
def tokenizer(inputs) -> Tokenizer:
    return Tokenizer.pretrained(str(inputs / "encoder"), 32)


@pytest.fixture
def rows(tmp_path) -> Path:
    return write_rows(tmp_path / "rows.csv", 160)


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def table_of(rows: Path, tokenizer: Tokenizer, cache: Path) -> TokenTable:
    return tokenize(open_examples(str(rows), Columns(), labels="required"), tokenizer, cache)


def content_of(table: TokenTable) -> tuple[list[list[int]], list[str]]:
    return [table.tokens(row).tolist() for row in range(len(table))], list(table.label_texts)


def rewritten(entry: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Another valid Arrow file of the same name, sealed as leantune seals it, as far as a stranger can."""
    whole = entry.read_bytes()
    table = change(pa.ipc.open_file(pa.py_buffer(whole[:-DIGEST_BYTES])).read_all())
    with pa.OSFile(str(entry), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with entry.open("ab") as file:
        file.write(whole[-DIGEST_BYTES:])


def fewer_rows(entry: Path) -> None:
    rewritten(entry, lambda table: table.slice(0, 100))


def other_ids(entry: Path) -> None:
    ids = pa.array([[10**6]] * 160, pa.list_(pa.int32()))
    rewritten(entry, lambda table: table.set_column(0, SCHEMA.field(0), ids))


def of_before_the_digest(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes()[:-DIGEST_BYTES])


def flipped(entry: Path) -> None:
    whole = bytearray(entry.read_bytes())
    whole[len(whole) // 2] ^= 1
    entry.write_bytes(whole)


def a_pipe(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


def a_folder(entry: Path) -> None:
    entry.unlink()
    (entry / "inside").mkdir(parents=True)


def a_link(entry: Path) -> None:
    shutil.move(entry, entry.with_name("elsewhere"))
    entry.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "damage",
    [
        fewer_rows, other_ids, of_before_the_digest, flipped, a_pipe, a_folder, a_link,
        lambda entry: entry.write_bytes(b""), lambda entry: entry.write_bytes(b"x" * 10),
        lambda entry: entry.chmod(0o666),
    ],
)  # fmt: skip
def test_a_table_that_is_not_what_was_written_is_made_again(rows, tokenizer, cache, damage):
    expected = content_of(table_of(rows, tokenizer, cache))
    (entry,) = cache.iterdir()
    damage(entry)
    assert content_of(table_of(rows, tokenizer, cache)) == expected
    assert content_of(table_of(rows, tokenizer, cache)) == expected


@given(place=st.integers(0, 10**9), value=st.integers(1, 255))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_byte_of_a_table_can_change(rows, tokenizer, cache, place, value):
    expected = content_of(table_of(rows, tokenizer, cache))
    (entry,) = cache.iterdir()
    whole = bytearray(entry.read_bytes())
    whole[place % len(whole)] ^= value
    entry.write_bytes(whole)
    assert content_of(table_of(rows, tokenizer, cache)) == expected


def test_the_table_of_another_file_under_this_name_is_made_again(rows, tokenizer, cache, tmp_path):
    expected = content_of(table_of(rows, tokenizer, cache))
    (entry,) = cache.iterdir()
    table_of(write_rows(tmp_path / "others.csv", 160, seed=3), tokenizer, cache)
    (other,) = set(cache.iterdir()) - {entry}
    shutil.copy(other, entry)
    assert content_of(table_of(rows, tokenizer, cache)) == expected


def test_a_sealed_table_with_ids_that_the_tokenizer_has_not_is_made_again(
    rows, tokenizer, cache, monkeypatch
):
    """The last line of defence: even with the right digest."""
    expected = content_of(table_of(rows, tokenizer, cache))
    (entry,) = cache.iterdir()
    key: list[bytes] = []
    seal = tokens._seal
    monkeypatch.setattr(tokens, "_seal", lambda path, own: (key.append(own), seal(path, own)))
    entry.unlink()
    table_of(rows, tokenizer, cache)
    for changed in (10**6, -1):
        other = pa.array([[changed]] * 160, pa.list_(pa.int32()))
        rewritten(entry, lambda table, other=other: table.set_column(0, SCHEMA.field(0), other))
        entry.write_bytes(entry.read_bytes()[:-DIGEST_BYTES])
        seal(entry, key[0])
        assert content_of(table_of(rows, tokenizer, cache)) == expected


def test_labels_come_from_the_rows(rows, tokenizer, cache):
    """No label is in the cache, so none can be changed there."""
    before = content_of(table_of(rows, tokenizer, cache))
    (entry,) = cache.iterdir()
    reader = pa.ipc.open_file(pa.py_buffer(entry.read_bytes()[:-DIGEST_BYTES]))
    assert reader.schema.names == ["input_ids", "second_start", "full_length", "is_blank"]
    assert content_of(table_of(rows, tokenizer, cache)) == before
    assert len(set(before[1])) == 3


@needs_root
@pytest.mark.parametrize("door", ["folder of another", "writable folder of another"])
def test_a_cache_of_another_user_is_neither_read_nor_written(rows, tokenizer, cache, door):
    expected = content_of(table_of(rows, tokenizer, cache))
    (entry,) = cache.iterdir()
    if "writable" in door:
        cache.chmod(0o777)
    os.chown(cache, 4242, 4242)
    before = entry.stat().st_mtime_ns, entry.read_bytes()
    assert content_of(table_of(rows, tokenizer, cache)) == expected
    assert (entry.stat().st_mtime_ns, entry.read_bytes()) == before


def test_the_tokens_of_a_mapped_table_stay_zero_copy(rows, tokenizer, cache):
    table_of(rows, tokenizer, cache)
    table = table_of(rows, tokenizer, cache)
    assert not table.tokens(0).flags.owndata
    assert np.array_equal(table.lengths, [len(table.tokens(row)) for row in range(len(table))])
