"""What is compared. A method is recipe keys, or a pipeline of transformers and PEFT, and its grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GRID = (1e-3, 3e-3)
"""Learning rates of all that trains adapters in leantune."""
FAST_RATE = (3e-3,)
"""The one that was best for all methods that were given the whole grid; for variants."""
PEER_GRID = (1e-3, 3e-3)
"""Of the pipelines with PEFT."""


CLI = "leantune.cli"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One line of the table."""

    name: str
    pipeline: str = "leantune"
    """``leantune``, or what `benchmarks.quality.peer` trains: ``lora``, ``adalora`` or ``full``."""
    module: str = CLI
    """What is run with ``train`` and the recipe; for comparisons that no recipe key can make."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Recipe keys on top of `COMMON`."""
    learning_rates: tuple[float, ...] = GRID
    data: tuple[str, ...] | None = None
    """Data sets it runs on; None: all."""
    max_seeds: int = 5
    is_in_sweep: bool = False
    """Whether it also runs at the other budgets, for the plot."""

    @property
    def is_peer(self) -> bool:
        """Whether transformers' ``Trainer`` trains it."""
        return self.pipeline != "leantune"


COMMON: Mapping[str, Any] = {"max_length": 128, "epochs": 3, "batch_size": 32, "keep_best": 1}
"""Of every run of leantune; the pipelines have the same length, epochs and batch."""

NORMAL_START: Mapping[str, Any] = {
    "method": "adalora",
    "targets": "attention",
    "adapter_init": "normal",
    "e_learning_rate_ratio": 1,
    "orth_reg_weight": 0.5,
    "allocation": "triplets",
    "lora_dropout": 0.1,
    "label_smoothing": 0,
    "rank_warmup": 0.1,
    "rank_final": 0.4,
    "warm_start": True,
}
"""AdaLoRA as its authors' code and PEFT start it, with everything else as leantune has it; whole, so that a
result stays that of its settings when a default of the package changes."""
FAST_START = {**NORMAL_START, "adapter_init": "orthonormal", "e_learning_rate_ratio": 10}
LORA_START = {**NORMAL_START, "adapter_init": "lora", "orth_reg_weight": 0}
"""LoRA with a trained gain for every triplet, and ranks that move."""
ALL_LINEAR = {**LORA_START, "targets": "all-linear", "allocation": "parameters"}
LORA = {**NORMAL_START, "method": "lora", "adapter_init": "lora"}

AS_PUBLISHED: Mapping[str, Any] = {
    **NORMAL_START,
    "targets": "query,value",
    "init_rank": 11,
    "target_rank": 8,
    "alpha": 16,
    "lora_dropout": 0.15,
    "warm_start": False,
    "weight_decay": 0.01,
    "orth_reg_weight": 0.5,
}
"""Of the reference run; a schedule that prunes, and no refit, as everywhere here."""

DEFAULT = "leantune default"
UNIFORM = ("leantune LoRA", "uniform rank at the final count")
"""Uniform rank: with as many parameters as the default has at the start, and at the end."""
PEERS = ("PEFT LoRA", "PEFT AdaLoRA")
PROBE = "linear probe"
"""Not trained by itself: the baseline that every run of the default measures first."""

METHODS: tuple[Method, ...] = (
    Method(name=DEFAULT, settings=LORA_START, is_in_sweep=True),
    Method(name="leantune LoRA", settings=LORA, is_in_sweep=True),
    Method(name="uniform rank at the final count", settings={**LORA, "target_rank": 7}),
    Method(name="PEFT LoRA", pipeline="lora", learning_rates=PEER_GRID, max_seeds=3),
    Method(name="PEFT AdaLoRA", pipeline="adalora", learning_rates=PEER_GRID, max_seeds=3),
    Method(name="leantune AdaLoRA as published", settings=AS_PUBLISHED),
    Method(
        name="full fine-tuning (out of budget)",
        pipeline="full",
        learning_rates=(5e-5, 1e-4),
        data=("agnews", "r8"),
        max_seeds=3,
    ),
    # what could make the default better
    *(
        Method(name=name, settings=settings, learning_rates=FAST_RATE)
        for name, settings in {
            "no warm start": {**LORA_START, "warm_start": False},
            "LoRA without warm start": {**LORA, "warm_start": False},
            "normal start": NORMAL_START,
            "orthonormal start": FAST_START,
            "orthonormal start, no warm start": {**FAST_START, "warm_start": False},
            "orthonormal start, no warm start, weak orthogonality": {
                **FAST_START,
                "warm_start": False,
                "orth_reg_weight": 0.05,
            },
            "orthonormal start, no warm start, no orthogonality": {
                **FAST_START,
                "warm_start": False,
                "orth_reg_weight": 0,
            },
            "all-linear": ALL_LINEAR,
            "all-linear LoRA": {**LORA, "targets": "all-linear"},
            "label smoothing": {**LORA_START, "label_smoothing": 0.1},
            "R-Drop": {**LORA_START, "r_drop": 1},
            "adapter dropout 0.3": {**LORA_START, "lora_dropout": 0.3},
            "no adapter dropout": {**LORA_START, "lora_dropout": 0},
            "early schedule": {**LORA_START, "rank_warmup": 0.05, "rank_final": 0.7},
            "late schedule": {**LORA_START, "rank_warmup": 0.2, "rank_final": 0.2},
        }.items()
    ),
    # whether a trick for speed costs accuracy
    Method(
        name="dropout element by element",
        module="benchmarks.quality.bernoulli",
        settings=LORA_START,
        data=("agnews",),
    ),
    Method(name="fp32", settings={**LORA_START, "precision": "fp32"}, data=("agnews",)),
)

BUDGETS: Mapping[str, int | None] = {
    "published": None,
    "30k": 30_000,
    "100k": 100_000,
    "300k": 300_000,
    "1M": 1_000_000,
}
"""Limits on trainable parameters; ``published`` is rank 11 on query and value with the whole head."""
