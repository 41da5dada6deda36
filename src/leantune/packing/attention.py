"""Attention over a packed batch, registered with transformers' ``AttentionInterface``.

transformers calls `packed_attention` with one row of T tokens and hands over the `AttentionPlan`
that was passed to the encoder as the keyword ``packed``. Only attention knows where a text begins.

On the CPU, texts of similar length form groups, each one batched matrix product: torch's CPU flash
kernel and one padded block of all texts are both slower. On an accelerator one varlen kernel takes
the whole row where torch has it.

Shape letters: T packed tokens, N heads, H head width, G texts of a group, L tokens of its longest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leantune.packing.batch import PackedBatch
from leantune.packing.dropout import DropoutStream, drop_threshold, keep_scale

NAME = "leantune_packed"
"""The name under which transformers knows this attention."""


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Neighbouring texts of similar length, computed as one ``(G, L)`` block."""

    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        """G."""
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """L."""
        return self.lengths[-1]


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """Where each head of each token stands when the blocks ``(G, N, L)`` of all groups follow one
    another: one gather brings a whole batch into blocks, one brings it back.
    """

    to_blocks: Tensor
    """``(rows of all blocks,)`` int64 into ``(T * N)``; padding repeats its text's first token."""
    padding: Tensor
    """Block rows that are padding, int64."""
    to_packed: Tensor
    """``(T * N,)`` int64 into the block rows."""


@dataclass(slots=True)
class AttentionPlan:
    """What attention has to know about a packed batch; made once, used by every layer."""

    groups: tuple[AttentionGroup, ...]
    cu_seqlens: Tensor
    max_seqlen: int
    stream: DropoutStream
    last_attention: nn.Module | None = None
    """The attention module whose output only the first token of each text is taken from."""
    _layouts: dict[int, BlockLayout] = field(default_factory=dict)

    @classmethod
    def of(
        cls, batch: PackedBatch, stream: DropoutStream, last_attention: nn.Module | None = None
    ) -> AttentionPlan:
        """Group the texts of ``batch`` for the CPU; an accelerator uses ``cu_seqlens`` alone."""
        groups = group_by_length(batch.lengths)
        return cls(groups, batch.cu_seqlens, batch.max_seqlen, stream, last_attention)

    @property
    def first_tokens(self) -> Tensor:
        """``(S,)`` int64: where each text begins."""
        return self.cu_seqlens[:-1].long()

    def layout(self, num_heads: int) -> BlockLayout:
        """The block layout for this number of heads."""
        if num_heads not in self._layouts:
            self._layouts[num_heads] = _block_layout(self.groups, num_heads)
        return self._layouts[num_heads]


GROUP_OVERHEAD_TOKENS = 96
"""Padding, in tokens, that costs as much as the calls of one more group (measured: docs/speed.md)."""


@lru_cache(maxsize=4096)
def group_by_length(lengths: tuple[int, ...]) -> tuple[AttentionGroup, ...]:
    """Cut ascending ``lengths`` into groups: a new one begins when padding the texts collected so
    far to the next length would cost more than a group's fixed overhead.
    """
    groups: list[AttentionGroup] = []
    first = padding = 0
    for i in range(1, len(lengths) + 1):
        if i < len(lengths):
            padding += (lengths[i] - lengths[i - 1]) * (i - first)
            if padding <= GROUP_OVERHEAD_TOKENS:
                continue
        groups.append(AttentionGroup(lengths[first:i]))
        first, padding = i, 0
    return tuple(groups)


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
        out: Tensor = _GroupedAttention.apply(  # type: ignore[no-untyped-call]
            q_TNH, k_TNH, v_TNH, packed, scaling, dropout, sliding_window, only_first
        )
    else:
        out = _accelerator_attention(q_TNH, k_TNH, v_TNH, packed, scaling, dropout, sliding_window)
    return out.unsqueeze(0), None


class _GroupedAttention(torch.autograd.Function):
    """Softmax of q k^T times v, group by group, with its own backward: one graph node for a layer instead of
    some ten for each group, and only the weights after softmax are stored.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_TNH: Tensor,
        k_TNH: Tensor,
        v_TNH: Tensor,
        plan: AttentionPlan,
        scaling: float,
        dropout: float,
        sliding_window: int | None,
        only_first: bool,
    ) -> Tensor:
        num_heads = q_TNH.shape[1]
        layout = plan.layout(num_heads)
        k, v = (_gather(x, layout.to_blocks) for x in (k_TNH, v_TNH))
        q = q_TNH[plan.first_tokens].flatten(0, 1) if only_first else _gather(q_TNH, layout.to_blocks)
        is_dropping = drop_threshold(dropout) > 0
        weights, masks, blocks = [], [], []
        for group, q_block, k_block, v_block in _blocks_of(plan.groups, num_heads, only_first, q, k, v):
            weight = _attention_weights(q_block, k_block, group, scaling, sliding_window)
            weights.append(weight)
            if is_dropping:
                mask = plan.stream.keep_mask(tuple(weight.shape), dropout, weight.dtype)
                masks.append(mask)
                weight = (weight * mask).mul_(keep_scale(dropout))
            blocks.append(torch.bmm(weight, v_block).flatten(0, 1))
        ctx.save_for_backward(q, k, v, *weights, *masks)
        ctx.plan, ctx.scaling, ctx.only_first = plan, scaling, only_first
        ctx.keep_scale = keep_scale(dropout) if is_dropping else None
        rows = torch.cat(blocks)
        if not only_first:
            return rows.index_select(0, layout.to_packed).view(q_TNH.shape)
        out_TNH = rows.new_zeros(q_TNH.shape)
        out_TNH[plan.first_tokens] = rows.view(-1, *q_TNH.shape[1:])
        return out_TNH

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        plan: AttentionPlan = ctx.plan
        weights, masks = saved[: len(plan.groups)], saved[len(plan.groups) :]
        shape = grad_outputs[0].shape
        layout = plan.layout(shape[1])
        if ctx.only_first:
            grad_out = grad_outputs[0][plan.first_tokens].flatten(0, 1)
        else:
            # a query of padding must not reach the keys and values that it repeats
            grad_out = _gather(grad_outputs[0], layout.to_blocks).index_fill_(0, layout.padding, 0)
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        inputs = _blocks_of(plan.groups, shape[1], ctx.only_first, q, k, v)
        outputs = _blocks_of(plan.groups, shape[1], ctx.only_first, grad_q, grad_k, grad_v)
        rows_of_grad = _query_blocks(plan.groups, shape[1], ctx.only_first, grad_out)
        for i, ((_, q_block, k_block, v_block), (_, *grads), grad_block) in enumerate(
            zip(inputs, outputs, rows_of_grad, strict=True)
        ):
            grad_weight = torch.bmm(grad_block, v_block.mT)
            dropped = weights[i]
            if masks:
                dropped = (weights[i] * masks[i]).mul_(ctx.keep_scale)
                grad_weight.mul_(masks[i]).mul_(ctx.keep_scale)
            torch.bmm(dropped.mT, grad_block, out=grads[2])
            grad_score = torch._softmax_backward_data(grad_weight, weights[i], -1, weights[i].dtype)
            grad_score.mul_(ctx.scaling)
            torch.bmm(grad_score, k_block, out=grads[0])
            torch.bmm(grad_score.mT, q_block, out=grads[1])
        back = (grad.index_select(0, layout.to_packed).view(shape) for grad in (grad_k, grad_v))
        if not ctx.only_first:
            return (grad_q.index_select(0, layout.to_packed).view(shape), *back, None, None, None, None, None)
        whole_q = grad_q.new_zeros(shape)
        whole_q[plan.first_tokens] = grad_q.view(-1, *shape[1:])
        return (whole_q, *back, None, None, None, None, None)


def _block_layout(groups: tuple[AttentionGroup, ...], num_heads: int) -> BlockLayout:
    heads = torch.arange(num_heads)
    to_blocks, is_padding, first = [], [], 0
    for group in groups:
        sizes = torch.tensor(group.lengths)
        starts = first + sizes.cumsum(0) - sizes
        place = torch.arange(group.longest)
        empty = place >= sizes[:, None]  # (G, L)
        token = starts[:, None] + place.masked_fill(empty, 0)
        to_blocks.append((token[:, None] * num_heads + heads[:, None]).flatten())  # (G, N, L)
        is_padding.append(empty[:, None].expand(-1, num_heads, -1).flatten())
        first += sum(group.lengths)
    source, empty = torch.cat(to_blocks), torch.cat(is_padding)
    real = (~empty).nonzero().flatten()
    to_packed = torch.empty(len(real), dtype=torch.int64)
    to_packed[source[real]] = real
    return BlockLayout(source, empty.nonzero().flatten(), to_packed)


def _gather(x_TNH: Tensor, rows: Tensor) -> Tensor:
    return x_TNH.reshape(-1, x_TNH.shape[-1]).index_select(0, rows)


def _query_blocks(
    groups: tuple[AttentionGroup, ...], num_heads: int, only_first: bool, rows: Tensor
) -> Iterator[Tensor]:
    """Views ``(G * N, L or 1, H)`` of rows that are laid out like the queries."""
    sizes = [(g.size * num_heads, 1 if only_first else g.longest) for g in groups]
    for piece, size in zip(torch.split(rows, [a * b for a, b in sizes]), sizes, strict=True):
        yield piece.view(*size, rows.shape[-1])


def _blocks_of(
    groups: tuple[AttentionGroup, ...], num_heads: int, only_first: bool, q: Tensor, k: Tensor, v: Tensor
) -> Iterator[tuple[AttentionGroup, Tensor, Tensor, Tensor]]:
    """Each group with views of its queries, keys and values."""
    return zip(
        groups,
        _query_blocks(groups, num_heads, only_first, q),
        _query_blocks(groups, num_heads, False, k),
        _query_blocks(groups, num_heads, False, v),
        strict=True,
    )


def _attention_weights(
    q: Tensor, k: Tensor, group: AttentionGroup, scaling: float, sliding_window: int | None
) -> Tensor:
    """Softmax of the scaled scores ``(G * N, queries, L)``; keys of padding get exactly 0."""
    # torch's CPU softmax is some three times faster in fp32, at lengths that are no multiple of 16
    scores = torch.bmm(q, k.mT)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).mul_(scaling)
    hidden = _hidden_keys(group.lengths, sliding_window)
    if hidden is not None:
        by_text = scores.view(group.size, -1, *scores.shape[1:])
        by_text.masked_fill_(hidden[:, None, : scores.shape[1]], float("-inf"))
    return torch.softmax(scores, dim=-1).to(q.dtype)


@lru_cache(maxsize=4096)
def _hidden_keys(lengths: tuple[int, ...], sliding_window: int | None) -> Tensor | None:
    """Keys that a query must not see: ``(G, 1 or L, L)`` bool, None if it may see all."""
    longest = lengths[-1]
    hidden = None
    if lengths[0] != longest:
        hidden = (torch.arange(longest) >= torch.tensor(lengths)[:, None])[:, None, :]
    if sliding_window is not None and sliding_window < longest:
        place = torch.arange(longest)
        far = ((place[:, None] - place).abs() >= sliding_window)[None]
        # a padding query far from every real key would have no key at all and give NaN
        far = far & (place[:, None] < torch.tensor(lengths)[:, None, None])
        hidden = far if hidden is None else hidden | far
    return hidden


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
