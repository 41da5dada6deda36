"""When a classifier should not answer: the promise of a threshold holds, and everything that predicts keeps to it."""

from __future__ import annotations

import csv
import json
import urllib.error
import urllib.request
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import leantune
from leantune.cli.main import main
from leantune.config.abstention_file import Abstention, Threshold, read_abstention, write_abstention
from leantune.errors import DataError, UsageError
from leantune.evaluation.abstention import with_temperature
from leantune.inference.load import load
from leantune.questions.abstain.compute import choose_abstention, fit_temperature, threshold_for
from servers import ServerProcess


def drawn(rng: np.random.Generator, rows: int, *, overconfident: float = 1.0):
    """Confidences, and predictions that are right with a probability that grows with them."""
    true = rng.beta(4, 1, rows)
    return true ** (1 / overconfident), rng.random(rows) < true


@pytest.mark.parametrize("rows", [100, 400, 2000])
@pytest.mark.parametrize("precision", [0.85, 0.95])
def test_the_promise_holds_at_its_level(rows, precision):
    """Of 400 drawings at most a share of 10 % gives a threshold that does not keep the precision in the population."""
    rng = np.random.default_rng(rows)
    population, population_right = drawn(rng, 400_000)
    broken = 0
    for _ in range(400):
        found = threshold_for(*drawn(rng, rows), precision=precision, confidence=0.9)
        if found is not None:
            broken += population_right[population >= found.least].mean() < precision
    assert broken <= 40 + 3 * np.sqrt(400 * 0.1 * 0.9)


def test_many_rows_come_near_the_best_threshold():
    rng = np.random.default_rng(0)
    confidence, is_right = drawn(rng, 20_000)
    found = threshold_for(confidence, is_right, precision=0.9, confidence=0.95)
    order = np.argsort(-confidence)
    shares = np.cumsum(is_right[order]) / np.arange(1, len(order) + 1)
    best = np.flatnonzero(shares >= 0.9).max() / len(order)
    assert best - 0.06 < found.coverage <= best + 0.01


def test_no_threshold_is_better_than_a_wrong_one():
    rng = np.random.default_rng(0)
    assert threshold_for(rng.random(500), rng.random(500) < 0.5, precision=0.9, confidence=0.95) is None
    assert threshold_for(np.array([0.9]), np.array([True]), precision=0.9, confidence=0.95) is None
    assert threshold_for(np.empty(0), np.empty(0, bool), precision=0.9, confidence=0.95) is None


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.3, 4.0))
def test_the_temperature_undoes_a_scaling_of_logits(seed, factor):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(4000, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(3, p=row) for row in probabilities])
    scaled = with_temperature(probabilities, 1 / factor)
    assert abs(np.log(fit_temperature(scaled, labels) / factor)) < 0.15
    assert np.abs(with_temperature(scaled, factor) - probabilities).max() < 1e-9


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="39 rows, expected at least 40 rows"):
        choose_abstention(
            np.full((39, 2), 0.5),
            np.zeros(39, int),
            ("a", "b"),
            precision=0.9,
            confidence=0.95,
            source="x.csv",
        )


@pytest.fixture(scope="module")
def sure(run, inputs, tmp_path_factory):
    """A copy of the run that knows when not to answer."""
    copy = load(run).save(tmp_path_factory.mktemp("sure") / "run")
    assert main(["abstain", str(copy), "--precision", "80%", "--data", str(inputs / "train.csv")]) == 0
    return copy


def test_the_command_writes_both_folders_and_the_run_stays_whole(sure, capsys):
    found = read_abstention(sure)
    assert found == read_abstention(sure / "adapter") == read_abstention(sure / "merged")
    assert found.precision == 0.8
    assert load(sure).abstention == found
    assert main(["abstain", str(sure), "--precision", "0.9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == 0.9
    assert main(["abstain", str(sure), "--precision", "80%"]) == 0


def test_python_chooses_what_the_command_does(sure, inputs, capsys):
    with (inputs / "test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (
        main(["abstain", str(sure), "--precision", "80%", "--data", str(inputs / "test.csv"), "--json"]) == 0
    )
    printed = json.loads(capsys.readouterr().out)
    found = leantune.abstain(sure, inputs / "test.csv", precision=0.8, quiet=True)
    assert found == read_abstention(sure / "merged") == read_abstention(sure / "adapter")
    in_memory = [row["text"] for row in rows], [row["label"] for row in rows]
    same = leantune.abstain(sure, in_memory, precision=0.8, quiet=True)
    assert (same.overall, same.temperature) == (found.overall, found.temperature)
    assert printed == asdict(found)
    with pytest.raises(UsageError, match="precision must be between 0 and 1"):
        leantune.abstain(sure, precision=95)


def test_labels_are_left_empty_where_the_threshold_says_so(sure, inputs, tmp_path):
    half = float(np.median(load(sure).predict_proba(texts_of(inputs)).max(1)))
    write_abstention(sure / "merged", with_least(half))
    out = tmp_path / "out.csv"
    assert main(["predict", str(sure), str(inputs / "test.csv"), "--output", str(out), "--abstain"]) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    empty = [row["label"] == "" for row in rows]
    assert empty == [float(row["score"]) < half for row in rows]
    assert 20 < sum(empty) < 40
    found = load(sure).predict_or_abstain(texts_of(inputs))
    assert [each is None for each in found] == empty


def test_thresholds_of_classes_count_where_they_are_asked_for(sure, inputs):
    write_abstention(sure / "merged", with_least(0.0, per_class={"a": 0.0}))
    texts = texts_of(inputs)
    labels = load(sure).predict(texts)
    assert load(sure).predict_or_abstain(texts) == labels
    assert load(sure).predict_or_abstain(texts[0]) == labels[0]
    assert load(sure).predict_or_abstain(texts, per_class=True) == [
        each if each == "a" else None for each in labels
    ]


def test_the_server_gives_no_label_below_the_threshold(sure, run, inputs):
    half = float(np.median(load(sure).predict_proba(texts_of(inputs)).max(1)))
    write_abstention(sure / "merged", with_least(half))
    texts = texts_of(inputs)
    with ServerProcess(f"sure={sure}", f"plain={run}") as server:
        answers = ask(server.url, {"inputs": [[text] for text in texts], "abstain": True})
        expected = load(sure).predict_or_abstain(texts)
        assert [each[0]["label"] if each else None for each in answers] == expected
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(server.url, {"inputs": "word1", "abstain": True, "model": "plain"})
        assert refused.value.code == 422
        refused.value.close()


def test_a_classifier_without_a_threshold_says_what_to_do(run, inputs, tmp_path, capsys):
    with pytest.raises(UsageError, match=r"leantune abstain \S+ --precision 95%"):
        load(run).predict_or_abstain(["word1"])
    assert (
        main(
            ["predict", str(run), str(inputs / "test.csv"), "--output", str(tmp_path / "x.csv"), "--abstain"]
        )
        == 2
    )
    assert "no threshold was chosen" in capsys.readouterr().err
    for word in ("0", "100%", "much"):
        assert main(["abstain", str(run), "--precision", word]) == 2
        assert f"--precision {word!r}: must be a share" in capsys.readouterr().err


def texts_of(inputs) -> list[str]:
    with (inputs / "test.csv").open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def with_least(least: float, per_class: dict[str, float] | None = None) -> Abstention:
    def threshold(value: float) -> Threshold:
        return Threshold(least=value, rows=100, coverage=0.5, precision=0.9)

    return Abstention(
        precision=0.9,
        confidence=0.95,
        temperature=1.0,
        source="test",
        overall=threshold(least),
        per_class={name: threshold(value) for name, value in (per_class or {}).items()},
    )


def ask(url: str, body: object):
    request = urllib.request.Request(
        f"{url}/predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())
