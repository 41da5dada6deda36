"""Tables with bad columns, and pickles inside or beside other files (P39 to P41)."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import runpy
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from leantune.errors import DataError

ASSEMBLER = runpy.run_path(str(Path(__file__).with_name("assembler.py")))
Ref, Call, Raw = ASSEMBLER["Ref"], ASSEMBLER["Call"], ASSEMBLER["Raw"]
pickled, assembled = ASSEMBLER["pickled"], ASSEMBLER["assembled"]

TABLES: dict[str, tuple[Any, str]] = {
    "P34-list-in-a-key-of-a-row": (
        [{"text": "a"}, Raw(b"}" + assembled((["a"],)) + b"Ns")],
        ":2: a key that is no text",
    ),
    "P34-list-in-a-key": (
        Raw(b"}" + assembled((["a"],)) + assembled(["b"]) + b"s"),
        "a list as a column's name",
    ),
    "P39-double-column": (
        Raw(b"}(" + 2 * (assembled("text") + assembled(["a"])) + b"u"),
        "more than one column",
    ),
    "P39-double-key-in-a-row": (
        Raw(b"](}(" + 2 * (assembled("text") + assembled("a")) + b"ue"),
        ":1: the same key twice",
    ),
    "P39-ragged": (
        {"text": ["a", "b"], "label": [1]},
        ":2:label: no value in this row, but the column 'text' has 2",
    ),
    "P39-bytes": ({"text": ["a", b"b"]}, ":2:text: bytes, expected a text"),
    "P39-number": ({"text": ["a", 7]}, ":2:text: a number, expected a text"),
    "P39-none": ({"text": ["a", None]}, ":2:text: null, expected a text"),
    "P39-list": ({"text": ["a", ["b"]]}, ":2:text: a list, expected a text"),
    "P39-dict": ({"text": ["a", {"b": 1}]}, ":2:text: an object, expected a text"),
    "P39-date": (
        {"text": [Call(Ref("datetime", "date"), (b"\x07\xe4\x01\x01",))]},
        ":1:text: a date, expected a text",
    ),
    "P39-column-name": (Raw(b"}N" + assembled(["a"]) + b"s"), "null as a column's name"),
    "P39-missing-key": (
        [{"text": "a"}, {"label": "b"}],
        ":2:text: no such key in this row, which has 'label'",
    ),
    "P39-no-rows": ({"text": []}, "no rows, expected at least one"),
    "P39-no-columns": ({}, "no columns, expected texts"),
    "P39-no-text": ({"review": ["a"]}, "no column 'text'; found 'review'"),
    "P39-surrogate": ({"text": [Raw(b"V\\ud800\n")]}, ":1:text: half of a surrogate pair"),
}


@pytest.mark.parametrize(("value", "message"), TABLES.values(), ids=TABLES)
def test_p39_tables_that_are_wrong(refused: Any, value: Any, message: str) -> None:
    assert message in refused(pickled(value, 4), DataError)


BENIGN, FOREIGN_PICKLE = pickle.dumps({"text": ["a"]}), pickled(Call(Ref("os", "system"), ("true",)))


def zipped(name: str = "data.pkl", content: bytes = FOREIGN_PICKLE) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("data.pkl"))
    return out.getvalue()


ARCHIVES = {
    "P40-zip": zipped(),
    "P40-zip-flag-bits": zipped()[:6] + b"\x01" + zipped()[7:],
    "P40-zip-crc": zipped()[:14] + b"\x00\x00\x00\x00" + zipped()[18:],
    "P40-zip-names": zipped().replace(b"data.pkl", b"text.csv", 1),
    "P40-7z": b"7z\xbc\xaf'\x1c" + FOREIGN_PICKLE,
    "P40-tar": tarred(),
    **{
        f"P40-{kind}-{name}": content
        for kind, pack in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress))
        for name, content in {
            "foreign": pack(FOREIGN_PICKLE),
            "two-members": pack(BENIGN) + pack(BENIGN),
            "split-in-two": pack(BENIGN[:9]) + pack(BENIGN[9:]),
            "bytes-after-it": pack(BENIGN) + (b"\x00" * 9 if kind == "gz" else zipped()),
            "zip-inside": pack(zipped()),
        }.items()
    },
    "P41-pickle-and-zip": BENIGN + zipped(),
    "P41-foreign-and-zip": FOREIGN_PICKLE + zipped(),
    "P41-zip-in-front": zipped() + BENIGN,
    "P41-pickle-and-safetensors": b"\x80\x02\x00\x00\x00\x00\x00\x00" + b"{}",
}


@pytest.mark.parametrize("name", ["rows.pkl", "rows.csv", "rows.bin"])
@pytest.mark.parametrize("content", ARCHIVES.values(), ids=ARCHIVES)
def test_archives_and_polyglots(refused: Any, content: bytes, name: str) -> None:
    refused(content, name=name)
