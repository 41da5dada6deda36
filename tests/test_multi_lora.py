"""Updates of many adapters in one batch: the kernels against fp32, text by text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from leantune.adalora.multi_lora import Adapter, Assignment, LowRank, MultiLoraLinear, TextAdapters

library = pytest.importorskip("leantune.kernels.native.library")
pytestmark = pytest.mark.needs_kernels

from leantune.kernels.native.dense import Dense, dense, dense_and_norm, feed_forward  # noqa: E402
from leantune.kernels.native.multi_lora import add_updates  # noqa: E402
from leantune.kernels.native.weights import PackedWeight  # noqa: E402

WIDTHS = st.sampled_from([32, 96, 384])
LENGTHS = st.lists(st.integers(1, 90), min_size=1, max_size=8)
RANKS = st.lists(st.integers(0, 5), min_size=3, max_size=3)


class Layers:
    """Frozen layers, and texts of three adapters of any ranks over them."""

    def __init__(
        self, shapes: list[tuple[int, int]], lengths: list[int], ranks: list[int], seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.bases = [nn.Linear(*shape).bfloat16().requires_grad_(False) for shape in shapes]
        self.adapters = [Adapter(tuple(random_update(base, rank) for base in self.bases)) for rank in ranks]
        self.of_text = [self.adapters[i] for i in np.random.default_rng(seed).integers(0, 3, len(lengths))]
        self.lengths = lengths
        self.assignment = Assignment(TextAdapters.of(self.of_text, lengths))
        self.layers = [MultiLoraLinear(base, i, self.assignment) for i, base in enumerate(self.bases)]

    def exact(self, number: int, x: Tensor) -> Tensor:
        """What the layer makes of ``x`` in fp32; rows behind those of the texts have no update."""
        base = self.bases[number]
        out, start = F.linear(x, base.weight.float(), base.bias.float()), 0
        for adapter, length in zip(self.of_text, self.lengths, strict=True):
            update, rows = adapter.updates[number], slice(start, start + length)
            if update is not None:
                out[rows] += (x[rows] @ update.A.float().t()) @ update.B.float()
            start += length
        return out


def random_update(layer: nn.Linear, rank: int) -> LowRank | None:
    if rank == 0:
        return None
    A, B = torch.randn(rank, layer.in_features), torch.randn(rank, layer.out_features)
    return LowRank((A / layer.in_features**0.5).bfloat16(), (B / 2).bfloat16())


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.float(), expected, rtol=2**-6, atol=0.06)


@settings(max_examples=40, deadline=None)
@given(
    width=WIDTHS,
    count=st.integers(1, 3),
    lengths=LENGTHS,
    ranks=RANKS,
    spare=st.integers(0, 40),
    seed=st.integers(0, 9),
)
def test_layers_of_one_input_equal_fp32(width, count, lengths, ranks, spare, seed):
    texts = Layers([(width, 64)] * count, lengths, ranks, seed)
    x = torch.randn(sum(lengths) + spare, width).bfloat16()
    expected = torch.cat([texts.exact(i, x.float()) for i in range(count)], dim=1)
    assert_near(dense(x, Dense(PackedWeight(texts.bases), texts.layers)), expected)
    frozen = torch.cat([base(x) for base in texts.bases], dim=1)
    assert_near(add_updates(frozen, x, texts.layers), expected)
    assert_near(torch.cat([layer(x) for layer in texts.layers], dim=1), expected)


@settings(max_examples=40, deadline=None)
@given(
    width=WIDTHS, inner=st.sampled_from([32, 384, 800]), lengths=LENGTHS, ranks=RANKS, seed=st.integers(0, 9)
)
def test_a_feed_forward_block_equals_fp32(width, inner, lengths, ranks, seed):
    texts = Layers([(width, inner), (inner, width)], lengths, ranks, seed)
    norm = nn.LayerNorm(width).bfloat16().requires_grad_(False)
    x = torch.randn(sum(lengths), width).bfloat16()
    up, down = (
        Dense(PackedWeight([base]), (layer,)) for base, layer in zip(texts.bases, texts.layers, strict=True)
    )
    inner_states = F.gelu(texts.exact(0, x.float()))
    expected = F.layer_norm(texts.exact(1, inner_states) + x.float(), (width,))
    assert_near(feed_forward(x, up, down, norm), expected)
    residual = torch.randn(len(x), inner).bfloat16()
    wide = nn.LayerNorm(inner).bfloat16().requires_grad_(False)
    expected = F.layer_norm(texts.exact(0, x.float()) + residual.float(), (inner,))
    assert_near(dense_and_norm(x, up, residual, wide), expected)


def test_first_tokens_alone_have_the_updates_of_their_texts():
    texts = Layers([(64, 96)], [3, 1, 7], [1, 2, 0], seed=1)
    x = torch.randn(3, 64).bfloat16()
    found = dense(x, Dense(PackedWeight(texts.bases), texts.layers))
    texts.lengths = [1, 1, 1]
    assert_near(found, texts.exact(0, x.float()))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_row_has_the_same_bits_whatever_is_computed_beside_it(threads):
    texts = Layers([(128, 96)] * 3, [70, 1, 300, 44, 90], [3, 1, 4], seed=0)
    layer = Dense(PackedWeight(texts.bases), texts.layers)
    x = torch.randn(sum(texts.lengths), 128).bfloat16()
    whole, before = dense(x, layer), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(dense(x, layer), whole)
        start = 0
        for adapter, length in zip(texts.of_text, texts.lengths, strict=True):
            texts.assignment.current = TextAdapters.of([adapter], [length])
            rows = slice(start, start + length)
            assert torch.equal(dense(x[rows], layer), whole[rows])
            start += length
    finally:
        torch.set_num_threads(before)


def test_without_adapters_a_layer_is_the_frozen_one():
    base = nn.Linear(32, 64).bfloat16().requires_grad_(False)
    layer = MultiLoraLinear(base, 0, Assignment())
    x = torch.randn(5, 32).bfloat16()
    assert not layer.has_update
    assert torch.equal(layer(x), base(x))
