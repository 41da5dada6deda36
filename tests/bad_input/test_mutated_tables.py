"""Damaged Parquet and Arrow files give rows or one of leantune's errors, never a crash."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leantune.data.text.read import Columns, open_examples
from leantune.errors import LeantuneError


def written(kind: str) -> bytes:
    table = pa.table(
        {
            "text": ["abc", "déf"] * 20,
            "label": [1, 2] * 20,
            "dictionary": pa.array(["x", "y"] * 20).dictionary_encode(),
            "view": pa.array(["abc", "y" * 40] * 20, pa.string_view()),
            "list": [[1, 2], [3]] * 20,
        }
    )
    out = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, out)
    else:
        with (pa.ipc.new_file if kind == "file" else pa.ipc.new_stream)(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    return out.getvalue()


def damaged(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 4, 8])):
        changed[chance.randrange(len(changed))] = chance.choice([0, 127, 255, chance.randrange(256)])
    return bytes(changed if chance.random() < 0.9 else changed[: chance.randrange(1, len(changed))])


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_damaged_tables(tmp_path: Path, kind: str) -> None:
    chance = random.Random(kind)
    path, content = tmp_path / "rows", written(kind)
    outcomes = set()
    for _ in range(300):
        path.write_bytes(damaged(content, chance))
        try:
            for column in ("text", "dictionary", "view"):
                list(open_examples(str(path), Columns(text=column), labels="ignore").batches(5))
            outcomes.add("read")
        except LeantuneError as error:
            outcomes.add("refused")
            assert_one_line(error)
    assert outcomes == {"read", "refused"}


def assert_one_line(error: LeantuneError) -> None:
    assert "\n" not in str(error)
