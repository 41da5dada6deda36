"""Choose the layers that get adapters, plan the parameters they need, and insert them."""

from __future__ import annotations

import re

import torch
from torch import nn

from leantune.adalora.budget import ParameterPlan, Target, plan_parameters
from leantune.adalora.layer import AdaLoraLinear
from leantune.adalora.method import METHODS
from leantune.errors import UsageError
from leantune.model.classifier import Classifier
from leantune.model.low_rank_output import factorize
from leantune.packing.dropout import PooledDropout

ALL_LINEAR = "all-linear"
"""Value of the recipe key ``targets`` for every linear layer of the encoder's blocks."""
HEAD_ONLY = "head-only"
"""Value of the recipe key ``targets`` for a run that trains the head alone."""


def target_layers(classifier: Classifier, targets: str, layers: int | None = None) -> dict[str, nn.Linear]:
    """The linear layers of the encoder that ``targets`` names, in their order.

    Args:
        classifier: a classifier without adapters.
        targets: ``attention`` (query and value), ``all-linear`` (every linear layer of the encoder's blocks), or last
            parts of names separated by commas (``query,value``); ``head-only`` names no layer.
        layers: keep only the targets in this many of the encoder's last layers; None: in all of them.

    Raises:
        UsageError: naming each part that matches nothing, and the possible ones; also if the encoder has no linear
            layers, or fewer than ``layers``.
    """
    if targets == HEAD_ONLY:
        return {}
    found = _named_layers(classifier, targets)
    if layers is None:
        return found
    numbers = sorted({number for name in found if (number := _layer_number(name)) is not None})
    if layers > len(numbers):
        raise UsageError(
            f"layers={layers} is more than the {len(numbers)} layers with targets={targets}; use layers={len(numbers)} "
            "or less"
        )
    kept = numbers[-layers:]
    return {name: layer for name, layer in found.items() if _layer_number(name) in kept}


def num_layers(classifier: Classifier) -> int:
    """Return the number of layers of the encoder that have linear layers."""
    return len(
        {number for name in classifier.encoder_linears() if (number := _layer_number(name)) is not None}
    )


def _layer_number(name: str) -> int | None:
    """Return the number of the layer that a module is in, which is the first number in its name."""
    match = re.search(r"\.(\d+)\.", name)
    return None if match is None else int(match[1])


def _named_layers(classifier: Classifier, targets: str) -> dict[str, nn.Linear]:
    linears = classifier.encoder_linears()
    in_encoder = {name: layer for name, layer in linears.items() if isinstance(layer, nn.Linear)}
    kind = classifier.settings["model_type"]
    if not in_encoder:
        raise UsageError(f"targets {targets}: {kind} has no linear layers to adapt; use another encoder")
    if targets == ALL_LINEAR:
        return in_encoder
    chosen = classifier.attention_targets if targets == "attention" else tuple(targets.split(","))
    chosen = tuple(part.strip() for part in chosen)
    matches = {part: [n for n in in_encoder if n == part or n.endswith(f".{part}")] for part in chosen}
    missing = [part for part, names in matches.items() if not names] if targets != "attention" else []
    if missing or not any(matches.values()):
        known = sorted({name.rpartition(".")[2] for name in in_encoder})
        there = f"there are {', '.join(known)}, or use targets=all-linear"
        if targets == "attention":
            raise UsageError(
                f"targets attention: the query and value layers of {kind} are not known; {there}"
            )
        raise UsageError(
            f"targets {', '.join(missing)}: no such linear layer in {kind}; {there} or targets=attention"
        )
    found = {name for names in matches.values() for name in names}
    return {name: layer for name, layer in in_encoder.items() if name in found}


def plan_model(
    shell: Classifier,
    *,
    targets: str,
    head: str = "full",
    limit: int | None,
    init_rank: int | None = None,
    target_rank: int | None = None,
    method: str = "adalora",
    layers: int | None = None,
    head_rank: int | None = None,
    missing_modules: tuple[str, ...] = (),
) -> ParameterPlan:
    """The parameter budget for a model of this shape; see `plan_parameters`.

    Args:
        shell: the model without weights.
        targets: which layers get adapters; see `target_layers`.
        head: ``full`` or ``linear``.
        limit: ``max_trainable_params``.
        init_rank: triplets per layer at the start, or None.
        target_rank: mean triplets per layer at the end, or None.
        method: ``adalora`` or ``lora``.
        layers: number of last layers that get adapters, or None for all.
        head_rank: rank of the output layer's weight, or None for full rank.
        missing_modules: encoder modules that the head uses and the checkpoint lacks; they are trained and count too.

    Raises:
        UsageError: if nothing fits, or ``targets`` names no layer.
    """
    return plan_parameters(
        targets_of(shell, targets, method=method, layers=layers),
        method=METHODS[method],
        head=head_size(shell, head, head_rank, missing_modules),
        base=sum(p.numel() for p in shell.named_weights().values()),
        limit=limit,
        init_rank=init_rank,
        target_rank=target_rank,
    )


def targets_of(shell: Classifier, targets: str, *, method: str, layers: int | None = None) -> list[Target]:
    """Return the shapes of the layers that a method adapts; see `target_layers`."""
    trains_e = METHODS[method].trains_e
    return [
        Target(name, layer.in_features, layer.out_features, trains_e)
        for name, layer in target_layers(shell, targets, layers).items()
    ]


def head_size(
    shell: Classifier, head: str, head_rank: int | None = None, missing_modules: tuple[str, ...] = ()
) -> int:
    """Return the number of trainable parameters of the head.

    Args:
        shell: the model without weights.
        head: ``full`` or ``linear``.
        head_rank: rank of the output layer's weight, or None for full rank.
        missing_modules: encoder modules that the checkpoint lacks and the head uses.

    Raises:
        UsageError: if ``head_rank`` is higher than full rank.
    """
    size = sum(p.numel() for p in shell.head_weights(head, missing_modules).values())
    if head_rank is None:
        return size
    num_classes, width = shell.output_layer.weight.shape
    if head_rank > min(num_classes, width):
        raise UsageError(
            f"head_rank must be at most {min(num_classes, width)}, the rank of an output layer of {num_classes} "
            f"classes and width {width}. Got {head_rank} instead"
        )
    return low_rank_size(size, num_classes, width, head_rank)


def low_rank_size(head: int, num_classes: int, width: int, rank: int) -> int:
    """Return the size of a head of ``head`` parameters if its output layer's weight ``(C, D)`` has this rank.

    The weight then has ``rank * (C + D)`` parameters in place of ``C * D``.

    >>> low_rank_size(150 * 384 + 150, 150, 384, 2)
    1218
    """
    return head - num_classes * width + rank * (num_classes + width)


def make_trainable(
    classifier: Classifier,
    plan: ParameterPlan,
    *,
    alpha: float,
    lora_dropout: float,
    head: str,
    compute_dtype: torch.dtype,
    seed: int,
    adapter_init: str = "lora",
    head_rank: int | None = None,
    missing_modules: tuple[str, ...] = (),
) -> None:
    """Freeze the encoder in ``compute_dtype``, insert adapters and make the head trainable in fp32.

    Args:
        classifier: a classifier from `load_pretrained`.
        plan: plan with the ranks and targets.
        alpha: the update is scaled by ``alpha / plan.init_rank``.
        lora_dropout: dropout on the input of the adapters.
        head: ``full`` or ``linear``.
        compute_dtype: dtype of the frozen weights and of the encoder's activations.
        seed: seed for the adapters' initial values.
        adapter_init: initialisation of the adapters, one of ``plan.method.draws``.
        head_rank: rank of the output layer's weight, or None for full rank.
        missing_modules: see `missing_head_modules`.
    """
    generator = torch.Generator().manual_seed(seed)
    classifier.requires_grad_(False)
    classifier.set_encoder_dtype(compute_dtype)
    if head_rank is not None:
        factorize(classifier.output_layer, head_rank)
    for parameter in classifier.head_weights(head, missing_modules).values():
        parameter.requires_grad_(True)
    linears = classifier.encoder_linears()
    for target in plan.targets:
        layer = linears[target.name]
        assert isinstance(layer, nn.Linear)
        adapted = AdaLoraLinear(
            layer,
            plan.init_rank,
            scaling=alpha / plan.init_rank,
            dropout=PooledDropout(lora_dropout, classifier.stream),
            generator=generator,
            draw=plan.method.draws[adapter_init],
            trains_e=plan.method.trains_e,
        )
        classifier.replace(target.name, adapted)
