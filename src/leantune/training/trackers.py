"""Experiment trackers that are told what ``history.jsonl`` holds (``report_to``), through those of accelerate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from leantune.errors import UsageError, first_line
from leantune.system import distributed
from leantune.training.build import Run

PROJECT = "leantune"
SETTINGS: Mapping[str, Any] = {
    "tensorboard": lambda run: {"run_name": "tensorboard", "logging_dir": str(run.folder)},
    "wandb": lambda run: {
        "run_name": PROJECT,
        "name": run.folder.name,
        "id": run.record.run_id,
        "resume": "allow",
        "dir": str(run.folder),
    },
    "mlflow": lambda run: {"experiment_name": PROJECT, "run_name": run.folder.name},
    "trackio": lambda run: {"run_name": PROJECT, "name": run.folder.name, "resume": "allow"},
}
"""How each is told where it belongs; the ``run_name`` of wandb and trackio is what they call a project."""


@dataclass(slots=True)
class Trackers:
    """The trackers of one run; only the main process has any."""

    run: Run
    told: dict[str, Any] = field(default_factory=dict)

    def log(self, step: int, part: str, values: Mapping[str, float]) -> None:
        """Tell all of them; one that fails is named, and not told any more."""
        for name, tracker in list(self.told.items()):
            with self._survived(name):
                tracker.log({f"{part}/{key}": value for key, value in values.items()}, step=step)

    def finish(self) -> None:
        """Let all of them write what they hold back."""
        for name, tracker in list(self.told.items()):
            with self._survived(name):
                tracker.finish()

    @contextmanager
    def _survived(self, name: str) -> Iterator[None]:
        """A tracker on the network may fail in many ways, and none of them is worth a run."""
        try:
            yield
        except Exception as error:
            self.told.pop(name, None)
            self.run.console.print(
                f"warning: {name} is not told any more: {first_line(error)}", soft_wrap=True
            )


@contextmanager
def trackers_of(run: Run) -> Iterator[Trackers]:
    """Start the trackers that the recipe names.

    Raises:
        UsageError: for one that is not installed or cannot start.
    """
    trackers = Trackers(run)
    for name in run.recipe.report_to or () if distributed.is_main() else ():
        trackers.told[name] = _started(name, run)
    try:
        yield trackers
    finally:
        trackers.finish()


def check_trackers(names: tuple[str, ...]) -> None:
    """Refuse a tracker that cannot be imported, before the first row is read.

    Raises:
        UsageError: saying what to install.
    """
    for name in names:
        _class_of(name)
        try:
            __import__(name)
        except ImportError as error:
            raise UsageError(
                f"report_to={name}: {error.name or name} is missing: pip install {name}"
            ) from error


def _class_of(name: str) -> Any:
    try:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    except ImportError as error:
        raise UsageError(
            f"report_to={name}: {error.name} is missing: pip install 'leantune[trackers]' {name}"
        ) from error
    return LOGGER_TYPE_TO_CLASS[name]


def _started(name: str, run: Run) -> Any:
    settings = {
        key: value
        for key, value in run.recipe.by_key().items()
        if isinstance(value, bool | int | float | str)
    }
    from accelerate import PartialState

    PartialState()  # without which its trackers log nothing and say so
    try:
        tracker = _class_of(name)(**SETTINGS[name](run))
        tracker.start()
        tracker.store_init_configuration(settings)
    except Exception as error:
        raise UsageError(
            f"report_to={name}: the tracker cannot start: {first_line(error)}; leave it out, or set it up"
        ) from error
    return tracker
