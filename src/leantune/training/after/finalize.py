"""After the last step: select a checkpoint, refit, measure and publish."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from leantune.config.record.confidence import ConfidencesRecord
from leantune.config.record.run import (
    CheckpointRecord,
    Measures,
    MetricsRecord,
    RefitRecord,
    SelectedRecord,
)
from leantune.config.thresholds_file import Thresholds
from leantune.data.tokens.dataset import LabelledRows
from leantune.errors import CheckpointError
from leantune.evaluation.batches import evaluate
from leantune.evaluation.comparison import compare
from leantune.evaluation.confidence import Answers, confidence_record
from leantune.evaluation.metrics import Metrics, occupied_cells
from leantune.evaluation.tasks import Floats, PairAnswers
from leantune.evaluation.thresholds import RULE, RULE_WITHOUT_ROWS, thresholds_of
from leantune.model.classifier import Classifier
from leantune.system import distributed
from leantune.system.damage import explained_damage
from leantune.system.json_files import from_json
from leantune.training.after.answers import PREDICTED, read_answers
from leantune.training.after.artefacts import PROBE_ROWS, publish
from leantune.training.build import Run
from leantune.training.checkpoint import checkpoint_path, valid_checkpoints
from leantune.training.history import preparing
from leantune.training.selection import Evaluation, Selection
from leantune.training.state import restore_weights
from leantune.training.tuning import tune


def measure_parts(run: Run, classifier: Classifier) -> tuple[Metrics | None, Metrics | None]:
    """Metrics on the validation rows and on the test rows.

    With several labels per text, thresholds are chosen on the validation rows.
    """
    validation = test = None
    thresholds = default_thresholds(run)
    if len(run.data.validation):
        validation, answers = _evaluate(run, classifier, run.data.validation, None)
        thresholds = answers.thresholds if isinstance(answers, PairAnswers) else None
    if run.data.test is not None:
        test, _ = _evaluate(run, classifier, run.data.test, thresholds)
    return validation, test


def default_thresholds(run: Run) -> Floats | None:
    """Thresholds ``(C,)`` if none were chosen on rows; None with one label per text."""
    return thresholds_of(None, run.data.labels.names) if run.data.labels.is_multi_label else None


def _evaluate(
    run: Run, classifier: Classifier, rows: LabelledRows, thresholds: Floats | None
) -> tuple[Metrics, Answers | PairAnswers]:
    return evaluate(classifier, rows, run.data.labels.names, run.recipe.eval_batch_size, thresholds)


def measures_of(metrics: Metrics) -> Measures:
    """Convert metrics to their form in ``record.json``."""
    return from_json(metrics.to_json(), Measures)


def select_best(run: Run, classifier: Classifier, selection: Selection) -> Answers | PairAnswers | None:
    """Restore the best checkpoint into the model, with its thresholds, and record how certain the choice is.

    Returns:
        its answers on the validation rows, if there are any and the checkpoint holds them.

    Raises:
        CheckpointError: if no checkpoint is valid.
    """
    ranking = {evaluation.step: evaluation for evaluation in selection.ranking()}
    ranked = valid_checkpoints(run.folder, ranking, partial(run.console.print, soft_wrap=True))
    chosen, rival = next(ranked, None), next(ranked, None)
    if chosen is None:
        raise CheckpointError(
            f"{run.folder}: no valid checkpoint with final ranks; start again with --overwrite"
        )
    best, best_checkpoint = ranking[chosen[0]], chosen[1]
    with explained_damage(checkpoint_path(run.folder, best.step)):
        restore_weights(classifier, best_checkpoint)
    label_ids = run.data.validation.label_ids
    answers = read_answers(best_checkpoint.tensors, label_ids)
    comparison = None
    run.thresholds = default_thresholds(run)
    measured = None if best.metrics is None else from_json(best.metrics, Measures)
    if isinstance(answers, PairAnswers):  # no metric chooses by the accuracy of whole label sets
        run.thresholds = answers.thresholds
    elif len(label_ids):
        predicted = best_checkpoint.tensors[PREDICTED].numpy()
        if rival is not None:
            step, checkpoint = rival
            comparison = compare(checkpoint.tensors[PREDICTED].numpy(), predicted, label_ids).sentence(
                f"checkpoints of steps {step} and {best.step}"
            )
        if measured is not None:
            cells = occupied_cells(label_ids, predicted, len(run.data.labels.names))
            measured = replace(measured, confusion=list(cells))
    kept = selection.kept_steps()
    record = run.record
    record.checkpoints = [
        CheckpointRecord(
            step=e.step,
            epoch=e.epoch,
            validation=None if e.metrics is None else from_json(e.metrics, Measures),
            kept=e.step in kept,
            ranks_final=e.is_eligible,
        )
        for e in selection.evaluations
    ]
    record.selected = SelectedRecord(
        step=best.step,
        metric=run.recipe.selection_metric,
        rule=_rule_of(run, best, selection),
        comparison=comparison,
    )
    record.metrics = MetricsRecord(validation=measured, test=None)
    ranks = {name: layer.rank for name, layer in classifier.adapted_layers().items()}
    ranks = record.ranks = {target.name: ranks.get(target.name, 0) for target in run.plan.targets}
    final = classifier.num_trainable()
    record.parameters = replace(
        record.parameters,
        final=final,
        adapters_final=final - record.parameters.head,
        modules=[replace(each, final_rank=ranks[each.name]) for each in record.parameters.modules],
    )
    return answers


def _rule_of(run: Run, best: Evaluation, selection: Selection) -> str:
    if best.metrics is None:
        return "last"
    return (
        run.recipe.advanced.selection if best is selection.ranking()[0] else "best"
    )  # among those that are valid


def refit(run: Run, classifier: Classifier) -> None:
    """Train one more epoch on training and validation rows, with fixed ranks and a new optimiser."""
    rows = run.data.train + run.data.validation
    total = -(-len(rows) // run.recipe.batch_size)
    seconds = tune(run, classifier, rows, steps=total, steps_per_epoch=total, turn=1)
    run.record.refit = RefitRecord(rows=len(rows), steps=total, seconds=seconds)


def _first_rows(rows: LabelledRows) -> LabelledRows:
    return rows[np.arange(min(PROBE_ROWS, len(rows)))]


def measure_test(run: Run, classifier: Classifier) -> Answers | PairAnswers | None:
    """Measure the test rows; returns the answers on them, or None if there are none."""
    if run.data.test is None:
        return None
    started = time.perf_counter()
    with preparing(run.console, "measuring the test rows"):
        metrics, answers = _evaluate(run, classifier, run.data.test, run.thresholds)
    assert run.record.metrics is not None
    run.record.metrics = replace(run.record.metrics, test=measures_of(metrics))
    run.record.timings["evaluate_s"] = time.perf_counter() - started
    return answers


def note_confidence(run: Run, answers: Mapping[str, Answers | PairAnswers | None]) -> None:
    """Record how often the model is right when it is confident, for each measured part.

    Parts with several labels per text are left out: no single probability belongs to their answer.
    """
    found = {part: confidence_record(each) for part, each in answers.items() if isinstance(each, Answers)}
    run.record.confidence = ConfidencesRecord(**found) if found else None


def _thresholds_file(run: Run) -> Thresholds | None:
    """The thresholds as artefacts store them; None with one label per text."""
    if run.thresholds is None:
        return None
    by_label = dict(zip(run.data.labels.names, run.thresholds.tolist(), strict=True))
    return Thresholds(by_label=by_label, rule=RULE if len(run.data.validation) else RULE_WITHOUT_ROWS)


def publish_artefacts(run: Run, classifier: Classifier) -> None:
    """Write and verify the artefacts, then record that the run is finished."""
    if not distributed.is_main():
        return
    with run.console.status("writing and verifying adapter/ and merged/"):
        run.record.artefacts = publish(
            run.folder,
            classifier,
            recipe=run.recipe,
            pretrained=run.pretrained,
            plan=run.plan,
            schedule=run.steps.ranks,
            labels=run.data.labels,
            thresholds=_thresholds_file(run),
            tokenizer=run.data.tokenizer,
            probe=_first_rows(run.data.validation if len(run.data.validation) else run.data.train),
        )
    run.record.status = "finished"
    run.record.timings["total_s"] = run.elapsed()
    run.save_record()
