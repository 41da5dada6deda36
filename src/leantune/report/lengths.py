"""Histogram of training text lengths, with the truncation limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leantune.config.record.confidence import LengthsRecord
from leantune.report.charts import (
    HEIGHT,
    MARGIN_BOTTOM,
    MARGIN_LEFT,
    MARGIN_RIGHT,
    MARGIN_TOP,
    WIDTH,
    Axis,
    Mark,
    axis,
)
from leantune.report.run_folder import Run
from leantune.report.wording import count

MAX_BINS = 100
MAX_TOKENS = 1 << 53


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """A histogram in drawing coordinates."""

    title: str
    description: str
    """Text alternative for screen readers."""
    x: Axis
    y: Axis
    x_label: str
    y_label: str
    bars: Sequence[tuple[float, float, float, float, bool]]
    """Left, top, width and height of each bar, and whether its texts are truncated."""
    marks: Sequence[Mark]
    width: int = WIDTH
    height: int = HEIGHT


def finding(lengths: LengthsRecord) -> str:
    """Describe the distribution of lengths in words."""
    cut = (
        f"Texts longer than max_length={count(lengths.max_length)} are truncated."
        if lengths.longest > lengths.max_length
        else f"No text is truncated at max_length={count(lengths.max_length)}."
    )
    return (
        f"Half of the training texts have at most {count(lengths.median)} tokens, 95 % at most "
        f"{count(lengths.percentile_95)}, the longest has {count(lengths.longest)}. {cut}"
    )


def histogram(run: Run) -> Histogram | None:
    """Return a histogram of training text lengths, or None if the record has no lengths that can be drawn."""
    lengths = run.record.lengths
    if lengths is None or not lengths.counts or not 0 < lengths.width * len(lengths.counts) < MAX_TOKENS:
        return None
    counts = [min(max(0, each), MAX_TOKENS) for each in lengths.counts[:MAX_BINS]]
    end = lengths.width * len(counts)
    x = axis(0, end, start=MARGIN_LEFT, end=WIDTH - MARGIN_RIGHT)
    y = axis(0, max(1, *counts), start=HEIGHT - MARGIN_BOTTOM, end=MARGIN_TOP)
    bars = []
    for i, number in enumerate(counts):
        left, right, top = x.at(i * lengths.width), x.at((i + 1) * lengths.width), y.at(number)
        is_cut = i * lengths.width >= lengths.max_length
        bars.append((left, top, round(max(0.5, right - left - 1), 1), round(y.start - top, 1), is_cut))
    marks = []
    if lengths.max_length < end and lengths.longest > lengths.max_length:
        marks.append(Mark(x=x.at(lengths.max_length), word=f"truncated at {count(lengths.max_length)}"))
    has_tail = lengths.longest >= end
    return Histogram(
        title="Training texts by length before truncation",
        description=finding(lengths),
        x=x,
        y=y,
        x_label=f"tokens (last bar: {count(end - lengths.width)} or more)" if has_tail else "tokens",
        y_label="training texts",
        bars=bars,
        marks=marks,
    )
