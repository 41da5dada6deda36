"""Labels that look alike are two classes only after both were named."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from attacks.inputs import PAIRS
from leantune.cli.main import main
from leantune.config.record.run import DataRecord, RowsRecord
from leantune.data.labels import LabelMap, look_alikes
from leantune.errors import DataError
from leantune.training.warnings import data_lines


@pytest.mark.parametrize("name", PAIRS)
def test_labels_that_look_alike_are_named_with_their_code_points(name):
    first, second = PAIRS[name]
    (said,) = look_alikes({first: 1, "other": 1, second: 1})
    for label in (first, second):
        points = " ".join(f"U+{ord(letter):04X}" for letter in label[:12])
        is_seen = re.sub(" +", " ", first.casefold()) == re.sub(" +", " ", second.casefold())
        assert ("U+" not in said) if is_seen else (f"({points}, 1 rows)" in said)
    counts = {first: 1, second: 1, "other": 1}
    rows = RowsRecord(source="x.csv", sha256="", rows=3, tokens=9, label_counts=counts)
    lines = list(data_lines(DataRecord(train=rows, validation=rows), 16))
    assert any(line.startswith("warning: classes that look the same: ") for line in lines)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a", "b"), ("1", "-1"), ("c", "c++"), ("\u0915\u093f", "\u0915\u0941"), ("\u0e01\u0e34", "\u0e01\u0e37"),
        ("resume", "r\u00e9sum\u00e9"), ("1", "10"), ("+", "-"), ("#", "##"),
    ],
)  # fmt: skip
def test_labels_that_are_different_are_left_alone(first, second):
    assert not list(look_alikes({first: 1, second: 1}))


@pytest.mark.parametrize("label", ["\u200b", "\ufeff", "\u200d\u200e", "\u00ad"])
def test_a_label_that_shows_nothing_is_refused(label):
    with pytest.raises(
        DataError, match=rf"U\+{ord(label[0]):04X}.* has no visible character: expected a name"
    ):
        LabelMap.of(["a", label], source_name="rows.csv")


def test_the_warning_reaches_the_terminal_escaped():
    console = Console(file=io.StringIO(), width=300)
    for line in look_alikes({"\x1b[31mspam": 1, "\x1b[31mSPAM": 1}):
        console.print(line, soft_wrap=True)
    assert "\x1b" not in console.file.getvalue()


@pytest.mark.parametrize("labels", ["a,b,", ",a,b", "a,,b", "a, ,b"])
def test_an_empty_name_of_a_class_is_refused(labels, capsys):
    assert main(["plan", "data=x.csv", "model=m", f"labels={labels}"]) == 2
    assert "each once and none of them empty" in capsys.readouterr().err
