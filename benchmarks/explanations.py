"""What explanations show: ``python -m benchmarks.explanations --work FOLDER``.

MiniLM-L6 is trained on AG News with labels by a crowd, of which 19.75 % are wrong. Of the wrong predictions on 3,800
test rows: how often is one of the 3 nearest training texts wrongly labelled? Of some test rows: how much does the
probability of the predicted class fall without the 3 words of the highest weight, and without 3 random words?
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result
from leantune.assets.download import fetch
from leantune.config import load_recipe, recipe_of_run
from leantune.config.record.run import read_finished_record
from leantune.evaluation.batches import map_own_rows
from leantune.evaluation.nearest import FEATURES
from leantune.inference.load import load
from leantune.questions.explain.compute import explain
from leantune.questions.explain.explanation import Explanation
from leantune.system.console import console
from leantune.training.after.near_rows import rows_to_search
from leantune.training.after.rows_again import read_rows_again
from leantune.training.run import run_training

DATA = Path(__file__).parents[2] / "shared" / "data" / "ag_news"
NEAREST, DELETED, DRAWINGS = 3, 3, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("--texts", type=int, default=60, help="of the deletion test")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rows, test = read(DATA / "train.csv"), read(DATA / "dev_test.csv")
    is_wrong = np.array([row["label"] != row["crowd_label"] for row in rows])
    run = trained(options.work, rows)
    origin = origin_of("benchmarks.explanations")
    result = {
        **origin,
        "wrong": float(is_wrong.mean()),
        "report": of_report(run),
        "nearest": of_nearest(run, rows, test, is_wrong),
        "words": of_words(run, test, options.texts),
    }
    text = markdown_of(origin, result)
    write_result(RESULTS, stem_of("explanations", origin["hardware"]), result, text)
    print(text)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def trained(work: Path, rows: Sequence[dict[str, str]]) -> Path:
    """A run of three epochs, trained once."""
    run, data = work / "run", work / "train.csv"
    if (run / "merged").exists():
        return run
    with data.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([row["text"], row["crowd_label"]] for row in rows)
    fetch(["minilm"])
    keys = {
        "data": str(data),
        "test": str(DATA / "dev_test.csv"),
        "model": "asset:minilm",
        "output": str(run),
        "max_trainable_params": "100k",
        "max_length": "128",
        "epochs": "3",
    }
    return run_training(load_recipe(None, keys), console=console(stderr=True), overwrite=True)


def of_report(run: Path) -> dict[str, float]:
    """Seconds of the vectors that the report of a run needs, and of its training on as many cores."""
    record = read_finished_record(run)
    recipe = recipe_of_run(run, record.recipe)
    rows = read_rows_again(run, record, recipe, advice="train again").train
    searched = rows_to_search(rows, record.schedule.total_steps * recipe.batch_size, seed=recipe.seed)
    classifier = load(run).classifier
    started = time.perf_counter()
    map_own_rows(classifier, searched, recipe.eval_batch_size, classifier.features)
    seconds = time.perf_counter() - started
    return {"searched": len(searched), "seconds": seconds, "train_s": record.timings["train_s"]}


def of_nearest(
    run: Path, rows: Sequence[dict[str, str]], test: Sequence[dict[str, str]], is_wrong: Any
) -> dict[str, float]:
    """Shares of test rows with a wrong label among the nearest training texts, by whether they are predicted right."""
    (run / FEATURES).unlink(missing_ok=True)
    texts = [row["text"] for row in test]
    started = time.perf_counter()
    explain(run, texts[:1], count=NEAREST, with_words=False)
    first_s = time.perf_counter() - started
    started = time.perf_counter()
    explain(run, texts[:1], count=NEAREST, with_words=False)
    again_s = time.perf_counter() - started
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
    started = time.perf_counter()
    found = explain(run, chosen, count=0)
    seconds = time.perf_counter() - started
    found = [each for each in found if len(each.words) > 2 * DELETED]
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


def markdown_of(origin: dict[str, Any], result: dict[str, Any]) -> str:
    near, words, report = result["nearest"], result["words"], result["report"]
    wrong = f"wrong predictions, {near['wrong_predictions']:,}"
    right = f"right predictions, {near['rows'] - near['wrong_predictions']:,}"
    lines = [
        "# Explanations",
        "",
        f"MiniLM-L6, 3 epochs, on AG News with labels by a crowd, {100 * result['wrong']:.2f} % of 10,000 wrong. "
        f"`{origin['command']}` on {machine_name(origin['hardware'])}, {origin['date']}.",
        "",
        "| | measured |",
        "|---|---:|",
        f"| {wrong}: a wrong label among the 3 nearest training texts | {percent(near['wrong_label_near_wrong'])} |",
        f"| {right}: the same | {percent(near['wrong_label_near_right'])} |",
        f"| 3 random training texts: the same | {percent(near['wrong_label_of_random'])} |",
        f"| wrong predictions: a near wrong label that is the prediction | {percent(near['misleading_near_wrong'])} |",
        f"| right predictions: the same | {percent(near['misleading_near_right'])} |",
        f"| fall of the probability without the 3 highest words, {words['texts']} texts | "
        f"{words['fall_of_highest']:.3f} |",
        f"| without 3 random words | {words['fall_of_random']:.3f} |",
        f"| difference, 95 % interval | {words['difference']:.3f} ({words['low']:.3f} to {words['high']:.3f}) |",
        f"| what the weights do not account for, median | {percent(words['median_gap'])} |",
        f"| weights of the words of a text | {words['seconds_a_text']:.2f} s |",
        f"| nearest training texts, the first time | {near['first_s']:.1f} s |",
        f"| nearest training texts, later, start included | {near['again_s']:.1f} s |",
        f"| vectors of the {report['searched']:,} rows that the report looks through | {report['seconds']:.1f} s |",
        f"| training of that run | {report['train_s']:.0f} s |",
    ]
    return "\n".join(lines) + "\n"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
