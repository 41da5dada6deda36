"""Several labels a text: ``python -m benchmarks.multi_label --work FOLDER [--seeds N] [--pipeline-seeds N]``.

No package that can be installed holds Reuters news with all of their topics. So the texts are made of real ones: the
beginnings of one, two or three documents of different classes of Reuters R52 or 20 Newsgroups, end to end in any order;
their classes are the labels. Training, validation and test rows are made of different documents.

leantune, TF-IDF with a logistic regression for each label, and the pipeline of transformers' ``Trainer`` and PEFT LoRA
get the same rows. Thresholds are chosen for all by the same rule on the same validation rows.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from benchmarks.harness import Benchmark, Result, measured_by, page, table, timed
from benchmarks.inputs import Rows, read_rows
from benchmarks.processes import train
from leantune.assets.download import fetch
from leantune.evaluation.multi_label_metrics import evaluate_label_sets, pair_log_losses
from leantune.evaluation.thresholds import choose_thresholds
from leantune.inference.load import load

BENCHMARK = Benchmark("multi_label", __doc__)
SETS = {"R52": "reuters-r52", "20 Newsgroups": "20newsgroups"}
WORDS_OF_EACH = 35
"""Length of a part; three of them are about 128 tokens."""
NUM_ROWS = {"train": 2_000, "validation": 500, "test": 1_000}
LIMIT, MAX_LENGTH, EPOCHS = 100_000, 128, 4
GRID = (3.0, 10.0, 30.0)
"""scikit-learn's C of the logistic regressions."""
PIPELINE_RATES = (1e-3, 3e-3)
MEASURES = ("micro_f1", "macro_f1", "lrap")

Part = tuple[list[str], np.ndarray]
"""Texts, and their labels ``(N, C)``."""


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pipeline-seeds", type=int, default=1, help="0: without transformers and PEFT")
    options = parser.parse_args()
    fetch(["minilm"])
    result: dict[str, Any] = {**BENCHMARK.origin(), "lines": []}
    for line in measurements(options.work, options.seeds, options.pipeline_seeds):
        result["lines"].append(line)
        BENCHMARK.publish(options.results, result, markdown_of(result))


def measurements(work: Path, seeds: int, pipeline_seeds: int) -> Iterator[dict[str, Any]]:
    """Every method on both sets."""
    for name, asset in SETS.items():
        folder = work / asset
        names, parts = make_rows(fetch([asset])[asset], folder)
        yield {"set": name, "method": "TF-IDF and logistic regressions", **tfidf(parts, names)}
        for seed in range(seeds):
            yield {"set": name, "method": "leantune", "seed": seed, **ours(folder, parts, seed)}
        for seed in range(pipeline_seeds):
            rates = [pipeline(parts, names, seed, rate) for rate in PIPELINE_RATES]
            best = max(rates, key=lambda each: each["validation"])
            yield {"set": name, "method": "PEFT LoRA with `Trainer`", "seed": seed, **best}


def make_rows(source: Path, folder: Path) -> tuple[list[str], dict[str, Part]]:
    """Write ``train``, ``validation`` and ``test`` as JSON lines; returns the labels and the parts."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    train_rows, test = (read_rows(source / f"{part}.csv") for part in ("train", "test"))
    rng.shuffle(train_rows)
    held_out = len(train_rows) // 5
    documents = {"train": train_rows[held_out:], "validation": train_rows[:held_out], "test": test}
    made = {part: [joined(rows, rng) for _ in range(NUM_ROWS[part])] for part, rows in documents.items()}
    names = {label for _, labels in made["train"] for label in labels}
    parts = {}
    for part, rows in made.items():  # a rare class may be in documents of one part alone
        kept = [(text, labels) for text, labels in rows if names.issuperset(labels)]
        lines = (json.dumps({"text": text, "label": labels}) + "\n" for text, labels in kept)
        (folder / f"{part}.jsonl").write_text("".join(lines), "utf-8")
        has_label = [[int(name in labels) for name in sorted(names)] for _, labels in kept]
        parts[part] = [text for text, _ in kept], np.array(has_label)
    return sorted(names), parts


def joined(rows: Rows, rng: random.Random) -> tuple[str, list[str]]:
    """The beginnings of one to three documents of different classes, and these."""
    chosen: dict[str, str] = {}
    for text, label in rng.sample(rows, 20):
        if label not in chosen:
            chosen[label] = " ".join(text.split()[:WORDS_OF_EACH])
        if len(chosen) == 3:
            break
    labels = list(chosen)[: rng.randint(1, 3)]
    return " ".join(chosen[label] for label in labels), labels


def measured(
    probabilities: dict[str, np.ndarray], parts: dict[str, Part], names: Sequence[str]
) -> dict[str, float]:
    """Rates of the test rows, by thresholds that the validation rows chose; and their micro F1, to choose by."""
    labels = {part: parts[part][1] for part in probabilities}
    thresholds = choose_thresholds(probabilities["validation"], labels["validation"])
    test = evaluate_label_sets(probabilities["test"], labels["test"], names, thresholds)
    half = evaluate_label_sets(probabilities["test"], labels["test"], names, np.full(len(names), 0.5))
    validation = evaluate_label_sets(probabilities["validation"], labels["validation"], names, thresholds)
    return {
        **{measure: getattr(test, measure) for measure in MEASURES},
        **{f"{measure}_at_a_half": getattr(half, measure) for measure in MEASURES[:2]},
        "validation": float(validation.micro_f1 or 0.0),
    }


def tfidf(parts: dict[str, Part], names: Sequence[str]) -> dict[str, float]:
    """Words and pairs of words; C by the log loss of the validation rows."""
    best, seconds = timed(lambda: tfidf_probabilities(parts))
    return {**measured(best, parts, names), "seconds": seconds}


def tfidf_probabilities(parts: dict[str, Part]) -> dict[str, np.ndarray]:
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    features = {"train": words.fit_transform(parts["train"][0])}
    features |= {part: words.transform(parts[part][0]) for part in ("validation", "test")}
    best, least = {}, np.inf
    for inverse_penalty in GRID:
        model = OneVsRestClassifier(LogisticRegression(C=inverse_penalty, solver="liblinear"))
        model.fit(features["train"], parts["train"][1])
        found = {part: model.predict_proba(features[part]) for part in ("validation", "test")}
        loss = pair_log_losses(found["validation"], parts["validation"][1]).sum(axis=1).mean()
        if loss < least:
            best, least = found, loss
    return best


def ours(folder: Path, parts: dict[str, Part], seed: int) -> dict[str, float]:
    """``leantune train`` with the defaults."""
    output = folder / f"run-{seed}"
    files = {"data": folder / "train.jsonl", "validation": folder / "validation.jsonl"}
    keys = {"max_trainable_params": LIMIT, "max_length": MAX_LENGTH, "epochs": EPOCHS, "seed": seed}
    record = train(output, model="asset:minilm", **files, **keys)
    trained = load(output)
    probabilities = {part: trained.predict_proba(parts[part][0]) for part in ("validation", "test")}
    return {
        **measured(probabilities, parts, trained.classes),
        "probe": record["baseline"]["validation"]["micro_f1"],
        "parameters": record["parameters"]["final"],
        "seconds": record["timings"]["total_s"],
    }


def pipeline(
    parts: dict[str, Part], names: Sequence[str], seed: int, learning_rate: float
) -> dict[str, float]:
    """The usual one: PEFT's LoRA in query and value, transformers' ``Trainer`` and its loss of several labels."""
    from transformers import AutoTokenizer

    from benchmarks.peer.trainer_peft import StopWatch, adapted_model, trainer_of
    from benchmarks.quality.peer import DEFAULTS

    started = time.perf_counter()
    keys = {"model": fetch(["minilm"])["minilm"], "adapter": "lora", "target_rank": 8, "dropout": 0.1}
    keys |= {"epochs": EPOCHS, "max_length": MAX_LENGTH, "learning_rate": learning_rate, "seed": seed}
    options = argparse.Namespace(**DEFAULTS | keys)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = adapted_model(options, list(names), problem_type="multi_label_classification")

    def rows(part: str) -> list[dict[str, Any]]:
        texts, labels = parts[part]
        encoded = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)
        return [
            {"input_ids": ids, "attention_mask": mask, "labels": label.astype(np.float32).tolist()}
            for ids, mask, label in zip(encoded["input_ids"], encoded["attention_mask"], labels, strict=True)
        ]

    with tempfile.TemporaryDirectory() as scratch:
        trainer = trainer_of(options, model, tokenizer, StopWatch(), scratch, train_dataset=rows("train"))
        trainer.train()
        logits = {part: trainer.predict(rows(part)).predictions for part in ("validation", "test")}
    return {
        **measured({part: expit(each.astype(np.float64)) for part, each in logits.items()}, parts, names),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "learning_rate": learning_rate,
        "seconds": time.perf_counter() - started,
    }


def markdown_of(result: Result) -> str:
    """The mean over seeds, with their standard deviation where there are several."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in result["lines"]:
        groups[line["set"], line["method"]].append(line)

    def rate(group: list[dict[str, Any]], name: str) -> str:
        values = [100 * each[name] for each in group]
        return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")

    shown = (*MEASURES, "micro_f1_at_a_half", "macro_f1_at_a_half")
    names = ["micro F1", "macro F1", "LRAP", "micro F1 at 0.5", "macro F1 at 0.5"]
    return page(
        "Several labels a text",
        f"Texts of one to three parts of documents of R52 and 20 Newsgroups: {NUM_ROWS['train']:,} training, "
        f"{NUM_ROWS['validation']:,} validation and up to {NUM_ROWS['test']:,} test rows; MiniLM-L6, {EPOCHS} epochs, "
        f"{MAX_LENGTH} tokens, at most {LIMIT:,} trainable parameters. Percent of the test rows, ± the standard "
        f"deviation over seeds; the last two columns without chosen thresholds. {measured_by(result)}.",
        table(
            ["texts of", "method", "seeds", *names],
            (
                [*key, str(len(group)), *(rate(group, each) for each in shown)]
                for key, group in groups.items()
            ),
            right=range(2, 8),
        ),
    )


if __name__ == "__main__":
    main()
