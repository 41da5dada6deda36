"""Attention over a packed batch, registered with transformers' ``AttentionInterface``.

transformers calls `packed_attention` with one row of T tokens and hands over the `AttentionPlan`
that was passed to the encoder as the keyword ``packed``. Only attention knows where a text begins.

On the CPU a kernel of our own takes bf16 (`packing.native`), else texts of similar length form blocks
(`packing.grouped`); on an accelerator one varlen kernel takes the whole row where torch has it.

Shape letters: T packed tokens, S texts, N heads, H head width, L tokens of the longest text.
"""

from __future__ import annotations

from functools import lru_cache
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leantune.packing.grouped import GroupedAttention, attend_without_gradients
from leantune.packing.native import attention as native
from leantune.packing.plan import AttentionPlan

NAME = "leantune_packed"
"""The name under which transformers knows this attention."""


def register() -> None:
    """Make `packed_attention` known to transformers under `NAME`; calling it again is harmless."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed: AttentionPlan,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention signature over one packed row.

    Args:
        query, key, value: ``(1, N, T, H)``.
        attention_mask: unused, since the plan says which tokens see each other.
        scaling: factor of the scores; ``H ** -0.5`` if None.
        dropout: probability of dropping an attention weight.
        packed: the plan of the batch.
        sliding_window: a token sees those less than this many positions away; None: all of its text.

    Returns:
        ``(1, T, N, H)`` and no weights.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    q_TNH, k_TNH, v_TNH = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    if query.device.type == "cpu":
        only_first = packed.last_attention is module
        if native.can_attend(q_TNH, q_TNH.shape[-1]):
            out = native.attend(q_TNH, k_TNH, v_TNH, packed, scaling, dropout, sliding_window, only_first)
        elif dropout == 0 and not torch.is_grad_enabled():
            out = attend_without_gradients(q_TNH, k_TNH, v_TNH, packed, scaling, sliding_window, only_first)
        else:
            out = GroupedAttention.apply(  # type: ignore[no-untyped-call]
                q_TNH, k_TNH, v_TNH, packed, scaling, dropout, sliding_window, only_first
            )
    else:
        out = _accelerator_attention(q_TNH, k_TNH, v_TNH, packed, scaling, dropout, sliding_window)
    return out.unsqueeze(0), None


def _accelerator_attention(
    q_TNH: Tensor,
    k_TNH: Tensor,
    v_TNH: Tensor,
    plan: AttentionPlan,
    scaling: float,
    dropout: float,
    sliding_window: int | None,
) -> Tensor:
    """One varlen kernel where it can serve, else one padded scaled_dot_product_attention."""
    is_plain = dropout == 0 and plan.distance_bias is None
    varlen = _varlen_kernel() if is_plain and _flash_serves(q_TNH) else None
    if varlen is not None:
        cu, longest = plan.cu_seqlens, plan.max_seqlen
        reach = -1 if sliding_window is None else sliding_window - 1
        out: Tensor = varlen(
            q_TNH.contiguous(),
            k_TNH.contiguous(),
            v_TNH.contiguous(),
            cu,
            cu,
            longest,
            longest,
            scale=scaling,
            window_size=(reach, reach),
        )
        return out
    return padded_sdpa(q_TNH, k_TNH, v_TNH, plan, scaling, dropout, sliding_window)


def _flash_serves(q_TNH: Tensor) -> bool:
    """Whether torch's flash kernel, which varlen attention is, takes these heads on this device."""
    is_half, width = q_TNH.dtype in (torch.float16, torch.bfloat16), q_TNH.shape[-1]
    if q_TNH.device.type != "cuda" or not is_half or width % 8 or width > 256:
        return False
    return torch.cuda.get_device_capability(q_TNH.device) >= (8, 0)


@lru_cache(maxsize=1)
def _varlen_kernel() -> Any:
    """Torch's ``varlen_attn``; None in a version without it, or without what is asked of it here."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"scale", "window_size"} <= signature(varlen_attn).parameters.keys() else None


def padded_sdpa(
    q_TNH: Tensor,
    k_TNH: Tensor,
    v_TNH: Tensor,
    plan: AttentionPlan,
    scaling: float,
    dropout: float,
    sliding_window: int | None,
) -> Tensor:
    """The same attention as one padded block, on any device: ``(T, N, H)`` to ``(T, N, H)``."""
    layout = plan.padded()
    block = (len(plan.lengths), plan.max_seqlen, *q_TNH.shape[1:])
    q, k, v = (
        x.index_select(0, layout.to_block).view(block).transpose(1, 2) for x in (q_TNH, k_TNH, v_TNH)
    )  # (S, N, L, H)
    visible = layout.is_real[:, None, None, :]
    if sliding_window is not None:
        place = torch.arange(plan.max_seqlen, device=q_TNH.device)
        near = (place[:, None] - place).abs() < sliding_window
        visible = visible & (near | ~layout.is_real[:, None, :, None])
    if plan.distance_bias is not None:
        visible = torch.where(visible, plan.distance_bias.block(plan.max_seqlen, q.dtype), -torch.inf)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout, scale=scaling)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, layout.to_packed)
