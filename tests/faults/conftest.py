"""The faults are tried once a suite, in a process of their own; the tests look at the report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
STRIDE_IN_CI = 5
"""One of so many faults is tried, of slow operations fewer; LEANTUNE_ALL_FAULTS=1 tries all."""

_counts: dict[str, int] = {}


@pytest.fixture(scope="session")
def faults(run, inputs, shelf) -> list[dict[str, Any]]:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("the shim needs Linux and a C compiler")

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            _try(compiler, run, inputs / "test.csv", Path(work), folder / "report.jsonl")

    report = shelf.folder("faults", build) / "report.jsonl"
    found = [json.loads(line) for line in report.read_text("utf-8").splitlines()]
    real = [fault for fault in found if not fault["is_control"]]
    _counts["tried"], _counts["lost"] = len(real), sum(fault["problem"] is not None for fault in real)
    return found


def _try(compiler: str, run: Path, rows: Path, work: Path, report: Path) -> None:
    shim = work / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, HERE / "shim.c", "-ldl"], check=True)
    stride = 1 if os.environ.get("LEANTUNE_ALL_FAULTS") else STRIDE_IN_CI
    environment = {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), *sys.path]),
        "OMP_NUM_THREADS": "1",  # threads do not survive a fork
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, HERE / "rig.py", run, rows, work, str(stride), report]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def pytest_terminal_summary(terminalreporter) -> None:
    if _counts:
        terminalreporter.write_line(
            f"fault injection: {_counts['tried']:,} faults tried, {_counts['lost']} lost"
        )
