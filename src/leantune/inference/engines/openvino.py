"""Run exported classifiers with OpenVINO on the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from leantune.config.classifier_file import InferenceSettings
from leantune.inference.engines.exported import Compiled, import_of_extra
from leantune.inference.text_classifier import Logits
from leantune.packing.padded import Inputs
from leantune.system import hardware
from leantune.system.damage import explained_damage

FORMS = ("openvino", "openvino-int8")
"""Engines; each is also an export format and the name of its folder in a run."""
MODEL = "openvino_model.xml"
"""The file name that optimum-intel expects; the weights are in ``openvino_model.bin`` beside it."""


def import_extra(name: str, purpose: str) -> Any:
    """Import ``openvino`` or ``nncf``, which are installed with an extra.

    Raises:
        UsageError: saying what to install for ``purpose``.
    """
    # both report every use to their makers unless told otherwise; without this package they cannot
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_of_extra(name, purpose, "openvino")


def compile_model(folder: Path, settings: InferenceSettings, precision: str | None = None) -> Compiled:
    """Compile the model of an export folder.

    Args:
        folder: the export folder.
        settings: their precision is the default; ``fp16``, which is for GPUs, means ``auto`` here.
        precision: ``auto``, ``bf16`` or ``fp32``.

    Raises:
        UsageError: if OpenVINO is not installed, or lacks the precision on this machine.
        CheckpointError: if the model is damaged.
    """
    openvino = import_extra("openvino", "this engine")
    if precision is None:
        precision = "auto" if settings.precision == "fp16" else settings.precision
    properties = _properties(openvino, precision)
    with explained_damage(folder):
        with _same_signal_stack():
            compiled = openvino.Core().compile_model(str(folder / MODEL), "CPU", properties)
        compiled.output("logits")

    def run(inputs: Inputs) -> Logits:
        logits: Logits = compiled(inputs, share_inputs=True)["logits"]
        return logits

    return Compiled(frozenset(name for each in compiled.inputs for name in each.names), run)


class _SignalStack(ctypes.Structure):
    """``stack_t`` of ``sigaltstack(2)``."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def _same_signal_stack() -> Iterator[None]:
    """Restore this thread's stack for signal handlers.

    OpenVINO installs one of its own and restores the previous one when the Core is destroyed. If two Cores are
    destroyed in the order of their creation, the second restores a stack that the first has freed, and the next
    signal kills the process (OpenVINO 2026.4 on processors with AMX). Sharing one Core is no alternative: with it,
    inference itself crashed.
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
        )  # if the previous stack is now too small, this fails and theirs stays


def _properties(openvino: Any, precision: str) -> dict[Any, Any]:
    types = {"bf16": openvino.Type.bf16, "fp32": openvino.Type.f32}
    hint = openvino.properties.hint
    return {
        hint.inference_precision: types[hardware.pick_precision(precision, torch.device("cpu"))],
        hint.performance_mode: hint.PerformanceMode.LATENCY,  # one batch at a time on all cores
        openvino.properties.inference_num_threads: torch.get_num_threads(),  # as many as PyTorch uses
    }
