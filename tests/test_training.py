"""Whole runs on a tiny encoder: what a user gets, and that it is what was promised."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from leantune.cli.main import main
from leantune.config import load_recipe
from leantune.data.tokens.dataset import LabelledRows
from leantune.errors import CheckpointError, DivergedError, Interrupted, UsageError
from leantune.evaluation import batches as evaluation
from leantune.inference.load import load_run
from leantune.kernels.choose import why_no_kernels
from leantune.report import write_model_card, write_report
from leantune.training import run as run_module
from leantune.training import tuning
from leantune.training.after.finalize import select_best
from leantune.training.before import head_init as warm_start
from leantune.training.before import starts
from leantune.training.before.dataset import prepare_data
from leantune.training.build import build_classifier, fresh_state, prepare_run
from leantune.training.checkpoint import TENSORS, list_checkpoints
from leantune.training.loop import train
from leantune.training.run import run_training
from tiny import quiet, recipe_for, save_tiny_encoder, write_rows


def record_of(run: Path) -> dict:
    return json.loads((run / "record.json").read_text("utf-8"))


def history_of(run: Path, event: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text("utf-8").splitlines()]
    return [line for line in lines if line["event"] == event]


def encoder_without_pooler(encoder: Path, tmp_path: Path) -> Path:
    encoder = shutil.copytree(encoder, tmp_path / "encoder")
    tensors = load_file(encoder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    save_file(kept, encoder / "model.safetensors", {"format": "pt"})
    return encoder


def rows_of_pairs(inputs: Path, tmp_path: Path) -> dict[str, str]:
    """Recipe keys of a file of pairs, which is written here."""
    rows = (inputs / "train.csv").read_text("utf-8").splitlines()[1:]
    path = tmp_path / "pairs.csv"
    path.write_text("question,context,target\n" + "\n".join(f"word9,{row}" for row in rows) + "\n", "utf-8")
    return {"data": str(path), "text_column": "question", "text_pair_column": "context"}


def test_the_run_folder_is_complete_and_holds_no_pickle(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "recipe.yaml",
        "record.json",
        "history.jsonl",
        "rows_to_check.jsonl",
        "checkpoints",
        "adapter",
        "merged",
    }
    suffixes = {path.suffix for path in run.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".jsonl", ".yaml", ".safetensors", ".html", ".md", ".txt"}


def test_training_without_a_probe_learns(inputs, tmp_path):
    learned = recipe_for(
        inputs,
        tmp_path / "run",
        warm_start=False,
        adapter_init="lora",
        orth_reg_weight=0,
        epochs=6,
    )
    run = run_training(learned, console=quiet())
    losses = [line["loss"] for line in history_of(run, "step")]
    assert np.mean(losses[:5]) > 0.9
    assert np.mean(losses[-5:]) < 0.75
    assert record_of(run)["metrics"]["test"]["accuracy"] > 0.6


def test_the_probe_is_measured_as_the_baseline(run):
    record = record_of(run)
    assert record["baseline"]["test"]["accuracy"] > 0.6
    assert record["timings"]["probe_s"] > 0
    assert record["timings"]["baseline_s"] > 0


def test_ranks_end_at_the_target_and_the_record_says_where(run):
    record = record_of(run)
    ranks = record["ranks"]
    assert sum(ranks.values()) == record["schedule"]["target_budget"] == 4
    assert len(set(ranks.values())) > 1, "adaptive allocation that leaves all ranks equal is suspicious here"
    (pruned,) = history_of(run, "pruned")
    assert pruned["step"] == record["schedule"]["prune_step"]
    assert ranks == pruned["ranks"]
    assert record["parameters"]["final"] == pruned["trainable"] < record["parameters"]["initial"]
    budgets = [line["budget"] for line in history_of(run, "step")]
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[0] == 16
    assert budgets[-1] == 4


def test_the_live_count_equals_the_budget_after_every_allocation(run):
    for line in history_of(run, "step"):
        if "ranks" in line:
            assert line["live_triplets"] == line["spent"] == sum(line["ranks"].values()) == line["budget"]


def test_orthogonality_is_logged_apart_and_not_in_evaluation(run, inputs):
    from leantune.data.text.read import Columns, open_examples
    from leantune.inference.evaluate import measure

    assert history_of(run, "step")[0]["orthogonality"] > 1  # the normal start
    source = open_examples(str(inputs / "test.csv"), Columns(), labels="required")
    merged = measure(load_run(run), source, 64)
    assert record_of(run)["metrics"]["test"]["log_loss"] == pytest.approx(merged.log_loss, abs=1e-4)


def test_both_artefacts_were_reloaded_and_agree(run):
    artefacts = record_of(run)["artefacts"]
    assert artefacts["adapter"]["max_logit_difference"] < 5e-5
    assert artefacts["merged"]["max_logit_difference"] < 5e-5


def test_peft_loads_the_adapter_with_pruned_modules_and_the_pipeline_loads_the_merged_model(run, inputs):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    record = record_of(run)
    assert 0 in record["ranks"].values()
    base = AutoModelForSequenceClassification.from_pretrained(str(inputs / "encoder"), num_labels=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = PeftModel.from_pretrained(base, str(run / "adapter")).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(run / "adapter"))
    texts = ["word1 word2 word9", "word17 word18", "word3 word3 word3 word3"]
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        by_peft = adapted(**encoded).logits.softmax(-1)
    classify = pipeline("text-classification", model=str(run / "merged"), top_k=None)
    for row, answer in zip(by_peft, classify(texts), strict=True):
        by_label = {each["label"]: each["score"] for each in answer}
        assert [by_label[name] for name in ("a", "b", "c")] == pytest.approx(row.tolist(), abs=1e-5)


def test_the_pipeline_cuts_a_long_text_where_the_run_did(run):
    from transformers import pipeline

    trained = load_run(run, precision="fp32")
    text = " ".join(["word1"] * trained.tokenizer.max_length + ["word18"] * 40)
    classify = pipeline("text-classification", model=str(run / "merged"), truncation=True, top_k=None)
    by_label = {each["label"]: each["score"] for each in classify([text])[0]}
    expected = trained.predict_proba([text])[0]
    assert [by_label[name] for name in ("a", "b", "c")] == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_same_recipe_gives_the_same_bits(inputs, run, tmp_path):
    again = run_training(recipe_for(inputs, tmp_path / "again"), console=quiet())
    for name in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
        assert (run / name).read_bytes() == (again / name).read_bytes()
    assert record_of(run)["metrics"] == record_of(again)["metrics"]


def test_another_seed_gives_another_model(inputs, run, tmp_path):
    other = run_training(recipe_for(inputs, tmp_path / "other", seed=8), console=quiet())
    name = "merged/model.safetensors"
    assert (run / name).read_bytes() != (other / name).read_bytes()


def test_only_the_best_checkpoints_and_the_last_two_stay(run):
    record = record_of(run)
    kept = {each["step"] for each in record["checkpoints"] if each["kept"]}
    assert set(list_checkpoints(run)) == kept | {36, 48}
    eligible = [each for each in record["checkpoints"] if each["ranks_final"]]
    best = max(each["validation"]["accuracy"] for each in eligible)
    chosen = next(each for each in record["checkpoints"] if each["step"] == record["selected"]["step"])
    assert chosen["validation"]["accuracy"] == best


def test_the_selected_checkpoint_is_what_was_published(run):
    record = record_of(run)
    path = list_checkpoints(run)[record["selected"]["step"]]
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    tensors = load_file(path / TENSORS)
    weights = {k: v for k, v in tensors.items() if k.startswith("model.") and "lora_E" in k}
    assert weights
    for name, tensor in weights.items():
        assert torch.equal(adapter["base_model.model." + name.removeprefix("model.")], tensor)


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulate": 3},
        {"accumulate": 3, "class_weights": "balanced"},
    ],
)
def test_gradient_accumulation_takes_the_same_steps(inputs, tmp_path, changes):
    """Without dropout a batch in three pieces is the same batch."""
    folder = save_tiny_encoder(
        tmp_path / "encoder", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    common = {
        "model": str(folder),
        "lora_dropout": 0.0,
        "epochs": 1,
        "warm_start": False,
        "supcon_weight": 0,  # which knows the texts of one micro-step alone
    }
    one = {key: value for key, value in changes.items() if key != "accumulate"}
    whole = run_training(recipe_for(inputs, tmp_path / "whole", **common, **one), console=quiet())
    pieces = run_training(recipe_for(inputs, tmp_path / "pieces", **common, **changes), console=quiet())
    for a, b in zip(history_of(whole, "step"), history_of(pieces, "step"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["orthogonality"] == pytest.approx(b["orthogonality"], rel=1e-3)


PADDED = ["roberta-prelayernorm", "albert", "nomic_bert", "longformer", "opt", "phi"]
"""Some of them: their code is transformers' own."""


@pytest.mark.parametrize(
    "model_type",
    [
        "roberta",
        "distilbert",
        "electra",
        "modernbert",
        "mpnet",
        "deberta-v2",
        "llama",
        "qwen3",
        "gemma3_text",
        "eurobert",
        *PADDED,
    ],
)
def test_every_architecture_trains_and_its_artefacts_agree(inputs, tmp_path, model_type):
    folder = save_tiny_encoder(tmp_path / "encoder", model_type)
    recipe = recipe_for(inputs, tmp_path / "run", model=str(folder), epochs=2, test=None, refit=True)
    record = record_of(run_training(recipe, console=quiet()))
    assert record["model"]["attention"] == ("padded" if model_type in PADDED else "packed")
    assert record["artefacts"]["merged"]["max_logit_difference"] < 1e-4
    assert record["refit"]["rows"] == 240
    assert sum(record["ranks"].values()) == record["schedule"]["target_budget"]


@pytest.mark.parametrize(
    ("model_type", "output", "hidden"),
    [
        ("bert", "classifier", None),
        ("roberta", "classifier.out_proj", "classifier.dense"),
        ("mpnet", "classifier.out_proj", "classifier.dense"),
        ("distilbert", "classifier", "pre_classifier"),
        ("modernbert", "classifier", "head.dense"),
    ],
)
def test_the_layers_of_every_head_learn_at_their_rates(inputs, tmp_path, model_type, output, hidden):
    folder = save_tiny_encoder(tmp_path / "encoder", model_type)
    rates = {"head_learning_rate_ratio": 5, "hidden_learning_rate_ratio": 0.2}
    recipe = recipe_for(inputs, tmp_path / "run", model=str(folder), **rates)
    run = prepare_run(recipe, console=quiet(), overwrite=False, resume=False)
    state = fresh_state(run, build_classifier(run), run.steps.ranks)
    ratios = {id(p): group["lr_ratio"] for group in state.optimizer.param_groups for p in group["params"]}
    found = {name: ratios[id(p)] for name, p in state.classifier.trainable().items()}
    assert found[f"{output}.weight"] == 5
    assert hidden is None or found[f"{hidden}.weight"] == 0.2
    assert {ratio for name, ratio in found.items() if ".lora_" in name} == {1.0}


def test_all_linear_layers_under_a_limit(inputs, tmp_path):
    recipe = recipe_for(
        inputs,
        tmp_path / "run",
        targets="all-linear",
        max_trainable_params=8000,
        init_rank=None,
        target_rank=None,
        epochs=2,
    )
    console = quiet()
    run = run_training(recipe, console=console)
    record = record_of(run)
    parameters, schedule = record["parameters"], record["schedule"]
    last = history_of(run, "step")[-1]
    assert last["live_triplets"] == last["budget"] == schedule["target_budget"]
    assert parameters["initial"] <= 8000
    left, initial = sum(record["ranks"].values()), sum(m["initial_rank"] for m in parameters["modules"])
    assert f"{left} of {initial} triplets left" in console.file.getvalue()
    assert left == schedule["target_budget"]
    costs = (m["final_rank"] * (m["in_features"] + m["out_features"] + 1) for m in parameters["modules"])
    assert parameters["adapters_final"] == sum(costs)
    assert record["artefacts"]["adapter"]["max_logit_difference"] < 5e-5


def test_bf16_and_a_linear_head_work_together(inputs, tmp_path):
    folder = save_tiny_encoder(tmp_path / "encoder", "roberta")
    recipe = recipe_for(
        inputs,
        tmp_path / "run",
        model=str(folder),
        precision="bf16",
        head="linear",
        label_smoothing=0.1,
        epochs=2,
    )
    record = record_of(run_training(recipe, console=quiet()))
    assert record["parameters"]["head"] == 32 * 3 + 3
    assert record["model"]["precision"] == "bf16"
    assert record["artefacts"]["adapter"]["max_logit_difference"] < 5e-5


@pytest.mark.parametrize("model_type", PADDED)
def test_a_padded_architecture_trains_in_bf16(inputs, tmp_path, model_type):
    folder = save_tiny_encoder(tmp_path / "encoder", model_type)
    recipe = recipe_for(inputs, tmp_path / "run", model=str(folder), precision="bf16", epochs=2)
    run = run_training(recipe, console=quiet())
    assert record_of(run)["model"] | {"sha256": ""} == record_of(run)["model"] | {
        "sha256": "",
        "attention": "padded",
        "precision": "bf16",
    }
    assert next(load_run(run).classifier.model.base_model.parameters()).dtype == torch.bfloat16


def test_a_plan_without_weights_says_what_it_takes_them_to_have(inputs, tmp_path, capsys):
    bare = tmp_path / "bare"
    shutil.copytree(inputs / "encoder", bare, ignore=shutil.ignore_patterns("*.safetensors"))
    said = "counted as if the weights, which are not here, had bert.pooler: else its 1,056 parameters are trained"
    for model, is_said in ((bare, True), (inputs / "encoder", False)):
        words = [
            f"data={inputs / 'train.csv'}",
            f"model={model}",
            "max_trainable_params=4000",
            "max_length=32",
        ]
        assert main(["plan", *words]) == 0
        assert (said in capsys.readouterr().out) is is_said


def test_an_encoder_that_does_not_compute_in_bf16_is_told_what_does(inputs, tmp_path):
    folder = save_tiny_encoder(tmp_path / "encoder", "fnet")
    keys = {"model": str(folder), "targets": "all-linear", "epochs": 1}
    with pytest.raises(UsageError, match=r"fnet does not compute in bf16 \(.*\); use precision=fp32"):
        run_training(recipe_for(inputs, tmp_path / "run", precision="bf16", **keys), console=quiet())
    assert record_of(run_training(recipe_for(inputs, tmp_path / "run", **keys), console=quiet()))


def test_an_encoder_without_a_classifier_is_refused(inputs, tmp_path):
    folder = save_tiny_encoder(tmp_path / "encoder", "splinter")
    with pytest.raises(UsageError, match="transformers has no sequence classifier for splinter"):
        run_training(recipe_for(inputs, tmp_path / "run", model=str(folder)), console=quiet())


@pytest.mark.parametrize("model_type", ["bert", "albert", "nomic_bert"])
def test_a_missing_pooler_is_trained_counted_and_saved(inputs, tmp_path, model_type):
    folder = encoder_without_pooler(save_tiny_encoder(tmp_path / "whole", model_type), tmp_path)
    record = record_of(
        run_training(recipe_for(inputs, tmp_path / "run", model=str(folder), epochs=2), console=quiet())
    )
    assert record["parameters"]["head"] == (32 * 3 + 3) + (32 * 32 + 32)
    assert record["artefacts"]["adapter"]["max_logit_difference"] < 5e-5


def test_text_pairs_train(inputs, tmp_path):
    folder = save_tiny_encoder(tmp_path / "encoder", type_vocab_size=2)
    changes = {"model": str(folder), "test": None, "epochs": 2, **rows_of_pairs(inputs, tmp_path)}
    record = record_of(run_training(recipe_for(inputs, tmp_path / "run", **changes), console=quiet()))
    assert record["artefacts"]["merged"]["max_logit_difference"] < 5e-5


def test_the_scale_of_the_warm_start_changes_the_first_loss_and_not_the_baseline(
    inputs, tmp_path, monkeypatch
):
    def started_at(name: str, scale: float) -> Path:
        monkeypatch.setattr(starts, "PROBE_SCALE", scale)
        return run_training(recipe_for(inputs, tmp_path / name, epochs=1), console=quiet())

    flat, steep = started_at("flat", 1e-6), started_at("steep", 1.0)
    assert record_of(flat)["baseline"] == record_of(steep)["baseline"]
    num_labels = len(record_of(flat)["labels"]["names"])
    first = history_of(flat, "step")[0]["loss"]
    assert first == pytest.approx(np.log(num_labels), abs=1e-4)  # all logits are 0
    assert abs(history_of(steep, "step")[0]["loss"] - first) > 0.1


def test_the_probe_sees_every_class_however_rare(inputs, tmp_path, monkeypatch):
    rows = [f"word1 word{i % 90},common" for i in range(400)] + ["word99 word98,rare", "word99 word97,rare"]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n", "utf-8")
    monkeypatch.setattr(warm_start, "ENOUGH_ROWS", 8)
    monkeypatch.setattr(warm_start, "ENOUGH_OF_A_CLASS", 0)
    changes = {"data": str(tmp_path / "train.csv"), "test": None, "validation_size": 4, "epochs": 1}
    run = run_training(recipe_for(inputs, tmp_path / "run", **changes), console=quiet())
    baseline = record_of(run)["baseline"]
    assert baseline["rows"] in (8, 9)
    assert baseline["validation"]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("enough", "of_a_class", "most", "expected"),
    [(8, 0, 99, 8), (8, 10, 99, 20), (8, 10, 15, 15), (40, 0, 99, 40), (50, 10, 99, 40), (1, 0, 99, 2)],
)
def test_the_probe_takes_as_many_rows_as_its_classes_need(monkeypatch, enough, of_a_class, most, expected):
    monkeypatch.setattr(warm_start, "ENOUGH_ROWS", enough)
    monkeypatch.setattr(warm_start, "ENOUGH_OF_A_CLASS", of_a_class)
    monkeypatch.setattr(warm_start, "MAX_ROWS", most)
    places = np.arange(40)
    rows = LabelledRows((), np.zeros_like(places), places, places % 2)
    fitted = warm_start.rows_to_fit(rows, seed=0)
    assert len(fitted) == expected
    assert set(fitted.label_ids) == {0, 1}


@pytest.mark.parametrize(("compared", "num_folds"), [(4000, 5), (120, 3), (1, 1)])
@pytest.mark.parametrize("noise", [0.1, 1, 10])
def test_the_penalty_of_the_probe_is_that_of_cross_validation(monkeypatch, compared, num_folds, noise):
    monkeypatch.setattr(warm_start, "ROWS_TO_COMPARE_BY", compared)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 12))
    scores = features @ rng.normal(size=(12, 3)) + noise * rng.normal(size=(200, 3))
    label_ids = scores.argmax(-1)
    found, log_loss = warm_start._best_inverse_penalty(features, label_ids, np.random.default_rng(1))
    folds = np.random.default_rng(1).permutation(200).reshape(5, 40)[:num_folds]
    search = GridSearchCV(
        warm_start._logistic(1.0),
        {"C": warm_start.INVERSE_PENALTIES},
        cv=[(np.setdiff1d(np.arange(200), fold), fold) for fold in folds],
        scoring="neg_log_loss",
    )
    assert found == search.fit(features, label_ids).best_params_["C"]
    assert log_loss == pytest.approx(-search.best_score_)


def test_rows_of_one_class_tell_no_penalty():
    features = np.random.default_rng(0).normal(size=(9, 4))
    unknown = (0.1, math.inf)
    rng = np.random.default_rng(0)
    assert warm_start._best_inverse_penalty(features, np.zeros(9, np.int64), rng) == unknown
    assert warm_start._best_inverse_penalty(features[:1], np.zeros(1, np.int64), rng) == unknown


def test_early_stop_ends_before_the_last_step(inputs, tmp_path):
    recipe = recipe_for(
        inputs, tmp_path / "run", epochs=8, rank_final=0.8, evaluate_every=4, early_stop=1, learning_rate=1e-6
    )
    run = run_training(recipe, console=quiet())
    last = history_of(run, "evaluation")[-1]["step"]
    assert last < record_of(run)["schedule"]["total_steps"]
    run_training(recipe, console=quiet(), resume=True)  # as after a kill while it published
    assert history_of(run, "step")[-1]["step"] == history_of(run, "evaluation")[-1]["step"] == last


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_rows(inputs, tmp_path):
    recipe = recipe_for(inputs, tmp_path / "run", learning_rate=1e30, max_grad_norm=0, save_every=1)
    with pytest.raises(
        DivergedError,
        match=r"the loss of step \d+ is .*Rows of the batch, counted from 0: .*train.csv row \d+",
    ):
        run_training(recipe, console=quiet())
    last = list_checkpoints(tmp_path / "run")
    assert all(
        torch.isfinite(t).all()
        for t in load_file(last[min(last)] / TENSORS).values()
        if t.is_floating_point()
    )


def test_an_existing_run_is_not_replaced_unasked(inputs, run):
    with pytest.raises(UsageError, match="already holds a run"):
        run_training(recipe_for(inputs, run), console=quiet())
    assert (run / "record.json").exists()


class InterruptAt:
    """Ask for the end of a run after a given step, as a signal would."""

    def __init__(self, monkeypatch, step: int) -> None:
        from leantune.training import callbacks as observer

        original = observer.RunObserver.after_step

        def after_step(self, state, result):
            if state.step == step:
                self.interrupt.signal_number = 15
            return original(self, state, result)

        monkeypatch.setattr(observer.RunObserver, "after_step", after_step)


@pytest.mark.parametrize(
    "step", [2, 15, 27, 30, 40], ids=["warm-up", "pruning", "before the cut", "at epoch end", "final"]
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(inputs, run, tmp_path, monkeypatch, step):
    recipe = recipe_for(inputs, tmp_path / "run")
    with monkeypatch.context() as patch:
        InterruptAt(patch, step)
        with pytest.raises(Interrupted) as caught:
            run_training(recipe, console=quiet())
    assert caught.value.exit_code == 143
    run_training(recipe, console=quiet(), resume=True)
    name = "adapter/adapter_model.safetensors"
    assert (run / name).read_bytes() == (tmp_path / "run" / name).read_bytes()

    timings = record_of(tmp_path / "run")["timings"]
    assert timings["total_s"] > timings["train_s"], "of both processes"

    def without_times(folder: Path) -> list[dict]:
        return [
            {k: v for k, v in line.items() if k not in ("tokens_per_s", "train_s")}
            for event in ("step", "evaluation", "pruned")
            for line in history_of(folder, event)
        ]

    assert without_times(run) == without_times(tmp_path / "run")
    mine, theirs = (load_file(max(list_checkpoints(f).items())[1] / TENSORS) for f in (run, tmp_path / "run"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.parametrize(
    ("key", "then", "said"),
    [
        ("kernels", "torch: LEANTUNE_NATIVE=0 then", "kernels: was torch: LEANTUNE_NATIVE=0 then, is "),
        ("onednn_max_cpu_isa", "AVX2", "onednn_max_cpu_isa: was AVX2, is None"),
    ],
)
def test_going_on_with_other_kernels_is_allowed_and_said(inputs, tmp_path, monkeypatch, key, then, said):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    recipe = recipe_for(inputs, tmp_path / "run", epochs=1)
    with monkeypatch.context() as patch:
        InterruptAt(patch, 3)
        with pytest.raises(Interrupted):
            run_training(recipe, console=quiet())
    record = record_of(tmp_path / "run")
    record["hardware"][key] = then
    (tmp_path / "run" / "record.json").write_text(json.dumps(record))
    console = quiet()
    run_training(recipe, console=console, resume=True)
    assert f"results will not be bit-identical to an uninterrupted run: {said}" in console.file.getvalue()


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2"])
def test_a_run_in_bf16_learns_and_resumes_bit_for_bit(inputs, tmp_path, monkeypatch, model_type):
    # heads as wide as the native kernels want them
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96}
    encoder = save_tiny_encoder(tmp_path / "encoder", model_type, **sizes)
    runs = [tmp_path / "whole", tmp_path / "interrupted"]
    recipes = [recipe_for(inputs, run, model=str(encoder), precision="bf16", epochs=2) for run in runs]
    run_training(recipes[0], console=quiet())
    with monkeypatch.context() as patch:
        InterruptAt(patch, 7)
        with pytest.raises(Interrupted):
            run_training(recipes[1], console=quiet())
    run_training(recipes[1], console=quiet(), resume=True)
    adapters = [(run / "adapter" / "adapter_model.safetensors").read_bytes() for run in runs]
    assert adapters[0] == adapters[1]
    losses = [line["loss"] for line in history_of(runs[0], "step")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    kernels = record_of(runs[0])["hardware"]["kernels"]
    assert kernels.startswith(f"torch: {why_no_kernels()}" if why_no_kernels() else "native: ")


def test_resume_refuses_another_precision(inputs, tmp_path, monkeypatch):
    recipe = recipe_for(inputs, tmp_path / "run", epochs=1, precision="auto")
    with monkeypatch.context() as patch:
        InterruptAt(patch, 3)
        with pytest.raises(Interrupted):
            run_training(recipe, console=quiet())
    began_in = record_of(tmp_path / "run")["model"]["precision"]
    other = "fp32" if began_in == "bf16" else "bf16"
    monkeypatch.setattr("leantune.system.hardware.pick_precision", lambda choice, device: other)
    with pytest.raises(CheckpointError, match=f"computes in {began_in}, but precision=auto is {other}"):
        run_training(recipe, console=quiet(), resume=True)


def test_resume_from_elsewhere_names_the_directory_of_relative_paths(inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(inputs)
    recipe = recipe_for(Path(), tmp_path / "run")
    assert recipe.data == "train.csv"
    with monkeypatch.context() as patch:
        InterruptAt(patch, 3)
        with pytest.raises(Interrupted):
            run_training(recipe, console=quiet())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=rf"model=encoder: exists in {inputs}, where the run began"):
        run_training(recipe, console=quiet(), resume=True)
    monkeypatch.chdir(inputs)
    assert record_of(run_training(recipe, console=quiet(), resume=True))["status"] == "finished"


def test_resume_refuses_other_data(inputs, tmp_path, monkeypatch):
    write_rows(tmp_path / "train.csv", 240)
    recipe = recipe_for(inputs, tmp_path / "run", data=str(tmp_path / "train.csv"))
    with monkeypatch.context() as patch:
        InterruptAt(patch, 3)
        with pytest.raises(Interrupted):
            run_training(recipe, console=quiet())
    write_rows(tmp_path / "train.csv", 240, seed=5)
    with pytest.raises(CheckpointError, match="train sha256: was"):
        run_training(recipe, console=quiet(), resume=True)


def test_resume_refuses_other_weights_of_the_base_model(inputs, tmp_path, monkeypatch):
    folder = save_tiny_encoder(tmp_path / "encoder")
    recipe = recipe_for(inputs, tmp_path / "run", model=str(folder))
    with monkeypatch.context() as patch:
        InterruptAt(patch, 3)
        with pytest.raises(Interrupted):
            run_training(recipe, console=quiet())
    save_tiny_encoder(folder, initializer_range=0.03)
    with pytest.raises(CheckpointError, match=r"the weights of .* have changed"):
        run_training(recipe, console=quiet(), resume=True)


def test_a_run_that_was_interrupted_says_so_until_it_goes_on(inputs, tmp_path, monkeypatch):
    recipe = recipe_for(inputs, tmp_path / "run")
    with monkeypatch.context() as patch:
        InterruptAt(patch, 3)
        with pytest.raises(Interrupted):
            run_training(recipe, console=quiet())
    assert record_of(tmp_path / "run")["status"] == "interrupted"
    seen = []

    def looking(*arguments):
        seen.append(record_of(tmp_path / "run")["status"])
        return train(*arguments)

    monkeypatch.setattr(run_module, "train", looking)
    run_training(recipe, console=quiet(), resume=True)
    assert seen == ["running"]
    assert record_of(tmp_path / "run")["status"] == "finished"


def test_classes_that_look_alike_are_named(inputs, tmp_path):
    write_rows(tmp_path / "train.csv", 120, labels=("Spam", "spam", "caf\u00e9", "cafe\u0301", "ham"))
    console = Console(file=io.StringIO(), width=400)
    keys = {"data": str(tmp_path / "train.csv"), "test": None, "epochs": 1}
    run_training(recipe_for(inputs, tmp_path / "run", **keys), console=console)
    said = console.file.getvalue()
    assert "classes that look the same" in said
    assert re.search(r"'Spam' \(\d+ rows\) and 'spam' \(\d+ rows\)", said)
    assert re.search(r"\(U\+0063 U\+0061 U\+0066 U\+0065 U\+0301, \d+ rows\) and", said)
    assert "(U+0063 U+0061 U+0066 U+00E9, " in said


def test_a_damaged_checkpoint_is_skipped_by_name(inputs, run, tmp_path, monkeypatch):
    recipe = recipe_for(inputs, tmp_path / "run", save_every=4)
    with monkeypatch.context() as patch:
        InterruptAt(patch, 9)
        with pytest.raises(Interrupted):
            run_training(recipe, console=quiet())
    newest = tmp_path / "run" / "checkpoints" / "step-000009" / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    console = quiet()
    run_training(recipe, console=console, resume=True)
    assert "skipped step-000009: state.safetensors has SHA-256" in console.file.getvalue()
    name = "adapter/adapter_model.safetensors"
    assert (run / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


@pytest.mark.parametrize("kept", [None, 0, 700])
def test_a_history_that_was_cut_costs_its_lines_and_not_the_run(inputs, run, tmp_path, monkeypatch, kept):
    recipe = recipe_for(inputs, tmp_path / "run", keep_best=2)
    with monkeypatch.context() as patch:
        InterruptAt(patch, 9)
        with pytest.raises(Interrupted):
            run_training(recipe, console=quiet())
    history = tmp_path / "run" / "history.jsonl"
    whole = history.read_bytes()
    history.unlink() if kept is None else history.write_bytes(whole[:kept])
    console = quiet()
    run_training(recipe, console=console, resume=True)
    lines = whole[: kept or 0].count(b"\n")
    there = sum(map(len, whole.splitlines(keepends=True)[:lines]))
    assert f"history.jsonl has lost {len(whole) - there:,} bytes" in console.file.getvalue()
    steps = [line["step"] for line in history_of(tmp_path / "run", "step")]
    assert steps == [*range(1, lines + 1), *range(10, 49)]
    write_report(tmp_path / "run")
    name = "adapter/adapter_model.safetensors"
    assert (run / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_a_finished_run_that_is_resumed_stays_finished_until_it_is_published_again(
    inputs, tmp_path, monkeypatch
):
    recipe = recipe_for(inputs, tmp_path / "run", epochs=2)
    run_training(recipe, console=quiet())
    before = record_of(tmp_path / "run")

    def stop(run, classifier):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "measure_test", stop)
        with pytest.raises(Interrupted):
            run_training(recipe, console=quiet(), resume=True)
    assert record_of(tmp_path / "run") == before
    run_training(recipe, console=quiet(), resume=True)
    assert record_of(tmp_path / "run")["metrics"] == before["metrics"]


def test_a_run_that_diverged_does_not_advise_to_resume_it(inputs, tmp_path):
    recipe = recipe_for(inputs, tmp_path / "run", learning_rate=1e30, save_every=1)
    for resume in (False, True):
        with pytest.raises(DivergedError, match="A resumed run would reach it again: start over"):
            run_training(recipe, console=quiet(), resume=resume)


def test_a_damaged_runner_up_is_named_and_costs_nothing(inputs, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def spoil_the_runner_up(run, classifier, selection):
        rival = selection.ranking()[1]
        tensors = folder / "checkpoints" / f"step-{rival.step:06}" / "state.safetensors"
        content = bytearray(tensors.read_bytes())
        content[-1] ^= 1
        tensors.write_bytes(content)
        select_best(run, classifier, selection)

    monkeypatch.setattr("leantune.training.run.select_best", spoil_the_runner_up)
    said = io.StringIO()
    run_training(recipe_for(inputs, folder, keep_best=2), console=Console(file=said, width=200))
    assert re.search(r"skipped step-\d+: state.safetensors has SHA-256", said.getvalue())
    assert record_of(folder)["status"] == "finished"


def test_the_confusion_matrix_is_of_the_selected_checkpoint_and_not_in_every_one(run):
    record = record_of(run)
    assert not any("confusion" in each["validation"] for each in record["checkpoints"])
    metrics = record["metrics"]["validation"]
    right = sum(count for true, predicted, count in metrics["confusion"] if true == predicted)
    assert right / metrics["num_rows"] == pytest.approx(metrics["accuracy"])
    supports = [each["support"] for each in metrics["per_class"]]
    for class_id, support in enumerate(supports):
        assert sum(count for true, _, count in metrics["confusion"] if true == class_id) == support


def test_a_class_without_training_rows_has_no_weight(inputs, tmp_path):
    keys = {"labels": ("a", "b", "c", "d"), "class_weights": "balanced", "label_smoothing": 0.1}
    folder = run_training(recipe_for(inputs, tmp_path / "run", **keys), console=quiet())
    assert record_of(folder)["metrics"]["test"]["accuracy"] > 0.8


@pytest.mark.parametrize("warm_start", [True, False])
def test_an_encoder_that_gives_nan_ends_the_run_with_its_rows(inputs, tmp_path, warm_start):
    encoder = shutil.copytree(inputs / "encoder", tmp_path / "encoder")
    tensors = load_file(encoder / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"] *= 1e38
    save_file(tensors, encoder / "model.safetensors", {"format": "pt"})
    recipe = recipe_for(
        inputs, tmp_path / "run", model=str(encoder), warm_start=warm_start, adapter_init="lora"
    )
    with pytest.raises(DivergedError, match=r"precision=fp32.*train.csv row \d+"):
        run_training(recipe, console=quiet())


def test_a_pooler_that_the_checkpoint_lacks_is_drawn_by_the_seed_alone(inputs, tmp_path):
    encoder = encoder_without_pooler(inputs / "encoder", tmp_path)

    def pooler(seed: int, state: int) -> torch.Tensor:
        torch.manual_seed(state)
        recipe = recipe_for(inputs, tmp_path / "run", model=str(encoder), seed=seed)
        run = prepare_run(recipe, console=quiet(), overwrite=False, resume=False)
        weight = build_classifier(run).named_weights()["bert.pooler.dense.weight"]
        assert weight.requires_grad
        return weight.detach()

    assert torch.equal(pooler(1, 1), pooler(1, 2))
    assert not torch.equal(pooler(1, 1), pooler(2, 1))


def test_a_refit_takes_a_step_for_every_batch_of_training_and_validation_rows(inputs, tmp_path, monkeypatch):
    seen = []

    def recorded(state, phase, recipe, observer):
        before = {name: p.detach().clone() for name, p in state.classifier.trainable().items()}
        train(state, phase, recipe, observer)
        seen.append((before, state, phase))

    monkeypatch.setattr(tuning, "train", recorded)
    changes = {"refit": True, "class_weights": "balanced", "epochs": 2}
    run = run_training(recipe_for(inputs, tmp_path / "run", **changes), console=quiet())
    ((before, state, phase),) = seen
    assert len(phase.rows) == 240
    assert len(np.unique(phase.rows.hashes())) == len(np.unique(np.concatenate(_hashes_of(run))))
    counts = np.bincount(phase.rows.label_ids)
    torch.testing.assert_close(phase.class_weights, torch.tensor(240 / (3 * counts), dtype=torch.float32))
    assert state.step == phase.total_steps == -(-240 // 16) == record_of(run)["refit"]["steps"]
    after = state.classifier.trainable()
    assert all(not torch.equal(before[name], parameter) for name, parameter in after.items())
    published = load_file(run / "merged" / "model.safetensors")
    torch.testing.assert_close(published["classifier.weight"], after["classifier.weight"].detach())


def _hashes_of(run: Path) -> list[np.ndarray]:
    recipe = load_recipe(run / "recipe.yaml", {})
    data = prepare_data(recipe)
    return [data.train.hashes(), data.validation.hashes()]


def test_the_gradient_start_weighs_classes_as_the_loss_does(inputs, tmp_path, monkeypatch):
    given = []
    turn = starts.init_lora_from_gradient

    def recorded(*args, class_weights, **kwargs):
        given.append(class_weights)
        return turn(*args, class_weights=class_weights, **kwargs)

    monkeypatch.setattr(starts, "init_lora_from_gradient", recorded)
    changes = {"adapter_init": "gradient", "class_weights": "balanced", "epochs": 1, "test": None}
    run_training(recipe_for(inputs, tmp_path / "run", **changes), console=quiet())
    (weights,) = given
    assert weights is not None
    assert len(weights) == 3


@pytest.mark.parametrize("model_type", ["bert", "eurobert"])
def test_the_probe_of_two_classes_is_the_logistic_regression(inputs, tmp_path, model_type):
    write_rows(tmp_path / "two.csv", 120, labels=("a", "b"))
    encoder = save_tiny_encoder(tmp_path / "encoder", model_type)
    changes = {"data": str(tmp_path / "two.csv"), "test": None, "model": str(encoder)}
    prepared = prepare_run(
        recipe_for(inputs, tmp_path / "run", **changes), console=quiet(), overwrite=False, resume=False
    )
    classifier, rows = build_classifier(prepared), prepared.data.train
    warm_start.start_from_probe(classifier, warm_start.fit_probe(classifier, rows, 16, seed=0))
    logits = evaluation.map_rows(classifier.eval(), rows, 16, classifier)
    features = StandardScaler().fit_transform(warm_start.head_inputs(classifier, rows, 16).astype(np.float64))
    odds = [
        warm_start._logistic(C).fit(features, rows.label_ids).decision_function(features)
        for C in warm_start.INVERSE_PENALTIES
    ]
    assert min(np.abs(logits[:, 1] - logits[:, 0] - each).max() for each in odds) < 1e-3


def test_pairs_train_on_an_encoder_with_one_token_type(inputs, tmp_path):
    folder = save_tiny_encoder(tmp_path / "encoder", "roberta", type_vocab_size=1)
    changes = {"model": str(folder), "test": None, "epochs": 1, **rows_of_pairs(inputs, tmp_path)}
    run = run_training(recipe_for(inputs, tmp_path / "run", **changes), console=quiet())
    assert record_of(run)["artefacts"]["merged"]["max_logit_difference"] < 5e-5
    write_model_card(run)
    card = (run / "README.md").read_text("utf-8")
    assert 'classify({"text": "a text", "text_pair": "its second text"})' in card
    assert 'tokenizer(["a text"], ["its second text"], truncation=True' in card


def test_a_trained_pooler_keeps_its_bits_when_a_run_in_bf16_is_loaded(inputs, tmp_path):
    folder = encoder_without_pooler(inputs / "encoder", tmp_path)
    changes = {"model": str(folder), "precision": "bf16", "epochs": 1, "test": None}
    run = run_training(recipe_for(inputs, tmp_path / "run", **changes), console=quiet())
    saved = load_file(run / "merged" / "model.safetensors")["bert.pooler.dense.weight"]
    assert torch.equal(load_run(run).classifier.head.dense.weight, saved)


def test_a_second_interrupt_says_how_to_go_on(inputs, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "measure_test", interrupted)
    with pytest.raises(Interrupted, match="continue from the last checkpoint with: leantune train --resume"):
        run_training(recipe_for(inputs, tmp_path / "run", epochs=1), console=quiet())
