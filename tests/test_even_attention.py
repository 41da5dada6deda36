"""Even attention of first tokens in the last layer: a start that one triplet holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from leantune.adalora.allocator import RankAllocator
from leantune.adalora.schedule import RankSchedule
from leantune.data.tokens.dataset import LabelledRows
from leantune.evaluation.batches import map_rows
from leantune.model.adapt import make_trainable, plan_model
from leantune.model.classifier import Classifier
from leantune.training.before.adapter_init import attend_evenly, init_lora_from_gradient
from leantune.training.before.dataset import prepare_data
from leantune.training.build import Run, build_classifier, fresh_state, prepare_run
from leantune.training.state import capture, restore
from tiny import classifier_from, quiet, recipe_for, tiny_model

FAMILIES = ("bert", "roberta", "distilbert", "electra", "mpnet")


@pytest.fixture(scope="module")
def rows(inputs, tmp_path_factory) -> LabelledRows:
    return prepare_data(recipe_for(inputs, tmp_path_factory.mktemp("rows"))).train[np.arange(60)]


def classifier_of(model_type: str, *, targets: str = "attention", init_rank: int = 5) -> Classifier:
    classifier = classifier_from(tiny_model(model_type))
    plan = plan_model(
        classifier, targets=targets, head="full", limit=None, init_rank=init_rank, target_rank=None
    )
    make_trainable(
        classifier, plan, alpha=6.0, lora_dropout=0.5, head="full", compute_dtype=torch.float32, seed=0
    )
    return classifier


def mean_input(classifier: Classifier, rows: LabelledRows) -> torch.Tensor:
    return torch.from_numpy(map_rows(classifier, rows, 16, classifier.inputs_of_pooling_query)).mean(0)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_query_of_the_mean_first_token_is_zero(rows, model_type):
    classifier = classifier_of(model_type)
    mean = mean_input(classifier, rows)
    even = attend_evenly(classifier, rows, 16, seed=0)
    assert even is not None
    layer = even.layer
    weight = layer.base.weight + layer.delta_weight()
    query = weight @ mean + layer.base.bias
    assert query.abs().max() < 1e-5 * (layer.base.weight @ mean).abs().max()
    assert torch.linalg.matrix_rank(layer.delta_weight()) == 1
    others = [each for each in classifier.adapted_layers().values() if each is not layer]
    assert not any(each.delta_weight().any() or each.pinned for each in others)


def test_what_is_undone_is_as_it_was(rows):
    classifier = classifier_of("bert")
    before = {name: p.detach().clone() for name, p in classifier.trainable().items()}
    even = attend_evenly(classifier, rows, 16, seed=0)
    assert even is not None
    assert any(not torch.equal(p, before[name]) for name, p in classifier.trainable().items())
    even.undo()
    assert all(torch.equal(p, before[name]) for name, p in classifier.trainable().items())
    assert even.layer.pinned == 0


@pytest.mark.parametrize(("model_type", "targets"), [("bert", "value"), ("modernbert", "attention")])
def test_nothing_is_done_without_an_adapted_query_of_its_own(rows, model_type, targets):
    classifier = classifier_of(model_type, targets=targets)
    assert attend_evenly(classifier, rows, 16, seed=0) is None


def test_the_start_along_the_gradient_leaves_it_alone(rows):
    classifier = classifier_of("bert").eval()
    even = attend_evenly(classifier, rows, 16, seed=0)
    assert even is not None
    pinned = even.layer.triplets()
    pinned = pinned.A[0].clone(), pinned.B[:, 0].clone()
    before = map_rows(classifier, rows, 16, classifier)
    drawn = even.layer.lora_A.detach().clone()
    init_lora_from_gradient(classifier, rows, 16, seed=0)
    assert torch.equal(even.layer.lora_A[0], pinned[0])
    assert torch.equal(even.layer.lora_B[:, 0], pinned[1])
    assert not torch.equal(even.layer.lora_A[1:], drawn[1:])
    np.testing.assert_allclose(map_rows(classifier, rows, 16, classifier), before, atol=1e-6)


def test_it_is_never_pruned(rows):
    classifier = classifier_of("bert")
    even = attend_evenly(classifier, rows, 16, seed=0)
    assert even is not None
    layers = classifier.adapted_layers()
    budget = 5 * len(layers)
    schedule = RankSchedule(
        init_budget=budget, target_budget=3, total_steps=4, warmup_steps=0, final_steps=1, allocate_every=1
    )
    allocator = RankAllocator(layers, schedule)
    for layer in layers.values():  # every other triplet is worth more
        layer.lora_A.grad, layer.lora_B.grad = torch.ones_like(layer.lora_A), torch.ones_like(layer.lora_B)
        layer.lora_E.grad = torch.ones_like(layer.lora_E)
    even.layer.lora_A.grad[0], even.layer.lora_B.grad[:, 0], even.layer.lora_E.grad[0] = 0, 0, 0
    allocator.observe()
    masks = allocator.keep_masks(3)
    names = {id(layer): name for name, layer in layers.items()}
    assert masks[names[id(even.layer)]][0]
    assert sum(int(mask.sum()) for mask in masks.values()) == 3


def test_a_checkpoint_remembers_it(inputs, tmp_path):
    def started(name: str) -> tuple[Run, Classifier]:
        recipe = recipe_for(inputs, tmp_path / name, adapter_init="lora", test=None)
        run = prepare_run(recipe, console=quiet(), overwrite=False, resume=False)
        return run, build_classifier(run)

    run, classifier = started("first")
    even = attend_evenly(classifier, run.data.train, 16, seed=0)
    assert even is not None
    checkpoint = capture(fresh_state(run, classifier, run.steps.ranks), {})
    again, restored = started("again")
    restore(fresh_state(again, restored, again.steps.ranks), checkpoint)
    pinned = {name: layer.pinned for name, layer in classifier.adapted_layers().items()}
    assert sum(pinned.values()) == 1
    assert {name: layer.pinned for name, layer in restored.adapted_layers().items()} == pinned
