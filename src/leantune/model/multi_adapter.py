"""Several classifiers over one frozen encoder, computed in one batch; each adds only its updates and head.

T packed tokens, S texts, D model width, C classes of a classifier.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leantune.adalora.adapter_file import AdapterFile, copy_head
from leantune.adalora.layer import AdaLoraLinear
from leantune.adalora.multi_lora import Adapter, Assignment, LowRank, MultiLoraLinear, TextAdapters
from leantune.adalora.triplets import Triplets
from leantune.errors import CheckpointError
from leantune.model.classifier import Classifier, PackedClassifier
from leantune.model.encoder import BlankLinear
from leantune.model.head import Head
from leantune.model.pretrained import check_shape
from leantune.packing.batch import PackedBatch


@dataclass(frozen=True, slots=True)
class Attached:
    """A classifier attached to a shared encoder."""

    adapter: Adapter
    head: Head
    """The classifier's head, in fp32."""
    num_bytes: int
    """Bytes of memory that it takes in addition to the encoder."""

    @property
    def num_labels(self) -> int:
        """C."""
        return self.head.output.out_features


class MultiAdapterClassifier:
    """One encoder in memory, and any number of classifiers over it.

    Args:
        base: a classifier without adapters, on its device and with kernels chosen; its encoder is modified.
    """

    def __init__(self, base: PackedClassifier) -> None:
        self.base = base.eval()
        self.linears = {
            name: module
            for name, module in base.named_modules_with_weights().items()
            if isinstance(module, nn.Linear) and name not in base.places_in_head
        }
        self._assignment, self._lock = Assignment(), threading.Lock()
        for number, (name, layer) in enumerate(self.linears.items()):
            base.replace(name, MultiLoraLinear(layer, number, self._assignment))

    def attach(self, adapter: AdapterFile) -> Attached:
        """Prepare the updates and the head of a classifier over the encoder.

        Args:
            adapter: AdaLoRA or LoRA, from `read_adapter`.

        Raises:
            CheckpointError: if it does not fit the encoder, or lacks a part of the head that the base also lacks.
        """
        for name in adapter.modules.keys() - self.base.places_in_head.keys():
            _fitting_layer(self.linears.get(name), name, adapter.modules[name])
        found = (adapter.modules.get(name) for name in self.linears)
        updates = tuple(
            LowRank.of(triplets, adapter.scaling, layer.weight) if triplets and triplets.rank else None
            for triplets, layer in zip(found, self.linears.values(), strict=True)
        )
        head, own = self._head(adapter)
        own_adapter = Adapter(updates)
        return Attached(own_adapter, head, own_adapter.num_bytes + own)

    def _head(self, adapter: AdapterFile) -> tuple[Head, int]:
        """The head of ``adapter``, and its bytes that are not shared with the base."""
        _check_head(self.base, adapter)
        head = copy.deepcopy(self.base.head, {id(weight): weight for weight in self.base.head.parameters()})
        num_labels = len(adapter.head[f"{self.base.output_name}.weight"])
        head.output = BlankLinear(head.output.in_features, num_labels).requires_grad_(False)
        places = {
            f"{name}.{sub}": (head.get_submodule(path), sub)
            for name, path in self.base.places_in_head.items()
            for sub, _ in head.get_submodule(path).named_parameters()
        }
        own = 0
        for name, tensor in adapter.head.items():
            if name not in places:
                raise CheckpointError(
                    f"{name}: the adapter replaces this weight, which is not part of the head; use its merged model"
                )
            module, sub = places[name]
            check_shape("the adapter", name, tensor.shape, getattr(module, sub).shape)
            setattr(module, sub, nn.Parameter(tensor.float().to(self.base.device), requires_grad=False))
            own += tensor.numel() * torch.float32.itemsize
        for name in adapter.modules.keys() & self.base.places_in_head.keys():
            layer = _fitting_layer(
                head.get_submodule(self.base.places_in_head[name]), name, adapter.modules[name]
            )
            update = (adapter.modules[name].product() * adapter.scaling).to(layer.weight)
            layer.weight = nn.Parameter(layer.weight + update, requires_grad=False)
            own += update.nbytes
        return head.eval(), own

    def logits(self, batch: PackedBatch, classifiers: Sequence[Attached]) -> list[Tensor]:
        """Logits of a batch with texts for several classifiers, computed together; thread-safe.

        Args:
            batch: S texts, on the encoder's device.
            classifiers: the classifier of each text, in the order of the batch's texts, that is of `PackedBatch.rows`.

        Returns:
            S tensors ``(C,)`` fp32, each with as many logits as its classifier has classes.
        """
        with self._lock, torch.inference_mode():
            self._assignment.current = TextAdapters.of([each.adapter for each in classifiers], batch.lengths)
            try:
                hidden = self.base.encoder(batch, only_first=self.base.head.reads_one)
            finally:
                self._assignment.current = None
            pooled_SD = self.base.head.pooled(hidden, batch)
            found: list[Tensor] = [pooled_SD] * len(classifiers)
            for texts in _by_classifier(classifiers):
                head = classifiers[texts[0]].head
                logits = head.output(head.features_of(pooled_SD[texts]))
                for i, row in zip(texts, logits, strict=True):
                    found[i] = row
        return found


def _by_classifier(classifiers: Sequence[Attached]) -> list[list[int]]:
    """The positions of the texts, grouped by classifier."""
    places: dict[int, list[int]] = {}
    for i, each in enumerate(classifiers):
        places.setdefault(id(each), []).append(i)
    return list(places.values())


def _fitting_layer(layer: nn.Module | None, name: str, triplets: Triplets) -> nn.Linear:
    """Check that ``triplets`` fit ``layer``, and return it.

    Raises:
        CheckpointError: if the model has no such layer, or one of another shape.
    """
    if not isinstance(layer, nn.Linear):
        raise CheckpointError(f"{name}: the adapter has this weight, the base model does not")
    expected, found = (triplets.B.shape[0], triplets.A.shape[1]), tuple(layer.weight.shape)
    if expected != found:
        raise CheckpointError(f"{name}: the adapter has shape {expected}, the model {found}")
    return layer


def with_adapter(base: Classifier, adapter: AdapterFile) -> Classifier:
    """A classifier that shares the encoder weights of ``base`` and is computed by itself.

    Raises:
        CheckpointError: see `MultiAdapterClassifier.attach`.
    """
    _check_head(base, adapter)
    classifier = base.with_own(len(adapter.head[f"{base.output_name}.weight"]), frozenset(adapter.head))
    copy_head(classifier.named_weights(), adapter)
    linears = classifier.encoder_linears()
    for name, triplets in adapter.modules.items():
        layer = _fitting_layer(linears.get(name), name, triplets)
        if triplets.rank:
            classifier.replace(name, AdaLoraLinear.of(layer, triplets, scaling=adapter.scaling))
    return classifier.eval()


def _check_head(base: Classifier, adapter: AdapterFile) -> None:
    """Refuse an adapter that lacks a part of the head: that part would be untrained.

    Raises:
        CheckpointError: naming what is missing.
    """
    missing = [name for name in base.head_weights("full") if name not in adapter.head]
    if missing:
        raise CheckpointError(f"the adapter lacks {', '.join(missing)}")
