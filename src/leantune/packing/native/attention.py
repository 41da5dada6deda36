"""Attention straight on packed tokens: no gather, no padding, no stored weights or masks (`attention.c`).

Shape letters: T packed tokens, N heads, H head width.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from leantune.packing.native.dropout import native_levels
from leantune.packing.native.library import call, serves
from leantune.packing.plan import AttentionPlan
from leantune.packing.side_by_side import lie_side_by_side

WIDTH_MULTIPLE = 32
"""H is a multiple of what one tile product sums over."""

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64
_Strides = ctypes.c_int64 * 2


class _Arguments(ctypes.Structure):
    """``attention`` of ``attention.c``, field by field."""

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


def can_attend(q_TNH: Tensor) -> bool:
    """Whether the kernels take these heads."""
    return q_TNH.shape[-1] % WIDTH_MULTIPLE == 0 and serves(q_TNH)


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
    settings = (plan, scaling, dropout, sliding_window, only_first)
    if torch.is_grad_enabled():
        return NativeAttention.apply(q_TNH, k_TNH, v_TNH, *settings)  # type: ignore[no-untyped-call, no-any-return]
    q, k, v = (_dense_heads(x) for x in (q_TNH, k_TNH, v_TNH))
    return _forward(_arguments(q, k, v, *settings), q)


class NativeAttention(torch.autograd.Function):
    """Stored for the backward pass: inputs, output, and two numbers for each query and head."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, *settings: Any) -> Tensor:
        q, k, v = (_dense_heads(x) for x in (q, k, v))
        arguments = _arguments(q, k, v, plan, *settings)
        stats = torch.empty(2, q.shape[1], q.shape[0])
        arguments.stats = stats.data_ptr()
        out = _forward(arguments, q)
        ctx.save_for_backward(q, k, v, out, stats)
        # the plan keeps the memory of cu_seqlens and of what distances add
        ctx.arguments, ctx.plan = arguments, plan
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *_ = ctx.saved_tensors
        arguments: _Arguments = ctx.arguments
        grad_out = grad_outputs[0].contiguous()
        grad_q, grad_k, grad_v = _like([q, k, v])
        arguments.grad_out, arguments.grad_stride = grad_out.data_ptr(), grad_q.stride(0)
        arguments.grad_q, arguments.grad_k, arguments.grad_v = (
            x.data_ptr() for x in (grad_q, grad_k, grad_v)
        )
        call("attention_backward", arguments)
        return grad_q, grad_k, grad_v, None, None, None, None, None


def _arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: AttentionPlan,
    scaling: float,
    dropout: float,
    sliding_window: int | None,
    only_first: bool,
) -> _Arguments:
    key = plan.stream.key() if dropout else (0, 0)
    by_distance = None if plan.distance_bias is None else plan.distance_bias.by_distance
    return _Arguments(
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        q_strides=q.stride()[:2],
        k_strides=k.stride()[:2],
        v_strides=v.stride()[:2],
        cu_seqlens=plan.cu_seqlens.data_ptr(),
        num_texts=len(plan.cu_seqlens) - 1,
        num_heads=q.shape[1],
        head_width=q.shape[2],
        num_tokens=q.shape[0],
        longest=plan.max_seqlen,
        window=sliding_window or 0,
        only_first=only_first,
        by_distance=None if by_distance is None else by_distance.data_ptr(),
        distances=0 if by_distance is None else by_distance.shape[1],
        scaling=scaling,
        kept_levels=native_levels(dropout),
        key=key,
        num_threads=torch.get_num_threads(),
    )


def _forward(arguments: _Arguments, q: Tensor) -> Tensor:
    out = q.new_empty(q.shape)
    arguments.out = out.data_ptr()
    call("attention_forward", arguments)
    return out


def _like(heads: list[Tensor]) -> tuple[Tensor, ...]:
    """Memory for three gradients ``(T, N, H)``: side by side where ``heads`` are, for the product behind."""
    num_tokens, *shape = heads[0].shape
    if lie_side_by_side([x.flatten(1) for x in heads], dim=1):
        return heads[0].new_empty(num_tokens, 3, *shape).unbind(1)
    return heads[0].new_empty(3, num_tokens, *shape).unbind(0)


def _dense_heads(x_TNH: Tensor) -> Tensor:
    """The same with the H numbers of a head next to each other, as they nearly always are."""
    return x_TNH if x_TNH.stride(-1) == 1 else x_TNH.contiguous()
