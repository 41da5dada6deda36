"""Many classifiers from one table: what is refused, what is trained, and what survives."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from browser import BASH, CHROMIUM, Browser
from commands import DEVNULL, commands
from leantune.cluster.many.jobs import read_jobs
from leantune.cluster.many.overview import write_overview
from leantune.cluster.many.results import JobResult
from leantune.errors import DataError, UsageError

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
LONG = 60
"""Epochs of a job that is disturbed; 240 rows less 48 in batches of 16 are 12 steps each."""
SHARED = {
    "init_rank": "4",
    "target_rank": "1",
    "batch_size": "16",
    "learning_rate": "1e-2",
    "adapter_init": "normal",
    "max_length": "32",
    "precision": "fp32",
    "validation_size": "48",
    "epochs": "2",
}


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    """A CSV with all columns that a row has."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def words_of(inputs: Path, **changes: str) -> list[str]:
    keys = {**SHARED, "data": str(inputs / "train.csv"), "model": str(inputs / "encoder"), **changes}
    return [f"{key}={value}" for key, value in keys.items()]


def run_command(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = commands().run(*words, env=ENVIRONMENT, timeout=300)
    assert done.returncode == code, done.stderr
    return done


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "jobs.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def adapter_of(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def children_of(pid: int) -> list[int]:
    """The processes that ``pid`` started and that compute: not the tracker of multiprocessing."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((each / "stat").read_text().rpartition(") ")[2].split()[1])
            words = (each / "cmdline").read_bytes()
        except (OSError, IndexError):  # it has ended
            continue
        if parent == pid and b"spawn_main" in words:
            found.append(int(each.name))
    return found


def wait_for(found: Callable[[], object], seconds: float = 120) -> object:
    ended = time.monotonic() + seconds
    while time.monotonic() < ended:
        if value := found():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not there after {seconds} s")


def has_checkpoint(run: Path) -> bool:
    return any((run / "checkpoints").glob("step-*/MANIFEST.json"))


@pytest.fixture(scope="module")
def table(inputs, tmp_path_factory) -> Path:
    rows = [
        {"name": "plain", "seed": "1"},
        {"name": "lora", "method": "lora", "target_rank": "4", "advanced.adapter_init": "lora", "seed": "2"},
        {"name": "broken", "max_trainable_params": "1"},
    ]
    return write_table(tmp_path_factory.mktemp("table") / "jobs.csv", rows)


@pytest.fixture(scope="module")
def trained(inputs, table, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """All jobs of the table, two at a time where there are two cores; one of them cannot be."""
    folder = tmp_path_factory.mktemp("many") / "runs"
    words = words_of(inputs, test=str(inputs / "test.csv"))
    return folder, run_command("train-many", str(table), "--output", str(folder), *words, code=1)


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory) -> Path:
    """The long job, trained by itself."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run_command("train", *words_of(inputs, epochs=str(LONG), seed="5"), f"output={folder}")
    return folder


def long_job(inputs: Path, folder: Path) -> list[str]:
    table = write_table(folder / "jobs.csv", [{"name": "long", "epochs": str(LONG), "seed": "5"}])
    return ["train-many", str(table), "--output", str(folder / "runs"), "--workers", "1", *words_of(inputs)]


def test_a_table_says_what_is_wrong_with_it(inputs, tmp_path):
    rows = [
        {"name": "a", "data": str(inputs / "train.csv"), "learning_rate": "fast", "advanced.warmup": "-1"},
        {"name": "a", "data": str(inputs / "train.csv"), "epochs": "2"},
        {"name": "b/c", "data": str(inputs / "train.csv")},
        {"name": "d", "data": str(inputs / "train.csv"), "init_rank": "2", "target_rank": "3"},
        {"name": "a", "data": str(inputs / "train.csv")},
    ]
    table = write_table(tmp_path / "jobs.csv", rows)
    with pytest.raises(UsageError) as caught:
        read_jobs(str(table), {"model": str(inputs / "encoder")}, tmp_path / "runs")
    text = str(caught.value)
    assert f"{table}:2:learning_rate: learning_rate must be a number. Got 'fast' instead" in text
    assert f"{table}:4:name: 'b/c' is not a valid folder name" in text
    assert f"{table}:5: init_rank must be above target_rank=3. Got 2 instead" in text
    assert f"{table}:6: the name 'a' is already used by {table}:3" in text


def test_a_column_that_is_no_key_is_named_with_the_nearest(inputs, tmp_path):
    table = write_table(tmp_path / "jobs.csv", [{"data": str(inputs / "train.csv"), "epoch": ""}])
    with pytest.raises(UsageError, match=r"unknown column 'epoch', .*; did you mean 'epochs'\?"):
        read_jobs(str(table), {"model": "x"}, tmp_path / "runs")


def test_two_jobs_with_one_output_and_a_job_in_the_folder_of_all_are_refused(inputs, tmp_path):
    data = {"data": str(inputs / "train.csv"), "model": "x"}
    outputs = ("one", "one/../one", "runs")
    table = write_table(tmp_path / "jobs.csv", [data | {"output": str(tmp_path / each)} for each in outputs])
    with pytest.raises(UsageError) as caught:
        read_jobs(str(table), {}, tmp_path / "runs")
    assert f"{table}:3: output {tmp_path}/one/../one is already used by {table}:2" in str(caught.value)
    assert f"{table}:4: output {tmp_path}/runs is already used by --output" in str(caught.value)


def test_files_of_rows_are_looked_for_before_anything_is_trained(inputs, tmp_path):
    good = {"data": str(inputs / "train.csv")}
    table = write_table(tmp_path / "jobs.csv", [good, good | {"test": str(inputs / "tset.csv")}])
    with pytest.raises(UsageError, match=r"jobs.csv:3:test: .*did you mean 'test.csv'"):
        read_jobs(str(table), {"model": "x"}, tmp_path / "runs")
    table = write_table(tmp_path / "jobs.csv", [good | {"text_column": "words"}])
    with pytest.raises(DataError, match="no column 'words'"):
        read_jobs(str(table), {"model": "x"}, tmp_path / "runs")


def test_rows_go_before_words_and_empty_cells_say_nothing(inputs, tmp_path):
    rows = [{"name": "a", "max_seq_length": "20"}, {"name": "b", "advanced.warmup": "0.2"}, {"epochs": "3"}]
    common = {"data": str(inputs / "train.csv"), "model": "x", "epochs": "5", "max_length": "10"}
    jobs = read_jobs(str(write_table(tmp_path / "jobs.csv", rows)), common, tmp_path / "runs")
    assert [job.name for job in jobs] == ["a", "b", "3"]
    assert [job.recipe.epochs for job in jobs] == [5, 5, 3]
    assert [job.recipe.max_length for job in jobs] == [20, 10, 10]
    assert [job.recipe.advanced.warmup for job in jobs] == [0.1, 0.2, 0.1]
    assert [job.recipe.output for job in jobs] == [str(tmp_path / "runs" / job.name) for job in jobs]


def test_objects_of_different_keys_and_a_sheet_are_tables_too(inputs, tmp_path):
    common = {"data": str(inputs / "train.csv"), "model": "x"}
    lines = [{"name": "a", "epochs": 4}, {"name": 7, "advanced": {"warmup": 0.3}, "labels": ["a", "b", "c"]}]
    path = tmp_path / "jobs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    jobs = read_jobs(str(path), common, tmp_path)
    assert [(job.name, job.recipe.epochs, job.recipe.advanced.warmup) for job in jobs] == [
        ("a", 4, 0.1),
        ("7", None, 0.3),
    ]
    path.write_text(path.read_text() + '{"nmae": "c"}\n')
    with pytest.raises(UsageError, match=r"unknown column 'nmae', .*; did you mean 'name'"):
        read_jobs(str(path), common, tmp_path)
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["name", "epochs", "learning_rate"], ["a", 4, None], [12, None, 0.01]):
        book.active.append(row)
    book.save(tmp_path / "jobs.xlsx")
    jobs = read_jobs(str(tmp_path / "jobs.xlsx"), common, tmp_path)
    assert [(job.name, job.recipe.epochs, job.recipe.learning_rate) for job in jobs] == [
        ("a", 4, None),
        ("12", None, 0.01),
    ]


def test_a_job_that_fails_is_a_row_and_the_others_are_trained(trained):
    folder, done = trained
    rows = rows_of(folder)
    assert [row["status"] for row in rows.values()] == ["finished", "finished", "failed"]
    assert "max_trainable_params=1 is too small" in rows["broken"]["error"]
    record = json.loads((folder / "plain" / "record.json").read_text())
    assert float(rows["plain"]["validation"]) == pytest.approx(
        record["metrics"]["validation"]["accuracy"], abs=1e-6
    )
    assert float(rows["plain"]["test_accuracy"]) == pytest.approx(
        record["metrics"]["test"]["accuracy"], abs=1e-6
    )
    assert int(rows["plain"]["trainable_parameters"]) == record["parameters"]["final"]
    assert sorted(line.partition(" of 3: ")[0] for line in done.stderr.splitlines()[:3]) == ["1", "2", "3"]
    assert "1 of 3 jobs did not finish, the first: broken: max_trainable_params=1" in done.stderr
    assert (folder / "lora" / "report.html").is_file()
    assert (folder / "lora" / "README.md").is_file()


@pytest.mark.long
def test_a_job_has_the_bits_of_a_run_by_itself(inputs, trained, tmp_path):
    """One of them is not the first that its process trained."""
    jobs = {
        "plain": {"seed": "1"},
        "lora": {"seed": "2", "method": "lora", "target_rank": "4", "adapter_init": "lora"},
    }
    for name, changes in jobs.items():
        words = words_of(inputs, test=str(inputs / "test.csv"), **changes)
        run_command("train", *words, f"output={tmp_path / name}")
        assert adapter_of(trained[0] / name) == adapter_of(tmp_path / name)


@pytest.mark.long
def test_resume_leaves_what_is_finished_and_trains_what_is_missing(inputs, table, trained, tmp_path):
    folder = Path(shutil.copytree(trained[0], tmp_path / "runs"))
    before = (folder / "plain" / "record.json").stat().st_mtime_ns
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    rows[2]["max_trainable_params"] = ""
    repaired = write_table(tmp_path / "jobs.csv", [*rows, {"name": "new", "seed": "9"}])
    words = words_of(inputs, test=str(inputs / "test.csv"))
    again = ["train-many", str(repaired), "--output", str(folder), *words]
    assert "already holds a run; choose another output, or add --resume" in run_command(*again, code=2).stderr
    done = run_command(*again, "--resume")
    assert [row["status"] for row in rows_of(folder).values()] == ["finished"] * 4
    assert [row["attempts"] for row in rows_of(folder).values()] == ["0", "0", "1", "1"]
    assert (folder / "plain" / "record.json").stat().st_mtime_ns == before
    assert "3 of 4: " in done.stderr
    other = run_command(*again, "learning_rate=5e-3", "--resume", code=2)
    assert "holds a run with another recipe (learning_rate: was 0.01, is 0.005)" in other.stderr


@pytest.mark.long
def test_a_worker_that_is_killed_is_replaced_and_the_job_has_the_same_bits(inputs, undisturbed, tmp_path):
    folder = tmp_path / "runs"
    with commands().start(*long_job(inputs, tmp_path), env=ENVIRONMENT) as process:
        wait_for(lambda: has_checkpoint(folder / "long"))
        (worker,) = children_of(process.pid)
        os.kill(worker, signal.SIGKILL)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert rows_of(folder)["long"]["attempts"] == "2"
    assert adapter_of(folder / "long") == adapter_of(undisturbed)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_resume_goes_on_to_the_same_bits(inputs, undisturbed, tmp_path, number):
    folder = tmp_path / "runs"
    words = long_job(inputs, tmp_path)
    with commands().start(*words, env=ENVIRONMENT) as process:
        wait_for(lambda: has_checkpoint(folder / "long"))
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number, said
    assert "0 of 1 jobs are finished" in said
    assert rows_of(folder)["long"]["status"] == "interrupted"
    assert json.loads((folder / "long" / "record.json").read_text())["status"] == "interrupted"
    run_command(*words, "--resume")
    assert rows_of(folder)["long"]["status"] == "finished"
    assert adapter_of(folder / "long") == adapter_of(undisturbed)


@pytest.mark.long
def test_no_worker_lives_longer_than_the_command(inputs, tmp_path):
    with commands().start(*long_job(inputs, tmp_path), stderr=DEVNULL, env=ENVIRONMENT) as process:
        wait_for(lambda: has_checkpoint(tmp_path / "runs" / "long"))
        (worker,) = children_of(process.pid)
        process.kill()
    wait_for(lambda: not Path(f"/proc/{worker}").exists(), seconds=20)


@pytest.mark.long
def test_on_ray_a_killed_task_goes_on_to_the_same_bits(inputs, undisturbed, tmp_path):
    pytest.importorskip("ray")
    folder = tmp_path / "runs"
    words = [word for word in long_job(inputs, tmp_path) if word not in ("--workers", "1")]
    with subprocess.Popen(
        [sys.executable, "-m", "leantune", *words, "--cluster", "local", "--cores-per-job", "1"],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=tmp_path,
    ) as process:
        wait_for(lambda: has_checkpoint(folder / "long"))
        (task,) = ray_tasks(folder)
        os.kill(task, signal.SIGKILL)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert rows_of(folder)["long"]["attempts"] == "2"
    assert adapter_of(folder / "long") == adapter_of(undisturbed)


def ray_tasks(folder: Path) -> Iterator[int]:
    """The process that holds the lock of a run in ``folder``."""
    for lock in folder.glob("*/run.lock"):
        yield int(lock.read_text().split()[1])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


ROWS = [
    JobResult(
        name=f"customer {number} " + "x" * 60 * (number == 2),
        status="finished" if number else "failed",
        metric="accuracy",
        validation=0.7 + number / 20 if number else None,
        test_accuracy=0.95 - number / 50 if number else None,
        trainable_parameters=99_000 if number else None,
        seconds=12.0 * number if number else None,
        attempts=1,
        output=f"runs/{number}",
        error="" if number else "data.csv:3:label: <b>no label</b>",
    )
    for number in range(5)
]


@pytest.mark.skipif(CHROMIUM is None or BASH is None, reason="no chromium here")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_overview_fits_sorts_and_keeps_to_itself(browser, tmp_path, width):
    browser.open(write_overview(tmp_path, ROWS), width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        browser.evaluate(
            """[...document.querySelectorAll('main *')]
        .filter(each => each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML)"""
        )
        == []
    )
    names = "[...document.querySelectorAll('tbody th')].map(each => each.textContent.slice(0, 10))"
    assert browser.evaluate(names) == [f"customer {number}" for number in range(5)]
    browser.evaluate("document.querySelectorAll('thead button')[4].click()")
    assert browser.evaluate(names) == [f"customer {number}" for number in (0, 4, 3, 2, 1)]
    assert browser.evaluate("document.querySelectorAll('td b').length") == 0
    assert browser.trouble() == []


def test_the_overview_links_to_the_report_of_each(trained):
    folder, _ = trained
    text = (folder / "overview.html").read_text("utf-8")
    assert 'href="plain/report.html"' in text
    assert 'href="broken/report.html"' not in text
    assert "max_trainable_params=1 is too small" in text
