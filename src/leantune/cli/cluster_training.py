"""``leantune train --cluster``: what can be typed, and what is done."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from leantune.cli.values import count, positive
from leantune.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from leantune.config import Recipe

OF_CLUSTERS = ("num_workers", "cores_per_worker", "max_failures")
"""Options that say nothing without ``--cluster``."""


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``train`` that choose a cluster."""
    cluster = parser.add_argument_group("Ray cluster")
    cluster.add_argument(
        "--cluster",
        metavar="auto|ADDRESS|local",
        help="train on workers of a Ray cluster: the one of this machine, one by address, or one made here",
    )
    cluster.add_argument("--num-workers", metavar="N", type=positive, help="worker processes")
    cluster.add_argument(
        "--cores-per-worker",
        metavar="C",
        type=positive,
        help="default: the most with which all workers have room",
    )
    cluster.add_argument(
        "--max-failures",
        metavar="K",
        type=count,
        help="how often the workers are started again after one was lost [3]",
    )


def check_cluster_arguments(options: argparse.Namespace) -> None:
    """Refuse flags that do not go together.

    Raises:
        UsageError: naming one.
    """
    given = [name for name in OF_CLUSTERS if getattr(options, name) is not None]
    if given and not options.cluster:
        flag = f"--{given[0].replace('_', '-')}"
        raise UsageError(f"{flag} is of a cluster: add --cluster auto, an address, or --cluster local")
    if options.cluster and options.num_workers is None:
        raise UsageError(f"--cluster {options.cluster}: give the number of workers: --num-workers N")


def train_on_cluster(options: argparse.Namespace, recipe: Recipe, console: Console) -> None:
    """Train as the options say, and print the result."""
    from leantune.cli.output import print_result
    from leantune.cluster.nodes import run as training

    workers: dict[str, Any] = {"cluster": options.cluster, "count": options.num_workers}
    workers |= {"cores": options.cores_per_worker}
    if options.max_failures is not None:
        workers["max_failures"] = options.max_failures
    with redirect_stdout(
        sys.stderr
    ):  # Ray prints there that a worker died; the result alone is standard output
        folder = training.train_on_cluster(
            recipe,
            training.Workers(**workers),
            console=console,
            overwrite=options.overwrite,
            resume=options.resume is not None,
        )
    print_result(folder)
