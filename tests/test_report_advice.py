"""What the page warns of: each warning where its cause is, and none where it is not."""

from __future__ import annotations

from typing import Any

import pytest

from leantune.report.advice import advice
from leantune.report.run_folder import load_run
from test_report import example_record, metrics_json, page_of, write_run


@pytest.fixture
def record() -> dict[str, Any]:
    """A run about which there is nothing to say."""
    record = example_record()
    record["data"]["train"]["truncated_rows"] = 0
    record["data"]["train"]["label_counts"] = dict.fromkeys(record["labels"]["names"], 605)
    return record


def said(folder, record: dict[str, Any]) -> list[str]:
    return [one.finding for one in advice(load_run(write_run(folder, record, [])))]


def test_of_a_good_run_nothing_is_said(tmp_path, record):
    assert said(tmp_path, record) == []
    assert 'class="advice"' not in " ".join(page_of(tmp_path, record, []).values_of("class"))


def test_few_rows(tmp_path, record):
    record["data"]["train"]["rows"] = 120
    assert said(tmp_path, record) == ["There are only 120 training rows."]


def test_many_texts_are_cut(tmp_path, record):
    record["data"]["train"]["truncated_rows"] = 600
    record["lengths"] = {"width": 10, "counts": [1], "median": 90, "percentile_95": 300, "longest": 900,
                         "max_length": 256}  # fmt: skip
    [one] = advice(load_run(write_run(tmp_path, record, [])))
    assert one.finding == "600 of 4,845 training texts (12.4\N{NO-BREAK SPACE}%) are truncated."
    assert "max_length=300" in one.advice
    assert one.section == "lengths"


def test_equal_texts_under_two_labels(tmp_path, record):
    record["data"]["train"]["conflicting_rows"] = 4
    record["data"]["test"]["conflicting_rows"] = 2
    assert said(tmp_path, record) == ["6 rows have the same text as a row with another label."]
    assert "4 training rows, 2 test rows have the same text" in page_of(tmp_path, record, []).text


def test_rare_classes(tmp_path, record):
    record["data"]["train"]["label_counts"]["grain"] = 3
    assert said(tmp_path, record) == ["1 class has fewer than 10 training rows: grain."]
    record["data"]["train"]["label_counts"] = {f"class {i}": 1 for i in range(8)}
    [finding] = said(tmp_path, record)
    assert finding.endswith("class 0, class 1, class 2, class 3, class 4 and 3 more.")


def test_test_rows_that_were_trained_on(tmp_path, record):
    record["data"]["test"]["rows_also_in_train"] = 9
    assert said(tmp_path, record) == ["9 of 2,189 test rows are also in the training data."]


def test_overfitting(tmp_path, record):
    last = record["checkpoints"][-1]["validation"]
    last["log_loss"] = 2 * min(one["validation"]["log_loss"] for one in record["checkpoints"])
    [finding] = said(tmp_path, record)
    assert finding.startswith("The run overfits: validation log loss")


def test_no_test_set(tmp_path, record):
    record["metrics"]["test"] = None
    assert "There is no test set." in said(tmp_path, record)


def test_a_wide_interval(tmp_path, record):
    record["metrics"]["test"] = metrics_json(60, 3.0)
    record["baseline"] = None
    assert said(tmp_path, record)[0].startswith(
        "The accuracy is uncertain: its 95\N{NO-BREAK SPACE}% interval is 1"
    )


def test_a_baseline_that_is_as_good(tmp_path, record):
    record["baseline"]["test"] = record["metrics"]["test"]
    assert said(tmp_path, record) == ["The linear probe is at least as accurate: 99.2\N{NO-BREAK SPACE}%."]


def test_words_that_are_as_good(tmp_path, record):
    rates = {"num_rows": 640, "accuracy": 0.995, "accuracy_interval": [0.99, 1.0]}
    rates |= {"macro_f1": 0.99, "macro_f1_interval": [0.98, 1.0]}
    record["word_baseline"] = {
        "name": "SVM on words",
        "rows": 9,
        "seconds": 1.0,
        "validation": None,
        "test": rates,
    }
    assert said(tmp_path, record) == ["The SVM on words is at least as accurate: 99.5\N{NO-BREAK SPACE}%."]


@pytest.mark.parametrize(("mean", "word"), [(0.9, "under"), (0.999, ""), (0.99, "")])
def test_poor_calibration(tmp_path, record, mean, word):
    record["confidence"] = {
        "test": {"mean_confidence": mean, "bins": [], "coverage": [], "suspect_labels": 0}
    }
    assert [word for one in said(tmp_path, record) if f"The model is {word}confident" in one] == [
        word
    ] * bool(word)


def test_classes_that_are_not_found(tmp_path, record):
    record["metrics"]["test"]["per_class"][2] |= {"recall": 0.1, "support": 40}
    record["metrics"]["test"]["per_class"][3] |= {"recall": 0.0, "support": 2}
    [finding] = said(tmp_path, record)
    assert finding == "1 class has a recall below 50\N{NO-BREAK SPACE}%: crude (10.0\N{NO-BREAK SPACE}%)."
