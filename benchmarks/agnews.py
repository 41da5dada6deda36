"""AG News with MiniLM: the as-published settings and leantune's defaults, beside the linear probe.

    python benchmarks/agnews.py

Needs the shared data folder (10,000 training rows, 3,800 test rows) and `leantune assets`. Prints a
table and writes benchmarks/results/agnews_minilm_<date>.md with machine and versions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS = {
    "as published": ["agnews-roberta-as-published", "max_length=128"],
    # the same limit in parameters as the as-published ranks need on this encoder
    "leantune's defaults": ["agnews-roberta", "max_length=128", "max_trainable_params=103048"],
    "defaults, learning_rate=3e-3": [
        "agnews-roberta",
        "max_length=128",
        "max_trainable_params=103048",
        "learning_rate=3e-3",
    ],
}


def train(name: str, words: list[str], data: Path, output: Path, *, reuse: bool) -> dict:
    """One run in a fresh process; returns its record. ``reuse``: a finished run in the folder serves."""
    folder = output / name.replace(" ", "-").replace("'", "").replace(",", "")
    record = folder / "record.json"
    if reuse and record.is_file() and json.loads(record.read_text("utf-8"))["status"] == "finished":
        return json.loads(record.read_text("utf-8"))
    command = [sys.executable, "-m", "leantune.cli", "train", *words, "--overwrite"]
    inputs = [
        f"data={data / 'train.csv'}",
        f"test={data / 'dev_test.csv'}",
        "model=asset:minilm",
        f"output={folder}",
    ]
    subprocess.run([*command, *inputs], check=True)
    return json.loads((folder / "record.json").read_text("utf-8"))


def row_of(name: str, metrics: dict, record: dict | None) -> str:
    low, high = metrics["accuracy_interval"]
    cells = [name, f"{100 * metrics['accuracy']:.2f} % ({100 * low:.1f} to {100 * high:.1f})"]
    if record is None:
        return "| " + " | ".join([*cells, "", "", "", ""]) + " |"
    parameters, timings = record["parameters"], record["timings"]
    cells += [
        f"{parameters['initial']:,} to {parameters['final']:,}",
        f"{timings['train_s']:.0f} s ({timings['total_s']:.0f} s in all)",
        f"{timings['train_samples_per_s']:.0f}",
        f"{timings['train_tokens_per_s']:,.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def ranks_of(record: dict) -> str:
    short = {
        name.replace("bert.encoder.layer.", "").replace("attention.self.", ""): r
        for name, r in record["ranks"].items()
    }
    return ", ".join(f"{name} {rank}" for name, rank in short.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "ag_news")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "agnews-benchmark")
    parser.add_argument("--reuse", action="store_true", help="do not repeat runs that are finished there")
    options = parser.parse_args()
    if not (options.data / "train.csv").is_file():
        sys.exit(f"{options.data}: no train.csv there; give --data")
    records = {
        name: train(name, words, options.data, options.output, reuse=options.reuse)
        for name, words in RUNS.items()
    }
    default = records["leantune's defaults"]
    lines = [
        f"# AG News, MiniLM-L6, 10,000 training rows, {date.today()}",
        "",
        f"`python benchmarks/agnews.py` on {default['hardware']['cpu']}, {default['hardware']['cores']} cores, "
        f"{default['model']['precision']}; torch {default['versions']['torch']}, "
        f"transformers {default['versions']['transformers']}.",
        "",
        "| | test accuracy (95 %), 3,800 rows | trainable parameters | training | texts/s | tokens/s |",
        "|---|---|---|---|---|---|",
        row_of("linear probe", default["baseline"]["test"], None),
        *(row_of(name, record["metrics"]["test"], record) for name, record in records.items()),
        "",
        *(f"Final ranks, {name}: {ranks_of(record)}.\n" for name, record in records.items()),
    ]
    text = "\n".join(lines)
    target = ROOT / "benchmarks" / "results" / f"agnews_minilm_{date.today()}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, "utf-8")
    print(text)
    print(f"written to {target}")


if __name__ == "__main__":
    main()
