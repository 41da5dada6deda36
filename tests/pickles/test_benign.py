"""Benign pickles of many versions, at every protocol, are read back exactly as their writers made them."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import pickle
import runpy
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leantune.data.text.read import Columns, open_examples
from leantune.data.text.readers.content import open_content
from leantune.data.text.readers.pickles import open_pickle
from leantune.errors import DataError, UsageError

HERE = Path(__file__).parent
MADE = runpy.run_path(str(HERE / "make_fixtures.py"))
CASES: list[tuple[str, Any, dict[str, list[Any]]]] = [*MADE["plain"](), *MADE["library_cases"]()]
FIXTURES = sorted((HERE / "fixtures").glob("*.json.xz"))
TEXTS, LABELS = MADE["TEXTS"], MADE["LABELS"]


def columns(path: Path, wanted: list[str], batch_rows: int = 3) -> dict[str, list[object]]:
    table = open_pickle(open_content(str(path)), "train")
    found: dict[str, list[object]] = {name: [] for name in wanted}
    for batch in table.batches(wanted, batch_rows):
        for name in wanted:
            found[name] += batch.cells[name]
    return found


def exact(cells: dict[str, list[object]]) -> dict[str, list[tuple[str, object]]]:
    """Cells with their types: 1, 1.0 and True differ."""
    return {name: [(type(cell).__name__, cell) for cell in found] for name, found in cells.items()}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(("value", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_installed_libraries(
    tmp_path: Path, value: Any, expected: dict[str, list[Any]], protocol: int
) -> None:
    path = tmp_path / "rows.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    assert exact(columns(path, list(expected))) == exact(expected)


@pytest.mark.parametrize("fixture", FIXTURES, ids=[path.name.removesuffix(".json.xz") for path in FIXTURES])
def test_other_versions(tmp_path: Path, fixture: Path) -> None:
    cases = json.loads(lzma.decompress(fixture.read_bytes()))
    path = tmp_path / "rows.pkl"
    for case in cases:
        path.write_bytes(base64.b64decode(case["pickle"]))
        found = columns(path, list(case["expected"]))
        assert exact(found) == exact(case["expected"]), (case["name"], case["protocol"])
    assert len(cases) > 250


@pytest.mark.parametrize("suffix", [".pkl", ".csv", ".json", ".bin", ".pkl.gz"])
@pytest.mark.parametrize(
    "pack", [lambda b: b, gzip.compress, bz2.compress, lzma.compress], ids=["", "gz", "bz2", "xz"]
)
@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_found_by_their_content(tmp_path: Path, protocol: int, pack: Any, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(pack(pickle.dumps({"text": ["x " * 3000, *TEXTS], "label": [1, *LABELS]}, protocol)))
    (batch,) = open_examples(str(path), Columns(id="label"), labels="ignore").batches()
    assert (batch.texts, batch.ids) == (["x " * 3000, *TEXTS], ["1", *map(str, LABELS)])


@pytest.mark.parametrize(
    "text",
    [
        *("comment,label\nfine.,1\n.", "c\nb\na\n.", "(text)\nfine.", "}\n.", "cos\nsystem\n"),
        *("class,word\nSci/Tech,a poll\nBooks,more than it takes\n", "((((Xfour letters", "cos\n" * 2000),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_text_is_not_taken_for_a_pickle(tmp_path: Path, text: str, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    with pytest.raises(
        DataError, match=rf"rows{suffix}(:\d+)?: (no column|\d fields|only empty lines|one column)"
    ):
        list(open_examples(str(path), Columns(), labels="ignore").batches())


def test_class_names_come_from_the_dataset(tmp_path: Path) -> None:
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["pos", "neg"])
    )
    dataset = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    path = tmp_path / "rows.pkl"
    path.write_bytes(pickle.dumps(datasets.DatasetDict(train=dataset, test=dataset.select([0]))))
    source = open_examples(str(path), Columns(), labels="required", split="test")
    assert source.label_names == ("pos", "neg")
    assert next(source.batches()).labels == ["neg"]
    with pytest.raises(UsageError, match="no split 'dev', it has 'train', 'test'"):
        open_examples(str(path), Columns(), labels="required", split="dev")


cell_strategy = st.one_of(
    st.text(), st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.binary()
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.lists(cell_strategy, max_size=5), min_size=1
    ),
    st.integers(0, 5),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, list[object]], protocol: int
) -> None:
    shortest = min(map(len, table.values()))
    table = {name: cells[:shortest] for name, cells in table.items()}
    path = tmp_path_factory.mktemp("round") / "rows.pkl"
    path.write_bytes(pickle.dumps(table, protocol))
    assert exact(columns(path, list(table))) == exact(table)
    rows = [{name: cells[row] for name, cells in table.items()} for row in range(shortest)]
    if rows:
        path.write_bytes(pickle.dumps(rows, protocol))
        assert exact(columns(path, list(table))) == exact(table)
