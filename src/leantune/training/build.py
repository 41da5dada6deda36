"""Before the first step: the folder, the rows, the plan, the classifier and its training state."""

from __future__ import annotations

import os
import sys
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from leantune._version import __version__
from leantune.adalora.allocator import RankAllocator
from leantune.adalora.budget import ParameterPlan
from leantune.adalora.schedule import RankSchedule
from leantune.config import Recipe
from leantune.config.record.run import BegunRecord, Hardware, ModelRecord, read_record, write_record
from leantune.data.tokens.dataset import LabelledRows
from leantune.errors import UsageError, first_line
from leantune.kernels.choose import check_int8
from leantune.model.adapt import make_trainable
from leantune.model.build import load_pretrained, missing_head_modules, reinitialise_head, skeleton_of
from leantune.model.classifier import Classifier
from leantune.model.hub import public_name, resolve_model
from leantune.model.padded import PaddedClassifier
from leantune.model.pretrained import Pretrained, weights_sha256
from leantune.system import distributed, hardware
from leantune.system.atomic import write_text
from leantune.system.damage import explained_damage
from leantune.system.file_names import entry_of
from leantune.system.memory import is_out_of_memory
from leantune.training.before.dataset import (
    PreparedData,
    StepPlan,
    check_max_length,
    lengths_of,
    plan_steps,
    prepare_data,
)
from leantune.training.before.defaults import with_pace, with_task
from leantune.training.before.folder import check_folder, check_inputs_stay, clear_run
from leantune.training.before.placement import placed
from leantune.training.loop import Phase, TrainingState
from leantune.training.objectives import objective_of
from leantune.training.optimizer import adamw
from leantune.training.resume import as_begun, check_directory, check_same_model, check_same_run
from leantune.training.warnings import data_lines, disk_lines, padding_lines, rank_lines, slow_lines

if TYPE_CHECKING:  # importing scikit-learn takes a third of the time to start a plan
    from leantune.training.before.head_init import Probe


@dataclass(slots=True)
class Run:
    """State that the parts of one run share."""

    recipe: Recipe
    folder: Path
    console: Console
    pretrained: Pretrained
    data: PreparedData
    plan: ParameterPlan
    steps: StepPlan
    device: torch.device
    precision: str
    """``bf16``, ``fp16`` or ``fp32``, resolved from the recipe for this machine."""
    started: float
    """`time.perf_counter` at the start; a resumed run subtracts the time of earlier processes."""
    record: BegunRecord = field(init=False)
    """Read from the folder in a resumed run, otherwise made by `begin_record`."""
    resumed_model: ModelRecord | None = None
    """The model that a resumed run began with."""
    model: ModelRecord = field(init=False)
    """Set when the classifier is built, like `kernels`."""
    kernels: str = ""
    """The kernels that compute the encoder, and why they were chosen."""
    probe: Probe | None = None
    """The linear probe on the pretrained encoder, once it is fitted."""
    thresholds: npt.NDArray[np.float64] | None = None
    """``(C,)`` thresholds of the selected checkpoint, if a text may have several labels."""

    def elapsed(self) -> float:
        """Seconds since the run began, without pauses between processes."""
        return time.perf_counter() - self.started

    def save_record(self) -> None:
        """Write ``record.json`` in its current state."""
        if distributed.is_main():
            write_record(self.folder, self.record)


def prepare_run(recipe: Recipe, *, console: Console, overwrite: bool, resume: bool) -> Run:
    """Prepare data, plan and schedule, before weights are loaded; nothing is written or removed."""
    started = time.perf_counter()
    folder = Path(os.path.expanduser(recipe.output))
    if distributed.is_main():
        check_folder(folder, overwrite=overwrite, resume=resume)
        if not resume:
            check_inputs_stay(folder, recipe)
    record = read_record(folder, BegunRecord) if resume else None
    if record:
        check_directory(record, recipe)
        recipe = as_begun(recipe, record)
    model_source = resolve_model(recipe.model)
    with explained_damage(f"model {recipe.model}", is_of_run=False):
        found = Pretrained.at(model_source, trust_remote_code=recipe.trust_remote_code)
    with console.status("reading") as status:
        data = prepare_data(
            recipe, on_rows=lambda part, rows: status.update(f"reading {part}: {rows:,} rows")
        )
    for line in (*data.notes, *data_lines(data.description, recipe.max_length)):
        console.print(line, soft_wrap=True)
    recipe = with_pace(with_task(recipe, data.labels), found.config, len(data.train))
    pretrained = Pretrained.at(
        model_source, num_labels=len(data.labels.names), trust_remote_code=recipe.trust_remote_code
    )
    recipe, plan = plan_run(recipe, pretrained)
    pretrained = pretrained.with_padding(data.tokenizer.settings.pad_id)
    steps = plan_steps(recipe, plan, len(data.train))
    hardware.keep_to_allowed_cpus()
    device = hardware.pick_device()
    precision = hardware.pick_precision(recipe.precision, device)
    run = Run(recipe, folder, console, pretrained, data, plan, steps, device, precision, started)
    for line in (*rank_lines(plan), *disk_lines(folder, plan, keep_best=recipe.advanced.keep_best)):
        console.print(line, soft_wrap=True)
    if record:
        check_same_run(record, recipe=recipe, data=data.description, labels=data.labels, plan=plan)
        run.record, run.resumed_model = record, record.model
    return run


def plan_run(recipe: Recipe, pretrained: Pretrained) -> tuple[Recipe, ParameterPlan]:
    """Fill in the method and targets, and compute the parameter budget for this model."""
    with explained_damage(f"model {recipe.model}", is_of_run=False):
        shell = skeleton_of(pretrained)
    check_max_length(recipe, shell)
    return placed(recipe, shell, missing_head_modules(pretrained))


def begin_record(run: Run) -> None:
    """Begin the record with what is known before the first step, when the classifier is built."""
    run.record = BegunRecord(
        leantune=__version__,
        run_id=uuid.uuid4().hex,
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        status="running",
        command=sys.argv,
        directory=os.getcwd(),
        versions=hardware.describe_versions(),
        hardware=hardware_of(run),
        processes=distributed.world_size(),
        recipe=run.recipe.to_dict(),
        labels=run.data.labels.to_record(),
        data=run.data.description,
        lengths=lengths_of(run.data.train.full_lengths, run.recipe.max_length),
        model=run.model,
        parameters=run.plan.to_record(),
        schedule=run.steps.to_record(),
        timings={"tokenise_s": run.data.tokenise_s},
    )


def start_folder(run: Run) -> None:
    """Replace an earlier run by this one.

    This comes last before the first step, so that a run that cannot begin, or runs out of memory while head and
    adapters are initialised, costs nothing.
    """
    if distributed.is_main():
        clear_run(run.folder)
        run.folder.mkdir(parents=True, exist_ok=True)
    distributed.barrier()
    run.save_record()  # first, so that a run killed here is recognised as one
    if distributed.is_main():
        write_text(entry_of(run.folder, "recipe.yaml"), run.recipe.to_yaml())


def hardware_of(run: Run) -> Hardware:
    """Describe the machine and the kernels that run on it."""
    return Hardware(**hardware.describe_hardware(run.device), kernels=run.kernels)


def build_classifier(run: Run) -> Classifier:
    """Build the classifier on the run's device: pretrained weights, new head and adapters.

    The first call also prints warnings about padding and kernels.
    """
    recipe, is_first = run.recipe, not run.kernels
    digest = weights_sha256(run.pretrained.folder)
    if run.resumed_model:
        check_same_model(run.resumed_model, recipe, sha256=digest, precision=run.precision)
    # only for training: saved models keep the encoder's own config
    pretrained = run.pretrained.with_dropout(recipe.advanced.dropout)
    with explained_damage(f"model {recipe.model}", is_of_run=False):
        classifier = load_pretrained(pretrained, run.data.labels)
    missing_modules = missing_head_modules(run.pretrained)
    reinitialise_head(classifier, recipe.seed, missing_modules)
    if isinstance(classifier, PaddedClassifier) and is_first:
        for line in padding_lines(classifier, run.data.train, recipe.max_length):
            run.console.print(line, soft_wrap=True)
    make_trainable(
        classifier,
        run.plan,
        alpha=recipe.alpha_for(run.plan.init_rank),
        lora_dropout=recipe.advanced.lora_dropout,
        head=recipe.head or "full",
        head_rank=recipe.head_rank,
        compute_dtype=hardware.DTYPES[run.precision],
        seed=recipe.seed,
        adapter_init=recipe.advanced.adapter_init,
        missing_modules=missing_modules,
    )
    classifier.to(run.device)
    is_int8 = recipe.precision == hardware.INT8
    choice = classifier.choose_kernels(train_int8=is_int8 or recipe.precision == "auto", predict_int8=is_int8)
    if is_int8:
        check_int8(choice)
    run.kernels = choice.described
    if is_first:
        slow = slow_lines(classifier, run.data.train, recipe, kernels=choice, precision=run.precision)
        for line in slow:
            run.console.print(line, soft_wrap=True)
    if not classifier.is_packed:
        _check_computes(classifier, run.data.train, run.precision)
    found = classifier.num_trainable()
    assert found == run.plan.initial, f"{found} trainable parameters, the plan says {run.plan.initial}"
    run.model = ModelRecord(
        source=recipe.model,
        base_model=public_name(recipe.model),
        sha256=digest,
        architecture=run.pretrained.config.model_type,
        attention="packed" if classifier.is_packed else "padded",
        precision=run.precision,
        frozen_products="int8" if choice.kernels.train_int8 else run.precision,
    )
    # dropout on a GPU draws from torch's own generator, and so do architectures with dropout of their own
    torch.manual_seed(recipe.seed + (distributed.rank() << 32))
    classifier.stream.reseed(recipe.seed, 0, distributed.rank())
    return classifier


def _check_computes(classifier: Classifier, rows: LabelledRows, precision: str) -> None:
    """Try one row: some architectures in transformers do not compute in every dtype (FNet, MRA).

    Raises:
        UsageError: naming a precision that works.
    """
    if precision == "fp32":
        return
    try:
        with torch.inference_mode():
            classifier(classifier.batch_of(rows[np.arange(1)]))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        model_type = classifier.settings["model_type"]
        raise UsageError(
            f"{model_type} does not compute in {precision} ({first_line(error)}); use precision=fp32"
        ) from error


def fresh_state(run: Run, classifier: Classifier, ranks: RankSchedule) -> TrainingState:
    """The state before the first step of a phase with this rank schedule."""
    recipe = run.recipe
    scaler = torch.amp.GradScaler(classifier.device.type, enabled=run.precision == "fp16")
    scaler.scale(torch.zeros((), device=classifier.device))  # creates the scale even if no row comes first
    return TrainingState(
        classifier=classifier,
        optimizer=adamw(
            classifier.trainable(),
            weight_decay=recipe.advanced.weight_decay,
            head_learning_rate_ratio=recipe.advanced.head_learning_rate_ratio,
            hidden_learning_rate_ratio=recipe.advanced.hidden_learning_rate_ratio,
            output_layer=classifier.output_name,
        ),
        allocator=RankAllocator(classifier.adapted_layers(), ranks),
        scaler=scaler,
    )


def main_phase(run: Run) -> Phase:
    """The main phase: all training rows, from the first step of the plan to the last."""
    return Phase(
        rows=run.data.train,
        steps_per_epoch=run.steps.steps_per_epoch,
        total_steps=run.steps.total_steps,
        lr_warmup_steps=run.steps.lr_warmup_steps,
        seed=run.recipe.seed,
        class_weights=class_weights(run, run.data.train),
    )


def class_weights(run: Run, rows: LabelledRows) -> torch.Tensor | None:
    """Balanced class weights ``(C,)`` of the training ``rows``; None if the recipe does not ask for them."""
    if run.recipe.class_weights == "none":
        return None
    return objective_of(rows).balanced(rows, len(run.data.labels.names))
