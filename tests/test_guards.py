"""What the allocator may never see: overflow, NaN, a clipped or a partial gradient; and what pruning may
never change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from leantune.adalora.prune import prune
from leantune.config import Recipe
from leantune.data.tokens.dataset import shuffled
from leantune.errors import DivergedError
from leantune.training import loop
from leantune.training.build import build_classifier, fresh_state, prepare_run
from leantune.training.loop import MAX_SKIPPED_IN_A_ROW, Phase, StepResult, TrainingState, train
from tiny import quiet, recipe_for, save_tiny_encoder

NOT_FINITE = [float("nan"), float("inf")]


@dataclass(slots=True)
class Start:
    """A run before its first step, and what its steps leave behind."""

    state: TrainingState
    phase: Phase
    recipe: Recipe
    after: list[dict[str, Tensor]] = field(default_factory=list)
    results: list[StepResult] = field(default_factory=list)

    def train(self, steps: int) -> None:
        """Take ``steps`` steps; ``after[i]`` is everything that step i left, ``after[0]`` the start."""
        self.after.append(snapshot(self.state))
        train(self.state, self.phase, self.recipe, Recorder(self, steps))


@dataclass(slots=True)
class Recorder:
    start: Start
    steps: int

    def after_step(self, state: TrainingState, result: StepResult) -> bool:
        self.start.after.append(snapshot(state))
        self.start.results.append(result)
        return state.step < self.steps


def snapshot(state: TrainingState) -> dict[str, Tensor]:
    """Copies of weights, optimiser moments and the averages of the allocator."""
    trainable = state.classifier.trainable()
    tensors = {f"weight.{name}": p for name, p in trainable.items()}
    for name, parameter in trainable.items():
        moments = state.optimizer.state.get(parameter, {})
        tensors |= {f"optimizer.{name}.{key}": value for key, value in moments.items()}
    tensors |= state.allocator.state_tensors()
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def averages(after: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in after.items() if "_ema." in name}


@pytest.fixture
def start(inputs, tmp_path) -> Callable[..., Start]:
    """Builds runs that differ in nothing but the recipe keys given, without dropout."""
    encoder = save_tiny_encoder(
        tmp_path / "encoder", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )

    def build(**changes) -> Start:
        folder = Path(tmp_path / f"run{len(list(tmp_path.iterdir()))}")
        fixed = {"model": str(encoder), "lora_dropout": 0.0, "warm_start": False, "allocate_every": 1}
        recipe = recipe_for(inputs, folder, **fixed | changes)
        run = prepare_run(recipe, console=quiet(), overwrite=False, resume=False)
        classifier = build_classifier(run)
        state = fresh_state(run, classifier, run.steps.ranks)
        with torch.no_grad():  # E is zero at the start, and so would be every score
            generator = torch.Generator().manual_seed(0)
            for layer in classifier.adapted_layers().values():
                layer.lora_E.normal_(generator=generator)
        steps = run.steps
        phase = Phase(
            rows=run.data.train,
            steps_per_epoch=steps.steps_per_epoch,
            total_steps=steps.total_steps,
            lr_warmup_steps=steps.lr_warmup_steps,
            seed=recipe.seed,
        )
        return Start(state, phase, recipe)

    return build


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("bad_step", [1, 6], ids=["first", "while pruning"])
@pytest.mark.parametrize("part", ["lora_B", "classifier.weight"])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(start, value, bad_step, part):
    one = start()
    parameter = next(p for name, p in one.state.classifier.trainable().items() if name.endswith(part))

    def spoil(grad: Tensor) -> Tensor:
        return torch.full_like(grad, value) if one.state.step == bad_step else grad

    parameter.register_hook(spoil)
    one.train(bad_step + 1)
    assert one.state.skipped_steps == 1
    assert [result.is_skipped for result in one.results] == [*[False] * (bad_step - 1), True, False]
    assert same(one.after[bad_step], one.after[bad_step - 1])
    assert not same(one.after[bad_step + 1], one.after[bad_step])
    assert all(torch.isfinite(t).all() for t in one.after[-1].values())


def test_twenty_steps_in_a_row_without_a_finite_gradient_end_the_run(start):
    one = start()
    parameter = next(iter(one.state.classifier.trainable().values()))
    parameter.register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(DivergedError, match=f"the gradients of {MAX_SKIPPED_IN_A_ROW} steps in a row"):
        one.train(40)
    assert one.state.step == MAX_SKIPPED_IN_A_ROW


def test_a_final_cut_whose_step_was_skipped_is_made_at_the_next(start):
    one = start()
    prune_step = one.state.allocator.schedule.prune_step
    parameter = next(iter(one.state.classifier.trainable().values()))
    parameter.register_hook(lambda grad: grad * float("nan") if one.state.step == prune_step else grad)
    one.train(prune_step + 1)
    assert [result.step for result in one.results if result.is_pruned] == [prune_step + 1]
    assert sum(layer.rank for layer in one.state.classifier.adapted_layers().values()) == 4


def test_a_final_cut_that_is_due_at_a_last_step_which_was_skipped_is_made_there(start):
    one = start(rank_final=0.0)
    total = one.phase.total_steps
    assert one.state.allocator.schedule.prune_step == total
    parameter = next(iter(one.state.classifier.trainable().values()))
    parameter.register_hook(lambda grad: grad * float("nan") if one.state.step == total else grad)
    one.train(total + 1)
    assert one.results[-1].is_skipped
    assert one.results[-1].is_pruned
    assert sum(layer.rank for layer in one.state.classifier.adapted_layers().values()) == 4


def test_ranks_that_are_not_final_at_the_end_fail_the_run(start, monkeypatch):
    one = start(rank_final=0.0)
    total = one.phase.total_steps
    monkeypatch.setattr(one.state.allocator, "allocate", lambda step: None)
    with pytest.raises(DivergedError, match=rf"after step {total} \d+ triplets are alive"):
        one.train(total + 1)


def test_a_loss_scale_that_overflows_is_lowered_and_its_steps_leave_no_trace(start):
    one = start()
    one.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=10_000)
    for parameter in one.state.classifier.trainable().values():
        parameter.register_hook(lambda grad: grad.half().float())  # above 65,504 it is infinite
    one.train(30)
    skipped = [result.step for result in one.results if result.is_skipped]
    assert 2 <= len(skipped) == one.state.skipped_steps < 20
    assert all(same(one.after[step], one.after[step - 1]) for step in skipped)
    assert skipped[:2] == [1, 2], "the scale is too high at first"
    assert one.state.scaler.get_scale() == 2.0 ** (24 - len(skipped))
    assert all(torch.isfinite(t).all() for t in one.after[-1].values())


def test_importance_does_not_depend_on_the_loss_scale(start):
    plain, scaled = start(), start()
    scaled.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=10_000)
    plain.train(5)
    scaled.train(5)
    for a, b in zip(plain.after, scaled.after, strict=True):
        # a power of two scales exactly, as long as nothing is denormal
        torch.testing.assert_close(averages(a), averages(b), rtol=1e-5, atol=1e-20)
    assert averages(plain.after[-1])


def test_importance_is_taken_before_clipping(start):
    free, clipped = start(max_grad_norm=0.0), start(max_grad_norm=1e-6)
    free.train(1)
    clipped.train(1)
    found = averages(clipped.after[1])
    assert all(torch.equal(found[name], t) for name, t in averages(free.after[1]).items())
    assert sum(t.sum().item() for t in found.values()) > 0
    moments = [name for name in free.after[1] if name.endswith("exp_avg")]
    ratios = [clipped.after[1][name].norm() / free.after[1][name].norm() for name in moments]
    assert max(ratios) < 1e-4, "clipping must have done something"


@pytest.mark.parametrize("micro_steps", [2, 5, 16])
def test_importance_is_that_of_the_whole_step_however_it_is_cut(start, micro_steps):
    alone = {"supcon_weight": 0}  # the contrast is of the texts of one micro-step
    whole, pieces = start(**alone), start(accumulate=micro_steps, **alone)
    whole.train(3)
    pieces.train(3)
    assert [len(result.micro_sizes) for result in pieces.results] == [micro_steps] * 3
    for a, b in zip(whole.after[1:], pieces.after[1:], strict=True):
        for name, expected in averages(a).items():
            torch.testing.assert_close(
                averages(b)[name], expected, rtol=2e-2, atol=1e-3 * expected.max().item()
            )


def test_a_module_without_a_gradient_has_no_sensitivity_and_stops_nothing(start):
    one = start()
    name, layer = next(iter(one.state.classifier.adapted_layers().items()))
    layer.forward = layer.base.forward  # the update is not part of the forward pass
    one.train(4)
    ours = [t for key, t in averages(one.after[-1]).items() if f".{name}." in key and key.endswith("lora_E")]
    assert ours
    assert all(t.count_nonzero() == 0 for t in ours)
    assert one.state.skipped_steps == 0


def test_logits_do_not_change_when_triplets_are_removed(start, monkeypatch):
    one = start(targets="all-linear")
    differences = []

    def watched(model, keep_masks, optimizer) -> None:
        batch = one.state.classifier.batch_of(one.phase.rows[np.arange(24)])
        one.state.classifier.eval()
        with torch.inference_mode():
            before = one.state.classifier(batch)
        prune(model, keep_masks, optimizer)
        with torch.inference_mode():
            after = one.state.classifier(batch)
        one.state.classifier.train()
        assert before.abs().max() > 0.1
        differences.append((before - after).abs().max().item())

    monkeypatch.setattr(loop, "prune", watched)
    trainable = one.state.classifier.num_trainable()
    one.train(one.phase.total_steps)
    assert len(differences) == 1
    assert differences[0] <= 1e-6
    assert one.state.classifier.num_trainable() < trainable


def test_backward_stops_above_the_lowest_module_that_is_left(start):
    one = start()
    classifier = one.state.classifier
    batch = classifier.batch_of(one.phase.rows[np.arange(8)])
    reached: dict[int, bool] = {}
    for i, layer in enumerate(classifier.encoder.layers):
        layer.mlp_norm.register_forward_hook(
            lambda module, args, output, i=i: reached.update({i: output.requires_grad})
        )
    classifier(batch)
    assert reached == {0: True, 1: True}
    masks = {
        name: torch.full((layer.rank,), ".layer.1." in name)
        for name, layer in classifier.adapted_layers().items()
    }
    prune(classifier, masks, one.state.optimizer)
    classifier(batch).sum().backward()
    assert reached == {0: False, 1: True}
    assert all(".layer.1." in name for name in classifier.adapted_layers())


def test_the_first_loss_is_smoothed_cross_entropy_of_the_first_batch(start):
    begun = start(label_smoothing=0.3)
    with torch.no_grad():
        begun.state.classifier.output_layer.weight.mul_(50)
    order = shuffled(len(begun.phase.rows), seed=begun.recipe.seed, epoch=0)
    batch = begun.state.classifier.batch_of(begun.phase.rows[order[: begun.recipe.batch_size]])
    with torch.no_grad():
        logits = begun.state.classifier(batch)
    begun.train(1)
    expected = F.cross_entropy(logits, batch.labels, label_smoothing=0.3).item()
    assert begun.results[0].loss == pytest.approx(expected, rel=1e-5)
    assert abs(F.cross_entropy(logits, batch.labels).item() - expected) > 1e-3


def test_the_contrast_is_in_the_gradient_and_not_in_the_loss(start):
    without, weak, strong = (start(supcon_weight=weight, lora_dropout=0) for weight in (0.0, 1e-6, 10.0))
    for each in (without, weak, strong):
        each.train(2)
    assert without.results[0].loss == weak.results[0].loss == strong.results[0].loss
    assert not same(weak.after[1], strong.after[1])


def test_the_decay_of_the_recipe_reaches_the_optimiser(start):
    state = start(weight_decay=0.3).state
    assert {group["weight_decay"] for group in state.optimizer.param_groups} == {0.0, 0.3}
