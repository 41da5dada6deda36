"""Compile the C files of this folder at first use, once for a machine, and load what comes out.

The kernels serve bf16 on the CPU, where torch's own operators spend most of a step moving activations
(`docs/speed.md`). They need a C compiler with OpenMP; without one torch computes everything.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from leantune.atomic import atomic_file, write_text
from leantune.checksums import describe_file, find_difference
from leantune.data.assets import default_cache_dir
from leantune.errors import LeantuneError, UnsafeFileError
from leantune.trusted_files import make_trusted_folder, open_trusted

SWITCH = "LEANTUNE_NATIVE"
"""Environment variable: ``0`` turns the kernels off."""
COMPILERS = ("cc", "gcc", "clang")
"""Tried in this order if ``$CC`` names none."""
FLAGS = (
    *("-std=gnu11", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
    # not -ffast-math: it would lose the NaN by which a diverged run is noticed
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
)


@dataclass(frozen=True, slots=True)
class Kernels:
    """The compiled kernels, or why there are none."""

    library: ctypes.CDLL | None
    reason: str = ""


@lru_cache(maxsize=1)
def kernels() -> Kernels:
    """Compile and load them, the first time; never raises."""
    if os.environ.get(SWITCH) == "0":
        return Kernels(None, f"{SWITCH}=0")
    if platform.system() != "Linux":
        return Kernels(None, f"no kernels for {platform.system()}")
    compiler = _compiler()
    if compiler is None:
        tried = (
            "$CC is none" if os.environ.get("CC") else f"none of {', '.join(COMPILERS)} in PATH, and no $CC"
        )
        return Kernels(None, f"no C compiler: {tried}")
    try:
        library = _load(_compiled(compiler))
    except (OSError, LeantuneError, subprocess.SubprocessError) as error:
        return Kernels(None, _reason(error))
    if library.prepare() != 0:
        return Kernels(None, "the system does not hand out AMX tiles")
    return Kernels(library)


def describe_kernels(device: torch.device, precision: str) -> str:
    """The entry ``hardware.kernels`` of ``record.json``: ``native``, or ``torch`` and why."""
    if device.type != "cpu" or precision != "bf16":
        return f"torch: {precision} on {device.type}"
    loaded = kernels()
    return f"torch: {loaded.reason}" if loaded.library is None else "native"


def serves(x: torch.Tensor) -> bool:
    """Whether ``x`` is of the kind that the kernels are for, and they are there."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and kernels().library is not None


def learns(parameter: torch.Tensor) -> bool:
    """Whether a backward pass will come and want a gradient of ``parameter``."""
    return parameter.requires_grad and torch.is_grad_enabled()


def call(function: str, arguments: ctypes.Structure) -> None:
    """Run one kernel; other threads of Python go on meanwhile.

    Raises:
        MemoryError: if it found none for its buffers.
    """
    if getattr(kernels().library, function)(ctypes.byref(arguments)) != 0:
        raise MemoryError(f"native {function}: no memory for its buffers")


def _compiler() -> list[str] | None:
    if chosen := os.environ.get("CC"):
        try:
            command = shlex.split(chosen)
        except ValueError:  # a quote that is not closed
            return None
        return command if command and shutil.which(command[0]) else None
    return next(([path] for name in COMPILERS if (path := shutil.which(name))), None)


def _compiled(compiler: list[str]) -> Path:
    """The shared library for these sources, this compiler and this processor."""
    sources = sorted(Path(__file__).parent.glob("*.[ch]"))
    version = _run([*compiler, "--version"])
    parts = [*(path.read_text("utf-8") for path in sources), *compiler, *FLAGS, version, _processor()]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    target = _private_folder() / f"{digest[:32]}.so"
    if not _is_whole(target):
        with atomic_file(target) as temporary:  # another process may write the same at the same time
            units = [str(path) for path in sources if path.suffix == ".c"]
            _run([*compiler, *FLAGS, *units, "-o", str(temporary), "-lm"])
            described = json.dumps(describe_file(temporary))
        write_text(_description(target), described)
    return target


def _private_folder() -> Path:
    """Where only the user writes: in the cache, or, if others can write there, one for this process alone."""
    folder = default_cache_dir() / "kernels"
    try:
        make_trusted_folder(folder)
    except UnsafeFileError:
        folder = Path(tempfile.mkdtemp(prefix="leantune-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _load(path: Path) -> ctypes.CDLL:
    """The library that was looked at, whatever has its name by now.

    Raises:
        UnsafeFileError: if others can write it.
        OSError: if it is none.
    """
    descriptor = open_trusted(path)
    try:
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    except OSError as error:
        raise OSError(f"{path}: {error}") from error
    finally:
        os.close(descriptor)


def _description(target: Path) -> Path:
    return target.with_suffix(".json")


def _is_whole(target: Path) -> bool:
    """Whether the library is what the compiler wrote: loading one that was cut would end the process."""
    try:
        os.close(open_trusted(target))
        described = json.loads(_description(target).read_text("utf-8"))
        return find_difference(target.parent, {target.name: described}) is None
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        UnsafeFileError,
    ):  # as good as none: it is compiled again
        return False


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True, timeout=300)
    return done.stdout


def _processor() -> str:
    """What ``-march=native`` depends on."""
    info = Path("/proc/cpuinfo")
    first = info.read_text("utf-8", "replace").partition("\n\n")[0] if info.is_file() else ""
    facts = [line for line in first.splitlines() if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), *facts])


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in error.stderr.splitlines() if "error" in line] or [str(error)]
        return f"the compiler failed: {lines[0].strip()}"
    return str(error)
