"""How small it can be: what is cut is the nearest of its size, the curve runs from the probe to all weights, and the
recipe that is named trains a classifier of that size."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from leantune.adalora.low_rank import nearest_of_rank
from leantune.adalora.triplets import Triplets
from leantune.cli.main import main
from leantune.config import load_recipe
from leantune.config.frontier_file import read_frontier
from leantune.config.record.run import FinishedRecord, read_record
from leantune.errors import DataError, UsageError
from leantune.questions.frontier.compute import Frontier, Point, frontier, is_within_error
from leantune.questions.frontier.sizes import Weights, cut, largest, parent_of, rungs_of
from leantune.training.build import build_classifier, prepare_run
from tiny import quiet, save_tiny_encoder


@settings(deadline=None, max_examples=30)
@given(rank=st.integers(1, 6), wanted=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_nearest_of_a_rank_is_that_of_the_whole_matrix(rank, wanted, seed):
    """Compared with the singular value decomposition of the product, by its error, which is unique."""
    generator = torch.Generator().manual_seed(seed)
    triplets = Triplets(
        A=torch.randn(rank, 9, generator=generator),
        E=torch.randn(rank, 1, generator=generator),
        B=torch.randn(7, rank, generator=generator),
    )
    nearest, whole = nearest_of_rank(triplets, wanted), triplets.product()
    U, S, Vh = torch.linalg.svd(whole, full_matrices=False)
    best = (U[:, :wanted] * S[:wanted]) @ Vh[:wanted]
    assert nearest.rank == min(rank, wanted)
    torch.testing.assert_close(
        (nearest.product() - whole).norm(), (best - whole).norm(), atol=1e-4, rtol=1e-4
    )
    assert torch.equal(nearest.E, torch.ones(nearest.rank, 1))


def test_an_update_of_zero_stays_zero():
    """As it is before the first step, where B is zero."""
    nothing = Triplets(A=torch.randn(4, 9), E=torch.ones(4, 1), B=torch.zeros(7, 4))
    nearest = nearest_of_rank(nothing, 2)
    assert not nearest.product().any()
    assert nearest.A.isfinite().all()


@pytest.fixture
def recipe(inputs, tmp_path):
    return load_recipe(
        None,
        {
            "data": str(inputs / "train.csv"),
            "validation": str(inputs / "test.csv"),
            "model": str(inputs / "encoder"),
            "init_rank": "4",
            "max_length": "32",
            "epochs": "6",
            "learning_rate": "0.01",
            "output": str(tmp_path / "frontier"),
        },
    )


@pytest.mark.parametrize(
    ("model_type", "smallest_head"), [("bert", "full"), ("roberta", "linear")]
)  # whose head has a hidden layer
def test_sizes_fall_and_each_can_be_cut_from_one_before(recipe, tmp_path, model_type, smallest_head):
    save_tiny_encoder(tmp_path / "encoder", model_type)
    recipe = dataclasses.replace(recipe, model=str(tmp_path / "encoder"))
    run = prepare_run(largest(recipe), console=quiet(), overwrite=False, resume=False)
    rungs = rungs_of(run)
    sizes = [rung.max_trainable_params for rung in rungs]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    assert [(r.head, r.targets, r.init_rank) for r in rungs[:3]] == [
        ("full", "all-linear", 4),
        ("full", "all-linear", 2),
        ("full", "all-linear", 1),
    ]
    assert (rungs[-1].head, rungs[-1].targets, rungs[-1].init_rank) == (smallest_head, "attention", 1)
    for i, rung in enumerate(rungs[1:], start=1):
        parent_of(rung, [(each, Weights({}, {})) for each in rungs[:i]])


def test_what_is_cut_computes_what_is_left_of_its_parent(recipe, tmp_path):
    """With adapters that were drawn: those of query and value alone, the hidden layer of the head before training."""
    save_tiny_encoder(tmp_path / "encoder", "roberta")
    recipe = dataclasses.replace(recipe, model=str(tmp_path / "encoder"))
    run = prepare_run(largest(recipe), console=quiet(), overwrite=False, resume=False)
    classifier = build_classifier(run)
    untrained = Weights.of(classifier)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in classifier.adapted_layers().values():
            layer.lora_B.normal_(generator=generator)
        for weight in classifier.head_weights("full").values():
            weight.add_(1.0)
    parent = Weights.of(classifier)
    smallest = rungs_of(run)[-1]
    trial = prepare_run(smallest, console=quiet(), overwrite=False, resume=False)
    cut(classifier, trial, parent, untrained)
    assert classifier.num_trainable() == smallest.max_trainable_params
    assert {name.rpartition(".")[2] for name in classifier.adapted_layers()} == {"query", "value"}
    for name, layer in classifier.adapted_layers().items():
        nearest = nearest_of_rank(parent.triplets[name], 1)
        torch.testing.assert_close(layer.triplets().product(), nearest.product())
    for name, weight in classifier.head_weights("full").items():
        expected = parent if name.startswith(f"{classifier.output_name}.") else untrained
        assert torch.equal(weight.detach(), expected.head[name])


def point(name, parameters, is_right, recipe=None):
    is_right = np.array(is_right, dtype=bool)
    return Point(
        name=name,
        parameters=parameters,
        seconds=1.0,
        is_right=is_right,
        recipe=recipe,
    )


def test_the_smallest_is_within_a_standard_error_of_the_best(recipe):
    rng = np.random.default_rng(0)
    best = rng.random(400) < 0.9
    near, far = best.copy(), best.copy()
    near[np.flatnonzero(best)[0]] = False
    far[np.flatnonzero(best)[:20]] = False
    found = Frontier(
        points=(
            point("probe", 1, near),
            point("small", 2, far, recipe),
            point("middle", 3, near, recipe),
            point("all", 4, best),
        ),
        seconds=1.0,
        seconds_of_a_run=1.0,
    )
    assert found.best.name == "all"
    assert found.smallest.name == "middle"  # the probe has no recipe
    assert is_within_error(near, best)
    assert not is_within_error(far, best)


def test_without_a_recipe_that_is_near_the_most_accurate_of_them_is_named(recipe):
    wrong, right = np.zeros(50), np.ones(50)
    half = np.arange(50) % 2
    points = (point("a", 1, wrong, recipe), point("b", 2, half, recipe), point("all", 3, right))
    assert Frontier(points=points, seconds=1.0, seconds_of_a_run=1.0).smallest.name == "b"


def test_the_command_from_the_probe_to_all_weights(recipe, inputs, tmp_path, capsys):
    """The recipe that it writes is trained, has the parameters that it names, and its report draws the curve."""
    words = ["frontier", "--data", recipe.data, "--validation", recipe.validation, "--model", recipe.model]
    words += ["--init-rank", "4", "--max-length", "32", "--epochs", "6", "--learning-rate", "0.01"]
    words += ["--test", str(inputs / "test.csv"), "--output", recipe.output, "--quiet", "--train"]
    assert main(words) == 0
    said = capsys.readouterr().out
    found = read_frontier(tmp_path / "frontier")
    assert found is not None
    assert [found.points[0].name, found.points[-1].name] == ["linear probe", "full fine-tuning"]
    assert [each.parameters for each in found.points] == sorted(each.parameters for each in found.points)
    written = yaml.safe_load((tmp_path / "frontier" / "recipe.yaml").read_text())
    smallest = found.named(found.smallest)
    assert written["max_trainable_params"] == smallest.parameters
    assert smallest.name in said.replace("\n", " ")
    record = read_record(tmp_path / "frontier" / "run", FinishedRecord)
    assert record.parameters.initial == smallest.parameters
    assert record.metrics.test is not None
    for page in ("frontier.html", "run/report.html"):
        assert "Accuracy over trainable parameters" in (tmp_path / "frontier" / page).read_text()
    assert main(["train", str(tmp_path / "frontier" / "recipe.yaml"), "--overwrite", "--quiet"]) == 0
    run = tmp_path / "frontier" / "run"
    assert not (run / "frontier.json").exists()
    assert "Accuracy over trainable parameters" not in (run / "report.html").read_text()


def test_the_same_recipe_gives_the_same_answers(recipe):
    first, second = (frontier(recipe, console=quiet(), with_full=i == 0) for i in range(2))
    for one, other in zip(first.points, second.points, strict=False):
        assert (one.name, one.parameters) == (other.name, other.parameters)
        assert np.array_equal(one.is_right, other.is_right)
    assert [each.name for each in first.points if each not in second.points][-1] == "full fine-tuning"


def test_it_learns(recipe):
    """On words that decide the class the large ones are nearly always right."""
    found = frontier(recipe, console=quiet(), with_full=False)
    assert found.points[-1].accuracy > 0.9


def test_what_a_frontier_varies_is_refused(recipe, inputs, tmp_path, capsys):
    with pytest.raises(UsageError, match="method=adalora: a frontier compares LoRA"):
        frontier(dataclasses.replace(recipe, method="adalora"), console=quiet())
    with pytest.raises(DataError, match="no rows are held out"):
        frontier(dataclasses.replace(recipe, validation=None, validation_size=0), console=quiet())
    (tmp_path / "there").mkdir()
    words = ["--data", recipe.data, "--model", recipe.model, "--output", str(tmp_path / "there")]
    assert main(["frontier", *words]) == 2
    assert "already exists" in capsys.readouterr().err


def test_json(recipe, capsys):
    words = ["frontier", "--data", recipe.data, "--validation", recipe.validation, "--model", recipe.model]
    words += ["--init-rank", "1", "--max-length", "32", "--epochs", "1", "--output", recipe.output]
    assert main([*words, "--quiet", "--json", "--without-full"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {point["name"] for point in found["points"]} >= {"linear probe", found["smallest"], found["best"]}
