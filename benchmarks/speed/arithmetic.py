"""The numbers of the report, from the numbers of the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one run of one pipeline did."""

    samples_per_s: float
    tokens_per_s: float
    tokens: int
    """Real tokens, without padding."""
    peak_rss_bytes: int
    """Peak of the whole process, from start to end."""
    objective: tuple[float, ...] = ()
    """Training: the loss that is minimised (task and orthogonality penalty), step by step."""
    labels: tuple[str, ...] = ()
    """Prediction: the labels in input order."""
    in_int8: bool = False
    """Whether the products of the layers are in int8."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the least and the greatest of its repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


def speedup(ours: Sequence[Sample], theirs: Sequence[Sample]) -> Spread:
    """How many times the samples a second: one ratio a round, so that what slows a whole round cancels."""
    return Spread.of([a.samples_per_s / b.samples_per_s for a, b in zip(ours, theirs, strict=True)])


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """Weights of the linear layers in the blocks of a BERT-like encoder."""

    total: int
    """Four of attention (D x D) and two of the feed-forward part (D x F) in each block."""
    behind_last_attention: int
    """One of attention and two of the feed-forward part in the last block: leantune computes these
    for the first token of a text alone."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> LayerWeights:
        """The weights of a model with this ``config.json``."""
        width, inner = config["hidden_size"], config["intermediate_size"]
        per_block = 4 * width * width + 2 * width * inner
        return cls(
            total=config["num_hidden_layers"] * per_block,
            behind_last_attention=width * width + 2 * width * inner,
        )


def layer_flops_per_s(
    weights: LayerWeights, task: str, *, samples_per_s: float, tokens_per_s: float, narrows: bool
) -> float:
    """Operations a second of the layer products alone: two a weight and token forward, and in training two
    more for the gradients of the inputs; frozen weights need no gradients of their own.

    Args:
        weights: of the encoder.
        task: training or prediction.
        samples_per_s: texts a second.
        tokens_per_s: real tokens a second.
        narrows: whether only first tokens pass the end of the last block, as in leantune.
    """
    passes = {"training": 2, "prediction": 1}[task]
    products = tokens_per_s * weights.total
    if narrows:
        products -= (tokens_per_s - samples_per_s) * weights.behind_last_attention
    return passes * 2 * products


def falls(objective: Sequence[float]) -> bool:
    """Whether the last third of a loss is below its first third, on average."""
    third = max(1, len(objective) // 3)
    return sum(objective[-third:]) < sum(objective[:third])


def agreement(labels: Sequence[str], reference: Sequence[str]) -> float:
    """Share of rows with the same label."""
    return sum(a == b for a, b in zip(labels, reference, strict=True)) / len(reference)
