"""Generalized cross-entropy: ``loss=robust``."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from leantune.errors import UsageError
from leantune.training import loop
from leantune.training.losses import ROBUSTNESS, generalized_cross_entropy
from leantune.training.run import run_training
from tiny import quiet, recipe_for


def drawn(seed: int, num_texts: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(num_texts, num_classes, generator=generator)
    return logits, torch.randint(num_classes, (num_texts,), generator=generator)


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(1, 12), st.integers(2, 9), st.booleans())
def test_it_is_the_equation(seed, num_texts, num_classes, is_weighted):
    logits, labels = drawn(seed, num_texts, num_classes)
    weight = torch.rand(num_classes) if is_weighted else None
    found = generalized_cross_entropy(logits, labels, weight)
    expected = 0.0
    for row, label in zip(logits.double().softmax(-1), labels.tolist(), strict=True):
        of_class = 1.0 if weight is None else weight[label].item()
        expected += of_class * (1 - row[label].item() ** ROBUSTNESS) / ROBUSTNESS
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(2, 9))
def test_its_gradient_is_that_of_cross_entropy_times_a_power_of_the_probability(seed, num_classes):
    logits, labels = drawn(seed, 1, num_classes)
    logits.requires_grad_(True)
    (robust,) = torch.autograd.grad(generalized_cross_entropy(logits, labels), logits)
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), logits)
    probability = logits.detach().softmax(-1)[0, labels[0]]
    torch.testing.assert_close(robust, plain * probability**ROBUSTNESS, rtol=1e-4, atol=1e-6)


def test_a_label_that_is_out_of_the_question_has_a_finite_loss_and_no_pull():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = generalized_cross_entropy(logits, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(1 / ROBUSTNESS)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_run_trains_by_it_and_without_contrast(inputs, tmp_path, monkeypatch):
    def no_contrast(*_: object) -> None:
        raise AssertionError("wrong labels would draw the wrong texts together")

    monkeypatch.setattr(loop, "supervised_contrast", no_contrast)
    changes = {"loss": "robust", "class_weights": "balanced", "epochs": 2, "supcon_weight": 0.2}
    folder = run_training(recipe_for(inputs, tmp_path / "run", **changes), console=quiet())
    record = json.loads((folder / "record.json").read_text("utf-8"))
    assert record["recipe"]["loss"] == "robust"
    history = (folder / "history.jsonl").read_text("utf-8").splitlines()
    losses = [each["loss"] for each in map(json.loads, history) if each["event"] == "step"]
    assert max(losses) < 1 / ROBUSTNESS * 3  # bounded, whatever the weights of three classes


def test_smoothed_labels_are_not_for_it(inputs, tmp_path):
    with pytest.raises(UsageError, match="label_smoothing must be 0 with loss=robust"):
        recipe_for(inputs, tmp_path / "run", loss="robust", label_smoothing=0.1)
