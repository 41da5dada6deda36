"""Several classifiers over one frozen encoder: what is added for each is its adapters and its head.

R rank, S texts, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leantune import hardware
from leantune.adalora.adapter_file import AdapterFile, copy_head, read_adapter
from leantune.adalora.triplets import Triplets
from leantune.architectures import head_modules
from leantune.config import recipe_of_run
from leantune.damage import explained_damage
from leantune.data.labels import LabelMap
from leantune.data.tokens import Tokeniser
from leantune.errors import CheckpointError, UsageError
from leantune.inference.load import TrainedClassifier, check_artefact
from leantune.inference.predict import predict_texts
from leantune.model import PackedClassifier
from leantune.packing.batch import PackedBatch
from leantune.packing.dropout import DropoutStream
from leantune.pretrained import config_of, load_pretrained, set_encoder_dtype, skeleton, weights_sha256
from leantune.run_record import read_finished_record
from leantune.sources import resolve_model


class SharedEncoder:
    """One pretrained encoder in memory, and any number of classifiers that were trained on it.

    Each classifier has modules of its own, so any of them can run at any time and in any thread; the
    encoder's weights in them are the same tensors. A text still passes the encoder once a classifier,
    because adapters sit inside its layers.

    Args:
        source: the encoder: a folder, a hub name, or ``asset:minilm``.
        precision: ``auto``, ``bf16``, ``fp16`` or ``fp32``.

    Raises:
        UsageError: if the encoder cannot be had.
    """

    def __init__(self, source: str | Path, *, precision: str = "auto") -> None:
        self.source = resolve_model(source)
        hardware.keep_to_allowed_cpus()
        device = hardware.pick_device()
        dtype = hardware.DTYPES[hardware.pick_precision(precision, device)]
        config = config_of(self.source, num_labels=2)
        model = load_pretrained(self.source, config, LabelMap(("0", "1")))
        model.requires_grad_(False)
        set_encoder_dtype(model, dtype)
        self.encoder: nn.Module = getattr(model, model.base_model_prefix).to(device)
        self._weights_sha256 = weights_sha256(self.source)
        self._prefix = f"{model.base_model_prefix}."
        self._loaded: dict[str, TrainedClassifier] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """What is loaded, in the order of loading."""
        return tuple(self._loaded)

    def __getitem__(self, name: str) -> TrainedClassifier:
        """The classifier called ``name``, for all that takes the one of a run.

        Raises:
            UsageError: if nothing was loaded under that name.
        """
        if name not in self._loaded:
            raise UsageError(f"no classifier '{name}' is loaded; there are {', '.join(self.names) or 'none'}")
        return self._loaded[name]

    def load(self, name: str, run: str | Path) -> TrainedClassifier:
        """Add the classifier of a finished run under ``name``, in place of an earlier one.

        Raises:
            UsageError: if ``run`` is no run folder.
            CheckpointError: if it is not finished, is damaged, or was trained on another encoder.
        """
        run = Path(run)
        record = read_finished_record(run)
        labels = LabelMap.from_json(record["labels"])
        folder = check_artefact(run, record, "adapter")
        with explained_damage(folder):
            adapter = read_adapter(folder)
        if record["model"]["sha256"] != self._weights_sha256:
            raise CheckpointError(f"{run}: trained on another encoder than {self.source}: its weights differ")
        recipe = recipe_of_run(run, record)
        tokeniser = Tokeniser.of_run(folder, recipe.max_length)
        classifier = self.attach(adapter, len(labels.names))
        self._loaded[name] = TrainedClassifier(
            classifier=classifier, tokeniser=tokeniser, labels=labels, recipe=recipe
        )
        return self._loaded[name]

    def classify(self, name: str, batch: PackedBatch) -> Tensor:
        """Logits ``(S, C)`` fp32 of the classifier ``name``, in the order of ``batch.rows``."""
        with torch.inference_mode():
            logits: Tensor = self[name].classifier(batch)
        return logits

    def predict_proba(
        self, name: str, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> npt.NDArray[np.float64]:
        """Class probabilities ``(N, C)`` of ``texts``, columns in the order of the labels.

        Args:
            name: of the classifier.
            texts: N texts.
            pairs: the N second texts, for a classifier of pairs.

        Raises:
            DataError: for what is no text.
            UsageError: for pairs where single texts were trained on, or the other way round.
        """
        return predict_texts(self[name], texts, pairs)

    def attach(self, adapter: AdapterFile, num_labels: int) -> PackedClassifier:
        """A classifier whose encoder weights are those of this object.

        Args:
            adapter: AdaLoRA or LoRA, from `read_adapter`.
            num_labels: its classes.

        Raises:
            CheckpointError: if it does not fit the encoder.
        """
        model = skeleton(config_of(self.source, num_labels=num_labels)).model
        setattr(model, model.base_model_prefix, self._encoder_copy(model.config, adapter.head))
        for head in head_modules(model).values():
            head.to_empty(device=next(self.encoder.parameters()).device)
        self._check_head(model, adapter)
        copy_head(model, adapter)
        for name, triplets in adapter.modules.items():
            if triplets.rank:
                layer = LowRankLinear(_linear(model, name, triplets), triplets, adapter.scaling)
                model.set_submodule(name, layer)
        return PackedClassifier(model, DropoutStream(0)).eval()

    def _encoder_copy(self, config: Any, own: Mapping[str, Tensor]) -> nn.Module:
        """New modules around the same tensors; only parameters named in ``own`` are copied."""
        shared: dict[int, Any] = {id(buffer): buffer for buffer in self.encoder.buffers()}
        for name, parameter in self.encoder.named_parameters():
            if self._prefix + name not in own:
                shared[id(parameter)] = parameter
        # deepcopy takes what its memo holds for a copy that was made already
        shared[id(self.encoder.config)] = config
        return copy.deepcopy(self.encoder, shared)

    def _check_head(self, model: Any, adapter: AdapterFile) -> None:
        missing = [
            f"{name}.{sub}"
            for name, head in head_modules(model).items()
            for sub, _ in head.named_parameters()
            if f"{name}.{sub}" not in adapter.head
        ]
        if missing:
            raise CheckpointError(f"the adapter lacks {', '.join(missing)}")


class LowRankLinear(nn.Module):
    """A frozen layer, possibly shared, plus a fixed update held as two factors in its type.

    Args:
        base: the frozen layer.
        triplets: of rank R, at least 1.
        scaling: of the update.
    """

    down: Tensor
    up: Tensor

    def __init__(self, base: nn.Linear, triplets: Triplets, scaling: float) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("down", (triplets.A * triplets.E * scaling).to(base.weight))  # (R, in)
        self.register_buffer("up", triplets.B.to(base.weight))  # (out, R)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``."""
        frozen = F.linear(x, self.base.weight, self.base.bias)
        low_rank = F.linear(x, self.down).flatten(0, -2)
        return torch.addmm(frozen.flatten(0, -2), low_rank, self.up.t()).view(frozen.shape)


def _linear(model: Any, name: str, triplets: Triplets) -> nn.Linear:
    """The layer that ``triplets`` are for.

    Raises:
        CheckpointError: if the model has none, or one of another shape.
    """
    layer = dict(model.named_modules()).get(name)
    if not isinstance(layer, nn.Linear):
        raise CheckpointError(f"{name}: the adapter has it, the base model has not")
    expected, found = (triplets.B.shape[0], triplets.A.shape[1]), tuple(layer.weight.shape)
    if expected != found:
        raise CheckpointError(f"{name}: the adapter has shape {expected}, the model {found}")
    return layer
