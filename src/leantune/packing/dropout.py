"""Dropout whose masks cost bytes instead of Bernoulli draws.

On the CPU ``torch.bernoulli_`` is serial and takes more than a third of a training step. Here one
random byte decides an element: it is kept if the byte is at least ``t = round(256 p)``, and kept
elements are scaled by ``256 / (256 - t)``, which is exact for the probability really used, t / 256.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropoutStream:
    """The named generator of all dropout bytes of one run; its state goes into checkpoints."""

    def __init__(self, seed: int) -> None:
        self.reseed(seed, 0, 0)

    def reseed(self, seed: int, phase: int, rank: int) -> None:
        """Start the sequence of another phase or process of the same run."""
        self._bits = np.random.SFC64(np.random.SeedSequence([seed, phase, rank]))

    def keep_mask(self, shape: tuple[int, ...], p: float, dtype: torch.dtype) -> Tensor:
        """Zeros and ones ``shape`` in ``dtype``; one with probability ``1 - round(256 p) / 256``."""
        count = int(np.prod(shape))
        random_bytes = self._bits.random_raw((count + 7) // 8).view(np.uint8)[:count]
        keep = np.greater_equal(random_bytes, drop_threshold(p))
        return torch.from_numpy(keep.view(np.uint8)).to(dtype).view(shape)

    def state(self) -> dict[str, Any]:
        """JSON-serialisable state."""
        state: dict[str, Any] = dict(self._bits.state)
        return {**state, "state": {"state": state["state"]["state"].tolist()}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        words = np.array(state["state"]["state"], dtype=np.uint64)
        restored: Any = {**state, "state": {"state": words}}
        self._bits.state = restored


def drop_threshold(p: float) -> int:
    """Bytes below this value drop their element."""
    return round(256 * p)


def keep_scale(p: float) -> float:
    """What kept elements are multiplied by, so that the expectation is unchanged."""
    return 256 / (256 - drop_threshold(p))


class _ByteDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, stream: DropoutStream) -> Tensor:
        mask = stream.keep_mask(tuple(x.shape), p, x.dtype)
        ctx.save_for_backward(mask)
        ctx.scale = keep_scale(p)
        return (x * mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return (grad_outputs[0] * mask).mul_(ctx.scale), None, None


class ByteDropout(nn.Module):
    """Drop-in for ``nn.Dropout``: bytes on the CPU, torch's own kernel on an accelerator.

    Args:
        p: probability of dropping an element, 0 <= p < 1; 1/256 is the resolution on the CPU.
        stream: where the bytes come from.
    """

    def __init__(self, p: float, stream: DropoutStream) -> None:
        super().__init__()
        if not 0 <= p < 1 - 1 / 512:
            raise ValueError(f"dropout must be at least 0 and below 1. Got {p} instead.")
        self.p, self.stream = p, stream

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or drop_threshold(self.p) == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped: Tensor = _ByteDropout.apply(x, self.p, self.stream)  # type: ignore[no-untyped-call]
        return dropped

    def extra_repr(self) -> str:
        return f"p={self.p}"


def replace_dropout(model: nn.Module, stream: DropoutStream) -> None:
    """Put `ByteDropout` with the same probability where ``model`` has ``nn.Dropout``."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, ByteDropout(child.p, stream))
