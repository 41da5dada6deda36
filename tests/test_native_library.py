"""The kernels are compiled once, quietly, or not at all; torch computes then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from leantune.packing.native import library
from leantune.packing.native.library import COMPILERS, describe_kernels, kernels
from leantune.training.notices import kernel_lines

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C compiler")

ATTEND = """
import numpy as np, torch
from leantune.packing.attention import packed_attention
from leantune.packing.batch import pack
from leantune.packing.dropout import DropoutStream
from leantune.packing.native.library import kernels
from leantune.packing.plan import AttentionPlan
plan = AttentionPlan.of(pack([np.zeros(5, np.int32)], np.arange(1)), DropoutStream(0))
q = torch.ones(1, 1, 5, 32).bfloat16()
packed_attention(torch.nn.Module(), q, q, q, None, packed=plan, dropout=0.1)
print(kernels().reason or "native")
"""


def start(cache: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ATTEND],
        env={**os.environ, "LEANTUNE_CACHE": str(cache), "LEANTUNE_NATIVE": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output.strip()


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"LEANTUNE_NATIVE": "0"}, "LEANTUNE_NATIVE=0"),
        ({"PATH": "/nowhere", "CC": ""}, "no C compiler: none of cc, gcc, clang in PATH, and no $CC"),
        ({"CC": "/nowhere/cc"}, "no C compiler: $CC is none"),
        ({"CC": " "}, "no C compiler: $CC is none"),
        ({"CC": "'gcc"}, "no C compiler: $CC is none"),
        (
            {"CC": "false"},
            "the compiler failed: Command '['false', '--version']' returned non-zero exit status 1.",
        ),
    ],
)
def test_without_kernels_torch_computes_and_the_reason_is_known(tmp_path, environment, reason):
    assert output_of(start(tmp_path, **environment)) == reason
    assert not list(tmp_path.rglob("*.so"))


@needs_compiler
def test_a_compiler_that_fails_is_quoted(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "x.c:1: error: no such thing" >&2\nexit 1\n'
    )
    compiler.chmod(0o755)
    found = output_of(start(tmp_path, CC=str(compiler)))
    assert found == "the compiler failed: x.c:1: error: no such thing"
    assert not list(tmp_path.rglob(".tmp-*"))


@needs_compiler
def test_processes_that_compile_at_once_agree(tmp_path):
    outputs = [output_of(process) for process in [start(tmp_path) for _ in range(3)]]
    assert outputs == ["native"] * 3
    assert sorted(path.suffix for path in (tmp_path / "kernels").iterdir()) == [".json", ".so"]


@needs_compiler
@pytest.mark.parametrize("size", [0, 100_000])
def test_a_damaged_library_is_compiled_again(tmp_path, size):
    assert output_of(start(tmp_path)) == "native"
    (compiled,) = (tmp_path / "kernels").glob("*.so")
    whole = compiled.read_bytes()
    compiled.write_bytes(whole[:size])
    assert output_of(start(tmp_path)) == "native"
    assert len(compiled.read_bytes()) == len(whole)


@needs_compiler
def test_a_folder_that_cannot_be_written_means_torch(tmp_path):
    (tmp_path / "kernels").write_text("a file in the way")
    assert "kernels" in output_of(start(tmp_path))


@needs_compiler
def test_a_library_of_another_kind_means_torch(tmp_path, monkeypatch):
    broken = tmp_path / "broken.so"
    broken.write_text("nothing")
    monkeypatch.setenv(library.SWITCH, "1")
    monkeypatch.setattr(library, "_compiled", lambda compiler: broken)
    kernels.cache_clear()
    assert "broken.so" in kernels().reason
    kernels.cache_clear()


def test_the_record_says_who_computes():
    assert describe_kernels(CPU, "fp32") == "torch: fp32 on cpu"
    expected = f"torch: {kernels().reason}" if kernels().library is None else "native"
    assert describe_kernels(CPU, "bf16") == expected


def test_a_run_that_has_to_go_without_kernels_says_why(monkeypatch):
    monkeypatch.setattr(library, "kernels", lambda: library.Kernels(None, "no C compiler: $CC is none"))
    (line,) = kernel_lines(CPU, "bf16")
    assert line.startswith("warning: without native kernels")
    assert "no C compiler: $CC is none" in line
    assert not list(kernel_lines(CPU, "fp32"))
    monkeypatch.setenv(library.SWITCH, "0")
    assert not list(kernel_lines(CPU, "bf16"))
