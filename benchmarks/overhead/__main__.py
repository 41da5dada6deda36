"""What adaptive rank costs: ``python -m benchmarks.overhead``.

One process trains AdaLoRA and plain LoRA (``method=lora``) on the same rows, one step of each in turn,
and times the parts that only AdaLoRA has. Prints tables and writes JSON and Markdown into
``benchmarks/results/``. Exit code 1 if those parts cost more of a step than the limit: 2 % on a CPU,
3 % on a GPU.
"""

from __future__ import annotations

import sys

from benchmarks.harness import Benchmark, Result, measured_by, page, percent, table
from benchmarks.overhead.measure import BATCH_SIZE, measure, rows_needed
from benchmarks.speed.setting import setting
from leantune.system.hardware import pick_device
from leantune.system.memory import keep_freed_memory, use_huge_pages

BENCHMARK = Benchmark("overhead", __doc__)
LIMIT = {"cpu": 0.02, "cuda": 0.03}
"""Largest share of a step of RoBERTa-base that the parts may take."""


def main() -> int:
    parser = BENCHMARK.parser()
    parser.add_argument("--steps", type=int, default=20, help="steps before pruning, and after it")
    parser.add_argument("--only", default="", help="models to run, by a part of their names")
    options = parser.parse_args()
    keep_freed_memory()  # as the command line does
    use_huge_pages()
    result = {**BENCHMARK.origin(), "limit": LIMIT[pick_device().type], "models": {}}
    with setting(options.only) as found:
        rows = found.many_rows(rows_needed(options.steps) + BATCH_SIZE)
        for model in found.models:
            found.place.say(f"{model.name}: {2 * options.steps} steps of each on {found.data}")
            result["models"][model.name] = measure(model.folder, rows, found.place.folder, options.steps)
    BENCHMARK.publish(options.results, result, markdown_of(result))
    shares = [each["parts_share"] for name, each in result["models"].items() if "RoBERTa" in name]
    return int(any(share > result["limit"] for share in shares))


def markdown_of(result: Result) -> str:
    """The two tables, with machine and versions."""
    models = result["models"].items()
    parts = ("orthogonality", "importance", "allocation")
    return page(
        f"What adaptive rank costs, {result['date']}",
        f"{measured_by(result, 'torch', 'transformers')}. Ranks 11 to 8 on query and value, batches of {BATCH_SIZE}, "
        "medians; LoRA is leantune's own at rank 11, in turn; differences are per token.",
        table(
            ["", "LoRA step", "AdaLoRA step", "difference", *parts, "all three"],
            [
                [
                    f"{name}, {one['precision']}",
                    *(f"{1e3 * one[key]:.1f} ms" for key in ("lora_step_s", "adalora_step_s")),
                    f"{100 * one['overhead']:+.1f} %",
                    *(f"{1e3 * one['parts_s'][part]:.2f} ms" for part in parts),
                    percent(one["parts_share"], 2),
                ]
                for name, one in models
            ],
        ),
        "Allocation is counted as if it happened at every step; by default it is one step in a hundred. The "
        "parts are timed alone, which is finer than the difference of two whole steps.",
        table(
            [
                "",
                "trainable parameters",
                "ms per 1,000 tokens",
                "against LoRA at rank 11",
                "kept for backward",
            ],
            [
                [
                    f"{name}, before to after pruning",
                    " to ".join(f"{count:,}" for count in one["pruning"]["trainable"]),
                    " to ".join(f"{ms:.1f}" for ms in one["pruning"]["ms_per_1000_tokens"]),
                    " to ".join(f"{share:.3f}" for share in one["pruning"]["against_lora"]),
                    " to ".join(
                        f"{count / 2**20:.0f} MiB" for count in one["pruning"]["bytes_kept_for_backward"]
                    ),
                ]
                for name, one in models
            ],
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
