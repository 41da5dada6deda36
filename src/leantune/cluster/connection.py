"""Connection to a Ray cluster, with a check that all nodes run this version of leantune."""

from __future__ import annotations

import logging
import os
import platform
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from leantune._version import __version__
from leantune.errors import DistributedError, Interrupted, UsageError
from leantune.system.hardware import allowed_threads
from leantune.system.messages import one_line

LOCAL, AUTO = "local", "auto"
CONNECT_S = 5.0
"""Seconds to wait for the port of a cluster to answer."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the Ray cluster. A machine may run several nodes."""

    id: str
    address: str
    cores: float


@contextmanager
def connected(cluster: str, *, cores: int | None = None) -> Iterator[tuple[Node, ...]]:
    """Connect to Ray while the block runs, and yield the nodes of the cluster.

    If the process is already connected, the connection is used and stays open.

    Args:
        cluster: ``local`` for a cluster on this machine that ends with the block; ``auto`` for the cluster in
            ``RAY_ADDRESS`` or the one running on this machine; or an address such as ``10.0.0.1:6379`` or
            ``ray://10.0.0.1:10001``.
        cores: number of cores of a local cluster; None for all that this process may use.

    Raises:
        UsageError: if Ray is not installed, or the address is invalid.
        DistributedError: if there is no cluster at the address, or a node has another version of leantune.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield _checked_nodes(ray)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # disable usage reports
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the default of later versions
    if cluster not in (LOCAL, AUTO):
        _check_answers(cluster)
    settings: dict[str, Any] = {"address": cluster, "log_to_driver": False, "logging_level": logging.ERROR}
    if cluster == LOCAL:
        settings |= {"num_cpus": cores or allowed_threads(), "include_dashboard": False}
    own_handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**settings)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        advice = "start one with 'ray start --head', pass its address, or use --cluster local"
        raise DistributedError(
            f"--cluster {cluster}: cannot connect to a Ray cluster ({one_line(error)}); {advice}"
        ) from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, own_handler)  # Ray's handler would end the process at once
        yield _checked_nodes(ray)
    except SystemError as error:  # Ray's compiled code raises it in place of an error from a signal handler
        if isinstance(error.__cause__, Interrupted | KeyboardInterrupt):
            raise error.__cause__ from None
        raise
    finally:
        ray.shutdown()


def import_ray(wanted_by: str = "--cluster") -> Any:
    """Import Ray.

    Raises:
        UsageError: if Ray is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UsageError(f"{wanted_by} needs ray: pip install 'leantune[ray]'") from error
    return ray


def _check_answers(address: str) -> None:
    """Check that a cluster's address answers, because Ray itself would wait for minutes.

    Raises:
        UsageError: if the address is invalid.
        DistributedError: if nothing answers at the address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(
            f"--cluster {address}: invalid address; expected local, auto, HOST:PORT of the head node, or "
            "ray://HOST:PORT"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise DistributedError(
            f"--cluster {address}: the address does not answer ({one_line(error)}); "
            "check it, and check with 'ray status' on the head node that the cluster is running"
        ) from error


def versions() -> dict[str, str]:
    """Return the versions that must be equal on all nodes, by name."""
    return {"leantune": __version__, "Python": ".".join(platform.python_version_tuple()[:2])}


def _checked_nodes(ray: Any) -> tuple[Node, ...]:
    """Return the nodes that are alive, after checking their versions.

    Raises:
        DistributedError: if a node cannot import leantune or has another version.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = _alive(ray)
    asked = [
        ray.remote(_versions_there).options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        )
        for node in nodes
    ]
    checked = []
    for node, task in zip(nodes, [each.remote() for each in asked], strict=True):
        try:
            there = ray.get(task)
        except ray.exceptions.RayError as error:
            if node not in _alive(ray):
                continue  # the node has died
            raise DistributedError(
                f"node {node.address}: cannot import leantune on this node ({one_line(error)}); "
                f"install leantune {__version__} there"
            ) from error
        check_versions(there, versions(), node.address)
        checked.append(node)
    return tuple(checked)


def _alive(ray: Any) -> list[Node]:
    return [
        Node(each["NodeID"], each["NodeManagerAddress"], each["Resources"].get("CPU", 0.0))
        for each in ray.nodes()
        if each["Alive"]
    ]


def check_versions(there: dict[str, str], expected: dict[str, str], address: str) -> None:
    """Compare the versions on a node with those of the process that runs the command.

    Raises:
        DistributedError: if a version differs.
    """
    for name, version in expected.items():
        if there.get(name) != version:
            raise DistributedError(
                f"node {address}: found {name} {there.get(name)}, expected {version}, the version that runs the "
                "command: install the same version on both"
            )


def _versions_there() -> dict[str, str]:
    return versions()
