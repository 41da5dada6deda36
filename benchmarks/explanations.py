"""What explanations show: ``python -m benchmarks.explanations --work FOLDER``.

MiniLM-L6 is trained on AG News with labels by a crowd, of which 19.75 % are wrong. Of the wrong predictions on 3,800
test rows: how often is one of the 3 nearest training texts wrongly labelled? Of some test rows: how much does the
probability of the predicted class fall without the 3 words of the highest weight, and without 3 random words?
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Benchmark, Result, measured_by, page, percent, table, timed
from benchmarks.inputs import AG_NEWS, minilm_run, read_table, write_rows
from leantune.config import recipe_of_run
from leantune.config.record.run import read_finished_record
from leantune.evaluation.batches import map_own_rows
from leantune.evaluation.nearest import FEATURES
from leantune.inference.load import load
from leantune.questions.explain.compute import explain
from leantune.questions.explain.explanation import Explanation
from leantune.training.after.near_rows import rows_to_search
from leantune.training.after.rows_again import read_rows_again

BENCHMARK = Benchmark("explanations", __doc__)
NEAREST, DELETED, DRAWINGS = 3, 3, 5


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("--texts", type=int, default=60, help="in the deletion test")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rows, test = (read_table(AG_NEWS / f"{name}.csv") for name in ("train", "dev_test"))
    is_wrong = np.array([row["label"] != row["crowd_label"] for row in rows])
    data = write_rows(options.work / "train.csv", ((row["text"], row["crowd_label"]) for row in rows))
    run = minilm_run(options.work, data=data, test=AG_NEWS / "dev_test.csv", epochs=3)
    result = {
        **BENCHMARK.origin(),
        "wrong": float(is_wrong.mean()),
        "report": of_report(run),
        "nearest": of_nearest(run, test, is_wrong),
        "words": of_words(run, test, options.texts),
    }
    BENCHMARK.publish(options.results, result, markdown_of(result))


def of_report(run: Path) -> dict[str, float]:
    """Seconds of the vectors that the report of a run needs, and of its training on as many cores."""
    record = read_finished_record(run)
    recipe = recipe_of_run(run, record.recipe)
    rows = read_rows_again(run, record, recipe, advice="train again").train
    searched = rows_to_search(rows, record.schedule.total_steps * recipe.batch_size, seed=recipe.seed)
    classifier = load(run).classifier
    _, seconds = timed(
        lambda: map_own_rows(classifier, searched, recipe.eval_batch_size, classifier.features)
    )
    return {"searched": len(searched), "seconds": seconds, "train_s": record.timings["train_s"]}


def of_nearest(run: Path, test: Sequence[dict[str, str]], is_wrong: Any) -> dict[str, float]:
    """Shares of test rows with a wrong label among the nearest training texts, by whether they are predicted right."""
    (run / FEATURES).unlink(missing_ok=True)
    texts = [row["text"] for row in test]
    first_s, again_s = (
        timed(lambda: explain(run, texts[:1], count=NEAREST, with_words=False))[1] for _ in range(2)
    )
    found = explain(run, texts, count=NEAREST, with_words=False)
    has_wrong = np.array([any(is_wrong[near.row] for near in each.nearest) for each in found])
    misleads = np.array(
        [any(is_wrong[near.row] and near.label == each.label for near in each.nearest) for each in found]
    )
    is_right = np.array([each.label == row["label"] for each, row in zip(found, test, strict=True)])
    share = float(is_wrong.mean())
    return {
        "rows": len(test),
        "wrong_predictions": int((~is_right).sum()),
        "wrong_label_near_wrong": float(has_wrong[~is_right].mean()),
        "wrong_label_near_right": float(has_wrong[is_right].mean()),
        "wrong_label_of_random": 1 - (1 - share) ** NEAREST,
        "misleading_near_wrong": float(misleads[~is_right].mean()),
        "misleading_near_right": float(misleads[is_right].mean()),
        "first_s": first_s,
        "again_s": again_s,
    }


def of_words(run: Path, test: Sequence[dict[str, str]], count: int) -> dict[str, float]:
    """How far the probability of the predicted class falls without some words."""
    rng = np.random.default_rng(0)
    chosen = [test[i]["text"] for i in rng.permutation(len(test))[:count]]
    every, seconds = timed(lambda: explain(run, chosen, count=0))
    found = [each for each in every if len(each.words) > 2 * DELETED]
    classifier = load(run)
    labels = [classifier.classes.index(each.label) for each in found]

    def falls(texts: Sequence[str]) -> Any:
        own = np.arange(len(found)), labels
        return np.array([each.probability for each in found]) - classifier.predict_proba(texts)[own]

    best = falls([without(each, highest(each)) for each in found])
    drawn = [
        falls([without(each, rng.choice(len(each.words), DELETED, replace=False)) for each in found])
        for _ in range(DRAWINGS)
    ]
    random = np.mean(drawn, axis=0)
    difference = best - random
    half = 1.96 * difference.std(ddof=1) / np.sqrt(len(found))
    gaps = [
        abs(each.attribution.gap) / abs(each.attribution.logit - each.attribution.baseline_logit)
        for each in found
    ]
    return {
        "texts": len(found),
        "fall_of_highest": float(best.mean()),
        "fall_of_random": float(random.mean()),
        "difference": float(difference.mean()),
        "low": float(difference.mean() - half),
        "high": float(difference.mean() + half),
        "median_gap": float(np.median(gaps)),
        "seconds_a_text": seconds / count,
    }


def highest(explanation: Explanation) -> Any:
    """The words that speak most for the predicted class."""
    return np.argsort([-each.weight for each in explanation.words], kind="stable")[:DELETED]


def without(explanation: Explanation, chosen: Any) -> str:
    """The text without some of its words."""
    text = explanation.text
    for word in sorted((explanation.words[i] for i in chosen), key=lambda each: -each.start):
        text = text[: word.start] + text[word.end :]
    return text


def markdown_of(result: Result) -> str:
    near, words, report = result["nearest"], result["words"], result["report"]
    wrong = f"wrong predictions, {near['wrong_predictions']:,}"
    right = f"right predictions, {near['rows'] - near['wrong_predictions']:,}"
    lines = {
        f"{wrong}: a wrong label among the 3 nearest training texts": percent(near["wrong_label_near_wrong"]),
        f"{right}: the same": percent(near["wrong_label_near_right"]),
        "3 random training texts: the same": percent(near["wrong_label_of_random"]),
        "wrong predictions: a near wrong label that is the prediction": percent(
            near["misleading_near_wrong"]
        ),
        "right predictions: the same": percent(near["misleading_near_right"]),
        f"fall of the probability without the 3 highest words, {words['texts']} texts": (
            f"{words['fall_of_highest']:.3f}"
        ),
        "without 3 random words": f"{words['fall_of_random']:.3f}",
        "difference, 95 % interval": f"{words['difference']:.3f} ({words['low']:.3f} to {words['high']:.3f})",
        "what the weights do not account for, median": percent(words["median_gap"]),
        "weights of the words of a text": f"{words['seconds_a_text']:.2f} s",
        "nearest training texts, the first time": f"{near['first_s']:.1f} s",
        "nearest training texts, later, start included": f"{near['again_s']:.1f} s",
        f"vectors of the {report['searched']:,} rows that the report looks through": f"{report['seconds']:.1f} s",
        "training of that run": f"{report['train_s']:.0f} s",
    }
    return page(
        "Explanations",
        f"MiniLM-L6, 3 epochs, on AG News with labels by a crowd, {percent(result['wrong'], 2)} of 10,000 wrong. "
        f"{measured_by(result)}.",
        table(["", "measured"], lines.items(), right=[1]),
    )


if __name__ == "__main__":
    main()
