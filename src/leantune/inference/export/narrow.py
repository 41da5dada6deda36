"""The last layer for the first token of each text alone, in a transformers model on padded batches.

What `PackedClassifier` does for packed batches, here for a graph that another library computes.

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
"""Attention of a layer, and the module behind it that can take first tokens alone, by ``model_type``."""


class FirstTokenAttention(nn.Module):
    """Transformers' self-attention, whose only query is the first token of each text.

    Args:
        attention: the module in whose place it stands: its linear layers are query, key, value and, where
            the next module does not begin with it, output.
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
        """Hidden states ``(S, L, D)`` to attended ``(S, 1, D)`` and no weights.

        Args:
            hidden_states: of all tokens, which are the keys.
            attention_mask: ``(S, 1, L or 1, L)``, as transformers makes it for its ``sdpa``.
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
    """Change ``model`` so that its last layer is computed for first tokens, if they alone are read of it.

    Only keys and values still take every token. The head's ``[:, 0]`` finds the one token that is left.

    Args:
        model: a transformers ``*ForSequenceClassification`` model, which cannot be saved or trained after.
    """
    if model.config.model_type not in NARROWED:
        return
    last = model.config.num_hidden_layers - 1
    attention, behind = (
        f"{model.base_model_prefix}.{name.format(last)}" for name in NARROWED[model.config.model_type]
    )
    head_width = model.config.hidden_size // model.config.num_attention_heads
    model.set_submodule(attention, FirstTokenAttention(model.get_submodule(attention), head_width))
    # the hidden states that go around attention still have all tokens
    model.get_submodule(behind).register_forward_pre_hook(_first_tokens)


def _first_tokens(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x[:, :1] for x in args)
