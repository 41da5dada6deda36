"""Any limit that pays for the smallest head trains: what is chosen, what it counts, and what it writes."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from leantune.cli.main import main
from leantune.config import Recipe, load_recipe
from leantune.errors import UsageError
from leantune.model.adapt import HEAD_ONLY
from leantune.model.build import skeleton
from leantune.model.low_rank_output import effective_parameters, factorize, set_weight
from leantune.training.before.placement import name_of, next_size, placed
from leantune.training.run import run_training
from tiny import quiet, recipe_for, tiny_config

SHELLS = {
    "bert": skeleton(tiny_config("bert", num_labels=3)),
    "roberta": skeleton(tiny_config("roberta", num_labels=3)),  # its head has a layer more
    "many classes": skeleton(tiny_config("bert", num_labels=40)),
}
SMALLEST = {"bert": 3 + 32 + 3, "roberta": 3 + 32 + 3, "many classes": 40 + 32 + 40}


def planned(shell, limit, **keys):
    asked = Recipe(data="rows.csv", model="encoder", max_trainable_params=limit, **keys)
    return placed(asked, shell)


@pytest.mark.parametrize("kind", SHELLS)
@settings(deadline=None)
@given(limit=st.integers(1, 60_000))
def test_every_limit_from_the_smallest_head_on_is_kept_and_larger_ones_train_no_less(kind, limit):
    shell = SHELLS[kind]
    if limit < SMALLEST[kind]:
        with pytest.raises(UsageError, match=f"the smallest limit that fits is {SMALLEST[kind]}$"):
            planned(shell, limit)
        return
    recipe, plan = planned(shell, limit)
    assert plan.initial <= limit
    assert (plan.init_rank == 0) == (recipe.targets == HEAD_ONLY)
    asked = Recipe(data="rows.csv", model="encoder", max_trainable_params=limit)
    larger = next_size(asked, recipe, plan, shell)
    if larger is None:
        return
    needed, what = larger
    assert needed > limit
    recipe_then, plan_then = planned(shell, needed)
    assert plan_then.initial == needed
    assert what == name_of(recipe_then, plan_then.init_rank)
    if needed - 1 > limit:
        assert planned(shell, needed - 1)[1].initial == plan.initial


def test_what_the_user_names_stays_and_the_message_says_what_is_possible_without_it():
    shell = SHELLS["bert"]
    recipe, plan = planned(shell, 300, targets="attention", method="lora")
    assert (recipe.targets, recipe.layers, len(plan.targets)) == ("attention", 1, 2)
    with pytest.raises(UsageError, match=r"fits is 227 with targets=attention and method=lora; without, 38$"):
        planned(shell, 200, targets="attention", method="lora")
    with pytest.raises(UsageError, match=r"layers=3 is more than the 2 layers"):
        planned(shell, 600, targets="attention", layers=3)


def test_a_share_of_the_encoder_is_a_limit():
    shell = SHELLS["bert"]
    encoder = sum(p.numel() for n, p in shell.named_weights().items() if n.startswith("bert."))
    recipe, _ = planned(shell, 0.05)
    assert recipe.max_trainable_params == int(0.05 * encoder)


def test_a_factorized_weight_is_the_nearest_of_its_rank():
    layer = torch.nn.Linear(9, 6)
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    factorize(layer, 2)
    set_weight(layer, weight)
    left, sizes, right = torch.linalg.svd(weight)
    expected = left[:, :2] * sizes[:2] @ right[:2]
    torch.testing.assert_close(layer.weight, expected)
    assert sum(p.numel() for p in layer.parameters()) == 2 * (6 + 9) + 6
    assert set(effective_parameters(layer)) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("limit", "trained"), [(75, "the head alone, as a product of rank 2"), (99, "the head alone")]
)
def test_a_run_of_a_head_alone_ends_in_an_adapter_that_peft_loads(inputs, tmp_path, capsys, limit, trained):
    keys = {"max_trainable_params": limit, "init_rank": None, "target_rank": None, "adapter_init": "gradient"}
    run = run_training(recipe_for(inputs, tmp_path / "run", **keys), console=quiet())
    record = json.loads((run / "record.json").read_text("utf-8"))
    assert record["parameters"]["initial"] <= limit
    assert record["metrics"]["test"]["accuracy"] > 0.5
    # written and loaded by PEFT and transformers, and compared on real rows, before it counts
    assert record["artefacts"]["adapter"]["max_logit_difference"] < 1e-4
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    assert weights["base_model.model.classifier.weight"].shape == (3, 32)
    assert main(["plan", f"{run / 'recipe.yaml'}"]) == 0
    assert trained in capsys.readouterr().out


def test_the_head_alone_can_be_asked_for_and_nothing_that_needs_adapters_beside_it(inputs, tmp_path, capsys):
    words = ["plan", f"data={inputs / 'train.csv'}", f"model={inputs / 'encoder'}", "--targets", "head-only"]
    assert main(words) == 0
    assert "the head alone" in capsys.readouterr().out
    for other in ("method=adalora", "init_rank=2", "target_rank=2", "adapter_init=normal", "layers=1"):
        assert main([*words, other]) == 2
        assert f"targets must be layers to adapt with {other.partition('=')[0]}" in capsys.readouterr().err
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(planned(SHELLS["bert"], 99)[0].to_yaml(), "utf-8")
    assert load_recipe(str(recipe), {}).targets == HEAD_ONLY
