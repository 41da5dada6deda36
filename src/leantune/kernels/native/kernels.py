"""An encoder in bf16 on a CPU, computed by the C library.

T packed tokens, S texts, D model width, F inner width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from leantune.adalora.layer import AdaLoraLinear
from leantune.adalora.multi_lora import MultiLoraLinear
from leantune.kernels.disentangled import disentangled_attention
from leantune.kernels.interface import EmbeddingsLike, Kernels, LayerLike, Linear, frozen
from leantune.kernels.native import attention, dense, rows
from leantune.kernels.native.dense import Dense
from leantune.kernels.native.layer import Int8Layer, int8_layers
from leantune.kernels.native.library import kernels
from leantune.kernels.native.linear import linear, without_bias
from leantune.kernels.native.multi_lora import add_updates
from leantune.kernels.native.weights import PackedLayer, PackedWeight
from leantune.kernels.reference import Reference, activated, rotated_heads
from leantune.packing.dropout import PooledDropout
from leantune.packing.layout import Layout


def why_not_native(embeddings: EmbeddingsLike, layers: Sequence[LayerLike]) -> str:
    """Why the native kernels cannot compute this encoder, which is in bf16 on a CPU; empty if they can."""
    if any(parameter.requires_grad for parameter in _frozen_parameters(embeddings, layers)):
        return "the encoder's weights are trained"
    if any(layer.head_width % attention.WIDTH_MULTIPLE for layer in layers):
        return f"the head width {layers[0].head_width} is not a multiple of {attention.WIDTH_MULTIPLE}"
    for layer in layers:
        if not _is_native(layer):
            return "the kernels do not know RMSNorm, shared heads of key and value, or causal attention"
        for each in (*layer.projections, layer.out_proj, *layer.up_projections, layer.down_proj):
            widths = frozen(each).in_features, frozen(each).out_features
            if any(width % rows.WIDTH_MULTIPLE for width in widths):
                return f"the layer size {widths[0]} x {widths[1]} is not a multiple of {rows.WIDTH_MULTIPLE}"
    return ""


def _is_native(layer: LayerLike) -> bool:
    """Whether the kernels know the form of this layer."""
    others = layer.query_norm, layer.key_norm, layer.attention_out_norm, layer.mlp_out_norm
    return (
        isinstance(layer.mlp_norm, nn.LayerNorm)
        and all(isinstance(norm, nn.Identity) for norm in others)
        and len(layer.up_projections) == 1
        and layer.num_key_value_heads == layer.num_heads
        and layer.score_scale == 1
        and layer.window.before == layer.window.after
    )


def why_no_int8() -> str:
    """Why this machine cannot compute products in int8; empty if it can."""
    library = kernels().library
    if library is None:
        return f"no native kernels: {kernels().reason}"
    return "" if library.multiplies_bytes() else "the processor has neither VNNI nor AMX"


class Native(Kernels):
    """Kernels of the C library; adapters are trained, the encoder's weights are frozen.

    Args:
        train_int8: compute products with frozen weights in int8 when a graph is built.
        predict_int8: compute them in int8 when no graph is built.
    """

    mixes_lengths = True  # attention is computed text by text

    def __init__(self, *, train_int8: bool, predict_int8: bool) -> None:
        library = kernels().library
        assert library is not None
        self.name = f"native: {library.level}"
        self.train_int8, self.predict_int8 = train_int8, predict_int8
        self._training = Products(quantized=train_int8, in_blocks=False)
        self._prediction = Products(quantized=predict_int8, in_blocks=not predict_int8 and dense.is_fast())

    def prepare(self, layer: LayerLike) -> PackedLayer:
        """Pack the frozen weights of layers with the same input; derived forms are made when first needed."""
        return PackedLayer.of(layer)

    def embed(
        self, embeddings: EmbeddingsLike, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor
    ) -> Tensor:
        """``(T,)`` int64 each to ``(T, D)``."""
        norm = embeddings.norm
        if not isinstance(norm, nn.LayerNorm) or norm.bias is None:  # the kernel needs a bias
            return Reference().embed(embeddings, input_ids, token_type_ids, position_ids)
        dropped: Tensor = embeddings.dropout(rows.embed(embeddings, input_ids, token_type_ids, position_ids))
        return dropped

    def layers(
        self, layers: Sequence[LayerLike], x_TD: Tensor, layout: Layout, *, only_first: bool
    ) -> Tensor:
        """``(T, D)`` to ``(T, D)`` or ``(S, D)``; consecutive int8 layers form one graph node."""
        together: list[Int8Layer] = []
        for layer in layers:
            narrows = only_first and layer is layers[-1]
            if self.train_int8 and is_one_call(layer):
                together.append(Int8Layer.of(layer, layout, only_first=narrows))
                continue
            x_TD, together = int8_layers(x_TD, together), []
            x_TD = encoder_layer(layer, x_TD, layout, only_first=narrows, products=self._training)
        return int8_layers(x_TD, together)

    def layers_without_gradients(
        self, layers: Sequence[LayerLike], x_TD: Tensor, layout: Layout, *, only_first: bool
    ) -> Tensor:
        """Compute the layers without a graph, and keep nothing for a backward pass."""
        for layer in layers:
            narrows = only_first and layer is layers[-1]
            if self.predict_int8 and is_one_call(layer):
                x_TD = int8_layers(x_TD, [Int8Layer.of(layer, layout, only_first=narrows)])
                continue
            x_TD = encoder_layer(layer, x_TD, layout, only_first=narrows, products=self._prediction)
        return x_TD


@dataclass(frozen=True, slots=True)
class Products:
    """How products with frozen weights are computed in a pass through the encoder."""

    quantized: bool
    """Compute in int8."""
    in_blocks: bool
    """Compute in bf16 with `dense`, which keeps nothing for a backward pass; otherwise torch computes."""


def encoder_layer(
    layer: LayerLike, x_TD: Tensor, layout: Layout, *, only_first: bool, products: Products
) -> Tensor:
    """One layer of any family, like `reference.encoder_layer`, with one kernel after the other."""
    packed: PackedLayer = layer.prepared
    normed = layer.attention_norm(x_TD) if layer.norm_first else x_TD
    qkv = _linear(normed, packed.projections, layer.projections, products)
    if layout.relative is None:
        heads = attention.attention(qkv, layer, layout, only_first=only_first)
    else:
        q, k, v = rotated_heads(qkv, layer, layout)
        heads = disentangled_attention(q, k, v, layer, layout, only_first=only_first).flatten(1)
    if only_first:
        heads, x_TD = heads[layout.first_tokens], x_TD[layout.first_tokens]
    if layer.norm_first:
        attended = _linear(heads, packed.out_proj, (layer.out_proj,), products)
        x_TD = x_TD + layer.out_dropout(attended)
        inner = _activate(layer.mlp_norm(x_TD), layer, products)
        out: Tensor = x_TD + layer.down_dropout(
            _linear(inner, packed.down_proj, (layer.down_proj,), products)
        )
        return out
    assert isinstance(layer.attention_norm, nn.LayerNorm)
    x_TD = _add_and_norm(
        heads, packed.out_proj, layer.out_proj, layer.out_dropout, x_TD, layer.attention_norm, products
    )
    assert isinstance(layer.mlp_norm, nn.LayerNorm)
    up, down = Dense(packed.up_proj, layer.up_projections), Dense(packed.down_proj, (layer.down_proj,))
    if packed.is_plain and products.in_blocks and layer.down_dropout.current_p == 0:
        return dense.feed_forward(x_TD, up, down, layer.mlp_norm)
    inner = _activate(x_TD, layer, products)
    return _add_and_norm(
        inner, packed.down_proj, layer.down_proj, layer.down_dropout, x_TD, layer.mlp_norm, products
    )


def _linear(x_TD: Tensor, weight: PackedWeight, layers: Sequence[Linear], products: Products) -> Tensor:
    if products.in_blocks and not any(isinstance(layer, AdaLoraLinear) for layer in layers):
        return dense.dense(x_TD, Dense(weight, layers))
    return add_updates(linear(x_TD, weight, layers, quantized=products.quantized), x_TD, layers)


def _without_bias(
    x_TD: Tensor, weight: PackedWeight, layer: Linear, products: Products
) -> tuple[Tensor, Tensor | None]:
    """The output of `_linear` without the bias, and the bias; or the output with the bias, and None."""
    if isinstance(layer, MultiLoraLinear) and layer.has_update:
        return _linear(x_TD, weight, (layer,), products), None
    return without_bias(x_TD, weight, (layer,), quantized=products.quantized)


def _activate(x_TD: Tensor, layer: LayerLike, products: Products) -> Tensor:
    """The first half of the feed-forward block: ``(T, D)`` to ``(T, F)``."""
    up_proj = layer.prepared.up_proj
    if layer.is_gated or layer.activation != "gelu":
        return activated([_linear(x_TD, up_proj, layer.up_projections, products)], layer)
    return rows.gelu(*_without_bias(x_TD, up_proj, layer.up_projections[0], products))


def _add_and_norm(
    x_TF: Tensor,
    weight: PackedWeight,
    layer: Linear,
    dropout: PooledDropout,
    residual_TD: Tensor,
    layer_norm: nn.LayerNorm,
    products: Products,
) -> Tensor:
    """``LayerNorm(dropout(layer(x)) + residual)``: ``(T, F)`` and ``(T, D)`` to ``(T, D)``."""
    if products.in_blocks and not isinstance(layer, AdaLoraLinear) and dropout.current_p == 0:
        return dense.dense_and_norm(x_TF, Dense(weight, (layer,)), residual_TD, layer_norm)
    x_TD, bias = _without_bias(x_TF, weight, layer, products)
    return rows.add_and_norm(x_TD, bias, dropout, residual_TD, layer_norm)


def is_one_call(layer: LayerLike) -> bool:
    """Whether `int8_layers` supports the form of this layer; determined when it was prepared."""
    packed: PackedLayer = layer.prepared
    return packed.is_one_call


def _frozen_parameters(embeddings: EmbeddingsLike, layers: Sequence[LayerLike]) -> list[nn.Parameter]:
    tables = (embeddings.word, embeddings.position, embeddings.token_type, embeddings.norm)
    modules: list[nn.Module] = [module for module in tables if module is not None]
    for layer in layers:
        modules += [layer.attention_norm, layer.mlp_norm]
        modules += map(frozen, (*layer.projections, layer.out_proj, *layer.up_projections, layer.down_proj))
    return [parameter for module in modules for parameter in module.parameters()]
