"""A trained classifier: from texts to labels and probabilities.

N texts, C classes.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leantune.config.abstention_file import Abstention, read_abstention
from leantune.config.classifier_file import InferenceSettings
from leantune.config.thresholds_file import read_thresholds
from leantune.data.labels import LabelMap
from leantune.data.text.cells import list_of_texts
from leantune.data.tokens.dataset import Index
from leantune.data.tokens.tokenization import Encoded, Tokenizer
from leantune.errors import CheckpointError, DataError, UsageError
from leantune.evaluation.abstention import is_answered, required_abstention, with_temperature
from leantune.evaluation.batches import map_batches
from leantune.evaluation.tasks import task_of
from leantune.evaluation.thresholds import thresholds_of
from leantune.model.classifier import Classifier
from leantune.packing.batch import PackedBatch, pack
from leantune.system.atomic import atomic_folder

CHUNK_ROWS = 8192
"""Rows classified at once: enough to sort by length, few enough to fit in memory."""

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
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

    @abstractmethod
    def logits(self, rows: Encoded, batch_size: int) -> Logits:
        """Logits ``(N, C)`` in the order of ``rows``, whatever the batches were."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the columns of `predict_proba`."""
        return self.labels.names

    @property
    def thresholds(self) -> npt.NDArray[np.float64] | None:
        """Least probability ``(C,)`` of a predicted label if a text may have several, else None."""
        if not self.labels.is_multi_label:
            return None
        return thresholds_of(read_thresholds(self.source), self.classes)

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Any]:
        """Predict the most probable class of each of N texts.

        If a text may have several labels, the prediction is the list of labels that reach their threshold.

        Args:
            texts: N texts.
            pairs: N second texts, for a classifier of pairs.

        Raises:
            DataError: for a value that is not a text, or another number of second texts.
            UsageError: for pairs if it was trained on single texts, or the other way round.
        """
        probabilities = self.predict_proba(texts, pairs)
        thresholds = self.thresholds
        if thresholds is not None:
            return [[self.classes[i] for i in np.flatnonzero(row >= thresholds)] for row in probabilities]
        return [self.classes[best] for best in probabilities.argmax(axis=1)]

    @property
    def abstention(self) -> Abstention | None:
        """Thresholds for abstaining, written by ``leantune abstain``; None if none were chosen."""
        return read_abstention(self.source)

    def predict_or_abstain(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, per_class: bool = False
    ) -> list[str | None]:
        """Predict the most probable class of each of N texts, or None if it is not probable enough.

        Args:
            texts: N texts.
            pairs: N second texts, for a classifier of pairs.
            per_class: use the thresholds of the classes instead of one for all.

        Raises:
            DataError, UsageError: as in `predict`; also UsageError if no threshold was chosen.
        """
        abstention = required_abstention(self.abstention, self.source)
        calibrated = with_temperature(self.predict_proba(texts, pairs), abstention.temperature)
        answers = is_answered(calibrated, abstention, self.classes, per_class=per_class)
        best = calibrated.argmax(axis=1)
        return [self.classes[i] if answer else None for i, answer in zip(best, answers, strict=True)]

    def predict_proba(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> npt.NDArray[np.float64]:
        """Class probabilities ``(N, C)`` float64 of N texts; see `predict`.

        If a text may have several labels, each label has a separate probability.

        Raises:
            DataError, UsageError: as in `predict`.
            CheckpointError: naming the first text with a prediction that is not finite.
        """
        expected = self.settings.takes_pairs
        if expected is not None and expected != (pairs is not None):
            raise UsageError(
                f"the classifier was trained on {'pairs of texts' if expected else 'single texts'}: give "
                f"{'the second texts as pairs' if expected else 'no pairs'}"
            )
        texts = list_of_texts(texts)
        pairs = None if pairs is None else list_of_texts(pairs)
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


@dataclass(frozen=True, slots=True, kw_only=True)
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
