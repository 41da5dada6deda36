"""One chart axis: round tick values, and where a value lies on the drawing."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale whose ends are ticks."""

    ticks: tuple[float, ...]
    """At least two, rising."""
    start: float
    """Drawing coordinate of the first tick."""
    end: float
    """Drawing coordinate of the last tick."""

    def at(self, value: float) -> float:
        """The drawing coordinate of a value, to a tenth of a unit."""
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return round(self.start + share * (self.end - self.start), 1)


def axis(low: float, high: float, *, start: float, end: float, num_ticks: int = 5) -> Axis:
    """An axis over at least [low, high] with about `num_ticks` ticks at 1, 2, 2.5 or 5 times 10^k.

    Args:
        low: the smallest value to show.
        high: the largest; if no float lies well between it and `low`, one unit around `low` is shown.
        start: drawing coordinate of the low end.
        end: drawing coordinate of the high end.
        num_ticks: wished for.
    """
    if high - low <= max(1e-9 * abs(low), 1e-300):
        low, high = low - 0.5, low + 0.5
    step = _round_step((high - low) / max(1, num_ticks - 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # A multiple of 0.1 must not be written 0.30000000000000004; 2.5 needs one digit more than 2.
    num_digits = 1 - math.floor(math.log10(step))
    ticks = tuple(round(i * step, num_digits) for i in range(first, last + 1))
    return Axis(ticks, start, end)


def tick_text(value: float) -> str:
    """``1,000``, ``0.25``, ``1.5e-4``."""
    if value == int(value):
        return f"{value:,.0f}"
    if abs(value) >= 0.001:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _round_step(rough: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return magnitude * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
