"""Write prediction files: CSV, TSV, JSON lines or Parquet by suffix, or the submission format."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from leantune.config.abstention_file import Abstention
from leantune.data.label_column import SEPARATOR
from leantune.data.label_sets import check_joinable
from leantune.data.labels import LabelMap
from leantune.errors import UsageError
from leantune.evaluation.abstention import is_answered, with_temperature
from leantune.system.atomic import file_to_replace
from leantune.system.messages import shown

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions for some rows, in input order."""

    ids: list[str]
    probabilities: npt.NDArray[np.float64]
    """``(N, C)``."""
    is_blank: list[bool] | None = None
    """Whether each row has a blank text and is to get an empty label; None: every row gets a label."""


@dataclass(frozen=True, slots=True)
class PredictionLayout:
    """The columns of a prediction file.

    Args:
        labels: names of the classes.
        with_probabilities: add ``p_<label>`` for every class.
        submission: write ``ID,label`` with whole numbers, as in the reference run.
        id_column: name of the id column, as in the input rows; ``id`` if ids are row numbers.
        abstention: give calibrated probabilities, and no label to rows whose probability is too low.
        by_class: with ``abstention``, use the thresholds of the predicted classes instead of one for all.
        thresholds: ``(C,)`` least probability of a predicted label if a row may have several; the label is then a
            list of labels, and the score the highest probability.

    Raises:
        UsageError: for a submission with several labels per row, or if the name of the id column is the name of another
            column or cannot be written to a file.
    """

    labels: LabelMap
    with_probabilities: bool = False
    submission: bool = False
    id_column: str = "id"
    abstention: Abstention | None = None
    by_class: bool = False
    thresholds: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.submission and self.labels.is_multi_label:
            raise UsageError(
                "--submission is only for one label per row, and this classifier gives several; leave it out"
            )
        if self.submission:
            return
        if self.id_column in self.header[1:]:
            problem = "the output has a column of that name for what is predicted"
        elif any("\ud800" <= character <= "\udfff" for character in self.id_column):
            problem = "half of a surrogate pair, which no file can hold"
        else:
            return
        raise UsageError(
            f"--id-column {shown(self.id_column)}: {problem}; rename the column in the file of rows"
        )

    @property
    def header(self) -> list[str]:
        """Names of the columns."""
        if self.submission:
            return ["ID", "label"]
        extra = [f"p_{name}" for name in self.labels.names] if self.with_probabilities else []
        return [self.id_column, "label", "score", *extra]

    @property
    def types(self) -> list[pa.DataType]:
        """Types of the columns in Parquet, in the order of `header`.

        Raises:
            UsageError: if a whole number is too large for Parquet.
        """
        if not self.submission:
            label = pa.list_(pa.string()) if self.labels.is_multi_label else pa.string()
            return [pa.string(), label, *[pa.float64()] * (len(self.header) - 2)]
        too_large = next((n for n in self._numbers if not -(2**63) <= n < 2**63), None)
        if too_large is not None:
            raise UsageError(
                f"the label {too_large} is too large for a whole number in Parquet; write .csv or .jsonl"
            )
        return [pa.string(), pa.int64()]

    @property
    def _numbers(self) -> Sequence[int]:
        """The number of each class in a submission."""
        names = self.labels.names
        return [int(name) for name in names] if self.labels.is_integer else range(len(names))

    def rows(self, predictions: Predictions) -> list[list[Any]]:
        """One list of values a row, in the order of `header`."""
        rows = self._labelled_rows(predictions)
        if predictions.is_blank is None:
            return rows
        label: Any = [] if self.labels.is_multi_label else self._no_label
        return [
            [row[0], label, *[None] * (len(row) - 2)] if blank else row
            for row, blank in zip(rows, predictions.is_blank, strict=True)
        ]

    @property
    def _no_label(self) -> str | None:
        return None if self.submission else ""  # a whole number cannot be an empty text

    def _labelled_rows(self, predictions: Predictions) -> list[list[Any]]:
        if self.abstention is not None:
            return self._rows_or_none(predictions, self.abstention)
        best = predictions.probabilities.argmax(axis=1)
        if self.submission:
            numbers = self._numbers
            return [[row_id, numbers[i]] for row_id, i in zip(predictions.ids, best, strict=True)]
        rounded = np.round(predictions.probabilities, 6)
        if self.thresholds is not None:
            return self._rows_of_labels(predictions, rounded, self.thresholds)
        rows = []
        for row_id, i, row in zip(predictions.ids, best, rounded.tolist(), strict=True):
            rows.append([row_id, self.labels.names[i], row[i], *(row if self.with_probabilities else [])])
        return rows

    def _rows_of_labels(
        self,
        predictions: Predictions,
        rounded: npt.NDArray[np.float64],
        thresholds: npt.NDArray[np.float64],
    ) -> list[list[Any]]:
        """Return the rows of `rows` with a list of labels each."""
        names, rows = self.labels.names, []
        is_predicted = predictions.probabilities >= thresholds
        for row_id, chosen, row in zip(predictions.ids, is_predicted, rounded.tolist(), strict=True):
            labels = [names[i] for i in np.flatnonzero(chosen)]
            rows.append([row_id, labels, max(row), *(row if self.with_probabilities else [])])
        return rows

    def _rows_or_none(self, predictions: Predictions, abstention: Abstention) -> list[list[Any]]:
        """Return the rows with calibrated probabilities, and an empty label where the classifier abstains."""
        calibrated = with_temperature(predictions.probabilities, abstention.temperature)
        plain = replace(self, abstention=None)._labelled_rows(Predictions(predictions.ids, calibrated))
        answers = is_answered(calibrated, abstention, self.labels.names, per_class=self.by_class)
        return [
            row if answer else [row[0], self._no_label, *row[2:]]
            for row, answer in zip(plain, answers, strict=True)
        ]


class PredictionWriter(ABC):
    """Writes chunks of predictions; a context manager that closes its file."""

    def __init__(self, layout: PredictionLayout) -> None:
        self.layout = layout

    @abstractmethod
    def write(self, predictions: Predictions) -> None:
        """Append some rows."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left, and close the file."""

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _TextWriter(PredictionWriter):
    """Writes a text file, or standard output if the path is None."""

    def __init__(self, layout: PredictionLayout, path: Path | None) -> None:
        super().__init__(layout)
        self._path = path
        self._file: IO[str] = _utf8_output() if path is None else path.open("w", encoding="utf-8", newline="")

    def close(self) -> None:
        if self._path is None:
            self._file.flush()
        else:
            self._file.close()


def _utf8_output() -> IO[str]:
    """Standard output in the encoding of prediction files, whatever the terminal uses."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", newline="")
    return sys.stdout


class _DelimitedWriter(_TextWriter):
    def __init__(self, layout: PredictionLayout, path: Path | None, delimiter: str) -> None:
        if layout.labels.is_multi_label:
            check_joinable(layout.labels.names)
        super().__init__(layout, path)
        self._csv = csv.writer(self._file, delimiter=delimiter, lineterminator="\n")
        # csv does not notice that a carriage return needs quotes when it is not the line terminator
        self._quoting = csv.writer(
            self._file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL
        )
        self._write(layout.header)

    def write(self, predictions: Predictions) -> None:
        for row in self.layout.rows(predictions):
            self._write(row)

    def _write(self, row: Sequence[object]) -> None:
        row = [SEPARATOR.join(value) if isinstance(value, list) else value for value in row]
        has_return = any(isinstance(value, str) and "\r" in value for value in row)
        (self._quoting if has_return else self._csv).writerow(row)


class _JsonLinesWriter(_TextWriter):
    def write(self, predictions: Predictions) -> None:
        header = self.layout.header
        for row in self.layout.rows(predictions):
            line = json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False)
            self._file.write(line + "\n")


class _ParquetWriter(PredictionWriter):
    def __init__(self, layout: PredictionLayout, path: Path) -> None:
        super().__init__(layout)
        self._schema = pa.schema(list(zip(layout.header, layout.types, strict=True)))
        self._writer = pq.ParquetWriter(str(path), self._schema)

    def write(self, predictions: Predictions) -> None:
        rows = self.layout.rows(predictions)
        arrays = [
            pa.array(list(values), field.type)
            for values, field in zip(zip(*rows, strict=True), self._schema, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def check_output(output: str, *, inputs: tuple[str, ...], overwrite: bool) -> str:
    """Check ``output`` and return the suffix that decides its format.

    Raises:
        UsageError: for an unknown suffix, a file that exists, or one that is also an input.
    """
    if output == "-":
        if sys.stdout is None:
            raise UsageError("output -: standard output is closed; give a file name")
        return ".csv"
    path = file_to_replace(Path(output))
    suffix = Path(output).suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(
            f"output {output}: unknown suffix '{Path(output).suffix}', expected {', '.join(FORMATS)} or -"
        )
    if any(each != "-" and os.path.realpath(each) == os.path.realpath(path) for each in inputs):
        raise UsageError(f"output {output}: is also the input; choose another name")
    above = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not above.is_dir():
        raise UsageError(f"output {output}: {above} is no folder; choose another name")
    if path.exists() and not overwrite:
        raise UsageError(f"output {output}: already exists; add --overwrite to replace it")
    return suffix


def open_writer(layout: PredictionLayout, path: Path | None, suffix: str) -> PredictionWriter:
    """The writer for a suffix in `FORMATS`; path None means standard output."""
    if suffix == ".parquet":
        assert path is not None
        return _ParquetWriter(layout, path)
    if suffix == ".jsonl":
        return _JsonLinesWriter(layout, path)
    return _DelimitedWriter(layout, path, "\t" if suffix == ".tsv" else ",")
