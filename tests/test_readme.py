"""What README and docs tell people to type exists, and their tables are what was measured."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are no part of the package

from benchmarks.tables import PLACE, TABLES, with_tables

from leantune.cli.parser import parse
from leantune.cli.recipe import recipe_from
from leantune.config import load_recipe, shipped_recipes
from leantune.config.reference import tables
from pages import SHELL, blocks_of, lines_of

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "tests" / "CATALOGUE.md",
]
NOTEBOOK = sorted((ROOT / "benchmarks" / "notebook").glob("*.md"))
RESULTS = sorted((ROOT / "benchmarks" / "results").rglob("*.md"))


def commands(program: str) -> list[str]:
    """Of README and CONTRIBUTING, and those of the docs that test_docs.py does not run."""
    found = []
    for page in PAGES:
        for block in blocks_of(page.read_text("utf-8")):
            if block.language in SHELL and (block.skipped or page.parent == ROOT):
                found += lines_of(block)
    return sorted({line for line in found if line.split()[0] == program})


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
    for page in (*PAGES, *NOTEBOOK, *RESULTS):
        for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", page.read_text("utf-8")):
            file = page.parent / link.split("#")[0]
            may_be_gone = not (ROOT / "csrc").exists() and {"csrc", "native"} & set(file.parts)
            assert may_be_gone or file.exists(), f"{page.name}: {link}"


def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_anchor_of_the_pages_is_a_heading():
    for page in (*PAGES, *NOTEBOOK):
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text("utf-8")):
            target = page.parent / path if path else page
            assert anchor in anchors_of(target), f"{page.name}: {path}#{anchor}"


def test_the_tables_of_the_docs_are_those_of_the_results():
    """``python -m benchmarks.tables`` writes them."""
    shown = set()
    for page in PAGES:
        text = page.read_text("utf-8")
        assert with_tables(text) == text, page.name
        shown |= {name for _, name, _ in PLACE.findall(text)}
    assert shown == set(TABLES)


def test_the_notebook_has_a_line_for_each_of_its_pages():
    index = (ROOT / "benchmarks" / "notebook" / "README.md").read_text("utf-8")
    assert re.findall(r"\((\d[\w-]+\.md)\)", index) == [
        page.name for page in NOTEBOOK if page.name != "README.md"
    ]


def test_every_result_is_named_by_benchmark_and_machine_and_is_shown():
    """What nothing shows is in the history of git."""
    folder = ROOT / "benchmarks" / "results"
    pages = "".join(page.read_text("utf-8") for page in (*PAGES, *NOTEBOOK))
    for path in folder.rglob("*.md"):
        assert not re.search(r"20\d\d-\d\d", path.name), "the date is in the file"
        name = path.relative_to(folder).as_posix()
        assert name in pages or f"benchmarks/results/{name.split('/')[0]})" in pages, f"nothing shows {name}"
