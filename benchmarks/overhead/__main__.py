"""What adaptive rank costs: ``python -m benchmarks.overhead``.

One process trains AdaLoRA and plain LoRA (``method=lora``) on the same rows, one step of each in turn,
and times the parts that only AdaLoRA has. Prints tables and writes JSON and Markdown into
``benchmarks/results/``. Exit code 1 if those parts cost more of a step than the limit: 2 % on a CPU,
3 % on a GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.overhead.measure import BATCH_SIZE, measure, rows_needed
from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result
from benchmarks.speed.__main__ import workplace
from benchmarks.speed.inputs import available_models, read_rows, repeated, write_rows
from leantune.system.hardware import pick_device
from leantune.system.memory import keep_freed_memory, use_huge_pages

LIMIT = {"cpu": 0.02, "cuda": 0.03}
"""Largest share of a step of RoBERTa-base that the parts may take."""


def main() -> int:
    options = parse_options()
    keep_freed_memory()  # as the command line does
    use_huge_pages()
    console = Console()
    device = pick_device()
    result: dict[str, Any] = {
        **origin_of("benchmarks.overhead"),
        "limit": LIMIT[device.type],
        "models": {},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = workplace(folder, console)
        models, missing = available_models(place)
        for sentence in missing:
            place.say(sentence)
        data, rows = read_rows(place)
        count = rows_needed(options.steps) + BATCH_SIZE
        file = write_rows(folder / "rows.csv", islice(repeated(rows, count), count))
        for model in models:
            if options.only in model.name:
                place.say(f"{model.name}: {2 * options.steps} steps of each on {data}")
                result["models"][model.name] = measure(model.folder, file, folder, options.steps)
    text = markdown_of(result)
    console.print(text, highlight=False, soft_wrap=True)
    stem = stem_of("overhead", result["hardware"])
    for path in write_result(Path(options.output), stem, result, text):
        console.print(path, highlight=False, soft_wrap=True)
    shares = [each["parts_share"] for name, each in result["models"].items() if "RoBERTa" in name]
    return int(any(share > result["limit"] for share in shares))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=20, help="steps before pruning, and after it")
    parser.add_argument("--only", default="", help="models to run, by a part of their names")
    parser.add_argument("--output", default=str(RESULTS), help="folder to write")
    return parser.parse_args()


def markdown_of(result: Mapping[str, Any]) -> str:
    """The two tables, with machine and versions."""
    hardware, versions = result["hardware"], result["versions"]
    lines = [
        f"# What adaptive rank costs, {result['date']}",
        "",
        f"`{result['command']}` on {machine_name(hardware)}, {hardware['cores']} cores; torch "
        f"{versions['torch']}, transformers {versions['transformers']}. Ranks 11 to 8 on query and value, "
        f"batches of {BATCH_SIZE}, medians; LoRA is leantune's own at rank 11, in turn; "
        "differences are per token.",
        "",
        "| | LoRA step | AdaLoRA step | difference | orthogonality | importance | allocation | all three |",
        "|---|---|---|---|---|---|---|---|",
        *(_cost_line(name, each) for name, each in result["models"].items()),
        "",
        "Allocation is counted as if it happened at every step; by default it is one step in a hundred. The "
        "parts are timed alone, which is finer than the difference of two whole steps.",
        "",
        "| | trainable parameters | ms per 1,000 tokens | against LoRA at rank 11 | kept for backward |",
        "|---|---|---|---|---|",
        *(_pruning_line(name, each) for name, each in result["models"].items()),
        "",
    ]
    return "\n".join(lines)


def _cost_line(name: str, one: Mapping[str, Any]) -> str:
    parts = one["parts_s"].values()
    cells = [
        f"{name}, {one['precision']}",
        f"{1e3 * one['lora_step_s']:.1f} ms",
        f"{1e3 * one['adalora_step_s']:.1f} ms",
        f"{100 * one['overhead']:+.1f} %",
        *(f"{1e3 * seconds:.2f} ms" for seconds in parts),
        f"{100 * one['parts_share']:.2f} %",
    ]
    return f"| {' | '.join(cells)} |"


def _pruning_line(name: str, one: Mapping[str, Any]) -> str:
    pruning = one["pruning"]
    cells = [
        f"{name}, before to after pruning",
        " to ".join(f"{count:,}" for count in pruning["trainable"]),
        " to ".join(f"{ms:.1f}" for ms in pruning["ms_per_1000_tokens"]),
        " to ".join(f"{share:.3f}" for share in pruning["against_lora"]),
        " to ".join(f"{count / 2**20:.0f} MiB" for count in pruning["bytes_kept_for_backward"]),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
