"""The layer, the schedule, the allocator and pruning against the paper, written as the paper writes it."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from leantune.adalora.allocator import RankAllocator
from leantune.adalora.layer import AdaLoraLinear, orthogonal_penalty
from leantune.adalora.prune import prune
from leantune.adalora.schedule import RankSchedule, steps_from
from leantune.adalora.triplets import draw_lora, draw_normal
from leantune.errors import DivergedError, UsageError
from leantune.training.optimizer import adamw, set_learning_rate

SHAPES = [(6, 4), (4, 9), (5, 5)]


class ToyModel(nn.ModuleDict):
    """Adapted layers by name."""

    def adapted_layers(self) -> dict[str, AdaLoraLinear]:
        return {name: layer for name, layer in self.items() if isinstance(layer, AdaLoraLinear)}

    def replace(self, name: str, module: nn.Module) -> None:
        self[name] = module


def toy_model(rank: int = 4, shapes=SHAPES, seed: int = 0) -> ToyModel:
    generator = torch.Generator().manual_seed(seed)
    layers = {
        f"layer{i}": AdaLoraLinear(
            nn.Linear(n_in, n_out), rank, scaling=16 / rank, dropout=nn.Identity(), generator=generator
        )
        for i, (n_in, n_out) in enumerate(shapes)
    }
    return ToyModel(layers)


def toy_loss(model: nn.ModuleDict, generator: torch.Generator) -> torch.Tensor:
    loss = torch.zeros(())
    for layer in model.values():
        base = layer.base if isinstance(layer, AdaLoraLinear) else layer
        x = torch.randn(3, base.in_features, generator=generator)
        target = torch.randn(3, base.out_features, generator=generator)
        loss = loss + (layer(x) - target).pow(2).mean()
    return loss


def schedule_of(model: nn.ModuleDict, target: int, total: int = 20, **changes) -> RankSchedule:
    settings_ = {"total_steps": total, "warmup_steps": 3, "final_steps": 5, "allocate_every": 2, **changes}
    init = sum(layer.rank for layer in model.values())
    return RankSchedule(init_budget=init, target_budget=target, **settings_)


class PaperAllocator:
    """Zhang et al., 2023: equations 8 to 11 and the top-b(t) rule of algorithm 1, entry by entry."""

    def __init__(self, model: nn.ModuleDict, beta1: float, beta2: float) -> None:
        self.model, self.beta1, self.beta2 = model, beta1, beta2
        self.sensitivity = {n: np.zeros(p.shape) for n, p in self.adapter_weights()}
        self.uncertainty = {n: np.zeros(p.shape) for n, p in self.adapter_weights()}

    def adapter_weights(self):
        return [(n, p) for n, p in self.model.named_parameters() if "lora_" in n]

    def observe(self) -> None:
        for name, weight in self.adapter_weights():
            w = weight.detach().numpy().astype(np.float64)
            g = np.zeros_like(w) if weight.grad is None else weight.grad.numpy().astype(np.float64)
            for at in np.ndindex(w.shape):
                importance = abs(w[at] * g[at])  # eq. 8
                smoothed = self.beta1 * self.sensitivity[name][at] + (1 - self.beta1) * importance  # eq. 9
                self.sensitivity[name][at] = smoothed
                self.uncertainty[name][at] = self.beta2 * self.uncertainty[name][at] + (1 - self.beta2) * abs(
                    importance - smoothed
                )  # eq. 10

    def importance(self) -> np.ndarray:
        scores = {n: self.sensitivity[n] * self.uncertainty[n] for n in self.sensitivity}  # eq. 11
        return np.array(
            [
                scores[f"{name}.lora_E"][i, 0]
                + scores[f"{name}.lora_A"][i].sum() / layer.base.in_features
                + scores[f"{name}.lora_B"][:, i].sum() / layer.base.out_features
                for name, layer in self.model.items()
                for i in range(layer.rank)
            ]
        )


def live(model: nn.ModuleDict) -> int:
    return sum(int(torch.count_nonzero(layer.lora_E)) for layer in model.adapted_layers().values())


@settings(max_examples=25, deadline=None)
@given(
    rank=st.integers(2, 5),
    target=st.integers(1, 8),
    total=st.integers(8, 30),
    every=st.integers(1, 4),
    seed=st.integers(0, 100),
    betas=st.tuples(st.sampled_from([0.0, 0.5, 0.85]), st.sampled_from([0.0, 0.85])),
)
def test_the_allocator_agrees_with_the_paper_at_every_step(rank, target, total, every, seed, betas):
    model = toy_model(rank, seed=seed)
    target = min(target, 3 * rank)
    schedule = schedule_of(model, target, total, allocate_every=every, warmup_steps=2, final_steps=2)
    allocator = RankAllocator(model.adapted_layers(), schedule, beta1=betas[0], beta2=betas[1])
    paper = PaperAllocator(model, *betas)
    optimizer = adamw({n: p for n, p in model.named_parameters() if p.requires_grad}, weight_decay=0.0)
    set_learning_rate(optimizer, 0.05)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, total + 1):
        toy_loss(model, generator).backward()
        if not allocator.is_final:
            allocator.observe()
            paper.observe()
            found, expected = allocator.importance().numpy(), paper.importance()
            np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-12)
        optimizer.step()
        before = {name: layer.lora_E.detach().clone() for name, layer in model.adapted_layers().items()}
        keep_masks = allocator.allocate(step)
        if schedule.allocates_at(step):
            budget = schedule.budget_at(step)
            order = np.argsort(-found, kind="stable")
            kept = np.zeros(len(order), bool)
            kept[order[:budget]] = True
            after = np.concatenate([layer.lora_E.detach().numpy().ravel() for layer in model.values()])
            untouched = np.concatenate([e.numpy().ravel() for e in before.values()])
            np.testing.assert_array_equal(after, np.where(kept, untouched, 0.0))
            assert allocator.live_triplets == budget
        if keep_masks is not None:
            prune(model, keep_masks, optimizer)
            assert sum(layer.rank for layer in model.adapted_layers().values()) == target
        optimizer.zero_grad()
    assert allocator.is_final
    assert not allocator.sensitivity_ema
    assert not allocator.uncertainty_ema
    allocator.check_ranks_are_final(total)


@given(
    init=st.integers(1, 300),
    target=st.integers(1, 300),
    total=st.integers(3, 500),
    warmup=st.integers(0, 200),
    final=st.integers(0, 200),
)
def test_the_rank_budget_never_rises_and_reaches_its_target_exactly(init, target, total, warmup, final):
    if target > init or (target < init and warmup >= total - final):
        with pytest.raises(UsageError):
            RankSchedule(
                init_budget=init,
                target_budget=target,
                total_steps=total,
                warmup_steps=warmup,
                final_steps=final,
                allocate_every=1,
            )
        return
    schedule = RankSchedule(
        init_budget=init,
        target_budget=target,
        total_steps=total,
        warmup_steps=warmup,
        final_steps=final,
        allocate_every=1,
    )
    budgets = [schedule.budget_at(step) for step in range(1, total + 1)]
    assert all(a >= b for a, b in itertools.pairwise(budgets))
    assert all(target <= b <= init for b in budgets)
    assert all(b == init for b in budgets[: max(0, warmup - 1)]) or not schedule.prunes
    assert all(b == target for b in budgets[max(0, schedule.prune_step - 1) :])


def test_the_budget_is_the_cubic_of_equation_12():
    schedule = RankSchedule(
        init_budget=1000,
        target_budget=100,
        total_steps=100,
        warmup_steps=10,
        final_steps=30,
        allocate_every=1,
    )
    for step in range(10, 70):
        progress = (step - 10) / (100 - 30 - 10)
        assert schedule.budget_at(step) == int(100 + 900 * (1 - progress) ** 3 + 1e-9)


def test_all_zero_scores_keep_exactly_the_budget_in_a_fixed_order():
    model = toy_model(4)
    allocator = RankAllocator(model.adapted_layers(), schedule_of(model, 5))
    masks = allocator.keep_masks(5)
    assert torch.cat(list(masks.values())).tolist() == [True] * 5 + [False] * 7


def test_a_masked_triplet_may_come_back_before_the_final_cut():
    model = toy_model(2, shapes=[(4, 4)])
    layer = model["layer0"]
    with torch.no_grad():
        layer.lora_E.fill_(1.0)
    schedule = RankSchedule(
        init_budget=2, target_budget=1, total_steps=40, warmup_steps=1, final_steps=2, allocate_every=1
    )
    allocator = RankAllocator({"layer0": layer}, schedule)
    kept_in_turn = []
    for step, favourite in ((36, 0), (37, 1)):
        for _ in range(60):  # long enough for the averages to forget
            weights = torch.zeros(2, 1)
            weights[favourite] = 1 + torch.rand(())
            layer.lora_A.grad = torch.zeros_like(layer.lora_A)
            layer.lora_B.grad = torch.zeros_like(layer.lora_B)
            layer.lora_E.grad = weights
            layer.lora_E.data.fill_(1.0)
            allocator.observe()
        allocator.allocate(step)
        kept_in_turn.append(layer.lora_E.flatten().tolist())
    assert kept_in_turn == [[1.0, 0.0], [0.0, 1.0]]


@given(total=st.integers(3, 60_000), every=st.integers(1, 700), logged=st.integers(1, 200))
def test_windows_between_logged_steps_miss_no_allocation(total, every, logged):
    schedule = RankSchedule(
        init_budget=9,
        target_budget=3,
        total_steps=total,
        warmup_steps=0,
        final_steps=total // 3,
        allocate_every=every,
    )
    steps = range(logged, min(total, 40 * logged) + 1, logged)
    for step in steps:
        window = range(step - logged + 1, step + 1)
        expected = any(schedule.allocates_at(each) for each in window)
        assert schedule.allocates_within(step - logged + 1, step) == expected


def test_equal_initial_and_target_budget_never_prunes():
    model = toy_model(3)
    allocator = RankAllocator(model.adapted_layers(), schedule_of(model, 9))
    toy_loss(model, torch.Generator().manual_seed(0)).backward()
    allocator.observe()
    assert all(allocator.allocate(step) is None for step in range(1, 21))
    assert live(model) == 0  # E is still zero: nothing trained, nothing masked


def test_a_module_without_gradient_counts_as_unused():
    model = toy_model(2)
    allocator = RankAllocator(model.adapted_layers(), schedule_of(model, 4))
    x = torch.randn(3, 6)
    model["layer0"](x).sum().backward()
    allocator.observe()
    assert torch.isfinite(allocator.importance()).all()
    assert allocator.importance()[2:].eq(0).all()


def test_a_skipped_final_step_is_made_up_for():
    model = toy_model(3)
    schedule = schedule_of(model, 4)
    allocator = RankAllocator(model.adapted_layers(), schedule)
    toy_loss(model, torch.Generator().manual_seed(0)).backward()
    allocator.observe()
    assert allocator.allocate(schedule.prune_step + 1) is not None
    assert allocator.live_triplets == 4


def trained_toy(rank: int = 4) -> tuple[nn.ModuleDict, RankAllocator, torch.optim.Optimizer]:
    model = toy_model(rank)
    allocator = RankAllocator(model.adapted_layers(), schedule_of(model, 5))
    optimizer = adamw({n: p for n, p in model.named_parameters() if p.requires_grad}, weight_decay=0.01)
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        toy_loss(model, generator).backward()
        allocator.observe()
        optimizer.step()
        optimizer.zero_grad()
    return model, allocator, optimizer


def test_pruning_masked_triplets_changes_no_output_and_frees_their_parameters():
    model, allocator, optimizer = trained_toy()
    masks = allocator.allocate(15)
    assert masks is not None
    inputs = {name: torch.randn(5, layer.base.in_features) for name, layer in model.items()}
    expected = {name: layer(inputs[name]) for name, layer in model.items()}
    prune(model, masks, optimizer)
    for name, layer in model.items():
        torch.testing.assert_close(layer(inputs[name]), expected[name], atol=1e-6, rtol=0)
    kept = sum(int(mask.sum()) for mask in masks.values())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    layers = model.adapted_layers()
    assert kept == 5 == sum(layer.rank for layer in layers.values())
    assert trainable == sum(layer.rank * layer.triplet_parameters for layer in layers.values())


def test_pruning_cuts_the_optimiser_moments_the_same_way():
    model, _, optimizer = trained_toy()
    before = {name: copy.deepcopy(optimizer.state[layer.lora_B]["exp_avg"]) for name, layer in model.items()}
    masks = {
        "layer0": torch.tensor([True, False, True, False]),
        "layer1": torch.zeros(4, dtype=torch.bool),
        "layer2": torch.ones(4, dtype=torch.bool),
    }
    prune(model, masks, optimizer)
    assert isinstance(model["layer1"], nn.Linear)
    assert torch.equal(optimizer.state[model["layer0"].lora_B]["exp_avg"], before["layer0"][:, [0, 2]])
    assert torch.equal(optimizer.state[model["layer2"].lora_B]["exp_avg"], before["layer2"])
    in_groups = {p for group in optimizer.param_groups for p in group["params"]}
    assert in_groups == {p for p in model.parameters() if p.requires_grad} == set(optimizer.state)
    toy_loss(model, torch.Generator().manual_seed(3)).backward()
    optimizer.step()


def test_backward_stops_above_the_lowest_adapted_layer():
    model = toy_model(2, shapes=[(4, 4), (4, 4)])
    prune(model, {"layer0": torch.zeros(2, dtype=torch.bool), "layer1": torch.ones(2, dtype=torch.bool)})
    hidden = model["layer0"](torch.randn(3, 4))
    assert not hidden.requires_grad
    assert model["layer1"](hidden).requires_grad


def test_a_fresh_layer_computes_what_the_frozen_one_does():
    base = nn.Linear(7, 5)
    layer = AdaLoraLinear(base, 3, scaling=2.0, dropout=nn.Identity(), generator=torch.Generator())
    x = torch.randn(2, 4, 7)
    assert torch.equal(layer(x), base(x))


@pytest.mark.parametrize("draw", [draw_lora, draw_normal])
def test_what_is_drawn_lies_in_memory_in_order(draw):
    """NCCL takes no other tensors."""
    drawn = draw(4, 32, 48, torch.Generator().manual_seed(0))
    assert all(part.is_contiguous() for part in (drawn.A, drawn.E, drawn.B))


def test_the_layer_adds_scaled_b_of_a_times_e():
    base = nn.Linear(7, 5)
    layer = AdaLoraLinear(base, 3, scaling=16 / 3, dropout=nn.Identity(), generator=torch.Generator())
    with torch.no_grad():
        layer.lora_E.normal_()
    x = torch.randn(2, 4, 7)
    expected = base(x) + (16 / 3) * ((x @ layer.lora_A.T) * layer.lora_E.flatten()) @ layer.lora_B.T
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(
        nn.functional.linear(x, base.weight + layer.delta_weight(), base.bias), expected
    )


def test_the_orthogonal_penalty_is_the_mean_of_frobenius_norms_over_layers_and_sides():
    model = toy_model(3)
    expected = []
    for layer in model.values():
        identity = torch.eye(3)
        expected.append(torch.linalg.norm(layer.lora_A @ layer.lora_A.T - identity))
        expected.append(torch.linalg.norm(layer.lora_B.T @ layer.lora_B - identity))
    torch.testing.assert_close(orthogonal_penalty(list(model.values())), torch.stack(expected).mean())
    assert orthogonal_penalty([]).item() == 0


def test_ranks_that_never_moved_fail_the_run():
    model = toy_model(4)
    schedule = schedule_of(model, 5)
    allocator = RankAllocator(model.adapted_layers(), schedule)
    allocator.check_ranks_are_final(schedule.prune_step - 1)
    with pytest.raises(DivergedError, match=r"12 triplets are alive and the target budget is 5"):
        allocator.check_ranks_are_final(schedule.prune_step)


def test_singular_values_and_biases_are_not_decayed():
    model = toy_model(2)
    optimizer = adamw(dict(model.named_parameters()), weight_decay=0.1)
    free = {id(p) for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    assert all(id(layer.lora_E) in free and id(layer.lora_A) not in free for layer in model.values())


@pytest.mark.parametrize(("value", "steps"), [(0, 0), (0.5, 50), (1, 1), (30, 30), (0.004, 0)])
def test_a_phase_is_a_fraction_below_one_and_steps_from_one_on(value, steps):
    assert steps_from(value, 100) == steps
