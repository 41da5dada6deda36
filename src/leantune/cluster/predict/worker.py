"""A worker that loads the classifier once and computes parts.

Torch is imported only in the constructor of `PartWorker`, because it counts its threads when it is loaded.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leantune.errors import DataError, LeantuneError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from leantune.cluster.predict.ledger import Manifest
    from leantune.cluster.predict.parts import Part
    from leantune.config.abstention_file import Abstention
    from leantune.data.labels import LabelMap
    from leantune.data.text.columns import Columns
    from leantune.data.text.read import ExampleBatch, ExampleSource
    from leantune.inference.writers import PredictionLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSettings:
    """Settings for computing and writing parts."""

    output: str
    columns: Columns
    format: str
    """Format as a suffix in `leantune.inference.writers.FORMATS`."""
    with_probabilities: bool
    submission: bool
    batch_size: int
    precision: str | None
    abstention: Abstention | None = None
    """Thresholds below which a row gets no label; None to label all rows."""
    by_class: bool = False
    """Whether to use the threshold of each class instead of the overall one."""
    job: str = ""
    """Fingerprint of the job."""

    def layout(self, labels: LabelMap, thresholds: npt.NDArray[np.float64] | None) -> PredictionLayout:
        """Return the columns of the output.

        Args:
            labels: labels of the classifier.
            thresholds: thresholds ``(C,)`` if a row may have several labels, else None.

        Raises:
            UsageError: if two columns have the same name.
        """
        from leantune.inference.writers import PredictionLayout

        return PredictionLayout(
            labels,
            with_probabilities=self.with_probabilities,
            submission=self.submission,
            id_column=self.columns.id or "id",
            abstention=self.abstention,
            by_class=self.by_class,
            thresholds=thresholds,
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """A part that could not be computed."""

    number: int
    message: str
    exit_code: int
    is_of_rows: bool
    """Whether invalid rows are the cause, in which case other parts are still computed."""

    @classmethod
    def of(cls, number: int, error: LeantuneError) -> Failure:
        """Create a failure from an error."""
        return cls(number, str(error), error.exit_code, isinstance(error, DataError))


class PartWorker:
    """A worker with a classifier loaded in this process.

    Args:
        run: a folder that `leantune.load` accepts.
        settings: settings for computing and writing.

    Raises:
        LeantuneError: see `leantune.load`.
    """

    def __init__(self, run: Path, settings: PartSettings) -> None:
        from leantune.system.memory import keep_freed_memory
        from leantune.system.openmp import spin_briefly

        spin_briefly()
        keep_freed_memory()
        from leantune.cluster.storage import Folder
        from leantune.inference.load import load

        self._settings = settings
        self._classifier = load(run, precision=settings.precision)
        self._output = Folder(settings.output)
        self._layout = settings.layout(self._classifier.labels, self._classifier.thresholds)

    def compute(self, part: Part) -> Manifest | Failure:
        """Write a part and its manifest, or return the failure."""
        try:
            return self._compute(part)
        except LeantuneError as error:
            return Failure.of(part.number, error)

    def _compute(self, part: Part) -> Manifest:
        from leantune.cluster.predict.ledger import Manifest, name_of, write_manifest
        from leantune.cluster.predict.parts import opened, update_from_rows
        from leantune.inference.predict import predict_rows
        from leantune.inference.writers import open_writer
        from leantune.system.checksums import describe_file

        started = time.perf_counter()
        digest, rows, truncated, empty = hashlib.sha256(), 0, 0, 0
        name = name_of(part.number, self._settings.format)
        with opened(part, self._settings.columns) as source, self._output.new_file(name) as path:
            with open_writer(self._layout, path, self._settings.format) as writer:
                for batch in _chunks(source):
                    predictions, is_truncated = predict_rows(
                        self._classifier,
                        batch,
                        self._settings.batch_size,
                        skips_blank=self._settings.columns.skips_blank,
                    )
                    writer.write(predictions)
                    update_from_rows(digest, batch)
                    rows += len(batch.ids)
                    truncated += int(is_truncated.sum())
                    empty += sum(batch.is_blank)
            described = describe_file(path)
        manifest = Manifest(
            number=part.number,
            url=part.file.url,
            row_group=part.row_group,
            first_row=part.first_row,
            rows=rows,
            truncated_rows=truncated,
            empty_rows=empty,
            input_sha256=digest.hexdigest(),
            output=name,
            output_bytes=described["bytes"],
            output_sha256=described["sha256"],
            job=self._settings.job,
            node=socket.gethostname(),
            seconds=round(time.perf_counter() - started, 3),
        )
        write_manifest(self._output, manifest)
        return manifest


def _chunks(source: ExampleSource) -> Iterator[ExampleBatch]:
    from leantune.inference.text_classifier import CHUNK_ROWS

    return source.batches(CHUNK_ROWS)


_worker: PartWorker | LeantuneError | None = None
"""Worker of this process for `compute_here`, or the error that prevented its creation."""


def prepare_here(run: Path, settings: PartSettings) -> None:
    """Load the classifier into this process."""
    global _worker
    try:
        _worker = PartWorker(run, settings)
    except LeantuneError as error:
        _worker = error


def compute_here(part: Part) -> Manifest | Failure:
    """Compute a part in this process after `prepare_here`."""
    assert _worker is not None
    return Failure.of(part.number, _worker) if isinstance(_worker, LeantuneError) else _worker.compute(part)
