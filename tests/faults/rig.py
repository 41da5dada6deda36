"""Strikes every operation at every n-th system call and looks at what is left.

Run under LD_PRELOAD of the compiled shim.c, by test_faults.py: the operation runs in a forked child, so
that a killed process is a killed process. One JSON line a fault goes to the report.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from leantune.system.atomic import ASIDE_PREFIX, TEMPORARY_PREFIX, remove_leftovers

MODES = ("disk full", "EIO", "short write", "kill", "torn write", "power cut")
"""In the order of ``enum mode`` in shim.c."""
DEADLY = ("kill", "torn write", "power cut")

State = dict[str, str]
"""SHA-256 of every file and folder that has a name of its own; what is not yet whole has none."""


@dataclass(frozen=True)
class Fault:
    """One strike and what came of it."""

    scenario: str
    mode: str
    point: int
    call: str
    exit_code: int
    """As a shell counts: 128 + the signal."""
    problem: str | None
    is_control: bool


class Shim:
    """The preloaded library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.what_was_struck.restype = ctypes.c_char_p

    def arm(self, folder: Path, mode: str, point: int) -> None:
        self._library.arm(os.fsencode(folder), MODES.index(mode), ctypes.c_long(point))

    def end(self) -> None:
        """One more moment to die at: when all is said and done."""
        self._library.end()

    def disarm(self) -> str:
        self._library.disarm()
        return os.fsdecode(self._library.what_was_struck())


def state_of(folder: Path) -> State:
    """Each checkpoint counts alone, as does each entry of the folder."""
    entries = [path for path in folder.iterdir() if path.name != "checkpoints"]
    entries += (folder / "checkpoints").glob("*")
    named = [path for path in entries if not path.name.startswith((TEMPORARY_PREFIX, ASIDE_PREFIX))]
    return {str(path.relative_to(folder)): _digest(path) for path in named}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for each in sorted([path, *path.rglob("*")]):
        digest.update(str(each.relative_to(path)).encode() + b"\0")
        if each.is_file():
            digest.update(each.read_bytes())
    return digest.hexdigest()


def in_child(act, folder: Path, errors: Path, shim: Shim, strike: tuple[str, int] | None) -> tuple[int, str]:
    """Exit code and the struck call, which is empty if the operation has fewer calls than the point."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, 2)
        os.dup2(descriptor, 1)
        if strike:
            shim.arm(folder, *strike)
        code = 70
        try:
            code = act(folder)
            shim.end()
        finally:
            os.write(write_end, shim.disarm().encode())
            sys.stderr.flush()
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        call = pipe.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return (128 - code, "the process died") if code < 0 else (code, call)


def faults(scenario, work: Path, stride: int) -> Iterator[Fault]:
    """One of every ``stride`` faults of a scenario, in every mode; of a slow one fewer, of a control all."""
    if scenario.is_control:
        stride = 1
    elif scenario.is_slow and stride > 1:
        stride *= 6
    shim, before, folder, errors = Shim(), work / "before", work / "folder", work / "stderr"
    shutil.rmtree(before, ignore_errors=True)
    before.mkdir(parents=True)
    scenario.prepare(before)

    def prepare() -> State:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        return state_of(folder)

    old = prepare()
    code, _ = in_child(scenario.act, folder, errors, shim, None)
    new = state_of(folder)
    assert code == 0, f"{scenario.name} fails undisturbed: {errors.read_text()}"
    assert new != old
    for mode in MODES:
        point = 1
        while True:
            prepare()
            code, call = in_child(scenario.act, folder, errors, shim, (mode, point))
            if not call:
                break
            problem = (
                problem_of_exit(mode, code, errors.read_text())
                or problem_of_state(folder, old, new, is_done=code == 0, is_recovered=scenario.is_recovered)
                or problem_of_next(scenario, folder, errors, shim, new)
            )
            yield Fault(scenario.name, mode, point, call, code, problem, scenario.is_control)
            point += stride


def problem_of_exit(mode: str, code: int, errors: str) -> str | None:
    """Whether leantune said what happened, in one line and with the right code."""
    if mode in DEADLY:
        return None if code == 128 + signal.SIGKILL else f"exit {code}, expected a killed process"
    lines = errors.strip().splitlines()
    if code == 0:
        return f"exit 0, but: {errors}" if any("error" in line for line in lines) else None
    if code != 6 or len(lines) != 1 or not lines[0].startswith("leantune: error: "):
        return f"exit {code}, expected one line and exit 6: {errors[-2000:]}"
    return None


def problem_of_state(
    folder: Path, old: State, new: State, *, is_done: bool, is_recovered: bool
) -> str | None:
    """Whether everything that has a name is wholly old or wholly new."""
    if is_recovered:
        remove_leftovers(folder)
    found = state_of(folder)
    for name in old.keys() | new.keys() | found.keys():
        if found.get(name) not in (new.get(name), old.get(name)):
            return f"{name} is {'neither old nor new' if name in found else 'missing'}"
        if is_done and found.get(name) != new.get(name):
            return f"{name} is not new, though the command says that all is well"
    return None


def problem_of_next(scenario, folder: Path, errors: Path, shim: Shim, new: State) -> str | None:
    """Whether the next run cleans up and gets to the end."""
    for place in (folder, folder / "checkpoints"):
        remove_leftovers(place)
    if state_of(folder) == new:
        return None
    code, _ = in_child(scenario.act, folder, errors, shim, None)
    if code or state_of(folder) != new:
        return f"the next run does not get there: {errors.read_text()[-2000:]}"
    left = [path.name for path in folder.rglob(".*")]
    return f"left behind: {left}" if left else None


def run_all(run: Path, rows: Path, work: Path, stride: int, report: Path) -> None:
    """Strike everything and write the report."""
    from scenarios import scenarios

    with report.open("w", encoding="utf-8") as file:
        for scenario in scenarios(run, rows):
            for fault in faults(scenario, work, stride):
                file.write(json.dumps(asdict(fault)) + "\n")
                file.flush()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    run_all(*map(Path, sys.argv[1:4]), int(sys.argv[4]), Path(sys.argv[5]))
