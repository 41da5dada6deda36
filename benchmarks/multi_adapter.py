"""Many classifiers over one encoder in one batch: ``python -m benchmarks.multi_adapter``.

Throughput of one merged classifier against batches whose texts are spread over 1, 8, 64 and 1,000 classifiers with
different numbers of labels, on the same texts, alternating; and the memory that 1,000 take beyond the encoder. Adapters
are LoRA in all linear layers with the ranks that a limit of 100,000 numbers leaves, and random values: what is measured
does not depend on them. Each has its own head, which in RoBERTa is a layer of 768 x 768 in fp32. Prints a table and
writes JSON and Markdown into ``benchmarks/results/``.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Benchmark, Result, measured_by, page, percent, table, timed, words
from leantune.adalora.adapter_file import AdapterFile
from leantune.adalora.triplets import Triplets
from leantune.model.build import packed_from, skeleton
from leantune.model.classifier import PackedClassifier
from leantune.model.multi_adapter import MultiAdapterClassifier
from leantune.packing.batch import PackedBatch, pack
from leantune.system import hardware

BENCHMARK = Benchmark("multi_adapter", __doc__)


def sizes(width: int, layers: int) -> dict[str, int]:
    """What BERT and RoBERTa have in common in their ``config.json``."""
    common = {"num_attention_heads": 12, "intermediate_size": 4 * width}
    return {"hidden_size": width, "num_hidden_layers": layers, **common}


ROBERTA = {"max_position_embeddings": 514, "vocab_size": 50265, "type_vocab_size": 1}
SHAPES = {
    "minilm": {"model_type": "bert", **sizes(384, 6)},
    "roberta-base": {"model_type": "roberta", **sizes(768, 12), **ROBERTA},
}
LIMIT = 100_000
"""Numbers of an adapter, without its head."""
COUNTS = (1, 8, 64, 1000)
LABELS = (2, 3, 5, 10, 50)
TOKENS = 55
"""In a text, on average."""


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--shapes", type=words, default=list(SHAPES))
    parser.add_argument("--texts", type=int, default=256, help="in a batch")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    result: dict[str, Any] = {**BENCHMARK.origin(), "shapes": {}}
    for name in options.shapes:
        result["shapes"][name] = measure(name, options.texts, options.rounds)
        BENCHMARK.publish(options.results, result, markdown_of(result))


def measure(name: str, num_texts: int, rounds: int) -> dict[str, Any]:
    """Seconds of a batch by one merged classifier and by several, medians, and bytes of all."""
    hardware.keep_to_allowed_cpus()
    generator = torch.Generator().manual_seed(0)
    merged = classifier_of(name, generator)
    merged.choose_kernels()
    base = classifier_of(name, generator)
    base.choose_kernels()
    multi = MultiAdapterClassifier(base)
    batch = batch_of(merged, num_texts)
    before = resident_bytes()

    def attach_all() -> list[Any]:
        adapters = (adapter_of(multi, LABELS[i % len(LABELS)], generator) for i in range(max(COUNTS)))
        return [multi.attach(adapter) for adapter in adapters]

    attached, seconds = timed(attach_all)
    added = resident_bytes() - before
    found: dict[str, Any] = {
        "texts": num_texts,
        "tokens": batch.num_tokens,
        "kernels": merged.encoder.kernels.name,
        "memory_of_1000_bytes": added,
        "bytes_of_one": attached[0].num_bytes,
        "attach_ms": 1000 * seconds / len(attached),
        "ratios": {},
    }

    def by_merged() -> None:
        with torch.inference_mode():
            merged(batch)

    for count in COUNTS:
        of_text = [attached[i % count] for i in range(num_texts)]
        found["ratios"][str(count)] = alternate(
            by_merged, lambda texts=of_text: multi.logits(batch, texts), rounds
        )
    return found


def alternate(one: Callable[[], Any], other: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Medians of both, and of their ratios in each round."""
    seconds = [(timed(one)[1], timed(other)[1]) for _ in range(rounds + 1)]
    first, second = zip(*seconds[1:], strict=True)  # the first round lays out weights
    return {
        "merged_s": median(first),
        "together_s": median(second),
        "throughput": median(a / b for a, b in zip(first, second, strict=True)),
    }


def classifier_of(name: str, generator: torch.Generator) -> PackedClassifier:
    """A random classifier of a shape in bf16."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(**SHAPES[name])
    shell = skeleton(config)
    weights: dict[str, Tensor] = {
        key: torch.randn(weight.shape, generator=generator) * 0.02
        for key, weight in shell.named_weights().items()
    }
    classifier = packed_from(config.to_dict(), weights)
    classifier.requires_grad_(False).eval()
    classifier.set_encoder_dtype(torch.bfloat16)
    return classifier


def adapter_of(multi: MultiAdapterClassifier, num_labels: int, generator: torch.Generator) -> AdapterFile:
    """A random LoRA in all linear layers, and a head."""
    linears = multi.linears
    rank = max(1, LIMIT // sum(layer.in_features + layer.out_features for layer in linears.values()))
    modules = {
        key: Triplets(
            A=torch.randn(rank, layer.in_features, generator=generator) * 0.02,
            E=torch.ones(rank, 1),
            B=torch.randn(layer.out_features, rank, generator=generator) * 0.02,
        )
        for key, layer in linears.items()
    }
    head = {key: weight.detach().clone() for key, weight in multi.base.head_weights("full").items()}
    output = multi.base.output_name
    width = head[f"{output}.weight"].shape[1]
    head[f"{output}.weight"] = torch.randn(num_labels, width, generator=generator) * 0.02
    head[f"{output}.bias"] = torch.zeros(num_labels)
    return AdapterFile(
        modules=modules,
        head=head,
        head_modules=(output,),
        base_model="",
        init_rank=rank,
        alpha=rank,
        config={},
    )


def batch_of(classifier: PackedClassifier, num_texts: int) -> PackedBatch:
    rng = np.random.default_rng(0)
    lengths = rng.integers(TOKENS // 2, TOKENS * 3 // 2, num_texts)
    tokens = [rng.integers(1000, 20_000, length).astype(np.int32) for length in lengths]
    return pack(tokens, np.arange(num_texts), position_offset=classifier.position_offset)


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def markdown_of(result: Result) -> str:
    lines = []
    for name, found in result["shapes"].items():
        merged = found["tokens"] / found["ratios"]["1"]["merged_s"]
        ratios = (percent(found["ratios"][str(count)]["throughput"], 0) for count in COUNTS)
        memory = f"{found['memory_of_1000_bytes'] / 1e9:.2f} GB"
        lines.append([name, f"{found['texts']}, {found['tokens']:,}", f"{merged:,.0f}", *ratios, memory])
    counts = ["1", "8", "64", "1,000 classifiers"]
    return page(
        "Many classifiers over one encoder",
        "Throughput of a batch whose texts are spread over several classifiers, against the same batch by one merged "
        f"classifier; medians of alternating rounds. Adapters: LoRA in all linear layers, {LIMIT:,} numbers at most. "
        f"{measured_by(result)}.",
        table(["encoder", "texts, tokens of a batch", "merged, tokens/s", *counts, "memory of 1,000"], lines),
    )


if __name__ == "__main__":
    main()
