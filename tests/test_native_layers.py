"""The native kernels around the products of a layer equal fp32 torch."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from leantune.adalora.layer import AdaLoraLinear
from leantune.model import PackedClassifier
from leantune.packing.batch import pack
from leantune.packing.dropout import DropoutStream, PooledDropout
from leantune.packing.native import embedding as native_embedding
from leantune.packing.native import gelu as native_gelu
from leantune.packing.native import library
from leantune.packing.native import norm as native_norm
from leantune.packing.native.embedding import EmbeddingBlock
from leantune.packing.native.gelu import GeluLayer, NativeGelu, gelu
from leantune.packing.native.residual import ResidualBlock
from tiny import random_tokens, tiny_model

pytestmark = pytest.mark.needs_kernels

EVERY_NUMBER = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16)


def block_of(width: int, p: float, dense: nn.Module | None = None) -> ResidualBlock:
    norm = nn.LayerNorm(width)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    block = ResidualBlock(dense or nn.Identity(), PooledDropout(p, DropoutStream(2)), norm)
    return block.bfloat16().requires_grad_(False)


def in_float(block: nn.Module) -> nn.Module:
    return copy.deepcopy(block).float()


def test_gelu_and_its_gradient_are_those_of_float64_for_every_number():
    x = EVERY_NUMBER.clone().requires_grad_()
    exact = EVERY_NUMBER.double().requires_grad_()
    found, expected = gelu(x), F.gelu(exact)
    (slope,) = torch.autograd.grad(found, x, torch.ones_like(x))
    (exact_slope,) = torch.autograd.grad(expected, exact, torch.ones_like(exact))
    is_finite = EVERY_NUMBER.isfinite()
    rounding = 2**-8
    torch.testing.assert_close(found.double()[is_finite], expected[is_finite], rtol=rounding, atol=3e-5)
    torch.testing.assert_close(slope.double()[is_finite], exact_slope[is_finite], rtol=rounding, atol=7e-5)
    assert found[EVERY_NUMBER.isnan()].isnan().all()
    assert found[EVERY_NUMBER.isposinf()].isposinf().all()
    small = is_finite & (EVERY_NUMBER.abs() < 1)
    torch.testing.assert_close(found.double()[small], expected[small], rtol=1.2 * rounding, atol=2e-38)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 40), width=st.sampled_from([16, 48, 96]), seed=st.integers(0, 5))
def test_the_kernel_adds_the_bias_of_a_gelu_layer(rows, width, seed):
    torch.manual_seed(seed)
    layer = GeluLayer(nn.Linear(32, width), NativeGelu()).bfloat16().requires_grad_(False)
    x, weight = torch.randn(1, rows, 32).bfloat16().requires_grad_(), torch.randn(1, rows, width).bfloat16()
    exact = x.detach().float().requires_grad_()
    out, expected = layer(x), in_float(layer)(exact)
    torch.testing.assert_close(out.float(), expected, atol=0.02, rtol=0.02)
    (found,), (wanted,) = (
        torch.autograd.grad(out, x, weight),
        torch.autograd.grad(expected, exact, weight.float()),
    )
    torch.testing.assert_close(found.float(), wanted, atol=0.03, rtol=0.03)
    with torch.no_grad():
        assert torch.equal(layer(x), out)


def embeddings_of(width: int, p: float = 0.0) -> EmbeddingBlock:
    tables = [nn.Embedding(count, width) for count in (50, 2, 30)]
    norm = nn.LayerNorm(width)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    block = EmbeddingBlock(*tables, norm=norm, dropout=PooledDropout(p, DropoutStream(3)))
    return block.bfloat16().requires_grad_(False)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 40), width=st.sampled_from([16, 48, 384]), seed=st.integers(0, 5))
def test_embeddings_equal_fp32(rows, width, seed):
    torch.manual_seed(seed)
    block = embeddings_of(width)
    ids = [torch.randint(count, (1, rows)) for count in (50, 2, 30)]
    torch.testing.assert_close(block(*ids).float(), in_float(block)(*ids), atol=0.01, rtol=2**-7)


def test_dropout_comes_behind_the_embeddings_norm():
    block, ids = embeddings_of(64, 0.5), [torch.zeros(1, 400, dtype=torch.int64)] * 3
    whole, dropped = block.eval()(*ids), block.train()(*ids)
    is_kept = dropped != 0
    assert 0.48 < is_kept.double().mean().item() < 0.52
    torch.testing.assert_close(dropped[is_kept], 2 * whole[is_kept], rtol=0.01, atol=0)


@pytest.mark.parametrize("wrong", [0, 1, 2])
@pytest.mark.parametrize("number", [-1, 50])
def test_a_token_that_has_no_embedding_is_an_error_and_read_from_nowhere(wrong, number):
    ids = [torch.zeros(1, 3, dtype=torch.int64) for _ in range(3)]
    ids[wrong][0, 1] = number
    with pytest.raises(IndexError):
        embeddings_of(32)(*ids)


def test_embeddings_that_learn_get_their_gradients_from_torch():
    block = embeddings_of(32)
    block.word_embeddings.requires_grad_(True)
    block(*[torch.zeros(1, 3, dtype=torch.int64)] * 3).square().sum().backward()
    assert block.word_embeddings.weight.grad is not None


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    width=st.sampled_from([32, 96, 384]),
    has_dense=st.booleans(),
    seed=st.integers(0, 5),
)
def test_a_residual_block_equals_fp32(rows, width, has_dense, seed):
    torch.manual_seed(seed)
    block = block_of(width, 0.0, nn.Linear(width, width) if has_dense else None)
    inputs = [torch.randn(1, rows, width).bfloat16().requires_grad_() for _ in range(2)]
    weight = torch.randn(1, rows, width).bfloat16()
    exact = [x.detach().float().requires_grad_() for x in inputs]
    out, expected = block(*inputs), in_float(block)(*exact)
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.02)
    gradients = torch.autograd.grad(expected, exact, weight.float())
    for found, wanted in zip(torch.autograd.grad(out, inputs, weight), gradients, strict=True):
        torch.testing.assert_close(found.float(), wanted, atol=0.05, rtol=0.02)
    with torch.no_grad():
        again = block(*inputs)
    if has_dense:  # may be one pass, which rounds less (`test_dense.py`)
        torch.testing.assert_close(again.float(), expected, atol=0.05, rtol=0.02)
    else:
        assert torch.equal(again, out)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_a_residual_block_drops_its_share_and_the_same_backward(p):
    block = block_of(384, p).train()
    with torch.no_grad():
        block.LayerNorm.weight.fill_(1)
        block.LayerNorm.bias.zero_()
    x = torch.ones(3000, 384).bfloat16().requires_grad_()
    zero = torch.zeros(3000, 384).bfloat16().requires_grad_()
    out = block(x, zero)  # above the mean of its row where an element was kept
    is_kept = out > 0
    assert abs(is_kept.double().mean().item() - (1 - p)) < 5 * (p * (1 - p) / out.numel()) ** 0.5
    grad_x, grad_residual = torch.autograd.grad(out, (x, zero), torch.randn(out.shape).bfloat16())
    torch.testing.assert_close(
        grad_x.float(), grad_residual.float() * is_kept / (1 - p), rtol=0.02, atol=1e-30
    )
    bits = is_kept.double() - is_kept.double().mean()
    for first, second in ((bits[1:], bits[:-1]), (bits[:, 1:], bits[:, :-1]), (bits[:, 16:], bits[:, :-16])):
        assert abs((first * second).mean().item()) < 5 * bits.var().item() / bits.numel() ** 0.5


def adapted_layer(inner: int, outer: int, rank: int, p: float, *, has_bias: bool = True) -> AdaLoraLinear:
    layer = AdaLoraLinear(
        nn.Linear(inner, outer, bias=has_bias).bfloat16(),
        rank,
        scaling=0.5,
        dropout=PooledDropout(p, DropoutStream(4)),
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        for parameter in (layer.lora_A, layer.lora_E, layer.lora_B):
            parameter.copy_(torch.randn(parameter.shape) / 4)
    return layer


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    rank=st.integers(1, 17),
    has_bias=st.booleans(),
    needs_input_grad=st.booleans(),
    seed=st.integers(0, 5),
)
def test_an_adapted_layer_equals_fp32(rows, rank, has_bias, needs_input_grad, seed):
    torch.manual_seed(seed)
    layer = adapted_layer(64, 48, rank, 0.0, has_bias=has_bias)
    x = torch.randn(1, rows, 64).bfloat16().requires_grad_(needs_input_grad)
    weight = torch.randn(1, rows, 48).bfloat16()
    exact, precise = x.detach().float().requires_grad_(needs_input_grad), in_float(layer)
    out, expected = layer(x), precise(exact)
    torch.testing.assert_close(out.float(), expected, atol=0.06, rtol=0.02)
    wanted = [*precise.parameters(), exact]
    given_ = [*layer.parameters(), x]
    out.backward(weight)
    expected.backward(weight.float())
    for found, reference in zip(given_, wanted, strict=True):
        assert (found.grad is None) == (reference.grad is None)
        if found.grad is not None:
            terms = 1 if found is x else rows  # that a gradient sums, each rounded to bf16
            allowed = 0.03 * max(terms**0.5, reference.grad.abs().max().item())
            torch.testing.assert_close(found.grad.float(), reference.grad, atol=allowed, rtol=0)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_an_adapted_layer_drops_its_share_and_the_same_backward(p):
    layer = adapted_layer(64, 64, 64, p, has_bias=False).train()
    with torch.no_grad():  # the update is dropout, and there is nothing else
        layer.base.weight.zero_()
        layer.lora_A.copy_(torch.eye(64))
        layer.lora_E.fill_(2)
        layer.lora_B.copy_(torch.eye(64))
    x, weight = torch.ones(4000, 64).bfloat16().requires_grad_(), torch.randn(4000, 64).bfloat16()
    out = layer(x)
    is_kept = out > 0
    assert abs(is_kept.double().mean().item() - (1 - p)) < 5 * (p * (1 - p) / out.numel()) ** 0.5
    assert len(out.unique()) == 2
    out.backward(weight)
    torch.testing.assert_close(x.grad.float(), weight.float() * is_kept / (1 - p), rtol=0.01, atol=0)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
def test_dropout_keeps_its_share_and_the_mean_and_drops_the_same_backward(p):
    dropout = PooledDropout(p, DropoutStream(1)).train()
    x = (1 + torch.rand(2000, 384)).bfloat16().requires_grad_()
    y = dropout(x)
    is_kept = y > 0
    assert abs(is_kept.double().mean().item() - (1 - p)) < 5 * (p * (1 - p) / y.numel()) ** 0.5
    torch.testing.assert_close(y.float(), x.detach().float() * is_kept / (1 - p), rtol=0.01, atol=0)
    assert abs(y.double().mean().item() / x.double().mean().item() - 1) < 0.003
    weight = torch.randn(x.shape).bfloat16()
    (grad,) = torch.autograd.grad(y, x, weight)
    torch.testing.assert_close(grad.float(), weight.float() * is_kept / (1 - p), rtol=0.01, atol=0)


def test_masks_go_on_from_the_saved_state():
    block = block_of(64, 0.3).train()
    x = torch.randn(9, 64).bfloat16()
    saved = json.loads(json.dumps(block.dropout.stream.state()))
    first, second = block(x, x), block(x, x)
    assert not torch.equal(first, second)
    block.dropout.stream.load_state(saved)
    assert torch.equal(block(x, x), first)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_and_in_its_row(bad):
    x = torch.randn(3, 64).bfloat16()
    x[1, 5] = bad
    x.requires_grad_()
    for out in (block_of(64, 0.0)(x, torch.zeros_like(x)), gelu(x)):
        (grad,) = torch.autograd.grad(out, x, torch.full_like(out, bad))
        for rows in (out, grad):
            assert not rows[1].isfinite().all()
        assert out[[0, 2]].isfinite().all()


def test_bits_do_not_depend_on_the_number_of_threads():
    threads, found = torch.get_num_threads(), []
    inputs = [torch.randn(50, 96).bfloat16().requires_grad_() for _ in range(2)]
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            torch.manual_seed(0)
            out = gelu(block_of(96, 0.1).train()(*inputs))
            found.append([out, *torch.autograd.grad(out.float().square().sum(), inputs)])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_trainable_norm_gets_its_gradient_from_torch():
    block = block_of(64, 0.0)
    block.LayerNorm.requires_grad_(True)
    x = torch.randn(3, 64).bfloat16()
    block(x, x).sum().backward()
    assert block.LayerNorm.weight.grad is not None


def test_what_could_learn_goes_through_the_kernels_when_no_gradient_is_wanted(monkeypatch):
    used: list[str] = []
    for module in (native_embedding, native_gelu, native_norm):
        monkeypatch.setattr(module, "call", lambda name, arguments: used.append(name))
    block = block_of(64, 0.0, nn.Linear(64, 64)).requires_grad_(True)
    layer = GeluLayer(nn.Linear(64, 64), NativeGelu()).bfloat16()
    embeddings, ids = embeddings_of(64).requires_grad_(True), torch.zeros(1, 3, dtype=torch.int64)
    x = torch.randn(3, 64).bfloat16()
    with torch.inference_mode():
        embeddings(ids, ids, ids)
        block(layer(x), x)
    assert used == ["embedding_forward", "gelu_forward", "residual_forward"]


def encoder_outputs(classifier: PackedClassifier, lengths: list[int]) -> list[Tensor]:
    batch = pack(random_tokens(lengths), np.arange(len(lengths)), position_offset=classifier.position_offset)
    classifier.zero_grad()
    logits = classifier(batch)
    logits.square().sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in classifier.parameters() if p.grad is not None)]


def errors_of(model: nn.Module) -> tuple[list[float], list[float]]:
    """Relative errors of logits and gradients in bf16, with the kernels and without."""
    lengths = [1, 4, 9, 30]
    exact = PackedClassifier(copy.deepcopy(model).float(), DropoutStream(0)).eval().requires_grad_(False)
    rounded = PackedClassifier(copy.deepcopy(model), DropoutStream(0)).eval().requires_grad_(False)
    rounded.model.base_model.bfloat16()
    for name in rounded.architecture.head_in_encoder:
        rounded.model.get_submodule(name).float()
    for classifier in (exact, rounded):
        classifier.model.get_input_embeddings().requires_grad_(True)
    expected, native = encoder_outputs(exact, lengths), encoder_outputs(rounded, lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "kernels", lambda: library.Kernels(None, "off"))
        plain = encoder_outputs(rounded, lengths)
    assert not torch.equal(native[1], plain[1])
    with_kernels, without = (
        [
            ((found - wanted).norm() / wanted.norm()).item()
            for found, wanted in zip(all_, expected, strict=True)
        ]
        for all_ in (native, plain)
    )
    return with_kernels, without


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "distilbert", "modernbert"])
def test_a_whole_model_is_as_near_to_fp32_with_the_kernels_as_without(model_type):
    shape = (
        {"dim": 64, "n_heads": 2}
        if model_type == "distilbert"
        else {"hidden_size": 64, "num_attention_heads": 2}
    )
    errors = []
    for seed in range(5):  # rounding can carry a number of a single model over the kink of a ReLU
        torch.manual_seed(seed)
        errors.append(errors_of(tiny_model(model_type, **shape)))
    with_kernels, without = np.median(np.array(errors), axis=0)
    assert (with_kernels < 1.3 * without + 1e-3).all()
