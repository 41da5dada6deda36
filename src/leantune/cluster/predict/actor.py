"""A Ray actor that computes parts.

Torch is imported only in the actor's constructor. OpenMP reads its spin time when torch is loaded, and the actor must
set a short one first, because Ray's processes share the cores.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from leantune.cluster.predict.worker import Failure, PartSettings, PartWorker
from leantune.errors import LeantuneError
from leantune.system.openmp import spin_briefly

if TYPE_CHECKING:
    from leantune.cluster.predict.ledger import Manifest
    from leantune.cluster.predict.parts import Part

PART, RESULT = "part", "result"
"""Columns of the data set: a pickled `Part`, and a pickled `Manifest` or `Failure`."""


class PartActor:
    """A `PartWorker` in an actor. If it cannot be created, every part returns the error.

    Args:
        classifier: SHA-256 of the packed classifier, and an object reference to it.
        settings: settings of the worker.
        expected: result of `leantune.cluster.connection.versions` where the command runs.
    """

    def __init__(self, classifier: tuple[str, Any], settings: PartSettings, expected: dict[str, str]) -> None:
        spin_briefly()
        self._worker: PartWorker | LeantuneError
        try:
            self._worker = _worker_here(classifier, settings, expected)
        except LeantuneError as error:
            self._worker = error

    def __call__(self, batch: Any) -> Any:
        """Compute the parts of a batch and return their results."""
        return {RESULT: [pickle.dumps(self._result(pickle.loads(each))) for each in batch[PART]]}

    def _result(self, part: Part) -> Manifest | Failure:
        worker = self._worker
        return Failure.of(part.number, worker) if isinstance(worker, LeantuneError) else worker.compute(part)


def _worker_here(classifier: tuple[str, Any], settings: PartSettings, expected: dict[str, str]) -> PartWorker:
    """Return a worker with the classifier unpacked on this node.

    Raises:
        DistributedError: if the node has another version of leantune.
        LeantuneError: see `leantune.load`.
    """
    import ray

    from leantune.cluster.connection import check_versions, versions
    from leantune.cluster.shipping import unpack_classifier

    check_versions(versions(), expected, ray.util.get_node_ip_address())
    sha256, reference = classifier
    return PartWorker(unpack_classifier(sha256, lambda: ray.get(reference)), settings)
