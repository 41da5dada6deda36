"""Fixtures that every test gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from leantune.training.run import run_training
from tiny import quiet, recipe_for, save_tiny_encoder, write_rows


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_tiny_encoder(folder / "encoder")
    write_rows(folder / "train.csv", 240)
    write_rows(folder / "test.csv", 60, seed=1)
    return folder


@pytest.fixture(scope="session")
def run(inputs, tmp_path_factory) -> Path:
    return run_training(
        recipe_for(inputs, tmp_path_factory.mktemp("runs") / "run", keep_best=2), console=quiet()
    )
