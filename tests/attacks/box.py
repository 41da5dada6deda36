"""One attack: what it changes, the command that meets it, and whether that held."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CANARY = "mine"
FILTER = Path(__file__).parents[2] / "src" / "leantune" / "report" / "templates" / "filter.js"


@dataclass(slots=True)
class Box:
    """A folder of its own for one attack.

    Attributes:
        root: everything of the attack is in it; what is in ``root / "outside"`` must stay as it is.
        base: the unharmed run and its inputs, which are only read.
        environment: of the command.
        stdin: what the command reads from standard input.
        stderr: where its messages go, if not to where they are looked at.
        main: the command line of leantune.
    """

    root: Path
    base: Path
    main: Callable[[list[str]], int]
    environment: dict[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    stderr: str | None = None

    @property
    def run(self) -> Path:
        """A copy of the run, made when it is first asked for."""
        path = self.root / "run"
        if not path.exists():
            shutil.copytree(self.base / "run", path)
        return path

    @property
    def inputs(self) -> Path:
        return self.base / "inputs"

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    @property
    def output(self) -> Path:
        return self.root / "out" / "predictions.csv"

    def predict(self, *options: str, rows: Path | str | None = None) -> list[str]:
        """The command that classifies with the copy of the run."""
        self.output.parent.mkdir(exist_ok=True)
        rows = rows or self.inputs / "test.csv"
        return ["predict", str(self.run), "--input", str(rows), "--output", str(self.output), *options]

    def read(self, name: str, content: str | bytes, *options: str) -> list[str]:
        """The command that classifies rows of the given content, with the unharmed run."""
        path = self.root / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.output.parent.mkdir(exist_ok=True)
        run = self.base / "run"
        return ["predict", str(run), "--input", str(path), "--output", str(self.output), *options]

    def export(self, form: str) -> list[str]:
        return ["export", str(self.run), "--format", form, "--output", str(self.root / "out" / "export")]

    def train(self, *words: str) -> list[str]:
        """The command that trains a few steps into ``root / "new"``."""
        recipe = (self.base / "words.txt").read_text().split("\n")
        return ["train", *recipe, f"output={self.root / 'new'}", *words]

    def resume(self) -> list[str]:
        return ["train", "--resume", str(self.run)]

    def predictions_are_unchanged(self) -> str | None:
        """Why not, or None."""
        if not self.output.exists():
            return "no predictions"
        same = self.output.read_bytes() == (self.base / "predictions.csv").read_bytes()
        return None if same else "other predictions without a word"


def nothing(box: Box) -> str | None:
    return None


def unchanged(box: Box) -> str | None:
    """For a command that may succeed: if it did, what it says is what the unharmed run says."""
    return box.predictions_are_unchanged() if box.output.exists() else None


@dataclass(frozen=True, slots=True)
class Attack:
    """A name, how to prepare it (which gives the command), the exit codes that count as held, and what to look at."""

    group: str
    name: str
    prepare: Callable[[Box], list[str]]
    codes: tuple[int, ...]
    check: Callable[[Box], str | None] = nothing


def without_own_script(page: str) -> str:
    """A report without the script that filters its rows, the only one that belongs there."""
    return page.replace(f"<script>{FILTER.read_text('utf-8')}</script>", "", 1)
