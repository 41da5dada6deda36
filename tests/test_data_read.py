"""The reader gives back exactly what writers wrote, whatever the container."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leantune.data.text.read import Columns, ExampleBatch, ExampleSource, open_examples
from leantune.errors import DataError, UsageError

ROWS = [("a cat", "pos"), ('5" disk, "big"', "neg"), ("two\nlines", "pos"), ("naïve 日本 🎉", "neg")]
TEXTS, LABELS = [row[0] for row in ROWS], [row[1] for row in ROWS]


def read(
    location: Path | str, labels: Any = "required", batch_rows: int = 4096, **columns: str
) -> ExampleBatch:
    """All rows of a source as one batch."""
    return joined(open_examples(str(location), Columns(**columns), labels=labels), batch_rows)


def joined(source: ExampleSource, batch_rows: int = 4096) -> ExampleBatch:
    batches = list(source.batches(batch_rows))
    assert [batch.start for batch in batches] == [
        sum(len(b.ids) for b in batches[:i]) for i in range(len(batches))
    ]
    assert all(len(batch.ids) <= batch_rows for batch in batches)

    def all_of(field: str) -> Any:
        parts = [getattr(batch, field) for batch in batches]
        return None if parts[0] is None else [value for part in parts for value in part]

    return ExampleBatch(0, all_of("ids"), all_of("texts"), all_of("pairs"), all_of("labels"))


def csv_text(rows: list[tuple[str, ...]], header: tuple[str, ...] = ("text", "label"), **style: Any) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, **style)
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def write_table(table: pa.Table, path: Path, kind: str) -> None:
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=3)
        return
    opener = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with opener(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


# Containers


@pytest.mark.parametrize(
    "pack", [lambda b: b, gzip.compress, bz2.compress, lzma.compress], ids=["", "gz", "bz2", "xz"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_csv_in_every_packing_and_encoding(tmp_path: Path, pack: Any, encoding: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(pack(csv_text(ROWS).encode(encoding)))
    batch = read(path, batch_rows=3)
    assert (batch.texts, batch.labels, batch.ids) == (TEXTS, LABELS, ["0", "1", "2", "3"])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt", ""])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_jsonl_under_any_suffix(tmp_path: Path, suffix: str, is_ascii: bool) -> None:
    path = tmp_path / f"rows{suffix}"
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=is_ascii) for text, label in ROWS]
    path.write_text("\n".join(lines), encoding="utf-8")
    batch = read(path, batch_rows=3)
    assert (batch.texts, batch.labels) == (TEXTS, LABELS)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv"])
@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_tables_under_any_suffix(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    write_table(pa.table({"text": TEXTS, "other": [1, None, 2, 3], "label": LABELS}), path, kind)
    batch = read(path, batch_rows=2)
    assert (batch.texts, batch.labels) == (TEXTS, LABELS)


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
@pytest.mark.parametrize(
    "column",
    [
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS, pa.string_view()),
        pa.array(TEXTS).dictionary_encode(),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
    ],
    ids=["large_string", "string_view", "dictionary", "chunked"],
)
def test_every_arrow_text_type_gives_the_same_texts(tmp_path: Path, kind: str, column: Any) -> None:
    path = tmp_path / "rows.arrow"
    write_table(pa.table({"text": column}), path, kind)
    assert read(path, labels="ignore").texts == TEXTS


@pytest.fixture
def class_dataset() -> datasets.Dataset:
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["pos", "neg"])
    )
    return datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS}, features=features)


@pytest.fixture(autouse=True)
def _no_progress_bars() -> None:
    datasets.disable_progress_bars()


def test_saved_dataset_keeps_class_names(tmp_path: Path, class_dataset: datasets.Dataset) -> None:
    class_dataset.save_to_disk(tmp_path / "saved", num_shards=2)
    source = open_examples(str(tmp_path / "saved"), Columns(), labels="required")
    assert source.label_names == ("pos", "neg")
    assert joined(source, 3).labels == LABELS


def test_saved_dataset_dict_needs_a_split_it_has(tmp_path: Path, class_dataset: datasets.Dataset) -> None:
    datasets.DatasetDict(train=class_dataset, test=class_dataset.select([2, 0])).save_to_disk(
        tmp_path / "saved"
    )
    source = open_examples(str(tmp_path / "saved"), Columns(), labels="required", split="test")
    assert joined(source).texts == [TEXTS[2], TEXTS[0]]
    with pytest.raises(UsageError, match="no split 'dev', it has 'train', 'test'"):
        open_examples(str(tmp_path / "saved"), Columns(), labels="required", split="dev")


def test_parquet_of_datasets_keeps_class_names(tmp_path: Path, class_dataset: datasets.Dataset) -> None:
    class_dataset.to_parquet(tmp_path / "rows.parquet")
    batch = read(tmp_path / "rows.parquet")
    assert batch.labels == LABELS


@pytest.mark.parametrize(
    "content", [csv_text(ROWS), "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in ROWS)]
)
def test_standard_input_is_sniffed_and_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode("utf-8"))))
    source = open_examples("-", Columns(), labels="required")
    assert source.name == "standard input"
    assert joined(source).texts == joined(source).texts == TEXTS
    assert len(os.listdir(tmp_path)) == 1
    del source
    assert os.listdir(tmp_path) == []


# CSV and TSV


def test_words_that_look_like_missing_values_or_numbers_stay_texts(tmp_path: Path) -> None:
    words = ["NA", "null", "None", "nan", "007", "1e5", "True", "-", "#N/A"]
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + "\n".join(words))
    assert read(path, labels="ignore").texts == words


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_do_not_matter(tmp_path: Path, end: str, last: bool) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(end.join(["text,label", "a,x", "", "b,y"]).encode() + (end.encode() if last else b""))
    batch = read(path)
    assert (batch.texts, batch.labels) == (["a", "b"], ["x", "y"])


def test_tsv_quotes_mean_something_only_around_a_whole_field(tmp_path: Path) -> None:
    path = tmp_path / "rows.tab"
    path.write_text(
        'text\tlabel\n5" disk\tx\n"He said\ty\n"""quoted"" by pandas"\tx\n"Hi" he said\ty\n"\tx\n'
    )
    assert read(path).texts == ['5" disk', '"He said', '"quoted" by pandas', '"Hi" he said', '"']


@pytest.mark.parametrize("text", ["x\ny", "x\n\n\ny", 'a "b"\n"c" d', "x\ry"])
def test_a_text_with_line_ends_in_a_tsv_of_one_column_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text(csv_text([("a",), (text,), ("b",)], ("text",), delimiter="\t"), newline="")
    with pytest.raises(DataError, match=r"rows.tsv:3: a quote opens in this line and closes in line \d"):
        read(path, labels="ignore")


def test_bare_quotes_in_a_tsv_of_one_column_are_characters(tmp_path: Path) -> None:
    lines = ['"He said', 'no" and left', '5" disk', '"whole"', '"a" and "b"', '"', "", '"open']
    path = tmp_path / "rows.tsv"
    path.write_text("\n".join(["text", *lines]) + "\n")
    assert read(path, labels="ignore").texts == [line.replace('"whole"', "whole") for line in lines]


def test_a_name_with_a_blank_of_another_kind_keeps_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "my\u00a0rows.tsv"
    path.write_text("text\tlabel\na\tx\n")
    assert read(path).texts == ["a"]


def test_a_field_may_be_longer_than_the_csv_modules_limit(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"text,label\n{'x' * 200_000},a\n")
    assert len(read(path).texts[0]) == 200_000


def test_locate_gives_the_line_where_a_record_begins(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"a\nb",x\n\nc,y\n')
    source = open_examples(str(path), Columns(), labels="required")
    assert [source.locate(0), source.locate(1)] == [2, 5]
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    assert open_examples(str(lines), Columns(), labels="ignore").locate(1) == 3


text_strategy = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(text_strategy, text_strategy), min_size=1))
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_text(csv_text(rows, ("text", "pair")), encoding="utf-8", newline="")
    batch = read(path, labels="ignore", batch_rows=3, text_pair="pair")
    assert list(zip(batch.texts, batch.pairs or [], strict=True)) == rows


tsv_strategy = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\t\r\n"))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(tsv_strategy, tsv_strategy), min_size=1))
def test_tsv_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("tsv") / "rows.tsv"
    path.write_text(csv_text(rows, ("text", "pair"), delimiter="\t"), encoding="utf-8", newline="")
    batch = read(path, labels="ignore", batch_rows=3, text_pair="pair")
    assert list(zip(batch.texts, batch.pairs or [], strict=True)) == rows


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), st.booleans())
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, texts: list[str], is_ascii: bool) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=is_ascii) + "\n" for text in texts]
    path.write_text("".join(lines), encoding="utf-8", newline="")
    assert read(path, labels="ignore", batch_rows=3).texts == texts


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1),
    st.sampled_from(["parquet", "file", "stream"]),
)
def test_table_round_trip(tmp_path_factory: pytest.TempPathFactory, texts: list[str], kind: str) -> None:
    path = tmp_path_factory.mktemp("table") / "rows"
    write_table(pa.table({"text": pa.array(texts, pa.string())}), path, kind)
    assert read(path, labels="ignore", batch_rows=3).texts == texts


# Columns, ids, labels


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("uid,first,second,gold\nu1,a,,x\nu2,b,c,y\n")
    batch = read(path, text="first", text_pair="second", label="gold", id="uid")
    assert batch == ExampleBatch(0, ["u1", "u2"], ["a", "b"], ["", "c"], ["x", "y"])


def test_label_use(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,target\na,x\nb,y\n")
    assert read(path).labels == ["x", "y"]
    assert open_examples(str(path), Columns(), labels="required").columns == Columns(
        text="text", label="target"
    )
    path.write_text("text,target\n ,x\nb,y\n")
    assert read(path, labels="ignore").labels is None
    assert read(path, labels="ignore").texts == [" ", "b"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3, 0, 3], ["3", "0", "3"]),
        ([3.0, 0.0, 1.0], ["3", "0", "1"]),
        (["1.1", "1.10", "1.10"], ["1.1", "1.10", "1.10"]),
        ([True, False, True], ["True", "False", "True"]),
        (["007", "x", "1e5"], ["007", "x", "1e5"]),
    ],
)
def test_labels_become_texts(tmp_path: Path, labels: list[Any], expected: list[str]) -> None:
    path = tmp_path / "rows.parquet"
    write_table(pa.table({"text": ["a", "b", "c"], "label": labels}), path, "parquet")
    assert read(path, batch_rows=1).labels == expected


# Faults


def test_sha256_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(csv_text(ROWS).encode()))
    source = open_examples(str(path), Columns(), labels="required")
    assert source.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_changes_while_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(csv_text(ROWS * 2000))
    source = open_examples(str(path), Columns(), labels="required")
    batches = source.batches(10)
    next(batches)
    with path.open("a") as stream:
        stream.write("one more,pos\n")
    with pytest.raises(DataError, match="the file changed while it was read"):
        list(batches)


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="a named pipe, expected a file: pipe the data in and write -"):
        read(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="a device, expected a file"):
        read("/dev/zero")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text\na\n")
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        read(path)


def test_large_files_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + f"{'word ' * 40},x\n" * 100_000)
    source = open_examples(str(path), Columns(), labels="required")
    tracemalloc.start()
    num_rows = sum(len(batch.ids) for batch in source.batches(512))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_rows == 100_000
    assert peak < 2_000_000 < path.stat().st_size


# Hub


def test_hub_dataset(monkeypatch: pytest.MonkeyPatch, class_dataset: datasets.Dataset) -> None:
    asked = []

    def load_dataset(path: str, *, name: str | None, split: str) -> datasets.Dataset:
        asked.append((path, name, split))
        return class_dataset.select([2, 0, 1])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("leantune.data.text.readers.hub._probe", lambda *_: None)
    source = open_examples("org/name@config:test", Columns(), labels="required")
    assert asked == [("org/name", "config", "test")]
    assert source.label_names == ("pos", "neg")
    assert joined(source, 2).texts == [TEXTS[2], TEXTS[0], TEXTS[1]]
    assert source.sha256() == source.sha256()
    open_examples("org/name", Columns(), labels="required", split="dev")
    assert asked[1] == ("org/name", None, "dev")


@pytest.mark.parametrize("is_offline", [True, False])
def test_hub_dataset_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, is_offline: bool) -> None:
    def probe(*_: object, **__: object) -> None:
        raise ConnectionError("no\nroute")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", probe)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", is_offline)
    with pytest.raises(UsageError) as caught:
        open_examples("no-such-org/no-such-name", Columns(), labels="required")
    offline = " (HF_HUB_OFFLINE is on)" if is_offline else ""
    assert str(caught.value) == (
        "no-such-org/no-such-name: no local file has that name, and the hub dataset "
        f"'no-such-org/no-such-name' cannot be loaded{offline}: ConnectionError: no route; "
        "check the name, or name a local file"
    )


@pytest.mark.parametrize("location", ["data/train.csv", "org/name.jsonl.gz", "imdb", "a/b/c", "./org/name"])
def test_names_that_are_no_hub_names_are_missing_files(location: str) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read(location)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_an_empty_line_in_a_file_of_one_column_is_an_empty_text(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(b"\n\ntext\n\none\n\n\nthree\n\n\n")
    source = open_examples(str(path), Columns(), labels="ignore")
    assert [text for batch in source.batches(2) for text in batch.texts] == ["", "one", "", "", "three"]
    assert [source.locate(i) for i in range(5)] == [4, 5, 6, 7, 8]


def test_empty_lines_between_rows_of_several_columns_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,label\n\na,x\n\nb,y\n\n")
    assert read(path).texts == ["a", "b"]


def test_empty_columns_of_a_spreadsheet_are_no_columns_of_one_name(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,,\nhello,x,,\n")
    (batch,) = open_examples(str(tmp_path / "a.csv"), Columns(), labels="required").batches()
    assert (batch.texts, batch.labels) == (["hello"], ["x"])
