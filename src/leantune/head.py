"""The head of a pretrained classifier: which parts of it the weights lack, and how they begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from leantune.architectures import architecture_of, head_modules
from leantune.pretrained import skeleton, tensor_names


def missing_head_modules(config: Any, source: str) -> tuple[str, ...]:
    """Encoder modules that the head uses and the weights of ``source`` lack (a BERT pooler, say).

    Reads only the header of its safetensors files; none where there are no such files (see `unseen_head_modules`).

    Raises:
        CheckpointError: naming a file that is damaged.
    """
    names = tensor_names(source)
    if not names:
        return ()
    # weights saved from a bare encoder have no prefix
    return tuple(
        module
        for module in architecture_of(config).head_in_encoder
        if not any(n.startswith((f"{module}.", f"{module.partition('.')[2]}.")) for n in names)
    )


def unseen_head_modules(config: Any, source: str) -> dict[str, int]:
    """Parameters of the encoder modules that only the head uses, where ``source`` has no weights to look into: if these
    lack them, they are trained.
    """
    names = () if tensor_names(source) else architecture_of(config).head_in_encoder
    if not names:
        return {}
    model = skeleton(config).model
    return {name: sum(p.numel() for p in model.get_submodule(name).parameters()) for name in names}


def missing_head_parameters(model: Any, source: str) -> list[str]:
    """Parameters of the head of ``model`` that the weights of ``source``, a folder, lack."""
    names = tensor_names(source)
    inside = architecture_of(model.config).head_in_encoder
    head = {**head_modules(model), **{name: model.get_submodule(name) for name in inside}}
    parameters = (f"{name}.{sub}" for name, module in head.items() for sub, _ in module.named_parameters())
    # weights saved from a bare encoder have no prefix
    prefix = f"{model.base_model_prefix}."
    return [name for name in parameters if not {name, name.removeprefix(prefix)} & names]


def reinitialise_head(model: Any, seed: int, missing_modules: tuple[str, ...] = ()) -> None:
    """Draw the head again from N(0, initializer_range), by its own generator: transformers draws it
    from the global one, so it would depend on what ran before. Norms begin at one and zero.

    Args:
        model: a transformers classifier.
        seed: of the generator.
        missing_modules: see `missing_head_modules`; they are drawn, too.
    """
    sequence = np.random.SeedSequence([seed, 0x4EAD])  # the adapters are drawn from ``seed`` itself
    generator = torch.Generator().manual_seed(sequence.generate_state(1, np.uint64).item())
    std = getattr(model.config, "initializer_range", 0.02)
    drawn = [*head_modules(model).values(), *(model.get_submodule(name) for name in missing_modules)]
    for module in (module for each in drawn for module in each.modules()):
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(0.0, std, generator=generator)
            if module.bias is not None:
                module.bias.data.zero_()
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
