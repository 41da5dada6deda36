"""Pseudo-labels for rows without labels (``unlabelled``): confident predictions of a first run become training rows.

The first run trains on the labelled rows alone. A row whose most probable class reaches a probability of `SURE` gets
that class as its label (Lee, 2013, Pseudo-Label). The run then starts over with these rows added. Validation rows are
never pseudo-labelled.
"""

from __future__ import annotations

import csv
import io
import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from leantune.config import Recipe
from leantune.config.record.run import PseudoLabelRecord
from leantune.config.rows_to_check import shown_text
from leantune.data.tokens.dataset import Index, LabelledRows
from leantune.errors import CheckpointError, LeantuneError
from leantune.evaluation.batches import predict_probabilities
from leantune.system import distributed
from leantune.system.atomic import write_text
from leantune.system.checksums import describe_file
from leantune.system.file_names import entry_of
from leantune.training.before.dataset import plan_steps
from leantune.training.before.defaults import FEW_ROWS, default_epochs, for_few_rows, with_pace
from leantune.training.build import Run
from leantune.training.history import preparing
from leantune.training.trial import trained

SURE = 0.9
"""On average better than taking all rows, or the more confident half of each class (benchmarks/notebook)."""
FILE = "pseudo_labels.csv"
"""File in the run folder with the pseudo-labels; a resumed run reads it. The texts are there for people to check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoLabels:
    """M labels that a first run predicted."""

    rows: Index
    """``(M,)`` positions among the unlabelled rows."""
    label_ids: Index
    """``(M,)``."""
    probabilities: npt.NDArray[np.float64]
    """``(M,)`` probabilities that the first run gave to these labels."""
    record: PseudoLabelRecord


def find_pseudo_labels(run: Run, asked: Recipe) -> PseudoLabels | None:
    """Train the first run and predict labels with it; None without unlabelled rows.

    Args:
        run: a prepared run, before training.
        asked: the recipe as the user wrote it, which may leave the learning rate and epochs of the first run open.
    """
    rows = run.data.unlabelled
    if rows is None:
        return None
    started = time.perf_counter()
    run.console.print(f"first run: {len(run.data.train):,} labelled rows")
    first = _first_run(run, asked)
    classifier = trained(first)
    run.kernels = first.kernels
    with preparing(run.console, "classifying the unlabelled rows"):
        probabilities = predict_probabilities(classifier, rows, run.recipe.eval_batch_size)
    hashes, best = rows.hashes(), probabilities.max(1)
    is_labelled = np.isin(hashes, np.concatenate([run.data.train.hashes(), run.data.validation.hashes()]))
    chosen = np.flatnonzero((best >= SURE) & ~is_labelled)
    label_ids = probabilities.argmax(1)[chosen]
    names = run.data.labels.names
    counts = np.bincount(label_ids, minlength=len(names)).tolist()
    test = run.data.test
    record = PseudoLabelRecord(
        source=str(run.recipe.unlabelled),
        sha256=rows.tables[0].source_sha256,
        rows=len(rows),
        least_probability=SURE,
        taken=len(chosen),
        label_counts=dict(zip(names, counts, strict=True)),
        rows_also_labelled=int(is_labelled.sum()),
        rows_also_in_test=int(np.isin(hashes, test.hashes()).sum()) if test is not None else None,
        seconds=time.perf_counter() - started,
    )
    run.console.print(
        f"{len(rows):,} rows without labels: the first run is sure of {len(chosen):,} (probability {SURE:g} or more); "
        "they are added to the training rows",
        soft_wrap=True,
    )
    return PseudoLabels(rows=chosen, label_ids=label_ids, probabilities=best[chosen], record=record)


def _first_run(run: Run, asked: Recipe) -> Run:
    """The same run on its labelled rows only, with the default learning rate and epochs for their number.

    These do not depend on what `add_pseudo_labels` decides, so that ``recipe.yaml`` repeats the run.
    """
    num_rows = len(run.data.train)
    rate = with_pace(asked, run.pretrained.config, None).learning_rate
    assert rate is not None, "with_pace sets it"
    recipe = replace(
        run.recipe,
        epochs=max(default_epochs(num_rows, asked.batch_size), asked.epochs or 0),
        learning_rate=for_few_rows(rate) if num_rows < FEW_ROWS else rate,
    )
    return replace(run, recipe=recipe, steps=plan_steps(recipe, run.plan, num_rows))


def add_pseudo_labels(run: Run, asked: Recipe, found: PseudoLabels) -> None:
    """Append the rows to the training rows of ``run`` and recompute its schedule."""
    assert run.data.unlabelled is not None
    chosen = run.data.unlabelled[found.rows]
    added = LabelledRows(chosen.tables, chosen.table_of, chosen.row_of, found.label_ids)
    run.data = replace(run.data, train=run.data.train + added)
    num_rows = len(run.data.train)
    pace = with_pace(asked, run.pretrained.config, max(num_rows, FEW_ROWS))
    run.recipe = replace(run.recipe, epochs=pace.epochs, learning_rate=pace.learning_rate)
    run.steps = plan_steps(run.recipe, run.plan, num_rows)


def save_pseudo_labels(run: Run, found: PseudoLabels) -> None:
    """Write `FILE`, and put its checksum into the record."""
    if not distributed.is_main():
        return
    content = io.StringIO()
    lines = csv.writer(content, lineterminator="\n")
    lines.writerow(["row", "label", "probability", "text"])
    names = run.data.labels.names
    for row, label_id, probability, text in zip(
        found.rows.tolist(),
        found.label_ids.tolist(),
        found.probabilities.tolist(),
        _texts(run, found.rows),
        strict=True,
    ):
        lines.writerow([row, names[label_id], f"{probability:.4f}", text])
    path = entry_of(run.folder, FILE)
    write_text(path, content.getvalue())
    run.record.pseudo_labels = replace(found.record, file=describe_file(path))
    run.save_record()


def _texts(run: Run, rows: Index) -> list[str]:
    """The beginnings of the texts of ascending ``rows``, one line each; empty if they cannot be read again."""
    found: list[str] = []
    try:
        for batch in run.data.sources["unlabelled"].batches():
            first, last = np.searchsorted(rows, [batch.start, batch.start + len(batch.texts)])
            for at in (rows[first:last] - batch.start).tolist():
                parts = [batch.texts[at], *([batch.pairs[at]] if batch.pairs else [])]
                found.append(" | ".join(_line(part) for part in parts))
    except (LeantuneError, OSError):  # the tokens are already read, so this is no reason to lose the run
        return [""] * len(rows)
    return found


def _line(text: str) -> str:
    """The beginning of a text, without line ends and without NUL, at which csv stops reading."""
    return shown_text(" ".join(text.replace("\0", " ").split()))


def read_pseudo_labels(run: Run) -> PseudoLabels | None:
    """Read what `save_pseudo_labels` wrote; None without unlabelled rows.

    Raises:
        CheckpointError: if the file or the source of the unlabelled rows has changed.
    """
    if run.data.unlabelled is None:
        return None
    path, record = entry_of(run.folder, FILE), run.record.pseudo_labels
    if record is None or record.file is None or not path.is_file() or describe_file(path) != record.file:
        raise CheckpointError(
            f"cannot resume: {path} is not what the run wrote; start again with --overwrite"
        )
    if (now := run.data.unlabelled.tables[0].source_sha256) != record.sha256:
        raise CheckpointError(
            f"cannot resume: the unlabelled rows of {record.source} have changed (SHA-256 was {record.sha256[:12]}…, "
            f"is {now[:12]}…); restore the original ones, or start again with --overwrite"
        )
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    ids = {name: i for i, name in enumerate(run.data.labels.names)}
    return PseudoLabels(
        rows=np.array([int(line["row"]) for line in lines], dtype=np.int64),
        label_ids=np.array([ids[line["label"]] for line in lines], dtype=np.int64),
        probabilities=np.array([float(line["probability"]) for line in lines]),
        record=record,
    )
