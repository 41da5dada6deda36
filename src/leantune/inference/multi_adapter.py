"""Several classifiers over one frozen encoder: what is added for each is its adapters and its head.

R rank, S texts, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from leantune.adalora.adapter_file import AdapterFile, copy_head, read_adapter
from leantune.adalora.layer import AdaLoraLinear
from leantune.adalora.triplets import Triplets
from leantune.config import recipe_of_run
from leantune.config.classifier_file import InferenceSettings
from leantune.config.run_record import read_finished_record, to_json
from leantune.data.labels import LabelMap
from leantune.data.tokenization import Tokenizer
from leantune.errors import CheckpointError, UsageError
from leantune.inference.load import check_artefact
from leantune.inference.text_classifier import TorchTextClassifier
from leantune.model.build import load_pretrained, share_encoder
from leantune.model.classifier import Classifier
from leantune.model.hub import resolve_model
from leantune.model.pretrained import Pretrained, weights_sha256
from leantune.packing.batch import PackedBatch
from leantune.system import hardware
from leantune.system.damage import explained_damage


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
        pretrained = Pretrained.at(self.source, num_labels=2)
        self.base = load_pretrained(pretrained, LabelMap(("0", "1")))
        self.base.set_encoder_dtype(dtype)
        self.base.to(device).choose_kernels()
        self._weights_sha256 = weights_sha256(self.source)
        self._loaded: dict[str, TorchTextClassifier] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """What is loaded, in the order of loading."""
        return tuple(self._loaded)

    def __getitem__(self, name: str) -> TorchTextClassifier:
        """The classifier called ``name``, for all that takes the one of a run.

        Raises:
            UsageError: if nothing was loaded under that name.
        """
        if name not in self._loaded:
            raise UsageError(f"no classifier '{name}' is loaded; there are {', '.join(self.names) or 'none'}")
        return self._loaded[name]

    def load(self, name: str, run: str | Path) -> TorchTextClassifier:
        """Add the classifier of a finished run under ``name``, in place of an earlier one.

        Raises:
            UsageError: if ``run`` is no run folder.
            CheckpointError: if it is not finished, is damaged, or was trained on another encoder.
        """
        run = Path(run)
        record = read_finished_record(run)
        labels = LabelMap.of_record(record.labels)
        folder = check_artefact(run, record, "adapter")
        with explained_damage(folder):
            adapter = read_adapter(folder)
        if record.model is None or record.model.sha256 != self._weights_sha256:
            raise CheckpointError(f"{run}: trained on another encoder than {self.source}: its weights differ")
        recipe = recipe_of_run(run, record.recipe)
        tokenizer = Tokenizer.of_run(folder, recipe.max_length)
        classifier = self.attach(adapter, len(labels.names))
        self._loaded[name] = TorchTextClassifier(
            classifier=classifier,
            tokenizer=tokenizer,
            labels=labels,
            settings=InferenceSettings.of(recipe),
            source=folder,
            metrics=to_json(record.metrics) or {},
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
        return self[name].predict_proba(texts, pairs)

    def attach(self, adapter: AdapterFile, num_labels: int) -> Classifier:
        """A classifier whose encoder weights are those of this object.

        Args:
            adapter: AdaLoRA or LoRA, from `read_adapter`.
            num_labels: its classes.

        Raises:
            CheckpointError: if it does not fit the encoder.
        """
        classifier = share_encoder(self.base, num_labels, own=frozenset(adapter.head))
        missing = [name for name in classifier.head_weights("full") if name not in adapter.head]
        if missing:
            raise CheckpointError(f"the adapter lacks {', '.join(missing)}")
        copy_head(classifier.named_weights(), adapter)
        linears = classifier.encoder_linears()
        for name, triplets in adapter.modules.items():
            if triplets.rank:
                layer = _linear(linears, name, triplets)
                classifier.replace(name, AdaLoraLinear.of(layer, triplets, scaling=adapter.scaling))
        return classifier.eval()


def _linear(linears: Mapping[str, nn.Module], name: str, triplets: Triplets) -> nn.Linear:
    """The layer that ``triplets`` are for.

    Raises:
        CheckpointError: if the model has none, or one of another shape.
    """
    layer = linears.get(name)
    if not isinstance(layer, nn.Linear):
        raise CheckpointError(f"{name}: the adapter has it, the base model has not")
    expected, found = (triplets.B.shape[0], triplets.A.shape[1]), tuple(layer.weight.shape)
    if expected != found:
        raise CheckpointError(f"{name}: the adapter has shape {expected}, the model {found}")
    return layer
