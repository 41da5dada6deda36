"""One run from recipe to artefacts, step by step as the user sees it."""

from __future__ import annotations

import json
import sys
import time
import uuid
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from leantune import __version__, hardware
from leantune.adalora.allocator import RankAllocator
from leantune.adalora.budget import ParameterPlan
from leantune.adalora.schedule import RankSchedule
from leantune.atomic import write_text
from leantune.config import Recipe
from leantune.data.assets import resolve_location
from leantune.errors import CheckpointError, UsageError
from leantune.evaluation.evaluate import evaluate
from leantune.evaluation.metrics import Metrics, compare
from leantune.model import (
    PackedClassifier,
    build_trainable,
    config_of,
    load_pretrained,
    missing_head_modules,
    plan_model,
    reinitialise_head,
    skeleton,
)
from leantune.training.artefacts import PROBE_ROWS, publish
from leantune.training.checkpoint import checkpoint_path, list_checkpoints, load_checkpoint
from leantune.training.interrupt import interruptible
from leantune.training.loop import Phase, TrainingState, train
from leantune.training.observer import RunObserver, SilentObserver
from leantune.training.optimizer import adamw
from leantune.training.prepare import (
    PreparedData,
    StepPlan,
    check_max_length,
    plan_steps,
    prepare_data,
)
from leantune.training.resume import check_same_run, newest_valid_checkpoint
from leantune.training.selection import Evaluation, Selection
from leantune.training.state import restore, restore_weights
from leantune.training.tracking import Display, History
from leantune.training.warm_start import start_from_probe


@dataclass(slots=True)
class Run:
    """What the parts of one run share."""

    recipe: Recipe
    folder: Path
    console: Console
    model_source: str
    config: Any
    data: PreparedData
    plan: ParameterPlan
    steps: StepPlan
    record: dict[str, Any]
    started: float

    def save_record(self) -> None:
        """Write ``record.json`` as it stands."""
        write_text(self.folder / "record.json", json.dumps(self.record, indent=1, ensure_ascii=False) + "\n")


def run_training(recipe: Recipe, *, console: Console, overwrite: bool = False, resume: bool = False) -> Path:
    """Train, select, refit and publish.

    Args:
        recipe: what to do.
        console: where to draw.
        overwrite: replace an earlier run in the same folder.
        resume: go on from the newest valid checkpoint in the folder.

    Returns:
        the run folder.
    """
    run = prepare_run(recipe, console=console, overwrite=overwrite, resume=resume)
    classifier = build_classifier(run)
    state = fresh_state(run, classifier)
    selection = Selection(recipe.metric, recipe.keep_best)
    if resume:
        history = _go_on(run, state, selection)
    else:
        history = History(run.folder / "history.jsonl")
        _warm_start(run, classifier)
        run.save_record()
    with history:
        _train(run, state, selection, history)
    _select(run, classifier, selection)
    if recipe.refit:
        _refit(run, classifier)
    _measure_test(run, classifier)
    _publish(run, classifier)
    return run.folder


def prepare_run(recipe: Recipe, *, console: Console, overwrite: bool, resume: bool) -> Run:
    """Everything before weights: data, plan, schedule, folder."""
    started = time.perf_counter()
    folder = Path(recipe.output).expanduser()
    check_folder(folder, overwrite=overwrite, resume=resume)
    model_source = resolve_location(recipe.model)
    config_of(model_source, trust_remote_code=recipe.trust_remote_code)
    data = prepare_data(recipe)
    config = config_of(
        model_source, num_labels=len(data.labels.names), trust_remote_code=recipe.trust_remote_code
    )
    plan = plan_run(recipe, config, model_source)
    steps = plan_steps(recipe, plan, len(data.train))
    run = Run(recipe, folder, console, model_source, config, data, plan, steps, {}, started)
    if resume:
        run.record = json.loads((folder / "record.json").read_text("utf-8"))
        check_same_run(run.record, data=data.description, labels=data.labels, plan=plan)
    else:
        _start_folder(run)
    return run


def plan_run(recipe: Recipe, config: Any, model_source: str) -> ParameterPlan:
    """The ledger of a recipe for a model of this config."""
    from leantune.architectures import architecture_of

    check_max_length(recipe, config, architecture_of(config).position_offset(config))
    return plan_model(
        skeleton(config),
        targets=recipe.targets,
        head=recipe.head,
        limit=recipe.max_trainable_params,
        init_rank=recipe.init_rank,
        target_rank=recipe.target_rank,
        missing_modules=missing_head_modules(config, model_source),
    )


def check_folder(folder: Path, *, overwrite: bool, resume: bool) -> None:
    """Refuse a folder that another run is in, or that is none.

    Raises:
        UsageError: saying which option would allow it.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output {folder}: a file is in the way; choose another folder")
    has_run = (folder / "record.json").exists()
    if resume and not has_run:
        raise UsageError(f"{folder}: no run to resume there (no record.json)")
    if has_run and not overwrite and not resume:
        raise UsageError(
            f"output {folder}: holds a run already; choose another output, or add --overwrite to replace it "
            "or --resume to go on with it"
        )


def _start_folder(run: Run) -> None:
    from leantune.training.resume import clear_run

    clear_run(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    write_text(run.folder / "recipe.yaml", run.recipe.to_yaml())
    device = hardware.pick_device()
    run.record = {
        "leantune": __version__,
        "run_id": uuid.uuid4().hex,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "status": "running",
        "command": sys.argv,
        "versions": hardware.describe_versions(),
        "hardware": hardware.describe_hardware(device),
        "recipe": run.recipe.to_dict(),
        "labels": run.data.labels.to_json(),
        "data": run.data.description,
        "parameters": run.plan.to_json(),
        "schedule": run.steps.to_json(),
        "baseline": None,
        "timings": {"tokenise_s": run.data.tokenise_s},
    }
    run.save_record()


def build_classifier(run: Run) -> PackedClassifier:
    """Pretrained weights, fresh head and adapters on the device of the run."""
    recipe = run.recipe
    device = hardware.pick_device()
    precision = hardware.pick_precision(recipe.precision, device)
    model = load_pretrained(
        run.model_source, run.config, run.data.labels, trust_remote_code=recipe.trust_remote_code
    )
    reinitialise_head(model, recipe.seed)
    classifier = build_trainable(
        model,
        run.plan,
        alpha=recipe.alpha,
        lora_dropout=recipe.lora_dropout,
        head=recipe.head,
        compute_dtype=hardware.DTYPES[precision],
        seed=recipe.seed,
        missing_modules=missing_head_modules(run.config, run.model_source),
    )
    found = classifier.num_trainable()
    assert found == run.plan.initial, f"{found} trainable parameters, the plan says {run.plan.initial}"
    run.record["model"] = {
        "source": recipe.model,
        "architecture": run.config.model_type,
        "attention": "packed" if classifier.architecture.is_packed else "padded",
        "precision": precision,
    }
    torch.manual_seed(recipe.seed)  # only architectures with dropout of their own draw from it
    return classifier.to(device)


def fresh_state(run: Run, classifier: PackedClassifier) -> TrainingState:
    """The state before the first step."""
    recipe = run.recipe
    return TrainingState(
        classifier=classifier,
        optimizer=adamw(classifier.trainable(), weight_decay=recipe.weight_decay),
        allocator=RankAllocator(classifier.layers(), run.steps.ranks, beta1=recipe.beta1, beta2=recipe.beta2),
        scaler=torch.amp.GradScaler(
            classifier.device.type, enabled=run.record["model"]["precision"] == "fp16"
        ),
        class_weights=_class_weights(run, classifier.device),
    )


def _class_weights(run: Run, device: torch.device) -> torch.Tensor | None:
    """``N / (C * n_c)`` for balanced weights, as scikit-learn defines them."""
    if run.recipe.class_weights == "none":
        return None
    counts = np.bincount(run.data.train.label_ids, minlength=len(run.data.labels.names))
    weights = counts.sum() / (len(counts) * np.maximum(counts, 1))
    return torch.tensor(weights, dtype=torch.float32, device=device)


def _warm_start(run: Run, classifier: PackedClassifier) -> None:
    if not run.recipe.warm_start:
        return
    started = time.perf_counter()
    with run.console.status("fitting the linear probe"):
        start_from_probe(classifier, run.data.train, run.recipe.eval_batch_size, seed=run.recipe.seed)
        run.record["timings"]["probe_s"] = time.perf_counter() - started
        baseline: dict[str, Any] = {"name": "linear probe", "test": None}
        baseline["validation"] = _evaluate(run, classifier, "validation").to_json()
        if run.data.test is not None:
            baseline["test"] = _evaluate(run, classifier, "test").to_json()
    run.record["baseline"] = baseline
    accuracy = baseline["validation"]["accuracy"]
    run.console.print(
        f"linear probe: validation accuracy {100 * accuracy:.1f} % in "
        f"{run.record['timings']['probe_s']:.0f} s",
        highlight=False,
    )


def _evaluate(run: Run, classifier: PackedClassifier, part: str) -> Metrics:
    rows = run.data.test if part == "test" else run.data.validation
    assert rows is not None
    metrics, _ = evaluate(classifier, rows, run.data.labels.names, run.recipe.eval_batch_size)
    return metrics


def _go_on(run: Run, state: TrainingState, selection: Selection) -> History:
    """Put the newest valid checkpoint into ``state`` and ``selection``."""
    found = newest_valid_checkpoint(run.folder, run.console)
    if found is None:
        raise CheckpointError(
            f"{run.folder}: no valid checkpoint to resume from; start again with --overwrite"
        )
    step, checkpoint = found
    restore(state, checkpoint)
    selection.evaluations = [Evaluation(**each) for each in checkpoint.state["evaluations"]]
    run.console.print(f"resumed from step {step} of {run.steps.total_steps}", highlight=False)
    return History(run.folder / "history.jsonl", keep_bytes=checkpoint.state["history_bytes"])


def _train(run: Run, state: TrainingState, selection: Selection, history: History) -> None:
    phase = Phase(
        rows=run.data.train,
        steps_per_epoch=run.steps.steps_per_epoch,
        total_steps=run.steps.total_steps,
        lr_warmup_steps=run.steps.lr_warmup_steps,
        seed=run.recipe.seed,
    )
    with Display(phase.total_steps, run.console) as display, interruptible() as interrupt:
        observer = RunObserver(
            folder=run.folder,
            recipe=run.recipe,
            steps=run.steps,
            validation=run.data.validation,
            label_names=run.data.labels.names,
            selection=selection,
            history=history,
            display=display,
            interrupt=interrupt,
        )
        train(state, phase, run.recipe, observer)
    run.record["skipped_steps"] = state.skipped_steps
    run.record["timings"] |= {
        "train_s": state.train_s,
        "train_samples_per_s": state.train_samples / max(state.train_s, 1e-9),
        "train_tokens_per_s": state.train_tokens / max(state.train_s, 1e-9),
    }


def _select(run: Run, classifier: PackedClassifier, selection: Selection) -> None:
    """Put the best checkpoint back into the model and say what the choice is worth."""
    ranking = selection.ranking()
    best = ranking[0]
    best_checkpoint = load_checkpoint(checkpoint_path(run.folder, best.step))
    restore_weights(classifier, best_checkpoint)
    comparison = None
    rivals = [e for e in ranking[1:] if e.step in list_checkpoints(run.folder)]
    if rivals:
        rival_checkpoint = load_checkpoint(checkpoint_path(run.folder, rivals[0].step))
        comparison = compare(
            rival_checkpoint.tensors["predicted"].numpy(),
            best_checkpoint.tensors["predicted"].numpy(),
            run.data.validation.label_ids,
        ).sentence(f"checkpoints of steps {rivals[0].step} and {best.step}")
    kept = selection.kept_steps()
    run.record["checkpoints"] = [
        {
            "step": e.step,
            "epoch": e.epoch,
            "validation": e.metrics,
            "kept": e.step in kept,
            "ranks_final": e.is_eligible,
        }
        for e in selection.evaluations
    ]
    run.record["selected"] = {"step": best.step, "metric": run.recipe.metric, "comparison": comparison}
    run.record["metrics"] = {"validation": best.metrics, "test": None}
    ranks = {name: layer.rank for name, layer in classifier.layers().items()}
    run.record["ranks"] = {target.name: ranks.get(target.name, 0) for target in run.plan.targets}
    parameters = run.record["parameters"]
    for module in parameters["modules"]:
        module["final_rank"] = run.record["ranks"][module["name"]]
    parameters["final"] = classifier.num_trainable()
    parameters["adapters_final"] = parameters["final"] - parameters["head"]
    run.save_record()


def _refit(run: Run, classifier: PackedClassifier) -> None:
    """One more epoch on training and validation rows, ranks as they are, with a new optimiser."""
    rows = run.data.train + run.data.validation
    recipe = run.recipe
    total = -(-len(rows) // recipe.batch_size)
    classifier.stream.reseed(recipe.seed, 1)
    live = sum(layer.rank for layer in classifier.layers().values())
    fixed = RankSchedule(
        init_budget=live,
        target_budget=live,
        total_steps=total,
        warmup_steps=0,
        final_steps=0,
        allocate_every=1,
    )
    state = fresh_state(run, classifier)
    state = replace(state, allocator=RankAllocator(classifier.layers(), fixed))
    phase = Phase(
        rows=rows,
        steps_per_epoch=total,
        total_steps=total,
        lr_warmup_steps=int(recipe.warmup * total) if recipe.warmup < 1 else min(int(recipe.warmup), total),
        seed=recipe.seed + 1,
    )
    with Display(total, run.console) as display:
        train(state, phase, recipe, SilentObserver(display))
    run.record["refit"] = {"rows": len(rows), "steps": total, "seconds": state.train_s}


def _measure_test(run: Run, classifier: PackedClassifier) -> None:
    if run.data.test is None:
        return
    started = time.perf_counter()
    with run.console.status("measuring the test rows"):
        metrics = _evaluate(run, classifier, "test")
    run.record["metrics"]["test"] = metrics.to_json()
    run.record["timings"]["evaluate_s"] = time.perf_counter() - started


def _publish(run: Run, classifier: PackedClassifier) -> None:
    """Artefacts, verified; then the record says that the run is finished."""
    with run.console.status("writing and verifying adapter/ and merged/"):
        run.record["artefacts"] = publish(
            run.folder,
            classifier,
            recipe=run.recipe,
            model_source=run.model_source,
            config=run.config,
            plan=run.plan,
            schedule=run.steps.ranks,
            labels=run.data.labels,
            tokeniser=run.data.tokeniser,
            probe=run.data.validation[np.arange(min(PROBE_ROWS, len(run.data.validation)))],
        )
    run.record["status"] = "finished"
    run.record["timings"]["total_s"] = time.perf_counter() - run.started
    run.save_record()
