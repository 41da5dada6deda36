"""The libraries that can compute a run's logits, by the name that ``--engine`` takes."""

from __future__ import annotations

from pathlib import Path

from leantune.errors import UsageError
from leantune.inference.load import kind_of, load
from leantune.inference.text_classifier import TextClassifier
from leantune.system.hardware import INT8

ENGINES = ("torch", "openvino", "openvino-int8", "onnx", "onnx-int8")


def load_engine(
    engine: str, run: Path, *, precision: str | None = None, trust_remote_code: bool = False
) -> TextClassifier:
    """A trained classifier in ``torch``, or a run in another library's form, which must be exported.

    Args:
        engine: one of `ENGINES`.
        run: what `load` takes; of another library the run folder.
        precision: as `load` and `load_openvino` take it; ``int8`` is of ``torch`` alone; of ONNX there is no choice.
        trust_remote_code: allow code that comes with the model.

    Raises:
        UsageError: if ``run`` is no run folder, its export is not there, or the engine has no such precision.
        CheckpointError: if it is not finished, or what is loaded is damaged.
        UnsafeFileError: if the model comes with code that is not trusted.
    """
    if engine == "torch":
        return load(run, precision=precision, trust_remote_code=trust_remote_code)
    if precision == INT8:
        raise UsageError(
            "precision=int8 is of --engine torch; use --engine openvino-int8 for that of OpenVINO"
        )
    if kind_of(run) != "run":
        raise UsageError(f"{run}: --engine {engine} is of a run folder; leave --engine out")
    if engine in ("onnx", "onnx-int8"):
        from leantune.inference.engines.onnx import load_onnx

        if precision is not None:
            raise UsageError(f"precision={precision}: --engine {engine} is of one precision; leave it out")
        return load_onnx(run, engine)
    from leantune.inference.engines.openvino import load_openvino

    return load_openvino(run, engine, precision=precision)
