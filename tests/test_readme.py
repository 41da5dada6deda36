"""What README and docs tell people to type exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from leantune.cli.parser import parse, recipe_from
from leantune.config import load_recipe, shipped_recipes
from leantune.config.reference import tables

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(program: str) -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line.split("  #")[0].removeprefix("$ ").strip() for line in lines]
    return sorted({line for line in found if line.split() and line.split()[0] == program})


@pytest.mark.parametrize("command", commands("leantune"))
def test_every_documented_command_parses(command):
    options = parse(shlex.split(command)[1:])
    if hasattr(options, "recipe") and not getattr(options, "resume", None):
        words = shlex.split(command)
        if any(word.endswith(".yaml") for word in words):
            return  # a file of the reader's
        recipe_from(options)


@pytest.mark.parametrize("command", commands("make"))
def test_every_documented_make_target_exists(command):
    target = command.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


def test_the_tables_of_recipe_keys_are_those_of_the_code():
    """``python -m leantune.config.reference`` prints them."""
    assert tables() in (ROOT / "docs/recipe.md").read_text("utf-8")


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads_and_round_trips(name, tmp_path):
    recipe = load_recipe(name, {})
    (tmp_path / "again.yaml").write_text(recipe.to_yaml(), "utf-8")
    assert load_recipe(str(tmp_path / "again.yaml"), {}) == recipe


def test_the_pages_name_no_missing_file():
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", page.read_text("utf-8")):
            assert (page.parent / link.split("#")[0]).exists(), f"{page.name}: {link}"


def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_anchor_of_the_pages_is_a_heading():
    for page in PAGES:
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text("utf-8")):
            target = page.parent / path if path else page
            assert anchor in anchors_of(target), f"{page.name}: {path}#{anchor}"
