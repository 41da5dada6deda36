"""How well wrong labels are found: ``python -m benchmarks.audit [--folds 5]``.

The labels of AG News by a crowd, of which 19.75 % are wrong, with MiniLM-L6. The same ranking (probability of the most
probable other class less that of the label, out of fold) by ``leantune audit``, by a linear probe of the encoder as it
is, and by TF-IDF with logistic regression, in the same folds.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline

from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result
from leantune.assets.download import fetch
from leantune.config import load_recipe
from leantune.questions.audit.compute import Audit, audit, folds_of
from leantune.training.before.head_init import head_inputs
from leantune.training.build import build_classifier

DATA = Path(__file__).parents[2] / "shared" / "data" / "ag_news" / "train.csv"
FIRST = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("keys", nargs="*", help="recipe keys, as key=value")
    options = parser.parse_args()
    fetch(["minilm"])
    with DATA.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    is_wrong = np.array([row["label"] != row["crowd_label"] for row in table])
    with tempfile.TemporaryDirectory() as folder:
        keys = {
            **{
                "data": str(DATA),
                "label_column": "crowd_label",
                "model": "asset:minilm",
                "max_length": "128",
            },
            **{"max_trainable_params": "100000", "output": f"{folder}/audit", "loss": "robust"},
            **dict(word.split("=", 1) for word in options.keys),
        }
        started = time.perf_counter()
        found = audit(load_recipe(None, keys), folds=options.folds, console=Console(stderr=True))
        seconds = time.perf_counter() - started
    lines = {"leantune audit": {**measured(found, is_wrong), "seconds": seconds}}
    fold_of = folds_of(found.rows, options.folds, seed=found.run.recipe.seed)
    started = time.perf_counter()
    features = head_inputs(build_classifier(found.run), found.rows, 64)
    features = (features - features.mean(0)) / features.std(0)
    probe = by_folds(found, fold_of, features, lambda: LogisticRegression(C=0.01, max_iter=300))
    lines["linear probe of the encoder"] = {
        **measured(probe, is_wrong),
        "seconds": time.perf_counter() - started,
    }
    started = time.perf_counter()
    texts = np.array([row["text"] for row in table], dtype=object)
    words = by_folds(found, fold_of, texts, words_and_regression)
    lines["TF-IDF and logistic regression"] = {
        **measured(words, is_wrong),
        "seconds": time.perf_counter() - started,
    }
    origin = origin_of("benchmarks.audit")
    result = {**origin, "folds": options.folds, "wrong": float(is_wrong.mean()), "lines": lines}
    text = markdown_of(origin, result)
    write_result(RESULTS, stem_of("audit", origin["hardware"]), result, text)
    print(text)


def words_and_regression() -> Any:
    return make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), LogisticRegression(C=10, max_iter=300)
    )


def by_folds(found: Audit, fold_of: Any, inputs: Any, make: Callable[[], Any]) -> Audit:
    """The same rows by another classifier."""
    probabilities = np.zeros_like(found.probabilities)
    for fold in np.unique(fold_of):
        seen, held_out = fold_of != fold, fold_of == fold
        model = make().fit(inputs[seen], found.rows.label_ids[seen])
        probabilities[np.ix_(held_out, model.classes_)] = model.predict_proba(inputs[held_out])
    return replace(found, probabilities=probabilities)


def measured(found: Audit, is_wrong: Any) -> dict[str, float]:
    score = found.score
    first = np.argsort(-score, kind="stable")[:FIRST]
    return {
        "average_precision": float(average_precision_score(is_wrong, score)),
        "first": float(is_wrong[first].mean()),
    }


def markdown_of(origin: dict[str, Any], result: dict[str, Any]) -> str:
    lines = [
        "# Wrong labels",
        "",
        f"AG News with labels by a crowd, {100 * result['wrong']:.2f} % of 10,000 wrong; MiniLM-L6, "
        f"{result['folds']} folds. `{origin['command']}` on {machine_name(origin['hardware'])}, {origin['date']}.",
        "",
        f"| ranked by | average precision | wrong among the first {FIRST} | seconds |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {100 * each['average_precision']:.1f} % | {100 * each['first']:.1f} % | {each['seconds']:.0f} |"
        for name, each in result["lines"].items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
