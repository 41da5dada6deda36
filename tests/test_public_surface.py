"""Everything that users can name is listed in ``public_surface.txt``, so that none of it goes by accident.

``python tests/test_public_surface.py`` writes the list again.
"""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import leantune
from leantune import errors
from leantune.config.recipe import keys
from leantune.config.reference import default_of

LIST = Path(__file__).with_name("public_surface.txt")
UPDATE = "python tests/test_public_surface.py"
COMMAND = re.compile(r"^ {2,6}([a-z][a-z-]*)(?: {2,}\S|$)", re.MULTILINE)
FLAG = re.compile(r"^ {2,4}(?:-\w(?: \S+)?, )?(--[a-z][\w-]*)(?: \[?(\{[^}]*\}))?", re.MULTILINE)


def test_the_public_surface_is_what_the_list_says():
    known, found = LIST.read_text("utf-8").splitlines(), surface()
    removed = [line for line in known if line not in found]
    added = [line for line in found if line not in known]
    assert not removed, (
        f"gone or changed: {removed}; instead: {added}. Users may depend on it: it needs a deprecation first "
        f"(docs/reference/stability.md). Once that is over, write it into CHANGELOG.md and run: {UPDATE}"
    )
    assert not added, f"new: {added}. Write it into CHANGELOG.md and run: {UPDATE}"
    assert known == found, f"another order, or lines twice. Run: {UPDATE}"


def test_flags_are_read_from_help_and_not_from_its_texts():
    shown = """usage: leantune x [--wrong] RUN

options:
  -h, --help          show this help, not that of --wrong
  --engine {torch,onnx}
                      --wrong begins a line of the text
  -o FILE, --output FILE
  --abstain [{overall,by-class}]

examples:
  --wrong
"""
    assert flags_in(shown) == ["--abstain {overall,by-class}", "--engine {torch,onnx}", "--help", "--output"]


def surface() -> list[str]:
    """A line for each flag, recipe key, public name and exit code."""
    lines = [*flags(), *recipe_keys(), *names(), *exit_codes()]
    return sorted(set(lines), key=lines.index)


def flags() -> Iterator[str]:
    """The flags of every command, as its own help shows them."""
    overview = help_of("--help")
    for flag in flags_in(overview):
        yield f"flag leantune {flag}"
    for command in sorted(set(commands_in(overview))):
        shown = help_of(command, "--help")
        if "--help-all" in shown:
            shown = help_of(command, "--help-all")
        for flag in flags_in(shown):
            yield f"flag leantune {command} {flag}"


def help_of(*words: str) -> str:
    settings = os.environ | {"NO_COLOR": "1", "COLUMNS": "100"}
    command = [sys.executable, "-m", "leantune", *words]
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=True).stdout


def commands_in(shown: str) -> list[str]:
    return COMMAND.findall(shown.partition("\nexamples:")[0])


def flags_in(shown: str) -> list[str]:
    """Each with its choices, if it has any."""
    found = FLAG.findall(shown.partition("\nexamples:")[0])
    return sorted(f"{flag} {choices}".rstrip() for flag, choices in found)


def recipe_keys() -> Iterator[str]:
    for name, key in sorted(keys().items()):
        yield f"key {name} = {default_of(key)}"


def names() -> Iterator[str]:
    """The public names, with the parameters of what is called."""
    for name in sorted(leantune.__all__):
        value = getattr(leantune, name)
        is_error = isinstance(value, type) and issubclass(value, Exception)
        parameters = inspect.signature(value).parameters if callable(value) and not is_error else {}
        yield f"name leantune.{name}"
        for parameter in sorted(parameters):
            yield f"parameter leantune.{name} {parameter}"


def exit_codes() -> Iterator[str]:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    for kind in sorted(set(kinds) - {errors.Interrupted}, key=lambda each: (each.exit_code, each.__name__)):
        yield f"exit {kind.exit_code} leantune.errors.{kind.__name__}"
    for number in (signal.SIGINT, signal.SIGTERM):
        stopped = errors.Interrupted("", signal_number=number)
        yield f"exit {stopped.exit_code} leantune.errors.Interrupted"


if __name__ == "__main__":
    LIST.write_text("\n".join(surface()) + "\n", "utf-8")
