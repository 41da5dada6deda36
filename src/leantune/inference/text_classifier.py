"""A trained classifier: from texts to labels and probabilities.

N texts, C classes.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.filesize import decimal

from leantune.config.abstention_file import Abstention, read_abstention
from leantune.config.classifier_file import InferenceSettings
from leantune.config.record.run import RECORD, RunRecord, read_record
from leantune.config.thresholds_file import read_thresholds
from leantune.data.label_column import LabelColumn
from leantune.data.labels import LabelMap
from leantune.data.text.cells import is_blank, list_of_texts
from leantune.data.tokens.dataset import Index
from leantune.data.tokens.tokenization import Encoded, Tokenizer
from leantune.errors import CheckpointError, DataError, UsageError
from leantune.evaluation.abstention import is_answered, required_abstention, with_temperature
from leantune.evaluation.batches import map_batches
from leantune.evaluation.metrics import Metrics
from leantune.evaluation.tasks import task_of
from leantune.evaluation.thresholds import thresholds_of
from leantune.model.classifier import Classifier
from leantune.packing.batch import PackedBatch, pack
from leantune.system.atomic import atomic_folder
from leantune.system.messages import listed, place_name, shown
from leantune.system.notebook import html_table

if TYPE_CHECKING:
    from leantune.report.inline import Inline

CHUNK_ROWS = 8192
"""Rows classified at once: enough to sort by length, few enough to fit in memory."""

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TextClassifier(ABC):
    """A trained classifier, independent of the library that computes it.

    `leantune.train` and `leantune.load` return one.
    """

    tokenizer: Tokenizer
    labels: LabelMap
    settings: InferenceSettings
    source: Path
    """The folder that it was loaded from: a run, an adapter, or a merged model."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Metrics measured by the run: ``validation`` and ``test``, each with ``accuracy``, ``macro_f1`` and others.

    It is empty for an artefact without its run.
    """
    leaves_out: tuple[str, ...] = ()
    """Entries of ``source`` that `save` does not copy."""

    def __repr__(self) -> str:
        measured = "".join(f", {name} {value}" for name, value in self._measured())
        classes = f"{len(self.classes)} classes ({listed(self.labels.names, 5)})"
        return f"<TextClassifier: {classes}{measured}, from {place_name(str(self.source))}>"

    def _repr_html_(self) -> str:
        return html_table([*self._measured(), *self._properties()])

    def _measured(self) -> Iterator[tuple[str, str]]:
        """The main metric on the test rows, else on the validation rows, with its interval."""
        for part in ("test", "validation"):
            if found := self.metrics.get(part):
                key = "micro_f1" if "micro_f1" in found else "accuracy"
                rate, low, high = (f"{100 * each:.1f}" for each in (found[key], *found[f"{key}_interval"]))
                yield f"{part} {key.replace('_f1', ' F1')}", f"{rate} % ({low} to {high})"
                return

    def _properties(self) -> Iterator[tuple[str, str]]:
        yield f"{len(self.classes)} classes", listed(self.labels.names)
        folders = {"size": self.source}
        if (self.source / RECORD).is_file():
            folders = {f"size of {name}": self.source / name for name in ("adapter", "merged")}
            record = read_record(self.source, RunRecord)
            if record.parameters:
                trained = record.parameters.final or record.parameters.initial
                yield "trainable parameters", f"{trained:,} of {record.parameters.total:,}"
            if record.model:
                yield "encoder", record.model.base_model or record.model.source
        for name, folder in folders.items():
            yield name, decimal(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
        yield "folder", str(self.source)

    @abstractmethod
    def logits(self, rows: Encoded, batch_size: int) -> Logits:
        """Logits ``(N, C)`` in the order of ``rows``, whatever the batches were."""

    @property
    def classes(self) -> tuple[Any, ...]:
        """The classes in the type of the training labels, in the order of the columns of `predict_proba`."""
        return self.labels.values

    @property
    def thresholds(self) -> npt.NDArray[np.float64] | None:
        """Least probability ``(C,)`` of a predicted label if a text may have several, else None."""
        if not self.labels.is_multi_label:
            return None
        return thresholds_of(read_thresholds(self.source), self.labels.names)

    def predict(self, texts: str | Sequence[str], pairs: str | Sequence[str] | None = None) -> Any:
        """Predict the most probable class of each of N texts, or of one text, in the type of the training labels.

        If a text may have several labels, the prediction is the list of labels that reach their threshold.

        Args:
            texts: N texts, or one, whose prediction is then returned without a list.
            pairs: N second texts, or one, for a classifier of pairs.

        Raises:
            DataError: for a value that is not a text, or another number of second texts.
            UsageError: for pairs if it was trained on single texts, or the other way round.
        """
        if isinstance(texts, str):
            return self.predict([texts], _alone(pairs))[0]
        probabilities = self.predict_proba(texts, pairs)
        classes, thresholds = self.classes, self.thresholds
        if thresholds is not None:
            return [[classes[i] for i in np.flatnonzero(row >= thresholds)] for row in probabilities]
        return [classes[best] for best in probabilities.argmax(axis=1)]

    @property
    def abstention(self) -> Abstention | None:
        """Thresholds for abstaining, written by ``leantune abstain``; None if none were chosen."""
        return read_abstention(self.source)

    def predict_or_abstain(
        self, texts: str | Sequence[str], pairs: str | Sequence[str] | None = None, *, per_class: bool = False
    ) -> Any:
        """Predict the most probable class of each of N texts, or None if it is not probable enough.

        Args:
            texts: N texts, or one, as in `predict`.
            pairs: N second texts, or one, for a classifier of pairs.
            per_class: use the thresholds of the classes instead of one for all.

        Raises:
            DataError, UsageError: as in `predict`; also UsageError if no threshold was chosen.
        """
        if isinstance(texts, str):
            return self.predict_or_abstain([texts], _alone(pairs), per_class=per_class)[0]
        abstention = required_abstention(self.abstention, self.source)
        calibrated = with_temperature(self.predict_proba(texts, pairs), abstention.temperature)
        answers = is_answered(calibrated, abstention, self.labels.names, per_class=per_class)
        classes, best = self.classes, calibrated.argmax(axis=1)
        return [classes[i] if answer else None for i, answer in zip(best, answers, strict=True)]

    def predict_proba(
        self, texts: str | Sequence[str], pairs: str | Sequence[str] | None = None
    ) -> npt.NDArray[np.float64]:
        """Class probabilities ``(N, C)`` float64 of N texts, or ``(C,)`` of one text; see `predict`.

        If a text may have several labels, each label has a separate probability.

        Raises:
            DataError, UsageError: as in `predict`.
            CheckpointError: naming the first text with a prediction that is not finite.
        """
        if isinstance(texts, str):
            row: npt.NDArray[np.float64] = self.predict_proba([texts], _alone(pairs))[0]
            return row
        expected = self.settings.takes_pairs
        if expected is not None and expected != (pairs is not None):
            raise UsageError(
                f"the classifier was trained on {'pairs of texts' if expected else 'single texts'}: give "
                f"{'the second texts as pairs' if expected else 'no pairs'}"
            )
        texts = _checked(texts)
        pairs = None if pairs is None else _checked(pairs)
        if pairs is not None and len(pairs) != len(texts):
            raise DataError(f"{len(texts)} texts and {len(pairs)} second texts, lengths must match")
        parts = [np.empty((0, len(self.classes)))]
        for start in range(0, len(texts), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            encoded = self.tokenizer.encode(texts[chunk], None if pairs is None else pairs[chunk])
            parts.append(self.probabilities(encoded, self.settings.batch_size, start=start))
        return np.concatenate(parts)

    def probabilities(self, encoded: Encoded, batch_size: int, *, start: int) -> npt.NDArray[np.float64]:
        """Class probabilities ``(N, C)`` of N rows that begin at row ``start``.

        Raises:
            CheckpointError: naming the first row with a prediction that is not finite.
        """
        task = task_of(is_multi_label=self.labels.is_multi_label)
        probabilities = task.probabilities(self.logits(encoded, batch_size))
        bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
        if len(bad):
            raise CheckpointError(
                f"row {start + int(bad[0])} (counted from 0): the prediction is not a number: the weights of the run "
                "are damaged, or its numbers overflow in this precision (--precision fp32 tells)"
            )
        return probabilities

    def evaluate(
        self, texts: Sequence[str], labels: Sequence[Any], pairs: Sequence[str] | None = None
    ) -> Metrics:
        """Compare the predictions for N texts with their labels; the rows are checked as those of a file are.

        Args:
            texts: N texts.
            labels: the label of each text, or its labels if a text may have several.
            pairs: N second texts, for a classifier of pairs.

        Returns:
            ``accuracy``, ``macro_f1`` and others, with intervals, and ``per_class``; ``summary()`` is one line.

        Raises:
            DataError: for an invalid text or label, naming the row; for blank texts, unless the run left them out.
            UsageError: as in `predict`.
        """
        texts = _checked(texts)
        if isinstance(labels, str) or not isinstance(labels, Iterable):
            raise DataError(f"labels {shown(labels)}, expected a list with the label of each text")
        labels = [_cell(label) for label in labels]
        if len(texts) != len(labels):
            raise DataError(f"{len(texts)} texts and {len(labels)} labels, lengths must match")
        is_empty = [is_blank(text) for text in texts]
        if any(is_empty) and not self.settings.skips_blank:
            found = f"a blank text ({sum(is_empty):,} in all), expected words: fill in or remove such rows"
            raise DataError(found, path="rows", row=is_empty.index(True) + 1, column="text")
        kept = np.flatnonzero(np.logical_not(is_empty))
        is_multi_label = self.labels.is_multi_label
        names = LabelColumn("rows", "label", None, splits=is_multi_label).labels_of(
            [labels[i] for i in kept], [int(i) + 1 for i in kept]
        )
        label_ids = self.labels.encode(names, "rows", rows=kept.tolist(), column="label")
        probabilities = self.predict_proba(texts, pairs)[kept]
        task = task_of(is_multi_label=is_multi_label)
        return task.evaluate(probabilities, label_ids, self.labels.names, self.thresholds)

    def report(self) -> Inline:
        """The report of the run, which a notebook shows in the cell; its ``path`` is the file.

        Raises:
            UsageError: if the classifier was not loaded from a run.
        """
        from leantune.report.inline import inline_report

        return inline_report(self.source)

    def confusion(self) -> Inline:
        """The confusion matrix of the test rows, else of the validation rows, which a notebook shows in the cell.

        Raises:
            UsageError: if the classifier was not loaded from a run, the run measured no rows, or a text may have
                several labels.
        """
        from leantune.report.inline import inline_confusion

        return inline_confusion(self.source)

    def save(self, folder: str | Path) -> Path:
        """Copy its source into ``folder``, for `leantune.load` and the commands; the checkpoints of a run are left out.

        Raises:
            UsageError: if ``folder`` already exists.
        """
        folder = Path(folder).expanduser()
        if folder.exists():
            raise UsageError(f"{folder}: already exists; choose another folder or remove it")
        with atomic_folder(folder) as temporary:
            for entry in sorted(self.source.iterdir()):
                if entry.name in self.leaves_out:
                    continue
                copy = shutil.copytree if entry.is_dir() else shutil.copy2
                copy(entry, temporary / entry.name)
        return folder


def _checked(texts: object) -> list[str]:
    if not isinstance(texts, Iterable):
        raise DataError(f"{shown(texts)}, expected a text or a list of texts")
    return list_of_texts(texts)


def _alone(pair: Any) -> list[Any] | None:
    """The second text of a single text as a list."""
    return None if pair is None else [pair]


def _cell(label: Any) -> Any:
    """A label in the types that a file has."""
    label = label.tolist() if hasattr(label, "tolist") else label
    return list(label) if isinstance(label, tuple) else label


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TorchTextClassifier(TextClassifier):
    """A classifier computed by PyTorch or the native kernels, on packed batches."""

    classifier: Classifier

    def logits(self, rows: Encoded, batch_size: int) -> Logits:
        """Logits ``(N, C)`` in the order of ``rows``."""

        def batch_at(positions: Index) -> PackedBatch:
            return batch_of(rows, positions, self.classifier)

        return map_batches(self.classifier, rows.lengths, batch_size, batch_at, self.classifier)


def batch_of(rows: Encoded, positions: Index, classifier: Classifier) -> PackedBatch:
    """Pack the rows at some positions, numbered from 0 within them, into one batch for ``classifier``."""
    return pack(
        [rows.input_ids[i] for i in positions],
        np.arange(len(positions)),
        second_starts=rows.second_starts[positions],
        position_offset=classifier.position_offset,
    ).to(classifier.device)
