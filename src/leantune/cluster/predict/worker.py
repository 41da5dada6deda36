"""What a process does with parts: it loads the classifier once, and turns each part into an output file.

Nothing heavy is imported before `PartWorker` is made: threads are counted when torch is loaded.
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
    """How parts are computed and written."""

    output: str
    columns: Columns
    format: str
    """A suffix of `leantune.inference.writers.FORMATS`."""
    with_probabilities: bool
    submission: bool
    batch_size: int
    precision: str | None
    abstention: Abstention | None = None
    """When a row gets no label; None: each gets one."""
    by_class: bool = False
    """Whether the thresholds of the classes count, and not the one for all."""
    job: str = ""
    """Fingerprint."""

    def layout(self, labels: LabelMap, thresholds: npt.NDArray[np.float64] | None) -> PredictionLayout:
        """The columns of the output.

        Args:
            labels: of the classifier.
            thresholds: ``(C,)`` where a row may have several labels, else None.

        Raises:
            UsageError: if two have one name.
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
    """Whether its rows are at fault, so that other parts may still be computed."""

    @classmethod
    def of(cls, number: int, error: LeantuneError) -> Failure:
        """What an error says."""
        return cls(number, str(error), error.exit_code, isinstance(error, DataError))


class PartWorker:
    """A classifier in this process.

    Args:
        run: what `leantune.load` takes.
        settings: how to compute and write.

    Raises:
        LeantuneError: as `leantune.load`.
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
        """Write a part and its manifest; what is wrong with its rows or a disk is returned."""
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
                        self._classifier, batch, self._settings.batch_size
                    )
                    writer.write(predictions)
                    update_from_rows(digest, batch)
                    rows += len(batch.ids)
                    truncated += int(is_truncated.sum())
                    empty += sum(not text.strip() for text in batch.texts)
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
"""That of this process, where parts are computed by `compute_here`, or why there is none."""


def prepare_here(run: Path, settings: PartSettings) -> None:
    """Load the classifier into this process."""
    global _worker
    try:
        _worker = PartWorker(run, settings)
    except LeantuneError as error:
        _worker = error


def compute_here(part: Part) -> Manifest | Failure:
    """Compute a part in this process, which `prepare_here` prepared."""
    assert _worker is not None
    return Failure.of(part.number, _worker) if isinstance(_worker, LeantuneError) else _worker.compute(part)
