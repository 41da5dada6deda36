"""The recipe of a training run: the user's settings with their documentation and checks.

Facts that are only known at run time (steps, ranks, labels) are not part of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import yaml

from leantune.config.option import option
from leantune.config.problem_type import MULTI_LABEL, problem_with
from leantune.errors import UsageError

Metric: TypeAlias = Literal["accuracy", "macro_f1", "log_loss", "micro_f1", "lrap"]


Precision = Literal["auto", "bf16", "fp16", "fp32", "int8"]
PRECISIONS = get_args(Precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """Keys that users seldom set: the group ``advanced`` of a recipe. Steps are optimiser steps."""

    alpha: float | None = option("scale of the update, divided by init_rank; default: 1.5 x init_rank", None)
    adapter_init: Literal["gradient", "lora", "normal"] = option(
        "how adapters start: gradient (B zero, E one, A along the gradient), lora (A random, B zero), or normal "
        "(N(0, 0.02), as AdaLoRA publishes it)",
        "gradient",
    )
    lora_dropout: float = option("dropout on the input of the adapters", 0.1)
    dropout: float | None = option(
        "dropout inside encoder and head during training; none: the encoder's own", 0.0
    )
    warm_start: bool = option("start the head from a linear probe", True)
    head_learning_rate_ratio: float = option(
        "learning rate of the head's output layer, relative to that of A and B", 3.0
    )
    hidden_learning_rate_ratio: float = option(
        "learning rate of the head's other layers, relative to that of A and B", 0.1
    )
    warmup: float = option(
        "learning-rate warm-up: a fraction of the steps below 1, or a number of steps", 0.1
    )
    weight_decay: float = option("AdamW weight decay; biases, norms and E have none", 0.01)
    max_grad_norm: float = option("clip gradients to this norm; 0: do not clip", 1.0)
    label_smoothing: float = option("share of the target that is spread over all classes", 0.0)
    supcon_weight: float = option(
        "weight of the supervised contrastive loss, which pulls texts with the same label together",
        0.2,
    )
    rank_warmup: float = option(
        "steps before ranks are reduced (t_i in the paper): a fraction below 1, or steps", 0.1
    )
    rank_final: float = option(
        "steps of training with the final ranks (t_f in the paper): a fraction below 1, or steps", 0.4
    )
    allocate_every: float = option(
        "steps between allocations (Delta T in the paper): a fraction below 1, or steps", 0.01
    )
    orth_reg_weight: float = option("weight of the orthogonality penalty; 0.5 in the paper", 0.0)
    selection: Literal["one-se", "best"] = option(
        "best: the checkpoint with the best metric; one-se: the last one within a standard error of the best",
        "one-se",
    )
    keep_best: int = option("number of best checkpoints to keep, beside the last two", 2)
    save_every: int = option("steps between checkpoints; 0: only at evaluations", 0)
    evaluate_every: int = option("steps between evaluations; 0: once an epoch", 0)
    early_stop: int = option(
        "stop after this many evaluations without improvement, once ranks are final; 0: never", 0
    )
    refit: bool = option("after the selection, train one more epoch on training and validation rows", False)

    def problems(self) -> Iterable[str]:
        """The message for each invalid value; an empty text for each valid one."""
        yield _must_be("keep_best", self.keep_best, "at least 1", self.keep_best >= 1)
        for name in ("save_every", "evaluate_every", "early_stop", "warmup", "rank_warmup", "rank_final"):
            yield _must_be(name, getattr(self, name), "at least 0", getattr(self, name) >= 0)
        for name in ("head_learning_rate_ratio", "hidden_learning_rate_ratio", "allocate_every"):
            yield _must_be(name, getattr(self, name), "above 0", getattr(self, name) > 0)
        for name in ("warmup", "rank_warmup", "rank_final", "allocate_every"):
            yield _fraction_or_number(name, getattr(self, name))
        yield _must_be("alpha", self.alpha, "above 0", self.alpha is None or self.alpha > 0)
        for name in ("weight_decay", "max_grad_norm", "orth_reg_weight", "supcon_weight"):
            yield _must_be(name, getattr(self, name), "at least 0", getattr(self, name) >= 0)
        for name in ("dropout", "lora_dropout", "label_smoothing"):
            value = getattr(self, name)
            yield _must_be(name, value, "at least 0 and below 1", value is None or 0 <= value < 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings of a training run.

    Raises:
        UsageError: values are invalid; one line names all of them.
    """

    data: str = option(
        "training rows: a file (csv, tsv, jsonl, parquet, arrow, xlsx), a datasets folder, or ORG/NAME[:SPLIT] on "
        "the hub",
        group="data",
        common=True,
    )
    model: str = option(
        "pretrained encoder: a folder, asset:minilm, or a name on the hub",
        group="encoder and budget",
        common=True,
    )
    output: str = option("run folder to write", "runs/latest", group="training", common=True)
    validation: str | None = option(
        "validation rows; default: a part of the training rows is held out", None, group="data", common=True
    )
    test: str | None = option("test rows, measured once at the end", None, group="data", common=True)
    unlabelled: str | None = option(
        "rows without labels; those that a first run is sure about are added to the training rows with its labels",
        None,
        group="data",
    )
    text_column: str | None = option("column of the text; default: text", None, group="data", common=True)
    text_pair_column: str | None = option("column of the second text, for pairs of texts", None, group="data")
    label_column: str | None = option(
        "column of the label; default: label, else target", None, group="data", common=True
    )
    labels: tuple[str, ...] | None = option(
        "class names in the order of their ids; default: sorted", None, group="data"
    )
    problem_type: str | None = option(
        "single_label_classification, or multi_label_classification for any number of labels per text (in lists, "
        "or written oil|grain); default: by the labels",
        None,
        group="data",
    )
    blank_rows: Literal["stop", "skip"] = option(
        "rows with a blank text: stop, or skip them (the record counts them)", "stop", group="data"
    )
    unknown_test_labels: Literal["stop", "skip"] = option(
        "rows for validation and test with a label that no training row has: stop, or skip them (the record counts "
        "them)",
        "stop",
        group="data",
    )
    max_trainable_params: int | float | None = option(
        "limit on trainable parameters at any time of the run: a number such as 100k, or a share of the encoder's "
        "parameters such as 0.1%",
        None,
        group="encoder and budget",
        common=True,
    )
    method: Literal["adalora", "lora"] | None = option(
        "adalora, or lora (the same rank in every layer, no pruning); default: lora on all linear layers, else "
        "adalora",
        None,
        group="encoder and budget",
    )
    targets: str | None = option(
        "layers to adapt: attention (query and value), all-linear, head-only (no layer), or parts of layer "
        "names such as query,value; default: all-linear, or fewer if the limit allows less than rank 2; attention if a "
        "rank is given or method=adalora",
        None,
        group="encoder and budget",
    )
    layers: int | None = option(
        "adapt only this many of the encoder's last layers; default: all, or as many as the limit allows",
        None,
    )
    init_rank: int | None = option(
        "rank of each adapted layer at the start; default: as large as the limit allows",
        None,
        group="encoder and budget",
    )
    target_rank: int | None = option(
        "mean rank of the adapted layers at the end; default: 5/6 of init_rank, or all of it with method=lora",
        None,
    )
    head: Literal["full", "linear"] | None = option(
        "train the full classification head, or only its linear output layer; default: full, or linear if the limit "
        "allows less than rank 2 in all linear layers beside the full head",
        None,
        group="encoder and budget",
    )
    head_rank: int | None = option(
        "rank of the output layer's weight, which is then trained as a product of two matrices; default: full rank, "
        "or as large as the limit allows where the output layer alone exceeds it",
        None,
    )
    effort: Literal["fast", "balanced"] = option(
        "fast: one run; balanced: short runs first choose targets, method and learning rate (unless given) on "
        "validation rows, in about twice the time",
        "fast",
        group="training",
        common=True,
    )
    epochs: int | None = option(
        "passes over the training rows; default: 3, or up to 30 if that is fewer than 200 steps",
        None,
        group="training",
        common=True,
    )
    batch_size: int = option("texts per optimiser step, over all processes", 32, group="training")
    accumulate: int = option("micro-batches per optimiser step; more of them need less memory", 1)
    eval_batch_size: int = option("texts per batch in evaluation and prediction", 64)
    learning_rate: float | None = option(
        "peak learning rate of A and B; default: by the width of the encoder, 0.003 up to 384 and 0.001 at 768; "
        "a third of that for fewer than 300 training rows",
        None,
        group="training",
        common=True,
    )
    class_weights: Literal["none", "balanced"] = option(
        "class weights in the loss: none, or balanced as in scikit-learn", "none", group="training"
    )
    loss: Literal["cross-entropy", "robust"] = option(
        "cross-entropy, or robust (generalized cross-entropy, without the contrastive loss) for data with many "
        "wrong labels",
        "cross-entropy",
        group="training",
    )
    max_length: int = option("tokens to keep of each text", 256, group="data", common=True)
    truncation_side: Literal["right", "left"] | None = option(
        "end at which longer texts are cut; default: the tokenizer's (usually right), or the other one if many "
        "texts are cut and a linear probe is better with it",
        None,
    )
    precision: Precision = option(
        "precision of the frozen encoder: fp32, bf16, fp16 (GPU only), int8 (bf16 with int8 products, on x86 CPUs "
        "with VNNI); auto: bf16 if the machine has it, and int8 products in training if it has those",
        "auto",
        group="training",
    )
    validation_size: float | None = option(
        "rows to hold out for validation: a fraction below 1, or a number; 0: none, and the last checkpoint is "
        "used; default: 0.1, or none if that is fewer than 20 rows or 2 per class",
        None,
        group="data",
    )
    metric: Literal["accuracy", "macro_f1", "log_loss", "micro_f1", "lrap"] | None = option(
        "metric that selects the checkpoint: accuracy, macro_f1, log_loss, or micro_f1 and lrap for several labels "
        "per text; default: accuracy, or micro_f1",
        None,
        group="training",
    )
    report_to: tuple[str, ...] | None = option(
        "experiment trackers to report to: tensorboard, wandb, mlflow, trackio", None
    )
    seed: int = option(
        "random seed for the hold-out, the order of rows, adapters and dropout",
        42,
        group="training",
        common=True,
    )
    trust_remote_code: bool = option("run Python code that comes with the model", False)
    advanced: Advanced = field(default_factory=Advanced)

    def __post_init__(self) -> None:
        problems = [problem for problem in self._problems() if problem]
        if problems:
            raise UsageError("; ".join(problems))

    def _problems(self) -> Iterable[str]:
        yield _must_be("output", "nothing", "a folder", bool(self.output))
        yield _must_be("seed", self.seed, "0 to 4,294,967,295", 0 <= self.seed < 2**32)
        names = self.labels or ("0", "1")
        is_list = len(names) > 1 and len(set(names)) == len(names) and all(name.strip() for name in names)
        yield _must_be("labels", ",".join(names), "two or more, each once and none of them empty", is_list)
        yield problem_with(self.problem_type)
        for name in ("batch_size", "accumulate", "eval_batch_size", "max_length"):
            yield _must_be(name, getattr(self, name), "at least 1", getattr(self, name) >= 1)
        for name in ("epochs", "init_rank", "target_rank", "layers", "head_rank"):
            value = getattr(self, name)
            yield _must_be(name, value, "at least 1", value is None or value >= 1)
        limit = self.max_trainable_params
        yield _must_be(
            "max_trainable_params",
            limit,
            "a whole number of at least 1, or a share of the encoder such as 0.1%",
            limit is None or 0 < limit < 1 or (limit >= 1 and float(limit).is_integer()),
        )
        size = self.validation_size
        if size is not None:
            yield _must_be("validation_size", size, "at least 0", size >= 0)
            yield _fraction_or_number("validation_size", size)
        unknown = [name for name in self.report_to or () if name not in TRACKERS]
        yield _must_be("report_to", ",".join(unknown), f"of {', '.join(TRACKERS)}", not unknown)
        rate = self.learning_rate
        yield _must_be("learning_rate", rate, "above 0", rate is None or rate > 0)
        is_fast = self.unlabelled is None or self.effort == "fast"
        yield _must_be("effort", self.effort, "fast with unlabelled rows", is_fast)
        yield from self.advanced.problems()
        yield _must_be(
            "label_smoothing",
            self.advanced.label_smoothing,
            "0 with loss=robust",
            self.loss != "robust" or self.advanced.label_smoothing == 0,
        )
        adapts = {
            "method=adalora": self.method == "adalora",
            "adapter_init=normal": self.advanced.adapter_init == "normal",
            "init_rank": self.init_rank is not None,
            "target_rank": self.target_rank is not None,
            "layers": self.layers is not None,
        }
        given = " and ".join(name for name, is_given in adapts.items() if is_given)
        is_possible = not given or self.targets != "head-only"
        yield _must_be("targets", self.targets, f"layers to adapt with {given}", is_possible)
        if self.init_rank is not None and self.target_rank is not None:
            target = f"target_rank={self.target_rank}"
            if self.method != "lora":
                expected, holds = f"above {target}", self.init_rank > self.target_rank
            else:
                expected = f"{target} with method=lora, which prunes nothing; or give one of them"
                holds = self.init_rank == self.target_rank
            yield _must_be("init_rank", self.init_rank, expected, holds)
        yield _must_be(
            "adapter_init",
            self.advanced.adapter_init,
            "gradient or lora with method=lora, which has no other",
            self.method != "lora" or self.advanced.adapter_init in ("gradient", "lora"),
        )
        yield _must_be(
            "accumulate",
            self.accumulate,
            f"at most batch_size={self.batch_size}",
            self.accumulate <= self.batch_size,
        )

    @property
    def contrast_weight(self) -> float:
        """The effective ``supcon_weight``.

        It is 0 with ``loss=robust``, because wrong labels would pull the wrong texts together, and for multi-label
        texts, whose label sets may only partly agree.
        """
        has_one_right_label = self.loss != "robust" and self.problem_type != MULTI_LABEL
        return self.advanced.supcon_weight if has_one_right_label else 0.0

    @property
    def selection_metric(self) -> Metric:
        """The given ``metric`` or its default."""
        return self.metric or ("micro_f1" if self.problem_type == MULTI_LABEL else "accuracy")

    def alpha_for(self, init_rank: int) -> float:
        """Return the given alpha, or a default that gives the update the same scale at every rank."""
        alpha = self.advanced.alpha
        return alpha if alpha is not None else 1.5 * init_rank

    def to_dict(self) -> dict[str, Any]:
        """Return all keys and values as plain JSON and YAML types."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def by_key(self) -> dict[str, Any]:
        """Return the value of every key of both groups."""
        return {key: getattr(self.advanced if key in _ADVANCED else self, key) for key in keys()}

    def to_yaml(self) -> str:
        """Return the resolved recipe as the text of a YAML file that repeats the run."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
GROUP = "advanced"
"""The key of the group of advanced keys."""
_ADVANCED = {each.name for each in dataclasses.fields(Advanced)}


def key_groups() -> tuple[Sequence[dataclasses.Field[Any]], Sequence[dataclasses.Field[Any]]]:
    """Return the top-level keys and the keys of the group ``advanced``."""
    own = [each for each in dataclasses.fields(Recipe) if each.name != GROUP]
    return own, dataclasses.fields(Advanced)


def keys() -> dict[str, dataclasses.Field[Any]]:
    """Return all keys by name, with the group ``advanced`` last."""
    return {each.name: each for group in key_groups() for each in group}


def _fraction_or_number(name: str, value: float) -> str:
    return _must_be(name, value, "below 1 or a whole number", value < 1 or float(value).is_integer())


def _must_be(name: str, value: object, expected: str, holds: bool) -> str:
    given = str(value)
    return (
        "" if holds else f"{name} must be {expected}. Got {given[:100]}{'...' if given[100:] else ''} instead"
    )
