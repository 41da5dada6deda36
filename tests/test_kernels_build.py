"""The kernels come with the package: nothing is compiled when a program runs, and without them torch computes."""

from __future__ import annotations

import ctypes
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import commands
from leantune.errors import LeantuneError
from tiny import words_of

library = pytest.importorskip("leantune.kernels.native.library")

import leantune.kernels.native  # noqa: E402
from leantune.kernels.native.library import (  # noqa: E402
    LEVELS,
    MIRRORS,
    kernels,
    load_kernels,
    mirrors,
    structures_of,
)

CPU = torch.device("cpu")

ATTEND = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
from layers import layer_of, layout_of
from leantune.kernels.choose import choose_kernels
from leantune.model.encoder import Embeddings, EncoderConfig, LayerConfig
from leantune.packing.dropout import DropoutStream
sizes = dict(vocab_size=9, width=64, num_heads=2, inner_width=9, norm_eps=1e-9, embedding_width=64)
sizes |= dict(layers=(LayerConfig(),))
embeddings = Embeddings(EncoderConfig(**sizes, max_positions=9), DropoutStream(0)).bfloat16().requires_grad_(False)
layer = layer_of((3, 0, 5), 0.1)
choice = choose_kernels(embeddings, [layer], train_int8=True)
layer.prepared = choice.kernels.prepare(layer)
x = torch.ones(8, 64).bfloat16()
assert choice.kernels.layers([layer], x, layout_of([5]), only_first=True)[0].isfinite().all()
print(choice.described)
"""

RUNTIMES = """
maps = [line.split(maxsplit=5) for line in open("/proc/self/maps")]
print(*sorted({m[5].strip() for m in maps if len(m) == 6 and "omp" in m[5].rpartition("/")[2]}))
"""

WITHOUT_TILES = """
import ctypes, platform
assert platform.machine() == "x86_64"
class Statement(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("k", ctypes.c_uint))
class Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("statements", ctypes.POINTER(Statement)))
ARCH_PRCTL, REFUSED, ALLOWED = 158, 0x00050000 | 1, 0x7FFF0000
statements = (Statement * 4)(
    Statement(0x20, 0, 0, 0),  # the number of the system call
    Statement(0x15, 0, 1, ARCH_PRCTL),
    Statement(0x06, 0, 0, REFUSED),
    Statement(0x06, 0, 0, ALLOWED),
)
libc = ctypes.CDLL(None, use_errno=True)
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
assert libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
assert libc.prctl(SECCOMP, FILTER, ctypes.byref(Program(4, statements)), 0, 0) == 0, ctypes.get_errno()
"""
"""What a sandbox does that knows no AMX: the request for its registers fails."""


def output_of(code: str, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEANTUNE_")}
    done = commands().run(code=code, env={**inherited, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def output_of_interpreter(code: str, **environment: str) -> str:
    """The same where libraries that torch loads when it is imported count, too."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEANTUNE_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def levels_here() -> list[str]:
    """Those of this machine."""
    return [name for name in LEVELS[1:] if (found := load_kernels(name).library) and found.level == name]


@pytest.mark.needs_kernels
def test_kernels_need_no_compiler():
    best = levels_here()[-1]
    assert output_of_interpreter(ATTEND, PATH="/nowhere", CC="/nowhere/cc") == f"native: {best}"


@pytest.mark.needs_kernels
@pytest.mark.parametrize("level", LEVELS[1:])
def test_a_lower_level_may_be_chosen(level):
    allowed = LEVELS[: LEVELS.index(level) + 1]
    best = [each for each in levels_here() if each in allowed][-1]
    assert output_of(ATTEND, LEANTUNE_KERNELS=level) == f"native: {best}"


@pytest.mark.needs_kernels
@pytest.mark.parametrize(("level", "instruction"), [("avxvnni", "avx_vnni"), ("avx512", "avx512_bf16")])
def test_a_level_whose_instructions_are_missing_is_left_out(level, instruction):
    flags = next(
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")
    ).split()
    assert (level in levels_here()) == (instruction in flags)


@pytest.mark.parametrize(("name", "value"), [("LEANTUNE_NATIVE", "0"), ("LEANTUNE_KERNELS", "none")])
def test_kernels_may_be_turned_off(name, value):
    assert output_of(ATTEND, **{name: value}) == f"torch: {name}={value}"


def test_a_level_that_is_none_is_refused_in_one_line(inputs, tmp_path, command):
    words = words_of(inputs, tmp_path / "run", precision="bf16")
    done = command.run("train", *words, env={**os.environ, "LEANTUNE_KERNELS": "avx9"})
    said = "LEANTUNE_KERNELS must be one of none, v3, avxvnni, avx512, amx. Got 'avx9' instead"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"leantune: error: {said}")


@pytest.mark.skipif("amx" not in levels_here(), reason="no AMX here")
def test_a_system_that_refuses_amx_gets_the_next_level():
    assert output_of(WITHOUT_TILES + ATTEND) == "native: avx512"


@pytest.mark.needs_kernels
def test_kernels_and_torch_share_one_openmp_runtime():
    code = "import torch; torch.ones(9).sum()" + RUNTIMES + ATTEND + RUNTIMES
    before, _, after = output_of_interpreter(code).splitlines()
    assert before
    assert after == before, "a second runtime has threads of its own"


def test_a_package_without_the_library_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "FILE", tmp_path / "native_kernels.so")
    assert load_kernels("amx") == library.LoadedLibrary(
        None, "no kernels in this package: it was built without a C compiler (GCC 11 or newer)"
    )


def test_another_machine_has_no_kernels(monkeypatch):
    monkeypatch.setattr(library.platform, "machine", lambda: "aarch64")
    assert load_kernels("amx").reason == "no kernels for Linux on aarch64"


@pytest.mark.parametrize("content", [b"", b"nothing"])
def test_a_library_that_cannot_be_loaded_means_torch(tmp_path, monkeypatch, content):
    broken = tmp_path / "native_kernels.so"
    broken.write_bytes(content)
    monkeypatch.setattr(library, "FILE", broken)
    found = load_kernels("amx")
    assert found.library is None
    assert str(broken) in found.reason


TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tiny import quiet, recipe_for
from leantune.training.run import run_training
run_training(recipe_for(Path({inputs!r}), Path({folder!r}), precision="bf16", epochs=1), console=quiet())
maps = [line.split(maxsplit=5) for line in open("/proc/self/maps")]
print(*sorted({{m[5].strip() for m in maps if "x" in m[1] and m[5:] and m[5].startswith({cache!r})}}))
"""


def test_nothing_in_the_cache_is_loaded_as_a_library(inputs, tmp_path):
    cache, marker = tmp_path / "cache", tmp_path / "ran"
    loads = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    for folder in (cache, cache / "kernels", cache / "native"):
        folder.mkdir(parents=True)
        for name in ("native_kernels.so", "libgomp.so.1", "libtorch_cpu.so", f"{0:032x}.so"):
            (folder / name).write_bytes(library.FILE.read_bytes() if library.FILE.exists() else b"")
        (folder / "native_kernels.py").write_text(loads)
    code = TRAIN.format(
        tests=str(Path(__file__).parent), inputs=str(inputs), folder=str(tmp_path / "run"), cache=str(cache)
    )
    assert output_of_interpreter(code, LEANTUNE_CACHE=str(cache), LD_LIBRARY_PATH="") == ""
    assert not marker.exists()
    assert list(cache.rglob("tokens")), "the run had no use for the cache"


class _Bits(ctypes.Structure):
    _fields_ = (("kept_levels", ctypes.c_uint32), ("key", ctypes.c_uint32 * 2))


class _Shorter(ctypes.Structure):
    _fields_ = (("kept_levels", ctypes.c_uint32),)


class _Longer(ctypes.Structure):
    _fields_ = (*_Bits._fields_, ("seed", ctypes.c_uint32))


class _Wider(ctypes.Structure):
    _fields_ = (("kept_levels", ctypes.c_uint32), ("key", ctypes.c_uint64))


class _Turned(ctypes.Structure):
    _fields_ = (("key", ctypes.c_uint32 * 2), ("kept_levels", ctypes.c_uint32))


class _Renamed(ctypes.Structure):
    _fields_ = (("levels", ctypes.c_uint32), ("key", ctypes.c_uint32 * 2))


@pytest.mark.needs_kernels
@pytest.mark.parametrize(
    ("structure", "mirror", "said"),
    [
        ("dropout_mask", _Shorter, "dropout_mask: the whole is 12 bytes at 0, for _Shorter 4 bytes at 0"),
        ("dropout_mask", _Longer, "dropout_mask: the whole is 12 bytes at 0, for _Longer 16 bytes at 0"),
        ("dropout_mask", _Wider, "dropout_mask: the whole is 12 bytes at 0, for _Wider 16 bytes at 0"),
        (
            "dropout_mask",
            _Turned,
            "dropout_mask: field kept_levels is 4 bytes at 0, for _Turned 4 bytes at 8",
        ),
        ("dropout_mask", _Renamed, "dropout_mask: field kept_levels is 4 bytes at 0, for _Renamed missing"),
        ("no_such", _Bits, "no_such: the whole is missing, for _Bits 12 bytes at 0"),
    ],
)
def test_a_structure_that_is_not_what_the_library_has_is_an_error(monkeypatch, structure, mirror, said):
    monkeypatch.setattr(library, "MIRRORS", {})
    assert mirrors("dropout_mask")(_Bits) is _Bits
    with pytest.raises(LeantuneError, match=said):
        mirrors(structure)(mirror)


def _structures(parent: Any) -> set[type]:
    return {parent, *(each for child in parent.__subclasses__() for each in _structures(child))}


@pytest.mark.needs_kernels
def test_every_structure_is_compared():
    for module in pkgutil.iter_modules(leantune.kernels.native.__path__, "leantune.kernels.native."):
        if module.name.rpartition(".")[2] != library.FILE.stem:
            importlib.import_module(module.name)
    found = {
        each for each in _structures(ctypes.Structure) if each.__module__.startswith("leantune.kernels.")
    }
    assert set(MIRRORS.values()) == found - {library._Place}
    file = kernels().library.file
    assert MIRRORS.keys() == structures_of(file).keys()
