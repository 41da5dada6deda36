"""A whole layer in int8 as one call each way gives what its parts give, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from leantune.adalora.attention import PackedAttention, PackedLayer, encode
from leantune.adalora.layer import AdaLoraLinear
from leantune.packing.batch import pack
from leantune.packing.dropout import DropoutStream, PooledDropout
from leantune.packing.native.feed_forward import FeedForward
from leantune.packing.native.gelu import GeluLayer, NativeGelu
from leantune.packing.native.int8 import use_int8_products, why_no_int8
from leantune.packing.native.residual import ResidualBlock
from leantune.packing.plan import AttentionPlan

pytestmark = pytest.mark.skipif(bool(why_no_int8()), reason=why_no_int8())

WIDTH, INNER, HEAD = 64, 96, 32


def frozen(module: nn.Module) -> Any:
    return module.bfloat16().requires_grad_(False)


def layer_of(ranks: tuple[int, ...], p: float) -> PackedLayer:
    """Two heads, with random adapters of these ranks on query, key and value."""
    inner, behind, stream = nn.Module(), nn.Module(), DropoutStream(7)
    for name, rank in zip(("query", "key", "value"), ranks, strict=True):
        layer: nn.Module = frozen(nn.Linear(WIDTH, WIDTH))
        if rank:
            generator, dropout = torch.Generator().manual_seed(rank), PooledDropout(p, stream)
            layer = AdaLoraLinear(layer, rank, scaling=0.5, dropout=dropout, generator=generator)
            for parameter in (layer.lora_A, layer.lora_E, layer.lora_B):
                nn.init.normal_(parameter, std=0.25)
        inner.add_module(name, layer)
    inner.dropout = PooledDropout(p, stream)
    behind.dense, behind.dropout = frozen(nn.Linear(WIDTH, WIDTH)), PooledDropout(p, stream)
    behind.LayerNorm, last_norm = norm(), norm()
    gelu_layer = GeluLayer(frozen(nn.Linear(WIDTH, INNER)), NativeGelu())
    last = ResidualBlock(frozen(nn.Linear(INNER, WIDTH)), PooledDropout(p, stream), last_norm)
    gelu_layer.block = last.block = FeedForward(gelu_layer, last)
    module = PackedLayer(PackedAttention(inner, behind, HEAD), gelu_layer, last)
    assert use_int8_products(module)
    return module


def norm() -> nn.LayerNorm:
    made = nn.LayerNorm(WIDTH)
    nn.init.normal_(made.weight)
    return frozen(made)


@contextmanager
def in_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedLayer, "whole", lambda *_: None)
        yield


def learnt(
    module: PackedLayer | nn.ModuleList, x: Tensor, lengths: list[int], weight: Tensor, *, first: bool
) -> dict[str, Tensor]:
    """What comes out, and the gradients of all that learns and of ``x``, by name."""
    layers: Any = module if isinstance(module, nn.ModuleList) else [module]
    streams = {id(each.stream): each.stream for each in module.modules() if isinstance(each, PooledDropout)}
    for stream in streams.values():
        stream.reseed(7, 0, 0)
    batch = pack([np.zeros(length, np.int32) for length in lengths], np.arange(len(lengths)))
    plan = AttentionPlan.of(batch, DropoutStream(0), layers[-1].attention if first else None)
    plan.stream = next(iter(streams.values()))
    out = encode(layers, x, plan)
    learns = {name: p for name, p in module.named_parameters() if p.requires_grad}
    learns |= {"x": x} if x.requires_grad else {}
    grads = torch.autograd.grad(out, list(learns.values()), weight)
    rows = len(lengths) if first else sum(lengths)  # others belong to no text
    return {"out": out.detach()[:, :rows], **dict(zip(learns, grads, strict=True))}


def rows_for(lengths: list[int], *, first: bool, wants_x: bool) -> tuple[Tensor, Tensor]:
    """An input with three rows that belong to no text, and a gradient of what comes out."""
    x = torch.randn(1, sum(lengths) + 3, WIDTH).bfloat16().requires_grad_(wants_x)
    weight = torch.randn(1, len(lengths) if first else x.shape[1], WIDTH).bfloat16()
    if not first:
        weight[:, sum(lengths) :] = 0
    return x, weight


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6).map(sorted),
    ranks=st.tuples(*[st.integers(0, 17)] * 3).filter(any),
    wants_x=st.booleans(),
    first=st.booleans(),
    p=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 5),
)
def test_a_layer_is_its_parts(lengths, ranks, wants_x, first, p, seed):
    torch.manual_seed(seed)
    module = layer_of(ranks, p)
    x, weight = rows_for(lengths, first=first, wants_x=wants_x)
    found = learnt(module, x, lengths, weight, first=first)
    with in_parts():
        expected = learnt(module, x, lengths, weight, first=first)
    assert_same(found, expected)
    assert all(torch.isfinite(value).all() for value in found.values())


@settings(max_examples=30, deadline=None)
@given(
    ranks=st.lists(st.tuples(*[st.sampled_from([0, 3, 17])] * 3), min_size=2, max_size=4).filter(
        lambda ranks: any(map(any, ranks))
    ),
    frozen=st.sets(st.integers(0, 3)),
    wants_x=st.booleans(),
    first=st.booleans(),
    p=st.sampled_from([0.0, 0.3]),
)
def test_layers_together_are_one_after_the_other(ranks, frozen, wants_x, first, p):
    torch.manual_seed(0)
    lengths, layers = [3, 40, 77], nn.ModuleList(layer_of(each, p) for each in ranks)
    x, weight = rows_for(lengths, first=first, wants_x=wants_x)
    for number in frozen & set(range(len(ranks))):
        layers[number].requires_grad_(False)
    assume(wants_x or any(parameter.requires_grad for parameter in layers.parameters()))
    found = learnt(layers, x, lengths, weight, first=first)
    with in_parts():
        assert_same(found, learnt(layers, x, lengths, weight, first=first))


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_a_layer_that_goes_by_parts_may_be_among_them(odd):
    lengths, layers = [9, 30], nn.ModuleList(layer_of((3, 0, 5), 0.0) for _ in range(3))
    layers[odd].attention.output.LayerNorm.requires_grad_(True)
    x, weight = rows_for(lengths, first=False, wants_x=True)
    found = learnt(layers, x, lengths, weight, first=False)
    with in_parts():
        assert_same(found, learnt(layers, x, lengths, weight, first=False))


def test_a_layer_without_adapters_hands_gradients_on():
    module = layer_of((0, 0, 0), 0.1)
    x, weight = rows_for([9, 30], first=False, wants_x=True)
    found = learnt(module, x, [9, 30], weight, first=False)
    with in_parts():
        assert_same(found, learnt(module, x, [9, 30], weight, first=False))


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("first", [False, True])
def test_the_number_of_threads_changes_no_bit(p, first):
    module, lengths = layer_of((5, 0, 11), p), [3, 40, 77, 120]
    x, weight = rows_for(lengths, first=first, wants_x=True)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(learnt(module, x, lengths, weight, first=first))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert_same(other, found[0])


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_what_is_kept_may_come_back_elsewhere(p):
    module = layer_of((3, 0, 5), p)
    x, weight = rows_for([9, 30], first=False, wants_x=True)
    expected = learnt(module, x, [9, 30], weight, first=False)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        found = learnt(module, x, [9, 30], weight, first=False)
    assert_same(found, expected)


def test_a_second_backward_pass_is_refused_and_a_changed_factor_noticed():
    module = layer_of((3, 0, 5), 0.0)
    x, _ = rows_for([9, 30], first=False, wants_x=True)
    batch = pack([np.zeros(length, np.int32) for length in (9, 30)], np.arange(2))
    total = encode([module], x, AttentionPlan.of(batch, DropoutStream(0))).float().sum()
    total.backward()
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()
    total = encode([module], x, AttentionPlan.of(batch, DropoutStream(0))).float().sum()
    with torch.no_grad():
        module.get_parameter("attention.self.query.lora_A").add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()
