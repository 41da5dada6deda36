"""Choose the kernels that compute an encoder, once, when a model is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from leantune.errors import UsageError
from leantune.kernels.interface import EmbeddingsLike, Kernels, LayerLike
from leantune.kernels.reference import Reference
from leantune.system.hardware import DTYPES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Choice:
    """The kernels chosen for an encoder."""

    kernels: Kernels
    reason: str = ""
    """Why torch's kernels are used; empty if native kernels are used."""

    @property
    def described(self) -> str:
        """The entry ``hardware.kernels`` of ``record.json``: ``native`` and its level, or ``torch`` and the reason."""
        return f"torch: {self.reason}" if self.reason else self.kernels.name


def choose_kernels(
    embeddings: EmbeddingsLike,
    layers: Sequence[LayerLike],
    *,
    train_int8: bool = False,
    predict_int8: bool = False,
) -> Choice:
    """Choose the native kernels if they support this encoder, else torch.

    Args:
        embeddings, layers: with their weights on the final device and in the final dtype.
        train_int8: compute products with frozen weights in int8 while training, if the processor supports it.
        predict_int8: the same without gradients.
    """
    weight = embeddings.word.weight
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return Choice(Reference(), f"{_NAMES.get(weight.dtype, weight.dtype)} on {weight.device.type}")
    reason = why_no_kernels()
    if reason:
        return Choice(Reference(), reason)
    from leantune.kernels.native.kernels import Native, why_no_int8, why_not_native

    reason = why_not_native(embeddings, layers)
    if reason:
        return Choice(Reference(), reason)
    has_int8 = not why_no_int8()
    return Choice(Native(train_int8=train_int8 and has_int8, predict_int8=predict_int8 and has_int8))


def check_int8(choice: Choice) -> None:
    """Refuse ``precision=int8`` if predictions cannot be computed in int8.

    Raises:
        UsageError: saying what is missing.
    """
    if not choice.kernels.predict_int8:
        reason = choice.reason or "the processor has neither VNNI nor AMX"
        raise UsageError(f"precision=int8: {reason}; use precision=auto")


def why_no_kernels() -> str:
    """Why there are no native kernels for this machine; empty if there are.

    Raises:
        UsageError: if an environment variable names unknown kernels.
    """
    try:
        from leantune.kernels.native.library import kernels
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("leantune.kernels.native"):
            raise
        return "this package does not include them"
    return kernels().reason
