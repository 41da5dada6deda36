"""Exact parameter arithmetic, before any weight is loaded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leantune.adalora.budget import Target, full_rank, plan_parameters
from leantune.errors import UsageError
from leantune.model.adapt import plan_model
from leantune.model.build import skeleton
from tiny import tiny_config

SQUARE = [Target(f"layer.{i}.query", 768, 768) for i in range(24)]


def roberta_base_skeleton():
    from transformers import RobertaConfig

    return skeleton(
        RobertaConfig(
            vocab_size=50265,
            max_position_embeddings=514,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            num_labels=4,
        )
    )


def test_the_reference_run_has_999436_trainable_parameters():
    plan = plan_model(
        roberta_base_skeleton(),
        targets="query,value",
        head="full",
        limit=999_999,
        init_rank=11,
        target_rank=8,
    )
    assert (plan.initial, plan.head, plan.adapters, plan.final) == (999_436, 593_668, 405_768, 888_772)
    assert plan.base == 124_648_708
    # the published total counts a second copy of the head and 24 rank counters
    assert plan.total + plan.head + 24 == 125_648_168


def test_the_limit_alone_gives_the_largest_rank_that_fits():
    plan = plan_model(
        roberta_base_skeleton(),
        targets="attention",
        head="full",
        limit=999_999,
        init_rank=None,
        target_rank=None,
    )
    assert plan.init_rank == 11
    assert plan.initial <= 999_999 < plan.initial + plan.per_rank


@given(limit=st.integers(2_000, 3_000_000), head=st.integers(0, 600_000), modules=st.integers(1, 30))
def test_a_plan_never_exceeds_its_limit_or_names_one_that_fits(limit, head, modules):
    targets = [Target(f"layer.{i}.dense", 768, 100 + i) for i in range(modules)]
    try:
        plan = plan_parameters(targets, head=head, base=0, limit=limit)
    except UsageError as error:
        smallest = int(str(error).split("the smallest limit that fits is ")[1].split(";")[0].replace(",", ""))
        assert smallest > limit
        assert plan_parameters(targets, head=head, base=0, limit=smallest).initial == smallest
        return
    assert plan.initial <= limit
    assert limit < plan.initial + plan.per_rank or plan.init_rank == full_rank(targets)
    assert 1 <= plan.target_rank < plan.init_rank
    low, high = plan.adapters_final_range
    assert low <= plan.adapters_final <= high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 600_000}, "the smallest limit that fits is 667,444"),
        (
            {"limit": 999_999, "init_rank": 12, "target_rank": 8},
            "the nearest that fits is init_rank=11 (999,436)",
        ),
        (
            {"init_rank": 8, "target_rank": 8},
            "Got init_rank=8 target_rank=8 instead; for example init_rank=10",
        ),
        ({"init_rank": 1}, "Got init_rank=1 target_rank=1 instead"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_nearest_that_can(arguments, message):
    with pytest.raises(UsageError) as caught:
        plan_parameters(SQUARE, head=593_668, base=0, **arguments)
    assert message in str(caught.value)


def test_a_rank_alone_decides_the_other():
    assert plan_parameters(SQUARE, head=0, base=0, init_rank=12).target_rank == 10
    assert plan_parameters(SQUARE, head=0, base=0, target_rank=10).init_rank == 12
    assert plan_parameters(SQUARE, head=0, base=0).init_rank == 10


@pytest.mark.parametrize(
    ("model_type", "targets", "modules"),
    [
        ("bert", "attention", 4),
        ("bert", "all-linear", 12),
        ("distilbert", "q_lin", 2),
        ("modernbert", "attention", 2),
    ],
)
def test_targets_by_name(model_type, targets, modules):
    plan = plan_model(
        skeleton(tiny_config(model_type)),
        targets=targets,
        head="full",
        limit=None,
        init_rank=3,
        target_rank=2,
    )
    assert len(plan.targets) == modules


def test_a_target_that_matches_nothing_is_named_even_beside_one_that_does():
    with pytest.raises(
        UsageError, match=r"targets qery: no such linear layer in bert; there are dense, key, query"
    ):
        plan_model(
            skeleton(tiny_config("bert")),
            targets="qery,value",
            head="full",
            limit=None,
            init_rank=3,
            target_rank=2,
        )
