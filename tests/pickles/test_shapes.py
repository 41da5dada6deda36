"""Arrays, Arrow tables, datasets and frames that are not what they must be (P30 to P33)."""

from __future__ import annotations

import pickle
import runpy
import struct
from pathlib import Path
from typing import Any

import datasets
import pytest

ASSEMBLER = runpy.run_path(str(Path(__file__).with_name("assembler.py")))
Ref, Call, Raw = ASSEMBLER["Ref"], ASSEMBLER["Call"], ASSEMBLER["Raw"]
pickled, assembled = ASSEMBLER["pickled"], ASSEMBLER["assembled"]

FRAME = Ref("pandas.core.frame", "DataFrame")
RECONSTRUCT, NDARRAY = Ref("numpy.core.multiarray", "_reconstruct"), Ref("numpy", "ndarray")


def dtype(letter: str, *, state: Any = None) -> Any:
    return Call(Ref("numpy", "dtype"), (letter, False, True), state or (3, "<", None, None, None, -1, -1, 0))


def array(shape: Any, kind: Any, raw: Any, *, args: Any = None, version: Any = 1) -> Any:
    return Call(RECONSTRUCT, args or (NDARRAY, (0,), b"b"), (version, shape, kind, False, raw))


def buffer_array(raw: Any, kind: Any, shape: Any, order: Any = "C") -> Any:
    return Call(Ref("numpy.core.numeric", "_frombuffer"), (raw, kind, shape, order))


ARRAYS: dict[str, Any] = {
    "P30-metadata": array(
        (1,),
        dtype("i8", state=(4, "<", None, None, None, -1, -1, 0, {"x": Call(Ref("os", "system"), ("true",))})),
        b"x" * 8,
    ),
    "P31-huge-shape": array((10**12,), dtype("i8"), b"x" * 8),
    "P31-negative-shape": array((-1,), dtype("i8"), b"x" * 8),
    "P31-overflowing-shape": array((2**31 - 1, 2**31 - 1), dtype("i8"), b"x" * 8),
    "P31-overflow-to-zero": array((2**30, 2**34), dtype("i8"), b""),
    "P31-true-as-a-length": array((True,), dtype("i8"), b"x" * 8),
    "P31-no-shape": array((), dtype("i8"), b"x" * 8),
    "P31-three-dimensions": array((1, 1, 1), dtype("i8"), b"x" * 8),
    "P31-objects-over-bytes": array((1,), dtype("O8"), b"x" * 8),
    "P31-too-few-objects": array((2,), dtype("O8"), ["a"]),
    "P31-too-few-bytes": array((2,), dtype("i8"), b"x" * 8),
    "P31-list-for-numbers": array((1,), dtype("i8"), [1]),
    "P31-version": array((1,), dtype("i8"), b"x" * 8, version=2),
    "P31-subclass": array((1,), dtype("i8"), b"x" * 8, args=(FRAME, (0,), b"b")),
    "P31-start-shape": array((1,), dtype("i8"), b"x" * 8, args=(NDARRAY, (10**12,), b"b")),
    "P31-order": buffer_array(b"x" * 8, dtype("i8"), (1,), "K"),
    "P31-frombuffer-shape": buffer_array(b"x" * 8, dtype("i8"), (10**12,)),
    "P31-size-of-a-number": array((1,), dtype("i7"), b"x" * 7),
    "P31-void": array((1,), dtype("V8"), b"x" * 8),
    "P31-type-text": array((1,), dtype("i8,O8"), b"x" * 16),
    "P31-type-of-types": array((1,), Call(Ref("numpy", "dtype"), (FRAME, False, True)), b"x"),
    "P31-byte-order": array((1,), dtype("i8", state=(3, "!", None, None, None, -1, -1, 0)), b"x" * 8),
    "P31-fields": array((1,), dtype("i8", state=(3, "|", None, ("a",), {"a": 1}, 8, 1, 0)), b"x" * 8),
    "P31-subarray": array(
        (1,), dtype("i8", state=(3, "|", (dtype("i8"), (9,)), None, None, 8, 1, 0)), b"x" * 8
    ),
    "P31-no-character": array((1,), dtype("U1"), b"\xff\xff\xff\x7f"),
    "P31-many-items-without-space": array((2**31 - 1,), dtype("U0"), b""),
    "P31-state-of-six": Call(RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (1,), dtype("i8"), False, b"x" * 8, 1)),
    "P31-scalar": [Call(Ref("numpy.core.multiarray", "scalar"), (dtype("i8"), b"x" * 9))],
    "P31-scalar-of-an-object": [Call(Ref("numpy.core.multiarray", "scalar"), (dtype("O8"), FRAME))],
}


@pytest.mark.parametrize("value", ARRAYS.values(), ids=ARRAYS)
def test_arrays(refused: Any, value: Any) -> None:
    refused(pickled(value, 4))
    refused(pickled({"text": ["a"], "other": value}, 4))


def alias(name: str) -> Any:
    return Call(Ref("pyarrow.lib", "type_for_alias"), (name,))


def arrow_array(
    kind: Any,
    length: Any,
    buffers: Any,
    *,
    offset: Any = 0,
    nulls: Any = 0,
    children: Any = (),
    more: Any = None,
) -> Any:
    def packed(buffer: Any) -> Any:
        return Call(Ref("pyarrow.lib", "py_buffer"), (buffer,)) if isinstance(buffer, bytes) else buffer

    parts = (kind, length, nulls, offset, [packed(buffer) for buffer in buffers], list(children), more)
    return Call(Ref("pyarrow.lib", "_restore_array"), (parts,))


def arrow_table(columns: Any, names: Any = ("text",)) -> Any:
    fields = [Call(Ref("pyarrow.lib", "field"), (name, alias("string"), True, None)) for name in names]
    return Call(
        Ref("pyarrow.lib", "_reconstruct_table"),
        (list(columns), Call(Ref("pyarrow.lib", "schema"), (fields, None))),
    )


def dataset(data: Any, indices: Any = None, features: Any = None) -> Any:
    info = Call(Ref("datasets.info", "DatasetInfo"), (), {"features": features}, b"\x81")
    state = {"_info": info, "_data": data, "_indices": indices}
    return Call(Ref("datasets.arrow_dataset", "Dataset"), (), state, b"\x81")


def in_memory(table: Any) -> Any:
    return Call(Ref("datasets.table", "InMemoryTable"), (), {"table": table}, b"\x81")


def offsets(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


GOOD = arrow_array(alias("string"), 2, [None, offsets(0, 1, 2), b"ab"])
NUMBERS = arrow_array(alias("uint64"), 1, [None, struct.pack("<Q", 5)])
ARROW: dict[str, Any] = {
    "P33-offsets": arrow_array(alias("string"), 2, [None, offsets(0, 2**31 - 1, 2), b"ab"]),
    "P33-negative-offsets": arrow_array(alias("string"), 2, [None, offsets(-9, 1, 2), b"ab"]),
    "P33-falling-offsets": arrow_array(alias("string"), 2, [None, offsets(0, 2, 1), b"ab"]),
    "P33-length": arrow_array(alias("string"), 2**31 - 1, [None, offsets(0, 1, 2), b"ab"]),
    "P33-negative-length": arrow_array(alias("string"), -1, [None, offsets(0, 1, 2), b"ab"]),
    "P33-offset": arrow_array(alias("string"), 2, [None, offsets(0, 1, 2), b"ab"], offset=2**31 - 1),
    "P33-large-offsets": arrow_array(alias("large_string"), 2, [None, offsets(0, 1, 2), b"ab"]),
    "P33-no-buffers": arrow_array(alias("string"), 2, []),
    "P33-empty-buffers": arrow_array(alias("string"), 2, [None, None, None]),
    "P33-short-bitmap": arrow_array(alias("int8"), 100, [b"\xff", b"x" * 100]),
    "P33-children": arrow_array(alias("string"), 2, [None, offsets(0, 1, 2), b"ab"], children=[GOOD]),
    "P33-not-utf-8": arrow_array(alias("string"), 1, [None, offsets(0, 1), b"\xff"]),
    "P33-short-numbers": arrow_array(alias("int64"), 9, [None, b"x" * 8]),
    "P33-type": arrow_array(alias("extension<x>"), 1, [None, b"x" * 8]),
    "P33-type-of-names": arrow_array(alias(["string"]), 1, [None, b"x" * 8]),
    "P33-dictionary": arrow_array(
        Call(Ref("pyarrow.lib", "dictionary"), (alias("int8"), alias("string"), False)),
        1,
        [None, b"\x09"],
        more=GOOD,
    ),
    "P33-dictionary-of-nothing": arrow_array(
        Call(Ref("pyarrow.lib", "dictionary"), (alias("int8"), alias("string"), False)), 1, [None, b"\x00"]
    ),
    "P33-dictionary-of-floats": arrow_array(
        Call(Ref("pyarrow.lib", "dictionary"), (alias("double"), alias("string"), False)), 1, [None, b"x" * 8]
    ),
    "P33-buffer-of-a-text": arrow_array(
        alias("int8"), 1, [None, Call(Ref("pyarrow.lib", "py_buffer"), ("x",))]
    ),
    "P33-chunks-of-two-types": Call(
        Ref("pyarrow.lib", "chunked_array"), ([arrow_array(alias("int8"), 1, [None, b"x"])], alias("string"))
    ),
}
ENDLESS_DATES = arrow_array(Call(Ref("pyarrow.lib", "timestamp"), ("s", None)), 2**31 - 1, [None, b""])
ENDLESS_NULLS = arrow_array(alias("null"), 2**31 - 1, [None])
REPLAYS = {"path": "/etc/passwd", "table": GOOD, "replays": [("filter", ("true",), {})]}
MAPPED = Call(Ref("datasets.table", "MemoryMappedTable"), (), REPLAYS, b"\x81")
DATASETS: dict[str, Any] = {
    "P32-memory-mapped": dataset(MAPPED),
    "P32-memory-mapped-indices": dataset(in_memory(arrow_table([GOOD])), MAPPED),
    "P32-concatenated": dataset(
        Call(
            Ref("datasets.table", "ConcatenationTable"),
            (),
            {"blocks": [[in_memory(arrow_table([GOOD])), MAPPED]]},
        )
    ),
    "P32-memory-mapped-alone": MAPPED,
    "P32-indices-beyond": dataset(
        in_memory(arrow_table([GOOD])), in_memory(arrow_table([NUMBERS], ["indices"]))
    ),
    "P32-table-of-another-kind": dataset(in_memory({"text": ["a"]})),
    "P32-no-data": Call(Ref("datasets.arrow_dataset", "Dataset")),
    "P32-dates-without-end": dataset(in_memory(arrow_table([GOOD, ENDLESS_DATES], ["text", "date"]))),
    "P32-nulls-without-end": dataset(in_memory(arrow_table([GOOD, ENDLESS_NULLS], ["text", "null"]))),
    "P32-row-numbers-without-end": dataset(
        in_memory(arrow_table([GOOD])), in_memory(arrow_table([ENDLESS_NULLS], ["indices"]))
    ),
    "P32-one-name-for-two-columns": dataset(in_memory(arrow_table([GOOD, GOOD], ["text", "text"]))),
    "P32-columns-without-names": dataset(in_memory(arrow_table([GOOD, GOOD]))),
    "P32-features": dataset(
        in_memory(arrow_table([GOOD])), None, Call(Ref("datasets.features.features", "Features"))
    ),
    "P32-dataset-dict-of-lists": Call(Ref("datasets.dataset_dict", "DatasetDict"), (["a"],)),
    **{f"{name}-in-a-dataset": dataset(in_memory(arrow_table([value]))) for name, value in ARROW.items()},
}


def test_the_assembled_dataset_would_be_good(accepted: Any) -> None:
    accepted(pickled(dataset(in_memory(arrow_table([GOOD]))), 4))


@pytest.mark.parametrize("value", DATASETS.values(), ids=DATASETS)
def test_datasets(refused: Any, value: Any) -> None:
    refused(pickled(value, 4))


def test_a_dataset_on_disk_is_not_in_its_pickle(tmp_path: Path, refused: Any) -> None:
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "saved")
    message = refused(pickle.dumps(datasets.load_from_disk(tmp_path / "saved")))
    assert "it holds only the path of an Arrow file: save the dataset with to_parquet" in message
