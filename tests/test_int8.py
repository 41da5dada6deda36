"""Products with frozen weights in int8: the rounding, both passes, and what they leave alone."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from leantune.adalora.attention import projections
from leantune.adalora.layer import AdaLoraLinear
from leantune.errors import UsageError
from leantune.inference.engines import load_engine
from leantune.model import PackedClassifier
from leantune.packing.batch import pack
from leantune.packing.dropout import DropoutStream, PooledDropout
from leantune.packing.native import int8, library
from leantune.packing.native import rounded as rounded_rows
from leantune.packing.native.feed_forward import FeedForward
from leantune.packing.native.gelu import GeluLayer, NativeGelu, gelu
from leantune.packing.native.int8 import (
    Int8Linear,
    Int8Weight,
    rounded_as_one,
    use_int8_products,
    why_no_int8,
)
from leantune.packing.native.residual import ResidualBlock
from leantune.packing.side_by_side import lie_side_by_side
from leantune.pretrained import set_encoder_dtype
from leantune.training.run import run_training
from tiny import WORDS, quiet, random_tokens, recipe_for, tiny_model

pytestmark = pytest.mark.skipif(bool(why_no_int8()), reason=why_no_int8())

WIDTHS = st.sampled_from([16, 48, 384])


def layer_of(width: int, out: int) -> nn.Linear:
    return nn.Linear(width, out).bfloat16().requires_grad_(False)


def rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row of ``x (T, D)`` as the nearest whole numbers from -127 to 127 and its scale ``(T, 1)``, in float64."""
    magnitudes = x.float().abs().amax(1, keepdim=True)
    rates = torch.where(magnitudes > 0, torch.full_like(magnitudes, 127) / magnitudes, 0)
    return (x.double() * rates.double()).round(), (magnitudes / 127).double()


def assert_product_of_rounded(found, factors, bias=0.0):
    (left, left_scales), (right, right_scales) = map(rounded, factors)
    expected = (left @ right.t()) * left_scales * right_scales.t() + bias
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-6 * expected.abs().max().item())


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40), width=WIDTHS, out=WIDTHS, exponent=st.integers(-30, 30), seed=st.integers(0, 5)
)
def test_both_passes_are_products_of_rounded_factors(rows, width, out, exponent, seed):
    torch.manual_seed(seed)
    x, grad = (torch.randn(rows, w) * 2.0**exponent for w in (width, out))
    x[0] = 0
    x, grad, weight, bias = (
        x.bfloat16(),
        grad.bfloat16(),
        layer_of(width, out).weight,
        torch.randn(out).bfloat16(),
    )
    frozen = Int8Weight([weight])
    assert_product_of_rounded(frozen.forward(x), (x, weight))
    assert_product_of_rounded(frozen.forward(x, bias), (x, weight), bias.double())
    assert_product_of_rounded(frozen.backward(grad), (grad, weight.t()))
    exact = grad.double() @ weight.double()
    assert (frozen.backward(grad).double() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("rows", [31, 32, 33, 127, 129, 257, 300])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_row_is_computed_by_one_thread_and_all_are(rows, threads):
    x, weight = torch.randn(rows, 80).bfloat16(), torch.randn(112, 80).bfloat16()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert_product_of_rounded(Int8Weight([weight]).forward(x), (x, weight))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("out", [384, 400])
def test_a_product_that_no_cache_holds_is_the_same_row_by_row(out):
    x, weight = torch.randn(1_400, 48).bfloat16(), layer_of(48, out).weight
    matrix = rounded_rows.Int8Matrix.of(weight)
    whole = matrix.times(x)
    assert whole.numel() > 1 << 19  # which goes past the caches, if its rows are whole cache lines
    assert torch.equal(whole, torch.cat([matrix.times(part) for part in x.split(100)]))


def in_rows(blocks, rows, width):
    """What a first product keeps, without what its blocks are filled up with."""
    return blocks.transpose(1, 2).flatten(2).flatten(0, 1)[:rows, :width]


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 150), width=WIDTHS, out=WIDTHS, last_width=WIDTHS, seed=st.integers(0, 5))
def test_two_products_with_gelu_or_its_slope_between_them_are_what_they_are_apart(
    rows, width, out, last_width, seed
):
    torch.manual_seed(seed)
    x, grad = torch.randn(rows, width).bfloat16(), torch.randn(rows, width).bfloat16()
    weight, bias = layer_of(width, out).weight, torch.randn(out).bfloat16()
    matrix = rounded_rows.Int8Matrix.of(weight)
    last = rounded_rows.Int8Matrix.of(layer_of(out, last_width).weight)
    before, found = rounded_rows.times_gelu_times(x, matrix, bias, last, keeps=True)
    kept = in_rows(before, rows, out)
    assert torch.equal(kept, matrix.times(x))
    assert torch.equal(found, last.times(gelu(kept, bias)))
    nothing, again = rounded_rows.times_gelu_times(x, matrix, bias, last, keeps=False)
    assert nothing is None
    assert torch.equal(again, found)
    exact = (kept.double() + bias.double()).requires_grad_()
    (slope,) = torch.autograd.grad(F.gelu(exact).sum(), exact)
    found = rounded_rows.times_slope_times(grad, matrix, before, bias, last).double()
    apart = last.times((matrix.times(grad).double() * slope).bfloat16()).double()
    assert (found - apart).norm() <= 0.03 * apart.norm()  # what is next to a half is rounded the other way


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 150), width=WIDTHS, out=WIDTHS, seed=st.integers(0, 5))
def test_a_product_is_added_to_what_is_there(rows, width, out, seed):
    torch.manual_seed(seed)
    x, there = torch.randn(rows, width).bfloat16(), torch.randn(rows, out).bfloat16()
    weight, bias = layer_of(width, out).weight, torch.randn(out).bfloat16()
    first, memory = rounded_rows.Int8Matrix.of(weight), there.clone()
    assert first.times(x, onto=memory) is memory
    assert_product_of_rounded(memory, (x, weight), there.double())
    back = rounded_rows.Int8Matrix.of(layer_of(out, width).weight)
    before, _ = rounded_rows.times_gelu_times(x, first, bias, back, keeps=True)
    apart = rounded_rows.times_slope_times(x, first, before, bias, back, onto=x.clone())
    in_place = x.clone()
    rounded_rows.times_slope_times(in_place, first, before, bias, back, onto=in_place)
    assert torch.equal(in_place, apart)
    alone = rounded_rows.times_slope_times(x, first, before, bias, back).double() + x.double()
    torch.testing.assert_close(apart.double(), alone, rtol=2**-7, atol=2**-7 * alone.abs().max().item())


@pytest.mark.parametrize("p", [0.0, 0.1])
def test_a_feed_forward_block_in_int8_is_its_layers(p, monkeypatch):
    torch.manual_seed(0)
    first, last = Int8Linear(layer_of(64, 96)), Int8Linear(layer_of(96, 64))
    norm = nn.LayerNorm(64).bfloat16().requires_grad_(False)
    inner = GeluLayer(first, NativeGelu())
    outer = ResidualBlock(last, PooledDropout(p, DropoutStream(2)), norm)
    x, weight = torch.randn(1, 45, 64).bfloat16().requires_grad_(), torch.randn(1, 45, 64).bfloat16()
    apart = outer(inner(x), x)
    (slope_apart,) = torch.autograd.grad(apart, x, weight)
    outer.dropout.stream = DropoutStream(2)
    inner.block = outer.block = FeedForward(inner, outer)
    used = []
    for module in ("rounded", "gelu"):
        monkeypatch.setattr(
            f"leantune.packing.native.{module}.call",
            lambda name, arguments: used.append(name) or library.call(name, arguments),
        )
    joint = outer(inner(x), x)
    (slope,) = torch.autograd.grad(joint, x, weight)
    assert torch.equal(joint, apart)
    torch.testing.assert_close(slope.float(), slope_apart.float(), rtol=0.05, atol=0.05)
    assert used == ["multiply_rounded"] * 2


def test_layers_of_one_input_are_rounded_once_as_one():
    layers = [Int8Linear(layer_of(32, out)) for out in (16, 32, 48)]
    x, grad = torch.randn(5, 32).bfloat16(), torch.randn(5, 96).bfloat16()
    whole = rounded_as_one(layers)
    assert rounded_as_one(layers) is whole
    assert rounded_as_one(layers[1:]) is not whole
    assert rounded_as_one(layers[:1]) is layers[0].rounded
    assert torch.equal(whole.forward(x), torch.cat([layer.rounded.forward(x) for layer in layers], 1))
    assert_product_of_rounded(whole.backward(grad), (grad, torch.cat([layer.weight for layer in layers]).t()))


def test_prediction_multiplies_layers_of_one_input_as_one(monkeypatch):
    layers = [Int8Linear(layer_of(64, 64), predicts=True) for _ in range(3)]
    x, used = torch.randn(1, 9, 64).bfloat16(), []
    monkeypatch.setattr(
        rounded_rows, "call", lambda name, arguments: used.append(name) or library.call(name, arguments)
    )
    with torch.inference_mode():
        outputs = projections(x, list(layers))
        assert used == ["round_weight", "multiply_rounded"]
        assert lie_side_by_side(outputs, dim=-1)
        assert all(torch.equal(out, layer(x)) for out, layer in zip(outputs, layers, strict=True))


def test_a_layer_is_rounded_when_it_is_first_used():
    layer = Int8Linear(layer_of(32, 16), predicts=True)
    with torch.inference_mode():
        before = layer(torch.ones(3, 32).bfloat16())
    assert "by_column" not in vars(layer.rounded), "who only predicts needs no columns"
    x = torch.ones(3, 32).bfloat16().requires_grad_()
    out = layer(x)
    out.sum().backward()  # what was rounded in inference mode serves here, too
    assert torch.equal(out, before)
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so_in_its_row_alone(bad):
    x = torch.randn(3, 32).bfloat16()
    x[1, 5] = bad
    layer = Int8Linear(layer_of(32, 16))
    for out in (layer.rounded.forward(x), layer.rounded.backward(x[:, :16])):
        assert not out[1].isfinite().any()
        assert out[[0, 2]].isfinite().all()


def test_the_number_of_threads_changes_no_bit():
    x, layer = torch.randn(130, 384).bfloat16(), Int8Linear(layer_of(384, 48))
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append((layer(x), layer.rounded.backward(x[:, :48])))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for each in found[1:] for a, b in zip(found[0], each, strict=True))


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_computes_in_bf16_where_no_gradient_is_wanted(has_bias):
    base = nn.Linear(32, 16, bias=has_bias).bfloat16().requires_grad_(False)
    layer, x = Int8Linear(base), torch.randn(2, 5, 32).bfloat16()
    with torch.no_grad():
        assert torch.equal(layer(x), base(x))
    with torch.inference_mode():
        assert torch.equal(layer(x), base(x))
    assert not torch.equal(layer(x), base(x))
    torch.testing.assert_close(layer(x), base(x), atol=0.05, rtol=0.02)
    assert dict(layer.named_parameters()).keys() == dict(base.named_parameters()).keys()
    assert layer.state_dict().keys() == base.state_dict().keys()


def test_an_input_of_another_type_is_refused_as_ever():
    with pytest.raises(RuntimeError, match="same dtype"):
        Int8Linear(layer_of(32, 16))(torch.randn(2, 32))


def adapted(layer: nn.Linear, rank: int, p: float) -> AdaLoraLinear:
    dropout, generator = PooledDropout(p, DropoutStream(1)), torch.Generator().manual_seed(rank)
    found = AdaLoraLinear(layer, rank, scaling=0.5, dropout=dropout, generator=generator)
    with torch.no_grad():
        for parameter in (found.lora_A, found.lora_E, found.lora_B):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return found


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_adapters_learn_the_same_around_rounded_layers(p):
    torch.manual_seed(3)
    bases = [layer_of(64, 64) for _ in range(3)]
    x, weights = torch.randn(1, 50, 64).bfloat16(), torch.randn(3, 1, 50, 64).bfloat16()
    found = []
    for kind in (nn.Identity(), Int8Linear):
        query, key, value = (base if kind is not Int8Linear else Int8Linear(base) for base in bases)
        layers: list[nn.Module] = [adapted(query, 3, p), key, adapted(value, 5, p)]
        own = x.clone().requires_grad_()
        outputs = projections(own, layers)
        factors = [f for layer in layers[::2] for f in (layer.lora_A, layer.lora_E, layer.lora_B)]
        grads = torch.autograd.grad(outputs, [own, *factors], list(weights))
        found.append(([out.float() for out in outputs], [grad.float() for grad in grads]))
    (exact_outputs, exact_grads), (outputs, grads) = found
    for exact, other in zip(exact_outputs, outputs, strict=True):
        assert 0 < (exact - other).norm() < 0.02 * exact.norm()
    assert 0 < (grads[0] - exact_grads[0]).norm() < 0.02 * exact_grads[0].norm()
    # of the factors: neither their inputs nor the gradients that reach them went through a rounded product
    for exact, other in zip(exact_grads[1:], grads[1:], strict=True):
        torch.testing.assert_close(other, exact)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta", "modernbert", "mpnet"])
def test_a_classifier_trains_in_int8_and_predicts_in_bf16(model_type):
    model = tiny_model(model_type).requires_grad_(False)
    set_encoder_dtype(model, torch.bfloat16)
    plain = PackedClassifier(copy.deepcopy(model), DropoutStream(0)).eval()
    classifier = PackedClassifier(model, DropoutStream(0)).eval()
    names = [name for name, _ in classifier.named_parameters()]
    assert use_int8_products(classifier.model)
    assert [name for name, _ in classifier.named_parameters()] == names
    assert not any(isinstance(m, Int8Linear) and m.weight.dtype == torch.float32 for m in model.modules())
    batch = pack(random_tokens([3, 17, 9]), np.arange(3), position_offset=classifier.position_offset)
    for embedding in (each.model.get_input_embeddings() for each in (plain, classifier)):
        embedding.weight.requires_grad_(True)  # so that there is something to go back to
    with torch.no_grad():
        assert torch.equal(classifier(batch), plain(batch))
    grads = []
    for each in (plain, classifier):
        logits = each(batch)
        grads.append(torch.autograd.grad(logits.sum(), each.model.get_input_embeddings().weight)[0].float())
    exact, found = grads
    assert 0 < (found - exact).norm() < 0.1 * exact.norm()


@pytest.fixture(scope="module")
def run_in_bf16(inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "run"
    recipe = recipe_for(inputs, folder, precision="bf16", int8_products=True, epochs=2)
    return run_training(recipe, console=quiet())


def test_a_run_says_what_it_multiplied_in_and_learns(run_in_bf16):
    record = json.loads((run_in_bf16 / "record.json").read_text("utf-8"))
    assert record["model"]["frozen_products"] == "int8"
    assert record["metrics"]["test"]["accuracy"] > 0.8


def test_prediction_in_int8_is_near_that_in_fp32(run_in_bf16):
    engines = {p: load_engine("torch", run_in_bf16, precision=p) for p in ("fp32", "bf16", "int8")}
    texts = [" ".join(WORDS[(7 * i + j) % len(WORDS)] for j in range(i + 1)) for i in range(30)]
    logits = {p: each.logits(each.tokeniser.encode(texts, None), 7) for p, each in engines.items()}
    scale = np.abs(logits["fp32"]).max()
    assert np.abs(logits["int8"] - logits["fp32"]).max() < 0.1 * scale
    assert not np.array_equal(logits["int8"], logits["bf16"])


def test_prediction_in_int8_needs_the_kernels(run_in_bf16, monkeypatch):
    monkeypatch.setattr(int8, "kernels", lambda: library.Kernels(None, "no C compiler"))
    with pytest.raises(
        UsageError, match="precision=int8: no native kernels: no C compiler; use precision=auto"
    ):
        load_engine("torch", run_in_bf16, precision="int8")


def test_prediction_in_int8_by_openvino_is_its_own_engine(run_in_bf16):
    with pytest.raises(UsageError, match="precision=int8 is of --engine torch; use --engine openvino-int8"):
        load_engine("openvino", run_in_bf16, precision="int8")


def test_every_kind_of_processor_gives_the_same_bits(monkeypatch):
    x, weight, bias = (torch.randn(shape).bfloat16() for shape in ((45, 208), (112, 208), (112,)))
    found = {}
    for highest in library.LEVELS[1:]:
        kernels = library.load_kernels(highest)
        for module in (int8, library):
            monkeypatch.setattr(module, "kernels", lambda kernels=kernels: kernels)
        level = kernels.library.level
        assert (why_no_int8() == "") == (level != "v3"), level
        matrix = rounded_rows.Int8Matrix.of(weight)
        columns = rounded_rows.Int8Matrix.of(weight.t())
        before, out = rounded_rows.times_gelu_times(x, matrix, bias, columns, keeps=True)
        back = rounded_rows.times_slope_times(x, matrix, before, bias, columns)
        kept = in_rows(before, *matrix.times(x).shape)
        found[level] = torch.cat([each.flatten() for each in (matrix.times(x, bias), kept, out, back)])
    first, *others = found.values()
    assert others, "this machine has one level"
    assert all(torch.equal(each, first) for each in others), found


def test_where_the_processor_has_no_fast_products_nothing_is_rounded(inputs, tmp_path, monkeypatch):
    kernels = library.load_kernels("v3")
    monkeypatch.setattr(int8, "kernels", lambda: kernels)
    assert why_no_int8() == "no fast products of bytes in the kernels for v3"
    recipe = recipe_for(inputs, tmp_path / "run", precision="bf16", int8_products=True, epochs=1)
    record = json.loads((run_training(recipe, console=quiet()) / "record.json").read_text("utf-8"))
    assert record["recipe"]["int8_products"]
    assert record["hardware"]["kernels"].startswith("native")
    assert record["model"]["frozen_products"] == "bf16"


def test_a_run_in_int8_resumes_bit_for_bit(inputs, tmp_path):
    runs = [tmp_path / "whole", tmp_path / "resumed"]
    recipes = [
        recipe_for(inputs, run, precision="bf16", int8_products=True, epochs=2, save_every=4) for run in runs
    ]
    for recipe in recipes:
        run_training(recipe, console=quiet())
    checkpoints = sorted((runs[1] / "checkpoints").iterdir())
    for path in checkpoints[1:]:
        shutil.rmtree(path)
    change_status(runs[1] / "record.json", "running")
    run_training(recipes[1], console=quiet(), resume=True)
    whole, resumed = (load_file(run / "adapter" / "adapter_model.safetensors") for run in runs)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def change_status(path: Path, status: str) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "status": status}), "utf-8")


def test_layers_that_learn_or_are_not_in_bf16_are_left_alone():
    model = nn.ModuleDict(
        {
            "learns": nn.Linear(32, 32).bfloat16(),
            "in_float": nn.Linear(32, 32).requires_grad_(False),
            "narrow": nn.Linear(32, 7).bfloat16().requires_grad_(False),
        }
    )
    assert not use_int8_products(model)
    assert all(type(layer) is nn.Linear for layer in model.values())
