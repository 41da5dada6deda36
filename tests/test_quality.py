"""The machinery of the quality study: the cut of the rows, the order of the runs, the table; nothing trains."""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are no part of the package

from benchmarks.quality import jobs, report
from benchmarks.quality.__main__ import QUALITY
from benchmarks.quality.data import MPNET, DataSet, Source, cut, shares
from benchmarks.quality.jobs import Job, recipe_keys
from benchmarks.quality.methods import ADALORA, COMMON, DEFAULT, LORA, METHODS, PEER_WITHOUT_DROPOUT, Method
from benchmarks.quality.runs import RUNS, Runs, packed
from benchmarks.quality.study import PUBLISHED, SEEDS, Study, work

from leantune.config import load_recipe
from leantune.model.build import skeleton
from tiny import tiny_config

ADAPTIVE = Method(name="adaptive", settings=ADALORA, learning_rates=(1e-3, 2e-3), is_in_sweep=True)
UNIFORM = Method(name="uniform", settings=LORA, learning_rates=(1e-3,), max_seeds=2)


@pytest.fixture(autouse=True)
def _tiny_model(monkeypatch):
    monkeypatch.setattr(jobs, "_skeleton", lambda model, num_labels: skeleton(tiny_config("bert")))
    jobs._plan.cache_clear()
    yield
    jobs._plan.cache_clear()


@pytest.fixture
def data(tmp_path) -> DataSet:
    return DataSet("toy", tmp_path, 3, "0123456789ab")


def study_of(tmp_path: Path, data: DataSet, *methods: Method, **changes: Any) -> Study:
    wanted = {"budgets": [PUBLISHED], "num_seeds": 3, "runs": Runs(tmp_path / "results")} | changes
    return Study(sets=[data], methods=methods, **wanted)


def fake_result(job: Job) -> dict[str, Any]:
    """Better with a learning rate of 2e-3; a little better with every seed."""
    accuracy = 0.8 + (0.1 if job.learning_rate == 2e-3 else 0) + 0.01 * SEEDS.index(job.seed)
    metrics = {part: {"accuracy": accuracy, "log_loss": 1 - accuracy} for part in ("validation", "test")}
    return {
        "metrics": metrics,
        "baseline": {"test": {"accuracy": 0.7}},
        "parameters": {"initial": 10, "final": 7},
        "train_s": 2.0,
        "hardware": {"cpu": "another CPU" if job.seed == SEEDS[1] else "a CPU", "gpu": None},
        "versions": {"torch": "2", "transformers": "5", "peft": "0"},
    }


def answers(times: int):
    left = iter([True] * times)
    return lambda: next(left, False)


@given(
    counts=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 60), min_size=1),
    share=st.floats(0, 1),
    least=st.integers(0, 1),
)
def test_shares_add_up_and_are_in_proportion(counts, share, least):
    whole = sum(counts.values())
    total = max(round(share * whole), least * len(counts))
    given_out = shares(counts, total, least=least)
    assert sum(given_out.values()) == total
    assert all(least <= given_out[label] <= count for label, count in counts.items())
    slack = 1 + len(counts)  # a rounding, and what the smallest classes took
    assert all(abs(given_out[label] - total * count / whole) <= slack for label, count in counts.items())


def test_more_rows_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="11 of 10 rows"):
        shares({"a": 10}, 11, least=1)


def test_the_cut_has_every_class_in_training_and_no_row_twice():
    rows = [(f"text {i}", label) for i, label in enumerate("a" * 60 + "b" * 39 + "c")]
    train, validation = cut(rows, 50, 20, random.Random(0))
    assert (len(train), len(validation)) == (50, 20)
    assert {label for _, label in train} == {"a", "b", "c"}
    assert not set(train) & set(validation)
    assert set(train) | set(validation) <= set(rows)
    assert cut(rows, 50, 20, random.Random(0)) == (train, validation)


def test_the_grid_comes_first_and_the_other_seeds_take_its_best_rate(tmp_path, data):
    study = study_of(tmp_path, data, ADAPTIVE)
    assert [(job.learning_rate, job.seed) for job in study.pending()] == [(1e-3, 42), (2e-3, 42)]
    assert work(study, fake_result, answers(2), lambda text: None) == 2
    assert study.best_rate(data, ADAPTIVE) == 2e-3
    assert [(job.learning_rate, job.seed) for job in study.pending()] == [(2e-3, 43), (2e-3, 44)]


def test_every_set_has_a_rate_of_its_own(tmp_path, data):
    other = DataSet("other", tmp_path / "other", 3, "ba9876543210")
    study = Study(
        sets=[data, other], methods=[ADAPTIVE], budgets=[PUBLISHED], num_seeds=1, runs=Runs(tmp_path / "r")
    )

    def run(job: Job) -> dict[str, Any]:
        log_loss = job.learning_rate if job.data.name == "toy" else -job.learning_rate
        return fake_result(job) | {"metrics": {"validation": {"log_loss": log_loss}}}

    assert work(study, run, lambda: True, lambda text: None) == 4
    assert (study.best_rate(data, ADAPTIVE), study.best_rate(other, ADAPTIVE)) == (1e-3, 2e-3)


def test_a_study_that_was_stopped_repeats_nothing(tmp_path, data):
    study = study_of(tmp_path, data, ADAPTIVE, UNIFORM)
    seen: list[str] = []

    def run(job: Job) -> dict[str, Any]:
        seen.append(job.key)
        return fake_result(job)

    assert work(study, run, answers(2), lambda text: None) == 2
    assert work(study, run, lambda: True, lambda text: None) == 4
    assert work(study, run, lambda: True, lambda text: None) == 0
    assert len(seen) == len(set(seen)) == 2 + 2 + 1 + 1
    assert [path.name for path in study.runs.folder.iterdir()] == [RUNS]


def test_a_run_that_fails_ends_the_study_and_loses_no_other(tmp_path, data):
    both_run = threading.Barrier(2, timeout=60)

    def run(job: Job) -> dict[str, Any]:
        both_run.wait()
        if job.learning_rate == 1e-3:
            raise RuntimeError("exit code 9")
        return fake_result(job)

    study = study_of(tmp_path, data, ADAPTIVE)
    with pytest.raises(RuntimeError, match="exit code 9"):
        work(study, run, lambda: True, lambda text: None, workers=2)
    assert [job.learning_rate for job in study.pending()] == [1e-3]


def test_runs_that_are_added_at_the_same_time_are_all_kept(tmp_path):
    """By two that know nothing of each other, as two studies of one machine."""
    both = [Runs(tmp_path), Runs(tmp_path)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: both[i % 2].add(str(i), {"number": i}), range(40)))
    assert {row["key"]: row["number"] for row in Runs(tmp_path).rows()} == {str(i): i for i in range(40)}
    assert both[0].rows() == both[1].rows()


def test_the_same_runs_are_the_same_bytes(tmp_path):
    for folder in ("one", "other"):
        for key in ("b", "a"):
            Runs(tmp_path / folder).add(key, {"accuracy": 0.1})
    one, other = ((tmp_path / folder / RUNS).read_bytes() for folder in ("one", "other"))
    assert one == other
    assert gzip.decompress(one).splitlines()[0] == b'{"key": "b", "accuracy": 0.1}'


def test_the_runs_that_are_committed_are_those_of_the_page():
    rows = Runs(QUALITY).rows()
    assert len(rows) >= 516
    assert gzip.decompress((QUALITY / RUNS).read_bytes()) == gzip.decompress(packed(rows))
    for row in rows:
        assert re.fullmatch("[0-9a-f]{12}", row["key"])
        assert {"data", "method", "budget", "limit", "settings", "date", "metrics", "versions"} <= set(row)
    default = [row for row in rows if row["method"] == DEFAULT and row["data"] == "20news"]
    shown = report.Estimate.of(report.accuracies(default))
    assert f"| {DEFAULT} |" in (page := (QUALITY / "README.md").read_text("utf-8"))
    assert f"| {shown} |" in page


def test_a_method_has_no_more_seeds_than_it_is_given(tmp_path, data):
    study = study_of(tmp_path, data, UNIFORM, num_seeds=5)
    work(study, fake_result, lambda: True, lambda text: None)
    assert len(study.finished(data, UNIFORM, PUBLISHED)) == 2


def test_a_run_that_diverged_does_not_win_the_grid(tmp_path, data):
    def run(job: Job) -> dict[str, Any]:
        return fake_result(job) if job.learning_rate == 1e-3 else {"metrics": None, "error": "diverged"}

    study = study_of(tmp_path, data, ADAPTIVE)
    work(study, run, answers(2), lambda text: None)
    assert study.best_rate(data, ADAPTIVE) == 1e-3


def test_a_budget_with_no_room_for_an_adapter_is_left_out(tmp_path, data, monkeypatch):
    monkeypatch.setitem(jobs.BUDGETS, "30k", 100)  # the head alone has 99
    study = study_of(tmp_path, data, ADAPTIVE, budgets=["30k", "100k"])
    work(study, fake_result, lambda: True, lambda text: None)
    assert study.finished(data, ADAPTIVE, "30k") == []
    assert len(study.finished(data, ADAPTIVE, "100k")) == 3


def test_the_key_depends_on_settings_rows_and_seed_and_on_nothing_else(data, tmp_path):
    job = Job(data, ADAPTIVE, PUBLISHED, 1e-3, 42)
    elsewhere = DataSet("toy", tmp_path / "elsewhere", 3, data.digest)
    renamed = Method(name="another name", settings=ADALORA, learning_rates=(5e-3,))
    assert Job(elsewhere, renamed, PUBLISHED, 1e-3, 42).key == job.key
    others = [
        Job(DataSet("toy", tmp_path, 3, "ba9876543210"), ADAPTIVE, PUBLISHED, 1e-3, 42),
        Job(data, UNIFORM, PUBLISHED, 1e-3, 42),
        Job(data, ADAPTIVE, "100k", 1e-3, 42),
        Job(data, ADAPTIVE, PUBLISHED, 2e-3, 42),
        Job(data, ADAPTIVE, PUBLISHED, 1e-3, 43),
    ]
    assert len({job.key, *(other.key for other in others)}) == 6


def test_every_method_starts_with_the_same_limit_and_makes_a_recipe(data):
    limits = set()
    for method in METHODS:
        job = Job(data, method, PUBLISHED, 1e-3, 42)
        if not method.is_peer and not method.is_past:
            recipe = load_recipe(None, {"data": "d", "model": "m", **recipe_keys(job.settings)})
            limits.add(recipe.max_trainable_params)
            assert recipe.epochs == COMMON["epochs"]
    assert limits == {11 * 4 * (32 + 32 + 1) + 32 * 3 + 3}


def test_a_method_of_keys_that_are_gone_is_shown_and_not_run(tmp_path, data):
    past = Method(name="R-Drop", settings={**ADALORA, "r_drop": 1}, learning_rates=(1e-3,))
    study = study_of(tmp_path, data, past, num_seeds=1)
    assert past.is_past
    assert not study.pending()
    job = Job(data, past, PUBLISHED, 1e-3, SEEDS[0])
    study.runs.add(job.key, fake_result(job))
    assert "| R-Drop | 80.00 (1) |" in report.markdown_of(study)
    assert not any(method.is_past for method in METHODS[:4])


def test_products_in_bf16_are_asked_for_by_precision():
    assert recipe_keys({"int8_products": True}) == {}
    assert recipe_keys({"int8_products": False}) == {"precision": "bf16"}
    assert recipe_keys({"int8_products": False, "precision": "fp32"}) == {"precision": "fp32"}


def test_the_pipelines_of_peft_start_with_as_many_parameters_as_the_limit(data):
    for method in METHODS:
        if method.pipeline in ("lora", "adalora") and "targets" not in method.settings:
            settings = Job(data, method, PUBLISHED, 1e-3, 42).settings
            is_adaptive = method.pipeline == "adalora"
            rank = settings["init_rank" if is_adaptive else "target_rank"]
            initial = rank * 4 * (32 + 32 + is_adaptive) + 32 * 3 + 3
            limit = Job(data, method, PUBLISHED, 1e-3, 42).limit
            assert limit - 4 * (32 + 32 + 1) < initial <= limit


def test_an_estimate_is_a_mean_with_students_interval():
    assert report.Estimate.of([0.9]) == report.Estimate(90.0, None, 1)
    found = report.Estimate.of([0.90, 0.92, 0.91])
    assert found.mean == 91.0
    assert found.half_width == pytest.approx(4.302653 * 1.0 / 3**0.5, abs=0.005)
    assert str(found) == "91.00 ± 2.48 (3)"


def test_the_table_shows_what_is_there_and_leaves_out_what_is_not(tmp_path, data):
    default = Method(name="leantune AdaLoRA", settings=ADALORA, learning_rates=(1e-3, 2e-3))
    peer = Method(name="PEFT LoRA", settings=ADALORA, learning_rates=(5e-4,), max_seeds=3)
    study = study_of(tmp_path, data, default, peer, UNIFORM)
    trained = study_of(tmp_path, data, default, peer)
    assert work(trained, fake_result, lambda: True, lambda text: None) == 4 + 3
    text = report.markdown_of(study)
    assert "| linear probe | 70.00 (1) |" in text
    assert "| leantune AdaLoRA | 91.00 ± 2.48 (3) | 91.00 | 7 | 0.002 |" in text
    assert "Runs on a CPU (4) and another CPU (2); torch 2, transformers 5, peft 0" in text
    assert "uniform" not in text
    assert "toy: leantune AdaLoRA against PEFT LoRA: +10.00 points (+7.73 to +12.27)" in text


def test_seconds_are_shown_where_they_were_measured(tmp_path, data):
    default = Method(name="leantune AdaLoRA", settings=ADALORA, learning_rates=(1e-3,))
    other = Method(name="other", settings=LORA, learning_rates=(1e-3,))
    study = study_of(tmp_path, data, default, other, num_seeds=1)
    work(study, fake_result, lambda: True, lambda text: None)
    timed = {
        "command": "python -m benchmarks.quality.seconds",
        "date": "2030-01-31",
        "hardware": {"cpu": "a CPU", "gpu": None, "cores": 2},
        "data": "toy",
        "seconds": {"leantune AdaLoRA": 12.4},
    }
    (study.runs.folder / report.SECONDS).write_text(json.dumps(timed))
    text = report.markdown_of(study)
    assert "| method | toy | mean | final parameters | training on toy | learning rates |" in text
    assert "| leantune AdaLoRA | 80.00 (1) | 80.00 | 7 | 12 s | 0.001 |" in text
    assert "| other | 80.00 (1) | 80.00 | 7 |  | 0.001 |" in text
    assert "on a CPU, 2 cores, 2030-01-31" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    (study.runs.folder / report.SECONDS).write_text(json.dumps(timed | {"data": "another"}))
    assert "| training on" not in report.markdown_of(study)


def test_the_mean_over_the_sets_is_given_for_every_rival_that_ran_on_all_of_them(tmp_path, data):
    other = DataSet("other", tmp_path / "other", 3, "ba9876543210")
    default, peer, tuned, uniform = (
        Method(name="leantune AdaLoRA", settings=ADALORA, learning_rates=(2e-3,)),
        Method(name="PEFT LoRA", pipeline="lora", learning_rates=(1e-3,)),
        Method(name=PEER_WITHOUT_DROPOUT, pipeline="adalora", learning_rates=(1e-3,)),
        Method(name="leantune LoRA", settings=LORA, learning_rates=(1e-3,), data=("toy",)),
    )
    wanted = {"budgets": [PUBLISHED], "num_seeds": 1, "runs": Runs(tmp_path / "results")}
    study = Study(sets=[data, other], methods=[default, peer, tuned, uniform], **wanted)
    work(study, fake_result, lambda: True, lambda text: None)
    text = report.markdown_of(study)
    line = "- Mean over the sets: leantune AdaLoRA against"
    assert f"{line} {PEER_WITHOUT_DROPOUT}: +10.00 points." in text
    assert "- toy: leantune AdaLoRA against leantune LoRA: +10.00 points." in text
    assert f"{line} leantune LoRA" not in text
    assert "- Mean over the sets: open until every PEFT pipeline has run on every set." in text


def test_the_whole_set_takes_the_rates_of_its_part_and_has_a_table_of_its_own(tmp_path, data):
    source = Source(rows="ag_news", about="With the learning rates of toy.")
    whole = DataSet("whole", tmp_path / "whole", 3, "ba9876543210", rates_of=data, source=source)
    default = Method(name="leantune AdaLoRA", settings=ADALORA, learning_rates=(1e-3, 2e-3))
    study = Study(
        sets=[data, whole],
        methods=[default],
        budgets=[PUBLISHED],
        num_seeds=2,
        runs=Runs(tmp_path / "results"),
    )
    assert work(study, fake_result, lambda: True, lambda text: None) == 2 + 1 + 2
    assert [job.learning_rate for job in study.runs_of(whole, default, PUBLISHED)] == [2e-3, 2e-3]
    first, second = report.markdown_of(study).split("## whole")
    assert "| method | toy | mean |" in first
    assert "With the learning rates of toy." in second
    assert "| leantune AdaLoRA | 90.50" in second


def test_a_line_that_is_tuned_as_another_takes_its_rates_and_runs_no_grid(tmp_path, data):
    default = Method(name="leantune AdaLoRA", settings=ADALORA, learning_rates=(1e-3, 2e-3))
    variant = Method(name="variant", settings={**ADALORA, "alpha": 3}, tuned_as=default)
    study = study_of(tmp_path, data, default, variant, num_seeds=2)
    assert {job.method.name for job in study.pending()} == {"leantune AdaLoRA"}
    assert work(study, fake_result, lambda: True, lambda text: None) == 2 + 1 + 2
    assert [job.learning_rate for job in study.runs_of(data, variant, PUBLISHED)] == [2e-3, 2e-3]
    line = (
        "variant against leantune AdaLoRA, seed by seed: +0.00 points (+0.00 to +0.00) over 2 pairs of runs."
    )
    assert f"- {line}" in report.markdown_of(study)


def test_another_encoder_has_a_grid_of_its_own_and_the_methods_that_are_named(tmp_path, data):
    source = Source(rows="ag_news", encoder=MPNET, methods=("adaptive",))
    wide = DataSet("wide", tmp_path / "wide", 3, data.digest, source=source)
    study = Study(
        sets=[wide],
        methods=[ADAPTIVE, UNIFORM],
        budgets=[PUBLISHED],
        num_seeds=1,
        runs=Runs(tmp_path / "results"),
    )
    jobs_of_wide = study.pending()
    assert [(job.method.name, job.learning_rate) for job in jobs_of_wide] == [
        ("adaptive", 3e-4),
        ("adaptive", 7e-4),
    ]
    assert study.best_rate(wide, UNIFORM) is None
    assert {job.settings["hidden_learning_rate_ratio"] for job in jobs_of_wide} == {0.1}
    assert "hidden_learning_rate_ratio" not in Job(data, ADAPTIVE, PUBLISHED, 3e-4, 42).settings
    assert Job(data, UNIFORM, PUBLISHED, 3e-4, 42).key != Job(wide, UNIFORM, PUBLISHED, 3e-4, 42).key


def test_other_budgets_are_a_table_of_what_has_run(tmp_path, data):
    study = study_of(tmp_path, data, ADAPTIVE, budgets=["30k", "100k"])
    assert "## Other budgets" not in report.markdown_of(study)
    work(study, fake_result, lambda: True, lambda text: None)
    page = report.markdown_of(study)
    assert "| limit on trainable parameters | 30,000 | 100,000 |" in page
    assert "| toy, adaptive | 91.00 ± 2.48 (3) | 91.00 ± 2.48 (3) |" in page
    assert f"]({report.PLOT})" in page


def test_the_plot_is_a_picture(tmp_path, data):
    study = study_of(tmp_path, data, ADAPTIVE, budgets=["30k", "100k"])
    work(study, fake_result, lambda: True, lambda text: None)
    report.draw(report.budget_curves(study), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


SEVERAL = st.lists(st.integers(500, 1000), min_size=2, max_size=5, unique=True).map(
    lambda counts: [count / 1000 for count in counts]
)


@given(SEVERAL, SEVERAL)
def test_the_difference_of_one_set_is_welchs_and_over_equal_sets_narrower(own, others):
    interval = ttest_ind(own, others, equal_var=False).confidence_interval(0.95)
    low, high = (
        float(bound) for bound in re.findall(r"[-+][0-9.]+(?= to|\))", report.difference([(own, others)]))
    )
    assert (low, high) == pytest.approx((100 * interval.low, 100 * interval.high), abs=0.006)
    gain, *bounds = map(float, re.findall(r"[-+][0-9.]+", report.difference([(own, others)] * 4)))
    assert gain == pytest.approx(100 * (mean(own) - mean(others)), abs=0.006)
    assert bounds[1] - bounds[0] < high - low


def test_the_difference_of_single_seeds_has_no_interval():
    assert report.difference([([0.9], [0.8]), ([0.7], [0.5, 0.6])]) == "+12.50 points"
