"""What ``record.json`` keeps of probabilities and of lengths: so many numbers, however many rows there are."""

from __future__ import annotations

from dataclasses import dataclass, field

from leantune.config.record.in_schema import Count, Positive, Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class BinRecord:
    """Rows whose confidence is between two tenths; the rates are null without rows."""

    rows: Count
    mean_confidence: Rate | None
    accuracy: Rate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageRecord:
    """The most confident rows, and the confidence of the last of them."""

    rows: Positive
    least_confidence: Rate
    accuracy: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceRecord:
    """How often a confident model is right; confidence is the probability of the predicted class.

    Bins are the tenths of the confidence, from 0; coverage goes from the most confident tenth of the rows to all.
    Suspect labels are contradicted with a probability that is usual for rows of the other class.
    """

    mean_confidence: Rate
    bins: list[BinRecord]
    coverage: list[CoverageRecord]
    suspect_labels: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidencesRecord:
    """Confidence by part; null where it was not measured."""

    validation: ConfidenceRecord | None = field(default=None, metadata={"is_written": True})
    test: ConfidenceRecord | None = field(default=None, metadata={"is_written": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthsRecord:
    """Training texts by length in tokens, before truncation; 95 % are at most as long as the 95th percentile.

    The first bin has lengths from 0 to below the width, and so on; the last one has all that are longer, too.
    """

    width: Positive
    counts: list[Count]
    median: Count
    percentile_95: Count
    longest: Count
    max_length: Positive
