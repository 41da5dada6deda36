"""Which kernels compute an encoder: decided once, when a model is built."""

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
    """The kernels of an encoder."""

    kernels: Kernels
    reason: str = ""
    """Why they are those of torch; empty where they are native."""

    @property
    def described(self) -> str:
        """The entry ``hardware.kernels`` of ``record.json``: ``native`` and its level, or ``torch`` and why."""
        return f"torch: {self.reason}" if self.reason else self.kernels.name


def choose_kernels(
    embeddings: EmbeddingsLike,
    layers: Sequence[LayerLike],
    *,
    train_int8: bool = False,
    predict_int8: bool = False,
) -> Choice:
    """The native kernels where they take this encoder, else those of torch.

    Args:
        embeddings, layers: with their weights, where and of the type that they stay.
        train_int8: whether products with frozen weights are to be in int8 while training, where the processor does so.
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
    """Refuse to compute in another precision than the one that was asked for.

    Raises:
        UsageError: saying what is missing, if predictions are not by products in int8.
    """
    if not choice.kernels.predict_int8:
        reason = choice.reason or "the processor has neither VNNI nor AMX"
        raise UsageError(f"precision=int8: {reason}; use precision=auto")


def why_no_kernels() -> str:
    """Why there are no native kernels for this machine; empty if there are.

    Raises:
        UsageError: if an environment variable asks for kernels that are none.
    """
    try:
        from leantune.kernels.native.library import kernels
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("leantune.kernels.native"):
            raise
        return "they were taken out of this package"
    return kernels().reason
