"""Prediction of a CSV with transformers alone: as most people write it, and as it runs best.

    python benchmarks/peer/predict.py --model RUN/merged --input test.csv --mode plain --output result.json

``plain``: fp32, batches in input order, padded to their longest text. ``best``: weights in bf16, texts
sorted by length first, results put back into input order. Both read the column ``text`` and, with
``--predictions``, write a CSV of ``id,label`` in input order.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BatchEncoding


def main() -> None:
    options = parse_options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if options.mode == "plain" else torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, dtype=dtype)
    model = model.to(device).eval()

    started = time.perf_counter()
    texts = read_texts(options.input)
    batches = in_input_order if options.mode == "plain" else sorted_by_length
    labels = torch.empty(len(texts), dtype=torch.long)
    tokens = 0
    with torch.inference_mode():
        for positions, batch in batches(texts, tokenizer, options):
            tokens += int(batch["attention_mask"].sum())
            labels[positions] = model(**batch.to(device)).logits.argmax(-1).cpu()
    names = [model.config.id2label[i] for i in labels.tolist()]
    if options.predictions:
        write_predictions(options.predictions, names)
    seconds = time.perf_counter() - started

    result = {
        "rows": len(texts),
        "tokens": tokens,
        "predict_s": seconds,
        "samples_per_s": len(texts) / seconds,
        "tokens_per_s": tokens / seconds,
    }
    Path(options.output).write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of a transformers classifier")
    parser.add_argument("--input", required=True, help="CSV with a column text")
    parser.add_argument("--mode", choices=("plain", "best"), default="plain")
    parser.add_argument("--output", required=True, help="JSON file to write")
    parser.add_argument("--predictions", help="CSV file to write: id,label")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=256, help="tokens kept of a text")
    parser.add_argument("--pad-to-multiple-of", type=int, help="of tokens; with --mode best")
    return parser.parse_args()


def read_texts(path: str) -> list[str]:
    with open(path, encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def write_predictions(path: str, names: list[str]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label"])
        writer.writerows(enumerate(names))


def in_input_order(
    texts: list[str], tokenizer: Any, options: argparse.Namespace
) -> Iterator[tuple[list[int], BatchEncoding]]:
    """Row numbers and padded tensors of one batch after the other."""
    for start in range(0, len(texts), options.batch_size):
        chunk = texts[start : start + options.batch_size]
        batch = tokenizer(
            chunk, padding=True, truncation=True, max_length=options.max_length, return_tensors="pt"
        )
        yield list(range(start, start + len(chunk))), batch


def sorted_by_length(
    texts: list[str], tokenizer: Any, options: argparse.Namespace
) -> Iterator[tuple[list[int], BatchEncoding]]:
    """The same with all texts tokenized at once and sorted by length, so that little is padding."""
    encoded = tokenizer(texts, truncation=True, max_length=options.max_length)
    order = sorted(range(len(texts)), key=lambda row: len(encoded["input_ids"][row]))
    for start in range(0, len(order), options.batch_size):
        rows = order[start : start + options.batch_size]
        chosen = {key: [encoded[key][row] for row in rows] for key in encoded}
        yield (
            rows,
            tokenizer.pad(chosen, pad_to_multiple_of=options.pad_to_multiple_of, return_tensors="pt"),
        )


if __name__ == "__main__":
    main()
