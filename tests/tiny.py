"""Tiny models and tokenizers, built here: no test needs the network except where it says so."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from leantune.config import Recipe, load_recipe
from leantune.model.build import packed_from
from leantune.model.classifier import Classifier
from leantune.model.families import family_of
from leantune.model.padded import PaddedClassifier
from leantune.packing.dropout import DropoutStream

VOCAB_SIZE = 120


def tiny_config(model_type: str, **changes: Any) -> Any:
    """A config of the named architecture, small enough for any test."""
    from transformers import AutoConfig

    common: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "pad_token_id": 1, "num_labels": 3}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    shared_heads = {
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
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
        **dict.fromkeys(("llama", "mistral", "qwen2", "smollm3", "eurobert"), sizes | shared_heads),
        **{name: sizes | shared_heads | {"head_dim": 16} for name in ("qwen3", "gemma3_text")},
        "opt": {**sizes, "ffn_dim": 48, "word_embed_proj_dim": 32},
        "longformer": {**sizes, "attention_window": [4, 4]},  # divides queries in place
        "deberta-v2": {
            **sizes,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "max_relative_positions": 16,
        },
    }
    return AutoConfig.for_model(model_type, **common | by_type.get(model_type, sizes) | changes)


def tiny_model(model_type: str, **changes: Any) -> Any:
    """A random classifier of the named architecture, in evaluation mode."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_config(tiny_config(model_type, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def classifier_from(model: Any) -> Classifier:
    """Our own classifier around the parameters of a transformers one; the padded one where its family is not ours."""
    settings = model.config.to_dict()
    if family_of(settings) is None:
        return PaddedClassifier(model, DropoutStream(0))
    return packed_from(settings, dict(model.named_parameters()))


def random_tokens(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    """Token lists of the given lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(4, VOCAB_SIZE, n).astype(np.int32) for n in lengths]


WORDS = [f"word{i}" for i in range(VOCAB_SIZE - 5)]


def save_tiny_encoder(folder: Path, model_type: str = "bert", **changes: Any) -> Path:
    """A folder with a random encoder and a whole-word tokenizer, as a hub model looks on disk."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoModel, PreTrainedTokenizerFast

    vocabulary = {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    vocabulary |= {word: i + 5 for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    fast.save_pretrained(str(folder))
    torch.manual_seed(0)
    model = AutoModel.from_config(tiny_config(model_type, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(str(folder))
    return folder


def write_rows(path: Path, num_rows: int, labels: tuple[str, ...] = ("a", "b", "c"), seed: int = 0) -> Path:
    """A CSV of texts whose class decides which words are likely."""
    import csv

    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for _ in range(num_rows):
            label = int(rng.integers(len(labels)))
            length = int(rng.integers(3, 20))
            own = rng.integers(0, 8, length) + 8 * label
            any_word = rng.integers(0, len(WORDS), length)
            words = np.where(rng.random(length) < 0.8, own, any_word)
            writer.writerow([" ".join(WORDS[i] for i in words), labels[label]])
    return path


def write_label_sets(
    path: Path, num_rows: int, labels: tuple[str, ...] = ("a", "b", "c"), seed: int = 0
) -> Path:
    """A CSV of texts with any number of labels, joined by ``|``, each of which brings words of its own."""
    import csv

    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for _ in range(num_rows):
            own = np.flatnonzero(rng.random(len(labels)) < 0.4)
            words = [rng.integers(0, 8, 6) + 8 * label for label in own]
            words.append(rng.integers(8 * len(labels), len(WORDS), int(rng.integers(2, 6))))
            text = " ".join(WORDS[i] for i in rng.permutation(np.concatenate(words)))
            writer.writerow([text, "|".join(labels[i] for i in own)])
    return path


def quiet() -> Console:
    return Console(file=io.StringIO())


def recipe_for(inputs: Path, output: Path, **changes) -> Recipe:
    values = {
        "data": str(inputs / "train.csv"),
        "test": str(inputs / "test.csv"),
        "model": str(inputs / "encoder"),
        "output": str(output),
        "init_rank": 4,
        "target_rank": 1,
        "epochs": 4,
        "batch_size": 16,
        "learning_rate": 1e-2,
        # the published start: in so few steps no other empties a module of this tiny model
        "adapter_init": "lora" if changes.get("method") == "lora" else "normal",
        "orth_reg_weight": 0.5,
        "dropout": None,  # the encoder's own, so that every mask is among what runs must repeat
        "max_length": 32,
        "precision": "fp32",
        "validation_size": 48,
        "seed": 7,
    }
    return load_recipe(None, values | changes)


def words_of(inputs: Path, output: Path, **changes: object) -> list[str]:
    """The same recipe, with one epoch, as ``key=value`` words."""
    recipe = recipe_for(inputs, output, epochs=1, **changes)
    return [f"{key}={value}" for key, value in recipe.by_key().items()]


def assert_same_logits(found, expected, tolerance: float = 1e-5) -> None:
    """Equal to ``tolerance``, for logits up to 1; above, relative to the largest, as rounding is."""
    found, expected = (torch.as_tensor(each) for each in (found, expected))
    allowed = tolerance * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=0, atol=allowed)
