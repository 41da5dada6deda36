"""Checkpoints: safetensors and JSON only, complete or absent.

A folder ``step-000293`` is a checkpoint if its ``MANIFEST.json`` names every file with size and SHA-256 and they
match. The manifest is written last, then the folder is renamed into place.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from leantune.errors import CheckpointError, ResourceError
from leantune.system.atomic import atomic_folder, discard_folder
from leantune.system.checksums import FileRecord, describe_file, find_difference
from leantune.system.damage import explained_damage
from leantune.system.file_names import entry_of
from leantune.system.json_files import read_json

FORMAT_VERSION = 1
MANIFEST, TENSORS, STATE = "MANIFEST.json", "state.safetensors", "state.json"
RETRY_PAUSES_S = (1.0, 4.0, 15.0)
"""Pauses before trying again: a full disk may be temporary, because other programs clean up too."""
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors and JSON state of one checkpoint."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The fields of ``MANIFEST.json`` that are read."""

    format: int
    files: dict[str, FileRecord]


def checkpoint_path(run: Path, step: int) -> Path:
    """The folder of the checkpoint of ``step``."""
    return checkpoints_folder(run) / f"step-{step:06d}"


def checkpoints_folder(run: Path) -> Path:
    """The folder of all checkpoints of a run.

    Raises:
        UnsafeFileError: if it is a link that leads out of the run.
    """
    return entry_of(run, "checkpoints")


def save_checkpoint(run: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint; if the disk is full or fails, start over after each of the pauses.

    Raises:
        ResourceError: if the disk is still full or fails; older checkpoints are untouched.
    """
    for pause_s in RETRY_PAUSES_S:
        try:
            return _save_once(run, step, checkpoint)
        except ResourceError:  # noqa: PERF203 - at most three times
            time.sleep(pause_s)
    return _save_once(run, step, checkpoint)


def _save_once(run: Path, step: int, checkpoint: Checkpoint) -> Path:
    target = checkpoint_path(run, step)
    with atomic_folder(target) as folder:
        tensors = {name: tensor.detach().contiguous() for name, tensor in checkpoint.tensors.items()}
        safetensors.torch.save_file(tensors, folder / TENSORS)
        (folder / STATE).write_text(json.dumps(checkpoint.state), "utf-8")
        files = {name: describe_file(folder / name) for name in (TENSORS, STATE)}
        manifest = {"format": FORMAT_VERSION, "step": step, "files": files}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
    return target


def valid_checkpoints(
    run: Path, steps: Iterable[int], say: Callable[[str], None]
) -> Iterator[tuple[int, Checkpoint]]:
    """Yield the valid checkpoints among ``steps``, in that order; report why the others are invalid."""
    present = list_checkpoints(run)
    for step in steps:
        if step not in present:
            continue
        if problem := find_problem(present[step]):
            say(f"skipped {present[step].name}: {problem}")
        else:
            yield step, _read(present[step])


def _read(folder: Path) -> Checkpoint:
    with explained_damage(folder):
        state = json.loads((folder / STATE).read_text("utf-8"))
        return Checkpoint(safetensors.torch.load_file(folder / TENSORS), state)


def find_problem(folder: Path) -> str | None:
    """Why ``folder`` is not a valid checkpoint, or None if it is.

    Raises:
        UnsafeFileError: if the manifest names a file outside the folder, or a link leads there.
    """
    try:
        manifest = read_json(entry_of(folder, MANIFEST), Manifest)
    except FileNotFoundError:
        return f"no {MANIFEST}"
    except (OSError, CheckpointError):
        return f"{MANIFEST} is not readable"
    if manifest.format != FORMAT_VERSION:
        return f"written in format {manifest.format}, this leantune reads {FORMAT_VERSION}"
    unnamed = [name for name in (TENSORS, STATE) if name not in manifest.files]
    if unnamed:
        return f"{unnamed[0]} is missing in {MANIFEST}"
    return find_difference(folder, manifest.files)


def list_checkpoints(run: Path) -> dict[int, Path]:
    """Checkpoint folders by step, ascending, whether valid or not."""
    found = {}
    for path in checkpoints_folder(run).glob("step-*"):
        match = _NAME.fullmatch(path.name)
        if match:
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def remove_checkpoint(run: Path, step: int) -> None:
    """Remove one checkpoint, whole or not at all.

    Raises:
        ResourceError: if the disk fails; the checkpoint is then untouched.
    """
    discard_folder(checkpoint_path(run, step))
