"""Tensors that follow one another in one buffer are one tensor already: no copy joins them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def lie_side_by_side(parts: Sequence[Tensor], dim: int) -> bool:
    """Whether each of ``parts`` begins along ``dim`` where the one before ends, in the same memory."""
    first, begin = parts[0], parts[0].storage_offset()
    memory = first.untyped_storage().data_ptr()
    for part in parts:
        if (part.untyped_storage().data_ptr(), part.stride(), part.storage_offset()) != (
            memory,
            first.stride(),
            begin,
        ):
            return False
        begin += part.shape[dim] * part.stride(dim)
    return True


def as_one(parts: Sequence[Tensor], dim: int) -> Tensor:
    """``torch.cat(parts, dim)``, as a view if they lie side by side."""
    if not lie_side_by_side(parts, dim):
        return torch.cat(list(parts), dim)
    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return parts[0].as_strided(shape, parts[0].stride(), parts[0].storage_offset())


def lay_side_by_side(parameters: Sequence[Tensor]) -> None:
    """Move ``parameters`` into one buffer, along their first dimension, if they are not in one yet."""
    if lie_side_by_side(parameters, 0):
        return
    with torch.inference_mode(False), torch.no_grad():  # else no later backward pass could keep them
        whole, begin = torch.cat([parameter.detach() for parameter in parameters]), 0
        for parameter in parameters:
            parameter.data = whole[begin : begin + len(parameter)]
            begin += len(parameter)
