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

from layers import adapted
from leantune.model.classifier import PackedClassifier
from leantune.packing.batch import PackedBatch, pack
from leantune.packing.dropout import DropoutStream
from tiny import classifier_from, random_tokens, tiny_model

library = pytest.importorskip("leantune.kernels.native.library")
pytestmark = pytest.mark.needs_kernels

from leantune.kernels.native import dense as native_dense  # noqa: E402
from leantune.kernels.native.dense import Dense, dense, dense_and_norm, feed_forward  # noqa: E402
from leantune.kernels.native.kernels import why_no_int8  # noqa: E402
from leantune.kernels.native.weights import PackedWeight  # noqa: E402

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
    x, layers = torch.randn(rows, width).bfloat16(), [linear(width, out) for out in outs]
    outputs = torch.split(dense(x, Dense(PackedWeight(layers))), outs, dim=-1)
    for out, layer in zip(outputs, layers, strict=True):
        assert_near(out, exact(layer, x.float()))


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, width=WIDTHS, out=WIDTHS, seed=st.integers(0, 5))
def test_a_layer_before_its_norm_equals_fp32(rows, width, out, seed):
    torch.manual_seed(seed)
    layer, norm = linear(width, out), norm_of(out)
    x, residual = torch.randn(rows, width).bfloat16(), torch.randn(rows, out).bfloat16()
    expected = exact(norm, exact(layer, x.float()) + residual.float())
    assert_near(dense_and_norm(x, Dense(PackedWeight([layer])), residual, norm), expected, norm)


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, width=WIDTHS, inner=st.sampled_from([32, 384, 800, 1632]), seed=st.integers(0, 5))
def test_a_feed_forward_block_equals_fp32(rows, width, inner, seed):
    torch.manual_seed(seed)
    first, last, norm = linear(width, inner), linear(inner, width), norm_of(width)
    x = torch.randn(rows, width).bfloat16()
    expected = exact(norm, exact(last, F.gelu(exact(first, x.float()))) + x.float())
    assert_near(
        feed_forward(x, Dense(PackedWeight([first])), Dense(PackedWeight([last])), norm), expected, norm
    )


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_row_has_the_same_bits_whatever_is_computed_beside_it(threads):
    width, rows = 128, 1500
    first, last, norm = (
        Dense(PackedWeight([linear(width, 1024)])),
        Dense(PackedWeight([linear(1024, width)])),
        norm_of(width),
    )
    x = torch.randn(rows, width).bfloat16()
    whole = feed_forward(x, first, last, norm)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(feed_forward(x, first, last, norm), whole)
        for part in (slice(0, 1), slice(31, 65), slice(700, 1499)):
            assert torch.equal(feed_forward(x[part], first, last, norm), whole[part])
            assert torch.equal(dense(x[part], first), dense(x, first)[part])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_row(bad):
    x = torch.randn(70, 64).bfloat16()
    x[40, 3] = bad
    first, last = (Dense(PackedWeight([linear(*widths)])) for widths in ((64, 96), (96, 64)))
    norm = norm_of(64)
    is_finite = torch.arange(70) != 40
    for out in (dense(x, first), feed_forward(x, first, last, norm)):
        assert out[is_finite].isfinite().all()
        assert not out[40].isfinite().any()


def encoder_of(model_type: str) -> PackedClassifier:
    model = tiny_model(model_type, hidden_size=64, intermediate_size=96, num_attention_heads=2)
    classifier = classifier_from(model).requires_grad_(False).eval()
    classifier.set_encoder_dtype(torch.bfloat16)
    return classifier


def batch() -> PackedBatch:
    return pack(random_tokens([3, 9, 17, 5]), np.arange(4), position_offset=2)


@pytest.fixture
def used(monkeypatch) -> list[str]:
    """Kernels of the layers in the order of their calls, on a machine where blocks are fast."""
    names: list[str] = []

    def call(name: str, arguments: ctypes.Structure) -> None:
        if name != "embedding_forward":
            names.append(name)
        library.call(name, arguments)

    monkeypatch.setattr(native_dense, "is_fast", lambda: True)
    for module in ("dense", "rows", "weights", "layer"):
        monkeypatch.setattr(f"leantune.kernels.native.{module}.call", call)
    return names


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "mpnet", "deberta-v2"])
def test_a_frozen_encoder_predicts_by_it(model_type, used, monkeypatch):
    classifier = encoder_of(model_type)
    classifier.choose_kernels()
    num_layers = len(classifier.encoder.layers)
    with torch.inference_mode():
        found = classifier(batch())
        assert sorted(used) == ["dense_forward"] * 3 * num_layers + ["lay_out_weight"] * 4 * num_layers
        used.clear()
        assert torch.equal(classifier(batch()), found)
        assert used == ["dense_forward"] * 3 * num_layers, "each weight is laid out once"
        monkeypatch.setattr(native_dense, "is_fast", lambda: False)
        classifier.choose_kernels()
        apart = classifier(batch())
    torch.testing.assert_close(found, apart, atol=0.05, rtol=0.05)
    in_float = classifier_from(tiny_model_of(classifier)).eval()
    with torch.inference_mode():
        exact_logits = in_float(batch())
    assert (found - exact_logits).norm() <= 1.1 * (apart - exact_logits).norm()


def tiny_model_of(classifier: PackedClassifier) -> nn.Module:
    """Transformers' model of its weights, in fp32."""
    changes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2}
    model = tiny_model(classifier.settings["model_type"], **changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(classifier.named_weights()[name])
    return model


def test_what_needs_a_gradient_is_left_alone(used):
    classifier = encoder_of("bert")
    classifier.choose_kernels()
    classifier(batch())
    assert "dense_forward" not in used


def test_what_drops_is_left_alone(used):
    classifier = encoder_of("bert").train()
    classifier.choose_kernels()
    with torch.inference_mode():
        classifier(batch())
    num_layers = len(classifier.encoder.layers)
    assert used.count("dense_forward") == num_layers, "queries, keys and values drop nothing"


@pytest.mark.parametrize("part", ["query", "intermediate.dense"])
def test_layers_with_adapters_keep_their_updates(used, part):
    classifier = encoder_of("bert")
    classifier.choose_kernels()
    with torch.inference_mode():
        without = classifier(batch())
    names = [name for name in classifier.encoder_linears() if name.endswith(part)]
    layer = adapted(classifier.encoder_linears()[names[0]], 4, 0.0, DropoutStream(0))
    classifier.replace(names[0], layer)
    classifier.choose_kernels()
    used.clear()
    with torch.inference_mode():
        assert not torch.allclose(classifier(batch()), without, atol=1e-3)
    num_layers = len(classifier.encoder.layers)
    assert used.count("dense_forward") == 3 * num_layers - (part == "query"), "others go on as they were"


@pytest.mark.skipif(bool(why_no_int8()), reason=why_no_int8())
def test_products_in_int8_while_training_are_none_in_evaluation(used):
    classifier = encoder_of("bert")
    classifier.choose_kernels(train_int8=True)
    with torch.inference_mode():
        classifier(batch())
    assert set(used) == {"lay_out_weight", "dense_forward"}
    used.clear()
    classifier.choose_kernels(predict_int8=True)
    with torch.inference_mode():
        classifier(batch())
    assert "dense_forward" not in used


def test_what_was_laid_out_goes_with_the_encoder():
    classifier = encoder_of("bert")
    classifier.choose_kernels()
    with torch.inference_mode():
        classifier(batch())
    kept = weakref.ref(classifier.encoder.layers[0].prepared.projections.bf16.panels)
    del classifier
    gc.collect()
    assert kept() is None
