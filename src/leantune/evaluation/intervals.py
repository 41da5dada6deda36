"""Confidence intervals and tests for counts of rows. scipy is imported where it is used: prediction needs none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

Z_95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval of a quantity, as fractions."""

    low: float
    high: float

    def to_json(self) -> list[float]:
        """``[low, high]``."""
        return [self.low, self.high]


def wilson_interval(num_right: int, num_rows: int) -> Interval:
    """The 95 % score interval of a proportion (Wilson, 1927, JASA 22:209).

    Unlike the normal interval, it never leaves [0, 1] and has a positive width at 0 % and 100 %.
    """
    from scipy.stats import binomtest

    low, high = binomtest(num_right, num_rows).proportion_ci(method="wilson")
    return Interval(float(low), float(high))


def paired_interval(only_a_right: int, only_b_right: int, num_rows: int) -> Interval:
    """The 95 % interval of the accuracy of b minus that of a, both measured on the same rows.

    It is Wald's interval after adding half a row to each cell of the paired 2 x 2 table (Agresti and Min, 2005,
    Statistics in Medicine 24:729), which keeps its level where plain Wald does not.

    Args:
        only_a_right: number of rows that only a gets right.
        only_b_right: number of rows that only b gets right.
        num_rows: number of all rows; at least 1.
    """
    gain, total = only_b_right - only_a_right, num_rows + 2
    half_width = Z_95 * math.sqrt(only_a_right + only_b_right + 1 - gain**2 / total) / total
    return Interval(max(-1.0, gain / total - half_width), min(1.0, gain / total + half_width))


def mcnemar_p_value(only_a_right: int, only_b_right: int) -> float:
    """Two-sided mid-p value of the discordant rows under a fair coin (McNemar, 1947).

    This is the exact p-value minus the probability of the observed count. The exact test is conservative and misses
    differences; the mid-p test is close to its level (Fagerland et al., 2013, BMC Med. Res. Methodol. 13:91).
    """
    if only_a_right == only_b_right:
        return 1.0
    from scipy.stats import binom

    fewer, num_discordant = min(only_a_right, only_b_right), only_a_right + only_b_right
    return float(2 * binom.cdf(fewer, num_discordant, 0.5) - binom.pmf(fewer, num_discordant, 0.5))
