"""The native kernels around the products of a layer equal fp32 torch."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from leantune.kernels.reference import Reference
from leantune.model.encoder import Embeddings, EncoderConfig, LayerConfig
from leantune.packing.batch import pack
from leantune.packing.dropout import DropoutStream, PooledDropout
from tiny import classifier_from, random_tokens, tiny_model

library = pytest.importorskip("leantune.kernels.native.library")
pytestmark = pytest.mark.needs_kernels

from leantune.kernels.native.rows import add_and_norm, embed, gelu  # noqa: E402

EVERY_NUMBER = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16)


def norm_of(width: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(width)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.bfloat16().requires_grad_(False)


def dropout_of(p: float) -> PooledDropout:
    return PooledDropout(p, DropoutStream(2)).train()


def in_float(module: Any) -> Any:
    return copy.deepcopy(module).float()


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
@given(
    rows=st.integers(1, 40),
    width=st.sampled_from([16, 48, 96]),
    has_bias=st.booleans(),
    seed=st.integers(0, 5),
)
def test_gelu_adds_a_bias_on_the_way(rows, width, has_bias, seed):
    torch.manual_seed(seed)
    bias = torch.randn(width).bfloat16() if has_bias else None
    x, weight = torch.randn(rows, width).bfloat16().requires_grad_(), torch.randn(rows, width).bfloat16()
    exact = x.detach().float().requires_grad_()
    out, expected = gelu(x, bias), F.gelu(exact if bias is None else exact + bias.float())
    torch.testing.assert_close(out.float(), expected, atol=0.01, rtol=0.01)
    (found,), (wanted,) = (
        torch.autograd.grad(out, x, weight),
        torch.autograd.grad(expected, exact, weight.float()),
    )
    torch.testing.assert_close(found.float(), wanted, atol=0.02, rtol=0.02)
    with torch.no_grad():
        assert torch.equal(gelu(x, bias), out)


def embeddings_of(width: int, *, types: int = 2, positions: int = 30) -> Embeddings:
    config = EncoderConfig(
        vocab_size=50,
        width=width,
        num_heads=1,
        inner_width=1,
        layers=(LayerConfig(),),
        norm_eps=1e-12,
        embedding_width=width,
        max_positions=positions,
        token_types=types,
    )
    made = Embeddings(config, DropoutStream(3))
    for table in filter(None, (made.word, made.position, made.token_type)):
        nn.init.normal_(table.weight)
    made.norm = norm_of(width)
    return made.bfloat16().requires_grad_(False)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    width=st.sampled_from([16, 48, 384]),
    types=st.sampled_from([0, 2]),
    positions=st.sampled_from([0, 30]),
    seed=st.integers(0, 5),
)
def test_embeddings_equal_fp32(rows, width, types, positions, seed):
    torch.manual_seed(seed)
    embeddings = embeddings_of(width, types=types, positions=positions)
    ids = [torch.randint(count, (rows,)) for count in (50, 2, 30)]
    expected = Reference().embed(in_float(embeddings), *ids)
    torch.testing.assert_close(embed(embeddings, *ids).float(), expected, atol=0.01, rtol=2**-7)


@pytest.mark.parametrize("wrong", [0, 1, 2])
@pytest.mark.parametrize("number", [-1, 50])
def test_a_token_that_has_no_embedding_is_an_error_and_read_from_nowhere(wrong, number):
    ids = [torch.zeros(3, dtype=torch.int64) for _ in range(3)]
    ids[wrong][1] = number
    with pytest.raises(IndexError, match=f"index {number} is out of range of an embedding with"):
        embed(embeddings_of(32), *ids)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    width=st.sampled_from([32, 96, 384]),
    has_bias=st.booleans(),
    seed=st.integers(0, 5),
)
def test_the_norm_of_a_sum_equals_fp32(rows, width, has_bias, seed):
    torch.manual_seed(seed)
    norm, bias = norm_of(width), torch.randn(width).bfloat16() if has_bias else None
    x, residual = (torch.randn(rows, width).bfloat16().requires_grad_() for _ in range(2))
    weight = torch.randn(rows, width).bfloat16()
    exact = [each.detach().float().requires_grad_() for each in (x, residual)]
    out = add_and_norm(x, bias, dropout_of(0.0), residual, norm)
    expected = in_float(norm)(exact[0] + (0 if bias is None else bias.float()) + exact[1])
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.02)
    gradients = torch.autograd.grad(expected, exact, weight.float())
    for found, wanted in zip(torch.autograd.grad(out, (x, residual), weight), gradients, strict=True):
        torch.testing.assert_close(found.float(), wanted, atol=0.05, rtol=0.02)
    with torch.no_grad():
        assert torch.equal(add_and_norm(x, bias, dropout_of(0.0), residual, norm), out)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_the_norm_of_a_sum_drops_its_share_and_the_same_backward(p):
    norm = norm_of(384)
    with torch.no_grad():
        norm.weight.fill_(1)
        norm.bias.zero_()
    x = torch.ones(3000, 384).bfloat16().requires_grad_()
    zero = torch.zeros(3000, 384).bfloat16().requires_grad_()
    out = add_and_norm(
        x, None, dropout_of(p), zero, norm
    )  # above the mean of its row where an element was kept
    is_kept = out > 0
    assert abs(is_kept.double().mean().item() - (1 - p)) < 5 * (p * (1 - p) / out.numel()) ** 0.5
    grad_x, grad_residual = torch.autograd.grad(out, (x, zero), torch.randn(out.shape).bfloat16())
    torch.testing.assert_close(
        grad_x.float(), grad_residual.float() * is_kept / (1 - p), rtol=0.02, atol=1e-30
    )
    bits = is_kept.double() - is_kept.double().mean()
    for first, second in ((bits[1:], bits[:-1]), (bits[:, 1:], bits[:, :-1]), (bits[:, 16:], bits[:, :-16])):
        assert abs((first * second).mean().item()) < 5 * bits.var().item() / bits.numel() ** 0.5


def test_masks_go_on_from_the_saved_state():
    norm, dropout, x = norm_of(64), dropout_of(0.3), torch.randn(9, 64).bfloat16()
    saved = json.loads(json.dumps(dropout.stream.state()))
    first, second = (add_and_norm(x, None, dropout, x, norm) for _ in range(2))
    assert not torch.equal(first, second)
    dropout.stream.load_state(saved)
    assert torch.equal(add_and_norm(x, None, dropout, x, norm), first)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_and_in_its_row(bad):
    x = torch.randn(3, 64).bfloat16()
    x[1, 5] = bad
    x.requires_grad_()
    for out in (add_and_norm(x, None, dropout_of(0.0), torch.zeros_like(x), norm_of(64)), gelu(x)):
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
            out = gelu(add_and_norm(inputs[0], None, dropout_of(0.1), inputs[1], norm_of(96)))
            found.append([out, *torch.autograd.grad(out.float().square().sum(), inputs)])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def outputs_of(model: nn.Module, dtype: torch.dtype, *, native: bool) -> list[Tensor]:
    """Logits and the gradients of the head of a model whose encoder is in ``dtype``."""
    classifier = classifier_from(copy.deepcopy(model)).requires_grad_(False).eval()
    classifier.set_encoder_dtype(dtype)
    if native:
        assert not classifier.choose_kernels().reason
    classifier.output_layer.requires_grad_(True)
    lengths = [1, 4, 9, 30]
    batch = pack(random_tokens(lengths), np.arange(len(lengths)), position_offset=classifier.position_offset)
    logits = classifier(batch)
    logits.square().sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in classifier.trainable().values())]


def errors_of(model: nn.Module) -> tuple[list[float], list[float]]:
    """Relative errors of logits and gradients in bf16, with the kernels and without."""
    expected = outputs_of(model, torch.float32, native=False)
    native, plain = (outputs_of(model, torch.bfloat16, native=each) for each in (True, False))
    assert not torch.equal(native[0], plain[0])
    with_kernels, without = (
        [
            ((found - wanted).norm() / wanted.norm()).item()
            for found, wanted in zip(all_, expected, strict=True)
        ]
        for all_ in (native, plain)
    )
    return with_kernels, without


@pytest.mark.parametrize(
    "model_type", ["bert", "roberta", "electra", "distilbert", "modernbert", "mpnet", "deberta-v2"]
)
def test_a_whole_model_is_as_near_to_fp32_with_the_kernels_as_without(model_type):
    shape = (
        {"dim": 64, "n_heads": 2, "hidden_dim": 96}
        if model_type == "distilbert"
        else {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96}
    )
    errors = []
    for seed in range(5):  # rounding can carry a number of a single model over the kink of a ReLU
        torch.manual_seed(seed)
        errors.append(errors_of(tiny_model(model_type, **shape)))
    with_kernels, without = np.median(np.array(errors), axis=0)
    assert (with_kernels < 1.3 * without + 1e-3).all()
