"""Options of a search: the flags of ``leantune search``."""

from __future__ import annotations

from dataclasses import dataclass

from leantune.config.option import option


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """Number of trials, time limit and resources of a search."""

    trials: int = option("candidates to train, counting those that are stopped early", group="search")
    minutes: float | None = option("start no trial after this many minutes", None, group="search")
    resume: bool = option("continue the search in the output folder", False, group="search")
    cluster: str | None = option(
        "a Ray cluster: auto, HOST:PORT of its head node, or local; default: processes of this machine",
        None,
        metavar="ADDRESS",
        group="where",
    )
    workers: int | None = option(
        "trials at a time; default: one here, as many as there are cores for on a cluster",
        None,
        group="where",
    )
    cores_per_job: int = option("cores for each trial on a cluster", 1, group="where")
