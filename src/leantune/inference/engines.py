"""The libraries that can compute a run's logits, by the name that ``--engine`` takes."""

from __future__ import annotations

from pathlib import Path

from leantune.inference.load import RunClassifier, load_run


def load_engine(
    engine: str, run: Path, *, precision: str | None = None, trust_remote_code: bool = False
) -> RunClassifier:
    """A finished run in ``torch``, ``openvino`` or ``openvino-int8``; the last two must be exported.

    Raises:
        UsageError: if ``run`` is no run folder, or its export is not there.
        CheckpointError: if it is not finished, or what is loaded is damaged.
        UnsafeFileError: if the model comes with code that is not trusted.
    """
    if engine == "torch":
        return load_run(run, precision=precision, trust_remote_code=trust_remote_code)
    from leantune.inference.openvino import load_openvino

    return load_openvino(run, engine, precision=precision)
