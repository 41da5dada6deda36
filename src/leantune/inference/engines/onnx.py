"""Run exported classifiers with ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from leantune.errors import CheckpointError, first_line
from leantune.inference.engines.exported import Compiled, import_of_extra
from leantune.inference.text_classifier import Logits
from leantune.packing.padded import Inputs

EXTRA = "onnx"
FORMS = ("onnx", "onnx-int8")
"""Engines; each is also an export format and the name of its folder in a run."""
MODELS = {"onnx": "model.onnx", "onnx-int8": "model_quantized.onnx"}
"""File names that optimum uses for a model, and for one with int8 weights."""


def open_session(folder: Path, form: str) -> Compiled:
    """Open the model of an export folder in a session with as many threads as PyTorch uses.

    Args:
        folder: the export folder.
        form: one of `FORMS`.

    Raises:
        UsageError: if ONNX Runtime is not installed.
        CheckpointError: if the model is damaged.
    """
    runtime = import_of_extra("onnxruntime", "this engine", EXTRA)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    path = folder / MODELS[form]
    try:
        session: Any = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no other base class
        raise CheckpointError(f"{path}: cannot be loaded: {first_line(error)}") from error

    def run(inputs: Inputs) -> Logits:
        logits: Logits = session.run(["logits"], inputs)[0]
        return logits

    return Compiled(frozenset(each.name for each in session.get_inputs()), run)
