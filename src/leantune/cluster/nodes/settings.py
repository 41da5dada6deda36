"""Settings for training one run on several workers: the flags of ``leantune train --cluster``."""

from __future__ import annotations

from dataclasses import dataclass

from leantune.config.option import option


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The workers of a Ray cluster that train one run together."""

    cluster: str = option(
        "train on workers of a Ray cluster: auto (the one of this machine), HOST:PORT, or local (one made here)",
        metavar="auto|ADDRESS|local",
    )
    num_workers: int = option("worker processes")
    cores_per_worker: int | None = option("cores for each worker; default: as many as fit", None)
    max_failures: int = option("how often the workers are restarted after one was lost", 3, least=0)

    def flags(self) -> str:
        """Return the command-line flags for the same workers."""
        cores = "" if self.cores_per_worker is None else f" --cores-per-worker {self.cores_per_worker}"
        return f"--cluster {self.cluster} --num-workers {self.num_workers}{cores}"
