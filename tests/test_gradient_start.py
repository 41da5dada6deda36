"""The start of the adapters along the gradient."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from leantune.data.tokens.dataset import LabelledRows
from leantune.model.adapt import make_trainable, plan_model
from leantune.model.classifier import Classifier
from leantune.training.before import adapter_init as gradient_start
from leantune.training.before.adapter_init import ROW_NORM, init_lora_from_gradient
from leantune.training.before.dataset import prepare_data
from leantune.training.run import run_training
from tiny import classifier_from, quiet, recipe_for, tiny_model

WEIGHTS = torch.tensor([0.5, 1.0, 2.0])


@pytest.fixture(scope="module")
def rows(inputs, tmp_path_factory) -> LabelledRows:
    return prepare_data(recipe_for(inputs, tmp_path_factory.mktemp("rows"))).train[np.arange(60)]


def classifier_of(
    model, *, init_rank: int, method: str = "adalora", targets: str = "attention"
) -> Classifier:
    classifier = classifier_from(model)
    plan = plan_model(
        classifier,
        targets=targets,
        head="full",
        limit=None,
        init_rank=init_rank,
        target_rank=None,
        method=method,
    )
    make_trainable(
        classifier, plan, alpha=6.0, lora_dropout=0.5, head="full", compute_dtype=torch.float32, seed=0,
        adapter_init="gradient",
    )  # fmt: skip
    return classifier


def gradients_of(model, rows: LabelledRows, weights: Tensor | None = None) -> dict[str, Tensor]:
    """Gradient of every weight of the untouched model: one padded text at a time."""
    model = copy.deepcopy(model).requires_grad_(True)
    for tokens, label in zip(rows.tokens(), rows.label_ids, strict=True):
        ids = torch.from_numpy(np.asarray(tokens, dtype=np.int64))[None]
        loss = F.cross_entropy(model(input_ids=ids).logits, torch.tensor([label]), weights, reduction="sum")
        loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", ["adalora", "lora"])
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_rows_of_a_catch_nearly_all_of_the_gradient_that_they_can(rows, method, targets):
    model = tiny_model("bert")
    gradients = gradients_of(model, rows, WEIGHTS)
    classifier = classifier_of(model, init_rank=5, method=method, targets=targets)
    drawn = {name: layer.lora_A.detach().clone() for name, layer in classifier.adapted_layers().items()}
    assert init_lora_from_gradient(classifier, rows, 7, seed=0, class_weights=WEIGHTS) == 60
    for name, layer in classifier.adapted_layers().items():
        gradient, A = gradients[f"{name}.weight"], layer.lora_A.detach()
        torch.testing.assert_close(A @ A.T, ROW_NORM**2 * torch.eye(5), atol=1e-5, rtol=0)
        most = torch.linalg.svdvals(gradient)[:5].norm()
        caught = (gradient @ A.T / ROW_NORM).norm(dim=0)
        assert caught.norm() > 0.95 * most
        assert caught[0] > caught[-1]  # the steepest first
        by_chance = torch.linalg.qr(drawn[name].T).Q
        assert (gradient @ by_chance).norm() < 0.8 * most


def test_with_as_many_rows_as_the_weight_the_whole_gradient_is_caught(rows):
    model = tiny_model("bert")
    gradients = gradients_of(model, rows)
    classifier = classifier_of(model, init_rank=32)
    init_lora_from_gradient(classifier, rows, 60, seed=0)
    for name, layer in classifier.adapted_layers().items():
        gradient = gradients[f"{name}.weight"]
        caught = (gradient @ layer.lora_A.detach().T / ROW_NORM).norm(dim=0)
        expected = torch.linalg.svdvals(gradient)
        found = expected > 1e-4 * expected[0]  # rows beyond the gradient's rank keep their draw
        torch.testing.assert_close(caught[found], expected[found], atol=1e-4 * float(expected[0]), rtol=0)


def test_logits_and_the_mode_of_the_model_stay(rows, monkeypatch):
    classifier = classifier_of(tiny_model("bert"), init_rank=3)
    classifier.eval()
    before = classifier(classifier.batch_of(rows)).detach()
    classifier.train()
    monkeypatch.setattr(gradient_start, "MAX_GRADIENT_ROWS", 9)
    assert init_lora_from_gradient(classifier, rows, 4, seed=0) == 9
    assert classifier.training
    assert all(p.grad is None for p in classifier.parameters())
    assert all(not layer.lora_B.any() for layer in classifier.adapted_layers().values())
    classifier.eval()
    assert torch.equal(before, classifier(classifier.batch_of(rows)).detach())


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_weight_without_a_usable_gradient_keeps_its_draw(rows, value):
    classifier = classifier_of(tiny_model("bert"), init_rank=3)
    torch.nn.init.constant_(classifier.output_layer.weight, value)
    drawn = {name: layer.lora_A.detach().clone() for name, layer in classifier.adapted_layers().items()}
    init_lora_from_gradient(classifier, rows, 20, seed=0)
    for name, layer in classifier.adapted_layers().items():
        assert torch.equal(layer.lora_A.detach(), drawn[name])
        assert not layer.lora_B.any()


def test_a_rank_above_the_weights_keeps_the_rows_that_are_too_many(rows):
    model = tiny_model("bert", intermediate_size=16)  # both layers of 16 have rank 16, the others 32
    classifier = classifier_of(model, init_rank=24, targets="all-linear")
    drawn = {name: layer.lora_A.detach().clone() for name, layer in classifier.adapted_layers().items()}
    init_lora_from_gradient(classifier, rows, 20, seed=0)
    for name, layer in classifier.adapted_layers().items():
        full = min(layer.weight.shape)
        assert torch.equal(layer.lora_A.detach()[full:], drawn[name][full:])
        assert not torch.equal(layer.lora_A.detach()[:full], drawn[name][:full])


@pytest.mark.parametrize("changes", [{}, {"method": "lora", "init_rank": None, "target_rank": 2}])
def test_a_run_from_the_gradient_repeats_bit_for_bit(inputs, tmp_path, changes):
    keys = {"adapter_init": "gradient", "orth_reg_weight": 0, "accumulate": 3, "epochs": 1, **changes}
    one, two = (run_training(recipe_for(inputs, tmp_path / name, **keys), console=quiet()) for name in "ab")
    name = "adapter/adapter_model.safetensors"
    assert (one / name).read_bytes() == (two / name).read_bytes()
    assert json.loads((one / "record.json").read_text("utf-8"))["timings"]["gradient_start_s"] > 0
    other = run_training(
        recipe_for(inputs, tmp_path / "c", **{**keys, "adapter_init": "lora"}), console=quiet()
    )
    mine, theirs = load_file(one / name), load_file(other / name)
    assert any(
        mine[key].shape != theirs[key].shape or not torch.equal(mine[key], theirs[key]) for key in mine
    )
