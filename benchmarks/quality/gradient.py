"""How much of the gradient the rows of A catch: ``python -m benchmarks.quality.gradient``.

For each set of the study: MiniLM-L6 with the head of the default start, rank 11 on query and value. The gradient is
that of 1,000 training rows which the start has not seen; what is caught is its squared norm within the rows of A,
summed over the adapted weights. Prints a table and writes ``benchmarks/results/gradient_start/``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.quality.data import MINILM, SOURCES, data_set, missing_source
from benchmarks.quality.jobs import PUBLISHED_RANKS
from benchmarks.results_folder import RESULTS, origin_of, stem_of, write_result
from leantune.config import load_recipe
from leantune.data.tokens.dataset import LabelledRows
from leantune.model.classifier import Classifier
from leantune.training.before.adapter_init import ROW_NORM, fill_gradients, init_lora_from_gradient
from leantune.training.before.head_init import PROBE_SCALE, fit_probe, scale_output_layer, start_from_probe
from leantune.training.build import build_classifier, prepare_run

UNSEEN_ROWS = 1000
ROWS = (80, 160, 320, 640)
BATCH_SIZE = 32


def main() -> int:
    console = Console()
    result: dict[str, Any] = {
        **origin_of("benchmarks.quality.gradient"),
        "unseen_rows": UNSEEN_ROWS,
        "sets": {},
    }
    of_minilm = [name for name, source in SOURCES.items() if source.encoder is MINILM]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(of_minilm)}; default: all")
    for name in parser.parse_args().sets or of_minilm:
        if not missing_source(name):
            result["sets"][name] = measure(name)
    text = markdown_of(result)
    write_result(RESULTS, stem_of("gradient_start", result["hardware"]), result, text)
    console.print(text, highlight=False, soft_wrap=True)
    return 0


def measure(name: str) -> dict[str, Any]:
    """What random rows catch, and rows along the gradient of more and more texts, with seconds."""
    files = data_set(name)
    with tempfile.TemporaryDirectory() as folder:
        keys = {
            "data": str(files.file("train")),
            "validation": str(files.file("validation")),
            "model": MINILM.model,
            "output": str(Path(folder) / "run"),
            "max_length": 128,
            **PUBLISHED_RANKS,
        }
        run = prepare_run(load_recipe(None, keys), console=Console(quiet=True), overwrite=False, resume=False)
        classifier = build_classifier(run)
    order = np.random.default_rng(0).permutation(len(run.data.train))
    seen, unseen = run.data.train[order[UNSEEN_ROWS:]], run.data.train[order[:UNSEEN_ROWS]]
    start_from_probe(classifier, fit_probe(classifier, seen, run.recipe.eval_batch_size, seed=0))
    scale_output_layer(classifier, PROBE_SCALE)
    found: dict[str, Any] = {"random": caught_by(classifier, unseen), "rows": {}}
    for count in ROWS:
        started = time.perf_counter()
        init_lora_from_gradient(classifier, seen[np.arange(count)], BATCH_SIZE, seed=0)
        seconds = time.perf_counter() - started
        found["rows"][count] = {"caught": caught_by(classifier, unseen), "seconds": seconds}
    return found


def caught_by(classifier: Classifier, rows: LabelledRows) -> float:
    """Squared norm of the gradient of ``rows`` within unit rows of A: that of B is ``scaling * G A^T``."""
    classifier.eval()
    fill_gradients(classifier, rows, BATCH_SIZE)
    caught = 0.0
    for layer in classifier.adapted_layers().values():
        assert layer.lora_B.grad is not None
        caught += (layer.lora_B.grad / (layer.scaling * ROW_NORM)).square().sum().item()
    return caught


def markdown_of(result: dict[str, Any]) -> str:
    versions = result["versions"]
    lines = [
        "# What the rows of A catch of the gradient",
        "",
        f"MiniLM-L6, rank 11 of 384 on query and value, gradient of {result['unseen_rows']:,} unseen training rows; "
        "as a multiple of what random rows catch, and seconds. "
        f"{result['hardware']['cpu']}, torch {versions['torch']}, {result['date']}, `{result['command']}`.",
        "",
        f"| set | {' | '.join(f'{count} rows' for count in ROWS)} |",
        f"|---|{'---|' * len(ROWS)}",
    ]
    for name, found in result["sets"].items():
        cells = [
            f"{each['caught'] / found['random']:.1f}x, {each['seconds']:.0f} s"
            for each in found["rows"].values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
