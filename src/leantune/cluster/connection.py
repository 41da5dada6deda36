"""A connection to a Ray cluster whose nodes all run this version of leantune."""

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
"""How long the port of a cluster may take to answer."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster, or one of several Ray nodes on one machine."""

    id: str
    address: str
    cores: float


@contextmanager
def connected(cluster: str, *, cores: int | None = None) -> Iterator[tuple[Node, ...]]:
    """Ray, connected for as long as the block runs; its nodes.

    A process that is connected already stays so.

    Args:
        cluster: ``local``: a cluster of this machine alone, which ends with the block; ``auto``: the one that
            ``RAY_ADDRESS`` names or that runs here; or an address, as ``10.0.0.1:6379`` or ``ray://10.0.0.1:10001``.
        cores: of a local cluster; None: all that this process may use.

    Raises:
        UsageError: if Ray is not installed.
        DistributedError: if there is no cluster at the address, or a node has another version of leantune.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield _checked_nodes(ray)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
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
        advice = "start one with 'ray start --head', give its address, or use --cluster local"
        raise DistributedError(
            f"--cluster {cluster}: no Ray cluster there ({one_line(error)}); {advice}"
        ) from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, own_handler)  # Ray's would end the process at once
        yield _checked_nodes(ray)
    except (
        SystemError
    ) as error:  # by which Ray's compiled code hides what the handler of a signal raised in it
        if isinstance(error.__cause__, Interrupted | KeyboardInterrupt):
            raise error.__cause__ from None
        raise
    finally:
        ray.shutdown()


def import_ray(wanted_by: str = "--cluster") -> Any:
    """The library.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UsageError(f"{wanted_by} needs ray: pip install 'leantune[ray]'") from error
    return ray


def _check_answers(address: str) -> None:
    """Ray itself waits for minutes.

    Raises:
        UsageError: if it is no address.
        DistributedError: if nothing answers there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(
            f"--cluster {address}: no address; give local, auto, HOST:PORT of the head node, or ray://HOST:PORT"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise DistributedError(
            f"--cluster {address}: nothing answers there ({one_line(error)}); "
            "check the address, and that 'ray status' on the head node shows the cluster"
        ) from error


def versions() -> dict[str, str]:
    """What must be the same on every node."""
    return {"leantune": __version__, "Python": ".".join(platform.python_version_tuple()[:2])}


def _checked_nodes(ray: Any) -> tuple[Node, ...]:
    """The nodes that are alive.

    Raises:
        DistributedError: naming one that cannot import leantune, or has another version.
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
                continue  # it died meanwhile
            raise DistributedError(
                f"node {node.address}: leantune cannot be used there ({one_line(error)}); "
                f"install leantune {__version__} on it"
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
    """Compare what a node has with what the process has that runs the command.

    Raises:
        DistributedError: naming the node and what differs.
    """
    for name, version in expected.items():
        if there.get(name) != version:
            raise DistributedError(
                f"node {address}: {name} {there.get(name)}, expected {version} as where the command runs: "
                "install the same on both"
            )


def _versions_there() -> dict[str, str]:
    return versions()
