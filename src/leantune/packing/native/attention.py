"""Attention straight on packed tokens: no gather, no padding, no stored weights or masks (`attention.c`).

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

from leantune.packing.native.dropout import native_levels
from leantune.packing.native.library import call, mirrors, serves
from leantune.packing.plan import AttentionPlan
from leantune.packing.side_by_side import lie_side_by_side

WIDTH_MULTIPLE = 32
"""H is a multiple of what one tile product sums over."""

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64
_Strides = ctypes.c_int64 * 2


@mirrors("attention")
class AttentionArguments(ctypes.Structure):
    """``attention`` of ``csrc/kernels.h``, field by field."""

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


def can_attend(x: Tensor, head_width: int) -> bool:
    """Whether the kernels take heads of this width and of the kind of ``x``."""
    return head_width % WIDTH_MULTIPLE == 0 and serves(x)


def attend(
    q_TNH: Tensor,
    k_TNH: Tensor,
    v_TNH: Tensor,
    plan: AttentionPlan,
    scaling: float,
    dropout: float,
    sliding_window: int | None,
    only_first: bool,
) -> Tensor:
    """What `GroupedAttention` computes: ``(T, N, H)`` bf16 to ``(T, N, H)``, by the kernels."""
    settings = (scaling, dropout, sliding_window, only_first)
    if torch.is_grad_enabled():
        return NativeAttention.apply(q_TNH, k_TNH, v_TNH, plan, *settings)  # type: ignore[no-untyped-call, no-any-return]
    q, k, v = (_dense_heads(x) for x in (q_TNH, k_TNH, v_TNH))
    return Attention.of(plan, *settings).of_heads(q, k, v)


class NativeAttention(torch.autograd.Function):
    """Stored for the backward pass: inputs, output, and two numbers for each query and head."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, *settings: Any) -> Tensor:
        q, k, v = (_dense_heads(x) for x in (q, k, v))
        attention = Attention.of(plan, *settings)
        out, stats = attention.forward(q, k, v)
        ctx.save_for_backward(q, k, v, out, stats)
        ctx.attention = attention
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors
        grads = _like(kept[:3])
        ctx.attention.backward(kept, grad_outputs[0].contiguous(), grads)
        return *grads, None, None, None, None, None


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of heads ``(T, N, H)`` bf16, whose H numbers are next to each other, with one mask for both passes."""

    plan: AttentionPlan
    scaling: float
    kept_levels: int
    key: tuple[int, int]
    """Of dropout."""
    window: int
    """0: none."""
    only_first: bool

    @classmethod
    def of(
        cls,
        plan: AttentionPlan,
        scaling: float,
        dropout: float,
        sliding_window: int | None,
        only_first: bool,
    ) -> Attention:
        """With a new mask, where it drops."""
        key = plan.stream.key() if dropout else (0, 0)
        return cls(plan, scaling, native_levels(dropout), key, sliding_window or 0, only_first)

    def of_heads(self, q: Tensor, k: Tensor, v: Tensor, *, stats: Tensor | None = None) -> Tensor:
        """What the heads give, like ``q``; ``stats`` is memory for what `backward` wants."""
        out, arguments = q.new_empty(q.shape), self._of_three(q, k, v)
        arguments.out, arguments.stats = out.data_ptr(), None if stats is None else stats.data_ptr()
        call("attention_forward", arguments)
        return out

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and two fp32 numbers for each query and head, for `backward`."""
        stats = torch.empty(2, q.shape[1], q.shape[0])
        return self.of_heads(q, k, v, stats=stats), stats

    def backward(self, kept: Sequence[Tensor], grad_out: Tensor, grads: Sequence[Tensor]) -> None:
        """Write the gradients of q, k and v, whose tokens are equally far from each other in all three; ``kept`` is
        what came into `forward` and what it gave.
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
        """What the kernels are given, but for where anything is."""
        plan = self.plan
        by_distance = None if plan.distance_bias is None else plan.distance_bias.by_distance
        return AttentionArguments(
            cu_seqlens=plan.cu_seqlens.data_ptr(),
            num_texts=len(plan.cu_seqlens) - 1,
            num_heads=num_heads,
            head_width=head_width,
            num_tokens=num_tokens,
            longest=plan.max_seqlen,
            window=self.window,
            only_first=self.only_first,
            by_distance=None if by_distance is None else by_distance.data_ptr(),
            distances=0 if by_distance is None else by_distance.shape[1],
            scaling=self.scaling,
            kept_levels=self.kept_levels,
            key=self.key,
            num_threads=torch.get_num_threads(),
        )


def _like(heads: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Memory for three gradients ``(T, N, H)``: side by side where ``heads`` are, for the product behind."""
    num_tokens, *shape = heads[0].shape
    if lie_side_by_side([x.flatten(1) for x in heads], dim=1):
        return heads[0].new_empty(num_tokens, 3, *shape).unbind(1)
    return heads[0].new_empty(3, num_tokens, *shape).unbind(0)


def _dense_heads(x_TNH: Tensor) -> Tensor:
    """The same with the H numbers of a head next to each other, as they nearly always are."""
    return x_TNH if x_TNH.stride(-1) == 1 else x_TNH.contiguous()
