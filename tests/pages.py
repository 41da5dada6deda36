"""The blocks of a page of the docs, run as a reader would: from top to bottom, in one folder.

A block of the shell (``console``, ``bash``, ``sh``) or of Python is run, one with a title is a file of that name. A
``text`` block right behind it is what it prints: white space counts for nothing, a line ``...`` stands for any lines.
Comments of HTML before a block say more:

    <!-- not run: REASON -->     it needs the network, a GPU, another machine or minutes
    <!-- exit code: 3 -->        it fails with this code
    <!-- stopped when there is: FILE -->   it gets SIGTERM then
    <!-- numbers vary -->        before a text block: every number in it stands for any other
    <!-- before: COMMAND -->     is run and not shown, for what a reader has at that place

The first line of a page may say ``<!-- starts with a run -->``: there is a finished one in runs/mine, then.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commands import STDOUT, commands

SHELL = ("console", "bash", "sh")
FILES = ("csv", "yaml")
RUN = (*SHELL, "python", *FILES)
COMMENT = r"<!-- (?P<comment>.*?) -->"
FENCE = r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<content>.*?)^```$"
PART = re.compile(f"{COMMENT}|{FENCE}", re.DOTALL | re.MULTILINE)
SPECIAL = set("|<>&;$`*()~")
"""Of the shell: a line that has none of them is one command and its words."""
SECONDS = 120


@dataclass(slots=True)
class Block:
    """A block that is run, and what it prints."""

    language: str
    content: str
    line: int
    exit_code: int = 0
    title: str | None = None
    skipped: str | None = None
    stopped: str | None = None
    printed: str | None = None
    numbers_vary: bool = False
    before: list[str] = field(default_factory=list)


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page that are run or say why not, in order."""
    found: list[Block] = []
    said: dict[str, str] = {}
    before: list[str] = []
    end_of_block = -1
    for part in PART.finditer(text):
        if part["comment"] is not None:
            key, _, value = part["comment"].partition(": ")
            if key == "before":
                before.append(value)
            else:
                said[key] = value
            continue
        if part["language"] == "text":
            if end_of_block >= 0 and not re.sub(COMMENT, "", text[end_of_block : part.start()]).strip():
                found[-1].printed = part["content"]
                found[-1].numbers_vary = "numbers vary" in said
            end_of_block = -1
        elif part["language"] in RUN:
            found.append(
                Block(
                    part["language"],
                    part["content"],
                    text.count("\n", 0, part.start()) + 1,
                    exit_code=int(said.get("exit code", 0)),
                    title=part["title"],
                    skipped=said.get("not run"),
                    stopped=said.get("stopped when there is"),
                    before=before,
                )
            )
            before, end_of_block = [], part.end()
        said = {}
    return found


def lines_of(block: Block) -> Iterator[str]:
    """The commands of a block of the shell, without prompts and comments."""
    for line in block.content.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s)#.*", "", line.strip().removeprefix("$ ")).strip()
        if command:
            yield command


def run_blocks(page: str, blocks: list[Block], folder: Path, names: dict[str, Any] | None = None) -> None:
    """Run the blocks of a page in ``folder``; an error names page and line.

    Raises:
        AssertionError: if a block fails, or prints something else than the page says.
    """
    namespace = {"__name__": "__main__", **(names or {})}
    for block in blocks:
        place = f"{page}:{block.line}"
        for command in block.before:
            _shell(command, folder, place)
        if block.skipped is not None:
            assert len(block.skipped) > 10, f"{place}: not run, without a reason"
            continue
        if block.language in FILES:
            assert block.title, f"{place}: a file without a name"
            (folder / block.title).write_text(block.content, "utf-8")
            continue
        if block.language == "python":
            printed = _python(block, namespace, place)
        else:
            ending = {"exit_code": block.exit_code, "stopped": block.stopped}
            printed = "".join(_shell(line, folder, place, **ending) for line in lines_of(block))
        if block.printed is not None:
            wanted = pattern_of(block.printed, block.numbers_vary)
            assert re.fullmatch(wanted, plain(printed)), f"{place} prints\n{printed}\nnot\n{block.printed}"


def plain(text: str) -> str:
    """Lines with single spaces between words, without empty ones."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


def pattern_of(printed: str, numbers_vary: bool) -> str:
    """What a page says is printed, as a regular expression for `plain` text."""
    pattern = ""
    for line in plain(printed).splitlines():
        if line == "...":
            pattern += r"(?:.*\n)*?"
            continue
        escaped = re.escape(line)
        pattern += (re.sub(r"\d(?:[\d,]|\\\.\d)*", r"[\\d.,]+", escaped) if numbers_vary else escaped) + r"\n"
    return pattern


def _python(block: Block, namespace: dict[str, Any], place: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile("\n" * block.line + block.content, place.rpartition(":")[0], "exec"), namespace)
    return out.getvalue()


def _shell(command: str, folder: Path, place: str, exit_code: int = 0, stopped: str | None = None) -> str:
    """Run one line, and give what it prints."""
    words = shlex.split(command)
    if words[0] == "leantune" and "--offline" not in words and not SPECIAL & set(command):
        code, printed = _leantune(command, folder, stopped)
    else:
        code, printed = _bash(command, folder)
    assert code == exit_code, f"{place}: {command}\nends with {code}, not {exit_code}:\n{printed}"
    return printed


def _bash(command: str, folder: Path) -> tuple[int, str]:
    shell = ["bash", "-euo", "pipefail", "-c", command]
    done = subprocess.run(
        shell, cwd=folder, timeout=SECONDS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


def _leantune(command: str, folder: Path, stopped: str | None = None) -> tuple[int, str]:
    """As in a new process, which need not import torch first.

    Args:
        command: a line without anything of the shell.
        folder: where it is typed.
        stopped: pattern of a file; once there is one the process gets SIGTERM.
    """
    process = commands().start(*shlex.split(command)[1:], cwd=folder, stderr=STDOUT)
    if stopped:
        while process.poll() is None:
            if any(folder.glob(stopped)):
                process.terminate()
                break
            time.sleep(0.02)
    printed, _ = process.communicate(timeout=SECONDS)
    assert process.returncode is not None
    return process.returncode, printed
