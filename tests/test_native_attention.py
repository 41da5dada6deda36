"""The native attention computes what plain attention does, text by text."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layers import layout_of
from leantune.packing.dropout import DropoutStream, PooledDropout
from leantune.packing.layout import WHOLE_TEXT, Layout, Window
from leantune.packing.positions import DistanceBias

library = pytest.importorskip("leantune.kernels.native.library")
pytestmark = pytest.mark.needs_kernels

from leantune.kernels.native.attention import attention  # noqa: E402

SPARE = 5
"""Tokens of no text behind the others."""


REACH = 80
"""A multiple of 16 above the longest text that distances add something to."""


def layout_for(lengths: list[int], *, is_biased: bool = False) -> Layout:
    layout = layout_of(lengths, spare=SPARE)
    if is_biased:
        layout.distance_bias = DistanceBias(torch.randn(2, 2 * REACH - 1))
    return layout


def heads_for(lengths: list[int], num_heads: int, width: int, seed: int = 0) -> Tensor:
    """Queries, keys and values ``(T, 3, N, H)``, as a fused projection gives them."""
    generator = torch.Generator().manual_seed(seed)
    heads = torch.randn(sum(lengths) + SPARE, 3, num_heads, width, generator=generator)
    return heads.bfloat16().requires_grad_()


def attend(
    qkv: Tensor,
    layout: Layout,
    p: float = 0.0,
    window: int | None = None,
    only_first: bool = False,
    stream: DropoutStream | None = None,
) -> Tensor:
    """``(T, 3, N, H)`` to ``(T, N, H)``."""
    layer = SimpleNamespace(
        attention_dropout=PooledDropout(p, stream or DropoutStream(0)).train(),
        window=WHOLE_TEXT if window is None else Window.around(window - 1),
        rotary=None,
        head_width=qkv.shape[-1],
    )
    out = attention(qkv.flatten(1), layer, layout, only_first=only_first)
    return out.view(len(qkv), *qkv.shape[2:])


def reference(
    qkv: Tensor,
    lengths: list[int],
    window: int | None,
    only_first: bool,
    drop=None,
    by_distance: Tensor | None = None,
) -> Tensor:
    """``(tokens, N, H)`` in float64; drop: masks ``(N, L, L)`` of the texts; by_distance: ``(N, 2 REACH - 1)``."""
    pieces = []
    for i, texts in enumerate(zip(*(x[: sum(lengths)].split(lengths) for x in qkv.unbind(1)), strict=True)):
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
    layout = layout_for(lengths, is_biased=is_biased)
    by_distance = layout.distance_bias.by_distance if is_biased else None
    settings_ = (layout, 0.0, window, only_first)
    out = attend(qkv, *settings_)
    weight = torch.randn(out.shape).bfloat16()
    exact = qkv.detach().double().requires_grad_()
    expected = reference(exact, lengths, window, only_first, by_distance=by_distance)
    assert_close(out, expected)
    with torch.no_grad():
        assert torch.equal(attend(qkv, *settings_), out)
    real = sum(lengths)
    (gradients,) = torch.autograd.grad((expected * weight[:real].double()).sum(), exact)
    (found,) = torch.autograd.grad(out, qkv, weight)
    for part in range(3):
        assert_close(found[:, part], gradients[:real, part])


@pytest.mark.parametrize("window", [None, 128])
def test_long_texts_too(window):
    lengths = [1, 300, 700]
    qkv = heads_for(lengths, 1, 64)
    out = attend(qkv, layout_for(lengths), 0.0, window)
    assert_close(out, reference(qkv.detach().double(), lengths, window, False))


def masks_of(lengths: list[int], num_heads: int, width: int, p: float, seed: int) -> list[Tensor]:
    """The dropout masks ``(N, L, L)`` of the first draw: weights are uniform for equal keys, and a one-hot
    value shows the weight of its key.
    """
    length = max(lengths)
    masks = [torch.zeros(num_heads, n, n, dtype=torch.float64) for n in lengths]
    for first in range(0, length, width):
        qkv = torch.zeros(sum(lengths) + SPARE, 3, num_heads, width).bfloat16()
        for text in qkv[: sum(lengths), 2].split(lengths):
            for key in range(first, min(first + width, len(text))):
                text[key, :, key - first] = 1
        with torch.no_grad():
            out = attend(qkv, layout_for(lengths), p, stream=DropoutStream(seed))
        for mask, text in zip(masks, out[: sum(lengths)].split(lengths), strict=True):
            shown = mask[:, :, first : first + width]
            shown.copy_((text.transpose(0, 1)[:, :, : shown.shape[2]] > 0) / (1 - p))
    return masks


@pytest.mark.parametrize(("width", "is_biased"), [(32, False), (64, False), (64, True), (96, True)])
def test_dropout_is_the_same_backward_as_forward(width, is_biased):
    lengths, p = [1, 2, 33, 50], 0.25
    masks = masks_of(lengths, 2, width, p, seed=3)
    qkv = heads_for(lengths, 2, width)
    layout = layout_for(lengths, is_biased=is_biased)
    out = attend(qkv, layout, p, stream=DropoutStream(3))
    exact = qkv.detach().double().requires_grad_()
    by_distance = layout.distance_bias.by_distance if is_biased else None
    expected = reference(exact, lengths, None, False, masks, by_distance)
    assert_close(out, expected)
    weight = torch.randn(out.shape).bfloat16()
    (gradients,) = torch.autograd.grad((expected * weight[: sum(lengths)].double()).sum(), exact)
    (found,) = torch.autograd.grad(out, qkv, weight)
    for part in range(3):
        assert_close(found[:, part], gradients[: sum(lengths), part])


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
    layout, stream = layout_for(lengths), DropoutStream(0)
    saved = stream.state()
    outs = [attend(qkv, layout, 0.3, stream=stream) for _ in range(2)]
    assert not torch.equal(*outs)
    stream.load_state(saved)
    for out in outs:
        assert torch.equal(attend(qkv, layout, 0.3, stream=stream), out)


def test_bits_do_not_depend_on_the_number_of_threads():
    lengths = [3, 17, 40, 41, 90]
    qkv = heads_for(lengths, 4, 32)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            out = attend(qkv, layout_for(lengths), 0.1)
            found.append([out, *torch.autograd.grad(out.float().square().sum(), [qkv])])
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
        qkv[4 + 2, part] = bad
    out = attend(qkv, layout_for(lengths))
    assert not out[4 + 2].isfinite().any()
    assert out[:4].isfinite().all()
    (gradient,) = torch.autograd.grad(out, qkv, torch.ones_like(out))
    assert not gradient.isfinite().all()
    assert gradient[:4].isfinite().all()
