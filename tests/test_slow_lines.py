"""What makes a run slower than it could be is said before it starts."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from leantune.data.tokens.dataset import LabelledRows
from leantune.kernels.choose import Choice
from leantune.kernels.interface import SWITCH
from leantune.kernels.reference import Reference
from leantune.system import hardware
from leantune.system.hardware import ISA_LIMIT, _network_disk, why_slow
from leantune.training.warnings import slow_lines
from tiny import classifier_from, recipe_for, tiny_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)


class Lengths(LabelledRows):
    """Rows of which only the lengths matter."""

    __slots__ = ()

    @property
    def lengths(self):
        return self.row_of.astype(np.int32)


def lines(tmp_path, model_type="bert", lengths=(5, 5), kernels=None, precision="bf16", batch_size=2):
    numbers = np.array(lengths)
    rows = Lengths((), 0 * numbers, numbers, 0 * numbers)
    recipe = recipe_for(tmp_path, tmp_path / "run", batch_size=batch_size)
    classifier = classifier_from(tiny_model(model_type))
    return list(
        slow_lines(classifier, rows, recipe, kernels=kernels or Choice(Reference()), precision=precision)
    )


def test_a_fast_run_says_nothing(tmp_path):
    assert lines(tmp_path) == []


def test_padding_is_told_with_its_share(tmp_path):
    (line,) = lines(tmp_path, "convbert", lengths=(10, 30), batch_size=2)
    assert "convbert is computed by transformers, padded: 33 % of the tokens are padding" in line
    assert "modernbert" in line
    (line,) = lines(tmp_path, "convbert", lengths=(10, 30), batch_size=1)
    assert " 0 % of the tokens" in line


def test_a_run_without_native_kernels_says_why(tmp_path, monkeypatch):
    choice = Choice(Reference(), "no kernels in this package")
    assert choice.described == "torch: no kernels in this package"
    (line,) = lines(tmp_path, kernels=choice)
    assert "native kernels are not used: no kernels in this package" in line
    monkeypatch.setenv(SWITCH, "0")
    assert lines(tmp_path, kernels=choice) == []


@pytest.mark.parametrize(
    ("amx", "limit", "precision", "said"),
    [
        (True, "ALL", "bf16", None),
        (False, "ALL", "bf16", "this processor has no AMX"),
        (False, "AVX2", "fp32", "this processor has no bf16 instructions"),
    ],
)
def test_an_old_processor(tmp_path, monkeypatch, amx, limit, precision, said):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setenv(ISA_LIMIT, limit)
    assert [line[: len(said or "")] for line in why_slow(CPU, precision, tmp_path)] == [said] * bool(said)


def test_fp32_by_choice(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "_cpu_has_bf16", lambda: True)
    (line,) = why_slow(CPU, "fp32", tmp_path)
    assert line.startswith("precision=fp32 on a processor that has bf16 instructions")


def test_a_busy_machine(tmp_path, monkeypatch):
    cores = os.cpu_count()
    monkeypatch.setattr(os, "getloadavg", lambda: (2.0 * cores, 0.0, 0.0))
    (line,) = why_slow(CPU, "bf16", tmp_path)
    assert line == f"other processes use this machine: load {2.0 * cores:.1f} on {cores} cores"


def test_a_cache_on_a_network_disk(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/vda / ext4 rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\n/dev/vdb {tmp_path}/fast ext4 rw 0 0\n"
    )
    assert _network_disk(tmp_path / "cache", mounts) == "nfs4"
    assert _network_disk(tmp_path / "fast" / "cache", mounts) == ""
    assert _network_disk(tmp_path, tmp_path / "absent") == ""
