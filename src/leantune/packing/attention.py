"""Attention over a packed batch, registered with transformers' ``AttentionInterface``.

transformers calls `packed_attention` with one row of T tokens and hands over the `AttentionPlan`
that was passed to the encoder as the keyword ``packed``. Only attention knows where a text begins.

On the CPU a kernel of our own takes bf16 (`packing.native`), else texts of similar length form blocks
(`packing.grouped`); on an accelerator one varlen kernel takes the whole row where torch has it.

Shape letters: T packed tokens, S texts, N heads, H head width, L tokens of the longest text.
"""

from __future__ import annotations

from functools import lru_cache
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
        if native.can_attend(q_TNH):
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
    if dropout == 0 and sliding_window is None and q_TNH.dtype in (torch.float16, torch.bfloat16):
        varlen = _varlen_kernel()
        if varlen is not None:
            cu, longest = plan.cu_seqlens, plan.max_seqlen
            out: Tensor = varlen(
                q_TNH.contiguous(),
                k_TNH.contiguous(),
                v_TNH.contiguous(),
                cu,
                cu,
                longest,
                longest,
                scale=scaling,
            )
            return out
    return padded_sdpa(q_TNH, k_TNH, v_TNH, plan, scaling, dropout, sliding_window)


@lru_cache(maxsize=1)
def _varlen_kernel() -> Any:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # torch before 2.10
        return None
    return varlen_attn


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
    lengths = (plan.cu_seqlens[1:] - plan.cu_seqlens[:-1]).long()
    place = torch.arange(plan.max_seqlen, device=q_TNH.device)
    is_real = place < lengths[:, None]  # (S, L)
    index = plan.cu_seqlens[:-1, None].long() + torch.where(is_real, place, 0)
    q, k, v = (x[index].transpose(1, 2) for x in (q_TNH, k_TNH, v_TNH))  # (S, N, L, H)
    visible = is_real[:, None, None, :]
    if sliding_window is not None:
        near = (place[:, None] - place).abs() < sliding_window
        visible = visible & (near | ~is_real[:, None, :, None])
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout, scale=scaling)
    return out.transpose(1, 2)[is_real]
