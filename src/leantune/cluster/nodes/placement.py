"""Placement of workers on nodes, and the check of the shared run folder."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leantune.cluster.connection import Node, import_ray
from leantune.errors import DistributedError
from leantune.system.atomic import TEMPORARY_PREFIX


def cores_of_each(nodes: Sequence[Node], count: int, cores: int | None) -> int:
    """Return the cores per worker: the requested number, else the largest with which all workers fit.

    Raises:
        DistributedError: if the cluster has too few cores, busy ones included.
    """
    if cores is None:
        largest = int(max(node.cores for node in nodes))
        for most in range(largest, 0, -1):
            if _room(nodes, most) >= count:
                return most
    cores = cores or 1
    if _room(nodes, cores) < count:
        each = ", ".join(f"{node.address}: {node.cores:g}" for node in nodes)
        raise DistributedError(
            f"--num-workers {count} with {cores} core(s) each: the cluster has room for only "
            f"{_room(nodes, cores)} (cores by node: {each}); use fewer workers or cores, or add nodes with: ray start "
            "--address"
        )
    return cores


def _room(nodes: Sequence[Node], cores: int) -> int:
    return sum(int(node.cores // cores) for node in nodes)


@contextmanager
def shared_folder(folder: Path, nodes: Sequence[Node], *, leftovers: Sequence[str] = ()) -> Iterator[None]:
    """Create the run folder and check that all nodes with cores share it. Remove it at the end if it is new and empty.

    Raises:
        DistributedError: if a node does not share the folder.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _check_shared(folder.absolute(), nodes)
        yield
    finally:
        for name in leftovers:
            shutil.rmtree(folder / name, ignore_errors=True)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def _check_shared(folder: Path, nodes: Sequence[Node]) -> None:
    ray = import_ray()
    marker = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"  # a new name avoids stale caches
    marker.touch()
    try:
        for node in nodes:
            look = ray.remote(_is_there).options(**without_cores_on(node.id))
            if node.cores and not ray.get(look.remote(str(marker))):
                raise DistributedError(
                    f"node {node.address} does not share the run folder {folder}: put it on a disk that all nodes "
                    "mount at the same path"
                )
    finally:
        marker.unlink()


def _is_there(path: str) -> bool:
    return os.path.exists(path)


def without_cores_on(node_id: str) -> dict[str, Any]:
    """Return Ray options for a task or an actor on one node that reserves no core."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}
