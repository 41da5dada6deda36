"""Changes of a run folder: what a stranger, a broken disk or an editor makes of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

Change = Callable[[Path], None]


def describe_file(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def change_json(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**value, **changes}), "utf-8")


def rehash(run: Path) -> None:
    """Say in the record that what is there is what the run wrote, as who changes files does."""
    record = json.loads((run / "record.json").read_text("utf-8"))
    for part, artefact in record["artefacts"].items():
        artefact["files"] = {name: describe_file(run / part / name) for name in artefact["files"]}
    (run / "record.json").write_text(json.dumps(record), "utf-8")


def in_config(**changes: Any) -> Change:
    return lambda run: change_json(run / "merged" / "config.json", **changes)


def in_adapter(**changes: Any) -> Change:
    return lambda run: change_json(run / "adapter" / "adapter_config.json", **changes)


def text_of(name: str, content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content
    return lambda run: (run / name).write_bytes(data) and None


def tensors(name: str, letter: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def apply(run: Path) -> None:
        path = run / name
        values = safetensors.torch.load_file(path)
        key = next(key for key in sorted(values) if letter in key and values[key].numel())
        values[key] = change(values[key]).contiguous()
        safetensors.torch.save_file(values, path, metadata={"format": "pt"})

    return apply


MERGED = {
    "id2label a list": in_config(id2label=["a", "b", "c"]),
    "id2label null": in_config(id2label=None),
    "id2label with other keys": in_config(id2label={"x": "a", "y": "b", "z": "c"}),
    "id2label of lists": in_config(id2label={"0": [], "1": [], "2": []}),
    "no heads": in_config(num_attention_heads=0),
    "heads that do not divide": in_config(num_attention_heads=5),
    "heads a text": in_config(num_attention_heads="4"),
    "negative layers": in_config(num_hidden_layers=-1),
    "layers a list": in_config(num_hidden_layers=[1]),
    "width null": in_config(hidden_size=None),
    "huge width": in_config(hidden_size=10**12),
    "unknown activation": in_config(hidden_act="boom"),
    "activation a number": in_config(hidden_act=3),
    "a decoder": in_config(model_type="gpt2"),
    "another decoder": in_config(model_type="llama"),
    "no model_type": in_config(model_type=""),
    "model_type a list": in_config(model_type=["bert"]),
    "unknown model_type": in_config(model_type="no-such-thing"),
    "vocabulary of none": in_config(vocab_size=0),
    "few positions": in_config(max_position_embeddings=4),
    "pad beyond the vocabulary": in_config(pad_token_id=10**9),
    "deep nesting": text_of("merged/config.json", "[" * 100_000),
    "a list": text_of("merged/config.json", "[]"),
    "nothing": text_of("merged/config.json", ""),
    "not UTF-8": text_of("merged/config.json", b"\xff\xfe{}"),
    "code": in_config(auto_map={"AutoConfig": "evil.Config"}),
    "tokenizer empty": text_of("merged/tokenizer.json", "{}"),
    "tokenizer a list": text_of("merged/tokenizer.json", "[]"),
    "tokenizer nested": text_of("merged/tokenizer.json", '{"model":' * 50_000),
    "tokenizer config a list": text_of("merged/tokenizer_config.json", "[]"),
    "tokenizer config nothing": text_of("merged/tokenizer_config.json", ""),
    "weights cut": text_of("merged/model.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
    "weights nothing": text_of("merged/model.safetensors", b""),
    "weights of another shape": tensors("merged/model.safetensors", "query", lambda t: t[:-1]),
    "weights of whole numbers": tensors("merged/model.safetensors", "query.weight", lambda t: t[:, :3].long()),
}  # fmt: skip
ADAPTER = {
    "alpha not a number": in_adapter(lora_alpha=float("nan")),
    "alpha infinite": in_adapter(lora_alpha=float("inf")),
    "alpha a list": in_adapter(lora_alpha=[1]),
    "alpha true": in_adapter(lora_alpha=True),
    "rank zero": in_adapter(init_r=0),
    "another kind": in_adapter(peft_type="PREFIX_TUNING"),
    "kind a list": in_adapter(peft_type=[]),
    "start a list": in_adapter(init_lora_weights=[]),
    "modules a number": in_adapter(modules_to_save=3),
    "config a list": text_of("adapter/adapter_config.json", "[]"),
    "config nested": text_of("adapter/adapter_config.json", '{"a":' * 100_000),
    "config not UTF-8": text_of("adapter/adapter_config.json", b"\xff"),
    "A of one dimension": tensors("adapter/adapter_model.safetensors", "lora_A", torch.flatten),
    "A of booleans": tensors("adapter/adapter_model.safetensors", "lora_A", torch.Tensor.bool),
    "A of another rank": tensors("adapter/adapter_model.safetensors", "lora_A", lambda t: torch.cat([t, t])),
    "B of another rank": tensors("adapter/adapter_model.safetensors", "lora_B", lambda t: torch.cat([t, t], 1)),
    "E of two columns": tensors("adapter/adapter_model.safetensors", "lora_E", lambda t: torch.cat([t, t], 1)),
    "A not a number": tensors("adapter/adapter_model.safetensors", "lora_A", lambda t: t * float("nan")),
    "weights nothing": text_of("adapter/adapter_model.safetensors", b""),
}  # fmt: skip


STATES = {
    "empty": b"{}",
    "a list": b"[]",
    "null": b"null",
    "nested": b'{"a":' * 100_000,
    "lists for objects": b'{"counters": [], "ranks": [], "allocator": [], "dropout": [], "scaler": [], '
    b'"evaluations": {}, "history_bytes": "x", "elapsed_s": []}',
}


def cut(text: str) -> bytes:
    return text[: len(text) // 2].encode()


def not_utf8(text: str) -> bytes:
    return text.replace('"labels"', '"lab\xff"').encode("latin-1", "replace")


def nested(text: str) -> bytes:
    return b"[" * 100_000


def nested_inside(text: str) -> bytes:
    return text.replace('"command":', '"x":' + "[" * 50_000 + "]" * 50_000 + ',"command":', 1).encode()


def long_number(text: str) -> bytes:
    return text.replace('"processes": 1', '"processes": ' + "1" * 5000, 1).encode()


BROKEN: dict[str, Callable[[str], bytes]] = {
    "cut": cut,
    "not UTF-8": not_utf8,
    "nested": nested,
    "nested inside": nested_inside,
    "a long number": long_number,
    "nothing": lambda text: b"",
    "a list": lambda text: b"[]",
    "null": lambda text: b"null",
    "a number": lambda text: b"1",
    "zeros": lambda text: b"\0" * 100,
    "empty": lambda text: b"{}",
    "two marks": lambda text: b"\xef\xbb\xbf{",
}
"""Ways to damage a record, from its text."""
