"""`leantune.ray.predictor_class` in real Ray Data: as `leantune predict`, batch by batch."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from leantune.cli.main import main
from leantune.errors import UsageError

ray = pytest.importorskip("ray", reason="pip install 'leantune[ray]'")

import leantune.ray  # noqa: E402 - needs it

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture
def expected(run, inputs, tmp_path) -> list[dict[str, str]]:
    """What the command writes."""
    output = tmp_path / "expected.csv"
    arguments = ["predict", str(run), str(inputs / "test.csv"), "--output", str(output), "--probabilities"]
    assert main([*arguments, "--quiet"]) == 0
    with output.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def actor(cluster, run):
    """A predictor in an actor, as Ray Data has it."""
    return ray.remote(leantune.ray.predictor_class(run)).options(num_cpus=0).remote()


def rows_of(inputs: Path) -> list[dict[str, object]]:
    with (inputs / "test.csv").open(newline="") as file:
        return [{"id": i, "text": row["text"]} for i, row in enumerate(csv.DictReader(file))]


@pytest.mark.parametrize(
    "batch_format",
    [
        "numpy",
        pytest.param("pandas", marks=pytest.mark.long),
        pytest.param("pyarrow", marks=pytest.mark.long),
    ],
)
def test_labels_and_scores_are_those_of_the_command(cluster, run, inputs, expected, tmp_path, batch_format):
    shutil.copytree(run, tmp_path / "run")
    predictor = leantune.ray.predictor_class(tmp_path / "run", probabilities=True)
    shutil.rmtree(tmp_path / "run")  # as on a node that has no such folder
    found = (
        ray.data.from_items(rows_of(inputs))
        .map_batches(
            predictor, compute=ray.data.ActorPoolStrategy(size=1), batch_size=7, batch_format=batch_format
        )
        .take_all()
    )
    found.sort(key=lambda row: row["id"])
    assert len(found) == len(expected) == 60
    for row, wanted in zip(found, expected, strict=True):
        assert row["label"] == wanted["label"]
        assert list(row) == ["id", "text", "label", "score", "p_a", "p_b", "p_c"]
        for name in ("score", "p_a", "p_b", "p_c"):
            assert row[name] == pytest.approx(float(wanted[name]), abs=2e-6)


@pytest.mark.long
def test_actors_share_what_their_node_unpacked_and_have_the_threads_of_their_cores(cluster, run, inputs):
    predictor = leantune.ray.predictor_class(run)

    class Probe(predictor):
        def __call__(self, batch):
            import torch

            size = len(batch["text"])
            facts = {
                "threads": torch.get_num_threads(),
                "place": str(self._trained.source),
                "process": os.getpid(),
            }
            return super().__call__(batch) | {name: [value] * size for name, value in facts.items()}

    found = (
        ray.data.from_items(rows_of(inputs), override_num_blocks=4)
        .map_batches(Probe, compute=ray.data.ActorPoolStrategy(size=2), batch_size=5)
        .take_all()
    )
    assert {row["threads"] for row in found} == {1}
    assert len({row["place"] for row in found}) == 1
    of_two_cores = ray.remote(Probe).options(num_cpus=2).remote()
    answer = ray.get(of_two_cores.__call__.remote({"text": np.array(["word1"], dtype=object)}))
    ray.kill(of_two_cores)
    assert answer["threads"] == [2]
    assert answer["place"] == [found[0]["place"]]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"id": [7, 8], "text": ["word1", None]},
            r"column 'text', row 1 of a batch .*id=8\): null, expected a text",
        ),
        ({"text": [1.5, 2.5]}, r"column 'text', row 0 of a batch .*: a number, expected a text"),
        ({"txet": ["word1"]}, "no column 'text' in the rows, which have 'txet'; did you mean 'txet'"),
        ({"text": ["word1"], "label": ["a"]}, "the rows already have a column 'label': set prefix"),
    ],
)
def test_rows_that_cannot_be_classified_are_named(actor, batch, message):
    import pyarrow as pa

    table = pa.table(batch)
    numpy = {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}
    for form in (table, table.to_pandas(), numpy):
        with pytest.raises(Exception, match=message):
            ray.get(actor.__call__.remote(form))


def test_a_text_that_is_missing_ends_a_pipeline_with_its_row(cluster, run):
    rows = ray.data.from_items([{"id": 7, "text": "word1"}, {"id": 8, "text": None}], override_num_blocks=1)
    compute = ray.data.ActorPoolStrategy(size=1)
    with pytest.raises(Exception, match=r"column 'text', row 1 of a batch .*id=8\): null, expected a text"):
        rows.map_batches(leantune.ray.predictor_class(run), compute=compute).take_all()


def test_a_prefix_keeps_columns_of_the_rows(cluster, run):
    predictor = leantune.ray.predictor_class(run, prefix="predicted_")
    dataset = ray.data.from_items([{"text": "word1", "label": "mine"}])
    (row,) = dataset.map_batches(predictor, compute=ray.data.ActorPoolStrategy(size=1)).take_all()
    assert row["label"] == "mine"
    assert row["predicted_label"] in ("a", "b", "c")


def test_no_rows_and_empty_texts_are_no_error(cluster, run):
    predictor = leantune.ray.predictor_class(run)
    compute = ray.data.ActorPoolStrategy(size=1)
    rows = ray.data.from_items([{"text": ""}, {"text": "word1"}])
    assert len(rows.map_batches(predictor, compute=compute).take_all()) == 2
    none = rows.map_batches(lambda batch: {name: values[:0] for name, values in batch.items()})
    assert none.map_batches(predictor, compute=compute).take_all() == []


def test_a_folder_of_nothing_is_refused_before_anything_is_sent(tmp_path):
    with pytest.raises(UsageError, match="no run found"):
        leantune.ray.predictor_class(tmp_path)


@pytest.mark.parametrize(
    ("module", "call", "needed"),
    [("ray", "ray.predictor_class", "leantune.ray needs ray: pip install 'leantune[ray]'"),
     ("pyspark", "spark.predict_udf", "leantune.spark needs pyspark: pip install 'leantune[spark]'")],
)  # fmt: skip
def test_a_package_that_is_missing_is_named(run, module, call, needed):
    room = call.partition(".")[0]
    code = f"""
import sys
sys.modules[{module!r}] = None
import leantune.{room}
try:
    leantune.{call}({str(run)!r})
except leantune.errors.UsageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == needed
