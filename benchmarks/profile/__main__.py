"""Where a training step goes: ``python -m benchmarks.profile``.

Trains the benchmark's encoders on rows of AG News (else Reuters R8) with leantune's own kernels, with these and
products in bf16, and with torch's, in fresh processes in turn, and prints the seconds of a step, how near that is to
the machine's limit, and the dearest operators of native and torch's kernels. Writes JSON and Markdown into
``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice, zip_longest
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.overhead.measure import BATCH_SIZE, rows_needed
from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result
from benchmarks.speed.__main__ import at_its_best, describe_machine, workplace
from benchmarks.speed.arithmetic import LayerWeights, layer_flops_per_s
from benchmarks.speed.inputs import available_models, read_rows, repeated, write_rows
from benchmarks.speed.process import Workplace

KINDS = {"native": ("1", ()), "bf16": ("1", ("precision=bf16",)), "torch": ("0", ())}
"""Of process: the value of ``LEANTUNE_NATIVE``, and keys of the recipe."""
KERNELS = ("native", "torch")
"""Kinds whose operators are shown."""
IN_WORDS = {
    "native": "native kernels, products in int8",
    "bf16": "native kernels, products in bf16",
    "torch": "torch's kernels",
}
SHOWN_OPERATORS = 14


def main() -> int:
    options = parse_options()
    console = Console()
    result: dict[str, Any] = {
        **origin_of("benchmarks.profile"),
        "rounds": options.rounds,
        "models": {},
        "weights": {},
    }
    with tempfile.TemporaryDirectory() as name:
        place = workplace(Path(name), console)
        models, missing = available_models(place)
        for sentence in missing:
            place.say(sentence)
        data, rows = read_rows(place)
        machine = describe_machine(place)
        count = rows_needed(options.steps) + BATCH_SIZE
        file = write_rows(Path(name) / "rows.csv", islice(repeated(rows, count), count))
        for model in models:
            if options.only in model.name:
                place.say(f"{model.name}: {options.rounds} times {options.steps} steps of each on {data}")
                words = [str(model.folder), str(file), str(options.steps)]
                result["models"][model.name] = in_turn(place, words, options.rounds)
                result["weights"][model.name] = asdict(model.weights)
                machine = at_its_best(machine, describe_machine(place))
        result["matrix_flops"] = machine["matrix_flops"]["bf16"]
    text = markdown_of(result)
    console.print(text, highlight=False, soft_wrap=True)
    stem = stem_of("profile", result["hardware"])
    for path in write_result(Path(options.output), stem, result, text):
        console.print(path, highlight=False, soft_wrap=True)
    return 0


def in_turn(place: Workplace, words: list[str], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What `benchmarks.profile.measure` found in ``rounds`` processes of each kind."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, (switch, settings) in KINDS.items():
            there = replace(place, environment={**place.environment, "LEANTUNE_NATIVE": switch})
            command = [sys.executable, "-m", "benchmarks.profile.measure", *words, *settings]
            found[kind].append(json.loads(there.output_of(command)))
    return found


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=30, help="measured steps, with and without profiler")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each kind, alternating")
    parser.add_argument("--only", default="MiniLM", help="models to run, by a part of their names")
    parser.add_argument("--output", default=str(RESULTS), help="folder to write")
    return parser.parse_args()


def markdown_of(result: Mapping[str, Any]) -> str:
    """One table of steps, and one of operators a model."""
    hardware, versions = result["hardware"], result["versions"]
    lines = [
        f"# Where a training step goes, {result['date']}",
        "",
        f"`{result['command']}` on {machine_name(hardware)}, {hardware['cores']} cores; torch {versions['torch']}, "
        f"transformers {versions['transformers']}. AdaLoRA of rank 11 on query and value, batches of "
        f"{BATCH_SIZE}; medians of {result['rounds']} processes, in turn.",
        "",
        "| | tokens | native kernels | torch's kernels | faster by |",
        "|---|---|---|---|---|",
    ]
    for name, found in result["models"].items():
        native, torch_ = (median(each["step_s"] for each in found[kind]) for kind in KERNELS)
        tokens = median(each["tokens"] for each in found["torch"])
        lines.append(
            f"| {name} | {tokens:,.0f} | {1e3 * native:.1f} ms | {1e3 * torch_:.1f} ms | {torch_ / native:.2f}x |"
        )
    for name, found in result["models"].items():
        if "bf16" in found:  # older results lack it
            native, bf16 = (median(each["step_s"] for each in found[kind]) for kind in ("native", "bf16"))
            lines += [
                "",
                f"{name} with native kernels and products in bf16 (`precision=bf16`): {1e3 * bf16:.1f} ms, "
                f"{bf16 / native:.2f} times as long as by default.",
            ]
    lines += _of_the_limit(result)
    for name, found in result["models"].items():
        lines += ["", f"## {name}: operators by themselves, ms a step, with the profiler", ""]
        lines += ["| native kernels | | torch's kernels | |", "|---|---|---|---|"]
        columns = [_dearest(found[kind]) for kind in KERNELS]
        lines += [f"| {' | '.join((*a, *b))} |" for a, b in zip_longest(*columns, fillvalue=("", ""))]
    return "\n".join([*lines, ""])


def _of_the_limit(result: Mapping[str, Any]) -> list[str]:
    """Steps as texts a second, and as a share of what the matrix-product rate allows."""
    rate = result["matrix_flops"]
    lines = [
        "",
        f"The limit: all products of all layers for all tokens, forward and backward, at {rate / 1e12:.2f} TFLOP/s, "
        "the fastest product in bf16 that was measured, and nothing else. *Of it, computed*: without the products that "
        "are left out, of all but first tokens behind the last attention. In int8 the processor multiplies faster than "
        "the rate that both are counted by.",
        "",
        "| | | ms a step | texts/s | tokens/s | limit, texts/s | reached | of it, computed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in result["models"].items():
        for kind, each in found.items():
            seconds, tokens = (median(process[key] for process in each) for key in ("step_s", "tokens"))
            texts_per_s, tokens_per_s = BATCH_SIZE / seconds, tokens / seconds
            whole, computed = (
                layer_flops_per_s(
                    LayerWeights(**result["weights"][name]),
                    "training",
                    samples_per_s=texts_per_s,
                    tokens_per_s=tokens_per_s,
                    narrows=narrows,
                )
                for narrows in (False, True)
            )
            lines.append(
                f"| {name} | {IN_WORDS[kind]} | {1e3 * seconds:.1f} | {texts_per_s:,.0f} | {tokens_per_s:,.0f} | "
                f"{texts_per_s * rate / whole:,.0f} | {whole / rate:.0%} | {computed / rate:.0%} |"
            )
    return lines


def _dearest(processes: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The operators that take most, the rest in one line."""
    names = {name for each in processes for name in each["operators_s"]}
    seconds = {name: median(each["operators_s"].get(name, 0.0) for each in processes) for name in names}
    order = sorted(seconds, key=lambda name: -seconds[name])
    rest = sum(seconds[name] for name in order[SHOWN_OPERATORS:])
    shown = [(f"`{name}`", f"{1e3 * seconds[name]:.1f}") for name in order[:SHOWN_OPERATORS]]
    return [*shown, ("everything else", f"{1e3 * rest:.1f}")]


if __name__ == "__main__":
    sys.exit(main())
