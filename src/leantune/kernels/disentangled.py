"""Disentangled attention (He et al., 2021, DeBERTa, arXiv 2006.03654, eq. 4), for texts in blocks of similar length.

The score of a query and a key is a sum of up to three products: content with content, content with the position of the
key relative to the query, and the position of the query relative to the key with content. A block of G texts of L
tokens has 2 L - 1 relative positions, so the last two are products with 2 L rows, whose diagonals are then the scores.

Shape letters: T packed tokens, N heads, H head width, G texts of a block, L tokens of its rows, R rows of the table.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from leantune.kernels.interface import LayerLike
from leantune.packing.dropout import DropoutStream
from leantune.packing.layout import WHOLE_TEXT, GroupTokens, Layout


def disentangled_attention(
    q_TNH: Tensor, k_TNH: Tensor, v_TNH: Tensor, layer: LayerLike, layout: Layout, *, only_first: bool
) -> Tensor:
    """Attention within each text: ``(T, N, H)`` to ``(T, N, H)``; zero for tokens of no text.

    Args:
        q_TNH, k_TNH, v_TNH: query, key and value.
        layer: the layer, whose `relative_projections` turn relative embeddings into keys and queries.
        layout: layout of the batch, with its relative positions.
        only_first: compute only the rows of first tokens; the others are zero.
    """
    assert layout.relative is not None
    num_heads, head_width = q_TNH.shape[1:]
    table = layer.relative_dropout(layout.relative.table)
    key, query = (
        None if each is None else each(table).view(-1, num_heads, head_width).transpose(0, 1)
        for each in layer.relative_projections
    )
    num_terms = 1 + sum(each is not None for each in (key, query))
    out: Tensor = DisentangledAttention.apply(  # type: ignore[no-untyped-call]
        q_TNH,
        k_TNH,
        v_TNH,
        key,
        query,
        layout,
        layer.attention_dropout.stream,
        layer.attention_dropout.current_p,
        (head_width * num_terms) ** -0.5,
        only_first,
    )
    return out


class DisentangledAttention(torch.autograd.Function):
    """Block by block, with its own backward pass; only the weights after softmax are stored, not the scores."""

    @staticmethod
    def forward(
        ctx: Any,
        q_TNH: Tensor,
        k_TNH: Tensor,
        v_TNH: Tensor,
        relative_key: Tensor | None,
        relative_query: Tensor | None,
        layout: Layout,
        stream: DropoutStream,
        dropout: float,
        scaling: float,
        only_first: bool,
    ) -> Tensor:
        """``relative_key`` and ``relative_query`` are ``(N, R, H)``; None leaves a term out."""
        assert layout.relative is not None
        rows_of = layout.relative.rows
        out = q_TNH.new_zeros(q_TNH.shape)
        kept: list[Tensor | None] = []
        for group, tokens in zip(layout.groups, layout.tokens_of_groups, strict=True):
            q, k, v = (_heads_first(x, tokens) for x in (q_TNH, k_TNH, v_TNH))
            if only_first:
                q = q[:, :, :1].contiguous()
            q.mul_(scaling)
            scores = torch.matmul(q, k.mT)
            if relative_key is not None:
                rows = relative_key[:, rows_of(group.width, of_keys=True)]
                scores += _of_queries(torch.bmm(q.flatten(1, 2), rows.mT), scores.shape)
            if relative_query is not None:
                rows = relative_query[:, rows_of(group.width, of_keys=False)] * scaling
                scores += _of_keys(torch.bmm(k.flatten(1, 2), rows.mT), scores.shape)
            hidden = layout.hidden_keys(group, WHOLE_TEXT, scores.dtype)
            if hidden is not None:
                scores += hidden
            weights = torch.softmax(scores, dim=-1, out=scores)
            mask = _mask(stream, weights, dropout) if dropout else None
            kept += [weights, mask]
            heads = torch.matmul(weights if mask is None else weights * mask, v)
            _put(out, heads, tokens)
        ctx.save_for_backward(q_TNH, k_TNH, v_TNH, relative_key, relative_query, *kept)
        ctx.layout, ctx.scaling, ctx.only_first = layout, scaling, only_first
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q_TNH, k_TNH, v_TNH, relative_key, relative_query, *kept = ctx.saved_tensors
        (grad_TNH,) = grad_outputs
        layout: Layout = ctx.layout
        assert layout.relative is not None
        rows_of, scaling, only_first = layout.relative.rows, ctx.scaling, ctx.only_first
        grads = [x.new_zeros(x.shape) for x in (q_TNH, k_TNH, v_TNH)]
        # many blocks add to the same rows: summed in fp32
        grad_key, grad_query = (
            x.new_zeros(x.shape, dtype=torch.promote_types(x.dtype, torch.float32)) if is_needed else None
            for x, is_needed in zip((relative_key, relative_query), ctx.needs_input_grad[3:5], strict=True)
        )
        for i, (group, tokens) in enumerate(zip(layout.groups, layout.tokens_of_groups, strict=True)):
            q, k, v, grad_out = (_heads_first(x, tokens) for x in (q_TNH, k_TNH, v_TNH, grad_TNH))
            if only_first:
                q, grad_out = q[:, :, :1].contiguous(), grad_out[:, :, :1].contiguous()
            elif tokens.padding is not None:  # it must not reach the token that padding repeats
                grad_out.flatten(1, 2).index_fill_(1, tokens.padding, 0)
            q.mul_(scaling)
            weights, mask = kept[2 * i : 2 * i + 2]
            grad_weights, dropped = torch.matmul(grad_out, v.mT), weights
            if mask is not None:
                grad_weights.mul_(mask)
                dropped = weights * mask
            grad_v = torch.matmul(dropped.mT, grad_out)
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_q, grad_k = torch.matmul(grad_scores, k), torch.matmul(grad_scores.mT, q)
            if relative_key is not None:
                index = rows_of(group.width, of_keys=True)
                grad = q.new_zeros(q.shape[0], q.shape[1] * q.shape[2], len(index))
                _of_queries(grad, grad_scores.shape).copy_(grad_scores)
                grad_q += torch.bmm(grad, relative_key[:, index]).view(q.shape)
                if grad_key is not None:
                    grad_key.index_add_(1, index, torch.bmm(grad.mT, q.flatten(1, 2)).to(grad_key.dtype))
            if relative_query is not None:
                index = rows_of(group.width, of_keys=False)
                grad = k.new_zeros(k.shape[0], k.shape[1] * k.shape[2], len(index))
                _of_keys(grad, grad_scores.shape).copy_(grad_scores)
                grad_k += torch.bmm(grad, relative_query[:, index] * scaling).view(k.shape)
                if grad_query is not None:
                    per_row = torch.bmm(grad.mT, k.flatten(1, 2)).to(grad_query.dtype)
                    grad_query.index_add_(1, index, per_row * scaling)
            _put(grads[0], grad_q * scaling, tokens)
            _put(grads[1], grad_k, tokens)
            _put(grads[2], grad_v, tokens)
        of_tables = (None if g is None else g.to(q_TNH.dtype) for g in (grad_key, grad_query))
        return (*grads, *of_tables, None, None, None, None, None)


def _heads_first(x_TNH: Tensor, tokens: GroupTokens) -> Tensor:
    """The tokens of a block, ``(N, G, L, H)`` contiguous."""
    block = x_TNH.index_select(0, tokens.to_block).view(*tokens.shape, *x_TNH.shape[1:])
    return block.permute(2, 0, 1, 3).contiguous()


def _put(out_TNH: Tensor, heads: Tensor, tokens: GroupTokens) -> None:
    """Write a block ``(N, G, L, H)``, or its first tokens ``(N, G, 1, H)``, into the rows of its tokens."""
    rows = heads.permute(1, 2, 0, 3)  # (G, L, N, H)
    if rows.shape[1] < tokens.shape[1]:
        out_TNH[tokens.to_block.view(tokens.shape)[:, 0]] = rows[:, 0]
        return
    flat = rows.flatten(0, 1)
    real = flat if tokens.to_packed is None else flat.index_select(0, tokens.to_packed)
    out_TNH[tokens.first : tokens.first + len(real)] = real


def _of_queries(product: Tensor, shape: torch.Size) -> Tensor:
    """View ``(N, G queries, 2 L)`` as ``shape = (N, G, queries, L)``: query i and key j at column j - i + L - 1."""
    _, size, queries, width = shape
    columns = product.shape[-1]
    strides = (size * queries * columns, queries * columns, columns - 1, 1)
    return product.as_strided(shape, strides, product.storage_offset() + width - 1)


def _of_keys(product: Tensor, shape: torch.Size) -> Tensor:
    """View ``(N, G L, 2 L)`` as ``shape = (N, G, queries, L)``: key j is a row, query i at column i - j + L - 1."""
    _, size, _, width = shape
    columns = product.shape[-1]
    strides = (size * width * columns, width * columns, 1, columns - 1)
    return product.as_strided(shape, strides, product.storage_offset() + width - 1)


def _mask(stream: DropoutStream, weights: Tensor, dropout: float) -> Tensor:
    if weights.device.type == "cpu":
        return stream.mask(tuple(weights.shape), dropout, weights.dtype)
    return torch.empty_like(weights).bernoulli_(1 - dropout).div_(1 - dropout)
