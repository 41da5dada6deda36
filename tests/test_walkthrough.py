"""docs/walkthrough.md and docs/glossary.md name only files and names that are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("leantune.kernels.native.library", reason="the pages name files of the kernels")

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "leantune"
WALKTHROUGH = ROOT / "docs" / "walkthrough.md"
PAGES = [WALKTHROUGH, ROOT / "docs" / "glossary.md"]
FOREIGN = {"Trainer", "leantune"}
"""Of others, or the command."""


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a module defines: classes, functions, methods, fields, constants and parameters."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return frozenset(found)


def identifiers(page: Path) -> set[str]:
    """Names in backticks, also with a shape behind them (``lora_A (R, in)``) or as ``key=value``."""
    return set(re.findall(r"`([A-Za-z]\w+)(?: \([^`]*\)|=[^`]*)?`", page.read_text("utf-8"))) - FOREIGN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_is_defined_somewhere_in_the_package(page):
    defined = frozenset().union(*map(names_in, PACKAGE.rglob("*.py")))
    assert len(identifiers(page)) > 10
    assert identifiers(page) <= defined


def test_a_name_is_defined_in_the_file_that_is_linked_behind_it():
    text = WALKTHROUGH.read_text("utf-8")
    pairs = re.findall(r"`(\w+)`\s+(?:in )?\(?\[[^\]]+\]\(\.\./(src/[^)]+\.py)\)", text)
    assert len(pairs) > 20
    for name, path in pairs:
        assert name in names_in(ROOT / path), f"{path} has no {name}"


def test_every_file_of_the_text_exists():
    text = WALKTHROUGH.read_text("utf-8")
    for path in re.findall(r"`((?:src|csrc|examples)/[^`]*)`", text):
        assert (ROOT / path).exists(), path
    for label, path in re.findall(r"\[([^\]]+)\]\(\.\./([^)]+)\)", text):
        assert (ROOT / path).is_file(), path
        assert path.endswith(label), f"{label} is {path}"
