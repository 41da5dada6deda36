"""Attention over a packed batch, registered with transformers' ``AttentionInterface``.

transformers calls `packed_attention` with one row of T tokens and hands over the `AttentionPlan`
that was passed to the encoder as the keyword ``packed``. Only attention knows where a text begins.

On the CPU, texts of similar length form groups, each one batched matrix product: torch's CPU flash
kernel and one padded block of all texts are both slower. On an accelerator one varlen kernel takes
the whole row where torch has it.

Shape letters: T packed tokens, N heads, H head width, G texts of a group, L tokens of its longest.
"""

from __future__ import annotations

from dataclasses import dataclass
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

    first_token: int
    end_token: int
    lengths: tuple[int, ...]

    @property
    def longest(self) -> int:
        """L."""
        return self.lengths[-1]

    @property
    def is_even(self) -> bool:
        """Whether all texts have one length, so that no padding is needed."""
        return self.lengths[0] == self.lengths[-1]


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """What attention has to know about a packed batch; made once, used by every layer."""

    groups: tuple[AttentionGroup, ...]
    cu_seqlens: Tensor
    max_seqlen: int
    stream: DropoutStream

    @classmethod
    def of(cls, batch: PackedBatch, stream: DropoutStream) -> AttentionPlan:
        """Group the texts of ``batch`` for the CPU; an accelerator uses ``cu_seqlens`` alone."""
        return cls(group_by_length(batch.lengths), batch.cu_seqlens, batch.max_seqlen, stream)


GROUP_OVERHEAD_TOKENS = 96
"""Padding, in tokens, that costs as much as the calls of one more group (measured: docs/speed.md)."""


@lru_cache(maxsize=4096)
def group_by_length(lengths: tuple[int, ...]) -> tuple[AttentionGroup, ...]:
    """Cut ascending ``lengths`` into groups: a new one begins when padding the texts collected so
    far to the next length would cost more than a group's fixed overhead.
    """
    groups: list[AttentionGroup] = []
    first = token = padding = 0
    for i in range(1, len(lengths) + 1):
        if i < len(lengths):
            padding += (lengths[i] - lengths[i - 1]) * (i - first)
            if padding <= GROUP_OVERHEAD_TOKENS:
                continue
        members = lengths[first:i]
        groups.append(AttentionGroup(token, token + sum(members), members))
        first, token, padding = i, token + sum(members), 0
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
        out: Tensor = _GroupedAttention.apply(  # type: ignore[no-untyped-call]
            q_TNH, k_TNH, v_TNH, packed, scaling, dropout, sliding_window
        )
    else:
        out = _accelerator_attention(q_TNH, k_TNH, v_TNH, packed, scaling, dropout, sliding_window)
    return out.unsqueeze(0), None


class _GroupedAttention(torch.autograd.Function):
    """softmax(q k^T) v, group by group, with its own backward: one graph node for a layer instead of
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
    ) -> Tensor:
        out_TNH = torch.empty_like(q_TNH, memory_format=torch.contiguous_format)
        weights, masks = [], []
        is_dropping = drop_threshold(dropout) > 0
        for group in plan.groups:
            q, k, v = (_to_block(x, group) for x in (q_TNH, k_TNH, v_TNH))
            weight = _attention_weights(q, k, group, scaling, sliding_window)
            weights.append(weight)
            if is_dropping:
                mask = plan.stream.keep_mask(tuple(weight.shape), dropout, weight.dtype)
                masks.append(mask)
                weight = (weight * mask).mul_(keep_scale(dropout))
            _from_block(torch.bmm(weight, v), out_TNH, group)
        ctx.save_for_backward(q_TNH, k_TNH, v_TNH, *weights, *masks)
        ctx.groups, ctx.scaling = plan.groups, scaling
        ctx.keep_scale = keep_scale(dropout) if is_dropping else None
        return out_TNH

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q_TNH, k_TNH, v_TNH, *saved = ctx.saved_tensors
        weights, masks = saved[: len(ctx.groups)], saved[len(ctx.groups) :]
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q_TNH, k_TNH, v_TNH)]
        for i, group in enumerate(ctx.groups):
            q, k, v = (_to_block(x, group) for x in (q_TNH, k_TNH, v_TNH))
            grad_out = _to_block(grad_outputs[0], group, fill_padding=True)
            grad_weight = torch.bmm(grad_out, v.mT)
            dropped = weights[i]
            if masks:
                dropped = (weights[i] * masks[i]).mul_(ctx.keep_scale)
                grad_weight.mul_(masks[i]).mul_(ctx.keep_scale)
            grad_v = torch.bmm(dropped.mT, grad_out)
            grad_score = torch._softmax_backward_data(grad_weight, weights[i], -1, weights[i].dtype)
            grad_score.mul_(ctx.scaling)
            for grad, block in zip(
                grads, (torch.bmm(grad_score, k), torch.bmm(grad_score.mT, q), grad_v), strict=True
            ):
                _from_block(block, grad, group)
        return (*grads, None, None, None, None)


def _to_block(x_TNH: Tensor, group: AttentionGroup, *, fill_padding: bool = False) -> Tensor:
    """Tokens of a group as ``(G * N, L, H)``; padding rows repeat a token unless ``fill_padding``,
    which makes them zero.
    """
    num_heads, width = x_TNH.shape[1:]
    size = len(group.lengths)
    tokens = x_TNH[group.first_token : group.end_token]
    if not group.is_even:
        index, is_padding = _padded_index(group.lengths)
        tokens = tokens[index]
        if fill_padding:
            tokens[is_padding] = 0
    block = (
        tokens.view(size, group.longest, num_heads, width)
        if tokens.is_contiguous()
        else tokens.reshape(size, group.longest, num_heads, width)
    )
    return block.transpose(1, 2).reshape(size * num_heads, group.longest, width)


def _from_block(block: Tensor, out_TNH: Tensor, group: AttentionGroup) -> None:
    """Write ``(G * N, L, H)`` to the group's tokens of ``out_TNH``, leaving padding out."""
    num_heads, width = out_TNH.shape[1:]
    size = len(group.lengths)
    tokens = block.view(size, num_heads, group.longest, width).transpose(1, 2)
    target = out_TNH[group.first_token : group.end_token]
    if group.is_even:
        target.view(size, group.longest, num_heads, width).copy_(tokens)
    else:
        _, is_padding = _padded_index(group.lengths)
        target.copy_(tokens.reshape(-1, num_heads, width)[~is_padding])


def _attention_weights(
    q: Tensor, k: Tensor, group: AttentionGroup, scaling: float, sliding_window: int | None
) -> Tensor:
    """Softmax of the scaled scores ``(G * N, L, L)``; keys of padding get exactly 0."""
    scores = torch.bmm(q, k.mT).mul_(scaling)
    hidden = _hidden_keys(group.lengths, sliding_window)
    if hidden is not None:
        size = len(group.lengths)
        by_text = scores.view(size, -1, group.longest, group.longest)
        by_text.masked_fill_(hidden[:, None], float("-inf"))
    return torch.softmax(scores, dim=-1)


@lru_cache(maxsize=4096)
def _padded_index(lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """For a ``(G, L)`` block, flat: the group's token at each place ``(G * L,)`` int64, where padding
    repeats the text's first token, and which places are padding, bool.
    """
    sizes = torch.tensor(lengths)
    starts = sizes.cumsum(0) - sizes
    place = torch.arange(lengths[-1])
    is_padding = place >= sizes[:, None]
    index = starts[:, None] + place.masked_fill(is_padding, 0)
    return index.flatten(), is_padding.flatten()


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
