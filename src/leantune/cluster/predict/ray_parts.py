"""Computation of parts on a Ray cluster by actors of Ray Data."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from leantune.cluster.connection import Node, import_ray, versions
from leantune.cluster.predict.actor import PART, RESULT, PartActor
from leantune.cluster.predict.worker import Failure, PartSettings
from leantune.cluster.shipping import checksum_of
from leantune.errors import DistributedError
from leantune.system.messages import one_line

if TYPE_CHECKING:
    from leantune.cluster.predict.ledger import Manifest
    from leantune.cluster.predict.parts import Part


def count_actors(nodes: Sequence[Node], cores: int) -> int:
    """Return how many actors with `cores` cores fit on the nodes.

    Raises:
        DistributedError: if no node has enough cores.
    """
    actors = sum(int(node.cores // cores) for node in nodes)
    if not actors:
        most = max(node.cores for node in nodes)
        raise DistributedError(
            f"--cores-per-worker {cores}: the largest node of the cluster has {most:g} cores; use at most {most:g}"
        )
    return actors


def compute_on_ray(
    classifier: bytes, actors: int, cores: int, parts: Sequence[Part], settings: PartSettings
) -> Generator[Manifest | Failure, None, None]:
    """Compute all parts, and yield their results as they end. A part is repeated if its actor or node dies.

    Args:
        classifier: packed classifier from `leantune.cluster.shipping.pack_classifier`.
        actors: largest number of actors.
        cores: number of cores of each actor.
        parts: parts to compute.
        settings: settings of the workers.

    Raises:
        DistributedError: if the connection to the cluster is lost.
    """
    ray = import_ray()
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    actors = min(actors, len(parts))
    dataset = ray.data.from_items(
        [{PART: pickle.dumps(part)} for part in parts], override_num_blocks=len(parts)
    ).map_batches(
        PartActor,
        batch_size=1,
        compute=ActorPoolStrategy(min_size=1, initial_size=actors, max_size=actors),
        num_cpus=cores,
        fn_constructor_args=((checksum_of(classifier), ray.put(classifier)), settings, versions()),
    )
    try:
        for row in dataset.iter_rows():
            yield pickle.loads(row[RESULT])
    except ray.exceptions.RayError as error:
        raise DistributedError(
            f"the connection to the cluster was lost ({one_line(error)}); finished parts are kept: continue with "
            "--resume"
        ) from error
