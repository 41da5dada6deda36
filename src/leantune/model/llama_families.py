"""The families with the layers of Llama: decoders that classify by the last token, and encoders made from them.

RMSNorm before each block, rotary positions, shared heads of key and value, a gated feed-forward block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from leantune.model.encoder import EncoderConfig, LayerConfig
from leantune.model.family import Family, Settings, num_labels_in, rotary_of
from leantune.model.head import HeadConfig, Pooling
from leantune.packing.layout import WHOLE_TEXT, Window
from leantune.packing.positions import Rotary

_SLIDING, _FULL = "sliding_attention", "full_attention"
_CAUSAL = Window(after=0)


def _llama_config(settings: Settings) -> EncoderConfig:
    width, bias = settings.get("hidden_size", 4096), settings.get("attention_bias", False)
    rotary = _rotary(settings)
    return EncoderConfig(
        vocab_size=settings.get("vocab_size", 32_000),
        width=width,
        num_heads=settings.get("num_attention_heads", 32),
        num_key_value_heads=settings.get("num_key_value_heads"),
        own_head_width=settings.get("head_dim"),
        inner_width=settings.get("intermediate_size", 11_008),
        layers=(LayerConfig(window=_CAUSAL, rotary=rotary),) * settings.get("num_hidden_layers", 32),
        norm_eps=settings.get("rms_norm_eps", 1e-6),
        embedding_width=width,
        max_positions=0,
        reads_last=True,
        activation=settings.get("hidden_act", "silu"),
        is_gated=True,
        norm="rms",
        norm_first=True,
        norms_embeddings=False,
        attention_bias=bias,
        mlp_bias=settings.get("mlp_bias", False),
        attention_dropout=settings.get("attention_dropout") or 0.0,
    )


def _causal(reach: int | None) -> Window:
    """The token itself and those before it, ``reach`` in all; None: all before it."""
    return Window(before=None if reach is None else reach - 1, after=0)


def _layer_kinds(settings: Settings, count: int, slides: Callable[[int], bool]) -> list[str]:
    """The kind of attention of each layer: ``layer_types``, or in older configs by the number of the layer."""
    named: list[str] | None = settings.get("layer_types")
    return named or [_SLIDING if slides(number) else _FULL for number in range(count)]


def _with_windows(config: EncoderConfig, windows: Iterable[Window]) -> EncoderConfig:
    """The encoder with a window for each layer."""
    pairs = zip(config.layers, windows, strict=True)
    return replace(config, layers=tuple(replace(layer, window=window) for layer, window in pairs))


def _mistral_config(settings: Settings) -> EncoderConfig:
    config = _llama_config({"intermediate_size": 14_336, "num_key_value_heads": 8, **settings})
    return _with_windows(config, [_causal(settings.get("sliding_window", 4096))] * len(config.layers))


_QWEN: Settings = {"vocab_size": 151_936, "intermediate_size": 22_016, "num_key_value_heads": 32}


def _qwen2_config(settings: Settings) -> EncoderConfig:
    config = _llama_config({**_QWEN, **settings, "attention_bias": True})
    return _with_qwen_windows(replace(config, out_bias=False), settings)


def _qwen3_config(settings: Settings) -> EncoderConfig:
    config = _llama_config({"head_dim": 128, **_QWEN, **settings})
    return _with_qwen_windows(replace(config, norms_heads=True), settings)


def _with_qwen_windows(config: EncoderConfig, settings: Settings) -> EncoderConfig:
    reach = settings.get("sliding_window", 4096) if settings.get("use_sliding_window") else None
    first = settings.get("max_window_layers", 28)
    kinds = _layer_kinds(settings, len(config.layers), lambda number: number >= first)
    return _with_windows(config, (_causal(reach) if kind == _SLIDING else _CAUSAL for kind in kinds))


def _smollm3_config(settings: Settings) -> EncoderConfig:
    own = {
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        **settings,
        "rope_theta": settings.get("rope_theta", 2_000_000.0),
    }
    config = _llama_config(own)
    count, every = len(config.layers), settings.get("no_rope_layer_interval", 4)
    rotates = settings.get("no_rope_layers") or [(number + 1) % every != 0 for number in range(count)]
    reach = settings.get("sliding_window") if settings.get("use_sliding_window") else None
    kinds = _layer_kinds(settings, count, lambda number: not rotates[number])
    config = _with_windows(config, (_causal(reach) if kind == _SLIDING else _CAUSAL for kind in kinds))
    return replace(
        config,
        layers=tuple(
            layer if does else replace(layer, rotary=None)
            for layer, does in zip(config.layers, rotates, strict=False)  # the list may be longer
        ),
    )


def _gemma3_config(settings: Settings) -> EncoderConfig:
    own = {
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        **settings,
        "hidden_act": settings.get("hidden_activation", "gelu_pytorch_tanh"),
    }
    config = _llama_config(own)
    every = settings.get("sliding_window_pattern", 6)
    kinds = _layer_kinds(settings, len(config.layers), lambda number: (number + 1) % every != 0)
    reach = settings.get("sliding_window", 4096)
    windows = {_FULL: _CAUSAL, _SLIDING: _causal(reach)}
    if settings.get("use_bidirectional_attention"):
        windows = {_FULL: WHOLE_TEXT, _SLIDING: Window.around(reach // 2)}
    return replace(
        config,
        norm="rms from one",
        norms_outputs=True,
        norms_heads=True,
        embedding_scale=config.width**0.5,
        score_scale=(config.head_width / settings.get("query_pre_attn_scalar", 256)) ** 0.5,
        layers=tuple(
            LayerConfig(window=windows[kind], rotary=_gemma3_rotary(settings, kind)) for kind in kinds
        ),
    )


def _gemma3_rotary(settings: Settings, kind: str) -> Rotary | None:
    """Layers with a window have a base of their own, and are never scaled."""
    parameters = (settings.get("rope_parameters") or {}).get(kind) or {}
    if kind == _SLIDING:
        base = settings.get("rope_local_base_freq", 10_000.0)
    else:
        base = settings.get("rope_theta", 1_000_000.0)
        parameters = parameters or settings.get("rope_scaling") or {}
    return rotary_of({"rope_theta": base, **parameters})


def _eurobert_config(settings: Settings) -> EncoderConfig:
    """Llama's layers with attention in both directions."""
    own = {
        "vocab_size": 128_256,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "rms_norm_eps": 1e-5,
        **settings,
    }
    config = _llama_config(own)
    return _with_windows(replace(config, reads_last=False), [WHOLE_TEXT] * len(config.layers))


def _rotary(settings: Settings) -> Rotary | None:
    """One rotary embedding for all layers; older configs have ``rope_theta`` and ``rope_scaling`` of their own."""
    parameters = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    return rotary_of({"rope_theta": settings.get("rope_theta", 10_000.0), **parameters})


def _is_known(settings: Settings) -> bool:
    """Whether its rotary embedding and the attention of its layers are ones that we know."""
    return _rotary(settings) is not None and _has_known_layers(settings)


def _has_known_layers(settings: Settings) -> bool:
    kinds = settings.get("layer_types") or []
    return set(kinds) <= {_SLIDING, _FULL} and len(kinds) in (
        0,
        settings.get("num_hidden_layers", len(kinds)),
    )


def _is_known_gemma3(settings: Settings) -> bool:
    """Whether scores and logits are not capped, and both rotary embeddings and all layers are known."""
    capped = ("attn_logit_softcapping", "final_logit_softcapping")
    return (
        not any(settings.get(name) for name in capped)
        and _has_known_layers(settings)
        and all(_gemma3_rotary(settings, kind) for kind in (_SLIDING, _FULL))
    )


def _is_known_eurobert(settings: Settings) -> bool:
    return _rotary(settings) is not None and settings.get("classifier_pooling", "late") in _POOLINGS


def _score_head(width: int) -> Callable[[Settings], HeadConfig]:
    """One linear layer without a bias on the last token; ``width`` is the family's default."""

    def head(settings: Settings) -> HeadConfig:
        return HeadConfig(
            width=settings.get("hidden_size", width),
            num_labels=num_labels_in(settings),
            activation=None,
            dropout=0.0,
            output_bias=False,
        )

    return head


_POOLINGS: Mapping[str, Pooling] = {"bos": "first", "mean": "mean", "late": "late mean"}


def _eurobert_head(settings: Settings) -> HeadConfig:
    return HeadConfig(
        width=settings.get("hidden_size", 768),
        num_labels=num_labels_in(settings),
        activation="gelu",
        dropout=0.0,
        pooling=_POOLINGS[settings.get("classifier_pooling", "late")],
    )


_LLAMA = {
    "embeddings.word": "embed_tokens",
    "layers.{}.attention_norm": "layers.{}.input_layernorm",
    "layers.{}.query": "layers.{}.self_attn.q_proj",
    "layers.{}.key": "layers.{}.self_attn.k_proj",
    "layers.{}.value": "layers.{}.self_attn.v_proj",
    "layers.{}.query_norm": "layers.{}.self_attn.q_norm",
    "layers.{}.key_norm": "layers.{}.self_attn.k_norm",
    "layers.{}.out_proj": "layers.{}.self_attn.o_proj",
    "layers.{}.gate_proj": "layers.{}.mlp.gate_proj",
    "layers.{}.up_proj": "layers.{}.mlp.up_proj",
    "layers.{}.down_proj": "layers.{}.mlp.down_proj",
    "layers.{}.mlp_norm": "layers.{}.post_attention_layernorm",
    "final_norm": "norm",
}
_GEMMA3 = {
    **_LLAMA,
    "layers.{}.attention_out_norm": "layers.{}.post_attention_layernorm",
    "layers.{}.mlp_norm": "layers.{}.pre_feedforward_layernorm",
    "layers.{}.mlp_out_norm": "layers.{}.post_feedforward_layernorm",
}


def _decoder(
    config: Callable[[Settings], EncoderConfig],
    width: int = 4096,
    *,
    encoder: Mapping[str, str] = _LLAMA,
    is_known: Callable[[Settings], bool] = _is_known,
) -> Family:
    return Family(
        prefix="model",
        encoder_config=config,
        head_config=_score_head(width),
        encoder=encoder,
        head={"output": "score"},
        is_known=is_known,
    )


LLAMA_FAMILIES: Mapping[str, Family] = {
    "llama": _decoder(_llama_config),
    "mistral": _decoder(_mistral_config),
    "qwen2": _decoder(_qwen2_config),
    "qwen3": _decoder(_qwen3_config),
    "smollm3": _decoder(_smollm3_config, 2048),
    "gemma3_text": _decoder(_gemma3_config, 2304, encoder=_GEMMA3, is_known=_is_known_gemma3),
    "eurobert": Family(
        prefix="model",
        encoder_config=_eurobert_config,
        head_config=_eurobert_head,
        encoder=_LLAMA,
        head={"dense": "dense", "output": "classifier"},
        is_known=_is_known_eurobert,
    ),
}
"""Families by ``model_type``."""
