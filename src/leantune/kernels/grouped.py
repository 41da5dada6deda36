"""Attention on the CPU: texts of similar length form blocks, which are computed one after the other.

With gradients a block is a few batched matrix products. Without, it is torch's flash kernel, which has no dropout and a
slower backward pass (benchmarks/notebook).

Shape letters: T packed tokens, N heads, H head width, G texts of a block, L tokens of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from leantune.packing.dropout import DropoutStream
from leantune.packing.layout import AttentionGroup, Layout, Window


def grouped_attention(
    q_TNH: Tensor,
    k_TNH: Tensor,
    v_TNH: Tensor,
    layout: Layout,
    stream: DropoutStream,
    dropout: float,
    window: Window,
    *,
    only_first: bool,
) -> Tensor:
    """Attention within each text: ``(T, N, H)`` to ``(T, N, H)``; zero for tokens of no text.

    Args:
        q_TNH, k_TNH, v_TNH: query, key and value.
        layout: layout of the batch.
        stream: generator of dropout masks.
        dropout: probability of dropping an attention weight.
        window: the tokens that each token attends to.
        only_first: compute only the rows of first tokens; the others are zero.
    """
    if dropout == 0 and not torch.is_grad_enabled():
        return attend_without_gradients(q_TNH, k_TNH, v_TNH, layout, window, only_first)
    out: Tensor = GroupedAttention.apply(  # type: ignore[no-untyped-call]
        q_TNH, k_TNH, v_TNH, layout, stream, dropout, window, only_first
    )
    return out


class GroupedAttention(torch.autograd.Function):
    """Softmax of ``q k^T`` plus distance biases, times v, block by block, with its own backward pass.

    A layer is one graph node instead of about ten per block, and only the weights after softmax are stored, not the
    scores. The scores are scaled through the queries, which are smaller.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_TNH: Tensor,
        k_TNH: Tensor,
        v_TNH: Tensor,
        layout: Layout,
        stream: DropoutStream,
        dropout: float,
        window: Window,
        only_first: bool,
    ) -> Tensor:
        scaling = q_TNH.shape[-1] ** -0.5
        num_heads = q_TNH.shape[1]
        blocks = layout.blocks(num_heads)
        k, v = (_gather(x, blocks.to_blocks) for x in (k_TNH, v_TNH))
        q = q_TNH[layout.first_tokens].flatten(0, 1) if only_first else _gather(q_TNH, blocks.to_blocks)
        q.mul_(scaling)
        weights, masks, rows = [], [], torch.empty_like(q)
        outputs = _query_blocks(layout.groups, num_heads, only_first, rows)
        for (group, q_block, k_block, v_block), out in zip(
            _blocks_of(layout.groups, num_heads, only_first, q, k, v), outputs, strict=True
        ):
            weight = _attention_weights(q_block, k_block, group, layout, window)
            weights.append(weight)
            if dropout:
                masks.append(stream.mask(tuple(weight.shape), dropout, weight.dtype))
                weight = weight * masks[-1]
            torch.bmm(weight, v_block, out=out)
        ctx.save_for_backward(q, k, v, *weights, *masks)
        ctx.layout, ctx.scaling, ctx.only_first = layout, scaling, only_first
        if only_first:
            return _first_rows(rows, layout, q_TNH)
        return _scatter(rows, blocks.to_packed, q_TNH)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        (grad_TNH,) = grad_outputs
        layout: Layout = ctx.layout
        weights, masks = saved[: len(layout.groups)], saved[len(layout.groups) :]
        num_heads = grad_TNH.shape[1]
        blocks = layout.blocks(num_heads)
        if ctx.only_first:
            grad_out = grad_TNH[layout.first_tokens].flatten(0, 1)
        else:
            # a padding query must not pass gradients to the token that it repeats
            grad_out = _gather(grad_TNH, blocks.to_blocks).index_fill_(0, blocks.padding, 0)
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        inputs = _blocks_of(layout.groups, num_heads, ctx.only_first, q, k, v)
        outputs = _blocks_of(layout.groups, num_heads, ctx.only_first, grad_q, grad_k, grad_v)
        grad_blocks = _query_blocks(layout.groups, num_heads, ctx.only_first, grad_out)
        for i, ((_, q_block, k_block, v_block), (_, *grads), grad_block) in enumerate(
            zip(inputs, outputs, grad_blocks, strict=True)
        ):
            grad_weight = torch.bmm(grad_block, v_block.mT)
            dropped = weights[i]
            if masks:
                dropped = weights[i] * masks[i]
                grad_weight.mul_(masks[i])
            torch.bmm(dropped.mT, grad_block, out=grads[2])
            grad_score = _softmax_backward(grad_weight, weights[i])
            torch.bmm(grad_score, k_block, out=grads[0])
            torch.bmm(grad_score.mT, q_block, out=grads[1])
        grad_q.mul_(ctx.scaling)
        back = [_scatter(grad, blocks.to_packed, grad_TNH) for grad in (grad_k, grad_v)]
        whole_q = (
            _first_rows(grad_q, layout, grad_TNH)
            if ctx.only_first
            else _scatter(grad_q, blocks.to_packed, grad_TNH)
        )
        return (whole_q, *back, None, None, None, None, None)


def attend_without_gradients(
    q_TNH: Tensor,
    k_TNH: Tensor,
    v_TNH: Tensor,
    layout: Layout,
    window: Window,
    only_first: bool,
) -> Tensor:
    """Compute what `GroupedAttention` does without dropout: ``(T, N, H)`` to ``(T, N, H)``."""
    blocks = layout.blocks(1)  # blocks of whole tokens: the kernel accepts strided heads
    k, v = (x.index_select(0, blocks.to_blocks) for x in (k_TNH, v_TNH))
    q = q_TNH[layout.first_tokens] if only_first else q_TNH.index_select(0, blocks.to_blocks)
    rows = torch.empty_like(q)
    outputs = _query_blocks(layout.groups, 1, only_first, rows)
    for (group, *three), out in zip(_blocks_of(layout.groups, 1, only_first, q, k, v), outputs, strict=True):
        q_block, k_block, v_block = (x.transpose(1, 2) for x in three)  # (G, N, L or 1, H)
        added = _added_scores(group, layout, window, q.dtype)
        if added is not None:
            added = added[:, :, : q_block.shape[2]]
        attended = F.scaled_dot_product_attention(q_block, k_block, v_block, attn_mask=added)
        out.copy_(attended.transpose(1, 2))
    if only_first:
        return _first_rows(rows, layout, q_TNH)
    return _scatter(rows, blocks.to_packed, q_TNH)


def _softmax_backward(grad_weight: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the scores from the gradient of their softmax, in one pass."""
    grad: Tensor = torch.ops.aten._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
    return grad


def _gather(x_TNH: Tensor, rows: Tensor) -> Tensor:
    return x_TNH.reshape(-1, x_TNH.shape[-1]).index_select(0, rows)


def _scatter(rows: Tensor, to_packed: Tensor, like_TNH: Tensor) -> Tensor:
    """Convert block rows, of heads or of whole tokens, to ``(T, N, H)``; tokens of no text get 0."""
    out = rows.new_empty(like_TNH.shape)
    flat = out.view(-1, *rows.shape[1:])
    torch.index_select(rows, 0, to_packed, out=flat[: len(to_packed)])
    flat[len(to_packed) :] = 0
    return out


def _first_rows(rows: Tensor, layout: Layout, like_TNH: Tensor) -> Tensor:
    """Convert rows of first tokens to ``(T, N, H)``; all other tokens get 0."""
    out = rows.new_zeros(like_TNH.shape)
    out[layout.first_tokens] = rows.view(-1, *out.shape[1:])
    return out


def _query_blocks(
    groups: tuple[AttentionGroup, ...], num_heads: int, only_first: bool, rows: Tensor
) -> Iterator[Tensor]:
    """Views ``(G * N, L or 1, H)`` of rows in the layout of the queries.

    Rows ``(N, H)`` of whole tokens count as one head here and give ``(G, L or 1, N, H)``.
    """
    sizes = [(g.size * num_heads, 1 if only_first else g.width) for g in groups]
    for piece, size in zip(torch.split(rows, [a * b for a, b in sizes]), sizes, strict=True):
        yield piece.view(*size, *rows.shape[1:])


def _blocks_of(
    groups: tuple[AttentionGroup, ...], num_heads: int, only_first: bool, q: Tensor, k: Tensor, v: Tensor
) -> Iterator[tuple[AttentionGroup, Tensor, Tensor, Tensor]]:
    """Yield each group with views of its queries, keys and values."""
    return zip(
        groups,
        _query_blocks(groups, num_heads, only_first, q),
        _query_blocks(groups, num_heads, False, k),
        _query_blocks(groups, num_heads, False, v),
        strict=True,
    )


def _attention_weights(q: Tensor, k: Tensor, group: AttentionGroup, layout: Layout, window: Window) -> Tensor:
    """Softmax of the scores ``(G * N, queries, L)``; padding keys get exactly 0."""
    scores = torch.bmm(q, k.mT)
    added = _added_scores(group, layout, window, scores.dtype)
    if added is not None:
        scores.view(group.size, -1, *scores.shape[1:]).add_(added[:, :, : scores.shape[1]])
    return torch.softmax(scores, dim=-1, out=scores)


def _added_scores(group: AttentionGroup, layout: Layout, window: Window, dtype: torch.dtype) -> Tensor | None:
    """The values added to the scores of a block: ``(G or 1, N or 1, 1 or L, L)``; None if there are none."""
    hidden = layout.hidden_keys(group, window, dtype)
    if layout.distance_bias is None:
        return None if hidden is None else hidden[:, None]
    by_head = layout.distance_bias.block(group.width, dtype)[None]
    return by_head if hidden is None else by_head + hidden[:, None]
