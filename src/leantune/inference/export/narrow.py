"""Compute the last layer only for the first token of each text, in a transformers model on padded batches.

This is what `PackedClassifier` does for packed batches, for graphs that other libraries compute.

S texts, L tokens that they are padded to, D model width, N heads, H head width.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

_BERT = "encoder.layer.{}.attention.self", "encoder.layer.{}.attention.output"
NARROWED = {
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "bert", "electra"), _BERT),
    "distilbert": ("transformer.layer.{}.attention", "transformer.layer.{}.sa_layer_norm"),
}
"""A layer's attention module, and the next module, which can take first tokens only, by ``model_type``."""


class FirstTokenAttention(nn.Module):
    """Transformers' self-attention with the first token of each text as the only query.

    Args:
        attention: the module to replace; its linear layers are query, key, value and, unless the next module begins
            with it, output.
        head_width: H.
    """

    def __init__(self, attention: nn.Module, head_width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, *output = (
            each for each in attention.children() if isinstance(each, nn.Linear)
        )
        self.output = nn.Sequential(*output)
        self.head_width = head_width

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        """Hidden states ``(S, L, D)`` to attended ``(S, 1, D)``, without attention weights.

        Args:
            hidden_states: states of all tokens, which are the keys.
            attention_mask: ``(S, 1, L or 1, L)``, as transformers makes it for ``sdpa``.
        """
        query, key, value = (
            projected.unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # (S, N, L or 1, H)
            for projected in (
                self.query(hidden_states[:, :1]),
                self.key(hidden_states),
                self.value(hidden_states),
            )
        )
        mask = None if attention_mask is None else attention_mask[:, :, :1]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(attended.transpose(1, 2).flatten(2)), None


def narrow_last_layer(model: Any) -> None:
    """Change ``model`` to compute its last layer for first tokens only, if nothing else is read from it.

    Only keys and values still use every token. The head's ``[:, 0]`` finds the one remaining token.

    Args:
        model: a transformers ``*ForSequenceClassification`` model, which cannot be saved or trained afterwards.
    """
    if model.config.model_type not in NARROWED:
        return
    last = model.config.num_hidden_layers - 1
    attention, behind = (
        f"{model.base_model_prefix}.{name.format(last)}" for name in NARROWED[model.config.model_type]
    )
    head_width = model.config.hidden_size // model.config.num_attention_heads
    model.set_submodule(attention, FirstTokenAttention(model.get_submodule(attention), head_width))
    # the residual around attention still has all tokens
    model.get_submodule(behind).register_forward_pre_hook(_first_tokens)


def _first_tokens(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x[:, :1] for x in args)
