"""From a CSV file to token ids on disk: by leantune, or by ``datasets`` as its docs say."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", choices=("leantune", "datasets"), required=True)
    parser.add_argument("--model", required=True, help="folder with a tokenizer")
    parser.add_argument("--input", required=True, help="CSV with the columns text and label")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--output", required=True, help="JSON file to write")
    options = parser.parse_args()
    work = {"leantune": with_leantune, "datasets": with_datasets}[options.pipeline]
    with tempfile.TemporaryDirectory() as cache:
        seconds, rows = work(options, Path(cache))
    result = {"rows": rows, "tokenise_s": seconds, "rows_per_s": rows / seconds}
    Path(options.output).write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def with_leantune(options: argparse.Namespace, cache: Path) -> tuple[float, int]:
    """Seconds and rows."""
    from leantune.data.text.read import Columns, open_examples
    from leantune.data.tokens.table import tokenize
    from leantune.data.tokens.tokenization import Tokenizer

    tokenizer = Tokenizer.pretrained(options.model, options.max_length)
    started = time.perf_counter()
    source = open_examples(options.input, Columns(), labels="required", split="train")
    table = tokenize(source, tokenizer, cache)
    return time.perf_counter() - started, len(table)


def with_datasets(options: argparse.Namespace, cache: Path) -> tuple[float, int]:
    """Seconds and rows; two processes, as many as the machines of the tables have cores."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)

    def encode(batch: dict[str, list[Any]]) -> Any:
        return tokenizer(batch["text"], truncation=True, max_length=options.max_length)

    started = time.perf_counter()
    rows = load_dataset("csv", data_files=options.input, split="train", cache_dir=str(cache))
    rows = rows.map(encode, batched=True, num_proc=2, remove_columns=["text"])
    return time.perf_counter() - started, len(rows)


if __name__ == "__main__":
    main()
