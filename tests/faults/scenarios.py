"""What is struck: every operation of leantune that changes files, on a small example of each."""

from __future__ import annotations

import copy
import csv
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import peft  # noqa: F401 - imported here, not again in every child
import torch

from leantune.cli.main import main
from leantune.cli.process import exit_code_of
from leantune.config import load_recipe
from leantune.evaluation.intervals import wilson_interval
from leantune.inference import predict  # noqa: F401 - likewise
from leantune.inference import writers as write  # noqa: F401 - likewise
from leantune.inference.export import formats as export  # noqa: F401 - likewise
from leantune.system import atomic
from leantune.training import checkpoint
from leantune.training.after import finalize as outcome
from leantune.training.build import Run, build_classifier, prepare_run
from leantune.training.checkpoint import Checkpoint, save_checkpoint
from leantune.training.selection import Evaluation, Selection
from leantune.training.state import restore_weights
from tiny import quiet

Act = Callable[[Path], int]
"""Does it in a folder; returns the exit code of leantune."""


@dataclass(frozen=True)
class Scenario:
    """One operation.

    Args:
        name: for people.
        prepare: puts the old state into an empty folder.
        act: turns it into the new state.
        is_recovered: whether the old state may need ``remove_leftovers`` to be there again.
        is_slow: takes a large part of a second, so that CI tries fewer of its faults.
        is_control: writes as nobody should; the rig must find that things are lost.
    """

    name: str
    prepare: Callable[[Path], None]
    act: Act
    is_recovered: bool = False
    is_slow: bool = False
    is_control: bool = False


def scenarios(run: Path, rows: Path) -> Iterator[Scenario]:
    """All of them; ``run`` is a finished run, ``rows`` a file to classify."""
    checkpoint.RETRY_PAUSES_S = (0.0, 0.0)  # retried, without the wait
    yield Scenario("save a checkpoint", lambda folder: _save(folder, 1), _explained(lambda f: _save(f, 2)))
    yield Scenario("save over a damaged checkpoint", _damaged, _explained(lambda f: _save(f, 2)))
    yield Scenario("remove old checkpoints", _six_checkpoints, _explained(_clean))
    yield Scenario("write the record", _old_record, _explained(lambda f: _new_record(f / "record.json")))
    publish, older = _publisher(run), lambda folder: _older(run, folder)
    yield Scenario("publish", _nothing, publish, is_slow=True)
    yield Scenario("publish over an older one", older, publish, is_slow=True)
    yield Scenario(
        "publish without renameat2", older, _without_exchange(publish), is_slow=True, is_recovered=True
    )
    for form in ("adalora", "lora", "merged"):
        yield Scenario(f"export {form}", _nothing, _export(run, form), is_slow=True)
    for suffix in ("csv", "jsonl", "parquet"):
        yield Scenario(
            f"predict to {suffix}", _old_predictions(suffix), _predict(run, rows, suffix), is_slow=True
        )
    yield Scenario("control: in place", _old_record, _explained(_write_in_place), is_control=True)
    yield Scenario("control: not flushed", _old_record, _explained(_write_unflushed), is_control=True)


def _nothing(folder: Path) -> None:
    """There is no old state."""


def _explained(act: Callable[[Path], object]) -> Act:
    def run(folder: Path) -> int:
        return exit_code_of(lambda: act(folder) and None)

    return run


def _save(folder: Path, step: int) -> None:
    tensors = {"weight": torch.arange(4000.0) + step, "step": torch.tensor(step)}
    save_checkpoint(folder, step, Checkpoint(tensors, {"evaluations": list(range(500))}))


def _damaged(folder: Path) -> None:
    _save(folder, 1)
    _save(folder, 2)
    (folder / "checkpoints" / "step-000002" / "MANIFEST.json").unlink()


def _six_checkpoints(folder: Path) -> None:
    for step in range(1, 7):
        _save(folder, step)


def _clean(folder: Path) -> None:
    metrics = [
        {"accuracy": right / 100, "accuracy_interval": wilson_interval(right, 100).to_json(), "log_loss": 1.0}
        for right in (50, 90, 60, 70, 80, 40)
    ]
    evaluations = [Evaluation(i + 1, i / 2, each, True) for i, each in enumerate(metrics)]
    Selection("accuracy", 1, evaluations).clean(folder)


def _publisher(run: Path) -> Act:
    """Artefacts of the best model of ``run``, with the work before them done once."""
    recipe = load_recipe(str(run / "recipe.yaml"), {"output": str(run)})
    prepared = prepare_run(recipe, console=quiet(), overwrite=False, resume=True)
    classifier = build_classifier(prepared)
    assert prepared.record.selected is not None
    step = prepared.record.selected.step
    ((_, selected),) = checkpoint.valid_checkpoints(run, [step], print)
    restore_weights(classifier, selected)
    Run.elapsed = lambda run: 0.0  # the record is the same each time

    def act(folder: Path) -> int:
        there = copy.copy(prepared)
        there.folder, there.record = folder, copy.deepcopy(prepared.record)
        return exit_code_of(lambda: outcome.publish_artefacts(there, classifier))

    return act


def _older(run: Path, folder: Path) -> None:
    for name in ("adapter", "merged"):
        shutil.copytree(run / name, folder / name)
        (folder / name / "older.txt").write_text("an older one")


def _without_exchange(act: Act) -> Act:
    def run(folder: Path) -> int:
        atomic._exchange = lambda first, second: False  # in this process alone, which ends after it
        return act(folder)

    return run


def _old_record(folder: Path) -> None:
    (folder / "record.json").write_text('{"status": "running"}')


NEW_RECORD = '{"status": "finished"}' + " " * 20_000


def _new_record(path: Path) -> None:
    atomic.write_text(path, NEW_RECORD)


def _write_in_place(folder: Path) -> None:
    (folder / "record.json").write_text(NEW_RECORD)


def _write_unflushed(folder: Path) -> None:
    (folder / ".tmp-record.json").write_text(NEW_RECORD)
    (folder / ".tmp-record.json").replace(folder / "record.json")


def _export(run: Path, form: str) -> Act:
    return lambda folder: main(["export", str(run), "--format", form, "--output", str(folder / "exported")])


def _old_predictions(suffix: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        with (folder / f"predictions.{suffix}").open("w") as file:
            csv.writer(file).writerow(["the", "file", "before"])

    return prepare


def _predict(run: Path, rows: Path, suffix: str) -> Act:
    words = ["predict", str(run), "--input", str(rows), "--overwrite", "--probabilities"]
    return lambda folder: main([*words, "--output", str(folder / f"predictions.{suffix}")])
