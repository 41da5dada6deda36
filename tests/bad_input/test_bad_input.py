"""Bad data files: each ends with one line that says what, where and what to do, and with the right code.

``golden.tsv`` holds the exit code and the message of every case.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leantune.data.text.read import Columns, open_examples
from leantune.data.text.unusable import usable_batches
from leantune.errors import DataError, LeantuneError


def parquet(**columns: Any) -> bytes:
    return parquet_of(pa.table(columns))


def parquet_of(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def arrow(table: pa.Table, *, stream: bool) -> bytes:
    out = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def arrow_with_bad_offsets(*, stream: bool) -> bytes:
    content = arrow(pa.table({"text": ["first", "second"]}), stream=stream)
    good = b"\x00\x00\x00\x00\x05\x00\x00\x00\x0b\x00\x00\x00"
    assert content.count(good) == 1
    return content.replace(good, b"\x00\x00\x00\x00\xff\xff\xff\x7f\x0b\x00\x00\x00")


def with_unpickled_column() -> pa.Table:
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": b"cos\nsystem\n.",
    }
    hidden = pa.field("hidden", pa.binary(), metadata=metadata)
    return pa.table({"text": ["a"], "nested": pa.array([{"hidden": b""}], pa.struct([hidden]))})


def with_class_names(description: object) -> bytes:
    table = pa.table({"text": ["a", "b", "c"], "label": [0, 1, -1]})
    return parquet_of(table.replace_schema_metadata({"huggingface": json.dumps(description)}))


def class_label(names: object) -> dict[str, object]:
    return {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}


def zipped(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


@dataclass
class Bad:
    id: str
    file: str
    content: bytes
    columns: dict[str, str] = field(default_factory=dict)
    labels: Any = "required"


CASES = [
    # files
    Bad("empty", "a.csv", b""),
    Bad("empty-gzip", "a.csv.gz", gzip.compress(b"")),
    Bad("header-only", "a.csv", b"text,label\n"),
    Bad("blank-lines-only", "a.csv", b"\n\n\n"),
    Bad("png", "a.csv", b"\x89PNG\r\n\x1a\n" + bytes(40)),
    Bad("pdf", "a.csv", b"%PDF-1.7\n"),
    Bad("zstd", "a.csv.zst", b"\x28\xb5\x2f\xfd" + bytes(40)),
    Bad("old-feather", "a.feather", b"FEA1" + bytes(40)),
    Bad("zip", "a.csv", zipped("a.csv", b"text,label\n")),
    Bad("zip-of-pickle", "model.bin", zipped("data.pkl", b"\x80\x04N.")),
    Bad("tar", "a.csv", b"a".ljust(257, b"\x00") + b"ustar\x00" + bytes(200)),
    Bad("7z", "a.csv", b"7z\xbc\xaf'\x1c" + bytes(40)),
    Bad("packed-twice", "a.csv.gz", gzip.compress(gzip.compress(b"text\na\n"))),
    Bad("gzip-cut-short", "a.csv.gz", gzip.compress(b"text,label\n" + b"a,b\n" * 999)[:-20]),
    Bad("gzip-damaged", "a.csv.gz", gzip.compress(b"text,label\na,b\n")[:-8] + bytes(8)),
    Bad("bzip2-damaged", "a.csv.bz2", bz2.compress(b"text,label\na,b\n")[:-9] + bytes(9)),
    Bad("xz-damaged", "a.csv.xz", lzma.compress(b"text,label\na,b\n")[:-9] + bytes(9)),
    Bad("parquet-in-gzip", "a.parquet.gz", gzip.compress(parquet(text=["a"]))),
    Bad("xls", "a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(40)),
    Bad("docx", "a.docx", zipped("word/document.xml", b"<a/>")),
    # text encodings
    Bad("latin-1-json", "a.jsonl", '{"text": "ok"}\n{"text": "café"}\n'.encode("latin-1")),
    Bad("latin-1-controls", "a.csv", "text,label\nok,x\ncafé\x1b,x\n".encode("latin-1")),
    Bad("no-windows-either", "a.csv", b"text,label\nok,x\n\x81,x\n"),
    Bad("bad-utf-8-far", "a.csv", b"text,label\n" + b"abcdefgh,x\n" * 40_000 + b"\x90,x\n"),
    Bad("bad-byte-in-utf-8", "a.csv", b"text,label\ncaf\xc3\xa9,x\ncaf\xe9,x\n"),
    Bad("cut-utf-8", "a.csv", b"text,label\na,\xe2\x82"),
    Bad("cut-utf-16", "a.csv", "text,label\na,b\n".encode("utf-16") + b"c"),
    Bad("utf-16-without-mark", "a.csv", "text,label\na,b\n".encode("utf-16-le")),
    Bad("nul", "a.csv", b"text,label\na,x\nb\x00c,y\n"),
    Bad("nul-jsonl", "a.jsonl", b'{"text": "a"}\n{"text": "\x00"}\n', labels="ignore"),
    # CSV
    Bad("unclosed-quote", "a.csv", b'text,label\na,x\n"b,y\nc,z\nd,w\n'),
    Bad("quote-closed-early", "a.csv", b'text,label\na,x\n"b" c,y\n'),
    Bad("quote-closed-later", "a.csv", b'text,label\n"a,x\nb,y\n"c",z\n'),
    Bad("quote-in-header", "a.csv", b'"text,label\na,x\n'),
    Bad("too-many-fields", "a.csv", b"text,label\na,x\nb, c,y\n"),
    Bad("too-few-fields", "a.csv", b'text,label\n"a\nb",x\nc\n'),
    Bad("too-many-between-semicolons", "a.csv", b"text;label\na;x\nb; c;y\n"),
    Bad("semicolons-without-text", "a.csv", b"Text;label\na;x\n"),
    Bad("too-many-between-tabs", "a.csv", b"text\tlabel\na\tb\tx\n"),
    Bad("semicolons-in-tsv", "a.tsv", b'"text";"label"\n"a";"x"\n'),
    Bad("commas-in-tsv", "a.tsv", b"text,label\na,x\n"),
    Bad("tab-in-tsv-quotes", "a.tsv", b'text\tlabel\n"a\tb"\tx\n'),
    Bad("line-end-in-tsv-quotes", "a.tsv", b'text\tlabel\n"a\nb"\tx\n'),
    Bad("duplicate-columns", "a.csv", b"text,label,text\na,x,b\n"),
    Bad("missing-text", "a.csv", b"Text,label\na,x\n"),
    Bad("missing-named-column", "a.csv", b"sentence,label\na,x\n", columns={"text": "sentense"}),
    Bad("missing-label", "a.csv", b"text,lable\na,x\n"),
    Bad("missing-named-label", "a.csv", b"text,gold\na,x\n", columns={"label": "golf"}),
    Bad("missing-pair", "a.csv", b"text,label\na,x\n", columns={"text_pair": "question"}),
    Bad("missing-id", "a.csv", b"text,label\na,x\n", columns={"id": "id"}),
    Bad("odd-column-name", "a.csv", b'"te\nxt",label\n,x\n', columns={"text": "te\nxt"}),
    Bad("empty-text", "a.csv", b"text,label\na,x\n,y\n"),
    Bad("blank-text", "a.csv", b'text,label\n"a\nb",x\n" \t ",y\n'),
    Bad("field-too-long", "a.csv", b'text,label\n"' + b"a" * (2**24 + 1)),
    # plain lines
    Bad("lines-for-training", "a.txt", b"a cat\na dog\n"),
    Bad("lines-of-prose-for-training", "a.txt", b"I came, I saw\nI went\n"),
    Bad("lines-empty", "a.txt", b"\n\n", labels="ignore"),
    Bad("lines-of-columns", "a.txt", b"ham\tgo on\nspam\twin\n", labels="ignore"),
    Bad("lines-under-a-near-name", "a.txt", b"Text,label\na,x\n", labels="ignore"),
    Bad("lines-of-csv", "a.txt", b"review,label\na,x\n"),
    Bad("lines-nul", "a.txt", b"a\nb\x00c\n", labels="ignore"),
    # JSON lines
    Bad("json-cut", "a.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b", "label\n'),
    Bad("json-not", "a.jsonl", b"hello\n"),
    Bad("list-empty", "a.json", b"[]"),
    Bad("list-of-texts", "a.json", b'["a", "b"]'),
    Bad("list-of-lists", "a.jsonl", b'["text", "label"]\n["a", "x"]\n'),
    Bad("list-with-null", "a.json", b'[{"text": "a", "label": "x"}, null, {"text": "b", "label": "x"}]'),
    Bad("list-without-comma", "a.json", b'[{"text": "a", "label": "x"} {"text": "b", "label": "x"}]'),
    Bad("list-comma-at-end", "a.json", b'[{"text": "a", "label": "x"},]'),
    Bad("list-cut", "a.json", b'[{"text": "a", "label": "x"}, {"text": "b", "la'),
    Bad("list-not-closed", "a.json", b'[{"text": "a", "label": "x"}'),
    Bad("list-and-more", "a.json", b'[{"text": "a", "label": "x"}] []'),
    Bad("list-bad-row", "a.json", b'[{"text": "a", "label": "x"}, {"text": b, "label": "x"}]'),
    Bad("list-double-key", "a.json", b'[{"text": "a", "label": "x"}, {"text": "b", "text": "c"}]'),
    Bad("list-wrong-bracket", "a.json", b'[{"text": "a", "label": ["x"}}, {"text": "b"}]'),
    Bad("list-deep", "a.json", b'[{"text": ' + b"[" * 200_000),
    Bad("list-deep-closed", "a.json", b'[{"text": ' + b"[" * 200 + b"]" * 200 + b"}]"),
    Bad("list-number-text", "a.json", b'[{"text": "a", "label": "x"},\n\n{"text": 7, "label": "x"}]'),
    Bad("list-missing-key", "a.json", b'[{"text": "a", "label": "x"}, {"text": "b"}]'),
    Bad("wrapped-and-more", "a.json", b'{\n"data": [{"text": "a", "label": "x"}],\n"version": 1}'),
    Bad("wrapped-not-closed", "a.json", b'{\n"data": [{"text": "a", "label": "x"}]\n'),
    Bad("wrapped-twice", "a.json", b'{"data": [{"text": "a", "label": "x"}]}\n{"data": []}\n'),
    Bad("path-missing", "a.jsonl", b'{"data": {"txt": "a"}, "label": "x"}\n', columns={"text": "data.text"}),
    Bad(
        "path-missing-later",
        "a.jsonl",
        b'{"data": {"text": "a"}}\n{"data": {}}\n',
        {"text": "data.text"},
        "ignore",
    ),
    Bad("path-into-text", "a.jsonl", b'{"data": "a", "label": "x"}\n', columns={"text": "data.text"}),
    Bad("path-into-list", "a.jsonl", b'{"data": ["a"], "label": "x"}\n', columns={"text": "data.0"}),
    Bad("path-from-nothing", "a.jsonl", b'{"data": {}, "label": "x"}\n', columns={"text": "date.text"}),
    Bad("json-pretty", "a.json", b'{\n "text": "a"\n}\n'),
    Bad("json-blank", "a.jsonl", b"\n  \n"),
    Bad("json-number", "a.jsonl", b'{"text": "a", "label": "x"}\n7\n'),
    Bad("json-two-on-a-line", "a.jsonl", b'{"text": "a", "label": "x"} {"text": "b", "label": "y"}\n'),
    Bad("json-double-key", "a.jsonl", b'{"text": "a", "label": "x", "text": "b"}\n'),
    Bad("json-nan", "a.jsonl", b'{"text": "a", "label": NaN}\n'),
    Bad("json-infinity", "a.jsonl", b'{"text": "a", "label": -Infinity}\n'),
    Bad("json-deep", "a.jsonl", b'{"text": "a", "label": "x", "more": ' + b"[" * 200 + b"]" * 200 + b"}\n"),
    Bad("json-very-deep", "a.jsonl", b'{"text": ' + b"[" * 200_000),
    Bad("json-huge-number", "a.jsonl", b'{"text": "a", "label": ' + b"1" * 4301 + b"}\n"),
    Bad("json-lone-surrogate", "a.jsonl", b'{"text": "a\\ud800", "label": "x"}\n'),
    Bad("json-lone-surrogate-label", "a.jsonl", b'{"text": "a", "label": "\\udfff"}\n'),
    Bad("json-control-character", "a.jsonl", b'{"text": "a\tb", "label": "x"}\n'),
    Bad("json-number-text", "a.jsonl", b'{"text": "a", "label": "x"}\n\n{"text": 7, "label": "x"}\n'),
    Bad("json-list-text", "a.jsonl", b'{"text": ["a"], "label": "x"}\n'),
    Bad("json-object-text", "a.jsonl", b'{"text": {"a": 1}, "label": "x"}\n'),
    Bad("json-boolean-text", "a.jsonl", b'{"text": true, "label": "x"}\n'),
    Bad("json-null-text", "a.jsonl", b'{"text": null, "label": "x"}\n'),
    Bad("json-missing-key", "a.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b"}\n'),
    Bad("json-list-id", "a.jsonl", b'{"text": "a", "id": [1]}\n', labels="ignore", columns={"id": "id"}),
    # Parquet and Arrow
    Bad("parquet-cut", "a.parquet", parquet(text=["a"] * 99)[:-20]),
    Bad("parquet-magic-only", "a.parquet", b"PAR1"),
    Bad("parquet-bad-footer", "a.parquet", b"PAR1" + b"x" * 40 + b"\x20\x00\x00\x00PAR1"),
    Bad("parquet-no-magic", "a.parquet", b"\x00" * 40),
    Bad("parquet-null", "a.parquet", parquet(text=["a", "b", None], label=["x", "y", "x"])),
    Bad("parquet-numbers", "a.parquet", parquet(text=[1, 2], label=["x", "y"])),
    Bad("parquet-bytes", "a.parquet", parquet(text=[b"a"], label=["x"])),
    Bad("parquet-dates", "a.parquet", parquet(text=["a"], label=pa.array([0], pa.date32()))),
    Bad(
        "parquet-no-rows",
        "a.parquet",
        parquet(text=pa.array([], pa.string()), label=pa.array([], pa.string())),
    ),
    Bad("parquet-no-column", "a.parquet", parquet(label=["x"])),
    Bad("parquet-double-column", "a.parquet", parquet_of(pa.table([["a"], ["b"]], names=["text", "text"]))),
    Bad(
        "parquet-invalid-utf-8",
        "a.parquet",
        parquet_of(pa.table({"text": pa.array([b"\xff"]).view(pa.string())})),
        labels="ignore",
    ),
    Bad("parquet-unpickled-type", "a.parquet", parquet_of(with_unpickled_column()), labels="ignore"),
    Bad("arrow-unpickled-type", "a.arrow", arrow(with_unpickled_column(), stream=False), labels="ignore"),
    Bad("stream-unpickled-type", "a.arrow", arrow(with_unpickled_column(), stream=True), labels="ignore"),
    Bad("arrow-cut", "a.arrow", arrow(pa.table({"text": ["a"]}), stream=False)[:-9], labels="ignore"),
    Bad("arrow-bad-offsets", "a.arrow", arrow_with_bad_offsets(stream=False), labels="ignore"),
    Bad("stream-bad-offsets", "a.arrow", arrow_with_bad_offsets(stream=True), labels="ignore"),
    Bad("stream-cut", "a.arrow", arrow(pa.table({"text": ["a"] * 99}), stream=True)[:-99], labels="ignore"),
    Bad(
        "class-names-not-json",
        "a.parquet",
        parquet_of(pa.table({"text": ["a"]}).replace_schema_metadata({"huggingface": "{"})),
        labels="ignore",
    ),
    Bad("class-names-not-texts", "a.parquet", with_class_names(class_label([1, 2]))),
    Bad("class-names-twice", "a.parquet", with_class_names(class_label(["a", "a"]))),
    Bad("class-number-missing", "a.parquet", with_class_names(class_label(["a", "b"]))),
    Bad("class-number-too-large", "a.parquet", with_class_names(class_label(["a"]))),
    # labels
    Bad("label-empty", "a.csv", b"text,label\na,x\nb,\n"),
    Bad("label-null", "a.jsonl", b'{"text": "a", "label": null}\n'),
    Bad("label-nan", "a.parquet", parquet(text=["a", "b"], label=[1.0, float("nan")])),
    Bad("label-null-integer", "a.parquet", parquet(text=["a", "b"], label=[1, None])),
    Bad("label-fraction", "a.parquet", parquet(text=["a", "b"], label=[1.0, 0.5])),
    Bad("label-infinite", "a.jsonl", b'{"text": "a", "label": 1e999}\n'),
    Bad("label-list", "a.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b", "label": ["x"]}\n'),
    Bad("label-two-spellings", "a.csv", b"text,label\na,1\nb,2\nc,1.0\n"),
    Bad("label-two-spellings-zero", "a.csv", b"text,label\na,007\nb,8\nc,7\n"),
    Bad("label-integer-and-text", "a.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": "1"}\n'),
    Bad("label-integer-and-float", "a.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": 1.0}\n'),
    Bad("label-boolean-and-integer", "a.jsonl", b'{"text": "a", "label": true}\n{"text": "b", "label": 1}\n'),
    Bad(
        "label-too-many", "a.csv", b"text,label\n" + b"".join(b"a,x%d\n" % number for number in range(65_537))
    ),
]


GOLDEN = {
    name: (int(code), message)
    for name, code, message in (
        line.split("\t", 2) for line in Path(__file__).with_name("golden.tsv").read_text("utf-8").splitlines()
    )
}


def read_all(bad: Bad) -> None:
    source = open_examples(bad.file, Columns(**bad.columns), labels=bad.labels)
    list(usable_batches(source, 2) if bad.labels == "required" else source.batches(2))


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.id)
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad) -> None:
    monkeypatch.chdir(tmp_path)
    Path(bad.file).write_bytes(bad.content)
    with pytest.raises(LeantuneError) as caught:
        read_all(bad)
    assert (caught.value.exit_code, str(caught.value)) == GOLDEN[bad.id]


def test_every_golden_line_is_a_case() -> None:
    assert sorted(GOLDEN) == sorted(bad.id for bad in CASES)


def test_a_packed_file_may_not_unpack_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leantune.data.text.readers.content.UNPACKED_BYTES", 1000)
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(b"text\n" + b"a\n" * 1_000_000))
    with pytest.raises(
        DataError, match=r"bomb.csv.gz: the file unpacks to more than [\d,]+ bytes: unpack it"
    ):
        list(open_examples(str(path), Columns(), labels="ignore").batches())


def test_a_folder_that_is_no_saved_dataset(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"an empty directory, expected a file, a folder written by save_to_disk"
    ):
        open_examples(str(tmp_path), Columns(), labels="ignore")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "state.json: not JSON at character 2"),
        ("[]", "state.json: no list named '_data_files': save the dataset again"),
        ('{"_data_files": []}', "no data files, or files of different columns: save it again"),
        ('{"_data_files": [{"filename": "../rows.arrow"}]}', "'../rows.arrow' is not the name of a file in"),
        ('{"_data_files": [{"filename": "rows.arrow"}]}', "rows.arrow: cannot be read: No such file"),
        ('{"_data_files": [{"filename": "state.json"}]}', "jsonlines content, expected Arrow"),
    ],
)
def test_damaged_saved_datasets(tmp_path: Path, state: str, message: str) -> None:
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(DataError) as caught:
        open_examples(str(tmp_path), Columns(), labels="ignore")
    assert message in str(caught.value)
