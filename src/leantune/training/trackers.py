"""Send the metrics of ``history.jsonl`` to experiment trackers (``report_to``), through accelerate."""

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
"""Arguments of each tracker; the ``run_name`` of wandb and trackio is their project."""


@dataclass(slots=True)
class Trackers:
    """The active trackers of one run; only the main process has any."""

    run: Run
    told: dict[str, Any] = field(default_factory=dict)

    def log(self, step: int, part: str, values: Mapping[str, float]) -> None:
        """Log to all trackers; one that fails is reported and dropped."""
        for name, tracker in list(self.told.items()):
            with self._survived(name):
                tracker.log({f"{part}/{key}": value for key, value in values.items()}, step=step)

    def finish(self) -> None:
        """Let all trackers flush and finish."""
        for name, tracker in list(self.told.items()):
            with self._survived(name):
                tracker.finish()

    @contextmanager
    def _survived(self, name: str) -> Iterator[None]:
        """Report and drop a tracker that fails: a network error is no reason to lose a run."""
        try:
            yield
        except Exception as error:
            self.told.pop(name, None)
            self.run.console.print(
                f"warning: {name} failed and gets no more metrics: {first_line(error)}", soft_wrap=True
            )


@contextmanager
def trackers_of(run: Run) -> Iterator[Trackers]:
    """Start the trackers that the recipe names.

    Raises:
        UsageError: if one is not installed or cannot start.
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

    PartialState()  # accelerate's trackers log nothing without it
    try:
        tracker = _class_of(name)(**SETTINGS[name](run))
        tracker.start()
        tracker.store_init_configuration(settings)
    except Exception as error:
        raise UsageError(
            f"report_to={name}: the tracker cannot start: {first_line(error)}; leave it out, or set it up"
        ) from error
    return tracker
