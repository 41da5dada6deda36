"""Benign pickles with what they hold, made by the libraries that are installed.

The tests use it as a module for the libraries they run with. As a script it writes the fixtures of other
versions, and needs neither leantune nor pytest:

    python -m venv old && old/bin/pip install pandas==1.5.3 numpy==1.24.4 pyarrow==12.0.1
    old/bin/python tests/pickles/make_fixtures.py tests/pickles/fixtures

The versions of the committed fixtures are in their names.
"""

from __future__ import annotations

import base64
import collections
import datetime
import decimal
import json
import lzma
import pickle
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

PROTOCOLS = (0, 1, 2, 3, 4, 5)
TEXTS = ["a", 'b "q"\n', "日本 🎉", ""]
LABELS = [0, 1, 1, 0]
Case = tuple[str, Any, "dict[str, list[Any]]"]


def plain() -> Iterator[Case]:
    rows = {"text": TEXTS, "label": LABELS}
    yield "dict-of-lists", dict(rows), rows
    yield "dict-of-tuples", {name: tuple(cells) for name, cells in rows.items()}, rows
    yield "ordered-dict", collections.OrderedDict(rows), rows
    yield "list-of-dicts", [{"text": t, "label": y} for t, y in zip(TEXTS, LABELS, strict=True)], rows
    yield "list-of-texts", list(TEXTS), {"text": TEXTS}
    yield "floats-and-none", {"text": TEXTS, "label": [1.0, None, True, 2]}, {"label": [1.0, None, True, 2]}
    beside = {
        "dates": [
            datetime.date(2020, 1, 1),
            datetime.datetime(2020, 1, 1),
            datetime.time(1),
            datetime.timedelta(1),
        ],
        "others": [decimal.Decimal("1.5"), uuid.UUID(int=7), {1, 2}, [1, {"a": (2,)}]],
        "bytes": [b"", b"\x00\xff", bytearray(b"x"), None],
    }
    yield "other-cells-beside", {**rows, **beside}, rows
    yield (
        "many-rows",
        {"text": [f"text {number}" for number in range(3000)]},
        {"text": [f"text {number}" for number in range(3000)]},
    )


def arrays() -> Iterator[Case]:
    yield "array-of-texts", np.array(TEXTS), {"text": TEXTS}
    yield "array-of-objects", np.array(TEXTS, dtype=object), {"text": TEXTS}
    yield "array-of-empty-texts", np.array(["", ""]), {"text": ["", ""]}
    columns = {"text": np.array(TEXTS, dtype=object)}
    for dtype in ("i1", ">i4", "<i8", "u2", ">u8"):
        yield (
            f"dict-of-arrays-{dtype}",
            {**columns, "label": np.array(LABELS, dtype)},
            {"text": TEXTS, "label": LABELS},
        )
    for dtype in ("f2", ">f4", "f8"):
        floats = [float(label) for label in LABELS]
        yield f"dict-of-arrays-{dtype}", {**columns, "label": np.array(LABELS, dtype)}, {"label": floats}
    yield (
        "dict-of-arrays-bool",
        {**columns, "label": np.array(LABELS, bool)},
        {"label": [False, True, True, False]},
    )
    yield (
        "array-slice",
        {"text": np.array([TEXTS, TEXTS])[:, 1], "label": np.arange(6)[::3]},
        {
            "text": [TEXTS[1]] * 2,
            "label": [0, 3],
        },
    )
    scalars = {"text": [np.str_(text) for text in TEXTS], "label": [np.int64(label) for label in LABELS]}
    yield "list-of-scalars", scalars, {"text": TEXTS, "label": LABELS}
    yield "list-of-float-scalars", {"label": [np.float32(0.5), np.bool_(True)]}, {"label": [0.5, True]}
    if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType"):
        yield "array-of-string-dtype", np.array(TEXTS, dtype=np.dtypes.StringDType()), {"text": TEXTS}
    yield (
        "dict-of-dates-beside",
        {"text": TEXTS, "when": np.array(["2020"] * 4, dtype="M8[s]")},
        {"text": TEXTS},
    )


def frames() -> Iterator[Case]:
    rows: dict[str, list[Any]] = {"text": TEXTS, "label": LABELS}
    frame = pd.DataFrame(rows)
    yield "frame", frame, rows
    yield "frame-empty", frame.iloc[:0], {"text": [], "label": []}
    yield (
        "frame-with-score",
        frame.assign(score=0.5, flag=True),
        {**rows, "score": [0.5] * 4, "flag": [True] * 4},
    )
    yield "frame-of-objects", frame.astype(object), rows
    yield "frame-filtered", frame[frame.label == 1], {"text": TEXTS[1:3], "label": [1, 1]}
    yield "frame-every-other", frame.iloc[::2], {"text": TEXTS[::2], "label": LABELS[::2]}
    yield (
        "frame-transposed",
        pd.DataFrame([TEXTS, TEXTS], index=["text", "label"]).T,
        {"text": TEXTS, "label": TEXTS},
    )
    mixed = frame.assign(a=1.5, b="x", c=7)[["c", "text", "b", "a", "label"]]
    yield "frame-mixed-blocks", mixed, {"text": TEXTS, "c": [7] * 4, "b": ["x"] * 4, "a": [1.5] * 4}
    inserted = frame.copy()
    inserted.insert(1, "middle", [1.5, 2.0, 3.0, 4.0])
    inserted["last"] = TEXTS
    yield "frame-inserted", inserted, {**rows, "middle": [1.5, 2.0, 3.0, 4.0], "last": TEXTS}
    yield (
        "frame-nullable",
        nullable(),
        {
            "text": ["a", None, "c", "d"],
            "label": [1, None, 3, 4],
            "flag": [True, None, False, True],
            "score": [0.5, None, 1.5, 2.5],
        },
    )
    categories = pd.DataFrame({"text": pd.Categorical(TEXTS), "label": pd.Categorical([7, 8, None, 7])})
    yield "frame-categorical", categories, {"text": TEXTS, "label": [7, 8, None, 7]}
    numbered = pd.DataFrame([["a", 1], ["b", 2]])
    yield "frame-numbered-columns", numbered, {"0": ["a", "b"], "1": [1, 2]}
    yield (
        "frame-categorical-columns",
        numbered.set_axis(pd.CategoricalIndex(["text", "label"]), axis=1),
        {
            "text": ["a", "b"],
            "label": [1, 2],
        },
    )
    for name, index in row_indexes().items():
        yield f"frame-index-{name}", frame.set_axis(index, axis=0), rows
    stamped = frame.assign(
        when=pd.Timestamp("2020"), utc=pd.Timestamp("2020", tz="UTC"), lasts=pd.Timedelta(1, "s")
    )
    yield "frame-dates-beside", stamped, rows
    objects = frame.assign(when=pd.Series([pd.Timestamp("2020"), pd.NaT, None, 1], dtype=object))
    yield "frame-date-objects-beside", objects, rows
    with_attributes = frame.copy()
    with_attributes.attrs["note"] = "x"
    yield "frame-attributes", with_attributes, rows
    for name, dtypes in arrow_dtypes().items():
        yield (
            f"frame-{name}",
            pd.DataFrame({key: pd.array(rows[key], dtype=dtypes[key]) for key in rows}),
            rows,
        )


def nullable() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "text": pd.array(["a", None, "c", "d"], dtype="string"),
            "label": pd.array([1, None, 3, 4], dtype="Int16"),
            "flag": pd.array([True, None, False, True], dtype="boolean"),
            "score": pd.array([0.5, None, 1.5, 2.5], dtype="Float64"),
        }
    )


def row_indexes() -> dict[str, Any]:
    return {
        "texts": pd.Index(["w", "x", "y", "z"], name="id"),
        "numbers": pd.Index([3, 1, 4, 1]),
        "floats": pd.Index([3.5, 1.0, 4.0, 1.0]),
        "dates": pd.date_range("2020", periods=4, freq="D"),
        "durations": pd.to_timedelta([1, 2, 3, 4], unit="s"),
        "categories": pd.CategoricalIndex(["w", "x", "y", "z"]),
        "levels": pd.MultiIndex.from_product([["x", "y"], [1, 2]]),
    }


def arrow_dtypes() -> dict[str, dict[str, Any]]:
    dtypes: dict[str, dict[str, Any]] = {"string-pyarrow": {"text": "string[pyarrow]", "label": "int64"}}
    dtypes["arrow-dtype"] = {"text": pd.ArrowDtype(pa.string()), "label": pd.ArrowDtype(pa.int64())}
    return dtypes


def series() -> Iterator[Case]:
    yield "series", pd.Series(TEXTS, name="review"), {"review": TEXTS}
    yield "series-without-name", pd.Series(TEXTS), {"text": TEXTS}
    yield "series-filtered", pd.Series(TEXTS, name="text")[[True, False, True, False]], {"text": TEXTS[::2]}
    yield "series-categorical", pd.Series(TEXTS, name="text", dtype="category"), {"text": TEXTS}
    both = {"text": pd.Series(TEXTS), "label": pd.Series(LABELS)}
    yield "dict-of-series", both, {"text": TEXTS, "label": LABELS}


def hub_datasets() -> Iterator[Case]:
    try:
        import datasets
    except ImportError:
        return
    datasets.disable_progress_bar()
    rows: dict[str, list[Any]] = {"text": TEXTS, "label": LABELS}
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"])
    )
    dataset = datasets.Dataset.from_dict(rows, features=features)
    yield "dataset", dataset, rows
    yield "dataset-selected", dataset.select([3, 1]), {"text": [TEXTS[3], TEXTS[1]], "label": [0, 1]}
    yield "dataset-none-selected", dataset.select([]), {"text": [], "label": []}
    yield "dataset-formatted", dataset.with_format("numpy", columns=["label"]), rows
    yield (
        "dataset-concatenated",
        datasets.concatenate_datasets([dataset, dataset.select([0])]),
        {
            "text": [*TEXTS, TEXTS[0]],
            "label": [*LABELS, LABELS[0]],
        },
    )
    side = datasets.concatenate_datasets([dataset, datasets.Dataset.from_dict({"n": [1, 2, 3, 4]})], axis=1)
    yield "dataset-side-by-side", side, {**rows, "n": [1, 2, 3, 4]}
    yield "dataset-renamed", dataset.rename_column("text", "sentence"), {"sentence": TEXTS, "label": LABELS}
    yield "dataset-large-string", dataset.cast_column("text", datasets.Value("large_string")), rows
    yield "dataset-of-rows", datasets.Dataset.from_list([{"text": text} for text in TEXTS]), {"text": TEXTS}
    nulls = {"text": ["a", None, "c"], "nothing": [None, None, None]}
    yield "dataset-nulls", datasets.Dataset.from_dict(nulls), nulls
    beside = datasets.Dataset.from_dict(
        {"text": TEXTS, "tokens": [["a"], [], ["b", "c"], []], "point": [{"x": 1}] * 4}
    )
    yield "dataset-lists-beside", beside, {"text": TEXTS}
    yield "dataset-lists-beside-selected", beside.select([2]), {"text": [TEXTS[2]]}
    sliced = pa.table({"text": TEXTS, "label": pa.array(LABELS, pa.uint8())}).slice(1, 2)
    yield "dataset-sliced", datasets.Dataset(sliced), {"text": TEXTS[1:3], "label": LABELS[1:3]}
    chunks = pa.table({"text": pa.chunked_array([TEXTS[:1], [], TEXTS[1:]])})
    yield "dataset-chunked", datasets.Dataset(chunks), {"text": TEXTS}
    yield "dataset-split", datasets.Dataset.from_dict(rows, split="train"), rows
    yield "dataset-dict", datasets.DatasetDict(train=dataset, test=dataset.select([0])), rows


def library_cases() -> list[Case]:
    return [*arrays(), *frames(), *series(), *hub_datasets()]


def versions() -> str:
    found = {"pandas": pd.__version__, "numpy": np.__version__, "pyarrow": pa.__version__}
    if "datasets" in sys.modules:
        found["datasets"] = sys.modules["datasets"].__version__
    return "-".join(f"{name}-{version}" for name, version in found.items())


def main(folder: Path) -> None:
    fixtures = [
        {"name": name, "protocol": protocol, "expected": expected, "pickle": packed(value, protocol)}
        for name, value, expected in library_cases()
        for protocol in PROTOCOLS
    ]
    encoded = json.dumps(fixtures).encode()
    (folder / f"{versions()}.json.xz").write_bytes(lzma.compress(encoded))


def packed(value: Any, protocol: int) -> str:
    return base64.b64encode(pickle.dumps(value, protocol)).decode()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
