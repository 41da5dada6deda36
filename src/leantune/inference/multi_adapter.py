"""Several text classifiers over one frozen encoder; each adds only its adapter and head.

N texts, S texts of a batch, C classes of a classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leantune.adalora.adapter_file import AdapterFile, read_adapter
from leantune.data.labels import LabelMap
from leantune.data.tokens.dataset import Index
from leantune.data.tokens.tokenization import Encoded, Tokenizer
from leantune.errors import CheckpointError, UsageError
from leantune.evaluation.batches import map_batches
from leantune.inference.saved import SavedClassifier, cached_sha256, read_saved
from leantune.inference.text_classifier import Logits, TextClassifier, TorchTextClassifier, batch_of
from leantune.model.build import load_pretrained
from leantune.model.classifier import PackedClassifier
from leantune.model.hub import resolve_model
from leantune.model.multi_adapter import Attached, MultiAdapterClassifier, with_adapter
from leantune.model.pretrained import Pretrained
from leantune.packing.batch import PackedBatch
from leantune.system import hardware
from leantune.system.damage import explained_damage


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SharingTextClassifier(TextClassifier):
    """A classifier that shares its encoder with others."""

    encoder: MultiAdapterClassifier
    attached: Attached

    def logits(self, rows: Encoded, batch_size: int) -> Logits:
        """Logits ``(N, C)`` in the order of ``rows``."""
        base = self.encoder.base

        def batch_at(positions: Index) -> PackedBatch:
            return batch_of(rows, positions, base)

        def logits_of(batch: PackedBatch) -> Tensor:
            return torch.stack(self.encoder.logits(batch, [self.attached] * batch.num_seqs))

        return map_batches(base, rows.lengths, batch_size, batch_at, logits_of)


class SharedEncoder:
    """One pretrained encoder in memory, and any number of classifiers that were trained on it.

    `logits` computes texts of several classifiers in one batch: the frozen products once for all texts, and each
    adapter for its own texts. If only transformers can compute the encoder (`model.padded`), or its adapters change
    what all texts share (DeBERTa), the classifiers share its weights in memory but are computed one after the other.
    All methods are thread-safe.

    Args:
        source: the encoder: a folder, a hub name, or ``asset:minilm``.
        precision: ``auto``, ``bf16``, ``fp16`` or ``fp32``.

    Raises:
        UsageError: if the encoder does not exist or cannot be read.
    """

    def __init__(self, source: str | Path, *, precision: str = "auto") -> None:
        self.source = resolve_model(source)
        hardware.keep_to_allowed_cpus()
        device = hardware.pick_device()
        dtype = hardware.DTYPES[hardware.pick_precision(precision, device)]
        base = load_pretrained(Pretrained.at(self.source, num_labels=2), LabelMap(("0", "1")))
        base.set_encoder_dtype(dtype)
        base.to(device).choose_kernels()
        self.base = base
        mixes = isinstance(base, PackedClassifier) and base.mixes_adapters
        self._multi = MultiAdapterClassifier(base) if isinstance(base, PackedClassifier) and mixes else None
        self.weights_sha256 = cached_sha256(self.source)
        self._loaded: dict[str, TextClassifier] = {}
        self._tokenizers: dict[str, Tokenizer] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the loaded classifiers, in the order of loading."""
        return tuple(self._loaded)

    def __getitem__(self, name: str) -> TextClassifier:
        """The classifier called ``name``; it works like one loaded from a run.

        Raises:
            UsageError: if nothing was loaded under that name.
        """
        if name not in self._loaded:
            raise UsageError(f"no classifier '{name}' is loaded; there are {', '.join(self.names) or 'none'}")
        return self._loaded[name]

    def load(self, name: str, source: str | Path | SavedClassifier) -> TextClassifier:
        """Load a classifier as ``name``, replacing any earlier one.

        Args:
            name: name of the classifier here.
            source: a finished run, its ``adapter/``, or an adapter of a sequence classifier that PEFT saved.

        Raises:
            UsageError: if the folder does not exist, or holds a merged model.
            CheckpointError: if it is not finished, is damaged, or was trained on another encoder.
        """
        saved = source if isinstance(source, SavedClassifier) else read_saved(source)
        if saved.adapter is None:
            raise UsageError(
                f"{saved.source}: a merged model, which does not share the encoder; give a run or an adapter"
            )
        if saved.encoder_sha256 != self.weights_sha256:
            raise CheckpointError(
                f"{saved.source}: trained on an encoder other than {self.source}: its weights differ"
            )
        with explained_damage(saved.adapter):
            self._loaded[name] = self._with(saved, read_adapter(saved.adapter))
        return self._loaded[name]

    def remove(self, name: str) -> None:
        """Unload the classifier called ``name``.

        Raises:
            UsageError: if nothing was loaded under that name.
        """
        self[name]
        del self._loaded[name]

    def _with(self, saved: SavedClassifier, adapter: AdapterFile) -> TextClassifier:
        key = saved.tokenizer_key()
        if key not in self._tokenizers:
            self._tokenizers[key] = saved.load_tokenizer()
        tokenizer = self._tokenizers[key]
        if self._multi is not None:
            return SharingTextClassifier(
                encoder=self._multi,
                attached=self._multi.attach(adapter),
                tokenizer=tokenizer,
                labels=saved.label_map,
                settings=saved.settings,
                source=saved.source,
            )
        return TorchTextClassifier(
            classifier=with_adapter(self.base, adapter),
            tokenizer=tokenizer,
            labels=saved.label_map,
            settings=saved.settings,
            source=saved.source,
        )

    def logits(self, rows: Encoded, names: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """Logits of texts for several classifiers, in one batch if the encoder's family allows it.

        Args:
            rows: N texts, each tokenized by its classifier's tokenizer.
            names: name of the classifier for each text.

        Returns:
            N arrays ``(C,)`` in the order of ``rows``, each with as many logits as its classifier has classes.

        Raises:
            UsageError: for a name that is not loaded.
        """
        classifiers = [self[name] for name in names]
        if self._multi is None:
            return _one_after_the_other(rows, classifiers)
        batch = batch_of(rows, np.arange(len(names)), self.base)
        order = batch.rows.tolist()
        attached = [
            classifier.attached for classifier in classifiers if isinstance(classifier, SharingTextClassifier)
        ]
        found = self._multi.logits(batch, [attached[i] for i in order])
        by_row = {i: logits.cpu().numpy() for i, logits in zip(order, found, strict=True)}
        return [by_row[i] for i in range(len(names))]

    def predict_proba(
        self, name: str, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> npt.NDArray[np.float64]:
        """Class probabilities ``(N, C)`` of ``texts``, with columns in the order of the labels.

        Args:
            name: name of the classifier.
            texts: N texts.
            pairs: N second texts, for a classifier of pairs.

        Raises:
            DataError: for a value that is not a text.
            UsageError: for pairs if it was trained on single texts, or the other way round.
        """
        return self[name].predict_proba(texts, pairs)


def _one_after_the_other(
    rows: Encoded, classifiers: Sequence[TextClassifier]
) -> list[npt.NDArray[np.float32]]:
    """Logits ``(C,)`` of each row from its classifier, one classifier after the other."""
    found: dict[int, npt.NDArray[np.float32]] = {}
    places: dict[int, list[int]] = {}
    for i, classifier in enumerate(classifiers):
        places.setdefault(id(classifier), []).append(i)
    for positions in places.values():
        classifier = classifiers[positions[0]]
        logits = classifier.logits(rows.take(positions), classifier.settings.batch_size)
        found |= dict(zip(positions, logits, strict=True))
    return [found[i] for i in range(len(classifiers))]
