"""`leantune.spark.predict_udf` in real Spark, on this machine: as `leantune predict`, row by row."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from leantune.inference.load import load

pytest.importorskip("pyspark", reason="pip install 'leantune[spark]'")
if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
    pytest.skip("Spark needs Java", allow_module_level=True)

import leantune.spark

pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.local.dir", str(tmp_path_factory.mktemp("spark")))
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    yield session
    session.stop()


@pytest.fixture(scope="module")
def texts(inputs) -> list[str]:
    with (inputs / "test.csv").open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def frame_of(spark, texts, partitions: int = 3):
    rows = [(i, text) for i, text in enumerate(texts)]
    return spark.createDataFrame(rows, "id long, text string").repartition(partitions)


def test_labels_and_scores_are_those_of_the_classifier(spark, run, texts, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    predict = leantune.spark.predict_udf(tmp_path / "run", probabilities=True, batch_size=7)
    shutil.rmtree(tmp_path / "run")  # as on a node that has no such folder
    frame = frame_of(spark, texts)
    found = frame.withColumn("prediction", predict(frame.text)).orderBy("id").collect()
    trained = load(run)
    probabilities = trained.predict_proba(texts)
    assert [row.id for row in found] == list(range(60))
    assert [row.prediction.label for row in found] == trained.predict(texts)
    assert np.allclose([row.prediction.score for row in found], probabilities.max(axis=1), atol=2e-6)
    assert np.allclose([row.prediction.probabilities for row in found], probabilities, atol=2e-6)


def test_two_functions_of_one_classifier_work_in_one_session(spark, run, texts):
    frame = frame_of(spark, texts[:5])
    for _ in range(2):
        predict = leantune.spark.predict_udf(run)
        assert len(frame.select(predict("text").alias("p")).select("p.label", "p.score").collect()) == 5


def test_a_table_without_rows_and_more_partitions_than_rows_are_no_error(spark, run, texts):
    predict = leantune.spark.predict_udf(run)
    empty = frame_of(spark, texts).filter("id < 0")
    assert empty.select(predict("text")).collect() == []
    assert len(frame_of(spark, texts[:2], partitions=6).select(predict("text")).collect()) == 2


def test_a_text_that_is_missing_is_named(spark, run):
    predict = leantune.spark.predict_udf(run)
    frame = spark.createDataFrame([("word1",), (None,)], "text string").coalesce(1)
    with pytest.raises(Exception, match=r"column 'texts', row 1 of a batch \(counted from 0\): null"):
        frame.select(predict("text")).collect()


def test_without_a_session_the_user_is_told_to_make_one(run):
    code = f"import leantune.spark; leantune.spark.predict_udf({str(run)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "no active Spark session; create one with" in done.stderr.splitlines()[-1]
