"""The classifiers of a worker: loaded from folders, computed in batches, and evicted when memory is short.

Shapes: N texts, C classes of a classifier.
"""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leantune.adalora.adapter_file import WEIGHTS
from leantune.config.abstention_file import read_abstention
from leantune.config.thresholds_file import read_thresholds
from leantune.data.tokens.tokenization import Encoded
from leantune.errors import CheckpointError, LeantuneError, UsageError
from leantune.evaluation.thresholds import thresholds_of
from leantune.inference.multi_adapter import SharedEncoder
from leantune.inference.saved import SavedClassifier, load_merged, read_saved
from leantune.inference.text_classifier import TorchTextClassifier
from leantune.serving.description import Description
from leantune.system import hardware
from leantune.system.checksums import describe_file


@dataclass(frozen=True, slots=True)
class _Opened:
    """An opened classifier."""

    saved: SavedClassifier
    precision: str
    alone: TorchTextClassifier | None
    """The classifier with its own encoder; None if it shares an encoder with others."""

    @property
    def encoder(self) -> tuple[str, str]:
        """Folder and precision of the shared encoder."""
        assert self.saved.encoder is not None
        return self.saved.encoder, self.precision

    @property
    def num_bytes(self) -> int:
        """Size of the adapter file in bytes."""
        assert self.saved.adapter is not None
        return (self.saved.adapter / WEIGHTS).stat().st_size


class Engine:
    """Classifiers by number.

    If adapters exceed the memory limit, the least recently used ones are evicted. They are read from their folders
    again when they are needed.

    Args:
        precision: ``auto``, ``bf16``, ``fp16``, ``fp32`` or ``int8``; None for the precision of each training run.
        adapter_memory_bytes: memory limit for adapters.
    """

    def __init__(self, *, precision: str | None, adapter_memory_bytes: int) -> None:
        self.precision, self.adapter_memory_bytes = precision, adapter_memory_bytes
        self._opened: dict[int, _Opened] = {}
        self._encoders: dict[tuple[str, str], SharedEncoder] = {}
        self._in_memory: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.RLock()
        """Lock for changes to the loaded classifiers."""

    def open(self, number: int, source: str, *, shares: bool) -> tuple[Description, bytes]:
        """Check and load the classifier in a folder.

        Args:
            number: number of the classifier in later calls.
            source: folder or file that `read_saved` accepts.
            shares: whether the adapter of a run is used, on an encoder shared with others. Otherwise, or if the
                encoder does not exist, the merged model is used.

        Returns:
            The classifier's description, and bytes for `restore`.

        Raises:
            LeantuneError: if the folder contains no classifier.
        """
        saved = read_saved(source)
        can_share = saved.adapter is not None and saved.encoder is not None
        if not can_share and saved.merged is None:
            raise CheckpointError(
                f"{source}: cannot be loaded: neither the encoder of its adapter nor a merged model exists"
            )
        precision = self.precision or saved.settings.precision
        does_share = can_share and (shares or saved.merged is None)
        if does_share and precision == hardware.INT8:
            raise UsageError(
                f"{source}: precision int8 is supported for merged models only; serve the run's merged/ folder instead"
            )
        self._add(number, saved, precision, does_share)
        restores = pickle.dumps((saved, precision, does_share))
        return self._description(number), restores

    def restore(self, classifiers: Mapping[int, bytes]) -> None:
        """Open classifiers that another worker has opened and checked. Adapters are read when they are needed.

        Raises:
            LeantuneError: if a merged model can no longer be read.
        """
        for number, restores in classifiers.items():
            saved, precision, does_share = pickle.loads(restores)  # from this program, never from a client
            self._add(number, saved, precision, does_share, loads=False)

    def _add(
        self, number: int, saved: SavedClassifier, precision: str, does_share: bool, *, loads: bool = True
    ) -> None:
        alone = None if does_share else load_merged(saved, precision=precision)
        opened = _Opened(saved, precision, alone)
        with self._lock:
            self._opened[number] = opened
            if does_share and loads:
                try:
                    self._into_memory([number])
                except LeantuneError:
                    del self._opened[number]
                    raise

    def _description(self, number: int) -> Description:
        opened = self._opened[number]
        saved, precision = opened.saved, opened.precision
        classifier = opened.alone.classifier if opened.alone else self._encoder(opened).base
        return Description(
            source=str(saved.source),
            labels=saved.labels,
            takes_pairs=saved.settings.takes_pairs,
            tokenizer_folder=str(saved.tokenizer_folder),
            tokenizer_key=saved.tokenizer_key(),
            max_length=saved.max_length,
            group=f"alone {number}" if opened.alone else f"{saved.encoder_sha256} {precision}",
            is_multi_label=saved.is_multi_label,
            model_type=saved.model_type,
            precision=precision if precision == hardware.INT8 else classifier.encoder_precision,
            kernels=classifier.kernels_name,
            sha256=saved.sha256,
            thresholds=tuple(thresholds_of(read_thresholds(saved.source), saved.labels).tolist())
            if saved.is_multi_label
            else None,
            abstention=read_abstention(saved.source),
        )

    def _encoder(self, opened: _Opened) -> SharedEncoder:
        with self._lock:
            if opened.encoder not in self._encoders:
                folder, precision = opened.encoder
                self._encoders[opened.encoder] = SharedEncoder(folder, precision=precision)
            return self._encoders[opened.encoder]

    def close(self, number: int) -> None:
        """Remove a classifier; do nothing if it does not exist."""
        with self._lock:
            if number in self._in_memory:
                self._forget(number)
            self._opened.pop(number, None)

    def logits(self, rows: Encoded, numbers: Sequence[int]) -> list[npt.NDArray[np.float32]]:
        """Return the logits of N texts whose classifiers belong to one group.

        Args:
            rows: N texts, tokenized by their classifiers' tokenizers.
            numbers: the classifier of each text.

        Returns:
            N arrays ``(C,)`` in the order of ``rows``.

        Raises:
            LeantuneError: if an evicted adapter has been removed from disk or changed.
        """
        first = self._opened[numbers[0]]
        if first.alone is not None:
            return list(first.alone.logits(rows, first.saved.settings.batch_size))
        with self._lock:  # keep the adapters in memory until their texts are computed
            self._into_memory(sorted(set(numbers)))
            return self._encoder(first).logits(rows, [str(number) for number in numbers])

    def _into_memory(self, numbers: Sequence[int]) -> None:
        """Load these adapters, and evict others if the memory limit is exceeded."""
        for number in numbers:
            if number not in self._in_memory:
                opened = self._opened[number]
                _check_unchanged(opened.saved)
                self._encoder(opened).load(str(number), opened.saved)
                self._in_memory[number] = opened.num_bytes
            self._in_memory.move_to_end(number)
        while sum(self._in_memory.values()) > self.adapter_memory_bytes and len(self._in_memory) > len(
            numbers
        ):
            self._forget(next(iter(self._in_memory)))

    def _forget(self, number: int) -> None:
        del self._in_memory[number]
        self._encoder(self._opened[number]).remove(str(number))

    @property
    def num_in_memory(self) -> int:
        """Number of adapters in memory."""
        return len(self._in_memory)


def _check_unchanged(saved: SavedClassifier) -> None:
    """Check that an adapter file has not changed since it was opened.

    Raises:
        CheckpointError: if the file has changed or cannot be read.
    """
    assert saved.adapter is not None
    try:
        found = describe_file(saved.adapter / WEIGHTS)["sha256"]
    except OSError as error:
        raise CheckpointError(f"{saved.source}: can no longer be read: {error.strerror}") from error
    if found != saved.sha256:
        raise CheckpointError(
            f"{saved.source}: the weights have changed since they were loaded; load the adapter again"
        )


def error_text(error: BaseException) -> str:
    """Return the error text for clients, which reveals nothing about internal errors except their type."""
    return str(error) if isinstance(error, LeantuneError) else f"{type(error).__name__} in the worker"
