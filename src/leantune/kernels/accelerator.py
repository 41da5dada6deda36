"""Attention over a packed batch on an accelerator.

One varlen kernel takes the whole batch if this version of torch has it; otherwise all texts form one padded block.

T packed tokens, S texts, N heads, H head width, L tokens of the longest text.
"""

from __future__ import annotations

from functools import lru_cache
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from leantune.packing.layout import Layout, Window


def varlen_attention(
    q_TNH: Tensor, k_TNH: Tensor, v_TNH: Tensor, layout: Layout, dropout: float, window: Window
) -> Tensor:
    """Attention within each text: ``(T, N, H)`` to ``(T, N, H)``.

    Args:
        q_TNH, k_TNH, v_TNH: query, key and value.
        layout: layout of the batch.
        dropout: probability of dropping an attention weight.
        window: the tokens that each token attends to.
    """
    scaling = q_TNH.shape[-1] ** -0.5
    is_plain = dropout == 0 and layout.distance_bias is None
    varlen = _varlen_kernel() if is_plain and _is_flash_supported(q_TNH) else None
    if varlen is not None:
        cu, longest = layout.cu_seqlens, layout.max_seqlen
        unlimited = -1 if window.is_whole else longest
        reach = tuple(unlimited if each is None else each for each in (window.before, window.after))
        out: Tensor = varlen(
            q_TNH.contiguous(),
            k_TNH.contiguous(),
            v_TNH.contiguous(),
            cu,
            cu,
            longest,
            longest,
            scale=scaling,
            window_size=reach,
        )
        return out
    return padded_sdpa(q_TNH, k_TNH, v_TNH, layout, scaling, dropout, window)


def _is_flash_supported(q_TNH: Tensor) -> bool:
    """Whether torch's flash kernel, which varlen attention needs, supports these heads on this device."""
    is_half, width = q_TNH.dtype in (torch.float16, torch.bfloat16), q_TNH.shape[-1]
    if q_TNH.device.type != "cuda" or not is_half or width % 8 or width > 256:
        return False
    return torch.cuda.get_device_capability(q_TNH.device) >= (8, 0)


@lru_cache(maxsize=1)
def _varlen_kernel() -> Any:
    """Torch's ``varlen_attn``; None if this version lacks it or the parameters needed here."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"scale", "window_size"} <= signature(varlen_attn).parameters.keys() else None


def padded_sdpa(
    q_TNH: Tensor,
    k_TNH: Tensor,
    v_TNH: Tensor,
    layout: Layout,
    scaling: float,
    dropout: float,
    window: Window,
) -> Tensor:
    """Compute the attention as one padded block, on any device: ``(T, N, H)`` to ``(T, N, H)``."""
    padded = layout.padded()
    block = (len(layout.lengths), layout.max_seqlen, *q_TNH.shape[1:])
    q, k, v = (
        x.index_select(0, padded.to_block).view(block).transpose(1, 2) for x in (q_TNH, k_TNH, v_TNH)
    )  # (S, N, L, H)
    visible = padded.is_real[:, None, None, :]
    if not window.is_whole:
        near = window.sees(layout.max_seqlen, q_TNH.device)
        visible = visible & (near | ~padded.is_real[:, None, :, None])
    if layout.distance_bias is not None:
        visible = torch.where(visible, layout.distance_bias.block(layout.max_seqlen, q.dtype), -torch.inf)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout, scale=scaling)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, padded.to_packed)
