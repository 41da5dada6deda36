"""Attention directly on packed tokens: no gather, no padding, no stored weights or masks (`attention.c`).

Shape letters: T packed tokens, N heads, H head width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from leantune.kernels.interface import LayerLike
from leantune.kernels.native.library import call, mirrors
from leantune.kernels.native.rows import Mask, mask_of
from leantune.packing.layout import Layout

WIDTH_MULTIPLE = 32
"""H must be a multiple of this, the number of values that one tile product sums over."""

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64
_Strides = ctypes.c_int64 * 2


@mirrors("attention")
class AttentionArguments(ctypes.Structure):
    """``attention`` of ``csrc/kernels.h``."""

    _fields_ = (
        *((name, _Pointer) for name in ("q", "k", "v")),
        *((name, _Strides) for name in ("q_strides", "k_strides", "v_strides")),
        ("cu_seqlens", _Pointer),
        *((name, _Count) for name in ("num_texts", "num_heads", "head_width", "num_tokens", "longest")),
        *((name, _Count) for name in ("window", "only_first")),
        ("by_distance", _Pointer),
        ("distances", _Count),
        ("scaling", ctypes.c_float),
        ("kept_levels", ctypes.c_uint32),
        ("key", ctypes.c_uint32 * 2),
        *((name, _Pointer) for name in ("out", "stats", "grad_out", "grad_q", "grad_k", "grad_v")),
        ("grad_stride", _Count),
        ("num_threads", _Count),
    )


def attention(qkv: Tensor, layer: LayerLike, layout: Layout, *, only_first: bool) -> Tensor:
    """Attention within each text: from concatenated query, key and value ``(T, 3 D)`` to concatenated heads ``(T, D)``.

    Rows that are not needed are zero.
    """
    heads = qkv.view(len(qkv), 3, -1, layer.head_width)
    if layer.rotary is not None:
        rotation = layout.rotation(layer.rotary, layer.head_width)
        rotated = rotation(heads[:, :2].flatten(1, 2)).view_as(heads[:, :2])
        heads = torch.cat([rotated, heads[:, 2:]], dim=1)
    how = Attention.of(layer, layout, only_first=only_first)
    out: Tensor = _Attention.apply(heads, how)  # type: ignore[no-untyped-call]
    return out.flatten(1)


class _Attention(torch.autograd.Function):
    """Autograd function; for the backward pass it stores input, output, and two numbers per query and head."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, how: Attention) -> Tensor:
        q, k, v = qkv.unbind(1)
        if not ctx.needs_input_grad[0]:
            return how.of_heads(q, k, v)
        out, stats = how.forward(q, k, v)
        ctx.save_for_backward(qkv, out, stats)
        ctx.how = how
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        qkv, out, stats = ctx.saved_tensors
        grads = torch.empty_like(qkv)
        kept = (*qkv.unbind(1), out, stats)
        ctx.how.backward(kept, grad_outputs[0].contiguous(), grads.unbind(1))
        return grads, None


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of bf16 heads ``(T, N, H)`` with contiguous H, with the same mask in both passes."""

    layout: Layout
    mask: Mask
    """The dropout mask of attention weights."""
    window: int
    """A token attends to tokens less than this many positions away; 0: to its whole text."""
    only_first: bool

    @classmethod
    def of(cls, layer: LayerLike, layout: Layout, *, only_first: bool) -> Attention:
        """The attention of ``layer``, with a new dropout mask if it has dropout."""
        before = layer.window.before  # `why_not_native` refuses windows of two sizes
        return cls(layout, mask_of(layer.attention_dropout), 0 if before is None else before + 1, only_first)

    def of_heads(self, q: Tensor, k: Tensor, v: Tensor, *, stats: Tensor | None = None) -> Tensor:
        """Compute the output, of the shape of ``q``; ``stats`` is memory for values that `backward` needs."""
        out, arguments = q.new_empty(q.shape), self._of_three(q, k, v)
        arguments.out, arguments.stats = out.data_ptr(), None if stats is None else stats.data_ptr()
        call("attention_forward", arguments)
        return out

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the output, and two fp32 numbers per query and head for `backward`."""
        stats = torch.empty(2, q.shape[1], q.shape[0])
        return self.of_heads(q, k, v, stats=stats), stats

    def backward(self, kept: Sequence[Tensor], grad_out: Tensor, grads: Sequence[Tensor]) -> None:
        """Write the gradients of q, k and v, which must have equal token strides.

        ``kept`` holds the inputs and outputs of `forward`.
        """
        q, k, v, out, stats = kept
        arguments = self._of_three(q, k, v)
        arguments.out, arguments.stats = out.data_ptr(), stats.data_ptr()
        arguments.grad_out, arguments.grad_stride = grad_out.data_ptr(), grads[0].stride(0)
        arguments.grad_q, arguments.grad_k, arguments.grad_v = (grad.data_ptr() for grad in grads)
        call("attention_backward", arguments)

    def _of_three(self, q: Tensor, k: Tensor, v: Tensor) -> AttentionArguments:
        arguments = self.arguments(*q.shape)
        arguments.q, arguments.k, arguments.v = q.data_ptr(), k.data_ptr(), v.data_ptr()
        arguments.q_strides, arguments.k_strides, arguments.v_strides = (
            each.stride()[:2] for each in (q, k, v)
        )
        return arguments

    def arguments(self, num_tokens: int, num_heads: int, head_width: int) -> AttentionArguments:
        """Arguments for the kernels, without the addresses of tensors."""
        layout, bias = self.layout, self.layout.distance_bias
        by_distance = None if bias is None else bias.by_distance
        return AttentionArguments(
            cu_seqlens=layout.cu_seqlens.data_ptr(),
            num_texts=len(layout.cu_seqlens) - 1,
            num_heads=num_heads,
            head_width=head_width,
            num_tokens=num_tokens,
            longest=layout.max_seqlen,
            window=self.window,
            only_first=self.only_first,
            by_distance=None if by_distance is None else by_distance.data_ptr(),
            distances=0 if by_distance is None else by_distance.shape[1],
            scaling=head_width**-0.5,
            kept_levels=self.mask.kept_levels,
            key=self.mask.key,
            num_threads=torch.get_num_threads(),
        )
