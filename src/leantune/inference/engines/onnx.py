"""A run exported to ONNX, ready to classify with ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leantune.config.classifier_file import InferenceSettings
from leantune.data.labels import LabelMap
from leantune.data.tokens.tokenization import Encoded, Tokenizer
from leantune.errors import CheckpointError, first_line
from leantune.inference.engines.exported import exported, import_of_extra, padded_batches
from leantune.inference.load import check_labels
from leantune.inference.text_classifier import Logits, TextClassifier
from leantune.model.pretrained import read_settings
from leantune.system.damage import explained_damage

EXTRA = "onnx"
FORMS = ("onnx", "onnx-int8")
"""Engines: each is an export format, and the name of its folder in the run."""
MODELS = {"onnx": "model.onnx", "onnx-int8": "model_quantized.onnx"}
"""The names that optimum gives to a model and to one whose weights are in int8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxClassifier(TextClassifier):
    """The merged model in ONNX Runtime, on padded batches."""

    session: Any
    pad_id: int

    def logits(self, rows: Encoded, batch_size: int) -> Logits:
        """Logits ``(N, C)`` in the order of ``rows``."""
        logits = np.empty((len(rows.input_ids), len(self.labels.names)), dtype=np.float32)
        batches = padded_batches(
            rows,
            batch_size,
            names={each.name for each in self.session.get_inputs()},
            longest=self.tokenizer.max_length,
            pad_id=self.pad_id,
        )
        for positions, inputs in batches:
            logits[positions] = self.session.run(["logits"], inputs)[0]
        return logits


def load_onnx(run: Path, form: str) -> OnnxClassifier:
    """Load what ``leantune export --format onnx`` or ``onnx-int8`` made of a run.

    Args:
        run: the run folder.
        form: one of `FORMS`.

    Raises:
        UsageError: if ``run`` is no run folder, the export is not there, or ONNX Runtime is not installed.
        CheckpointError: if the export is damaged or of another run.
    """
    found = exported(run, form)
    return open_onnx(
        found.folder,
        form,
        found.labels,
        InferenceSettings.of(found.recipe),
        max_length=found.recipe.max_length,
        metrics=found.metrics,
    )


def open_onnx(
    folder: Path,
    form: str,
    labels: LabelMap,
    settings: InferenceSettings,
    *,
    max_length: int,
    metrics: Mapping[str, Any] | None = None,
) -> OnnxClassifier:
    """The model of an export folder, in a session with as many threads as PyTorch has.

    Raises:
        UsageError: if ONNX Runtime is not installed.
        CheckpointError: if the folder is damaged, or its labels are not ``labels``.
    """
    runtime = import_of_extra("onnxruntime", "this engine", EXTRA)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    with explained_damage(folder):
        described = read_settings(str(folder))
        check_labels(folder, described, labels)
        try:
            session = runtime.InferenceSession(
                str(folder / MODELS[form]), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its classes have no common base but this
            raise CheckpointError(
                f"{folder / MODELS[form]}: cannot be loaded: {first_line(error)}"
            ) from error
    return OnnxClassifier(
        tokenizer=Tokenizer.of_run(folder, max_length),
        labels=labels,
        settings=settings,
        source=folder,
        metrics=metrics or {},
        session=session,
        pad_id=described.get("pad_token_id") or 0,
    )
