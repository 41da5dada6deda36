"""What more rows would give: a curve that is there is found, and its interval holds the truth as often as it says."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leantune.cli.main import main
from leantune.data.split import nested_order
from leantune.data.tokens.dataset import LabelledRows
from leantune.questions.learning_curve.compute import Point, PowerLaw, fit_curve, subset_sizes


def points_of(law: PowerLaw, rng: np.random.Generator, held_out: int = 2000) -> list[Point]:
    sizes = subset_sizes(8000, 4)
    return [
        Point(rows=n, accuracy=1 - rng.binomial(held_out, 1 - law.accuracy(n)) / held_out, held_out=held_out)
        for n in sizes
    ]


def test_the_interval_holds_the_truth():
    """Of 24 curves at least two thirds have the accuracy with twice the rows in a 90 % interval."""
    law, rng, inside = PowerLaw(0.06, 1.5, 0.4), np.random.default_rng(0), 0
    for i in range(24):
        found = fit_curve(points_of(law, rng), seed=i).forecast(16_000)
        inside += found.low - 1e-9 <= law.accuracy(16_000) <= found.high + 1e-9
    assert inside >= 16


def test_the_interval_holds_the_truth_where_trainings_differ():
    """The same with points that lie a point and more beside the curve, as two trainings do, and so does the truth."""
    law, rng, inside = PowerLaw(0.06, 1.5, 0.4), np.random.default_rng(1), 0
    for i in range(24):
        points = [
            Point(rows=each.rows, accuracy=each.accuracy + rng.normal(0, 0.012), held_out=each.held_out)
            for each in points_of(law, rng)
        ]
        found = fit_curve(points, seed=i).forecast(16_000)
        inside += found.low <= law.accuracy(16_000) + rng.normal(0, 0.012) <= found.high
    assert inside >= 16


def test_rows_until_an_accuracy_are_those_of_the_curve():
    law = PowerLaw(0.05, 2.0, 0.5)
    found = fit_curve(
        [Point(rows=n, accuracy=law.accuracy(n), held_out=10**6) for n in subset_sizes(8000, 4)]
    )
    rows, low, high = found.rows_until(0.92)
    assert law.rows_until(0.92) == pytest.approx((2 / 0.03) ** 2)
    assert rows == pytest.approx(law.rows_until(0.92), rel=0.2)
    assert low <= rows <= high
    assert found.rows_until(0.99)[0] == math.inf


@settings(deadline=None, max_examples=25)
@given(floor=st.floats(0, 0.3), scale=st.floats(0, 3), exponent=st.floats(0.1, 1.2))
def test_a_fit_is_a_curve_that_rises(floor, scale, exponent):
    law = PowerLaw(floor, scale, exponent)
    points = [Point(rows=n, accuracy=max(0.0, law.accuracy(n)), held_out=500) for n in (250, 500, 1000, 2000)]
    fitted = fit_curve(points).fitted
    assert fitted.floor >= 0
    assert fitted.accuracy(1e6) >= fitted.accuracy(2000) - 1e-12


def test_subsets_are_nested_and_in_proportion():
    labels = np.array([0] * 600 + [1] * 300 + [2] * 100)
    rows = LabelledRows((), np.zeros(1000, dtype=np.int64), np.arange(1000), labels)
    order = nested_order(rows.label_ids, seed=0)
    assert sorted(order) == list(range(1000))
    for size in (50, 125, 500):
        shares = np.bincount(labels[order[:size]], minlength=3) / size
        assert np.abs(shares - [0.6, 0.3, 0.1]).max() < 0.03


def test_the_command_measures_and_forecasts(inputs, capsys):
    words = ["--data", str(inputs / "train.csv"), "--validation", str(inputs / "test.csv"), "--model"]
    words += [str(inputs / "encoder"), "--init-rank", "2", "--max-length", "32", "--epochs", "4", "--quiet"]
    assert main(["learning-curve", *words, "--target", "99%", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["rows"] for each in found["points"]] == [60, 120, 240]
    assert [each["rows"] for each in found["forecast"]] == [480, 960, 2400]
    assert set(found["rows_until"]) == {"accuracy", "rows", "low", "high"}
    assert main(["learning-curve", *words]) == 0
    assert "The forecast is a fitted power law" in capsys.readouterr().out


def test_too_few_rows_are_refused(inputs, tmp_path, capsys):
    (tmp_path / "few.csv").write_text("text,label\n" + "word1 word2,a\nword9,b\n" * 20)
    words = ["learning-curve", "--data", str(tmp_path / "few.csv"), "--model", str(inputs / "encoder")]
    assert main(words) == 3
    assert "too few for a learning curve" in capsys.readouterr().err
