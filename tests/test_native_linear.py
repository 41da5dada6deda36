"""Linear layers of one input as one product, adapters included, compute and learn what each does alone."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layers import WIDTH, adapted
from leantune.adalora.layer import AdaLoraLinear
from leantune.packing.dropout import DropoutStream

library = pytest.importorskip("leantune.kernels.native.library")
pytestmark = pytest.mark.needs_kernels

from leantune.kernels.native.kernels import why_no_int8  # noqa: E402
from leantune.kernels.native.linear import linear  # noqa: E402
from leantune.kernels.native.weights import PackedWeight  # noqa: E402

Layer = nn.Linear | AdaLoraLinear
PRODUCTS = [False, pytest.param(True, marks=pytest.mark.skipif(bool(why_no_int8()), reason=why_no_int8()))]
"""Whether products are in int8."""


def layers_of(ranks: tuple[int, ...], p: float = 0.0, out: int = WIDTH) -> tuple[list[Layer], PackedWeight]:
    """A frozen layer for each rank, with that many random triplets, and their weights as one."""
    bases = [nn.Linear(WIDTH, out).bfloat16().requires_grad_(False) for _ in ranks]
    weight, stream = PackedWeight(bases), DropoutStream(1)
    layers = [
        adapted(base, rank, p, stream) if rank else base for base, rank in zip(bases, ranks, strict=True)
    ]
    return layers, weight


def project(x: Tensor, layers: list[Layer], weight: PackedWeight, *, quantized: bool = False) -> Tensor:
    return linear(x, weight, layers, quantized=quantized)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    ranks=st.lists(st.integers(0, 17), min_size=1, max_size=3).map(tuple),
    needs_input_grad=st.booleans(),
    seed=st.integers(0, 5),
)
def test_fused_layers_and_their_gradients_equal_fp32(rows, ranks, needs_input_grad, seed):
    torch.manual_seed(seed)
    layers, weight = layers_of(ranks)
    exact_layers = [copy.deepcopy(layer).float() for layer in layers]
    x, grad = torch.randn(rows, WIDTH).bfloat16(), torch.randn(rows, len(ranks) * WIDTH).bfloat16()
    exact = x.float().requires_grad_(needs_input_grad)
    x.requires_grad_(needs_input_grad)
    out = project(x, layers, weight)
    expected = torch.cat([layer(exact) for layer in exact_layers], dim=1)
    torch.testing.assert_close(out.float(), expected, atol=0.06, rtol=0.02)
    with torch.no_grad():
        torch.testing.assert_close(project(x, layers, weight), out, atol=0.06, rtol=0.02)
    if not (any(ranks) or needs_input_grad):
        assert not out.requires_grad
        return
    out.backward(grad)
    expected.backward(grad.float())
    learnt = [parameter for layer in layers for parameter in layer.parameters()]
    references = [parameter for layer in exact_layers for parameter in layer.parameters()]
    for found, wanted in zip([*learnt, x], [*references, exact], strict=True):
        assert (found.grad is None) == (wanted.grad is None)
        if wanted.grad is not None:
            terms = 1 if found is x else rows  # that a gradient sums, each rounded to bf16
            allowed = 0.03 * max(terms**0.5, wanted.grad.abs().max().item())
            torch.testing.assert_close(found.grad.float(), wanted.grad, atol=allowed, rtol=0)


@pytest.mark.parametrize("has_bias", [True, False])
def test_layers_may_have_no_bias(has_bias):
    base = nn.Linear(WIDTH, 96, bias=has_bias).bfloat16().requires_grad_(False)
    x = torch.randn(7, WIDTH).bfloat16()
    for layer in (base, adapted(base, 3, 0.0, DropoutStream(0))):
        expected = copy.deepcopy(layer).float()(x.float())
        found = project(x, [layer], PackedWeight([base]))
        torch.testing.assert_close(found.float(), expected, atol=0.06, rtol=0.02)


@pytest.mark.parametrize("quantized", PRODUCTS)
def test_one_mask_serves_all_adapters_forward_and_backward(quantized):
    layers, weight = layers_of((WIDTH, 0, WIDTH), p=0.25)
    with torch.no_grad():  # the updates are dropout, and there is nothing else
        weight.weight.zero_()
        weight.bias.zero_()
        for layer in layers[::2]:
            layer.lora_A.copy_(torch.eye(WIDTH))
            layer.lora_E.fill_(2)
            layer.lora_B.copy_(torch.eye(WIDTH))
            layer.train()
    x = torch.ones(500, WIDTH).bfloat16().requires_grad_()
    out = project(x, layers, weight, quantized=quantized)
    query, key, value = out.chunk(3, dim=1)
    is_kept = query > 0
    assert torch.equal(query, value)
    assert not key.any()
    assert abs(is_kept.double().mean().item() - 0.75) < 0.02
    (gradient,) = torch.autograd.grad([query, value], x, [torch.ones_like(query)] * 2)
    torch.testing.assert_close(gradient.float(), 2 * is_kept / 0.75, rtol=0.01, atol=0)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_an_adapted_layer_drops_its_share_and_the_same_backward(p):
    layers, weight = layers_of((WIDTH,), p=p)
    with torch.no_grad():  # the update is dropout, and there is nothing else
        weight.weight.zero_()
        weight.bias.zero_()
        layers[0].lora_A.copy_(torch.eye(WIDTH))
        layers[0].lora_E.fill_(2)
        layers[0].lora_B.copy_(torch.eye(WIDTH))
    x, grad = torch.ones(4000, WIDTH).bfloat16().requires_grad_(), torch.randn(4000, WIDTH).bfloat16()
    out = project(x, layers, weight)
    is_kept = out > 0
    assert abs(is_kept.double().mean().item() - (1 - p)) < 5 * (p * (1 - p) / out.numel()) ** 0.5
    assert len(out.unique()) == 2
    out.backward(grad)
    torch.testing.assert_close(x.grad.float(), grad.float() * is_kept / (1 - p), rtol=0.01, atol=0)


@pytest.mark.skipif(bool(why_no_int8()), reason=why_no_int8())
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_adapters_learn_the_same_around_products_in_int8(p):
    torch.manual_seed(3)
    x, grad = torch.randn(50, WIDTH).bfloat16(), torch.randn(50, 3 * WIDTH).bfloat16()
    found = []
    for quantized in (False, True):
        torch.manual_seed(4)
        layers, weight = layers_of((3, 0, 5), p)
        own = x.clone().requires_grad_()
        out = project(own, layers, weight, quantized=quantized)
        factors = [f for layer in layers[::2] for f in (layer.lora_A, layer.lora_E, layer.lora_B)]
        grads = torch.autograd.grad(out, [own, *factors], grad)
        found.append((out.float(), [each.float() for each in grads]))
    (exact, exact_grads), (out, grads) = found
    assert 0 < (exact - out).norm() < 0.02 * exact.norm()
    assert 0 < (grads[0] - exact_grads[0]).norm() < 0.02 * exact_grads[0].norm()
    # of the factors: neither their inputs nor the gradients that reach them went through a rounded product
    for wanted, other in zip(exact_grads[1:], grads[1:], strict=True):
        torch.testing.assert_close(other, wanted)


def thin_passes(rows: int, ranks: tuple[int, ...], p: float) -> dict[str, Tensor]:
    """What the kernels give for random factors, by name."""
    torch.manual_seed(rows)
    layers, weight = layers_of(ranks, p, out=96)
    x = torch.randn(rows, WIDTH).bfloat16().requires_grad_()
    out = project(x, layers, weight)
    learnt = {
        f"{i}.{n}": p for i, each in enumerate(layers) for n, p in each.named_parameters() if p.requires_grad
    }
    learnt["x"] = x
    grads = torch.autograd.grad(out, list(learnt.values()), torch.randn(out.shape).bfloat16())
    return {"out": out.detach(), **dict(zip(learnt, grads, strict=True))}


@pytest.mark.parametrize("ranks", [(11, 0, 11), (33, 7, 0), (0, 0, 5)])
def test_the_number_of_threads_changes_no_bit(ranks):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(thin_passes(1_000, ranks, 0.2))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        assert all(torch.equal(other[name], found[0][name]) for name in other)


@pytest.mark.parametrize("rows", [31, 300, 2_500])  # one share, several, more than one takes at once
def test_the_passes_of_many_rows_equal_float64(rows):
    torch.manual_seed(rows)
    layers, weight = layers_of((11, 0, 20), out=96)
    exact_layers = [copy.deepcopy(layer).double() for layer in layers]
    x, grad = torch.randn(rows, WIDTH).bfloat16().requires_grad_(), torch.randn(rows, 3 * 96).bfloat16()
    exact = x.detach().double().requires_grad_()
    found, expected = project(x, layers, weight), torch.cat([each(exact) for each in exact_layers], dim=1)
    found.backward(grad)
    expected.backward(grad.double())
    pairs = [(x, exact)]
    for layer, wanted in zip(layers, exact_layers, strict=True):
        pairs += zip(layer.parameters(), wanted.parameters(), strict=True)
    for mine, theirs in pairs:
        if theirs.grad is not None:
            error = (mine.grad.double() - theirs.grad).norm() / theirs.grad.norm()
            assert error < 0.01


def test_second_derivatives_are_refused_rather_than_wrong():
    layers, weight = layers_of((3, 0, 5))
    x = torch.randn(4, WIDTH).bfloat16().requires_grad_()
    total = project(x, layers, weight).float().square().sum()
    (gradient,) = torch.autograd.grad(total, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_weights_share_one_buffer_from_the_start_and_never_move():
    bases = [nn.Linear(WIDTH, WIDTH).bfloat16().requires_grad_(False) for _ in range(3)]
    before = [base.weight.clone() for base in bases]
    weight = PackedWeight(bases)
    places = [base.weight.data_ptr() for base in bases]
    assert places == [weight.weight.data_ptr() + i * WIDTH * WIDTH * 2 for i in range(3)]
    assert all(torch.equal(base.weight, old) for base, old in zip(bases, before, strict=True))
    with torch.inference_mode():
        project(torch.randn(4, WIDTH).bfloat16(), bases, weight)
    x = torch.randn(4, WIDTH).bfloat16().requires_grad_()
    project(x, bases, weight).sum().backward()  # what inference mode made would refuse
    assert [base.weight.data_ptr() for base in bases] == places
    again = PackedWeight(bases)
    assert torch.equal(again.weight, weight.weight)
