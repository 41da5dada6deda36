"""The summaries of probabilities and text lengths in ``record.json``, whose size does not depend on the rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from leantune.config.record.in_schema import Count, Positive, Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class BinRecord:
    """The rows whose confidence lies between two tenths; the rates are null without rows."""

    rows: Count
    mean_confidence: Rate | None
    accuracy: Rate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageRecord:
    """The most confident rows, and the lowest confidence among them."""

    rows: Positive
    least_confidence: Rate
    accuracy: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceRecord:
    """How often a confident model is right; confidence is the probability of the predicted class.

    Bins are the tenths of the confidence, starting at 0. Coverage ranges from the most confident tenth of the rows to
    all rows. A suspect label is one that the model contradicts with a probability that is usual for rows of the other
    class.
    """

    mean_confidence: Rate
    bins: list[BinRecord]
    coverage: list[CoverageRecord]
    suspect_labels: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidencesRecord:
    """Confidence on each part of the data; null where it was not measured."""

    validation: ConfidenceRecord | None = field(default=None, metadata={"is_written": True})
    test: ConfidenceRecord | None = field(default=None, metadata={"is_written": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthsRecord:
    """Training texts by length in tokens, before truncation; 95 % are at most as long as the 95th percentile.

    The first bin counts lengths from 0 to below the width, and so on; the last bin also counts all longer texts.
    """

    width: Positive
    counts: list[Count]
    median: Count
    percentile_95: Count
    longest: Count
    max_length: Positive
