"""Products with frozen weights in int8: the rounding, both passes, and what they leave alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from leantune.errors import UsageError
from leantune.inference.engines.choose import load_engine
from leantune.packing.batch import pack
from leantune.training.run import run_training
from tiny import WORDS, classifier_from, quiet, random_tokens, recipe_for, save_tiny_encoder, tiny_model

library = pytest.importorskip("leantune.kernels.native.library")

from leantune.kernels.native.kernels import why_no_int8  # noqa: E402
from leantune.kernels.native.weights import Int8Matrix, PackedWeight  # noqa: E402

pytestmark = pytest.mark.skipif(bool(why_no_int8()), reason=why_no_int8())

# two heads of the width that the kernels take
TWO_HEADS = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96}

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
    layer = layer_of(width, out)
    x, grad, weight, bias = x.bfloat16(), grad.bfloat16(), layer.weight, torch.randn(out).bfloat16()
    frozen = PackedWeight([layer])
    assert_product_of_rounded(frozen.forward(x, quantized=True), (x, weight))
    assert_product_of_rounded(frozen.forward(x, bias, quantized=True), (x, weight), bias.double())
    back = frozen.backward(grad, quantized=True)
    assert_product_of_rounded(back, (grad, weight.t()))
    exact = grad.double() @ weight.double()
    assert (back.double() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("rows", [31, 32, 33, 127, 129, 257, 300])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_row_is_computed_by_one_thread_and_all_are(rows, threads):
    x, weight = torch.randn(rows, 80).bfloat16(), torch.randn(112, 80).bfloat16()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert_product_of_rounded(Int8Matrix.of(weight).times(x), (x, weight))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("out", [384, 400])
def test_a_product_that_no_cache_holds_is_the_same_row_by_row(out):
    x, weight = torch.randn(1_400, 48).bfloat16(), layer_of(48, out).weight
    matrix = Int8Matrix.of(weight)
    whole = matrix.times(x)
    assert whole.numel() > 1 << 19  # which goes past the caches, if its rows are whole cache lines
    assert torch.equal(whole, torch.cat([matrix.times(part) for part in x.split(100)]))


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 150), width=WIDTHS, out=WIDTHS, seed=st.integers(0, 5))
def test_a_product_is_added_to_what_is_there(rows, width, out, seed):
    torch.manual_seed(seed)
    x, there = torch.randn(rows, width).bfloat16(), torch.randn(rows, out).bfloat16()
    weight = layer_of(width, out).weight
    first, memory = Int8Matrix.of(weight), there.clone()
    assert first.times(x, onto=memory) is memory
    assert_product_of_rounded(memory, (x, weight), there.double())


def test_layers_of_one_input_are_one_product():
    layers = [layer_of(32, out) for out in (16, 32, 48)]
    x, grad = torch.randn(5, 32).bfloat16(), torch.randn(5, 96).bfloat16()
    whole, alone = PackedWeight(layers), [PackedWeight([layer]) for layer in layers]
    together = whole.forward(x, whole.bias, quantized=True)
    apart = [each.forward(x, each.bias, quantized=True) for each in alone]
    assert torch.equal(together, torch.cat(apart, 1))
    weight = torch.cat([layer.weight for layer in layers])
    assert_product_of_rounded(whole.backward(grad, quantized=True), (grad, weight.t()))


def test_a_weight_is_quantised_when_it_is_first_used():
    layer = layer_of(32, 16)
    weight = PackedWeight([layer])
    with torch.inference_mode():
        before = weight.forward(torch.ones(3, 32).bfloat16(), quantized=True)
    assert "int8_transposed" not in vars(weight), "who only predicts needs no columns"
    # what was rounded in inference mode serves here, too
    assert torch.equal(weight.forward(torch.ones(3, 32).bfloat16(), quantized=True), before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so_in_its_row_alone(bad):
    x = torch.randn(3, 32).bfloat16()
    x[1, 5] = bad
    weight = PackedWeight([layer_of(32, 16)])
    for out in (weight.forward(x, quantized=True), weight.backward(x[:, :16], quantized=True)):
        assert not out[1].isfinite().any()
        assert out[[0, 2]].isfinite().all()


def test_the_number_of_threads_changes_no_bit():
    x, weight = torch.randn(130, 384).bfloat16(), PackedWeight([layer_of(384, 48)])
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append((weight.forward(x, quantized=True), weight.backward(x[:, :48], quantized=True)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for each in found[1:] for a, b in zip(found[0], each, strict=True))


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta", "modernbert", "mpnet", "deberta-v2"])
def test_a_classifier_trains_in_int8_and_predicts_in_bf16(model_type):
    narrow = {"dim": 64, "n_heads": 2, "hidden_dim": 96} if model_type == "distilbert" else TWO_HEADS
    classifier = classifier_from(tiny_model(model_type, **narrow)).requires_grad_(False).eval()
    classifier.set_encoder_dtype(torch.bfloat16)
    names = list(classifier.named_weights())
    batch = pack(random_tokens([3, 17, 9]), np.arange(3), position_offset=classifier.position_offset)
    logits = {}
    for train_int8 in (False, True):
        assert classifier.choose_kernels(train_int8=train_int8).kernels.train_int8 == train_int8
        with torch.no_grad():
            logits[train_int8, "predicts"] = classifier(batch)
        logits[train_int8, "trains"] = classifier(batch)
    assert list(classifier.named_weights()) == names
    assert torch.equal(logits[True, "predicts"], logits[False, "predicts"])
    exact, found = logits[False, "trains"], logits[True, "trains"]
    assert 0 < (found - exact).norm() < 0.1 * exact.norm()


@pytest.fixture(scope="module")
def run_in_bf16(inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    encoder = save_tiny_encoder(folder / "encoder", **TWO_HEADS)
    changes = {"precision": "int8", "epochs": 2, "model": str(encoder)}
    return run_training(recipe_for(inputs, folder / "run", **changes), console=quiet())


def test_a_run_says_what_it_multiplied_in_and_learns(run_in_bf16):
    record = json.loads((run_in_bf16 / "record.json").read_text("utf-8"))
    assert record["model"]["frozen_products"] == "int8"
    assert record["metrics"]["test"]["accuracy"] > 0.8


def test_prediction_in_int8_is_near_that_in_fp32(run_in_bf16):
    engines = {p: load_engine("torch", run_in_bf16, precision=p) for p in ("fp32", "bf16", "int8")}
    texts = [" ".join(WORDS[(7 * i + j) % len(WORDS)] for j in range(i + 1)) for i in range(30)]
    logits = {p: each.logits(each.tokenizer.encode(texts, None), 7) for p, each in engines.items()}
    scale = np.abs(logits["fp32"]).max()
    assert np.abs(logits["int8"] - logits["fp32"]).max() < 0.1 * scale
    assert not np.array_equal(logits["int8"], logits["bf16"])


def test_prediction_in_int8_needs_the_kernels(run_in_bf16, monkeypatch):
    monkeypatch.setattr(library, "kernels", lambda: library.LoadedLibrary(None, "no C compiler"))
    with pytest.raises(UsageError, match="precision=int8: no C compiler; use precision=auto"):
        load_engine("torch", run_in_bf16, precision="int8")


def test_prediction_in_int8_by_openvino_is_its_own_engine(run_in_bf16):
    with pytest.raises(
        UsageError,
        match="precision=int8 is for --engine torch; for int8 in OpenVINO use --engine openvino-int8",
    ):
        load_engine("openvino", run_in_bf16, precision="int8")


def test_a_run_in_int8_resumes_bit_for_bit(inputs, tmp_path):
    runs = [tmp_path / "whole", tmp_path / "resumed"]
    encoder = save_tiny_encoder(tmp_path / "encoder", **TWO_HEADS)
    changes = {"precision": "int8", "epochs": 2, "save_every": 4}
    recipes = [recipe_for(inputs, run, model=str(encoder), **changes) for run in runs]
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
