"""Arguments for the kernels with the updates of many adapters in one batch (`low_rank.h`).

Shape letters: T rows, D width of the input, F columns of the outputs of all layers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from leantune.adalora.multi_lora import MultiLoraLinear
from leantune.kernels.interface import Linear
from leantune.kernels.native.library import call, mirrors

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64


@mirrors("low_rank")
class LowRankArgument(ctypes.Structure):
    """``low_rank`` of ``csrc/kernels.h``: a row of `TextAdapters.addresses`."""

    _fields_ = (("A", _Pointer), ("B", _Pointer), ("rank", _Count))


@mirrors("text_updates")
class TextUpdates(ctypes.Structure):
    """``text_updates`` of ``csrc/kernels.h``."""

    _fields_ = (
        *((name, _Pointer) for name in ("updates", "starts")),
        *((name, _Count) for name in ("num_texts", "num_layers", "stride", "most_rank")),
    )


@mirrors("multi_lora")
class MultiLoraArguments(ctypes.Structure):
    """``multi_lora`` of ``csrc/kernels.h``."""

    _fields_ = (
        *((name, _Pointer) for name in ("x", "updates")),
        *((name, _Count) for name in ("T", "D", "F")),
        ("out", _Pointer),
        ("num_threads", _Count),
    )


def updates_of(layers: Sequence[Linear], num_rows: int) -> TextUpdates | None:
    """The updates of each text's adapter for ``layers``; None if no text has one.

    Args:
        layers: layers with the same input and the same number of outputs, numbered consecutively.
        num_rows: number of rows of the input.
    """
    adapted = [layer for layer in layers if isinstance(layer, MultiLoraLinear)]
    if not any(layer.has_update for layer in adapted):
        return None
    texts, first = adapted[0].assignment.current, adapted[0].number
    assert texts is not None
    assert [layer.number for layer in adapted] == list(range(first, first + len(layers)))
    return TextUpdates(
        updates=texts.addresses.ctypes.data + first * ctypes.sizeof(LowRankArgument),
        starts=texts.starts(num_rows).ctypes.data,
        num_texts=len(texts.adapters),
        num_layers=len(layers),
        stride=texts.addresses.shape[1],
        most_rank=texts.most_rank,
    )


def add_updates(out_TF: Tensor, x_TD: Tensor, layers: Sequence[Linear]) -> Tensor:
    """Add each text's update to the concatenated outputs of ``layers``, in place.

    Args:
        out_TF: ``(T, F)`` bf16.
        x_TD: ``(T, D)`` bf16, the input of all layers.
        layers: see `updates_of`.
    """
    updates = updates_of(layers, len(x_TD))
    if updates is None:
        return out_TF
    x_TD = x_TD.contiguous()
    arguments = MultiLoraArguments(
        x=x_TD.data_ptr(),
        updates=ctypes.addressof(updates),
        T=len(x_TD),
        D=x_TD.shape[1],
        F=out_TF.shape[1],
        out=out_TF.data_ptr(),
        num_threads=torch.get_num_threads(),
    )
    call("multi_lora_forward", arguments)
    return out_TF
