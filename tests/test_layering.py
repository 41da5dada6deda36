"""Imports go down only, no files import in a circle, and the core never needs an extra."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "leantune"

FLOORS = (
    "_version",
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
    "evaluation",
    "report",
    "inference",
    "serving",
    "training",
    "integrations",
    "questions",
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


def name_of(path: Path) -> str:
    parts = ("leantune", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imports_of(path: Path) -> set[str]:
    """The files of the package that one imports, for types alone, too; a name of the package itself is its file's."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("leantune.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "leantune" or (node.module or "").startswith("leantune."):
                found |= {_file_of(f"{node.module}.{alias.name}", path) for alias in node.names}
    return found


def _file_of(name: str, path: Path) -> str:
    module = name if name in NAMES else name.rpartition(".")[0]
    assert module != "leantune", (
        f"{path}: takes {name} from the top of the package; import it from its own file"
    )
    return module


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    own = name_of(path).split(".")[1]
    for name in imports_of(path):
        room = name.split(".")[1]
        if room != own:
            assert FLOORS.index(room) < FLOORS.index(own), f"{own} imports {name}"


def test_no_files_import_in_a_circle():
    try:
        tuple(TopologicalSorter({name_of(path): imports_of(path) for path in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


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
