"""The arithmetic and the machinery of the speed benchmarks; no model runs here but a tiny one, once."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are no part of the package

pytest.importorskip("leantune.kernels.native.library", reason="benchmarks compare the kernels")
from benchmarks import contention, startup
from benchmarks.growth import Growth, markdown_of
from benchmarks.harness import slug
from benchmarks.inputs import Model, repeated, write_rows
from benchmarks.peer import trainer_peft
from benchmarks.processes import Outcome, Workplace
from benchmarks.quality.peer import DEFAULTS
from benchmarks.speed import report
from benchmarks.speed.arithmetic import (
    LayerWeights,
    Sample,
    Spread,
    agreement,
    falls,
    layer_flops_per_s,
    speedup,
)
from benchmarks.speed.comparison import Comparison, problems_of, run_rounds
from benchmarks.speed.matrix_rates import the_higher
from benchmarks.speed.pipelines import (
    BEST,
    EAGER,
    LEANTUNE,
    ROUNDED,
    USUAL,
    Pipeline,
    Workload,
    objective_before_cut,
    pipelines_of,
)

MINILM = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}
ROBERTA = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}


def sample(samples_per_s: float, **changes: Any) -> Sample:
    values: dict[str, Any] = {"tokens_per_s": 50 * samples_per_s, "tokens": 1000, "peak_rss_bytes": 10**9}
    return Sample(samples_per_s=samples_per_s, **values | changes)


def workload(tmp_path: Path) -> Workload:
    return Workload(
        model=Path("model"),
        rows=Path("rows.csv"),
        validation=Path("validation.csv"),
        trained=tmp_path,
        precision="bf16",
        learning_rate=1e-3,
    )


def comparison_of(tmp_path: Path, samples: dict[str, list[Sample]], **changes: Any) -> Comparison:
    model = Model("MiniLM-L6", Path("model"), LayerWeights.of(MINILM), 1e-3, True)
    values: dict[str, Any] = {"model": model, "task": "training", "num_rows": 64, "pipelines": []}
    return Comparison(work=workload(tmp_path), samples=samples, **values | changes)


def workplace(folder: Path, heard: list[str] | None = None) -> Workplace:
    return Workplace(folder, {}, (heard if heard is not None else []).append)


def test_spread_is_the_median_with_its_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)


def test_speedup_is_taken_within_a_round() -> None:
    ours = [sample(100), sample(10), sample(90)]
    theirs = [sample(10), sample(1), sample(10)]  # the machine was busy in the second round
    assert speedup(ours, theirs) == Spread(10.0, 9.0, 10.0)


def test_speedup_needs_as_many_rounds_on_both_sides() -> None:
    with pytest.raises(ValueError, match="shorter"):
        speedup([sample(1), sample(2)], [sample(1)])


@pytest.mark.parametrize(("config", "expected"), [(MINILM, 10_616_832), (ROBERTA, 84_934_656)])
def test_linear_parameters_of_known_encoders(config: dict[str, int], expected: int) -> None:
    assert LayerWeights.of(config).total == expected


def test_linear_parameters_are_those_of_transformers() -> None:
    from torch import nn

    from tiny import tiny_model

    model = tiny_model("bert")
    weights = {
        name: module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layer." in name
    }
    found = LayerWeights.of(model.config.to_dict())
    assert found.total == sum(weights.values())
    last = [size for name, size in weights.items() if ".layer.1." in name and ".self." not in name]
    assert found.behind_last_attention == sum(last)


def test_training_with_frozen_weights_costs_four_operations_a_weight_and_token() -> None:
    weights = LayerWeights(total=10, behind_last_attention=4)
    rates = {"samples_per_s": 2.0, "tokens_per_s": 100.0}
    assert layer_flops_per_s(weights, "training", **rates, narrows=False) == 4 * 10 * 100
    assert layer_flops_per_s(weights, "prediction", **rates, narrows=False) == 2 * 10 * 100
    assert layer_flops_per_s(weights, "training", **rates, narrows=True) == 4 * (6 * 100 + 4 * 2)


def test_the_limit_of_the_issue_is_a_full_share() -> None:
    """2.5 TFLOP/s are about 1,080 samples/s of MiniLM in training, at 54.5 tokens each."""
    weights, rates = LayerWeights.of(MINILM), {"samples_per_s": 1080, "tokens_per_s": 1080 * 54.5}
    flops = layer_flops_per_s(weights, "training", **rates, narrows=False)
    assert flops / 2.5e12 == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ([3.0, 2.0, 1.0], True),
        ([1.0, 2.0, 3.0], False),
        ([2.0, 1.9], True),
        ([2.0], False),
        ([2, 9, 9, 1], True),
    ],
)
def test_a_loss_falls_when_its_last_third_is_below_its_first(objective: list[float], expected: bool) -> None:
    assert falls(objective) is expected


def test_the_objective_stops_at_the_final_cut_and_holds_the_penalty() -> None:
    events = [
        {"event": "step", "loss": 1.0, "orthogonality": 2.0},
        {"event": "evaluation"},
        {"event": "step", "loss": 0.5, "orthogonality": 2.0},
        {"event": "pruned"},
        {"event": "step", "loss": 0.5, "orthogonality": 0.1},
    ]
    assert objective_before_cut(events, 0.5) == (2.0, 1.5)


def test_agreement_is_the_share_of_equal_labels() -> None:
    assert agreement(["a", "b", "c", "d"], ["a", "b", "c", "x"]) == 0.75


def test_the_higher_matrix_rate_of_two_counts() -> None:
    assert the_higher({"bf16": 2.0, "fp32": 1.0}, {"bf16": 1.0, "fp32": 3.0}) == {"bf16": 2.0, "fp32": 3.0}


def test_slug_is_fit_for_a_file_name() -> None:
    assert slug("AMD EPYC 9R14 96-Core Processor") == "amd-epyc-9r14-96-core-processor"
    assert slug("Intel(R) Xeon(R) CPU @ 2.0GHz") == "intel-xeon-cpu-2-0ghz"


def test_repeated_rows_are_all_different(tmp_path: Path) -> None:
    rows = list(repeated([("one", "a"), ("two", "b")], 5))
    assert rows == [("one 0", "a"), ("two 0", "b"), ("one 1", "a"), ("two 1", "b"), ("one 2", "a")]
    path = write_rows(tmp_path / "rows.csv", rows)
    assert path.read_text("utf-8").splitlines()[:2] == ["text,label", "one 0,a"]


def test_lines_are_medians_and_ratios_to_leantune() -> None:
    samples = {
        USUAL: [sample(10), sample(12), sample(11, peak_rss_bytes=3 * 10**9)],
        LEANTUNE: [sample(100), sample(96), sample(121)],
    }
    samples["in int8"] = [replace(each, in_int8=True) for each in samples[LEANTUNE]]
    weights = LayerWeights(total=10, behind_last_attention=4)
    usual, ours, int8 = report.lines_of(samples, "training", weights, matrix_flops=1e6)
    assert usual["samples_per_s"] == 11
    assert usual["leantune_speedup"] == asdict(Spread(10.0, 8.0, 11.0))
    assert usual["share_of_limit"] == pytest.approx(550 * 40 / 1e6)
    assert usual["peak_rss_bytes"] == 10**9
    assert ours["leantune_speedup"] is None
    assert report.cells_of(usual) == [USUAL, "11.0", "550", "10.0x (8.0 to 11.0)", "2.2 %", "1.00 GB"]
    assert report.cells_of(ours)[3] == ""
    assert ours["share_of_limit"] == pytest.approx(4 * (5000 * 6 + 100 * 4) / 1e6)
    assert int8["share_of_limit"] is None, "the limit is that of another type"
    assert report.cells_of(int8)[4] == ""


def test_growth_ratios() -> None:
    growth = Growth(
        few_rows=100,
        many_rows=1000,
        few_s=2.0,
        many_s=20.4,
        few_rss_bytes=10**9,
        many_rss_bytes=11 * 10**8,
    )
    assert growth.time_ratio == pytest.approx(10.2)
    assert growth.memory_ratio == pytest.approx(1.1)
    text = markdown_of(
        {
            "date": "2030-01-31",
            "command": "python -m benchmarks.growth",
            "hardware": {"cpu": "A CPU", "gpu": None, "cores": 2},
            "versions": {"torch": "2", "datasets": "5"},
            "data": "AG News",
            "model": "MiniLM-L6",
            "growth": {"tokenizing": asdict(growth)},
        }
    )
    assert "| tokenizing | 100 / 1,000 | 2.0 / 20.4 | 50 / 49 | 10.20 | 1.00 / 1.10 GB | 1.10 |" in text


def test_pipelines_that_saw_other_tokens_or_did_not_learn_are_named(tmp_path: Path) -> None:
    samples = {
        USUAL: [sample(1, objective=(3.0, 2.0, 1.0))],
        LEANTUNE: [sample(1, objective=(1.0, 2.0, 3.0), tokens=999)],
    }
    tokens, loss = problems_of(comparison_of(tmp_path, samples))
    assert tokens == (
        "MiniLM-L6, training: the pipelines saw different numbers of real tokens: usual [1000], leantune [999]"
    )
    assert loss == "MiniLM-L6, training: the loss of 'leantune' does not fall"


def test_random_weights_need_not_learn(tmp_path: Path) -> None:
    model = Model("RoBERTa-base shape", Path("model"), LayerWeights.of(ROBERTA), 2e-4, False)
    samples = {USUAL: [sample(1, objective=(1.0, 2.0))], LEANTUNE: [sample(1, objective=(1.0, 2.0))]}
    assert problems_of(comparison_of(tmp_path, samples, model=model)) == []


def test_predictions_that_differ_are_named(tmp_path: Path) -> None:
    samples = {
        USUAL: [sample(1, labels=("a", "b", "c"))],
        BEST: [sample(1, labels=("a", "b", "c"))],
        LEANTUNE: [sample(1, labels=("a", "c", "b"))],
    }
    (problem,) = problems_of(comparison_of(tmp_path, samples, task="prediction"))
    assert "'leantune' gives 33.3 % of the rows the label" in problem


def test_both_forms_of_a_result_hold_the_same_table(tmp_path: Path) -> None:
    samples = {USUAL: [sample(10)], BEST: [sample(25)], LEANTUNE: [sample(100, objective=(2.0, 1.0))]}
    result = {
        "date": "2030-01-31",
        "commit": "1234",
        "command": "python -m benchmarks.speed",
        "hardware": {"cpu": "A CPU", "gpu": None, "cores": 2, "memory_bytes": 2 * 10**9},
        "versions": {"torch": "2.0"},
        "data": "AG News",
        "problems": ["a problem"],
        "missing": [],
        **report.measurements_of([comparison_of(tmp_path, samples)], {"bf16": 2.5e12, "fp32": 1e12}),
    }
    result = json.loads(json.dumps(result))  # as it is read back from its file
    text = report.markdown_of(result, "picture.png")
    assert "# Speed on A CPU, 2030-01-31" in text
    assert "`python -m benchmarks.speed`, commit 1234, on A CPU, 2 cores, 2030-01-31; torch 2.0." in text
    assert "| usual | 10.0 | 500 | 10.0x (10.0 to 10.0) | 0.8 % | 1.00 GB |" in text
    assert "**Not valid:** a problem" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(result["comparisons"][0]["lines"]) == 5
    result["hardware"]["onednn_max_cpu_isa"] = "AVX2"
    assert "# Speed on A CPU (ONEDNN_MAX_CPU_ISA=AVX2), 2030-01-31" in report.markdown_of(
        result, "picture.png"
    )


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    line = {"pipeline": USUAL, "samples_per_s": 10.0, "leantune_speedup": {"median": 2.0}}
    ours = {"pipeline": LEANTUNE, "samples_per_s": 20.0, "leantune_speedup": None}
    report.draw({"comparisons": [{"title": "a", "lines": [line, ours]}]}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_process_is_measured_by_its_own_peak(tmp_path: Path) -> None:
    place = workplace(tmp_path)
    small = place.run([sys.executable, "-c", "pass"])  # not below the peak of the process of the tests
    large = place.run([sys.executable, "-c", f"x = b'1' * {small.peak_rss_bytes + 10**8}"])
    assert large.peak_rss_bytes > small.peak_rss_bytes + 10**8
    assert small.wall_s > 0


def test_a_failed_process_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    for work in (workplace(tmp_path).run, workplace(tmp_path).output_of):
        with pytest.raises(RuntimeError, match=r"exit code 1 of: .*\n.*no such model"):
            work(command)


def printing(name: str, order: list[str]) -> Pipeline:
    """A pipeline that only notes when it ran."""

    def read(work: Workload, folder: Path, outcome: Outcome) -> Sample:
        order.append(name)
        return sample(1)

    return Pipeline(name, lambda work, folder: [sys.executable, "-c", "pass"], read)


def test_pipelines_alternate_until_the_rounds_are_done(tmp_path: Path) -> None:
    order: list[str] = []
    comparison = comparison_of(tmp_path, {}, pipelines=[printing(USUAL, order), printing(LEANTUNE, order)])
    run_rounds([comparison], workplace(tmp_path), rounds=2, limit_s=60)
    assert order == [USUAL, LEANTUNE, USUAL, LEANTUNE]
    assert comparison.num_rounds == 2


def test_what_a_pipeline_needs_is_made_before_it_in_every_round(tmp_path: Path) -> None:
    made = tmp_path / "made"

    def before(work: Workload) -> list[str]:
        return [sys.executable, "-c", f"open({str(made)!r}, 'x')"]

    def command(work: Workload, folder: Path) -> list[str]:
        return [sys.executable, "-c", f"import os; os.remove({str(made)!r})"]

    pipeline = Pipeline(LEANTUNE, command, lambda work, folder, outcome: sample(1), before=before)
    comparison = comparison_of(tmp_path, {}, pipelines=[pipeline])
    run_rounds([comparison], workplace(tmp_path), rounds=2, limit_s=60)
    assert comparison.num_rounds == 2


def test_engines_that_need_an_export_make_it_first(tmp_path: Path) -> None:
    work = workload(tmp_path)
    engines = {}
    for pipeline in pipelines_of("prediction", is_long=True, has_int8=True):
        words = pipeline.command(work, tmp_path)
        if "--engine" in words:
            export = pipeline.before(work) if pipeline.before else None
            engines[words[words.index("--engine") + 1]] = export and export[export.index("--format") + 1]
    assert engines == {"torch": None, "openvino": "openvino", "openvino-int8": "openvino-int8"}


def test_no_round_begins_that_would_pass_the_limit(tmp_path: Path) -> None:
    heard: list[str] = []
    comparison = comparison_of(tmp_path, {}, pipelines=[printing(LEANTUNE, [])])
    run_rounds([comparison], workplace(tmp_path, heard), rounds=5, limit_s=0)
    assert comparison.num_rounds == 1
    assert heard[-1].startswith("stopped after 1 of 5 rounds")


@pytest.mark.parametrize("task", ["training", "prediction"])
def test_the_long_form_adds_pipelines_and_keeps_leantune_last(tmp_path: Path, task: str) -> None:
    short, long = (pipelines_of(task, is_long=is_long, has_int8=True) for is_long in (False, True))
    theirs = [USUAL, BEST, ROUNDED, *([EAGER] if task == "training" else [])]
    assert [p.name for p in short if not p.name.startswith(LEANTUNE)] == theirs
    assert {p.name for p in short} < {p.name for p in long}
    assert long[-1].name == LEANTUNE


def test_both_sides_train_with_the_same_recipe(tmp_path: Path) -> None:
    usual, *_, lean = (
        p.command(workload(tmp_path), tmp_path)
        for p in pipelines_of("training", is_long=False, has_int8=True)
    )
    theirs = dict(zip(usual[2::2], usual[3::2], strict=True))
    recipe = dict(word.split("=", 1) for word in lean if "=" in word)
    same = {
        "--init-rank": "init_rank",
        "--target-rank": "target_rank",
        "--alpha": "alpha",
        "--dropout": "lora_dropout",
        "--epochs": "epochs",
        "--batch-size": "batch_size",
        "--learning-rate": "learning_rate",
        "--max-length": "max_length",
        "--train": "data",
        "--model": "model",
    }
    assert {key: theirs[key] for key in same} == {key: recipe[ours] for key, ours in same.items()}
    constants = {
        "weight_decay": trainer_peft.WEIGHT_DECAY,
        "warmup": trainer_peft.WARMUP,
        "orth_reg_weight": trainer_peft.ORTHOGONALITY,
        "rank_warmup": trainer_peft.RANK_WARMUP,
        "rank_final": trainer_peft.RANK_FINAL,
        "allocate_every": trainer_peft.ALLOCATE_EVERY,
    }
    assert {key: float(recipe[key]) for key in constants} == constants
    assert theirs["--precision"] == "bf16"
    assert recipe["precision"] == "auto"  # the same, with frozen products in int8 where the machine has that
    assert recipe["dropout"] == "none"  # the encoder's own, as theirs
    assert "--encoder-dropout" not in theirs


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("adapter", ["adalora", "lora"])
def test_the_peer_trains_and_its_ranks_move(inputs: Path, tmp_path: Path, monkeypatch, adapter: str) -> None:
    words = {
        "--model": inputs / "encoder",
        "--train": inputs / "train.csv",
        "--test": inputs / "test.csv",
        "--output": tmp_path / "result.json",
        "--adapter": adapter,
        "--precision": "fp32",
        "--init-rank": 4,
        "--target-rank": 2,
        "--max-steps": 12,
        "--attention": "eager",
    }
    monkeypatch.setattr(sys, "argv", ["trainer_peft.py", *(str(w) for pair in words.items() for w in pair)])
    trainer_peft.main()
    result = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert result["steps"] == 12
    assert result["samples"] == 12 * 32 - (32 - 240 % 32)
    assert 0 < result["real_tokens"] <= result["padded_tokens"]
    assert len(result["evaluations"]) == 1
    if adapter == "adalora":
        assert sum(result["ranks"].values()) == 2 * len(result["ranks"])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_peers_lora_can_start_as_pissa_and_train_as_lora_plus(inputs: Path, tmp_path: Path) -> None:
    options = argparse.Namespace(
        **DEFAULTS,
        model=str(inputs / "encoder"),
        adapter="lora",
        target_rank=2,
        learning_rate=1e-3,
        seed=1,
    )
    options.lora_init, options.loraplus_ratio, options.precision = "pissa", 4, "fp32"
    model = trainer_peft.adapted_model(options, ["a", "b"])
    layer = next(module for module in model.modules() if hasattr(module, "lora_B"))
    assert layer.lora_B["default"].weight.abs().min() > 0  # LoRA's own is zero
    watch = trainer_peft.StopWatch()
    trainer = trainer_peft.trainer_of(options, model, None, watch, str(tmp_path))
    rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert rates[id(layer.lora_A["default"].weight)] == 1e-3
    assert rates[id(layer.lora_B["default"].weight)] == 4e-3


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("words", "expected"), [((), 0.1), (("--encoder-dropout", "0"), 0.0)])
def test_the_peers_encoder_keeps_its_dropout_unless_told(inputs: Path, monkeypatch, words, expected) -> None:
    needed = [
        "--model",
        str(inputs / "encoder"),
        "--train",
        "t.csv",
        "--output",
        "o.json",
        "--dropout",
        "0.3",
    ]
    monkeypatch.setattr(sys, "argv", ["trainer_peft.py", *needed, *words])
    model = trainer_peft.adapted_model(trainer_peft.parse_options(), ["a", "b"])
    dropouts = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert {p for name, p in dropouts.items() if "lora_dropout" not in name} == {expected}
    assert {p for name, p in dropouts.items() if "lora_dropout" in name} == {0.3}


def test_both_predictions_of_the_startup_benchmark_are_of_its_rows(run: Path, tmp_path: Path) -> None:
    commands = startup.commands_for(run, tmp_path)
    predictions = []
    for name in (startup.PREDICT, startup.PIPELINE):
        workplace(tmp_path).run(commands[name])
        lines = (tmp_path / "predictions.csv").read_text("utf-8").splitlines()[-startup.NUM_ROWS :]
        predictions.append(
            [(label, float(score)) for label, score in (line.split(",")[-2:] for line in lines)]
        )
    for (label, score), (pipeline_label, pipeline_score) in zip(*predictions, strict=True):
        assert label == pipeline_label
        assert score == pytest.approx(pipeline_score, abs=0.02)  # bf16 where the machine has it


def test_the_table_of_contention_shows_what_is_kept_and_what_should_be():
    result = {
        "date": "2026-01-31",
        "command": "python -m benchmarks.contention",
        "commit": "1234",
        "hardware": {"cpu": "A CPU", "gpu": None, "cores": 2},
        "texts_per_s": {
            "training": {
                "best setting": {"0": [20.0, 22.0, 21.0], "1": [10.5], "2": [5.0]},
                "leantune": {"0": [300.0, 310.0], "1": [183.0], "2": [61.0]},
            }
        },
    }
    text = contention.markdown_of(result)
    assert "| training | best setting | 21.0 | 10.5 (50%) | 5.0 (24%) |" in text
    assert "| training | leantune | 305.0 | 183.0 (60%) | 61.0 (20%) |" in text
    assert text.endswith("- training keeps 20% beside 2, and should keep 33%\n")


def test_busy_processes_end_with_the_measurement(monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        contention.subprocess, "Popen", lambda *args: started.append(popen(*args)) or started[-1]
    )

    @contention.busy_processes(2)
    def measure() -> None:
        assert [process.poll() for process in started] == [None, None]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure()
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2
