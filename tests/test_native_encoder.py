"""Layers by the kernels compute and learn what the reference does in fp32, whatever their form."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layers import FORMS, WIDTH, layer_of, layout_of
from leantune.kernels.reference import Reference
from leantune.model.encoder import EncoderLayer, LayerConfig
from leantune.packing.dropout import DropoutStream, PooledDropout
from leantune.packing.layout import WHOLE_TEXT, Window
from leantune.packing.positions import DistanceBias, Rotary

library = pytest.importorskip("leantune.kernels.native.library")
pytestmark = pytest.mark.needs_kernels

from leantune.kernels.native import kernels as native  # noqa: E402
from leantune.kernels.native.kernels import Native, why_no_int8  # noqa: E402

needs_int8 = pytest.mark.skipif(bool(why_no_int8()), reason=why_no_int8())
IN_BF16, IN_INT8 = (Native(train_int8=choice, predict_int8=choice) for choice in (False, not why_no_int8()))


def prepared(layers: Sequence[EncoderLayer], kernels: Native) -> list[EncoderLayer]:
    for layer in layers:
        layer.prepared = kernels.prepare(layer)
    return list(layers)


def learnt(
    layers: Sequence[EncoderLayer],
    kernels,
    x: Tensor,
    lengths: list[int],
    weight: Tensor,
    *,
    first: bool,
    bias=None,
) -> dict[str, Tensor]:
    """What comes out, and the gradients of all that learns and of ``x``, by name, with masks drawn from the start."""
    streams = {
        id(each.stream): each.stream
        for layer in layers
        for each in layer.modules()
        if isinstance(each, PooledDropout)
    }
    for stream in streams.values():
        stream.reseed(7, 0, 0)
    layout = layout_of(lengths)
    layout.distance_bias = bias
    out = kernels.layers(layers, x, layout, only_first=first)
    named = nn.ModuleList(layers).named_parameters()
    learns = {name: p for name, p in named if p.requires_grad} | ({"x": x} if x.requires_grad else {})
    grads = torch.autograd.grad(out, list(learns.values()), weight.to(out.dtype))
    rows = len(lengths) if first else sum(lengths)  # others belong to no text
    return {"out": out.detach()[:rows], **dict(zip(learns, grads, strict=True))}


def rows_for(lengths: list[int], *, first: bool, wants_x: bool) -> tuple[Tensor, Tensor]:
    """An input with three rows that belong to no text, and a gradient of what comes out."""
    x = torch.randn(sum(lengths) + 3, WIDTH).bfloat16().requires_grad_(wants_x)
    weight = torch.randn(len(lengths) if first else len(x), WIDTH).bfloat16()
    if not first:
        weight[sum(lengths) :] = 0
    return x, weight


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], allowed: float) -> None:
    """As vectors, the three factors of an adapter as one, to ``allowed`` times their length, and a little for sums that
    cancel.
    """
    assert found.keys() == expected.keys()
    places = dict.fromkeys(name.partition(".lora_")[0] for name in expected)
    for place in places:
        names = [name for name in expected if name.partition(".lora_")[0] == place]
        mine, wanted = (torch.cat([each[n].double().flatten() for n in names]) for each in (found, expected))
        limit = allowed * (wanted.norm() + 0.25 * wanted.numel() ** 0.5)
        assert (mine - wanted).norm() <= limit, f"{place}: {(mine - wanted).norm()} of {wanted.norm()}"


def in_float(layers: Sequence[EncoderLayer]) -> list[EncoderLayer]:
    return [copy.deepcopy(layer).float() for layer in layers]


@settings(max_examples=80, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    quantized=st.booleans(),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6).map(sorted),
    ranks=st.tuples(*[st.integers(0, 17)] * 3),
    others=st.one_of(st.just((0, 0, 0)), st.tuples(*[st.integers(0, 9)] * 3)),
    window=st.sampled_from([WHOLE_TEXT, Window.around(4)]),
    rotary=st.sampled_from([None, Rotary(10_000.0)]),
    is_biased=st.booleans(),
    wants_x=st.booleans(),
    first=st.booleans(),
    seed=st.integers(0, 5),
)
def test_a_layer_of_any_form_equals_the_reference_in_fp32(
    form, quantized, lengths, ranks, others, window, rotary, is_biased, wants_x, first, seed
):
    torch.manual_seed(seed)
    assume(wants_x or any(ranks[:1] if form in ("fused", "modernbert") else ranks) or any(others))
    kernels = IN_INT8 if quantized else IN_BF16
    config = LayerConfig(window=window, rotary=rotary)
    layers = [layer_of(ranks, form=form, layer=config, others=others)]
    exact_layers = in_float(layers)
    bias = DistanceBias(torch.randn(2, 2 * 64 - 1)) if is_biased else None
    x, weight = rows_for(lengths, first=first, wants_x=wants_x)
    found = learnt(prepared(layers, kernels), kernels, x, lengths, weight, first=first, bias=bias)
    exact = x.detach().float().requires_grad_(wants_x)
    expected = learnt(exact_layers, Reference(), exact, lengths, weight, first=first, bias=bias)
    assert_near(found, expected, 0.06)
    layout = layout_of(lengths)
    layout.distance_bias = bias
    with torch.no_grad():
        again = kernels.layers_without_gradients(layers, x, layout, only_first=first)
    assert_near({"out": again[: len(found["out"])]}, {"out": expected["out"]}, 0.06)


@needs_int8
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6).map(sorted),
    ranks=st.tuples(*[st.integers(0, 17)] * 3).filter(any),
    wants_x=st.booleans(),
    first=st.booleans(),
    p=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 5),
)
def test_a_layer_in_one_call_is_the_kernels_one_after_the_other(lengths, ranks, wants_x, first, p, seed):
    """What comes out has the same bits; gradients, whose sums are rounded at other places, are near."""
    torch.manual_seed(seed)
    layers = prepared([layer_of(ranks, p)], IN_INT8)
    x, weight = rows_for(lengths, first=first, wants_x=wants_x)
    found = learnt(layers, IN_INT8, x, lengths, weight, first=first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "is_one_call", lambda layer: False)
        expected = learnt(layers, IN_INT8, x, lengths, weight, first=first)
    assert torch.equal(found["out"], expected["out"])
    assert_near(found, expected, 0.05)
    assert all(torch.isfinite(value).all() for value in found.values())


@needs_int8
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
    stream = DropoutStream(7)
    lengths, layers = [3, 40, 77], prepared([layer_of(each, p, stream=stream) for each in ranks], IN_INT8)
    x, weight = rows_for(lengths, first=first, wants_x=wants_x)
    for number in frozen & set(range(len(ranks))):
        layers[number].requires_grad_(False)
    assume(wants_x or any(p.requires_grad for layer in layers for p in layer.parameters()))

    class OneByOne(Native):
        def layers(self, layers, x_TD, layout, *, only_first):
            for layer in layers:
                is_last = layer is layers[-1]
                x_TD = super().layers([layer], x_TD, layout, only_first=only_first and is_last)
            return x_TD

    found = learnt(layers, IN_INT8, x, lengths, weight, first=first)
    apart = OneByOne(train_int8=True, predict_int8=False)
    assert_same(found, learnt(layers, apart, x, lengths, weight, first=first))


@needs_int8
@pytest.mark.parametrize("odd", [0, 1, 2])
def test_a_layer_of_another_form_may_be_among_them(odd):
    torch.manual_seed(0)
    forms = ["silu" if number == odd else "bert" for number in range(3)]
    layers = [layer_of((3, 0, 5), form=form) for form in forms]
    exact_layers, lengths = in_float(layers), [9, 30]
    x, weight = rows_for(lengths, first=False, wants_x=True)
    found = learnt(prepared(layers, IN_INT8), IN_INT8, x, lengths, weight, first=False)
    exact = x.detach().float().requires_grad_()
    assert_near(found, learnt(exact_layers, Reference(), exact, lengths, weight, first=False), 0.1)


@pytest.mark.parametrize("kernels", [IN_BF16, pytest.param(IN_INT8, marks=needs_int8)], ids=["bf16", "int8"])
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("first", [False, True])
def test_the_number_of_threads_changes_no_bit(kernels, p, first):
    layers, lengths = prepared([layer_of((5, 0, 11), p)], kernels), [3, 40, 77, 120]
    x, weight = rows_for(lengths, first=first, wants_x=True)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(learnt(layers, kernels, x, lengths, weight, first=first))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert_same(other, found[0])


@pytest.mark.parametrize("kernels", [IN_BF16, pytest.param(IN_INT8, marks=needs_int8)], ids=["bf16", "int8"])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_what_is_kept_may_come_back_elsewhere(kernels, p):
    layers = prepared([layer_of((3, 0, 5), p)], kernels)
    x, weight = rows_for([9, 30], first=False, wants_x=True)
    expected = learnt(layers, kernels, x, [9, 30], weight, first=False)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        found = learnt(layers, kernels, x, [9, 30], weight, first=False)
    assert_same(found, expected)


@needs_int8
def test_a_second_backward_pass_is_refused_and_a_changed_factor_noticed():
    (layer,) = layers = prepared([layer_of((3, 0, 5))], IN_INT8)
    x, _ = rows_for([9, 30], first=False, wants_x=True)
    total = IN_INT8.layers(layers, x, layout_of([9, 30]), only_first=False).float().sum()
    total.backward()
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()
    total = IN_INT8.layers(layers, x, layout_of([9, 30]), only_first=False).float().sum()
    with torch.no_grad():
        layer.query.lora_A.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_rows_that_are_apart_in_memory_are_read_where_they_are():
    layers = prepared([layer_of((3, 0, 5))], IN_BF16)
    wide, weight = torch.randn(42, 2 * WIDTH).bfloat16(), torch.randn(42, WIDTH).bfloat16()
    apart = learnt(layers, IN_BF16, wide[:, :WIDTH], [9, 30], weight, first=False)
    together = learnt(layers, IN_BF16, wide[:, :WIDTH].contiguous(), [9, 30], weight, first=False)
    assert_same(apart, together)
