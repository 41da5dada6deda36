"""Open a classifier in the library that ``--engine`` names."""

from __future__ import annotations

from pathlib import Path

from leantune.config.classifier_file import InferenceSettings
from leantune.errors import UsageError
from leantune.inference.engines import onnx, openvino
from leantune.inference.engines.exported import exported, open_export
from leantune.inference.load import kind_of, load
from leantune.inference.text_classifier import TextClassifier
from leantune.system.hardware import INT8


def load_engine(
    engine: str, run: Path, *, precision: str | None = None, trust_remote_code: bool = False
) -> TextClassifier:
    """Open a trained classifier in torch, or an export of ``leantune export`` in another library.

    Args:
        engine: ``torch``, or one of the forms of `onnx` and `openvino`.
        run: a folder that `load` accepts; for other libraries, a run folder.
        precision: None: as in the recipe. torch accepts the precisions of `load`, OpenVINO ``auto``, ``bf16`` and
            ``fp32``; ONNX Runtime has no choice.
        trust_remote_code: allow code that comes with the model.

    Raises:
        UsageError: if ``run`` is not a run folder, the export does not exist, the library is not installed, or it lacks
            the precision.
        CheckpointError: if the run is unfinished, or the export is damaged or belongs to another run.
        UnsafeFileError: if the model comes with code that is not trusted.
    """
    if engine == "torch":
        return load(run, precision=precision, trust_remote_code=trust_remote_code)
    if precision == INT8:
        raise UsageError(
            "precision=int8 is for --engine torch; for int8 in OpenVINO use --engine openvino-int8"
        )
    if kind_of(run) != "run":
        raise UsageError(f"{run}: --engine {engine} needs a run folder; leave --engine out")
    if engine in onnx.FORMS and precision is not None:
        raise UsageError(f"precision={precision}: --engine {engine} has one precision; leave it out")
    found = exported(run, engine)
    settings = InferenceSettings.of(found.recipe)
    if engine in onnx.FORMS:
        compiled = onnx.open_session(found.folder, engine)
    else:
        compiled = openvino.compile_model(found.folder, settings, precision)
    return open_export(
        found.folder,
        found.labels,
        settings,
        compiled,
        max_length=found.recipe.max_length,
        metrics=found.metrics,
    )
