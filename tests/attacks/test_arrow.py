"""Arrow files whose values Python cannot hold, and streams that end too early."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leantune.data.text.read import Columns, open_examples
from leantune.errors import DataError

FAR = {"date64[ms]": 86_400_000 * 10**10, "time64[us]": 5}
"""Values that the types can have; of the others Python holds as good as none."""
KINDS = {
    "us": pa.timestamp("us"),
    "s": pa.timestamp("s"),
    "zone": pa.timestamp("us", tz="Mars/Olympus"),
    "offset": pa.timestamp("s", tz="+99:99"),
    "date32": pa.date32(),
    "date64": pa.date64(),
    "duration": pa.duration("s"),
    "time": pa.time64("us"),
}


def column_of(kind: pa.DataType) -> pa.Array:
    size = kind.bit_width // 8
    values = FAR.get(str(kind), 2**62 if size == 8 else 2**30).to_bytes(size, "little") * 2
    return pa.Array.from_buffers(kind, 2, [None, pa.py_buffer(values)])


def variants(array: pa.Array) -> dict[str, pa.Array]:
    return {
        "plain": array,
        "dictionary": pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), array),
        "list": pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), array),
        "struct": pa.StructArray.from_arrays([array], ["inner"]),
    }


def write(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path, store_schema=True)
    else:
        opener = pa.ipc.new_file if path.suffix == ".arrow" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, opener(sink, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", ["text", "label", "id"])
@pytest.mark.parametrize("variant", ["plain", "dictionary", "list", "struct"])
@pytest.mark.parametrize("suffix", ["arrow", "arrows"])
def test_a_date_that_python_cannot_hold_is_named_with_its_row(tmp_path, kind, column, variant, suffix):
    words = pa.array(["a", "b"])
    columns = {"text": words, "label": words, "id": words, column: variants(column_of(KINDS[kind]))[variant]}
    path = write(tmp_path / f"rows.{suffix}", pa.table(columns))
    source = open_examples(str(path), Columns(id="id"), labels="required")
    with pytest.raises(DataError, match=rf"rows\.{suffix}:1:{column}: a") as caught:
        list(source.batches())
    if variant in ("plain", "dictionary"):
        assert str(KINDS[kind]) in str(caught.value), "the type says the time zone"


def test_a_date_within_range_is_no_text_either(tmp_path):
    table = pa.table({"text": [datetime.datetime(2024, 1, 1)], "label": ["a"]})
    source = open_examples(str(write(tmp_path / "rows.parquet", table)), Columns(), labels="required")
    with pytest.raises(
        DataError, match=r"rows\.parquet:1:text: a date or time \(timestamp\[us\]\), expected a text"
    ):
        list(source.batches())


@pytest.fixture
def stream(tmp_path) -> Path:
    table = pa.table({"text": [f"t{i}" for i in range(20)], "label": ["a", "b"] * 10, "n": range(20)})
    path = tmp_path / "rows.arrows"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return path


def texts_of(path: Path) -> list[str]:
    source = open_examples(str(path), Columns(), labels="required")
    return [text for batch in source.batches() for text in batch.texts]


def ends_of_messages(path: Path) -> list[int]:
    with pa.OSFile(str(path)) as source:
        reader = pa.ipc.open_stream(source)
        return [source.tell(), *(source.tell() for _ in reader)]


def test_a_stream_that_was_cut_between_two_batches_is_not_a_shorter_one(stream):
    whole = stream.read_bytes()
    assert len(texts_of(stream)) == 20
    for end in ends_of_messages(stream):
        stream.write_bytes(whole[:end])
        with pytest.raises(DataError, match="without its end mark: rows may be missing"):
            texts_of(stream)


def test_a_stream_that_was_cut_anywhere_is_refused(stream):
    whole = stream.read_bytes()
    for end in range(8, len(whole), 13):
        stream.write_bytes(whole[:end])
        with pytest.raises(DataError):
            texts_of(stream)


def test_a_stream_with_its_mark_may_be_followed_by_anything(stream):
    stream.write_bytes(stream.read_bytes() + b"more")
    assert len(texts_of(stream)) == 20


def test_an_empty_stream_with_its_mark_has_no_rows(tmp_path):
    schema = pa.schema({"text": pa.string(), "label": pa.string()})
    with pa.OSFile(str(tmp_path / "rows.arrows"), "wb") as sink, pa.ipc.new_stream(sink, schema):
        pass
    with pytest.raises(DataError, match="no rows"):
        texts_of(tmp_path / "rows.arrows")
