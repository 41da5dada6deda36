"""From a CSV file with texts and labels to token ids on disk: by leantune, or by ``datasets`` as its docs say.

python -m benchmarks.speed.tokenise {leantune,datasets} FOLDER_OF_THE_TOKENIZER ROWS.csv OUTPUT.json
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MAX_LENGTH = 256


def with_leantune(model: str, rows: str, cache: Path) -> tuple[float, int]:
    """Seconds and rows."""
    from leantune.data.text.read import Columns, open_examples
    from leantune.data.tokens.table import tokenize
    from leantune.data.tokens.tokenization import Tokenizer

    tokenizer = Tokenizer.pretrained(model, MAX_LENGTH)
    started = time.perf_counter()
    source = open_examples(rows, Columns(), labels="required", split="train")
    table = tokenize(source, tokenizer, cache)
    return time.perf_counter() - started, len(table)


def with_datasets(model: str, rows: str, cache: Path) -> tuple[float, int]:
    """Seconds and rows; two processes, as many as the machines of the tables have cores."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def encode(batch: dict[str, list[Any]]) -> Any:
        return tokenizer(batch["text"], truncation=True, max_length=MAX_LENGTH)

    started = time.perf_counter()
    dataset = load_dataset("csv", data_files=rows, split="train", cache_dir=str(cache))
    dataset = dataset.map(encode, batched=True, num_proc=2, remove_columns=["text"])
    return time.perf_counter() - started, len(dataset)


PIPELINES = {"leantune": with_leantune, "datasets": with_datasets}

if __name__ == "__main__":
    pipeline, model, rows, output = sys.argv[1:]
    with tempfile.TemporaryDirectory() as cache:
        seconds, count = PIPELINES[pipeline](model, rows, Path(cache))
    result = {"rows": count, "tokenise_s": seconds, "rows_per_s": count / seconds}
    Path(output).write_text(json.dumps(result, indent=1) + "\n", "utf-8")
