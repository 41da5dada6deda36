"""Export the merged model of a run to ONNX, in fp32 or with int8 weights."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leantune.errors import UsageError, first_line
from leantune.inference.engines.exported import import_of_extra
from leantune.inference.engines.onnx import EXTRA, MODELS, open_session
from leantune.inference.export.libraries import (
    check_same,
    copy_merged_files,
    example_inputs,
    quiet_library,
    write_about,
)
from leantune.inference.load import artefact_of, load, load_merged_transformers
from leantune.model.pretrained import quiet_transformers

OPSET = 20
"""Operator set of ONNX 1.15, the newest that torch's exporter writes without conversion."""
PURPOSE = "--format onnx"
LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "root")


class _Logits(nn.Module):
    """A transformers classifier that returns a tensor instead of a dictionary."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits ``(S, C)`` from the outputs of transformers' tokenizers, each ``(S, L)`` int64."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **types).logits
        return logits


def write_onnx(folder: Path, source: Path, form: str, *, trust_remote_code: bool = False) -> None:
    """Fill ``folder`` with a merged model that takes any batch size and length.

    Int8 weights are quantised per channel. Activations are quantised as they are computed, so no calibration rows are
    needed.

    Args:
        folder: an existing empty folder.
        source: a run, or a merged model.
        form: ``onnx`` or ``onnx-int8``.
        trust_remote_code: allow code that comes with the model.

    Raises:
        UsageError: if a library is not installed, or torch cannot export the model.
        CheckpointError: if ``source`` is damaged, or the fp32 export computes something else.
    """
    runtime = import_of_extra("onnxruntime", PURPOSE, EXTRA)
    for name in ("onnx", "onnxscript"):
        import_of_extra(name, PURPOSE, EXTRA)
    merged = artefact_of(source, "merged", trust_remote_code=trust_remote_code)
    copy_merged_files(folder, merged)
    trained = load(source, precision="fp32", trust_remote_code=trust_remote_code)
    with tempfile.TemporaryDirectory(prefix="leantune-onnx-") as scratch:
        exact = Path(scratch) / MODELS["onnx"] if form == "onnx-int8" else folder / MODELS["onnx"]
        _export(load_merged_transformers(merged, trust_remote_code=trust_remote_code), exact, source)
        if form == "onnx-int8":
            _quantise(exact, folder / MODELS[form])
        else:
            check_same(form, trained, folder, open_session(folder, form))
    write_about(folder, source, {"onnxruntime": runtime.__version__, "torch": torch.__version__})


def _export(model: Any, path: Path, source: Path) -> None:
    inputs = example_inputs(model)
    try:
        with warnings.catch_warnings(), quiet_transformers(), quiet_library(*LOGGERS):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Logits(model.eval()),
                kwargs=inputs,
                f=str(path),
                dynamo=True,
                dynamic_shapes={name: {0: "batch", 1: "length"} for name in inputs},
                input_names=list(inputs),
                output_names=["logits"],
                opset_version=OPSET,
                external_data=False,
            )
    except Exception as error:  # the exporter's exceptions share no other base class
        kind = model.config.model_type
        raise UsageError(
            f"{source}: torch cannot export a {kind} classifier to ONNX: {first_line(error)}"
        ) from error


def _quantise(exact: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet_library(*LOGGERS):
        quantize_dynamic(str(exact), str(target), per_channel=True, weight_type=QuantType.QInt8)
