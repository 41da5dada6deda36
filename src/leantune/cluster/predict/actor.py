"""What computes parts in an actor of Ray.

Nothing heavy is imported before the actor is made: how long threads of OpenMP wait for each other is read when torch is
loaded, and beside the processes of Ray they must not wait long.
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
"""Columns of the data set: pickles of a `Part`, and of a `Manifest` or a `Failure`."""


class PartActor:
    """A `PartWorker` in an actor; why there is none becomes the result of every part.

    Args:
        classifier: SHA-256 of the packed classifier, and a reference to it.
        settings: how to compute and write.
        expected: what `leantune.cluster.connection.versions` gives where the command runs.
    """

    def __init__(self, classifier: tuple[str, Any], settings: PartSettings, expected: dict[str, str]) -> None:
        spin_briefly()
        self._worker: PartWorker | LeantuneError
        try:
            self._worker = _worker_here(classifier, settings, expected)
        except LeantuneError as error:
            self._worker = error

    def __call__(self, batch: Any) -> Any:
        """The results of the parts of a batch."""
        return {RESULT: [pickle.dumps(self._result(pickle.loads(each))) for each in batch[PART]]}

    def _result(self, part: Part) -> Manifest | Failure:
        worker = self._worker
        return Failure.of(part.number, worker) if isinstance(worker, LeantuneError) else worker.compute(part)


def _worker_here(classifier: tuple[str, Any], settings: PartSettings, expected: dict[str, str]) -> PartWorker:
    """A worker with the classifier that is unpacked on this node.

    Raises:
        DistributedError: if the node has another version of leantune.
        LeantuneError: as `leantune.load`.
    """
    import ray

    from leantune.cluster.connection import check_versions, versions
    from leantune.cluster.shipping import unpack_classifier

    check_versions(versions(), expected, ray.util.get_node_ip_address())
    sha256, reference = classifier
    return PartWorker(unpack_classifier(sha256, lambda: ray.get(reference)), settings)
