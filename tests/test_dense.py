"""Linear layers without a gradient: the kernel against fp32, and where it is used."""

from __future__ import annotations

import copy
import ctypes
import gc
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from leantune.adalora.layer import AdaLoraLinear
from leantune.model import PackedClassifier
from leantune.packing.batch import PackedBatch, pack
from leantune.packing.dropout import DropoutStream
from leantune.packing.native import dense as native_dense
from leantune.packing.native import library
from leantune.packing.native.dense import _panels_of, dense, dense_and_norm, feed_forward
from leantune.packing.native.int8 import use_int8_products, why_no_int8
from leantune.pretrained import set_encoder_dtype
from tiny import random_tokens, tiny_model

pytestmark = pytest.mark.needs_kernels

WIDTHS = st.sampled_from([32, 96, 384, 800])  # 800: more than is multiplied over at once
ROWS = st.integers(1, 100)


def linear(width: int, out: int) -> nn.Linear:
    return nn.Linear(width, out).bfloat16().requires_grad_(False)


def norm_of(width: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(width)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.bfloat16().requires_grad_(False)


def exact(layer: nn.Module, x: Tensor) -> Tensor:
    return copy.deepcopy(layer).float()(x)


def assert_near(found: Tensor, expected: Tensor, norm: nn.LayerNorm | None = None) -> None:
    """To a rounding of what is stored, and of the factors' sums before a norm."""
    largest = 1.0 if norm is None else norm.weight.float().abs().max().item()
    torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=0.01 * max(1.0, largest))


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, width=WIDTHS, outs=st.lists(WIDTHS, min_size=1, max_size=3), seed=st.integers(0, 5))
def test_layers_of_one_input_equal_fp32(rows, width, outs, seed):
    torch.manual_seed(seed)
    x, layers = torch.randn(1, rows, width).bfloat16(), [linear(width, out) for out in outs]
    outputs = dense(x, layers)
    for out, layer in zip(outputs, layers, strict=True):
        assert_near(out, exact(layer, x.float()))


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, width=WIDTHS, out=WIDTHS, seed=st.integers(0, 5))
def test_a_layer_before_its_norm_equals_fp32(rows, width, out, seed):
    torch.manual_seed(seed)
    layer, norm = linear(width, out), norm_of(out)
    x, residual = torch.randn(rows, width).bfloat16(), torch.randn(rows, out).bfloat16()
    expected = exact(norm, exact(layer, x.float()) + residual.float())
    assert_near(dense_and_norm(x, layer, residual, norm), expected, norm)


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, width=WIDTHS, inner=st.sampled_from([32, 384, 800, 1632]), seed=st.integers(0, 5))
def test_a_feed_forward_block_equals_fp32(rows, width, inner, seed):
    torch.manual_seed(seed)
    first, last, norm = linear(width, inner), linear(inner, width), norm_of(width)
    x = torch.randn(rows, width).bfloat16()
    expected = exact(norm, exact(last, F.gelu(exact(first, x.float()))) + x.float())
    assert_near(feed_forward(x, first, last, norm), expected, norm)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_row_has_the_same_bits_whatever_is_computed_beside_it(threads):
    width, rows = 128, 1500
    first, last, norm = linear(width, 1024), linear(1024, width), norm_of(width)
    x = torch.randn(rows, width).bfloat16()
    whole = feed_forward(x, first, last, norm)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(feed_forward(x, first, last, norm), whole)
        for part in (slice(0, 1), slice(31, 65), slice(700, 1499)):
            assert torch.equal(feed_forward(x[part], first, last, norm), whole[part])
            assert torch.equal(dense(x[part], [first])[0], dense(x, [first])[0][part])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_row(bad):
    x = torch.randn(70, 64).bfloat16()
    x[40, 3] = bad
    first, last, norm = linear(64, 96), linear(96, 64), norm_of(64)
    is_finite = torch.arange(70) != 40
    for out in (dense(x, [first])[0], feed_forward(x, first, last, norm)):
        assert out[is_finite].isfinite().all()
        assert not out[40].isfinite().any()


def classifier_of(model_type: str) -> PackedClassifier:
    model = tiny_model(model_type, hidden_size=64, intermediate_size=96, num_attention_heads=2)
    set_encoder_dtype(model.requires_grad_(False), torch.bfloat16)
    return PackedClassifier(model, DropoutStream(0)).eval()


def batch() -> PackedBatch:
    return pack(random_tokens([3, 9, 17, 5]), np.arange(4), position_offset=2)


@pytest.fixture
def used(monkeypatch) -> list[str]:
    """Kernels in the order of their calls, on a machine where blocks are fast."""
    names: list[str] = []

    def call(name: str, arguments: ctypes.Structure) -> None:
        names.append(name)
        library.call(name, arguments)

    monkeypatch.setattr(native_dense, "_blocks_are_fast", lambda: True)
    for module in ("dense", "gelu", "norm", "rounded"):
        monkeypatch.setattr(f"leantune.packing.native.{module}.call", call)
    return names


def per_layer(names: list[str]) -> list[str]:
    return [name for name in names if name != "lay_out_weight"]


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "mpnet"])
def test_a_frozen_encoder_predicts_by_it(model_type, used, monkeypatch):
    classifier = classifier_of(model_type)
    with torch.inference_mode():
        found = classifier(batch())
        layers = classifier.config.num_hidden_layers
        assert per_layer(used) == ["dense_forward"] * 3 * layers
        assert len(used) - len(per_layer(used)) == 4 * layers, "each weight is laid out once"
        used.clear()
        assert torch.equal(classifier(batch()), found)
        assert used == ["dense_forward"] * 3 * layers
        monkeypatch.setattr(native_dense, "_blocks_are_fast", lambda: False)
        apart = classifier(batch())
    torch.testing.assert_close(found, apart, atol=0.05, rtol=0.05)
    in_float = copy.deepcopy(classifier).float()
    with torch.inference_mode():
        exact_logits = in_float(batch())
    assert (found - exact_logits).norm() <= 1.1 * (apart - exact_logits).norm()


def test_what_needs_a_gradient_or_learns_is_left_alone(used):
    classifier = classifier_of("bert")
    classifier(batch())
    assert "dense_forward" not in used
    used.clear()
    layer = classifier.model.bert.encoder.layer[0]
    layer.intermediate.dense.weight.requires_grad_(True)
    layer.attention.self.query.bias.requires_grad_(True)
    with torch.inference_mode():
        classifier(batch())
    assert used.count("dense_forward") == 3 * classifier.config.num_hidden_layers - 1
    assert used.count("gelu_forward") == 1, "the block that learns is none, its last layer still is"


def test_what_drops_is_left_alone(used):
    classifier = classifier_of("bert").train()
    with torch.inference_mode():
        classifier(batch())
    attentions = classifier.config.num_hidden_layers
    assert per_layer(used).count("dense_forward") == attentions, "queries, keys and values drop nothing"


def test_layers_with_adapters_keep_their_updates(used):
    classifier = classifier_of("bert")
    with torch.inference_mode():
        without = classifier(batch())
    block = classifier.model.bert.encoder.layer[0].intermediate
    adapted = AdaLoraLinear(block.dense, 4, scaling=1.0, dropout=nn.Identity(), generator=torch.Generator())
    nn.init.normal_(adapted.lora_B)
    nn.init.ones_(adapted.lora_E)
    classifier.model.set_submodule("bert.encoder.layer.0.intermediate.dense", adapted)
    used.clear()
    with torch.inference_mode():
        assert not torch.allclose(classifier(batch()), without, atol=1e-3)
    assert "gelu_forward" in used


@pytest.mark.skipif(bool(why_no_int8()), reason=why_no_int8())
def test_products_in_int8_stay_so_in_prediction_and_are_none_in_evaluation(used):
    classifier = classifier_of("bert")
    use_int8_products(classifier.model)
    with torch.inference_mode():
        classifier(batch())
    assert set(used) == {"lay_out_weight", "dense_forward"}
    used.clear()
    classifier = classifier_of("bert")
    use_int8_products(classifier.model, predicts=True)
    with torch.inference_mode():
        classifier(batch())
    assert "dense_forward" not in used


def changed_in_place(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.mul_(2)


def loaded_anew(layer: nn.Linear) -> None:
    layer.load_state_dict(linear(layer.in_features, layer.out_features).state_dict())


def moved(layer: nn.Linear) -> None:
    layer.weight.data = torch.randn_like(layer.weight)


def with_another_bias(layer: nn.Linear) -> None:
    layer.bias = nn.Parameter(layer.bias + 1, requires_grad=False)


@pytest.mark.parametrize("change", [changed_in_place, loaded_anew, moved, with_another_bias])
def test_parameters_that_changed_are_laid_out_again(change):
    x, layer = torch.randn(3, 32).bfloat16(), linear(32, 64)
    with torch.inference_mode():
        dense(x, [layer])
    change(layer)
    with torch.inference_mode():
        assert_near(dense(x, [layer])[0], exact(layer, x.float()))


def test_what_stands_between_the_layers_of_a_block_is_not_left_out(used):
    classifier = classifier_of("bert")
    layer = classifier.model.bert.encoder.layer[0]
    inner = layer.intermediate
    layer.intermediate = nn.Sequential(inner, nn.Tanh())
    with torch.inference_mode(), pytest.raises(AssertionError, match="64 columns for"):
        classifier(batch())


def test_weights_are_laid_out_once_and_go_with_the_layer():
    x, layers = torch.randn(3, 32).bfloat16(), [linear(32, 32), linear(32, 64)]
    dense(x, layers)
    known = _panels_of(layers)
    dense(x, layers)
    assert _panels_of(layers) is known
    other = nn.Linear(32, 32)
    other.weight, other.bias = layers[0].weight, layers[0].bias
    assert _panels_of([other, layers[1]]) is known, "classifiers of one encoder share them"
    replaced = [layers[0], linear(32, 64)]
    assert torch.equal(dense(x, replaced)[1], dense(x, replaced[1:])[0])
    kept = weakref.ref(_panels_of(replaced).panels)
    del known, layers, other, replaced
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("level", library.LEVELS[1:-1])
def test_other_processors_compute_the_same_and_torch_is_faster_there(level, monkeypatch):
    other = library.load_kernels(level)
    for module in (native_dense, library):
        monkeypatch.setattr(module, "kernels", lambda: other)
    assert not native_dense._blocks_are_fast()
    x, first, last, norm = torch.randn(70, 96).bfloat16(), linear(96, 800), linear(800, 96), norm_of(96)
    assert_near(dense(x, [first])[0], exact(first, x.float()))
    expected = exact(norm, exact(last, F.gelu(exact(first, x.float()))) + x.float())
    assert_near(feed_forward(x, first, last, norm), expected, norm)
