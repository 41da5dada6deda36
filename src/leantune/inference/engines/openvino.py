"""A run exported to OpenVINO, ready to classify: padded batches of few shapes, on the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leantune.config.classifier_file import InferenceSettings
from leantune.data.labels import LabelMap
from leantune.data.tokens.tokenization import Encoded, Tokenizer
from leantune.inference.engines.exported import exported, import_of_extra, padded_batches
from leantune.inference.load import check_labels
from leantune.inference.text_classifier import Logits, TextClassifier
from leantune.model.pretrained import read_settings
from leantune.system import hardware
from leantune.system.damage import explained_damage

FORMS = ("openvino", "openvino-int8")
"""Engines besides PyTorch: each is an export format, and the name of its folder in the run."""
MODEL = "openvino_model.xml"
"""The name that optimum-intel looks for; the weights are beside it in ``openvino_model.bin``."""


def import_extra(name: str, purpose: str) -> Any:
    """Import ``openvino`` or ``nncf``, which come with an extra.

    Raises:
        UsageError: saying what to install for ``purpose``.
    """
    # both report every use to their makers unless told not to; without this package they cannot
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_of_extra(name, purpose, "openvino")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoClassifier(TextClassifier):
    """The merged model in OpenVINO, on padded batches."""

    compiled: Any
    pad_id: int

    def logits(self, rows: Encoded, batch_size: int) -> Logits:
        """Logits ``(N, C)`` in the order of ``rows``."""
        logits = np.empty((len(rows.input_ids), len(self.labels.names)), dtype=np.float32)
        request = self.compiled.create_infer_request()
        batches = padded_batches(
            rows,
            batch_size,
            names={name for each in self.compiled.inputs for name in each.names},
            longest=self.tokenizer.max_length,
            pad_id=self.pad_id,
        )
        for positions, inputs in batches:
            logits[positions] = request.infer(inputs, share_inputs=True)["logits"]
        return logits


def load_openvino(run: Path, form: str, *, precision: str | None = None) -> OpenVinoClassifier:
    """Load what ``leantune export --format openvino`` or ``openvino-int8`` made of a run.

    Args:
        run: the run folder.
        form: one of `FORMS`.
        precision: ``auto``, ``bf16`` or ``fp32``; None: as in the recipe. Of what is not int8.

    Raises:
        UsageError: if ``run`` is no run folder, the export is not there, or OpenVINO is not installed.
        CheckpointError: if the export is damaged or of another run.
    """
    found = exported(run, form)
    return open_export(
        found.folder,
        found.labels,
        InferenceSettings.of(found.recipe),
        max_length=found.recipe.max_length,
        precision=precision,
        metrics=found.metrics,
    )


def open_export(
    folder: Path,
    labels: LabelMap,
    settings: InferenceSettings,
    *,
    max_length: int,
    precision: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> OpenVinoClassifier:
    """The model of an export folder, compiled.

    Raises:
        UsageError: if OpenVINO is not installed, or has no such precision here.
        CheckpointError: if the folder is damaged, or its labels are not ``labels``.
    """
    openvino = import_extra("openvino", "this engine")
    if precision is None:
        precision = "auto" if settings.precision == "fp16" else settings.precision  # fp16 is for GPUs
    properties = _properties(openvino, precision)
    with explained_damage(folder):
        described = read_settings(str(folder))
        check_labels(folder, described, labels)
        with _same_signal_stack():
            compiled = openvino.Core().compile_model(str(folder / MODEL), "CPU", properties)
        compiled.output("logits")
    return OpenVinoClassifier(
        tokenizer=Tokenizer.of_run(folder, max_length),
        labels=labels,
        settings=settings,
        source=folder,
        metrics=metrics or {},
        compiled=compiled,
        pad_id=described.get("pad_token_id") or 0,
    )


class _SignalStack(ctypes.Structure):
    """``stack_t`` of ``sigaltstack(2)``."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def _same_signal_stack() -> Iterator[None]:
    """Leave this thread's stack for signal handlers as it is.

    OpenVINO puts one of its own in its place, and the one before back when the Core goes. Of two Cores that go in the
    order in which they came, the second puts back what the first has freed: the next signal ends the process (OpenVINO
    2026.4 on processors with AMX). One Core for all is no way out: with it, inference itself ended the process.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(
            ctypes.byref(before), None
        )  # one that is too small now stays refused, and theirs in place


def _properties(openvino: Any, precision: str) -> dict[Any, Any]:
    types = {"bf16": openvino.Type.bf16, "fp32": openvino.Type.f32}
    hint = openvino.properties.hint
    return {
        hint.inference_precision: types[hardware.pick_precision(precision, torch.device("cpu"))],
        hint.performance_mode: hint.PerformanceMode.LATENCY,  # one batch at a time on all cores
        openvino.properties.inference_num_threads: torch.get_num_threads(),  # as many as PyTorch takes
    }
