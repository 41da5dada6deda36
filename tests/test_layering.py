"""Imports go down only, and the core never needs an extra."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "leantune"

FLOORS = (
    "errors",
    "system",
    "config",
    "pickle_tables",
    "data",
    "assets",
    "packing",
    "adalora",
    "kernels",
    "model",
    "inference",
    "serving",
    "training",
    "integrations",
    "report",
    "cluster",
    "ray",
    "spark",
    "api",
    "analysis",
    "estimator",
    "cli",
    "__main__",
)
"""Bottom to top: a room may import from rooms below it and from itself."""

MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("leantune.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports_of(path):
        room = room_of(name)
        if room in FLOORS and room != own:
            assert FLOORS.index(room) < FLOORS.index(own), f"{own} imports {name}"


def test_every_room_has_a_floor():
    rooms = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in MODULES}
    assert rooms == set(FLOORS)


def test_no_drawer_for_everything():
    names = {p.stem for p in MODULES}
    assert not names & {"utils", "helpers", "common", "misc"}


def test_the_report_needs_no_torch():
    code = "import sys, leantune.report; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_names_are_there():
    import leantune

    assert all(hasattr(leantune, name) for name in leantune.__all__)
