"""Which run comes next: learning rates on validation rows first, then the other seeds of the best one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from benchmarks.quality.data import DataSet
from benchmarks.quality.jobs import Job
from benchmarks.quality.methods import Method
from benchmarks.quality.runs import Runs
from leantune.errors import UsageError

SEEDS = (42, 43, 44, 45, 46)
PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class Study:
    """The runs that are wanted, and the results that are there."""

    sets: Sequence[DataSet]
    methods: Sequence[Method]
    budgets: Sequence[str]
    """Learning rates are chosen at `PUBLISHED`, for all of them."""
    num_seeds: int
    runs: Runs
    """The runs that are done."""

    def pending(self) -> list[Job]:
        """Runs that can be named now and have no result: the published budget first, then seed by seed,
        so that whenever the study is stopped the table is as even as it can be.
        """
        order = {seed: i for i, seed in enumerate(SEEDS)}
        jobs = {job.key: job for job in self._wanted() if not job.method.is_past and self.result(job) is None}
        return sorted(jobs.values(), key=lambda job: (job.budget != PUBLISHED, order[job.seed]))

    def finished(self, data: DataSet, method: Method, budget: str) -> list[dict[str, Any]]:
        """Results of the best learning rate, one a seed; empty while the grid is not complete."""
        return [result for job in self.runs_of(data, method, budget) if (result := self.result(job))]

    def best_rate(self, data: DataSet, method: Method) -> float | None:
        """The learning rate with the lowest log loss on the validation rows of ``data`` (or of the set whose
        rates it takes), at the published budget and the first seed. None while the grid is not complete, and for a
        method that does not run on ``data``.

        The log loss decides, since accuracy on a thousand rows tells apart hardly any two rates.
        """
        if not _belongs(method, data):
            return None
        results = {job.learning_rate: self.result(job) for job in _grid(data, method)}
        if not all(results.values()):
            return None
        return min(sorted(results), key=lambda rate: validation_log_loss(results[rate]))

    def runs_of(self, data: DataSet, method: Method, budget: str) -> list[Job]:
        """The seeds of the best learning rate; empty while the grid is not complete."""
        rate = self.best_rate(data, method)
        if rate is None:
            return []
        seeds = SEEDS[: min(self.num_seeds, method.max_seeds)]
        return [job for job in (Job(data, method, budget, rate, seed) for seed in seeds) if _fits(job)]

    def result(self, job: Job) -> dict[str, Any] | None:
        """What `run_job` wrote, or None."""
        return self.runs.get(job.key)

    def _wanted(self) -> Iterator[Job]:
        for method in self.methods:
            for data in self.sets:
                if _belongs(method, data):
                    yield from _grid(data, method)
                    for budget in self.budgets:
                        if budget == PUBLISHED or method.is_in_sweep:
                            yield from self.runs_of(data, method, budget)


def _belongs(method: Method, data: DataSet) -> bool:
    return (method.data is None or data.name in method.data) and (
        data.source.methods is None or method.name in data.source.methods
    )


def _grid(data: DataSet, method: Method) -> list[Job]:
    chosen_on, tuned = data.rates_of or data, method.tuned_as or method
    rates = [chosen_on.source.encoder.learning_rate(rate) for rate in tuned.learning_rates]
    return [Job(chosen_on, tuned, PUBLISHED, rate, SEEDS[0]) for rate in rates]


def validation_log_loss(result: dict[str, Any] | None) -> float:
    """What the learning rate is chosen by; that of a run that diverged is infinite."""
    return result["metrics"]["validation"]["log_loss"] if result and result["metrics"] else math.inf


def _fits(job: Job) -> bool:
    """Whether the method fits the budget at all: many classes leave no room for an adapter."""
    try:
        return bool(job.settings)
    except UsageError:
        return False


def work(
    study: Study,
    run: Callable[[Job], dict[str, Any]],
    may_start: Callable[[], bool],
    say: Callable[[str], None],
    workers: int = 1,
) -> int:
    """Run what is pending, ``workers`` at a time, until nothing is or `may_start` says no; returns the
    number of runs.

    A result is kept as soon as its run ends, so the study can be stopped at any moment.
    """
    done = 0

    def run_and_keep(job: Job) -> dict[str, Any]:
        result = run(job)
        study.runs.add(job.key, result)
        return result

    running: dict[Future[dict[str, Any]], Job] = {}
    with ThreadPoolExecutor(workers) as pool:  # when a run fails, the others end and are kept
        while True:
            keys = {job.key for job in running.values()}
            waiting = [job for job in study.pending() if job.key not in keys]
            if len(running) < workers and waiting and may_start():
                say(f"{len(waiting)} runs can start; {waiting[0]}")
                running[pool.submit(run_and_keep, waiting[0])] = waiting[0]
                continue
            if not running:
                return done
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                say(f"  {job}: validation log loss {validation_log_loss(future.result()):.3f}")
                done += 1
