"""The native attention computes what plain attention does, text by text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leantune.packing.attention import packed_attention
from leantune.packing.batch import pack
from leantune.packing.distance import DistanceBias
from leantune.packing.dropout import DropoutStream
from leantune.packing.native import attention as native
from leantune.packing.plan import AttentionPlan

pytestmark = pytest.mark.needs_kernels

SPARE = 5
"""Tokens of no text behind the others."""


REACH = 80
"""A multiple of 16 above the longest text that distances add something to."""


def plan_of(lengths: list[int], seed: int = 0, *, is_biased: bool = False) -> AttentionPlan:
    batch = pack([np.zeros(n, np.int32) for n in lengths], np.arange(len(lengths)))
    plan = AttentionPlan.of(batch, DropoutStream(seed))
    if is_biased:
        plan.distance_bias = DistanceBias(torch.randn(2, 2 * REACH - 1))
    return plan


def heads_for(lengths: list[int], num_heads: int, width: int, seed: int = 0) -> list[Tensor]:
    """Queries, keys and values as views of one buffer, as a fused projection gives them."""
    generator = torch.Generator().manual_seed(seed)
    buffer = torch.randn(sum(lengths) + SPARE, 3, num_heads, width, generator=generator).bfloat16()
    return [buffer[:, i].detach().requires_grad_() for i in range(3)]


def reference(
    qkv: list[Tensor],
    lengths: list[int],
    window: int | None,
    only_first: bool,
    drop=None,
    by_distance: Tensor | None = None,
) -> Tensor:
    """``(tokens, N, H)`` in float64; drop: masks ``(N, L, L)`` of the texts; by_distance: ``(N, 2 REACH - 1)``."""
    pieces = []
    for i, texts in enumerate(zip(*(x[: sum(lengths)].split(lengths) for x in qkv), strict=True)):
        q, k, v = (x.transpose(0, 1) for x in texts)
        place = torch.arange(lengths[i])
        far = (place[:, None] - place).abs() >= (window or lengths[i])
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if by_distance is not None:
            scores = scores + by_distance[:, place[:, None] - place + REACH - 1].double()
        scores = scores.masked_fill(far, -torch.inf)
        weights = scores.softmax(-1) if drop is None else scores.softmax(-1) * drop[i]
        out = (weights @ v).transpose(0, 1)
        pieces.append(out * (place == 0)[:, None, None] if only_first else out)
    return torch.cat(pieces)


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Within the rounding of some bf16 products of the largest number; nothing at tokens of no text."""
    real = len(expected)
    allowed = 0.02 * max(expected.abs().max().item(), 0.5)
    torch.testing.assert_close(found[:real].double(), expected, rtol=0, atol=allowed)
    assert not found[real:].any()


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=6).map(sorted),
    width=st.sampled_from([32, 64, 96]),
    window=st.sampled_from([None, 1, 3, 20]),
    only_first=st.booleans(),
    is_biased=st.booleans(),
    seed=st.integers(0, 5),
)
def test_native_attention_and_its_gradients_equal_float64(
    lengths, width, window, only_first, is_biased, seed
):
    torch.manual_seed(seed)
    qkv = heads_for(lengths, 2, width, seed)
    plan = plan_of(lengths, is_biased=is_biased)
    by_distance = plan.distance_bias.by_distance if is_biased else None
    settings_ = (plan, width**-0.5, 0.0, window, only_first)
    out = native.attend(*qkv, *settings_)
    weight = torch.randn(out.shape).bfloat16()
    exact = [x.detach().double().requires_grad_() for x in qkv]
    expected = reference(exact, lengths, window, only_first, by_distance=by_distance)
    assert_close(out, expected)
    with torch.no_grad():
        assert torch.equal(native.attend(*qkv, *settings_), out)
    real = sum(lengths)
    gradients = torch.autograd.grad((expected * weight[:real].double()).sum(), exact)
    for found, wanted in zip(torch.autograd.grad(out, qkv, weight), gradients, strict=True):
        assert_close(found, wanted[:real])
        assert not found[real:].any()


@pytest.mark.parametrize("window", [None, 128])
def test_long_texts_too(window):
    lengths = [1, 300, 700]
    qkv = heads_for(lengths, 1, 64)
    out = native.attend(*qkv, plan_of(lengths), 64**-0.5, 0.0, window, False)
    assert_close(out, reference([x.detach().double() for x in qkv], lengths, window, False))


def masks_of(lengths: list[int], num_heads: int, width: int, p: float, seed: int) -> list[Tensor]:
    """The dropout masks ``(N, L, L)`` of the first draw: weights are uniform for equal keys, and a one-hot
    value shows the weight of its key.
    """
    length = max(lengths)
    masks = [torch.zeros(num_heads, n, n, dtype=torch.float64) for n in lengths]
    for first in range(0, length, width):
        q, k, v = (torch.zeros(sum(lengths), num_heads, width).bfloat16() for _ in range(3))
        for text in v.split(lengths):
            for key in range(first, min(first + width, len(text))):
                text[key, :, key - first] = 1
        with torch.no_grad():
            out = native.attend(q, k, v, plan_of(lengths, seed), 1.0, p, None, False)
        for mask, text in zip(masks, out.split(lengths), strict=True):
            shown = mask[:, :, first : first + width]
            shown.copy_((text.transpose(0, 1)[:, :, : shown.shape[2]] > 0) / (1 - p))
    return masks


@pytest.mark.parametrize(("width", "is_biased"), [(32, False), (64, False), (64, True), (96, True)])
def test_dropout_is_the_same_backward_as_forward(width, is_biased):
    lengths, p = [1, 2, 33, 50], 0.25
    masks = masks_of(lengths, 2, width, p, seed=3)
    qkv = heads_for(lengths, 2, width)
    plan = plan_of(lengths, 3, is_biased=is_biased)
    out = native.attend(*qkv, plan, width**-0.5, p, None, False)
    exact = [x.detach().double().requires_grad_() for x in qkv]
    by_distance = plan.distance_bias.by_distance if is_biased else None
    expected = reference(exact, lengths, None, False, masks, by_distance)
    assert_close(out, expected)
    weight = torch.randn(out.shape).bfloat16()
    gradients = torch.autograd.grad((expected * weight[: sum(lengths)].double()).sum(), exact)
    for found, wanted in zip(torch.autograd.grad(out, qkv, weight), gradients, strict=True):
        assert_close(found, wanted[: sum(lengths)])


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_dropout_has_its_rate_and_no_pattern(p):
    masks = masks_of([500, 500], 4, 64, p, seed=1)
    bits = torch.stack(masks).gt(0).double().flatten(0, 1)  # (8 texts and heads, L, L)
    deviations = 5 / bits.numel() ** 0.5
    assert abs(bits.mean().item() - (1 - p)) < deviations
    bits = (bits - bits.mean()) / bits.std()
    neighbours = (
        (bits[1:], bits[:-1]),
        (bits[:, 1:], bits[:, :-1]),
        (bits[:, :, 1:], bits[:, :, :-1]),
        (bits[:, :, 2:], bits[:, :, :-2]),
        (bits[:, 1:, 1:], bits[:, :-1, :-1]),
    )
    for first, second in neighbours:
        assert abs((first * second).mean().item()) < deviations


def test_the_next_mask_is_another_and_a_saved_stream_gives_the_same():
    lengths = [20, 40]
    qkv = heads_for(lengths, 2, 32)
    plan = plan_of(lengths)
    saved = plan.stream.state()
    outs = [native.attend(*qkv, plan, 0.2, 0.3, None, False) for _ in range(2)]
    assert not torch.equal(*outs)
    plan.stream.load_state(saved)
    for out in outs:
        assert torch.equal(native.attend(*qkv, plan, 0.2, 0.3, None, False), out)


def test_bits_do_not_depend_on_the_number_of_threads():
    lengths = [3, 17, 40, 41, 90]
    qkv = heads_for(lengths, 4, 32)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            out = native.attend(*qkv, plan_of(lengths), 0.2, 0.1, None, False)
            found.append([out, *torch.autograd.grad(out.float().square().sum(), qkv)])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_what_is_not_finite_stays_so_and_in_its_text(part, bad):
    lengths = [4, 9]
    qkv = heads_for(lengths, 1, 32)
    with torch.no_grad():
        qkv[part][4 + 2] = bad
    out = native.attend(*qkv, plan_of(lengths), 0.2, 0.0, None, False)
    assert not out[4 + 2].isfinite().any()
    assert out[:4].isfinite().all()
    gradients = torch.autograd.grad(out, qkv, torch.ones_like(out))
    assert not all(grad.isfinite().all() for grad in gradients)
    assert all(grad[:4].isfinite().all() for grad in gradients)


def test_heads_of_any_stride_and_of_other_widths():
    lengths = [4, 9]
    plan, module = plan_of(lengths), torch.nn.Module()
    q = torch.randn(1, 2, 13, 32).bfloat16()
    expected, _ = packed_attention(module, q, q, q, None, packed=plan)
    apart = torch.randn(1, 2, 13, 64).bfloat16()[..., ::2].copy_(q)
    assert torch.equal(packed_attention(module, apart, apart, apart, None, packed=plan)[0], expected)
    narrow = torch.randn(1, 2, 13, 8).bfloat16()
    assert not native.can_attend(narrow[0], narrow[0].shape[-1])
    assert packed_attention(module, narrow, narrow, narrow, None, packed=plan)[0].shape == (1, 13, 2, 8)
