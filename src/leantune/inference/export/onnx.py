"""From the merged model of a run to ONNX, in fp32, or with weights in int8."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leantune.errors import UsageError, first_line
from leantune.evaluation.agreement import check_logits
from leantune.inference.engines.exported import import_of_extra
from leantune.inference.engines.onnx import EXTRA, MODELS, open_onnx
from leantune.inference.export.about import COPIED_FILES, PROBE_LENGTHS, probe_of, write_about
from leantune.inference.load import artefact_of, load, load_merged_transformers
from leantune.model.pretrained import quiet_transformers

OPSET = 20
"""Of ONNX 1.15: the newest that torch's exporter writes without converting."""
PURPOSE = "--format onnx"


class _Logits(nn.Module):
    """A transformers classifier that returns a tensor and no dictionary."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits ``(S, C)`` of what transformers' tokenizers give, each ``(S, L)`` int64."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **types).logits
        return logits


def write_onnx(folder: Path, source: Path, form: str, *, trust_remote_code: bool = False) -> None:
    """Fill ``folder`` with a merged model whose batch and length are free.

    Weights in int8 are quantised per channel; activations are when they are computed, so no rows are needed.

    Args:
        folder: to fill.
        source: a run, or a merged model.
        form: ``onnx`` or ``onnx-int8``.
        trust_remote_code: allow code that comes with the model.

    Raises:
        UsageError: if a library is not installed, or torch cannot export the model.
        CheckpointError: if ``source`` is damaged, or the export in fp32 does not compute what it does.
    """
    runtime = import_of_extra("onnxruntime", PURPOSE, EXTRA)
    for name in ("onnx", "onnxscript"):
        import_of_extra(name, PURPOSE, EXTRA)
    merged = artefact_of(source, "merged", trust_remote_code=trust_remote_code)
    shutil.copy2(merged / "config.json", folder / "config.json")
    for name in COPIED_FILES:
        if (merged / name).is_file():
            shutil.copy2(merged / name, folder / name)
    trained = load(source, precision="fp32", trust_remote_code=trust_remote_code)
    with tempfile.TemporaryDirectory(prefix="leantune-onnx-") as scratch:
        exact = Path(scratch) / MODELS["onnx"] if form == "onnx-int8" else folder / MODELS["onnx"]
        _export(load_merged_transformers(merged, trust_remote_code=trust_remote_code), exact, source)
        if form == "onnx-int8":
            _quantise(exact, folder / MODELS[form])
        else:
            reopened = open_onnx(
                folder, form, trained.labels, trained.settings, max_length=trained.tokenizer.max_length
            )
            probe = probe_of(trained)
            check_logits("onnx", *(each.logits(probe, len(PROBE_LENGTHS)) for each in (reopened, trained)))
    write_about(folder, source, {"onnxruntime": runtime.__version__, "torch": torch.__version__})


def _export(model: Any, path: Path, source: Path) -> None:
    ids = torch.ones(2, 16, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0  # transformers leaves out a mask that hides nothing
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    try:
        with warnings.catch_warnings(), quiet_transformers(), _quiet_exporter():
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
    except Exception as error:  # the exporter's classes have no common base but this
        kind = model.config.model_type
        raise UsageError(
            f"{source}: torch cannot export a {kind} classifier to ONNX: {first_line(error)}"
        ) from error


def _quantise(exact: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet_exporter():
        quantize_dynamic(str(exact), str(target), per_channel=True, weight_type=QuantType.QInt8)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter prints its progress and logs what it does: the command has its own voice."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
