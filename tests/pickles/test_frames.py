"""Frames and series of pandas that are not what they must be."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

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


ENDLESS_NULLS = Call(
    Ref("pyarrow.lib", "_restore_array"),
    ((Call(Ref("pyarrow.lib", "type_for_alias"), ("null",)), 2**31 - 1, 0, 0, [None], [], None),),
)


def slice_of(*parts: Any) -> Any:
    return Call(Ref("builtins", "slice"), parts)


def block(values: Any, positions: Any) -> Any:
    return Call(Ref("pandas._libs.internals", "_unpickle_block"), (values, positions, 2))


def index(data: Any, kind: str = "Index") -> Any:
    return Call(
        Ref("pandas.core.indexes.base", "_new_Index"), (Ref("pandas", kind), {"data": data, "name": None})
    )


def objects(*cells: Any) -> Any:
    return array((len(cells),), dtype("O8"), list(cells))


def frame(blocks: Any, axes: Any) -> Any:
    manager = Call(Ref("pandas.core.internals.managers", "BlockManager"), (tuple(blocks), list(axes)))
    return Call(FRAME, (), {"_mgr": manager}, b"\x81")


def backed(kind: str, state: Any) -> Any:
    function = Ref("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked")
    return Call(function, (Ref("pandas", kind), 0, None), state)


def categorical(codes: bytes, categories: Any) -> Any:
    kind = Call(Ref("pandas", "CategoricalDtype"), (), {"categories": categories, "ordered": False}, b"\x81")
    return backed("Categorical", (kind, array((len(codes),), dtype("i1"), codes)))


def masked(values: Any, mask: Any) -> Any:
    return Call(Ref("pandas.arrays", "IntegerArray"), (), {"_data": values, "_mask": mask}, b"\x81")


ROW = array((1, 2), dtype("O8"), ["a", "b"])
TEXT = index(objects("text"))
FIRST = slice_of(0, 1, 1)
ENDLESS = {"name": None, "start": 0, "stop": 2**40, "step": 1}
FRAMES: dict[str, Any] = {
    "no-blocks": frame([], [TEXT]),
    "no-axes": frame([block(ROW, FIRST)], []),
    "two-blocks-at-one-place": frame([block(ROW, FIRST), block(ROW, FIRST)], [TEXT]),
    "a-place-beyond": frame([block(ROW, slice_of(1, 2, 1))], [TEXT]),
    "too-many-places": frame([block(ROW, slice_of(0, 2, 1))], [TEXT]),
    "places-without-end": frame([block(ROW, slice_of(0, 2**31 - 1, 1))], [TEXT]),
    "negative-places": frame([block(ROW, slice_of(-1, 0, 1))], [TEXT]),
    "step-zero": frame([block(ROW, slice_of(0, 1, 0))], [TEXT]),
    "places-that-are-floats": frame([block(ROW, array((1,), dtype("f8"), b"\x00" * 8))], [TEXT]),
    "places-that-are-objects": frame([block(ROW, objects(0))], [TEXT]),
    "labels-of-two-dimensions": frame(
        [block(ROW, FIRST)], [index(array((2, 1), dtype("O8"), ["text", "x"]))]
    ),
    "labels-without-end": frame(
        [block(ROW, FIRST)],
        [Call(Ref("pandas.core.indexes.base", "_new_Index"), (Ref("pandas", "RangeIndex"), ENDLESS))],
    ),
    "null-labels-without-end": frame(
        [block(ROW, FIRST)],
        [index(Call(Ref("pandas.arrays", "ArrowStringArray"), (), {"_pa_array": ENDLESS_NULLS}))],
    ),
    "labels-on-levels": frame([block(ROW, FIRST)], [index(objects("text"), "MultiIndex")]),
    "an-index-that-is-none": frame([block(ROW, FIRST)], [["text"]]),
    "a-codes-beyond": frame([block(categorical(b"\x02", TEXT), FIRST)], [TEXT]),
    "a-codes-below": frame([block(categorical(b"\xfe", TEXT), FIRST)], [TEXT]),
    "a-category-of-names": frame([block(categorical(b"\x00", index(objects(FRAME))), FIRST)], [TEXT]),
    "a-mask-of-numbers": frame(
        [block(masked(array((1,), dtype("i1"), b"x"), array((1,), dtype("i1"), b"x")), FIRST)], [TEXT]
    ),
    "a-short-mask": frame(
        [block(masked(array((2,), dtype("i1"), b"xx"), array((1,), dtype("b1"), b"x")), FIRST)], [TEXT]
    ),
    "an-unknown-backed-array": frame([block(backed("DataFrame", (None, ROW)), FIRST)], [TEXT]),
    "a-backed-array-without-state": frame([block(backed("Categorical", ...), FIRST)], [TEXT]),
    "a-block-of-a-list": frame([block(["a", "b"], FIRST)], [TEXT]),
    "a-manager-that-is-a-dict": Call(FRAME, (), {"_mgr": {"axes": []}}, b"\x81"),
    "two-managers": Call(FRAME, (), Raw(b"}(" + 2 * (assembled("_mgr") + b"N") + b"u"), b"\x81"),
    "a-series-without-blocks": Call(Ref("pandas", "Series"), (), {"_mgr": None, "_name": None}, b"\x81"),
    "items-for-a-frame": Raw(assembled(frame([block(ROW, FIRST)], [TEXT])) + assembled("a") + b"Ns"),
}


def test_the_assembled_frame_would_be_good(accepted: Any) -> None:
    for values in (ROW, categorical(b"\x00\x00", TEXT)):
        accepted(pickled(frame([block(values, FIRST)], [TEXT]), 4))


@pytest.mark.parametrize("value", FRAMES.values(), ids=FRAMES)
def test_frames(refused: Any, value: Any) -> None:
    refused(pickled(value, 4))
