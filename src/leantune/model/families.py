"""The families of encoders: one row of `FAMILIES` each, by the ``model_type`` of transformers.

A row makes an `EncoderConfig` and a `HeadConfig` from a ``config.json`` and maps module names to those of
transformers, so that loading and saving weights only renames them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from leantune.errors import UsageError
from leantune.kernels.reference import ACTIVATIONS
from leantune.model.encoder import ConvolutionConfig, EncoderConfig, LayerConfig, RelativeConfig
from leantune.model.family import Family, Settings, num_labels_in, rotary_of
from leantune.model.head import HeadConfig
from leantune.model.llama_families import LLAMA_FAMILIES
from leantune.packing.layout import WHOLE_TEXT, Window
from leantune.packing.positions import Rotary


def family_of(settings: Settings) -> Family | None:
    """The family of a ``config.json``; None if it must run padded as transformers' own model.

    It is also None for settings of a known family that `Encoder` does not have: cross-attention, other activations,
    other kinds of positions.
    """
    family = FAMILIES.get(settings.get("model_type", ""))
    if family is None or settings.get("is_decoder") or settings.get("add_cross_attention"):
        return None
    if not family.is_known(settings):
        return None
    activations = (family.encoder_config(settings).activation, family.head_config(settings).activation)
    return family if all(name is None or name in ACTIVATIONS for name in activations) else None


def _bert_config(settings: Settings, *, position_offset: int = 0) -> EncoderConfig:
    width, dropout = settings.get("hidden_size", 768), settings.get("hidden_dropout_prob", 0.1)
    return EncoderConfig(
        vocab_size=settings.get("vocab_size", 30_522),
        width=width,
        num_heads=settings.get("num_attention_heads", 12),
        inner_width=settings.get("intermediate_size", 3072),
        layers=(LayerConfig(),) * settings.get("num_hidden_layers", 12),
        norm_eps=settings.get("layer_norm_eps", 1e-12),
        embedding_width=width,
        max_positions=settings.get("max_position_embeddings", 512),
        token_types=settings.get("type_vocab_size", 2),
        position_offset=position_offset,
        activation=settings.get("hidden_act", "gelu"),
        embedding_dropout=dropout,
        attention_dropout=settings.get("attention_probs_dropout_prob", 0.1),
        out_dropout=dropout,
        down_dropout=dropout,
    )


def _roberta_config(settings: Settings) -> EncoderConfig:
    padding = settings.get("pad_token_id", 1)
    if padding is None:
        raise UsageError(
            f"config.json has no pad_token_id, from which {settings['model_type']} derives position ids: add the value "
            "that the model was trained with (1 in RoBERTa)"
        )
    return _bert_config({"vocab_size": 50_265, **settings}, position_offset=padding + 1)


def _electra_config(settings: Settings) -> EncoderConfig:
    own = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, **settings}
    return replace(_bert_config(own), embedding_width=settings.get("embedding_size", 128))


def _mpnet_config(settings: Settings) -> EncoderConfig:
    return replace(
        _bert_config({"vocab_size": 30_527, **settings}),
        token_types=0,
        distance_buckets=settings.get("relative_attention_num_buckets", 32),
        position_offset=2,  # transformers' MPNet uses 1 as padding id, whatever the config says
    )


def _distilbert_config(settings: Settings) -> EncoderConfig:
    width, dropout = settings.get("dim", 768), settings.get("dropout", 0.1)
    return EncoderConfig(
        vocab_size=settings.get("vocab_size", 30_522),
        width=width,
        num_heads=settings.get("n_heads", 12),
        inner_width=settings.get("hidden_dim", 4 * 768),
        layers=(LayerConfig(),) * settings.get("n_layers", 6),
        norm_eps=1e-12,
        embedding_width=width,
        max_positions=settings.get("max_position_embeddings", 512),
        activation=settings.get("activation", "gelu"),
        embedding_dropout=dropout,
        attention_dropout=settings.get("attention_dropout", 0.1),
        down_dropout=dropout,
    )


def _modernbert_config(settings: Settings) -> EncoderConfig:
    width, dropout = settings.get("hidden_size", 768), settings.get("attention_dropout", 0.0)
    return EncoderConfig(
        vocab_size=settings.get("vocab_size", 50_368),
        width=width,
        num_heads=settings.get("num_attention_heads", 12),
        inner_width=settings.get("intermediate_size", 1152),
        layers=_modernbert_layers(settings),
        norm_eps=settings.get("norm_eps", 1e-5),
        embedding_width=width,
        max_positions=0,
        activation=settings.get("hidden_activation", "gelu"),
        is_gated=True,
        norm_first=True,
        is_fused=True,
        norm_bias=settings.get("norm_bias", False),
        attention_bias=settings.get("attention_bias", False),
        mlp_bias=settings.get("mlp_bias", False),
        embedding_dropout=settings.get("embedding_dropout", 0.0),
        attention_dropout=dropout,
        out_dropout=dropout,
        inner_dropout=settings.get("mlp_dropout", 0.0),
    )


def _modernbert_layers(settings: Settings) -> tuple[LayerConfig, ...]:
    """Every third layer attends to the whole text, the others to a window around each token."""
    every = settings.get("global_attn_every_n_layers", 3)
    kinds = settings.get("layer_types") or [
        "sliding_attention" if number % every else "full_attention"
        for number in range(settings.get("num_hidden_layers", 22))
    ]
    window = settings.get("local_attention", 128) // 2
    return tuple(
        LayerConfig(
            window=Window.around(window) if kind == "sliding_attention" else WHOLE_TEXT,
            rotary=_modernbert_rotary(settings, kind),
            has_attention_norm=number > 0,
        )
        for number, kind in enumerate(kinds)
    )


def _modernbert_rotary(settings: Settings, kind: str) -> Rotary | None:
    old_name, default = {
        "full_attention": ("global_rope_theta", 160_000.0),
        "sliding_attention": ("local_rope_theta", 10_000.0),
    }[kind]
    parameters = (settings.get("rope_parameters") or {}).get(kind) or {}
    base = parameters.get("rope_theta") or settings.get(old_name) or default
    return rotary_of({**parameters, "rope_theta": base})


def _is_known_modernbert(settings: Settings) -> bool:
    """Whether its positions are rotary ones that we know."""
    layers = _modernbert_layers(settings)
    return not settings.get("rope_scaling") and all(layer.rotary is not None for layer in layers)


def _deberta_config(settings: Settings) -> EncoderConfig:
    own = {
        "vocab_size": 128_100,
        "hidden_size": 1536,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        **settings,
    }
    config = _bert_config(own)
    span = settings.get("max_relative_positions", -1)
    span = settings.get("max_position_embeddings", 512) if span < 1 else span
    num_buckets = max(0, settings.get("position_buckets", -1))
    terms, dropout = settings.get("pos_att_type") or [], config.out_dropout
    return replace(
        config,
        max_positions=config.max_positions if settings.get("position_biased_input", True) else 0,
        relative=RelativeConfig(
            span=num_buckets or span,
            num_buckets=num_buckets,
            max_distance=span,
            has_key="c2p" in terms,
            has_query="p2c" in terms,
            is_shared=settings.get("share_att_key", False),
            has_norm="layer_norm" in _names_in(settings.get("norm_rel_ebd", "none")),
            dropout=dropout,
        ),
        convolution=ConvolutionConfig(
            size=settings["conv_kernel_size"], activation=settings.get("conv_act", "tanh"), dropout=dropout
        )
        if settings.get("conv_kernel_size", 0) > 0
        else None,
    )


def _names_in(text: str) -> list[str]:
    return [name.strip() for name in text.lower().split("|")]


def _is_known_deberta(settings: Settings) -> bool:
    """Whether it is one of the published forms: v2, v2-xlarge, v3."""
    width = settings.get("hidden_size", 1536)
    heads = settings.get("num_attention_heads", 24)
    terms = settings.get("pos_att_type") or []
    return (
        bool(settings.get("relative_attention"))
        and not isinstance(terms, str)
        and set(terms) <= {"c2p", "p2c"}
        and all(settings.get(name, width) == width for name in ("embedding_size", "pooler_hidden_size"))
        and settings.get("attention_head_size", width // heads) == width // heads
        and settings.get("conv_groups", 1) == 1
        and settings.get("conv_kernel_size", 1) % 2 == 1
        and settings.get("conv_act", "tanh") in ACTIVATIONS
    )


def _tanh_head(settings: Settings) -> HeadConfig:
    """``dropout, dense, tanh, dropout, output`` on the first token, as in RoBERTa and MPNet."""
    dropout = _classifier_dropout(settings)
    return HeadConfig(
        width=settings.get("hidden_size", 768),
        num_labels=num_labels_in(settings),
        activation="tanh",
        input_dropout=dropout,
        dropout=dropout,
    )


def _mpnet_head(settings: Settings) -> HeadConfig:
    return _tanh_head({**settings, "classifier_dropout": None})  # MPNet uses the encoder's dropout


def _bert_head(settings: Settings) -> HeadConfig:
    return replace(_tanh_head(settings), input_dropout=0.0)


def _electra_head(settings: Settings) -> HeadConfig:
    return replace(_tanh_head({"hidden_size": 256, **settings}), activation="gelu")


def _deberta_head(settings: Settings) -> HeadConfig:
    own = settings.get("cls_dropout")
    return HeadConfig(
        width=settings.get("hidden_size", 1536),
        num_labels=num_labels_in(settings),
        activation=settings.get("pooler_hidden_act", "gelu"),
        input_dropout=settings.get("pooler_dropout", 0.0),
        dropout=settings.get("hidden_dropout_prob", 0.1) if own is None else own,
    )


def _distilbert_head(settings: Settings) -> HeadConfig:
    return HeadConfig(
        width=settings.get("dim", 768),
        num_labels=num_labels_in(settings),
        activation="relu",
        dropout=settings.get("seq_classif_dropout", 0.2),
    )


def _modernbert_head(settings: Settings) -> HeadConfig:
    return HeadConfig(
        width=settings.get("hidden_size", 768),
        num_labels=num_labels_in(settings),
        activation=settings.get("classifier_activation", "gelu"),
        dropout=settings.get("classifier_dropout", 0.0),
        pooling="mean" if settings.get("classifier_pooling", "cls") == "mean" else "first",
        dense_bias=settings.get("classifier_bias", False),
        has_norm=True,
        norm_eps=settings.get("norm_eps", 1e-5),
        norm_bias=settings.get("norm_bias", False),
    )


def _classifier_dropout(settings: Settings) -> float:
    own = settings.get("classifier_dropout")
    dropout: float = settings.get("hidden_dropout_prob", 0.1) if own is None else own
    return dropout


_EMBEDDINGS = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
}
_FEED_FORWARD = {
    "layers.{}.up_proj": "encoder.layer.{}.intermediate.dense",
    "layers.{}.down_proj": "encoder.layer.{}.output.dense",
    "layers.{}.mlp_norm": "encoder.layer.{}.output.LayerNorm",
}
_BERT = {
    **_EMBEDDINGS,
    "layers.{}.query": "encoder.layer.{}.attention.self.query",
    "layers.{}.key": "encoder.layer.{}.attention.self.key",
    "layers.{}.value": "encoder.layer.{}.attention.self.value",
    "layers.{}.out_proj": "encoder.layer.{}.attention.output.dense",
    "layers.{}.attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    **_FEED_FORWARD,
}
_DENSE_AND_OUTPUT = {"dense": "classifier.dense", "output": "classifier.out_proj"}

_ROBERTA = Family(
    prefix="roberta",
    encoder_config=_roberta_config,
    head_config=_tanh_head,
    encoder=_BERT,
    head=_DENSE_AND_OUTPUT,
)

FAMILIES: Mapping[str, Family] = {
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "bert": Family(
        prefix="bert",
        encoder_config=_bert_config,
        head_config=_bert_head,
        encoder=_BERT,
        head={"dense": "bert.pooler.dense", "output": "classifier"},
    ),
    "electra": Family(
        prefix="electra",
        encoder_config=_electra_config,
        head_config=_electra_head,
        encoder={**_BERT, "embedding_proj": "embeddings_project"},
        head=_DENSE_AND_OUTPUT,
    ),
    "distilbert": Family(
        prefix="distilbert",
        encoder_config=_distilbert_config,
        head_config=_distilbert_head,
        encoder={
            **_EMBEDDINGS,
            "layers.{}.query": "transformer.layer.{}.attention.q_lin",
            "layers.{}.key": "transformer.layer.{}.attention.k_lin",
            "layers.{}.value": "transformer.layer.{}.attention.v_lin",
            "layers.{}.out_proj": "transformer.layer.{}.attention.out_lin",
            "layers.{}.attention_norm": "transformer.layer.{}.sa_layer_norm",
            "layers.{}.up_proj": "transformer.layer.{}.ffn.lin1",
            "layers.{}.down_proj": "transformer.layer.{}.ffn.lin2",
            "layers.{}.mlp_norm": "transformer.layer.{}.output_layer_norm",
        },
        head={"dense": "pre_classifier", "output": "classifier"},
    ),
    "mpnet": Family(
        prefix="mpnet",
        encoder_config=_mpnet_config,
        head_config=_mpnet_head,
        encoder={
            **_EMBEDDINGS,
            "layers.{}.query": "encoder.layer.{}.attention.attn.q",
            "layers.{}.key": "encoder.layer.{}.attention.attn.k",
            "layers.{}.value": "encoder.layer.{}.attention.attn.v",
            "layers.{}.out_proj": "encoder.layer.{}.attention.attn.o",
            "layers.{}.attention_norm": "encoder.layer.{}.attention.LayerNorm",
            **_FEED_FORWARD,
            "distances": "encoder.relative_attention_bias",
        },
        head=_DENSE_AND_OUTPUT,
    ),
    "deberta-v2": Family(
        prefix="deberta",
        encoder_config=_deberta_config,
        head_config=_deberta_head,
        encoder={
            **_EMBEDDINGS,
            "layers.{}.query": "encoder.layer.{}.attention.self.query_proj",
            "layers.{}.key": "encoder.layer.{}.attention.self.key_proj",
            "layers.{}.value": "encoder.layer.{}.attention.self.value_proj",
            "layers.{}.relative_key": "encoder.layer.{}.attention.self.pos_key_proj",
            "layers.{}.relative_query": "encoder.layer.{}.attention.self.pos_query_proj",
            "layers.{}.out_proj": "encoder.layer.{}.attention.output.dense",
            "layers.{}.attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
            **_FEED_FORWARD,
            "relative_table": "encoder.rel_embeddings",
            "relative_norm": "encoder.LayerNorm",
            "convolution.conv": "encoder.conv.conv",
            "convolution.norm": "encoder.conv.LayerNorm",
        },
        head={"dense": "pooler.dense", "output": "classifier"},
        is_known=_is_known_deberta,
    ),
    "modernbert": Family(
        prefix="model",
        encoder_config=_modernbert_config,
        head_config=_modernbert_head,
        encoder={
            "embeddings.word": "embeddings.tok_embeddings",
            "embeddings.norm": "embeddings.norm",
            "layers.{}.attention_norm": "layers.{}.attn_norm",
            "layers.{}.qkv": "layers.{}.attn.Wqkv",
            "layers.{}.out_proj": "layers.{}.attn.Wo",
            "layers.{}.mlp_norm": "layers.{}.mlp_norm",
            "layers.{}.up_proj": "layers.{}.mlp.Wi",
            "layers.{}.down_proj": "layers.{}.mlp.Wo",
            "final_norm": "final_norm",
        },
        head={"dense": "head.dense", "norm": "head.norm", "output": "classifier"},
        is_known=_is_known_modernbert,
    ),
    **LLAMA_FAMILIES,
}
"""Families by ``model_type``."""
