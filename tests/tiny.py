"""Tiny models and tokenizers, built here: no test needs the network except where it says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

VOCAB_SIZE = 120


def tiny_config(model_type: str, **changes: Any) -> Any:
    """A config of the named architecture, small enough for any test."""
    from transformers import AutoConfig

    common: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "pad_token_id": 1, "num_labels": 3}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    by_type: dict[str, dict[str, Any]] = {
        "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
        "modernbert": {
            **sizes,
            "local_attention": 8,
            "global_attn_every_n_layers": 2,
            "cls_token_id": 2,
            "sep_token_id": 3,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
        "electra": {**sizes, "embedding_size": 16},
        "deberta-v2": {
            **sizes,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "max_relative_positions": 16,
        },
    }
    return AutoConfig.for_model(model_type, **common, **by_type.get(model_type, sizes), **changes)


def tiny_model(model_type: str, **changes: Any) -> Any:
    """A random classifier of the named architecture, in evaluation mode."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_config(tiny_config(model_type, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def random_tokens(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    """Token lists of the given lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(4, VOCAB_SIZE, n).astype(np.int32) for n in lengths]
