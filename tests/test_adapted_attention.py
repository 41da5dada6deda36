"""Query, key and value as one product, and attention with what is behind it as one graph node, compute what their parts
compute alone, and learn the same."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from leantune.adalora.attention import PackedAttention, projections
from leantune.adalora.layer import AdaLoraLinear
from leantune.model import PackedClassifier
from leantune.packing.batch import pack
from leantune.packing.dropout import DropoutStream, PooledDropout
from leantune.packing.native import adapter
from leantune.packing.native.int8 import use_int8_products, why_no_int8
from leantune.packing.plan import AttentionPlan
from leantune.packing.side_by_side import as_one, lay_side_by_side, lie_side_by_side
from tiny import tiny_model

WIDTH = 64


def plan_of(lengths: list[int]) -> AttentionPlan:
    batch = pack([np.zeros(length, np.int32) for length in lengths], np.arange(len(lengths)))
    return AttentionPlan.of(batch, DropoutStream(0))


def layers_of(ranks: tuple[int, ...], p: float = 0.0) -> list[nn.Module]:
    """A frozen layer for each rank, with that many random triplets."""
    layers: list[nn.Module] = []
    for number, rank in enumerate(ranks):
        layer = nn.Linear(WIDTH, WIDTH).bfloat16().requires_grad_(False)
        if rank:
            dropout, generator = PooledDropout(p, DropoutStream(1)), torch.Generator().manual_seed(number)
            adapted = AdaLoraLinear(layer, rank, scaling=0.5, dropout=dropout, generator=generator)
            with torch.no_grad():
                for parameter in (adapted.lora_A, adapted.lora_E, adapted.lora_B):
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
        layers.append(adapted if rank else layer)
    return layers


@pytest.mark.needs_kernels
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    ranks=st.tuples(*[st.integers(0, 17)] * 3),
    needs_input_grad=st.booleans(),
    seed=st.integers(0, 5),
)
def test_fused_projections_and_their_gradients_equal_fp32(rows, ranks, needs_input_grad, seed):
    torch.manual_seed(seed)
    layers = layers_of(ranks)
    exact_layers = [copy.deepcopy(layer).float() for layer in layers]
    x, weights = torch.randn(1, rows, WIDTH).bfloat16(), torch.randn(3, 1, rows, WIDTH).bfloat16()
    exact = x.float().requires_grad_(needs_input_grad)
    x.requires_grad_(needs_input_grad)
    outputs, expected = projections(x, layers), [layer(exact) for layer in exact_layers]
    assert lie_side_by_side(outputs, dim=-1)
    for found, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(found.float(), wanted, atol=0.06, rtol=0.02)
    with torch.no_grad():
        for found, again in zip(outputs, projections(x, layers), strict=True):
            torch.testing.assert_close(again, found, atol=0.06, rtol=0.02)
    if not (any(ranks) or needs_input_grad):
        assert not any(out.requires_grad for out in outputs)
        return
    torch.autograd.backward(outputs, weights.unbind())
    pairs = zip(expected, weights.float(), strict=True)
    sum((wanted * weight).sum() for wanted, weight in pairs).backward()
    learnt = [parameter for layer in layers for parameter in layer.parameters()]
    references = [parameter for layer in exact_layers for parameter in layer.parameters()]
    for found, wanted in zip([*learnt, x], [*references, exact], strict=True):
        assert (found.grad is None) == (wanted.grad is None)
        if wanted.grad is not None:
            terms = 1 if found is x else rows  # that a gradient sums, each rounded to bf16
            allowed = 0.03 * max(terms**0.5, wanted.grad.abs().max().item())
            torch.testing.assert_close(found.grad.float(), wanted.grad, atol=allowed, rtol=0)


@pytest.mark.needs_kernels
def test_one_mask_serves_all_adapters_forward_and_backward():
    layers = layers_of((WIDTH, 0, WIDTH), p=0.25)
    for layer in layers:
        with torch.no_grad():  # the updates are dropout, and there is nothing else
            for parameter in layer.parameters():
                parameter.zero_()
            if isinstance(layer, AdaLoraLinear):
                layer.lora_A.copy_(torch.eye(WIDTH))
                layer.lora_E.fill_(2)
                layer.lora_B.copy_(torch.eye(WIDTH))
    x = torch.ones(500, WIDTH).bfloat16().requires_grad_()
    query, key, value = projections(x, layers)
    is_kept = query > 0
    assert torch.equal(query, value)
    assert not key.any()
    assert abs(is_kept.double().mean().item() - 0.75) < 0.02
    (gradient,) = torch.autograd.grad([query, value], x, [torch.ones_like(query)] * 2)
    torch.testing.assert_close(gradient.float(), 2 * is_kept / 0.75, rtol=0.01, atol=0)


def attention_of(ranks: tuple[int, ...], *, rounds: bool = False, p: float = 0.0) -> PackedAttention:
    """Two heads of 32, with adapters of these ranks, the layer behind them and its norm."""
    inner, output = nn.Module(), nn.Module()
    inner.query, inner.key, inner.value = layers_of(ranks, p)
    inner.dropout = PooledDropout(p, DropoutStream(4))
    output.dense, output.dropout = nn.Linear(WIDTH, WIDTH), PooledDropout(p, DropoutStream(5))
    output.LayerNorm = nn.LayerNorm(WIDTH)
    nn.init.normal_(output.LayerNorm.weight)
    attention = PackedAttention(inner, output.bfloat16().requires_grad_(False), 32)
    if rounds:
        use_int8_products(attention)
    return attention


def gradients_of(
    module: PackedAttention, x: Tensor, plan: AttentionPlan, weight: Tensor
) -> dict[str, Tensor]:
    """What comes out, and the gradients of all that learns and of ``x``, by name."""
    out = module(x, plan)
    learns = {name: p for name, p in module.named_parameters() if p.requires_grad}
    learns |= {"x": x} if x.requires_grad else {}
    grads = torch.autograd.grad(out, list(learns.values()), weight.to(out.dtype))
    return {"out": out.detach(), **dict(zip(learns, grads, strict=True))}


@pytest.mark.needs_kernels
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    ranks=st.tuples(*[st.integers(0, 17)] * 3).filter(any),
    needs_input_grad=st.booleans(),
    only_first=st.booleans(),
    seed=st.integers(0, 5),
)
def test_attention_with_what_is_behind_it_equals_fp32(lengths, ranks, needs_input_grad, only_first, seed):
    torch.manual_seed(seed)
    module, plan = attention_of(ranks), plan_of(sorted(lengths))
    plan.last_attention = module if only_first else None
    x = torch.randn(1, sum(lengths) + 3, WIDTH).bfloat16().requires_grad_(needs_input_grad)
    exact_module, exact_plan = copy.deepcopy(module).float(), plan_of(sorted(lengths))
    exact_plan.last_attention = exact_module if only_first else None
    rows = len(lengths) if only_first else x.shape[1]
    weight = torch.randn(1, rows, WIDTH).bfloat16()
    if not only_first:
        weight[:, sum(lengths) :] = 0  # what belongs to no text
    found = gradients_of(module, x, plan, weight)
    exact = x.detach().float().requires_grad_(needs_input_grad)
    expected = gradients_of(exact_module, exact, exact_plan, weight)
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        if name == "out":
            found[name], wanted = (each[:, : min(rows, sum(lengths))] for each in (found[name], wanted))
        scale = max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(found[name].float(), wanted.float(), atol=0.06 * scale, rtol=0, msg=name)


@pytest.mark.needs_kernels
@pytest.mark.parametrize("rounds", [False, True])
def test_saved_tensors_that_come_back_elsewhere_give_the_same_gradients(rounds):
    if rounds and why_no_int8():
        pytest.skip(why_no_int8())
    module, plan = attention_of((3, 0, 5), rounds=rounds), plan_of([9, 30])
    x, weight = torch.randn(1, 39, WIDTH).bfloat16().requires_grad_(), torch.randn(1, 39, WIDTH).bfloat16()
    assert "_AttentionBlock" in str(module(x, plan).grad_fn.next_functions)
    expected = gradients_of(module, x, plan, weight)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        found = gradients_of(module, x, plan, weight)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.needs_kernels
def test_rows_that_are_apart_in_memory_are_read_where_they_are():
    module, plan = attention_of((3, 0, 5)), plan_of([9, 30])
    wide, weight = torch.randn(1, 39, 2 * WIDTH).bfloat16(), torch.randn(1, 39, WIDTH).bfloat16()
    apart = gradients_of(module, wide[..., :WIDTH], plan, weight)
    together = gradients_of(module, wide[..., :WIDTH].contiguous(), plan, weight)
    assert all(torch.equal(apart[name], together[name]) for name in together)


@pytest.mark.needs_kernels
@pytest.mark.parametrize("learning", ["output.dense.weight", "output.dense.bias", "output.LayerNorm.weight"])
def test_what_learns_behind_the_heads_gets_its_gradient(learning):
    module, plan = attention_of((3, 0, 5)), plan_of([9, 30])
    module.get_parameter(learning).requires_grad_(True)
    x, weight = torch.randn(1, 39, WIDTH).bfloat16(), torch.randn(1, 39, WIDTH).bfloat16()
    found = gradients_of(module, x, plan, weight)
    expected = gradients_of(copy.deepcopy(module).float(), x.float(), plan_of([9, 30]), weight)
    for name, wanted in expected.items():
        scale = max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(found[name].float(), wanted, atol=0.06 * scale, rtol=0, msg=name)


@pytest.mark.needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_adapters_with_another_dropout_are_computed_each_by_itself(dtype):
    module = attention_of((3, 0, 5)).to(dtype)
    for layer in (module.get_submodule("self").query, module.get_submodule("self").value):
        layer.dropout = nn.Dropout(0.5)
    x = torch.randn(1, 39, WIDTH, dtype=dtype)
    assert len(gradients_of(module, x, plan_of([9, 30]), x)) == 7


def thin_passes(rows: int, ranks: tuple[int, ...], p: float) -> dict[str, Tensor]:
    """What `adapter` gives for random factors, by name."""
    torch.manual_seed(rows)
    layers = [nn.Linear(WIDTH, 96).bfloat16().requires_grad_(False) for _ in ranks]
    factors = [
        torch.randn(shape).requires_grad_()
        for rank in ranks
        for shape in ((rank, WIDTH), (rank, 1), (96, rank))
    ]
    triples = zip(layers, *(factors[side::3] for side in range(3)), strict=True)
    projected = [
        adapter.Projection(layer, adapter.Update(A, E, B, 0.5) if len(A) else None)
        for layer, A, E, B in triples
    ]
    x = torch.randn(rows, WIDTH).bfloat16().requires_grad_()
    dropout = PooledDropout(p, DropoutStream(3))
    outputs = adapter.project(x, projected, dropout)
    grads = torch.autograd.grad(
        outputs, [x, *factors], [torch.randn(rows, 96).bfloat16() for _ in ranks], allow_unused=True
    )
    names = ["x", *(f"{side}{number}" for number in range(len(ranks)) for side in "AEB")]
    found = {name: grad for name, grad in zip(names, grads, strict=True) if grad is not None}
    return {**found, **{f"out{number}": out.detach() for number, out in enumerate(outputs)}}


@pytest.mark.needs_kernels
@pytest.mark.parametrize("ranks", [(11, 0, 11), (33, 7, 0), (0, 0, 5)])
def test_the_number_of_threads_changes_no_bit_of_the_thin_passes(ranks):
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


@pytest.mark.needs_kernels
@pytest.mark.parametrize("rows", [31, 300, 2_500])  # one share, several, more than one takes at once
def test_the_thin_passes_of_many_rows_equal_float64(rows, monkeypatch):
    found = thin_passes(rows, (11, 0, 20), 0.0)
    monkeypatch.setattr(adapter._Projections, "apply", in_float64)
    for name, exact in thin_passes(rows, (11, 0, 20), 0.0).items():
        error = (found[name].double() - exact.double()).norm() / exact.double().norm()
        assert error < 0.01, f"{name}: {error}"


def in_float64(x, joint, *factors):
    """Stands in for `adapter._Projections.apply`, rounded once at the end."""
    outs = []
    for each, A, E, B in zip(joint.projections, *(factors[side::3] for side in range(3)), strict=True):
        out = x.double() @ each.base.weight.double().t() + each.base.bias.double()
        if A is not None:
            out = out + x.double() @ (A * E).double().t() @ B.double().t() * each.update.scaling
        outs.append(out.bfloat16())
    return outs


@pytest.mark.needs_kernels
def test_second_derivatives_are_refused_rather_than_wrong():
    layers = layers_of((3, 0, 5))
    x = torch.randn(4, WIDTH).bfloat16().requires_grad_()
    total = sum(out.float().square().sum() for out in projections(x, layers))
    (gradient,) = torch.autograd.grad(total, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.needs_kernels
def test_the_frozen_weights_move_into_one_buffer_once():
    layers = layers_of((3, 0, 5))
    weights = [layers[0].base.weight, layers[1].weight, layers[2].base.weight]
    before = [weight.clone() for weight in weights]
    with torch.inference_mode():
        projections(torch.randn(4, WIDTH).bfloat16(), layers)
    assert lie_side_by_side(weights, dim=0)
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    places = [weight.data_ptr() for weight in weights]
    x = torch.randn(4, WIDTH).bfloat16().requires_grad_()
    sum(out.sum() for out in projections(x, layers)).backward()  # what inference mode made would refuse
    assert [weight.data_ptr() for weight in weights] == places


def test_other_types_and_layers_that_learn_are_computed_each_by_itself(monkeypatch):
    monkeypatch.setattr(adapter._Projections, "apply", lambda *_: pytest.fail("fused"))
    precise = [layer.float() for layer in layers_of((3, 0, 5))]
    assert len(projections(torch.randn(4, WIDTH), precise)) == 3
    learning = [nn.Linear(WIDTH, WIDTH).bfloat16() for _ in range(3)]
    projections(torch.randn(4, WIDTH).bfloat16(), learning)[0].sum().backward()
    assert learning[0].weight.grad is not None


@pytest.mark.parametrize("model_type", ["bert", "roberta", "camembert", "xlm-roberta", "electra"])
def test_the_attention_of_these_is_replaced_and_keeps_its_names(model_type):
    model = tiny_model(model_type)
    names = set(model.state_dict())
    classifier = PackedClassifier(model, DropoutStream(0))
    fused = [module for module in model.modules() if isinstance(module, PackedAttention)]
    assert len(fused) == model.config.num_hidden_layers
    assert set(classifier.model.state_dict()) == names


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), dim=st.integers(0, 1), gap=st.booleans())
def test_as_one_is_cat_and_copies_nothing_that_lies_side_by_side(sizes: list[int], dim: int, gap: bool):
    total = sum(sizes)
    whole = torch.arange(total * 5.0).view((total, 5) if dim == 0 else (5, total))
    parts: list[Tensor] = list(whole.split(sizes, dim))
    if gap and len(parts) > 1:
        parts[0], parts[1] = parts[1], parts[0]
    joined = as_one(parts, dim)
    assert torch.equal(joined, torch.cat(parts, dim))
    assert (joined.data_ptr() == whole.data_ptr()) == lie_side_by_side(parts, dim)
    assert lie_side_by_side(parts, dim) or gap


def test_parameters_that_lie_side_by_side_stay_where_they_are():
    parameters = [nn.Parameter(torch.randn(n, 3)) for n in (2, 3)]
    lay_side_by_side(parameters)
    place = parameters[0].data_ptr()
    lay_side_by_side(parameters)
    assert parameters[0].data_ptr() == place
    assert all(isinstance(parameter, nn.Parameter) for parameter in parameters)
