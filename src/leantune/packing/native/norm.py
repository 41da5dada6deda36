"""LayerNorm as the kernels take it (`norm.h`)."""

from __future__ import annotations

import ctypes

from torch import Tensor, nn

from leantune.packing.native.library import learns


class Norm(ctypes.Structure):
    """``norm`` of ``norm.h``, field by field."""

    _fields_ = (("gamma", ctypes.c_void_p), ("beta", ctypes.c_void_p), ("epsilon", ctypes.c_float))

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> Norm:
        """Pointers into the parameters of ``norm``."""
        return cls(norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps)


def is_frozen_norm(norm: nn.LayerNorm, x: Tensor) -> bool:
    """Whether ``norm`` gets no gradient and its parameters are of the type of ``x``."""
    return not (learns(norm.weight) or learns(norm.bias)) and norm.weight.dtype == x.dtype
