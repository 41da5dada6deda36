"""Export the merged model of a run to OpenVINO, unchanged or in int8, and measure what int8 costs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leantune.data.label_sets import numbered
from leantune.data.tokens.dataset import LabelledRows
from leantune.errors import UsageError, first_line
from leantune.evaluation.comparison import Comparison, compare
from leantune.evaluation.tasks import task_of
from leantune.inference.engines.exported import open_export, padded_batches
from leantune.inference.engines.openvino import MODEL, compile_model, import_extra
from leantune.inference.export.libraries import (
    check_same,
    copy_merged_files,
    example_inputs,
    quiet_library,
    write_about,
)
from leantune.inference.export.narrow import narrow_last_layer
from leantune.inference.load import artefact_of, load, load_merged_transformers
from leantune.inference.text_classifier import TextClassifier, TorchTextClassifier
from leantune.model.pretrained import quiet_transformers
from leantune.system import hardware

CALIBRATION_ROWS = 512
"""Rows whose activations determine the int8 ranges."""
CALIBRATION_BATCH_SIZE = 8
"""Small, so that texts of a batch have the same length and little padding is observed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationData:
    """Rows for calibrating int8 and for measuring it."""

    calibration: LabelledRows
    measured: LabelledRows
    name: str
    """Name of the measured rows in messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyCost:
    """A run in PyTorch and in int8 compared on the same rows. Rates are fractions."""

    rows: str
    precision: str
    """The precision of the encoder in PyTorch."""
    torch_accuracy: float
    int8_accuracy: float
    equal_predictions: float
    comparison: Comparison
    """Comparison with PyTorch as a and int8 as b."""

    def __str__(self) -> str:
        return (
            f"accuracy on {self.comparison.num_rows:,} {self.rows} rows: {100 * self.torch_accuracy:.2f} % with "
            f"torch ({self.precision}), {100 * self.int8_accuracy:.2f} % with int8; "
            f"{100 * self.equal_predictions:.2f} % of the predictions are equal\n"
            f"{self.comparison.sentence('torch and int8')}"
        )


def write_openvino(folder: Path, source: Path, *, trust_remote_code: bool = False) -> None:
    """Fill ``folder`` with a merged model in fp32; engines may convert it to bf16 when they compile it.

    Args:
        folder: an existing empty folder.
        source: a run, or a merged model.
        trust_remote_code: allow code that comes with the model.

    Raises:
        UsageError: if OpenVINO is not installed or cannot convert the model.
        CheckpointError: if ``source`` is damaged, or the export computes something else.
    """
    openvino = import_extra("openvino", "--format openvino")
    merged = artefact_of(source, "merged", trust_remote_code=trust_remote_code)
    model = _converted(openvino, merged, trust_remote_code=trust_remote_code)
    trained = load(source, precision="fp32", trust_remote_code=trust_remote_code)
    _write_model(openvino, folder, merged, model)
    with _shapes_explained(trained, source):
        check_same("openvino", trained, folder, compile_model(folder, trained.settings, "fp32"))
    write_about(folder, source, {"openvino": openvino.__version__})


def write_int8(
    folder: Path, source: Path, rows: CalibrationData, *, trust_remote_code: bool = False
) -> AccuracyCost:
    """Fill ``folder`` with a merged model in int8, and measure it after reading it back; see `write_openvino`.

    Raises:
        UsageError: if OpenVINO or NNCF are not installed, or cannot convert the model.
        CheckpointError: if ``source`` is damaged.
    """
    openvino, nncf = import_quantisation()
    merged = artefact_of(source, "merged", trust_remote_code=trust_remote_code)
    model = _converted(openvino, merged, trust_remote_code=trust_remote_code)
    trained = load(source, trust_remote_code=trust_remote_code)
    _write_model(openvino, folder, merged, _quantised(nncf, model, trained, rows.calibration))
    with _shapes_explained(trained, source):
        compiled = compile_model(folder, trained.settings)
        length = trained.tokenizer.max_length
        int8 = open_export(folder, trained.labels, trained.settings, compiled, max_length=length)
        cost = _cost(trained, int8, rows)
    versions = {"openvino": openvino.__version__, "nncf": nncf.__version__}
    write_about(folder, source, versions, accuracy_cost=asdict(cost))
    return cost


def import_quantisation() -> tuple[Any, Any]:
    """Import OpenVINO and NNCF.

    Raises:
        UsageError: if one of them is not installed.
    """
    openvino, nncf = (import_extra(name, "--format openvino-int8") for name in ("openvino", "nncf"))
    return openvino, nncf


def _converted(openvino: Any, merged: Path, *, trust_remote_code: bool) -> Any:
    model = load_merged_transformers(merged, trust_remote_code=trust_remote_code)
    narrow_last_layer(model)
    inputs = example_inputs(model)
    try:
        with warnings.catch_warnings(), quiet_transformers():
            warnings.simplefilter("ignore")  # torch's tracer warns about every branch in transformers
            converted = openvino.convert_model(model, example_input=inputs)
    except (RuntimeError, TypeError, ValueError) as error:
        raise _cannot_convert(merged, model.config.model_type, error) from error
    converted.outputs[0].get_tensor().set_names({"logits"})
    return converted


def _cannot_convert(source: Path, model_type: str, error: Exception) -> UsageError:
    return UsageError(f"{source}: OpenVINO cannot convert a {model_type} classifier: {first_line(error)}")


@contextlib.contextmanager
def _shapes_explained(trained: TorchTextClassifier, source: Path) -> Iterator[None]:
    """Explain failures of graphs that only work for the shapes they were traced with (Longformer)."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise _cannot_convert(source, trained.classifier.settings["model_type"], error) from error


def _quantised(nncf: Any, model: Any, trained: TorchTextClassifier, calibration: LabelledRows) -> Any:
    batches = padded_batches(
        calibration.encoded(),
        CALIBRATION_BATCH_SIZE,
        names={name for each in model.inputs for name in each.names},
        longest=trained.tokenizer.max_length,
        pad_id=trained.classifier.settings.get("pad_token_id") or 0,
    )
    inputs = [each for _, each in batches]
    with quiet_library("nncf"):
        return nncf.quantize(
            model, nncf.Dataset(inputs), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(inputs)
        )


def _write_model(openvino: Any, folder: Path, merged: Path, model: Any) -> None:
    """Write the files that optimum-intel's ``OVModelForSequenceClassification`` reads, under its names."""
    openvino.save_model(model, str(folder / MODEL), compress_to_fp16=False)
    copy_merged_files(folder, merged)


def _cost(trained: TorchTextClassifier, int8: TextClassifier, rows: CalibrationData) -> AccuracyCost:
    label_ids, size = rows.measured.label_ids, trained.settings.batch_size
    by_torch, by_int8 = (_predicted(each, rows.measured, size) for each in (trained, int8))
    if rows.measured.is_multi_label:  # compare whole label sets, as ids of one class each
        sets = numbered(np.concatenate([label_ids, by_torch, by_int8]))
        label_ids, by_torch, by_int8 = np.split(sets, 3)
    return AccuracyCost(
        rows=rows.name,
        precision=_precision_of(trained),
        torch_accuracy=float((by_torch == label_ids).mean()),
        int8_accuracy=float((by_int8 == label_ids).mean()),
        equal_predictions=float((by_torch == by_int8).mean()),
        comparison=compare(by_torch, by_int8, label_ids),
    )


def _predicted(classifier: TextClassifier, rows: LabelledRows, batch_size: int) -> npt.NDArray[np.int64]:
    """Predicted class ids ``(N,)``, or ones and zeros ``(N, C)``."""
    logits, thresholds = classifier.logits(rows.encoded(), batch_size), classifier.thresholds
    if thresholds is None:
        return np.asarray(logits.argmax(axis=1))
    return np.asarray(task_of(is_multi_label=True).probabilities(logits) >= thresholds, dtype=np.int64)


def _precision_of(trained: TorchTextClassifier) -> str:
    chosen = trained.settings.precision
    return chosen if chosen == hardware.INT8 else hardware.pick_precision(chosen, trained.classifier.device)
