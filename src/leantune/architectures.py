"""What each architecture calls its parts, and how its head reads a packed batch.

Everything here follows the ``*ForSequenceClassification`` class of transformers, so that a trained
model is a plain transformers classifier. An architecture that is not listed runs padded.

T packed tokens, S texts, D model width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from leantune import mpnet
from leantune.adalora.attention import encode
from leantune.errors import UsageError
from leantune.packing.batch import PackedBatch
from leantune.packing.plan import AttentionPlan


def _from_zero(model: Any) -> int:
    return 0


def _encode(model: Any, inputs: Mapping[str, Tensor], plan: AttentionPlan) -> Tensor:
    hidden: Tensor = model.base_model(**inputs, packed=plan).last_hidden_state
    return hidden


def _encode_bert_like(model: Any, inputs: Mapping[str, Tensor], plan: AttentionPlan) -> Tensor:
    encoder = model.base_model
    hidden: Tensor = encoder.embeddings(**inputs)
    if hasattr(encoder, "embeddings_project"):  # ELECTRA's may be narrower than its layers
        hidden = encoder.embeddings_project(hidden)
    return encode(encoder.encoder.layer, hidden, plan)


@dataclass(frozen=True, slots=True)
class Narrowing:
    """Where the last layer goes on with first tokens alone; ``{last}`` in a name is that layer's number."""

    attention: str
    """Its attention."""
    behind: str | None = None
    """The module behind it that can take those rows alone; None: the attention itself goes on with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How leantune drives one family of encoders."""

    attention_targets: tuple[str, ...]
    """Last parts of the names of the layers that ``targets=attention`` adapts: query and value."""
    pool: Callable[[Tensor, PackedBatch, Any], Tensor] | None
    """Hidden states ``(T, D)`` to one vector a text ``(S, D)``; None if attention cannot be packed."""
    classify: Callable[[Any, Tensor], Tensor] | None
    """The model's own head on pooled vectors: ``(S, D)`` to ``(S, C)``."""
    replace_attention: Callable[[Any], None] | None = None
    """Puts packed attention into a model whose attention is not transformers' ``AttentionInterface``."""
    encode: Callable[[Any, Mapping[str, Tensor], AttentionPlan], Tensor] = _encode
    """Packed ids by name ``(1, T)`` to hidden states ``(1, T, D)``, through the encoder of the model."""
    position_offset: Callable[[Any], int] = _from_zero
    """Position id of a text's first token in a model."""
    has_token_types: bool = True
    """Whether the encoder takes ``token_type_ids``."""
    head_in_encoder: tuple[str, ...] = ()
    """Modules inside the encoder that only the head uses; trained if the checkpoint lacks them."""

    narrowing: Narrowing | None = None
    """Only the first token of the last layer is ever read. None: all rows go to the end. ``layers`` know that by
    themselves: these are then names of transformers' own modules, for exports."""

    embeddings: str | None = None
    """Name of a module that computes dropout(LayerNorm(word + token type + position)) of embeddings."""

    layers: tuple[str, ...] = ()
    """Names of modules that compute a whole layer, with the children that `PackedLayer` has; ``{layer}`` is the layer's
    number."""

    residual_blocks: tuple[str, ...] = ()
    """Names of modules that compute LayerNorm(dropout(dense(x)) + input), with children so named;
    ``{layer}`` as above."""

    gelu_layers: tuple[str, ...] = ()
    """Names of modules that compute activation(dense(x)), with children ``dense`` and
    ``intermediate_act_fn``; ``{layer}`` as above."""

    @property
    def is_packed(self) -> bool:
        """Whether attention can run on packed tokens."""
        return self.pool is not None


def first_token(hidden_TD: Tensor, batch: PackedBatch, config: Any) -> Tensor:
    """The first token's vector of every text."""
    return hidden_TD[batch.cu_seqlens[:-1].long()]


def mean_token(hidden_TD: Tensor, batch: PackedBatch, config: Any) -> Tensor:
    """The mean vector of every text, in fp32 sums."""
    lengths = batch.cu_seqlens.diff().long()
    texts = torch.arange(batch.num_seqs, device=hidden_TD.device)
    text = torch.repeat_interleave(texts, lengths, output_size=len(hidden_TD))  # else it waits for the device
    sums = hidden_TD.new_zeros(batch.num_seqs, hidden_TD.shape[1], dtype=torch.float32)
    sums = sums.index_add(0, text, hidden_TD.float())
    return (sums / lengths[:, None]).to(hidden_TD.dtype)


def _modernbert_pool(hidden_TD: Tensor, batch: PackedBatch, config: Any) -> Tensor:
    pool = mean_token if config.classifier_pooling == "mean" else first_token
    return pool(hidden_TD, batch, config)


def _classify_first_of_sequence(model: Any, pooled_SD: Tensor) -> Tensor:
    """Heads that index the first token themselves (RoBERTa, XLM-R, ELECTRA, CamemBERT, MPNet)."""
    logits: Tensor = model.classifier(pooled_SD[:, None])
    return logits


def _classify_bert(model: Any, pooled_SD: Tensor) -> Tensor:
    pooled_SD = model.bert.pooler(pooled_SD[:, None])
    logits: Tensor = model.classifier(model.dropout(pooled_SD))
    return logits


def _classify_distilbert(model: Any, pooled_SD: Tensor) -> Tensor:
    hidden = torch.relu(model.pre_classifier(pooled_SD))
    logits: Tensor = model.classifier(model.dropout(hidden))
    return logits


def _classify_modernbert(model: Any, pooled_SD: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.drop(model.head(pooled_SD)))
    return logits


def _after_padding(model: Any) -> int:
    padding: int | None = model.config.pad_token_id
    if padding is None:
        raise UsageError(
            f"config.json names no pad_token_id, behind which {model.config.model_type} counts positions: add it, "
            "as the model was trained with (1 in RoBERTa)"
        )
    return padding + 1


def _behind_mpnet_padding(model: Any) -> int:
    return 2  # transformers' MPNet has 1 for padding, whatever the config says


def _as_embeddings_count(model: Any) -> int:
    """Embeddings of RoBERTa's kind know the padding id and count from behind it."""
    padding: int | None = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else padding + 1


def _bert_like(prefix: str, **rest: Any) -> Architecture:
    """BERT and its descendants name their parts alike."""
    layer = f"{prefix}.encoder.layer.{{layer}}"
    last = f"{prefix}.encoder.layer.{{last}}.attention"
    return Architecture(
        attention_targets=("query", "value"),
        narrowing=Narrowing(f"{last}.self", f"{last}.output"),
        encode=_encode_bert_like,
        embeddings=f"{prefix}.embeddings",
        layers=(layer,),
        residual_blocks=(f"{layer}.output",),
        gelu_layers=(f"{layer}.intermediate",),
        **rest,
    )


_PADDED = Architecture(
    attention_targets=(
        *("query", "value", "q", "v", "query_proj", "value_proj", "q_proj", "v_proj", "q_lin", "v_lin"),
        *("Wqkv", "in_proj"),  # query, key and value as one
    ),
    pool=None,
    classify=None,
    position_offset=_as_embeddings_count,
)

_ROBERTA = _bert_like(
    "roberta", pool=first_token, classify=_classify_first_of_sequence, position_offset=_after_padding
)

ARCHITECTURES: dict[str, Architecture] = {
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "bert": _bert_like("bert", pool=first_token, classify=_classify_bert, head_in_encoder=("bert.pooler",)),
    "electra": _bert_like("electra", pool=first_token, classify=_classify_first_of_sequence),
    "distilbert": Architecture(
        attention_targets=("q_lin", "v_lin"),
        pool=first_token,
        classify=_classify_distilbert,
        has_token_types=False,
        narrowing=Narrowing(
            "distilbert.transformer.layer.{last}.attention",
            "distilbert.transformer.layer.{last}.sa_layer_norm",
        ),
    ),
    "mpnet": Architecture(
        attention_targets=("q", "v"),
        pool=first_token,
        classify=_classify_first_of_sequence,
        replace_attention=mpnet.replace_attention,
        encode=mpnet.encode,
        position_offset=_behind_mpnet_padding,
        has_token_types=False,
        narrowing=Narrowing("mpnet.encoder.layer.{last}.attention"),
        residual_blocks=("mpnet.encoder.layer.{layer}.output",),
        gelu_layers=("mpnet.encoder.layer.{layer}.intermediate",),
    ),
    "modernbert": Architecture(
        attention_targets=("Wqkv",),
        pool=_modernbert_pool,
        classify=_classify_modernbert,
        has_token_types=False,
    ),
    "albert": replace(_PADDED, head_in_encoder=("albert.pooler",)),
    "nomic_bert": replace(_PADDED, head_in_encoder=("nomic_bert.pooler",)),
}
"""By ``config.model_type``."""


def architecture_of(config: Any) -> Architecture:
    """The entry for a transformers config; the padded fallback for one that is not listed."""
    return ARCHITECTURES.get(config.model_type, _PADDED)


def target_layers(model: Any, targets: str) -> dict[str, nn.Linear]:
    """The linear layers of the encoder that ``targets`` names, in module order.

    Args:
        model: a transformers ``*ForSequenceClassification`` model.
        targets: ``attention`` (the architecture's query and value), ``all-linear`` (every linear layer
            of the encoder's blocks), or last parts of names separated by commas (``query,value``).

    Raises:
        ValueError: naming each part that matches nothing, and what there is; for an encoder without linear layers.
    """
    architecture = architecture_of(model.config)
    prefix = f"{model.base_model_prefix}."
    in_encoder = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(prefix)
        and not name.startswith(architecture.head_in_encoder or "\0")
        and any(part.isdigit() for part in name.split("."))
    }
    kind = model.config.model_type
    if not in_encoder:
        raise ValueError(f"targets {targets}: {kind} has no linear layers to adapt; use another encoder")
    if targets == "all-linear":
        return in_encoder
    chosen = architecture.attention_targets if targets == "attention" else tuple(targets.split(","))
    chosen = tuple(part.strip() for part in chosen)
    matches = {part: [n for n in in_encoder if n == part or n.endswith(f".{part}")] for part in chosen}
    missing = [part for part, names in matches.items() if not names] if targets != "attention" else []
    if missing or not any(matches.values()):
        known = sorted({name.rpartition(".")[2] for name in in_encoder})
        there = f"there are {', '.join(known)}, or use targets=all-linear"
        if targets == "attention":
            raise ValueError(
                f"targets attention: which layers of {kind} are query and value is not known; {there}"
            )
        raise ValueError(
            f"targets {', '.join(missing)}: no such linear layer in {kind}; {there} or targets=attention"
        )
    found = {name for names in matches.values() for name in names}
    return {name: module for name, module in in_encoder.items() if name in found}


def head_modules(model: Any) -> dict[str, nn.Module]:
    """The modules with parameters outside the encoder, whatever they are called."""
    return {
        name: module
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    }


def output_layer(model: Any) -> tuple[str, nn.Linear]:
    """The last linear layer of the head, the one that has a row for each class."""
    layers = [
        (f"{name}.{sub}" if sub else name, module)
        for name, head in head_modules(model).items()
        for sub, module in head.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels
    ]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no linear output layer for {model.config.num_labels} classes"
        )
    return layers[-1]
