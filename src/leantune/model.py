"""The classifier that is trained: pretrained encoder + adapters + head, on packed batches.

The modules are those of transformers' own ``*ForSequenceClassification``; `PackedClassifier` drives
them over packed tokens, or over a padded block for architectures whose attention cannot be packed.

T packed tokens, S texts, D model width, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leantune.adalora.attention import pack_layers
from leantune.adalora.budget import ParameterPlan, Target, plan_parameters
from leantune.adalora.layer import AdaLoraLinear
from leantune.adalora.method import METHODS
from leantune.adalora.prune import adapted_layers
from leantune.architectures import Architecture, architecture_of, head_modules, output_layer, target_layers
from leantune.errors import UsageError
from leantune.packing import attention
from leantune.packing.batch import PackedBatch
from leantune.packing.dropout import DropoutStream, PooledDropout, replace_dropout
from leantune.packing.native.embedding import replace_embeddings
from leantune.packing.native.gelu import replace_gelu
from leantune.packing.native.library import serves
from leantune.packing.native.residual import replace_residual_blocks
from leantune.packing.plan import TOKEN_MULTIPLE, AttentionPlan
from leantune.pretrained import Skeleton, set_encoder_dtype

HEADS = ("full", "linear")
"""Values of the recipe key ``head``: train all head modules, or only the output layer."""


_FIRST_TOKENS: ContextVar[Tensor] = ContextVar("first tokens of the texts of a batch")
"""On its way from `PackedClassifier.pool` past transformers' layers to the last one, in one thread each."""


class PackedClassifier(nn.Module):
    """A transformers sequence classifier over packed batches.

    Args:
        model: the transformers classifier; frozen parameters may be of a smaller type.
        stream: the generator of all dropout masks.

    Raises:
        UsageError: if the attention of the model cannot be replaced.
    """

    def __init__(self, model: Any, stream: DropoutStream) -> None:
        super().__init__()
        self.model = model
        self.stream = stream
        self.architecture: Architecture = architecture_of(model.config)
        replace_dropout(model, stream)
        if self.architecture.replace_attention is not None:
            self.architecture.replace_attention(model)
        elif self.architecture.is_packed:
            _interface_attention(model)
        if self.architecture.embeddings:
            replace_embeddings(model, self.architecture.embeddings)
        replace_gelu(model, self._in_every_layer(self.architecture.gelu_layers))
        pack_layers(model, self._in_every_layer(self.architecture.layers))
        replace_residual_blocks(model, self._in_every_layer(self.architecture.residual_blocks))
        for name in self.architecture.head_in_encoder:
            model.get_submodule(name).register_forward_pre_hook(_in_float)
        if not self.architecture.is_packed:
            for head in head_modules(model).values():  # the encoder's type may be a smaller one
                head.register_forward_pre_hook(_in_float)
        self._last_attention = self._narrow_last_layer()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        attention.register()  # the process that unpickles may have built no classifier

    @property
    def config(self) -> Any:
        """The transformers config."""
        return self.model.config

    @property
    def position_offset(self) -> int:
        """Position id of a text's first token."""
        return self.architecture.position_offset(self.model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def mixes_lengths(self) -> bool:
        """Whether texts of any lengths make as good a batch as texts of one: native attention pads none."""
        return self.architecture.is_packed and serves(self.model.get_input_embeddings().weight)

    def layers(self) -> dict[str, AdaLoraLinear]:
        """The adapted layers by their name in the transformers model."""
        return adapted_layers(self.model)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by their name in the transformers model."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def num_trainable(self) -> int:
        """Trainable parameters now."""
        return sum(p.numel() for p in self.trainable().values())

    def forward(self, batch: PackedBatch) -> Tensor:
        """Logits ``(S, C)`` fp32, in the order of ``batch.rows``."""
        if not self.architecture.is_packed:
            return self._padded_logits(batch)
        return self.classify(self.pool(batch))

    def logits_and_head_inputs(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """`forward`, and what the head's output layer gets for every text ``(S, D)``; where it classifies tokens and
        the head means their logits (EuroBERT), the mean of it, which has the same logits.
        """
        seen: list[Tensor] = []
        _, layer = output_layer(self.model)
        hook = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            logits = self(batch)
        finally:
            hook.remove()
        return logits, _of_texts(seen[0], batch)

    def pool(self, batch: PackedBatch) -> Tensor:
        """One vector a text ``(S, D)``, in the encoder's type."""
        assert self.architecture.pool is not None
        plan = AttentionPlan.of(batch, self.stream, self._last_attention)
        _FIRST_TOKENS.set(plan.first_tokens)
        spare = -batch.num_tokens % TOKEN_MULTIPLE if self.device.type == "cpu" else 0
        inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
        if self.architecture.has_token_types:  # of which a tokenizer may know more than the encoder
            inputs["token_type_ids"] = batch.token_type_ids.clamp(max=self.config.type_vocab_size - 1)
        padded = {name: F.pad(ids, (0, spare))[None] for name, ids in inputs.items()}
        hidden = self.architecture.encode(self.model, padded, plan)[0]
        if self._last_attention is not None:
            return hidden  # only first tokens came out
        return self.architecture.pool(hidden[: batch.num_tokens], batch, self.config)

    def classify(self, pooled_SD: Tensor) -> Tensor:
        """The model's own head, in fp32: ``(S, D)`` to ``(S, C)``."""
        assert self.architecture.classify is not None
        return self.architecture.classify(self.model, pooled_SD.float()).float()

    def _in_every_layer(self, names: tuple[str, ...]) -> list[str]:
        layers = range(self.config.num_hidden_layers) if names else ()
        return [name.format(layer=layer) for layer in layers for name in names]

    def _narrow_last_layer(self) -> nn.Module | None:
        """Let only first tokens pass the last layer's attention: the rest of that layer, three quarters
        of its work, is then done for one token a text. Returns that attention.
        """
        narrowing = self.architecture.narrowing
        if narrowing is None:
            return None
        last = self.config.num_hidden_layers - 1
        if self.architecture.layers:  # whose attention goes on with first tokens itself
            name = f"{self._in_every_layer(self.architecture.layers)[-1]}.attention"
        else:
            name = narrowing.attention.format(last=last)
            if narrowing.behind is not None:
                behind = self.model.get_submodule(narrowing.behind.format(last=last))
                behind.register_forward_pre_hook(_only_first_tokens)
        last_attention: nn.Module = self.model.get_submodule(name)
        return last_attention

    def _padded_logits(self, batch: PackedBatch) -> Tensor:
        lengths = batch.cu_seqlens.diff().long()
        place = torch.arange(batch.max_seqlen, device=self.device)
        is_real = place < lengths[:, None]
        index = batch.cu_seqlens[:-1, None].long() + torch.where(is_real, place, 0)
        input_ids = torch.where(is_real, batch.input_ids[index], self.config.pad_token_id or 0)
        types = {}
        if getattr(self.config, "type_vocab_size", 0) > 1:
            types["token_type_ids"] = torch.where(is_real, batch.token_type_ids[index], 0)
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=is_real.long(), **types).logits
        return logits.float()


def _of_texts(inputs: Tensor, batch: PackedBatch) -> Tensor:
    """``(S, D)`` of ``(S, D)``, or of ``(S, L, D)`` with padding behind each text."""
    if inputs.ndim == 2:
        return inputs
    place = torch.arange(inputs.shape[1], device=inputs.device)
    is_real = place < batch.cu_seqlens.diff()[:, None]
    return (inputs * is_real[..., None]).sum(1) / is_real.sum(1, keepdim=True)


def _interface_attention(model: Any) -> None:
    """Give ``model`` packed attention by transformers' ``AttentionInterface``."""
    attention.register()
    model.set_attn_implementation(attention.NAME)
    if model.config._attn_implementation != attention.NAME:  # transformers only warns
        raise UsageError(
            f"this version of transformers gives {model.config.model_type} no other attention than its own, "
            "and texts of a batch would meet in it: expected transformers 5.9 or later"
        )


def _only_first_tokens(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    first_tokens = _FIRST_TOKENS.get()
    return tuple(x[:, first_tokens] for x in args)


def _in_float(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in args)


def plan_model(
    shell: Skeleton,
    *,
    targets: str,
    head: str,
    limit: int | None,
    init_rank: int | None,
    target_rank: int | None,
    method: str = "adalora",
    missing_modules: tuple[str, ...] = (),
) -> ParameterPlan:
    """The ledger for a model of this shape; see `plan_parameters`.

    Args:
        shell: the model without weights.
        targets: which layers get adapters; see `target_layers`.
        head: ``full`` or ``linear``.
        limit: ``max_trainable_params``.
        init_rank: triplets per layer at the start, or None.
        target_rank: mean triplets per layer at the end, or None.
        method: ``adalora`` or ``lora``.
        missing_modules: encoder modules that the checkpoint lacks and the head uses: they count.

    Raises:
        UsageError: if nothing fits, ``targets`` names no layer, or the head has no linear output layer.
    """
    try:
        layers = target_layers(shell.model, targets)
        counts = {
            name: sum(p.numel() for _, p in head_parameters(shell.model, name, missing_modules))
            for name in HEADS
        }
    except ValueError as error:
        raise UsageError(str(error)) from error
    trains_e = METHODS[method].trains_e
    return plan_parameters(
        [Target(name, layer.in_features, layer.out_features, trains_e) for name, layer in layers.items()],
        method=METHODS[method],
        head=counts[head],
        base=shell.num_base_parameters,
        limit=limit,
        init_rank=init_rank,
        target_rank=target_rank,
        smaller_heads={name: count for name, count in counts.items() if count < counts[head]},
    )


def head_parameters(
    model: Any, head: str, missing_modules: tuple[str, ...] = ()
) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that training the head means."""
    if head == "linear":
        name, layer = output_layer(model)
        chosen: dict[str, nn.Module] = {name: layer}
    else:
        chosen = head_modules(model)
    chosen |= {name: model.get_submodule(name) for name in missing_modules}
    for name, module in chosen.items():
        for sub, parameter in module.named_parameters():
            yield f"{name}.{sub}", parameter


def build_trainable(
    model: Any,
    plan: ParameterPlan,
    *,
    alpha: float,
    lora_dropout: float,
    head: str,
    compute_dtype: torch.dtype,
    seed: int,
    adapter_init: str = "lora",
    missing_modules: tuple[str, ...] = (),
) -> PackedClassifier:
    """Freeze the encoder in ``compute_dtype``, put in adapters and make the head trainable in fp32.

    Args:
        model: from `load_pretrained`.
        plan: its ranks and targets.
        alpha: scale of the update is ``alpha / plan.init_rank``.
        lora_dropout: on the input of the adapters.
        head: ``full`` or ``linear``.
        compute_dtype: type of the frozen weights and of the encoder's activations.
        seed: of the adapters' initial values and of all dropout masks.
        adapter_init: how they are drawn: one of ``plan.method.draws``.
        missing_modules: see `missing_head_modules`.
    """
    stream = DropoutStream(seed)
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    set_encoder_dtype(model, compute_dtype)
    for _, parameter in head_parameters(model, head, missing_modules):
        parameter.requires_grad_(True)
    classifier = PackedClassifier(model, stream)
    for target in plan.targets:
        layer = model.get_submodule(target.name)
        assert isinstance(layer, nn.Linear)
        adapted = AdaLoraLinear(
            layer,
            plan.init_rank,
            scaling=alpha / plan.init_rank,
            dropout=PooledDropout(lora_dropout, stream),
            generator=generator,
            draw=plan.method.draws[adapter_init],
            trains_e=plan.method.trains_e,
        )
        model.set_submodule(target.name, adapted)
    return classifier
