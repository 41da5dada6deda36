"""What is compared. A method is recipe keys, or a pipeline of transformers and PEFT, and its grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REMOVED: dict[str, Any] = {"e_learning_rate_ratio": 1.0, "r_drop": 0.0, "supcon_temperature": 0.2}
REMOVED |= {"allocation": "triplets", "beta1": 0.85, "beta2": 0.85, "warm_start_scale": 0.3}
"""Keys that recorded runs have and recipes have no more, with the values that are constants now."""
GRID = (1e-3, 3e-3, 1e-2)
"""Learning rates of what starts with A at random."""
SHORT_GRID = (1e-3, 3e-3)
"""For what starts along the gradient, which learns faster, and for variants."""
FAST_RATE = (3e-3,)
"""The default's best one on three of four sets; for variants."""
SLOW_START_GRID = (3e-3, 1e-2)
"""For AdaLoRA from the published start: it learns slower, at 1e-3 far too slowly."""
PEFT_ADALORA_GRID = (*SLOW_START_GRID, 3e-2)
"""One more, since of the others the highest is the best on every set."""

CLI = "leantune"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One line of the table."""

    name: str
    pipeline: str = "leantune"
    """``leantune``, ``tfidf``, or what `benchmarks.quality.peer` trains: ``lora``, ``adalora`` or ``full``."""
    module: str = CLI
    """What was run with ``train`` and the recipe; another than `CLI` is in the history."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Recipe keys on top of `COMMON`; of a pipeline, settings of `benchmarks.quality.peer`."""
    learning_rates: tuple[float, ...] = GRID
    tuned_as: Method | None = None
    """Another line, whose learning rates it has in place of a grid of its own."""
    data: tuple[str, ...] | None = None
    """Data sets it runs on; None: all."""
    max_seeds: int = 5
    is_in_sweep: bool = False
    """Whether it also runs at the other budgets, for the plot."""

    @property
    def is_peer(self) -> bool:
        """Whether transformers' ``Trainer`` trains it."""
        return self.pipeline != "leantune"

    @property
    def is_past(self) -> bool:
        """Whether nothing of today runs it: its runs are shown, and no more are made."""
        is_removed = (REMOVED[key] != value for key, value in self.settings.items() if key in REMOVED)
        is_start_of_old = self.settings.get("adapter_init") == "orthonormal"
        return self.module != CLI or is_start_of_old or any(is_removed)


COMMON: Mapping[str, Any] = {"max_length": 128, "epochs": 3, "batch_size": 32, "keep_best": 1}
"""Keys of every run of leantune; the pipelines have the same length, epochs and batch."""

UNNAMED: Mapping[str, Any] = {"int8_products": False, "supcon_weight": 0}
"""Keys that are newer than most results, where settings do not name them."""

_SLOW_HEAD: Mapping[str, Any] = {"head_learning_rate_ratio": 1}
_BEST: Mapping[str, Any] = {"selection": "best"}
_BASE: Mapping[str, Any] = {
    "method": "adalora",
    "targets": "attention",
    "adapter_init": "normal",
    "e_learning_rate_ratio": 1,
    **_SLOW_HEAD,
    **_BEST,
    "orth_reg_weight": 0.5,
    "allocation": "triplets",
    "lora_dropout": 0.1,
    "dropout": None,
    "label_smoothing": 0,
    "rank_warmup": 0.1,
    "rank_final": 0.4,
}
"""AdaLoRA as its authors' code and PEFT start it; whole, so that a result stays that of its settings when a
default of the package changes."""
_COLD: Mapping[str, Any] = {"warm_start": False}
_WARM: Mapping[str, Any] = {"warm_start": True, "warm_start_scale": 0.3}
_WHOLE: Mapping[str, Any] = {"warm_start": True, "warm_start_scale": 1}
_FROM_LORA: Mapping[str, Any] = {**_BASE, "adapter_init": "lora", "orth_reg_weight": 0}
"""LoRA with a trained gain for every triplet, and ranks that move."""
_FROM_ORTHONORMAL: Mapping[str, Any] = {**_BASE, "adapter_init": "orthonormal", "e_learning_rate_ratio": 10}
_ALL_LINEAR: Mapping[str, Any] = {"targets": "all-linear", "allocation": "parameters"}

_LORA: Mapping[str, Any] = {**_BASE, "method": "lora", "adapter_init": "lora"}
_OWN_DROPOUT: Mapping[str, Any] = {"dropout": None}
_KEPT: Mapping[str, Any] = {"target_rank": 9}
"""Triplets a layer that the default keeps, five sixths of those that the published limit pays for; in LoRA, as many."""
_EVEN: Mapping[str, Any] = {"target_rank": 7}
"""In LoRA: as many as two thirds are."""

_INT8: Mapping[str, Any] = {"int8_products": True}
_OURS: Mapping[str, Any] = {
    **_WARM,
    "adapter_init": "gradient",
    "head_learning_rate_ratio": 3,
    "selection": "one-se",
    "dropout": 0,  # in encoder and head; adapters keep theirs
}
_TODAY: Mapping[str, Any] = {"supcon_weight": 0.2, "supcon_temperature": 0.2, **_INT8}
"""What the default has, and most results are older than."""
ADALORA = {**_FROM_LORA, **_OURS}
LORA = {**_LORA, **_OURS}

AS_PUBLISHED: Mapping[str, Any] = {
    **_BASE,
    **_COLD,
    "targets": "query,value",
    "init_rank": 11,
    "target_rank": 8,
    "alpha": 16,
    "lora_dropout": 0.15,
    "weight_decay": 0.01,
    "orth_reg_weight": 0.5,
}
"""The settings of the reference run; a schedule that prunes, and no refit, as everywhere here."""

DEFAULT = "leantune AdaLoRA"
"""On query and value, as its users ran it: the default until 2026-11-30."""
EVERYWHERE = "leantune LoRA in all linear layers"
"""The default since."""
LORA_LINE = "leantune LoRA"
UNIFORM = "uniform rank at the final count"
TWO_THIRDS = "ranks cut to two thirds"
"""The default as it was, which pruned more."""
PEERS = ("PEFT LoRA", "PEFT AdaLoRA")
"""As users write them: the encoder keeps the dropout of its config."""
PEER_WITHOUT_DROPOUT = "PEFT AdaLoRA, encoder without dropout"
PEER_EVERYWHERE = "PEFT LoRA in all linear layers"
"""Rank 2 there takes as many parameters as rank 11 on query and value."""
RIVALS = (PEER_WITHOUT_DROPOUT, LORA_LINE, UNIFORM)
"""What the default is held against one by one, beside the best of `PEERS`: PEFT with our dropout, and uniform rank with
as many parameters as the default has at the start, and at the end."""
PLAIN = "without contrast, in bf16"
"""The default as it was, without the supervised contrastive loss and with all products in bf16: the other lines that
follow vary this one."""
PLAIN_LORA = "LoRA, without contrast, in bf16"
PLAIN_UNIFORM = "uniform rank at the final count, without contrast, in bf16"
INT8_LINE = "without contrast"
WORDS = "TF-IDF and a linear SVM"
SETFIT = "SetFit, 1 pair of each kind a row"
"""As many texts as four epochs; all weights are trained."""
PROBE = "linear probe"
"""Not trained by itself: the baseline that every run of the default, as it is or was, measures first."""

_TWO_THIRDS = Method(name=TWO_THIRDS, settings={**ADALORA, **_TODAY}, learning_rates=SHORT_GRID)
_DEFAULT = Method(name=DEFAULT, settings={**ADALORA, **_TODAY, **_KEPT}, tuned_as=_TWO_THIRDS)

MAIN: tuple[Method, ...] = (
    _DEFAULT,
    Method(name=LORA_LINE, settings={**LORA, **_TODAY}, tuned_as=_TWO_THIRDS),
    Method(name=UNIFORM, settings={**LORA, **_TODAY, **_KEPT}, tuned_as=_TWO_THIRDS),
    Method(name=EVERYWHERE, settings={**LORA, **_TODAY, "targets": "all-linear"}, learning_rates=SHORT_GRID),
    Method(name=WORDS, pipeline="tfidf", learning_rates=(0.1, 0.3, 1.0, 3.0), max_seeds=1),  # its C
    Method(
        name=SETFIT,
        pipeline="setfit",
        settings={"num_iterations": 1, "max_length": 128},
        learning_rates=(2e-5,),  # its default
        data=("agnews", "r8", "r52", "20news"),
        max_seeds=1,
    ),
    Method(name=PEERS[0], pipeline="lora", max_seeds=3),
    Method(name=PEERS[1], pipeline="adalora", learning_rates=PEFT_ADALORA_GRID, max_seeds=3),
    Method(
        name=PEER_WITHOUT_DROPOUT,
        pipeline="adalora",
        settings={"encoder_dropout": 0},
        learning_rates=(1e-2, 3e-2),  # 3e-3 is far too slow with dropout
        max_seeds=3,
    ),
    Method(
        name=PEER_EVERYWHERE,
        pipeline="lora",
        settings={"targets": "all-linear", "init_rank": 2, "target_rank": 2},
        max_seeds=3,
    ),
    Method(name="leantune AdaLoRA as published", settings=AS_PUBLISHED, learning_rates=SLOW_START_GRID),
    Method(
        name="full fine-tuning (out of budget)",
        pipeline="full",
        learning_rates=(5e-5, 1e-4, 3e-4),
        data=("agnews", "r8", "r52", "20news"),  # where each leaves room
        max_seeds=3,
    ),
)
"""The lines of README's table, and full fine-tuning."""

_PLAIN = Method(name=PLAIN, settings=ADALORA, learning_rates=SHORT_GRID, is_in_sweep=True)

METHODS: tuple[Method, ...] = (
    *MAIN,
    _TWO_THIRDS,
    Method(name="uniform rank at two thirds", settings={**LORA, **_TODAY, **_EVEN}, tuned_as=_TWO_THIRDS),
    _PLAIN,
    Method(name=PLAIN_LORA, settings=LORA, learning_rates=SHORT_GRID, is_in_sweep=True),
    Method(name=PLAIN_UNIFORM, settings={**LORA, **_EVEN}, learning_rates=SHORT_GRID),
    # what PEFT offers to make LoRA better, on the set that tells most apart
    Method(
        name="PEFT LoRA, PiSSA",
        pipeline="lora",
        settings={"lora_init": "pissa"},
        learning_rates=SHORT_GRID,
        data=("20news",),
    ),
    Method(
        name="PEFT LoRA, LoRA+",
        pipeline="lora",
        settings={"loraplus_ratio": 4},
        learning_rates=SHORT_GRID,
        data=("20news",),
    ),
    *(
        Method(name=name, settings=settings, learning_rates=SHORT_GRID)
        for name, settings in {
            "whole warm start": {**_FROM_LORA, **_WHOLE},
            "LoRA, whole warm start": {**_LORA, **_WHOLE},
            "the encoder's own dropout": {**ADALORA, **_OWN_DROPOUT},
            "highest accuracy selects the checkpoint": {**ADALORA, **_OWN_DROPOUT, **_BEST},
            "head as fast as adapters": {**ADALORA, **_OWN_DROPOUT, **_BEST, **_SLOW_HEAD},
            "head as fast as adapters, uniform rank at the final count": {
                **LORA,
                **_OWN_DROPOUT,
                **_BEST,
                **_SLOW_HEAD,
                **_EVEN,
            },
        }.items()
    ),
    Method(name="A at random", settings={**_FROM_LORA, **_WARM}),
    Method(
        name="A at random, uniform rank at the final count",
        settings={**_LORA, **_WARM, **_EVEN},
        learning_rates=SHORT_GRID,  # 1e-2 was far worse on AG News, as it is for PEFT's LoRA everywhere
    ),
    # what could make it better
    Method(
        name="normal start",
        settings={**ADALORA, "adapter_init": "normal", "orth_reg_weight": 0.5},
        learning_rates=SLOW_START_GRID,
    ),
    *(
        Method(name=name, settings=settings, learning_rates=FAST_RATE)
        for name, settings in {
            "all-linear": {**ADALORA, **_ALL_LINEAR},
            "all-linear LoRA": {**LORA, "targets": "all-linear"},
            "label smoothing": {**ADALORA, "label_smoothing": 0.1},
            "R-Drop": {**ADALORA, **_OWN_DROPOUT, "r_drop": 1},
            "adapter dropout 0.3": {**ADALORA, "lora_dropout": 0.3},
            "no adapter dropout": {**ADALORA, "lora_dropout": 0},
            "early schedule": {**ADALORA, "rank_warmup": 0.05, "rank_final": 0.7},
            "late schedule": {**ADALORA, "rank_warmup": 0.2, "rank_final": 0.2},
            "no warm start": {**_FROM_LORA, **_COLD},
            "LoRA, no warm start": {**_LORA, **_COLD},
            "orthonormal start, no warm start": {**_FROM_ORTHONORMAL, **_COLD},
            "orthonormal start, no warm start, weak orthogonality": {
                **_FROM_ORTHONORMAL,
                **_COLD,
                "orth_reg_weight": 0.05,
            },
            "orthonormal start, no warm start, no orthogonality": {
                **_FROM_ORTHONORMAL,
                **_COLD,
                "orth_reg_weight": 0,
            },
            "orthonormal start, whole warm start": {**_FROM_ORTHONORMAL, **_WHOLE},
            "all-linear, whole warm start": {**_FROM_LORA, **_ALL_LINEAR, **_WHOLE},
            "label smoothing, whole warm start": {**_FROM_LORA, **_WHOLE, "label_smoothing": 0.1},
            "R-Drop, whole warm start": {**_FROM_LORA, **_WHOLE, "r_drop": 1},
        }.items()
    ),
    # whether a trick for speed costs accuracy
    Method(
        name="torch's kernels and dropout",
        module="benchmarks.quality.bernoulli",
        settings={**ADALORA, **_OWN_DROPOUT},
        learning_rates=SHORT_GRID,
        data=("agnews",),
    ),
    Method(name=INT8_LINE, settings={**ADALORA, **_INT8}, tuned_as=_PLAIN),
    Method(
        name="fp32", settings={**ADALORA, "precision": "fp32"}, learning_rates=SHORT_GRID, data=("agnews",)
    ),
)

BUDGETS: Mapping[str, int | None] = {
    "published": None,
    "30k": 30_000,
    "100k": 100_000,
    "300k": 300_000,
    "1M": 1_000_000,
}
"""Limits on trainable parameters; ``published`` is rank 11 on query and value with the whole head."""
