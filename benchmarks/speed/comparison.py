"""Rounds of alternating runs, and what they add up to."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from benchmarks.inputs import Model
from benchmarks.processes import Workplace
from benchmarks.speed.arithmetic import Sample, agreement, falls
from benchmarks.speed.pipelines import LEANTUNE, USUAL, Pipeline, Workload

LEAST_AGREEMENT = 0.9
"""Share of the labels of the plain fp32 loop; a barely trained classifier has many near ties."""


@dataclass(slots=True)
class Comparison:
    """One task on one model: the samples of every pipeline, round by round."""

    model: Model
    task: str
    num_rows: int
    work: Workload
    pipelines: list[Pipeline]
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def run_round(self, place: Workplace) -> None:
        """Each pipeline once, one after the other."""
        for pipeline in self.pipelines:
            place.say(f"{self.model.name}, {self.task}: {pipeline.name}")
            self.samples.setdefault(pipeline.name, []).append(pipeline.sample(self.work, place))

    @property
    def num_rounds(self) -> int:
        """Rounds done."""
        return len(self.samples.get(LEANTUNE, ()))


def run_rounds(comparisons: list[Comparison], place: Workplace, *, rounds: int, limit_s: float) -> None:
    """One round of every comparison, then the next, until all are done or the next would pass the limit.

    The first round is made in any case.
    """
    started = time.perf_counter()
    for done in range(rounds):
        spent = time.perf_counter() - started
        if done and spent + spent / done > limit_s:
            place.say(
                f"stopped after {done} of {rounds} rounds: the next would pass {limit_s / 60:.0f} minutes"
            )
            return
        place.say(f"round {done + 1} of {rounds}")
        for comparison in comparisons:
            comparison.run_round(place)


def problems_of(comparison: Comparison) -> list[str]:
    """What makes the numbers of a comparison worthless, one sentence each."""
    place = f"{comparison.model.name}, {comparison.task}"
    counts = {name: {s.tokens for s in samples} for name, samples in comparison.samples.items()}
    problems = []
    if len(set().union(*counts.values())) != 1:
        shown = ", ".join(f"{name} {sorted(each)}" for name, each in counts.items())
        problems.append(f"{place}: the pipelines saw different numbers of real tokens: {shown}")
    reference = comparison.samples[USUAL][0].labels
    for name, samples in comparison.samples.items():
        must_fall = [s.objective for s in samples if s.objective and comparison.model.is_pretrained]
        if not all(map(falls, must_fall)):
            problems.append(f"{place}: the loss of '{name}' does not fall")
        agreements = [agreement(s.labels, reference) for s in samples if s.labels]
        if agreements and min(agreements) < LEAST_AGREEMENT:
            problems.append(
                f"{place}: '{name}' gives {100 * min(agreements):.1f} % of the rows the label that the plain "
                f"fp32 loop gives, expected {100 * LEAST_AGREEMENT:.0f} % or more"
            )
    return problems
