"""What every benchmark does: it reads options, says where its numbers come from, and writes them as JSON and Markdown.

Below ``benchmarks/results/`` a benchmark has a folder of its own with files named after the machine. A new result takes
the place of the one before it, which stays in the history of git.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from leantune.system.hardware import ISA_LIMIT, describe_hardware, describe_versions, pick_device

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
"""What README and docs show."""

Result = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One that is run as ``python -m benchmarks.NAME``."""

    name: str
    about: str | None
    """The docstring of its module, for ``--help``."""

    def parser(self) -> argparse.ArgumentParser:
        """A parser with the one option that all have."""
        parser = argparse.ArgumentParser(
            prog=f"python -m benchmarks.{self.name}",
            description=self.about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument(
            "--results",
            type=Path,
            default=RESULTS,
            metavar="FOLDER",
            help="where to write; default: for the docs",
        )
        return parser

    def origin(self) -> dict[str, Any]:
        """Where a result comes from: day, commit, command, machine and versions."""
        return {
            "date": date.today().isoformat(),
            "commit": commit(),
            "command": " ".join([f"python -m benchmarks.{self.name}", *sys.argv[1:]]),
            "hardware": describe_hardware(pick_device()),
            "versions": describe_versions(),
        }

    def file(self, folder: Path, hardware: Mapping[str, Any], suffix: str = "json") -> Path:
        """Where the result of a machine is, or will be."""
        return folder / self.name.replace(".", "_") / f"{slug(machine_name(hardware))}.{suffix}"

    def earlier(self, folder: Path) -> dict[str, Any]:
        """The result that a run on a machine like this left; empty if there is none."""
        path = self.file(folder, describe_hardware(pick_device()))
        return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}

    def write(self, folder: Path, result: Result, text: str) -> list[Path]:
        """``result`` as JSON, and ``text`` beside it; folders that are not there are made."""
        as_json, as_markdown = (self.file(folder, result["hardware"], suffix) for suffix in ("json", "md"))
        as_json.parent.mkdir(parents=True, exist_ok=True)
        as_json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        as_markdown.write_text(text, "utf-8")
        return [as_json, as_markdown]

    def publish(self, folder: Path, result: Result, text: str) -> None:
        """Write both files and print the text and their names."""
        files = self.write(folder, result, text)
        print(text, *files, sep="\n", flush=True)


def commit() -> str | None:
    """The commit that is checked out, with a plus where the tree differs from it; None outside of git."""
    words = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def machine_name(hardware: Mapping[str, Any]) -> str:
    """The GPU, or the processor and what it was kept from using."""
    limit = hardware.get("onednn_max_cpu_isa")  # older results lack it
    cpu = f"{hardware['cpu']} ({ISA_LIMIT}={limit})" if limit else hardware["cpu"]
    return str(hardware["gpu"] or cpu)


def slug(text: str) -> str:
    """``text`` as a part of a file name.

    >>> slug("Intel(R) Xeon(R) CPU @ 2.0GHz")
    'intel-xeon-cpu-2-0ghz'
    """
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", " ", text.lower())).strip("-")


def machine_and_day(result: Result) -> str:
    """The machine, its cores and the day, in words."""
    hardware = result["hardware"]
    return f"{machine_name(hardware)}, {hardware['cores']} cores, {result['date']}"


def measured_by(result: Result, *packages: str) -> str:
    """The command, where and when it ran, and the versions of ``packages``, as a sentence without its stop."""
    at = f", commit {result['commit']}," if result.get("commit") else ""  # older results lack it
    versions = "; ".join(["", ", ".join(f"{name} {result['versions'][name]}" for name in packages)])
    return f"`{result['command']}`{at} on {machine_and_day(result)}{versions if packages else ''}"


def commands_of(measurements: Iterable[Mapping[str, Any]]) -> str:
    """The commands that printed them, each once, as Markdown."""
    return ", ".join(f"`{command}`" for command in dict.fromkeys(each["command"] for each in measurements))


def page(title: str, *blocks: str) -> str:
    """A page of Markdown."""
    return "\n\n".join([f"# {title}", *filter(None, blocks)]) + "\n"


def table(header: Sequence[str], lines: Iterable[Iterable[str]], right: Iterable[int] = ()) -> str:
    """A table of Markdown; the columns ``right`` are aligned to the right.

    >>> print(table(["", "ms"], [["a", "1"]], right=[1]))
    |  | ms |
    | --- | ---: |
    | a | 1 |
    """
    to_the_right = set(right)
    rule = ["---:" if i in to_the_right else "---" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *lines))


def turns(parties: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Each of ``parties`` once a round, with the number of the round; every second round begins at the other end.

    >>> list(turns("ab", 2))
    [(0, 'a'), (0, 'b'), (1, 'b'), (1, 'a')]
    """
    for number in range(rounds):
        for party in parties if number % 2 == 0 else parties[::-1]:
            yield number, party


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What ``work`` returns, and its seconds."""
    started = time.perf_counter()
    found = work()
    return found, time.perf_counter() - started


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def whole_numbers(text: str) -> list[int]:
    """The value of an option with several of them, separated by commas."""
    return [int(each) for each in text.split(",")]


def words(text: str) -> list[str]:
    """The value of an option with several words, separated by commas."""
    return text.split(",")
