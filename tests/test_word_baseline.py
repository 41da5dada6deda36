"""The linear SVM on words that stands beside the linear probe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from leantune.config.record.run import BegunRecord, read_record
from leantune.report.results import baselines_of
from leantune.training.run import run_training
from tiny import quiet, recipe_for, save_tiny_encoder

SIGNS = ["🙂", "🙁", "!"]


def lines(rows: list[dict[str, Any]], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def trained(folder: Path, **recipe: Any) -> BegunRecord:
    """The record of one epoch on ``train.jsonl``, and ``test.jsonl`` if there is one."""
    save_tiny_encoder(folder / "encoder")
    test = folder / "test.jsonl"
    files = {"data": str(folder / "train.jsonl"), "test": str(test) if test.exists() else None}
    run = run_training(
        recipe_for(folder, folder / "run", epochs=1, seed=0, **files | recipe), console=quiet()
    )
    return read_record(run, BegunRecord)


def words() -> TfidfVectorizer:
    return TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\w+|[^\w\s]")


def test_rates_are_those_of_scikit_learn_on_the_same_rows(tmp_path):
    """Texts hold more than the encoder can read: the words of a class are beyond the cut."""
    rows = [
        {"text": f"word{i % 7} word{i % 5} word3 " * 4 + SIGNS[i % 3] * (i % 4 > 0), "label": "abc"[i % 3]}
        for i in range(120)
    ]
    train, test = rows[:60], rows[60:]
    lines(train, tmp_path / "train.jsonl")
    lines(test, tmp_path / "test.jsonl")
    validation = lines(train[:20], tmp_path / "validation.jsonl")
    record = trained(tmp_path, validation=str(validation), validation_size=None, max_length=8)
    svm = make_pipeline(words(), LinearSVC(random_state=0))
    svm.fit([row["text"] for row in train], [row["label"] for row in train])
    expected = svm.score([row["text"] for row in test], [row["label"] for row in test])
    found = record.word_baseline
    assert 0.5 < expected < 1
    assert found.test.accuracy == expected
    assert found.test.num_rows == 60
    assert (found.rows, found.validation.num_rows) == (60, 20)
    assert [name for name, _ in baselines_of(record, "test")] == ["linear probe", "SVM on words"]


def test_several_labels(tmp_path):
    def row(i: int) -> dict[str, Any]:
        labels = [name for name, every in (("oil", 2), ("grain", 3)) if i % every == 0]
        text = " ".join([f"word{9 + ['oil', 'grain'].index(label)}" for label in labels])
        return {"text": f"{text} word{i % 5}", "label": labels}

    rows = [row(i) for i in range(80)]
    lines(rows[:40], tmp_path / "train.jsonl")
    lines(rows[40:], tmp_path / "test.jsonl")
    record = trained(tmp_path, validation_size=0, problem_type="multi_label_classification")
    svm = make_pipeline(words(), OneVsRestClassifier(LinearSVC(random_state=0)))
    labels = np.array([[int(name in each["label"]) for name in record.labels.names] for each in rows])
    svm.fit([each["text"] for each in rows[:40]], labels[:40])
    expected = (svm.predict([each["text"] for each in rows[40:]]) == labels[40:]).all(axis=1).mean()
    assert record.word_baseline.test.accuracy == expected
    assert record.word_baseline.test.micro_f1 is not None
    assert record.word_baseline.validation is None


@pytest.mark.parametrize("pair", [None, "second"])
def test_texts_of_signs_alone_and_pairs(tmp_path, pair):
    rows = [{"text": SIGNS[i % 2], "second": "word1", "label": i % 2} for i in range(60)]
    lines(rows, tmp_path / "train.jsonl")
    record = trained(tmp_path, validation_size=10, text_pair_column=pair)
    assert record.word_baseline.validation.accuracy == 1.0
