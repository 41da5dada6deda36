"""Files as people have them: plain lines, JSON lists, sheets, folders of texts, several files, other encodings."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import hashlib
import io
import json
import lzma
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leantune.data.labels import LabelMap
from leantune.data.text.read import Columns, open_examples
from leantune.data.text.readers import json_list, lines
from leantune.data.text.unusable import usable_batches
from leantune.errors import DataError, UnsafeFileError, UsageError

PACKINGS: dict[str, Any] = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def rows_of(
    location: Path | str, labels: Any = "required", split: str = "train", batch_rows: int = 2, **columns: str
) -> list[tuple[str, ...]]:
    """(text,) or (text, label) of every row."""
    source = open_examples(str(location), Columns(**columns), labels=labels, split=split)
    is_labelled = labels == "required"
    batches = (
        [batch for batch, _ in usable_batches(source, batch_rows)]
        if is_labelled
        else list(source.batches(batch_rows))
    )
    assert all(len(batch.ids) <= batch_rows for batch in batches)
    assert [row for batch in batches for row in batch.ids] == [
        str(i) for i in range(sum(len(b.ids) for b in batches))
    ]
    if labels == "ignore":
        return [(text,) for batch in batches for text in batch.texts]
    rows = [row for batch in batches for row in zip(batch.texts, batch.labels or [], strict=True)]
    assert source.labels() == [label for _, label in rows]
    return rows


def notes_of(location: Path | str, labels: Any = "required", split: str = "train") -> tuple[str, ...]:
    return open_examples(str(location), Columns(), labels=labels, split=split).notes


def refusal(location: Path | str, labels: Any = "required", split: str = "train", **columns: str) -> str:
    """The one line that says why a location is not read."""
    with pytest.raises((DataError, UsageError, UnsafeFileError)) as caught:
        rows_of(location, labels, split, **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# Plain lines


@pytest.mark.parametrize("suffix", PACKINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_txt_file_is_one_text_a_line(suffix: str, end: str) -> None:
    texts = ['a "cat", here', "", "  two\u2028parts ", "", "", "naïve 日本"]
    name = f"a.txt{suffix}"
    Path(name).write_bytes(PACKINGS[suffix](end.join([*texts, "", ""]).encode()))
    assert rows_of(name, "ignore") == [(text,) for text in texts]
    assert notes_of(name, "ignore") == (f"{name}: no header, read as one text a line",)
    source = open_examples(name, Columns(), labels="ignore")
    assert [source.locate(i) for i in range(6)] == [1, 2, 3, 4, 5, 6]


def test_plain_lines_are_the_text_whatever_it_is_called() -> None:
    Path("a.txt").write_text("a cat\na dog\n")
    assert rows_of("a.txt", "ignore", text="review") == [("a cat",), ("a dog",)]
    assert "no column 'question'; found 'review'" in refusal(
        "a.txt", "ignore", text="review", text_pair="question"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text,label\na,x\n", [("a",)]),
        ("id;text\n1;a\n", [("a",)]),
        ("text\tlabel\na\tx\n", [("a",)]),
        ("text\na\n", [("a",)]),
        ('{"text": "a"}\n', [("a",)]),
        ('[{"text": "a"}]\n', [("a",)]),
        ("[1] a, b\nc\n", [("[1] a, b",), ("c",)]),
        ("one\ttab\nno tab\n", [("one\ttab",), ("no tab",)]),
        ("a; b, c | d\n", [("a; b, c | d",)]),
        ('"open\nand on\n', [('"open',), ("and on",)]),
    ],
)
def test_a_txt_file_with_the_column_in_its_header_is_a_table(
    content: str, expected: list[tuple[str]]
) -> None:
    Path("a.txt").write_text(content)
    assert rows_of("a.txt", "ignore") == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=1))
def test_plain_lines_round_trip(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    texts = ["first line", *texts, "last line"]
    path.write_text("\n".join(texts), "utf-8")
    assert rows_of(path, "ignore", batch_rows=3) == [(text,) for text in texts]


# JSON


ROWS = [
    {"text": 'a "cat" {[', "label": "x"},
    {"text": "b\\", "label": "y"},
    {"text": "ü]}\u2028", "label": "x"},
]
EXPECTED = [(str(row["text"]), row["label"]) for row in ROWS]


@pytest.mark.parametrize("suffix", PACKINGS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_json_list_is_read(suffix: str, encoding: str, indent: int | None, is_wrapped: bool) -> None:
    text = json.dumps({"data": ROWS} if is_wrapped else ROWS, indent=indent, ensure_ascii=False) + "\n"
    for name in (f"a.json{suffix}", f"a.csv{suffix}"):
        Path(name).write_bytes(PACKINGS[suffix](text.encode(encoding)))
        assert rows_of(name) == EXPECTED
    source = open_examples(name, Columns(), labels="required")
    assert [source.locate(i) for i in range(3)] == [1, 2, 3]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), json_values), min_size=1),
    st.sampled_from([None, 0, 1]),
    st.booleans(),
    st.integers(1, 9),
)
def test_a_json_list_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, object]],
    indent: int | None,
    is_ascii: bool,
    block: int,
) -> None:
    path = tmp_path_factory.mktemp("list") / "a.json"
    objects = [{"text": text, "more": more} for text, more in rows]
    path.write_text(json.dumps(objects, indent=indent, ensure_ascii=is_ascii), "utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_CHARS", block)  # strings, escapes and brackets go on in the next one
        assert rows_of(path, "ignore") == [(text,) for text, _ in rows]


@settings(max_examples=200, deadline=None)
@given(st.text('[]{}",:\\ab1 \n', max_size=40))
def test_what_is_like_a_json_list_is_read_as_json_has_it_or_refused(
    tmp_path_factory: pytest.TempPathFactory, end: str
) -> None:
    path = tmp_path_factory.mktemp("list") / "a.json"
    text = '[{"text": "a"}' + end
    path.write_text(text, "utf-8", newline="")
    try:
        expected = [(row["text"],) for row in json.loads(text)]
    except (ValueError, TypeError, KeyError):
        refusal(path, "ignore")
    else:
        assert rows_of(path, "ignore") == expected


def test_lines_that_begin_with_a_list_of_objects_stay_lines() -> None:
    line = {"entities": [{"a": 1}], "text": "a", "label": "x"}
    Path("a.jsonl").write_text(f"{json.dumps(line)}\n" * 2)
    assert rows_of("a.jsonl") == [("a", "x")] * 2


def test_a_json_list_is_streamed_and_a_row_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.json").write_text(json.dumps([{"text": "word " * 50}] * 2000))
    monkeypatch.setattr(lines, "BLOCK_CHARS", 100)
    monkeypatch.setattr(json_list, "MAX_LINE_CHARS", 1000)
    assert len(rows_of("a.json", "ignore", batch_rows=500)) == 2000
    Path("a.json").write_text(json.dumps([{"text": "a"}, {"text": "word " * 500}]))
    assert refusal("a.json", "ignore").startswith("a.json:2: a row of more than 1,000 characters")


def test_a_path_leads_into_objects_unless_a_key_has_its_name() -> None:
    rows = [
        {"data": {"text": "a", "more": {"gold": 1}}, "data.text": "not a"},
        {"data": {"text": "b", "more": {"gold": 2}}, "data.text": "not b"},
    ]
    for name, content in {"a.json": json.dumps(rows), "a.jsonl": "\n".join(map(json.dumps, rows))}.items():
        Path(name).write_text(content)
        assert rows_of(name, text="data.text", label="data.more.gold") == [("not a", "1"), ("not b", "2")]
    Path("a.jsonl").write_text("\n".join(json.dumps({"data": row["data"]}) for row in rows))
    assert rows_of("a.jsonl", text="data.text", label="data.more.gold") == [("a", "1"), ("b", "2")]
    assert refusal("a.jsonl", text="data.text", label="data.more.golf") == (
        "a.jsonl:1:data.more.golf: no 'golf' in 'data.more', which has 'gold'; did you mean 'gold'?: every row needs it"
    )


# Sheets


def save_sheet(path: str, rows: list[list[Any]], title: str = "Rows", more: int = 0) -> None:
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    assert sheet is not None
    sheet.title = title
    for row in rows:
        sheet.append(row)
    for _ in range(more):
        workbook.create_sheet().append(["something", "else"])
    workbook.save(path)


def test_the_first_sheet_of_a_workbook_is_read() -> None:
    empty: list[Any] = []
    rows = [
        empty,
        ["text", None, "label"],
        ["a, b", 3.5, 1],
        empty,
        ["line\nend", None, 2],
        ["c", None, 1],
        [None, "", None],
    ]
    save_sheet("a.xlsx", rows, more=1)
    assert rows_of("a.xlsx") == [("a, b", "1"), ("line\nend", "2"), ("c", "1")]
    assert notes_of("a.xlsx") == ("a.xlsx: only the first of 2 sheets is read, Rows",)
    source = open_examples("a.xlsx", Columns(), labels="required")
    assert [source.locate(i) for i in range(3)] == [("a.xlsx (sheet Rows)", row) for row in (3, 5, 6)]
    assert source.sha256() == hashlib.sha256(Path("a.xlsx").read_bytes()).hexdigest()
    Path("a.csv").write_bytes(Path("a.xlsx").read_bytes())
    assert rows_of("a.csv", batch_rows=1) == rows_of("a.xlsx")


SHARED = (
    '<Override PartName="/xl/sharedStrings.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"/></Types>'
)


def test_a_workbook_of_excel_has_its_texts_in_a_table_of_their_own() -> None:
    save_sheet("a.xlsx", [["text"], ["a"], ["b"]])
    texts = "<si><t>text</t></si><si><r><t>two </t></r><r><t>runs</t></r></si><si><t>a_x000D_b</t></si>"

    def change(name: str, content: bytes) -> bytes:
        if name == "[Content_Types].xml":
            return content.replace(b"</Types>", SHARED.encode())
        for number, text in enumerate((b"text", b"a", b"b")):
            inline = b't="inlineStr"><is><t>%s</t></is>' % text
            content = content.replace(inline, b't="s"><v>%d</v>' % number)
        return content

    rewritten("a.xlsx", change)
    namespace = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    with zipfile.ZipFile("a.xlsx", "a") as archive:
        archive.writestr("xl/sharedStrings.xml", f'<sst xmlns="{namespace}">{texts}</sst>')
    assert rows_of("a.xlsx", "ignore") == [("two runs",), ("a\rb",)]
    rewritten("a.xlsx", lambda name, content: content.replace(b"<v>2</v>", b"<v>99</v>"))
    assert refusal("a.xlsx", "ignore").startswith("a.xlsx: the workbook is damaged (IndexError: ")
    rewritten("a.xlsx", lambda name, content: content.replace(b"<v>99</v>", b"<v>%s</v>" % (b"9" * 6000)))
    assert refusal("a.xlsx", "ignore").startswith("a.xlsx: the workbook is damaged (ValueError: ")


def test_an_empty_cell_is_an_empty_text_for_a_prediction() -> None:
    save_sheet("a.xlsx", [["text", "id"], ["a", 1], [None, 2]])
    assert rows_of("a.xlsx", "ignore") == [("a",), ("",)]
    assert refusal("a.xlsx", label="id") == (
        "a.xlsx (sheet Rows):3:text: a blank text, expected words: fill in or remove such rows, or leave them out "
        "with --skip-blank-rows (blank_rows=skip in a recipe)"
    )


sheet_texts = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn"]), min_size=1, max_size=20
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(sheet_texts, st.integers(-5, 5)), min_size=1, max_size=9))
def test_a_sheet_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]]) -> None:
    path = tmp_path_factory.mktemp("sheet") / "a.xlsx"
    workbook = openpyxl.Workbook()
    for number, (text, label) in enumerate([("text", "label"), *rows], start=1):
        cell = workbook.active.cell(number, 1)  # type: ignore[union-attr]
        cell.value, cell.data_type = text, "s"  # a text may begin as a formula does
        workbook.active.cell(number, 2, label)  # type: ignore[union-attr]
    workbook.save(path)
    source = open_examples(str(path), Columns(), labels="ignore")
    assert [text for batch in source.batches(3) for text in batch.texts] == [text for text, _ in rows]
    assert open_examples(str(path), Columns(), labels="required").labels() == [
        str(label) for _, label in rows
    ]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (2019, "a.xlsx (sheet Rows):3:text: a number, expected a text"),
        (True, "a.xlsx (sheet Rows):3:text: a boolean, expected a text"),
        (datetime.date(2020, 1, 2), "a.xlsx (sheet Rows):3:text: a date or time, expected a text"),
        ("#N/A", "a.xlsx (sheet Rows):3:text: a formula error (#N/A), expected a text"),
    ],
)
def test_a_cell_that_is_no_text_is_named(cell: object, said: str) -> None:
    save_sheet("a.xlsx", [["text", "label"], ["a", "x"], [cell, "y"]])
    assert refusal("a.xlsx").startswith(said)


def test_a_label_that_is_no_class_is_named() -> None:
    for cell, said in (
        (0.5, "the label 0.5 is no whole number"),
        (datetime.datetime(2020, 1, 1), "a date or time"),
    ):
        save_sheet("a.xlsx", [["text", "label"], ["a", cell]])
        assert refusal("a.xlsx").startswith(f"a.xlsx (sheet Rows):2:label: {said}")


def test_a_header_that_is_none_is_refused() -> None:
    save_sheet("a.xlsx", [])
    assert refusal("a.xlsx") == "a.xlsx (sheet Rows): 0 columns, expected a header of 1 to 1,000 and rows"
    save_sheet("a.xlsx", [["text", "text"], ["a", "b"]])
    assert "a.xlsx (sheet Rows):1: more than one column is named 'text'" in refusal("a.xlsx")
    save_sheet("a.xlsx", [["text", 0.5], ["a", "b"]])
    assert refusal("a.xlsx").startswith("a.xlsx (sheet Rows):1: a number in the header")
    save_sheet("a.xlsx", [["text", "label"]])
    assert refusal("a.xlsx") == "a.xlsx: no rows, expected at least one"
    save_sheet("a.xlsx", [["review", "label"], ["a", "b"]])
    assert refusal("a.xlsx").startswith("a.xlsx: no column 'text'; found 'review', 'label'")


def rewritten(path: str, change: Any, **options: Any) -> None:
    """Write a workbook again with each member as ``change(name, content)`` has it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content), **options)


def test_a_workbook_that_unpacks_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    save_sheet("a.xlsx", [["text", "label"], ["a", "x"]])
    rewritten("a.xlsx", lambda name, content: content + b" " * 2_000_000 * name.endswith("sheet1.xml"))
    monkeypatch.setenv("LEANTUNE_MAX_UNPACKED_MIB", "1")
    assert refusal("a.xlsx").startswith("a.xlsx: the workbook unpacks to more than 1,048,576 bytes")


def test_a_workbook_with_entities_is_refused() -> None:
    save_sheet("a.xlsx", [["text", "label"], ["a", "x"]])
    bomb = b'<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]>'
    rewritten("a.xlsx", lambda name, content: bomb + content if name.endswith("sheet1.xml") else content)
    assert refusal("a.xlsx") == (
        "a.xlsx: a document type in xl/worksheets/sheet1.xml: refused; save the sheet as CSV UTF-8"
    )


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_workbook_packed_in_another_way_is_refused(method: int) -> None:
    save_sheet("a.xlsx", [["text", "label"], ["a", "x"]])
    rewritten("a.xlsx", lambda name, content: content, compress_type=method)
    assert "is compressed in a way that workbooks do not use" in refusal("a.xlsx")


def test_rows_and_columns_that_a_sheet_cannot_have_are_not_made() -> None:
    save_sheet("a.xlsx", [["text", "label"], ["a", "x"]])
    rewritten("a.xlsx", lambda name, content: content.replace(b'<row r="2">', b'<row r="999999999999">'))
    assert "no rows" in refusal("a.xlsx")
    save_sheet("a.xlsx", [["text", "label"], ["a", "x"]])
    rewritten("a.xlsx", lambda name, content: content.replace(b'ref="A1:B2"', b'ref="A1:XFD1048576"'))
    assert rows_of("a.xlsx") == [("a", "x")]
    save_sheet("a.xlsx", [["text", *range(1000)], ["a"]])
    assert "1,001 columns, expected a header of 1 to 1,000" in refusal("a.xlsx")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_workbook_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.mktemp("sheet") / "a.xlsx"
    save_sheet(str(path), [["text", "label"], ["a", "x"], ["b", 2]])
    with zipfile.ZipFile(path) as archive:
        members = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    name = data.draw(st.sampled_from(sorted(members)))
    for _ in range(data.draw(st.integers(1, 4))):
        members[name][data.draw(st.integers(0, len(members[name]) - 1))] = data.draw(st.integers(0, 255))
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, bytes(content))
    try:
        assert len(rows_of(path, "ignore")) <= 2
    except (DataError, UnsafeFileError):
        refusal(path, "ignore")


def test_a_workbook_cut_short_or_packed_is_refused() -> None:
    save_sheet("a.xlsx", [["text", "label"], ["a", "x"]])
    content = Path("a.xlsx").read_bytes()
    Path("b.xlsx").write_bytes(content[:-30])
    assert refusal("b.xlsx").startswith("b.xlsx: a zip archive, and archives are not opened")
    Path("c.xlsx").write_bytes(content.replace(b"\x00\x00\x00\x00", b"\x00\x01\x00\x00", 3))
    assert "c.xlsx" in refusal("c.xlsx")
    Path("d.xlsx.gz").write_bytes(gzip.compress(content, mtime=0))
    assert refusal("d.xlsx.gz").startswith("d.xlsx.gz: a zip archive, and archives are not opened: unpack it")


def test_without_openpyxl_the_error_says_what_to_install() -> None:
    save_sheet("a.xlsx", [["text", "label"], ["a", "x"]])
    code = """
import sys
sys.modules["openpyxl"] = None
from leantune.data.text.read import Columns, open_examples
from leantune.errors import UsageError
try:
    open_examples("a.xlsx", Columns(), labels="required")
except UsageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("a.xlsx: reading .xlsx needs openpyxl")
    assert "pip install 'leantune[xlsx]'" in done.stdout


# Folders of texts


def make_texts(folder: str, **texts: str) -> None:
    """Files by ``CLASS__NAME``."""
    for name, text in texts.items():
        path = Path(folder, *name.split("__")).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def test_a_folder_of_texts_for_each_class_is_read_in_the_order_of_names() -> None:
    make_texts("reviews", pos__2="good\nvery\n", pos__10="fine", neg__1="bad")
    Path("reviews/pos/3.txt.gz").write_bytes(gzip.compress(b"packed", mtime=0))
    Path("reviews/.DS_Store").write_text("x")
    Path("reviews/pos/.hidden").write_text("x")
    Path("reviews/.git").mkdir()
    expected = [("bad", "neg"), ("fine", "pos"), ("good\nvery", "pos"), ("packed", "pos")]
    assert rows_of("reviews") == rows_of("reviews/", text="review", label="gold") == expected
    assert rows_of("reviews", "ignore") == [(text,) for text, _ in expected]
    assert notes_of("reviews") == ("reviews: 4 texts of the classes 'neg', 'pos'",)
    source = open_examples("reviews", Columns(), labels="required")
    assert [source.locate(i) for i in range(2)] == [("reviews/neg/1.txt", None), ("reviews/pos/10.txt", None)]


def test_the_folder_of_the_split_is_read() -> None:
    make_texts(
        "imdb", train__pos__1="a", train__neg__1="b", test__pos__1="c", test__neg__1="d", notes="see there"
    )
    assert rows_of("imdb") == [("b", "neg"), ("a", "pos")]
    assert rows_of("imdb", split="test") == [("d", "neg"), ("c", "pos")]
    assert rows_of("imdb/test") == [("d", "neg"), ("c", "pos")]
    assert refusal("imdb", split="validation") == (
        "imdb: no folder 'validation' of class folders, it has 'train', 'test': give one of them, such as imdb/train"
    )


def test_the_checksum_of_a_folder_covers_names_and_texts() -> None:
    make_texts("a", pos__1="good", neg__1="bad")
    before = open_examples("a", Columns(), labels="required").sha256()
    listed = subprocess.run(["sha256sum", "neg/1.txt", "pos/1.txt"], cwd="a", capture_output=True, check=True)
    assert before == hashlib.sha256(listed.stdout).hexdigest()
    Path("a").rename("b")
    assert open_examples("b", Columns(), labels="required").sha256() == before
    Path("b/neg").rename("b/meh")
    assert open_examples("b", Columns(), labels="required").sha256() != before


def test_a_folder_of_texts_alone_is_for_predictions() -> None:
    make_texts("texts", b="two\n", a="one")
    assert rows_of("texts", "ignore") == [("one",), ("two",)]
    assert refusal("texts").startswith("texts: a directory of .txt files without classes, expected a file")


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("pos/a.csv", b"x", "reviews/pos/a.csv: a file of another kind in the folder of a class, expected .txt files"),
        ("pos/more/a.txt", b"x", "reviews/pos/more: a directory in the folder of a class, expected .txt files"),
        ("README", b"x", "reviews: a directory with 'README' beside folders, expected a file, a folder"),
        ("pos/a.txt", b"", "reviews/pos/a.txt:text: a blank text, expected words"),
        ("pos/a.txt", b"a\x00b", "reviews/pos/a.txt: a NUL character"),
        ("pos/a.txt", b"ok\n\x81", "reviews/pos/a.txt:2: byte 0x81 at offset 3 is not UTF-8, nor is the file cp1252"),
        ("pos/a.txt.gz", gzip.compress(b"word " * 99, mtime=0)[:-9], "reviews/pos/a.txt.gz: the gzip data are damaged"),
    ],
)  # fmt: skip
def test_what_is_no_text_of_a_class_is_refused_by_name(path: str, content: bytes, said: str) -> None:
    make_texts("reviews", pos__1="good", neg__1="bad")
    Path("reviews", path).parent.mkdir(exist_ok=True)
    Path("reviews", path).write_bytes(content)
    assert refusal("reviews").startswith(said)


def test_a_folder_of_nothing_is_refused() -> None:
    Path("empty/pos").mkdir(parents=True)
    assert refusal("empty") == "empty: folders without a .txt file in them: expected a text in each"
    assert refusal("empty/pos").startswith("empty/pos: an empty directory, expected a file")
    Path("tables").mkdir()
    Path("tables/a.csv").write_text("text\na\n")
    assert refusal("tables").startswith("tables: a directory with 'a.csv', expected a file, a folder")


# Several files


def test_a_pattern_is_its_files_in_the_order_of_their_names() -> None:
    Path("b.csv").write_text("text,label\nc,y\n")
    Path("a.csv").write_text("id,label,text\n1,x,a\n2,y,b\n")
    Path("c.jsonl").write_text('{"text": "d", "label": "x"}\n')
    assert rows_of("?.*") == [("a", "x"), ("b", "y"), ("c", "y"), ("d", "x")]
    assert rows_of("[ab].csv", "ignore", batch_rows=1) == [("a",), ("b",), ("c",)]
    assert rows_of("b.cs*") == [("c", "y")]
    assert notes_of("*.csv") == ("*.csv: 2 files",)
    source = open_examples("?.*", Columns(), labels="required")
    assert [source.locate(i) for i in range(4)] == [("a.csv", 2), ("a.csv", 3), ("b.csv", 2), ("c.jsonl", 1)]
    listed = subprocess.run(["sha256sum", "a.csv", "b.csv", "c.jsonl"], capture_output=True, check=True)
    assert source.sha256() == hashlib.sha256(listed.stdout).hexdigest()
    assert (
        open_examples("b.c*", Columns(), labels="required").sha256()
        == hashlib.sha256(Path("b.csv").read_bytes()).hexdigest()
    )


def test_a_file_whose_name_is_a_pattern_is_itself() -> None:
    Path("a[1].csv").write_text("text\na\n")
    Path("a1.csv").write_text("text\nb\n")
    assert rows_of("a[1].csv", "ignore") == [("a",)]
    assert rows_of("a*.csv", "ignore") == [("b",), ("a",)]


def test_faults_under_a_pattern_name_the_file_and_its_row() -> None:
    Path("a.csv").write_text("text,target\na,1\n")
    Path("b.csv").write_text("text,label\nb,2\n")
    assert refusal("*.csv").startswith("b.csv: no column 'target'; found 'text', 'label'")
    Path("b.csv").write_text("text,target\nb,\n")
    assert refusal("*.csv").startswith("b.csv:2:target: no label")
    Path("b.csv").write_text("text,target\nb,2\n ,1\n")
    assert refusal("*.csv").startswith("b.csv:3:text: a blank text")
    Path("b.csv").write_text("text,target\nb,1\nc,1.0\n")
    assert refusal("*.csv").startswith("b.csv:3:target: the label '1.0' is the number that '1' is elsewhere")
    Path("b.csv").write_text("text,target\nb,x,1\n")
    assert refusal("*.csv").startswith("b.csv:2: 3 fields, expected 2")
    Path("b.csv").write_text("text,target\nb,3\n")
    source = open_examples("*.csv", Columns(), labels="required")
    with pytest.raises(DataError, match=r"^b.csv:2:target: the label '3' is no class"):
        LabelMap(("1", "2")).encode(["1", "3"], source.name, column="target", locate=source.locate)


def test_a_pattern_that_matches_nothing_or_a_folder_is_refused() -> None:
    assert refusal("*.csv").startswith("*.csv: no file matches this pattern in ")
    Path("a.csv").mkdir()
    assert refusal("*.csv").startswith("*.csv: a.csv is a directory, expected only files")


def test_numbers_that_stand_for_other_classes_in_the_next_file_are_refused() -> None:
    for name, classes in (("a", ["x", "y"]), ("b", ["y", "x"])):
        described = {"info": {"features": {"label": {"_type": "ClassLabel", "names": classes}}}}
        table = pa.table({"text": ["a", "b"], "label": [0, 1]})
        pq.write_table(
            table.replace_schema_metadata({"huggingface": json.dumps(described)}), f"{name}.parquet"
        )
    assert refusal("*.parquet") == (
        "b.parquet: the numbers in 'label' stand for other classes than in a.parquet: read the files separately"
    )
    assert rows_of("*.parquet", "ignore") == [("a",), ("b",)] * 2


def test_files_change_their_checksum_when_a_row_moves_to_the_next() -> None:
    digests = set()
    for first, second in (("a\nb\n", "c\n"), ("a\n", "b\nc\n")):
        Path("1.txt").write_text(first)
        Path("2.txt").write_text(second)
        assert rows_of("*.txt", "ignore") == [("a",), ("b",), ("c",)]
        digests.add(open_examples("*.txt", Columns(), labels="ignore").sha256())
    assert len(digests) == 2


# Delimiters and encodings


@pytest.mark.parametrize("suffix", PACKINGS)
@pytest.mark.parametrize(
    ("delimiter", "word"), [(";", "semicolons"), ("|", "bars"), ("\t", "tabs"), (",", "")]
)
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_the_delimiter_that_makes_the_wanted_column_is_taken(
    suffix: str, delimiter: str, word: str, quoting: Any
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting)
    writer.writerows([("id", "text", "label"), (1, 'a; "b", | c', "x"), (2, "d, e", "y")])
    Path(f"a.csv{suffix}").write_bytes(PACKINGS[suffix](out.getvalue().encode()))
    assert rows_of(f"a.csv{suffix}") == [('a; "b", | c', "x"), ("d, e", "y")]
    assert notes_of(f"a.csv{suffix}") == ((f"a.csv{suffix}: columns separated by {word}",) if word else ())


def test_commas_are_taken_where_they_make_the_column() -> None:
    Path("a.csv").write_text("text,a;text,label\na,b,x\n")
    assert rows_of("a.csv") == [("a", "x")]
    Path("a.csv").write_text("a,b;text;label\n1,2;t;x\n")
    assert rows_of("a.csv") == [("t", "x")]
    Path("a.csv").write_text("a;text|label\nb\n")
    assert rows_of("a.csv", "ignore", text="a;text|label") == [("b",)]


@pytest.mark.parametrize("suffix", PACKINGS)
@pytest.mark.parametrize("kind", ["csv", "tsv", "txt"])
def test_a_file_from_windows_is_read_and_said_to_be(suffix: str, kind: str) -> None:
    texts, name = ["rows", "\u20ac 5: caf\xe9 \u2013 \u201cx\u201d"], f"a.{kind}{suffix}"
    content = "\n".join(texts if kind == "txt" else ["text", *texts])
    Path(name).write_bytes(PACKINGS[suffix](content.encode("cp1252")))
    assert rows_of(name, "ignore") == [(text,) for text in texts]
    assert f"{name}: not UTF-8, read as cp1252" in notes_of(name, "ignore")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_bytes_are_utf_8_or_cp1252_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "a.tsv"
    path.write_bytes(b"text\nfirst\n" + content + b"\nlast\n")
    try:
        source = open_examples(str(path), Columns(), labels="ignore")
        texts = [text for batch in source.batches() for text in batch.texts]
    except DataError:
        refusal(path, "ignore")
        return
    encoding = "cp1252" if source.notes else "utf-8"
    assert texts[0] == "first"
    assert path.read_bytes().decode(encoding).count("first") == "\n".join(texts).count("first")


def test_a_character_of_windows_far_into_a_file() -> None:
    Path("a.csv").write_bytes(b"text,label\n" + b"plain,x\n" * 100_000 + b"caf\xe9,y\n")
    assert rows_of("a.csv", batch_rows=4096)[-1] == ("café", "y")
    Path("a.csv").write_bytes(b"text,label\n" + b"plain,x\n" * 100_000 + b"caf\xc3\xa9,y\ncaf\xe9,y\n")
    assert refusal("a.csv").startswith(
        "a.csv:100003: byte 0xe9 at offset 800022 is not UTF-8, but characters before"
    )


def test_what_is_said_of_many_files_is_said_once() -> None:
    for i in range(3):
        Path(f"{i}.csv").write_bytes("text;label\ncafé;x\n".encode("cp1252"))
    assert notes_of("*.csv") == (
        "*.csv: 3 files",
        "0.csv and 2 more: not UTF-8, read as cp1252",
        "0.csv and 2 more: columns separated by semicolons",
    )
