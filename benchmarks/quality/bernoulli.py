"""``leantune`` with one thing changed: every dropout mask is drawn anew, element by element.

Beside the same runs with masks from the pool (`leantune.packing.dropout`) it shows whether the pool costs
accuracy.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from leantune import cli
from leantune.packing.dropout import DropoutStream


def bernoulli_mask(self: DropoutStream, shape: tuple[int, ...], p: float, dtype: torch.dtype) -> Tensor:
    """What ``torch.nn.Dropout`` multiplies with."""
    return torch.empty(shape, dtype=dtype).bernoulli_(1 - p).div_(1 - p)


DropoutStream.mask = bernoulli_mask  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(cli.main())
