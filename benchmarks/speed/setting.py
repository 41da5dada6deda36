"""What the benchmarks of speed have in common: a folder, encoders and rows, and what is done with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from benchmarks.harness import slug
from benchmarks.inputs import Model, Rows, available_models, repeated, shuffled_rows, write_rows
from benchmarks.processes import Workplace, workplace
from benchmarks.speed import pipelines
from benchmarks.speed.comparison import Comparison
from leantune.kernels.native.kernels import why_no_int8
from leantune.system.hardware import pick_device, pick_precision

VALIDATION_ROWS = 64
# (default, --long); training rows are whole batches of 32, and enough of them that the first step, which compiles
# kernels, does not decide
ROWS = {
    ("MiniLM-L6", "training"): (1024, 2048),
    ("RoBERTa-base shape", "training"): (384, 640),
    ("MiniLM-L6", "prediction"): (1024, 2048),
    ("RoBERTa-base shape", "prediction"): (256, 640),
}
MODELS = tuple(dict.fromkeys(name for name, _ in ROWS))


@dataclass(frozen=True, slots=True)
class Setting:
    """Where processes run, and what they work on."""

    place: Workplace
    models: list[Model]
    missing: list[str]
    """A sentence for each model that cannot be had here."""
    data: str
    rows: Rows
    precision: str
    """bf16 where the machine computes it natively, else fp32."""

    @property
    def has_int8(self) -> bool:
        """Whether the kernels multiply in int8 here."""
        return self.precision == "bf16" and not torch.cuda.is_available() and not why_no_int8()

    def comparison(self, model: Model, task: str, *, is_long: bool = False) -> Comparison:
        """Write the rows of a comparison: first those to train on, then a few to validate, then the others."""
        home = self.place.folder / slug(model.name)
        home.mkdir(exist_ok=True)
        count, trained = (ROWS[model.name, each][is_long] for each in (task, "training"))
        first = 0 if task == "training" else trained + VALIDATION_ROWS
        work = pipelines.Workload(
            model=model.folder,
            rows=write_rows(home / f"{task}.csv", self.rows[first : first + count]),
            validation=write_rows(home / "validation.csv", self.rows[trained:][:VALIDATION_ROWS]),
            trained=home / "run",
            precision=self.precision,
            learning_rate=model.learning_rate,
        )
        shown = pipelines.pipelines_of(task, is_long=is_long, has_int8=self.has_int8)
        return Comparison(model, task, count, work, shown)

    def many_rows(self, count: int) -> Path:
        """A file of ``count`` different rows."""
        return write_rows(self.place.folder / f"rows-{count}.csv", islice(repeated(self.rows, count), count))


@contextmanager
def setting(only: str = "") -> Iterator[Setting]:
    """A folder for as long as this lasts, rows, and the models whose names have ``only`` in them."""
    with tempfile.TemporaryDirectory() as folder:
        place = workplace(Path(folder))
        models, missing = available_models(place)
        for sentence in missing:
            place.say(sentence)
        chosen = [model for model in models if only in model.name]
        if not chosen:
            raise SystemExit(f"no model has {only} in its name here; there are {', '.join(MODELS)}")
        yield Setting(place, chosen, missing, *shuffled_rows(place), pick_precision("auto", pick_device()))
