"""Save the complete training state to a checkpoint, and restore it exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from leantune.adalora.prune import prune
from leantune.errors import CheckpointError
from leantune.model.classifier import Classifier
from leantune.system import distributed
from leantune.training.checkpoint import Checkpoint
from leantune.training.loop import TrainingState

_COUNTERS = ("step", "skipped_steps", "skipped_in_a_row", "train_s", "train_samples", "train_tokens")


def capture(state: TrainingState, extra: dict[str, Any]) -> Checkpoint:
    """Collect everything that the next step depends on.

    Args:
        state: the state after a step.
        extra: JSON values of the run (evaluations so far, size of the history).
    """
    classifier, allocator = state.classifier, state.allocator
    tensors: dict[str, Tensor] = {f"model.{name}": p for name, p in saved_parameters(classifier).items()}
    for name, parameter in classifier.trainable().items():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = value
    tensors |= {f"allocator.{name}": tensor for name, tensor in allocator.state_tensors().items()}
    for rank, generators in enumerate(distributed.gather(_generators(classifier.device))):
        tensors |= {f"rng.{name}.{rank}": generator for name, generator in generators.items()}
    return Checkpoint(
        tensors,
        {
            "counters": {name: getattr(state, name) for name in _COUNTERS},
            "ranks": {name: layer.rank for name, layer in classifier.adapted_layers().items()},
            "pinned": {n: layer.pinned for n, layer in classifier.adapted_layers().items() if layer.pinned},
            "allocator": {"is_final": allocator.is_final, "live_ranks": allocator.live_ranks},
            "dropout": distributed.gather(classifier.stream.state()),
            "scaler": state.scaler.state_dict(),
            **extra,
        },
    )


def _generators(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators in this process."""
    states = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore(state: TrainingState, checkpoint: Checkpoint) -> None:
    """Restore ``state``, built from the same recipe, to what it was when ``checkpoint`` was captured.

    Raises:
        CheckpointError: naming a tensor that is missing or has another shape.
    """
    saved, tensors = checkpoint.state, checkpoint.tensors
    restore_weights(state.classifier, checkpoint, state.optimizer)
    for name, parameter in state.classifier.trainable().items():
        prefix = f"optimizer.{name}."
        moments = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        if moments:
            state.optimizer.state[parameter] = {
                key: value.to(parameter.device) for key, value in moments.items()
            }
    state.allocator.load_state_tensors(
        {key[len("allocator.") :]: value for key, value in tensors.items() if key.startswith("allocator.")},
        **saved["allocator"],
    )
    if len(saved["dropout"]) != distributed.world_size():
        raise CheckpointError(
            f"checkpoint: written by {len(saved['dropout'])} processes, this run has "
            f"{distributed.world_size()}: start the same number"
        )
    rank = distributed.rank()
    state.classifier.stream.load_state(saved["dropout"][rank])
    torch.set_rng_state(_tensor(tensors, f"rng.torch.{rank}"))
    if f"rng.cuda.{rank}" in tensors:
        torch.cuda.set_rng_state(tensors[f"rng.cuda.{rank}"], state.classifier.device)
    state.scaler.load_state_dict(saved["scaler"])
    for name in _COUNTERS:
        setattr(state, name, saved["counters"][name])


@torch.no_grad()
def restore_weights(
    classifier: Classifier, checkpoint: Checkpoint, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Restore adapters and head from ``checkpoint``, with their ranks there."""
    ranks = checkpoint.state["ranks"]
    layers = classifier.adapted_layers()
    if any(layer.rank != ranks.get(name, 0) for name, layer in layers.items()):
        masks = {name: torch.arange(layer.rank) < ranks.get(name, 0) for name, layer in layers.items()}
        prune(classifier, masks, optimizer)
    for name, layer in classifier.adapted_layers().items():
        layer.pinned = checkpoint.state["pinned"].get(name, 0)
    for name, parameter in saved_parameters(classifier).items():
        saved = _tensor(checkpoint.tensors, f"model.{name}")
        if saved.shape != parameter.shape:
            raise CheckpointError(
                f"checkpoint: {name} has shape {tuple(saved.shape)}, expected {tuple(parameter.shape)}"
            )
        parameter.copy_(saved)


def saved_parameters(classifier: Classifier) -> dict[str, Tensor]:
    """Trainable parameters, and frozen parameters of the head that are not pretrained."""
    return {**classifier.trainable(), **classifier.head_weights("full")}


def _tensor(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"checkpoint: {name} is missing")
    return tensors[name]
