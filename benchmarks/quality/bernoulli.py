"""``leantune`` by torch's kernels, and every dropout mask drawn anew by torch, element by element.

Beside the same runs as they are, it shows whether the tricks for speed cost accuracy: native kernels with
random numbers of their own (`leantune.kernels.native`), and masks from a pool (`leantune.packing.dropout`).
"""

from __future__ import annotations

import os
import sys

import torch
from torch import Tensor

from leantune.cli.main import main as cli
from leantune.packing.dropout import DropoutStream


def bernoulli_mask(self: DropoutStream, shape: tuple[int, ...], p: float, dtype: torch.dtype) -> Tensor:
    """What ``torch.nn.Dropout`` multiplies with."""
    return torch.empty(shape, dtype=dtype).bernoulli_(1 - p).div_(1 - p)


DropoutStream.mask = bernoulli_mask  # type: ignore[method-assign]

if __name__ == "__main__":
    os.environ["LEANTUNE_NATIVE"] = "0"
    sys.exit(cli.main())
