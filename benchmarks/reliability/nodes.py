"""A Ray cluster of several nodes on this machine."""

from __future__ import annotations

import os
import random
from typing import Any


class Nodes:
    """Raylets of one core each, for as long as the ``with`` lasts.

    Args:
        count: of them; the first is the head.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> Nodes:
        from ray.cluster_utils import Cluster

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        head = {"num_cpus": 1, "include_dashboard": False}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self._others = [self.cluster.add_node(num_cpus=1) for _ in range(self._count - 1)]
        self.cluster.wait_for_nodes()
        return self

    def __exit__(self, *error: object) -> None:
        self.cluster.shutdown()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def raylets(self) -> list[int]:
        """Their process ids."""
        nodes = self.cluster.list_all_nodes()
        return [each.process.pid for node in nodes for each in node.all_processes["raylet"]]

    def kill_one(self, rng: random.Random) -> bool:
        """Kill a node that is not the head, with all its processes; a new one takes its place."""
        node = self._others.pop(rng.randrange(len(self._others)))
        self.cluster.remove_node(node, allow_graceful=False)
        self._others.append(self.cluster.add_node(num_cpus=1))
        return True
