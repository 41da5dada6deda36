"""Fixtures that every test gets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sklearn  # noqa: F401 - sets variables of OpenMP, which belong to the environment of the suite
import torch

from commands import Commands, commands, restore_environment
from leantune.inference.export.formats import export
from leantune.inference.load import load
from leantune.kernels.choose import why_no_kernels
from leantune.training.run import run_training
from shelf import Shelf
from tiny import quiet, recipe_for, save_tiny_encoder, write_rows


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs_kernels: skipped where the package has no kernels for this machine"
    )
    config.addinivalue_line(
        "markers", "long: kills, signals and starts of Ray that take long; make test-long runs these"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_no_kernels()
    for item in items:
        if reason and item.get_closest_marker("needs_kernels"):
            item.add_marker(pytest.mark.skip(reason=f"no native kernels: {reason}"))


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def command() -> Commands:
    """Starts commands and scripts in processes of their own, without the time of their imports."""
    return commands()


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Shelf:
    """What is built once for all processes of the suite; a test that changes some of it copies it."""
    place = tmp_path_factory.getbasetemp()
    return Shelf((place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "shared")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Any:
    """A fixture that several tests use leaves no variable behind either."""
    result = yield
    if fixturedef.scope != "function":
        restore_environment()
    return result


@pytest.fixture(autouse=True)
def _environment_stays() -> Iterator[None]:
    """Leave no variable behind that would change what is imported later."""
    restore_environment()
    yield
    restore_environment()


@pytest.fixture(autouse=True)
def _what_is_shared_stays(shelf) -> Iterator[None]:
    yield
    changed = shelf.changed()
    assert not changed, f"shared by all tests and changed by this or one beside it: {changed}"


@pytest.fixture(scope="session")
def inputs(shelf) -> Path:
    def build(folder: Path) -> None:
        save_tiny_encoder(folder / "encoder")
        write_rows(folder / "train.csv", 240)
        write_rows(folder / "test.csv", 60, seed=1)

    return shelf.folder("inputs", build)


@pytest.fixture(scope="session")
def run(inputs, shelf) -> Path:
    def build(folder: Path) -> None:
        run_training(recipe_for(inputs, folder / "run", keep_best=2), console=quiet())

    return shelf.folder("runs", build) / "run"


@pytest.fixture(scope="session")
def run_with_onnx(run, shelf) -> Path:
    """A copy of the run with both exports to ONNX in it."""
    pytest.importorskip("onnxscript")

    def build(folder: Path) -> None:
        copy = load(run).save(folder / "run")
        for form in ("onnx", "onnx-int8"):
            export(copy, form, None)

    return shelf.folder("onnx", build) / "run"
