"""Choose the layers that get adapters, plan the parameters they need, and insert them."""

from __future__ import annotations

import torch
from torch import nn

from leantune.adalora.budget import ParameterPlan, Target, plan_parameters
from leantune.adalora.layer import AdaLoraLinear
from leantune.adalora.method import METHODS
from leantune.errors import UsageError
from leantune.model.classifier import Classifier
from leantune.packing.dropout import PooledDropout

ALL_LINEAR = "all-linear"
"""Value of the recipe key ``targets`` for every linear layer of the encoder's blocks."""
HEADS = ("full", "linear")
"""Values of the recipe key ``head``: train all head modules, or only the output layer."""


def target_layers(classifier: Classifier, targets: str) -> dict[str, nn.Linear]:
    """The linear layers of the encoder that ``targets`` names, in their order.

    Args:
        classifier: a classifier without adapters.
        targets: ``attention`` (query and value), ``all-linear`` (every linear layer of the encoder's blocks), or last
            parts of names separated by commas (``query,value``).

    Raises:
        UsageError: naming each part that matches nothing, and the possible ones; also if the encoder has no linear
            layers.
    """
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
    head: str,
    limit: int | None,
    init_rank: int | None,
    target_rank: int | None,
    method: str = "adalora",
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
        missing_modules: encoder modules that the head uses and the checkpoint lacks; they are trained and count too.

    Raises:
        UsageError: if nothing fits, or ``targets`` names no layer.
    """
    layers = target_layers(shell, targets)
    counts = {
        name: sum(p.numel() for p in shell.head_weights(name, missing_modules).values()) for name in HEADS
    }
    trains_e = METHODS[method].trains_e
    return plan_parameters(
        [Target(name, layer.in_features, layer.out_features, trains_e) for name, layer in layers.items()],
        method=METHODS[method],
        head=counts[head],
        base=sum(p.numel() for p in shell.named_weights().values()),
        limit=limit,
        init_rank=init_rank,
        target_rank=target_rank,
        smaller_heads={name: count for name, count in counts.items() if count < counts[head]},
    )


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
        missing_modules: see `missing_head_modules`.
    """
    generator = torch.Generator().manual_seed(seed)
    classifier.requires_grad_(False)
    classifier.set_encoder_dtype(compute_dtype)
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
