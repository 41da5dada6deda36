"""The files of a result: numbers as JSON, the same to read as Markdown, in a folder for each benchmark and named after
the machine. A new result takes the place of the one before it, which stays in the history of git."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.speed.arithmetic import slug
from leantune.system.hardware import ISA_LIMIT, describe_hardware, describe_versions, pick_device

RESULTS = Path(__file__).parent / "results"
"""What README and docs show."""


def origin_of(module: str) -> dict[str, Any]:
    """Where a result comes from: day, command, machine and versions; for ``python -m module``."""
    return {
        "date": date.today().isoformat(),
        "commit": commit(),
        "command": " ".join([f"python -m {module}", *sys.argv[1:]]),
        "hardware": describe_hardware(pick_device()),
        "versions": describe_versions(),
    }


def commit() -> str | None:
    """The commit that is checked out, with a plus where the tree differs from it; None outside of git."""
    words = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def machine_name(hardware: Mapping[str, Any]) -> str:
    """The GPU, or the processor and what it was kept from using."""
    limit = hardware.get("onednn_max_cpu_isa")  # older results lack it
    cpu = f"{hardware['cpu']} ({ISA_LIMIT}={limit})" if limit else hardware["cpu"]
    return str(hardware["gpu"] or cpu)


def stem_of(kind: str, hardware: Mapping[str, Any]) -> str:
    """Their common name below the folder of results.

    >>> stem_of("speed", {"cpu": "AMD EPYC", "gpu": None})
    'speed/amd-epyc'
    """
    return f"{kind}/{slug(machine_name(hardware))}"


def write_result(folder: Path, stem: str, result: Mapping[str, Any], text: str) -> list[Path]:
    """``<stem>.json`` and ``<stem>.md`` in ``folder``; folders that are not there are made."""
    as_json, as_markdown = (folder / f"{stem}.{suffix}" for suffix in ("json", "md"))
    as_json.parent.mkdir(parents=True, exist_ok=True)
    as_json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    as_markdown.write_text(text, "utf-8")
    return [as_json, as_markdown]


def earlier_result(folder: Path, stem: str) -> dict[str, Any]:
    """What an earlier run wrote there; empty if none did. A run of some data sets keeps the others."""
    path = folder / f"{stem}.json"
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def commands_of(measurements: Iterable[Mapping[str, Any]]) -> str:
    """The commands that printed them, each once, as Markdown."""
    return ", ".join(f"`{command}`" for command in dict.fromkeys(each["command"] for each in measurements))
