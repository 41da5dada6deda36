"""How long threads spin for each other before they sleep. Imports nothing, as OpenMP reads it when torch is loaded."""

from __future__ import annotations

import os

SPINS = "1000"
"""Rounds of a waiting thread: some 0.1 ms, longer than most waits of a kernel."""


def spin_briefly() -> None:
    """Let threads of this process sleep soon where they wait for another, unless the environment says how long.

    GCC's OpenMP spins for 300,000 rounds, some 20 ms. On a machine of its own a process wins little by that. Beside
    other work the thread that all wait for has lost its core, and those that spin keep it from getting another.
    """
    if not os.environ.get("OMP_WAIT_POLICY"):
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
