"""How well wrong labels are found: ``python -m benchmarks.audit [--folds 5]``.

The labels of AG News by a crowd, of which 19.75 % are wrong, with MiniLM-L6. The same ranking (probability of the most
probable other class less that of the label, out of fold) by ``leantune audit``, by a linear probe of the encoder as it
is, and by TF-IDF with logistic regression, in the same folds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline

from benchmarks.harness import Benchmark, Result, measured_by, page, percent, table, timed
from benchmarks.inputs import AG_NEWS, read_table
from leantune.assets.download import fetch
from leantune.config import load_recipe
from leantune.config.load import parse_overrides
from leantune.questions.audit.compute import Audit, audit, folds_of
from leantune.training.before.head_init import head_inputs
from leantune.training.build import build_classifier

BENCHMARK = Benchmark("audit", __doc__)
FIRST = 500


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("keys", nargs="*", help="recipe keys, as key=value")
    options = parser.parse_args()
    fetch(["minilm"])
    rows = read_table(AG_NEWS / "train.csv")
    is_wrong = np.array([row["label"] != row["crowd_label"] for row in rows])
    keys = {"data": str(AG_NEWS / "train.csv"), "label_column": "crowd_label", "loss": "robust"}
    keys |= {"model": "asset:minilm", "max_length": "128", "max_trainable_params": "100000"}
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(None, {**keys, "output": f"{folder}/audit", **parse_overrides(options.keys)})
        by_audit = timed(lambda: audit(recipe, folds=options.folds, console=Console(stderr=True)))
    found, _ = by_audit
    fold_of = folds_of(found.rows, options.folds, seed=found.run.recipe.seed)

    def by_probe() -> Audit:
        features = head_inputs(build_classifier(found.run), found.rows, 64)
        features = (features - features.mean(0)) / features.std(0)
        return by_folds(found, fold_of, features, lambda: LogisticRegression(C=0.01, max_iter=300))

    def by_words() -> Audit:
        texts = np.array([row["text"] for row in rows], dtype=object)
        return by_folds(found, fold_of, texts, words_and_regression)

    ranked = {
        "leantune audit": by_audit,
        "linear probe of the encoder": timed(by_probe),
        "TF-IDF and logistic regression": timed(by_words),
    }
    lines = {name: {**measured(each, is_wrong), "seconds": s} for name, (each, s) in ranked.items()}
    wrong = float(is_wrong.mean())
    result = {**BENCHMARK.origin(), "folds": options.folds, "wrong": wrong, "lines": lines}
    BENCHMARK.publish(options.results, result, markdown_of(result))


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


def markdown_of(result: Result) -> str:
    lines = (
        [name, percent(each["average_precision"]), percent(each["first"]), f"{each['seconds']:.0f}"]
        for name, each in result["lines"].items()
    )
    header = ["ranked by", "average precision", f"wrong among the first {FIRST}", "seconds"]
    return page(
        "Wrong labels",
        f"AG News with labels by a crowd, {percent(result['wrong'], 2)} of 10,000 wrong; MiniLM-L6, "
        f"{result['folds']} folds. {measured_by(result)}.",
        table(header, lines, right=range(1, 4)),
    )


if __name__ == "__main__":
    main()
