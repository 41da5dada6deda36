"""Plain LoRA through the same layer, loop and artefacts; initial values of the adapters."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from leantune.adalora.budget import Target, plan_parameters
from leantune.adalora.layer import AdaLoraLinear, orthogonal_penalty
from leantune.adalora.method import LORA, METHODS
from leantune.adalora.triplets import draw_lora, draw_normal
from leantune.cli.main import main
from leantune.config import load_recipe
from leantune.errors import Interrupted, UsageError
from leantune.inference.export.formats import export
from leantune.training.optimizer import adamw, set_learning_rate
from leantune.training.run import run_training
from tiny import quiet, recipe_for

SQUARE = [Target(f"layer.{i}.query", 768, 768, trains_e=False) for i in range(24)]
LORA_KEYS = {"method": "lora", "init_rank": None, "target_rank": 2}


@pytest.fixture(scope="module")
def lora_run(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "run"
    return run_training(recipe_for(inputs, folder, **LORA_KEYS), console=quiet())


def record_of(run) -> dict:
    return json.loads((run / "record.json").read_text("utf-8"))


def test_a_rank_of_lora_costs_in_plus_out_and_the_whole_limit_is_used():
    plan = plan_parameters(SQUARE, head=593_668, base=0, method=LORA, limit=999_999)
    assert plan.per_rank == 24 * (768 + 768)
    assert plan.init_rank == plan.target_rank == 11
    assert plan.initial == plan.final == 593_668 + 11 * 24 * 1536


@given(limit=st.integers(39_940, 1_500_000))
def test_a_lora_plan_fits_its_limit_and_leaves_no_room_for_another_rank(limit):
    plan = plan_parameters(SQUARE, head=3_076, base=0, method=LORA, limit=limit)
    assert plan.initial <= limit < plan.initial + plan.per_rank


def test_lora_needs_one_rank_in_every_target():
    with pytest.raises(
        UsageError, match=r"LoRA of rank 1 in 24 modules 36,864; the smallest limit that fits is 39,940"
    ):
        plan_parameters(SQUARE, head=3_076, base=0, method=LORA, limit=39_939)


def test_either_rank_is_both_ranks_of_lora():
    for given_rank in ({"init_rank": 5}, {"target_rank": 5}, {"init_rank": 5, "target_rank": 5}):
        plan = plan_parameters(SQUARE, head=0, base=0, method=LORA, **given_rank)
        assert (plan.init_rank, plan.target_rank) == (5, 5)
    assert plan_parameters(SQUARE, head=0, base=0, method=LORA).init_rank == 8
    with pytest.raises(UsageError, match="LoRA prunes nothing"):
        plan_parameters(SQUARE, head=0, base=0, method=LORA, init_rank=6, target_rank=5)


def test_the_plan_of_lora_counts_no_e_and_prunes_nothing(inputs, capsys):
    words = [f"data={inputs / 'train.csv'}", f"model={inputs / 'encoder'}", "max_length=32", "target_rank=2"]
    assert main(["plan", *words, "method=lora"]) == 0
    shown = capsys.readouterr().out
    assert "512" in shown  # 2 x 4 x 64
    assert "pruned" not in shown
    assert main(["plan", *words]) == 0
    shown = capsys.readouterr().out
    assert "780" in shown  # 3 x 4 x 65
    assert "ranks are pruned from step" in shown


def test_lora_starts_as_its_paper_says():
    drawn = draw_lora(64, 400, 300, torch.Generator().manual_seed(0))
    assert drawn.B.count_nonzero() == 0
    assert torch.equal(drawn.E, torch.ones(64, 1))
    bound = 1 / math.sqrt(400)
    assert drawn.A.abs().max() <= bound
    assert drawn.A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    expected = nn.init.kaiming_uniform_(torch.empty(64, 400), a=math.sqrt(5))
    assert drawn.A.std().item() == pytest.approx(expected.std().item(), rel=0.02)


@pytest.mark.parametrize("draw", [draw_normal, draw_lora])
def test_initial_values_come_from_the_named_generator_alone(draw):
    first = draw(3, 9, 6, torch.Generator().manual_seed(5))
    torch.manual_seed(99)
    again = draw(3, 9, 6, torch.Generator().manual_seed(5))
    other = draw(3, 9, 6, torch.Generator().manual_seed(6))
    assert torch.equal(first.A, again.A)
    assert torch.equal(first.B, again.B)
    assert not torch.equal(first.A, other.A)


@pytest.mark.parametrize(
    ("method", "draw"), [(name, draw) for name, method in METHODS.items() for draw in method.draws.values()]
)
def test_a_fresh_layer_computes_what_the_frozen_one_does_whatever_the_start(method, draw):
    base = nn.Linear(9, 6)
    layer = AdaLoraLinear(
        base,
        3,
        scaling=2.0,
        dropout=nn.Identity(),
        generator=torch.Generator(),
        draw=draw,
        trains_e=METHODS[method].trains_e,
    )
    x = torch.randn(4, 9)
    assert torch.equal(layer(x), base(x))
    trainable = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert trainable == 3 * layer.triplet_parameters


def test_lora_has_no_orthogonality():
    layer = AdaLoraLinear(
        nn.Linear(9, 6),
        3,
        scaling=1.0,
        dropout=nn.Identity(),
        generator=torch.Generator(),
        draw=draw_lora,
        trains_e=False,
    )
    assert orthogonal_penalty([layer]).item() == 0


def test_a_lora_run_learns_and_keeps_its_plan(lora_run):
    record = record_of(lora_run)
    parameters = record["parameters"]
    assert parameters["initial"] == parameters["final"] == parameters["head"] + 2 * 4 * (32 + 32)
    assert set(record["ranks"].values()) == {2}
    assert record["metrics"]["test"]["accuracy"] > 0.6
    assert all(each["ranks_final"] for each in record["checkpoints"])
    history = (lora_run / "history.jsonl").read_text("utf-8").splitlines()
    steps = [json.loads(line) for line in history if '"event": "step"' in line or '"event":"step"' in line]
    assert steps
    assert all(line["orthogonality"] == 0 for line in steps)


def test_e_stays_one_and_is_in_no_file(lora_run):
    config = json.loads((lora_run / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 3)
    tensors = load_file(lora_run / "adapter" / "adapter_model.safetensors")
    assert not [name for name in tensors if "lora_E" in name]
    assert len([name for name in tensors if ".lora_A." in name]) == 4


def test_peft_computes_the_same_with_the_lora_adapter(lora_run):
    artefacts = record_of(lora_run)["artefacts"]
    assert artefacts["adapter"]["max_logit_difference"] < 5e-5
    assert artefacts["merged"]["max_logit_difference"] < 5e-5


def test_export_gives_lora_again_and_refuses_adalora(lora_run, tmp_path):
    exported = export(lora_run, "lora", str(tmp_path / "lora"))
    name = "adapter_model.safetensors"
    before, after = load_file(lora_run / "adapter" / name), load_file(exported / name)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    with pytest.raises(UsageError, match="a plain LoRA adapter, which has no AdaLoRA form"):
        export(lora_run, "adalora", str(tmp_path / "adalora"))


def test_a_resumed_lora_run_equals_the_uninterrupted_one_bit_for_bit(inputs, lora_run, tmp_path, monkeypatch):
    from leantune.training import callbacks as observer

    recipe = recipe_for(inputs, tmp_path / "run", **LORA_KEYS)
    original = observer.RunObserver.after_step

    def interrupt(self, state, result):
        if state.step == 20:
            self.interrupt.signal_number = 15
        return original(self, state, result)

    with monkeypatch.context() as patch:
        patch.setattr(observer.RunObserver, "after_step", interrupt)
        with pytest.raises(Interrupted):
            run_training(recipe, console=quiet())
    run_training(recipe, console=quiet(), resume=True)
    name = "adapter/adapter_model.safetensors"
    assert (lora_run / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_layers_of_the_head_have_their_own_multiples_of_the_learning_rate():
    layer = AdaLoraLinear(nn.Linear(9, 6), 3, scaling=1.0, dropout=nn.Identity(), generator=torch.Generator())
    head = nn.ModuleDict({"dense": nn.Linear(6, 6), "out_proj": nn.Linear(6, 2)})
    model = nn.ModuleDict({"query": layer, "classifier": head})
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = adamw(
        trainable,
        weight_decay=0.0,
        head_learning_rate_ratio=3.0,
        hidden_learning_rate_ratio=0.1,
        output_layer="classifier.out_proj",
    )
    set_learning_rate(optimizer, 1e-3)
    for parameter in trainable.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # Adam's first step is the learning rate, whatever the gradient
    moved = {name: (start[name] - p).abs().max().item() for name, p in trainable.items()}
    expected = {"query.lora_A": 1, "query.lora_B": 1, "query.lora_E": 1}
    expected |= {"classifier.out_proj.weight": 3, "classifier.out_proj.bias": 3}
    expected |= {"classifier.dense.weight": 0.1, "classifier.dense.bias": 0.1}
    assert moved == pytest.approx({name: 1e-3 * ratio for name, ratio in expected.items()}, rel=1e-4)


def test_the_published_start_is_not_one_of_lora():
    with pytest.raises(UsageError, match="adapter_init must be gradient or lora with method=lora"):
        load_recipe(None, {"data": "d", "model": "m", "method": "lora", "adapter_init": "normal"})
