"""A prediction of many files: every row once and in order, whatever dies, and nothing mixed."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import PIPE, Process, commands
from leantune.cli.main import main
from leantune.cluster.predict import ledger
from leantune.cluster.predict.job import BulkOptions, bulk_predict
from leantune.cluster.predict.lease import LEASE
from leantune.cluster.predict.verify import verify
from leantune.cluster.storage import Folder
from leantune.config.abstention_file import Abstention, Threshold, write_abstention
from leantune.data.text.columns import Columns
from leantune.errors import CheckpointError, DataError, DistributedError, UsageError
from leantune.inference.load import load
from tiny import WORDS


def texts(count: int, offset: int = 0) -> list[str]:
    return [" ".join(WORDS[(i * k + offset) % 24] for k in (1, 3, 5, 7)) for i in range(count)]


def write_parquet(path: Path, rows: list[str], row_group: int) -> None:
    ids = [f"{path.stem}-{i}" for i in range(len(rows))]
    pq.write_table(pa.table({"id": ids, "text": rows}), path, row_group_size=row_group)


def write_files(folder: Path) -> Path:
    """Files of three kinds: 60 rows in 4 row groups, 10 in one, 25 packed, 12 in JSON lines."""
    folder.mkdir()
    write_parquet(folder / "a.parquet", texts(60), 17)
    write_parquet(folder / "b.parquet", texts(10, 1), 100)
    with gzip.open(folder / "c.csv.gz", "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        writer.writerows([f"c-{i}", text] for i, text in enumerate(texts(25, 2)))
    lines = [json.dumps({"id": f"d-{i}", "text": text}) for i, text in enumerate(texts(12, 3))]
    (folder / "d.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def rows(tmp_path) -> Path:
    """Files that a test may change."""
    return write_files(tmp_path / "rows")


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """The same files, which no test changes."""
    return write_files(tmp_path_factory.mktemp("kept") / "rows")


@pytest.fixture(scope="module")
def finished(run, kept, tmp_path_factory) -> Path:
    """What a job with all files of ``kept`` wrote."""
    output = tmp_path_factory.mktemp("finished") / "out"
    bulk_predict(run, options_of(kept, output))
    return output


@pytest.fixture
def output(finished, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def options_of(rows: Path | str, output: Path | str, **changes) -> BulkOptions:
    return BulkOptions(input=str(rows), output=str(output), columns=Columns(id="id"), **changes)


def content_of(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.glob("part-*"))}


def ids_in(output: Path) -> list[str]:
    tables = [pq.read_table(path) for path in sorted(output.glob("part-*.parquet"))]
    return [value for table in tables for value in table["id"].to_pylist()]


def expected_ids() -> list[str]:
    return [
        f"{name}-{i}" for name, count in (("a", 60), ("b", 10), ("c", 25), ("d", 12)) for i in range(count)
    ]


def test_every_row_of_every_file_once_and_in_order(run, rows, tmp_path):
    output = tmp_path / "out"
    seen = []
    summary = bulk_predict(
        run, options_of(rows, output), on_part=lambda done, parts: seen.append((done.parts, parts))
    )
    assert (summary.rows, summary.parts) == (107, 7)
    assert ids_in(output) == expected_ids()
    assert seen == [(i, 7) for i in range(1, 8)]
    assert verify(run, options_of(rows, output)).rows == 107
    assert not (output / LEASE).exists()


def test_the_same_labels_and_scores_as_a_prediction_of_one_file(run, rows, tmp_path):
    bulk_predict(run, options_of(rows / "c.csv.gz", tmp_path / "out", format=".csv"))
    assert (
        main(
            [
                "predict",
                str(run),
                str(rows / "c.csv.gz"),
                "--output",
                str(tmp_path / "one.csv"),
                "--id-column",
                "id",
            ]
        )
        == 0
    )
    (part,) = (tmp_path / "out").glob("part-*")
    assert part.read_bytes() == (tmp_path / "one.csv").read_bytes()


@pytest.fixture(scope="module")
def sure(run, tmp_path_factory) -> Path:
    """A copy of the run that gives a label to about half of the rows."""
    copy = load(run).save(tmp_path_factory.mktemp("sure") / "run")
    half = float(np.median(load(run).predict_proba(texts(25, 2)).max(axis=1)))
    write_abstention(copy / "merged", abstention_from(half))
    return copy


def abstention_from(least: float) -> Abstention:
    threshold = Threshold(least=least, rows=100, coverage=0.5, precision=0.9)
    return Abstention(
        precision=0.9, confidence=0.95, temperature=1.0, source="test", overall=threshold,
        per_class={"a": threshold},
    )  # fmt: skip


@pytest.mark.parametrize("flags", [["--abstain"], ["--abstain", "by-class"], ["--abstain", "--submission"]])
def test_labels_are_left_empty_as_in_a_prediction_of_one_file(sure, rows, tmp_path, flags):
    one = ["predict", str(sure), str(rows / "c.csv.gz"), "--output"]
    id_column = ["--id-column", "id", *flags]
    for suffix in ("csv", "parquet"):
        out = tmp_path / suffix
        assert main([*one, f"{out}/", "--format", suffix, "--workers", "2", *id_column]) == 0
        assert main([*one, f"{out}.{suffix}", *id_column]) == 0
        (part,) = out.glob("part-*")
        assert part.read_bytes() == Path(f"{out}.{suffix}").read_bytes()
    with (tmp_path / "csv.csv").open(newline="") as file:
        assert 5 < [row["label"] for row in csv.DictReader(file)].count("") < 25
    bulk = options_of(
        rows / "c.csv.gz", tmp_path / "csv", format=".csv", submission="--submission" in flags,
        abstain="by-class" if "by-class" in flags else "overall",
    )  # fmt: skip
    assert verify(sure, bulk).rows == 25


def test_thresholds_are_part_of_the_job(sure, run, rows, tmp_path):
    output = tmp_path / "out"
    options = options_of(rows / "b.parquet", output, abstain="overall")
    with pytest.raises(UsageError, match="no threshold was chosen"):
        bulk_predict(run, options)
    assert not output.exists()
    bulk_predict(sure, options)
    for other in (replace(options, abstain=None), replace(options, abstain="by-class")):
        with pytest.raises(UsageError, match="settings was"):
            bulk_predict(sure, replace(other, resume=True))
    changed = load(sure).save(tmp_path / "changed")
    write_abstention(changed / "merged", abstention_from(0.2))
    with pytest.raises(UsageError, match="settings was"):
        bulk_predict(changed, replace(options, resume=True))
    bulk_predict(sure, replace(options, resume=True))


def test_row_numbers_of_a_row_group_are_those_in_the_file(run, rows, tmp_path):
    bulk_predict(run, replace(options_of(rows / "a.parquet", tmp_path / "out"), columns=Columns()))
    assert ids_in(tmp_path / "out") == [str(i) for i in range(60)]


def test_two_workers_write_what_one_writes(run, kept, finished, tmp_path):
    bulk_predict(run, options_of(kept, tmp_path / "2", workers=2))
    assert content_of(finished) == content_of(tmp_path / "2") != {}


def test_what_is_missing_is_computed_and_nothing_else(run, kept, output):
    whole = content_of(output)
    (output / "part-0000002.parquet").unlink()  # a part that vanished
    (output / "part-0000004.parquet").write_bytes(b"cut")
    (output / "_manifests" / "part-0000005.json").unlink()
    untouched = (output / "part-0000000.parquet").stat().st_mtime_ns
    with pytest.raises(UsageError, match="add --resume"):
        bulk_predict(run, options_of(kept, output))
    seen = []
    bulk_predict(
        run, options_of(kept, output, resume=True), on_part=lambda done, parts: seen.append(done.parts)
    )
    assert len(seen) == 3
    assert content_of(output) == whole
    assert (output / "part-0000000.parquet").stat().st_mtime_ns == untouched


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"with_probabilities": True}, "settings was"),
        ({"precision": "fp32"}, "settings was"),
        ({"format": ".csv"}, "settings was"),
    ],
)
def test_two_jobs_never_share_a_folder(run, kept, output, changes, said):
    with pytest.raises(UsageError, match=said):
        bulk_predict(run, options_of(kept, output, resume=True, **changes))


def test_another_classifier_is_refused(kept, output, inputs, tmp_path):
    from leantune.training.run import run_training
    from tiny import quiet, recipe_for

    other = run_training(recipe_for(inputs, tmp_path / "other", seed=5), console=quiet())
    with pytest.raises(UsageError, match="classifier was"):
        bulk_predict(other, options_of(kept, output, resume=True))


def test_a_changed_input_is_refused_and_named(run, rows, tmp_path):
    output = tmp_path / "out"
    bulk_predict(run, options_of(rows, output))
    write_parquet(rows / "b.parquet", texts(10, 5), 100)
    os.utime(rows / "b.parquet", (1, 1))
    with pytest.raises(UsageError, match=r"b\.parquet changed"):
        bulk_predict(run, options_of(rows, output, resume=True))
    (rows / "b.parquet").unlink()
    with pytest.raises(UsageError, match=r"b\.parquet was one of its files"):
        bulk_predict(run, options_of(rows, output, resume=True))


def test_a_file_that_changes_while_the_job_runs_is_found(run, rows, tmp_path):
    def change(done, parts):
        if done.parts == 1:
            write_parquet(rows / "b.parquet", texts(9), 100)

    with pytest.raises(DataError, match=r"b\.parquet: the file changed after the job started"):
        bulk_predict(run, options_of(rows, tmp_path / "out"), on_part=change)


def test_a_folder_with_something_else_in_it_is_left_alone(run, rows, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match=r"contains mine\.txt"):
        bulk_predict(run, options_of(rows, tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_bad_row_costs_its_part_and_no_other(run, rows, tmp_path):
    pq.write_table(pa.table({"id": ["x", "y"], "text": ["oil", None]}), rows / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet:2:text: .*1 of 7 parts failed"):
        bulk_predict(run, options_of(rows, tmp_path / "out"))
    assert len(content_of(tmp_path / "out")) == 6


def test_a_missing_column_is_found_before_anything_is_written(run, rows, tmp_path):
    with pytest.raises(DataError, match="no column 'body'"):
        bulk_predict(run, replace(options_of(rows, tmp_path / "out"), columns=Columns(text="body")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda out: (out / "part-0000001.parquet").write_bytes(b"PAR1"),
            "the file has changed since it was written",
        ),
        (lambda out: (out / "_manifests" / "part-0000001.json").unlink(), "1 of 7 parts are missing"),
        (
            lambda out: (out / "part-0000003.parquet").unlink(),
            "1 of 7 parts are missing, the first is part 3",
        ),
    ],
)
def test_verify_finds_what_is_not_whole(run, kept, output, damage, said):
    damage(output)
    with pytest.raises(CheckpointError, match=said):
        verify(run, options_of(kept, output))


def test_verify_finds_rows_that_were_swapped(run, kept, output):
    """A part whose manifest agrees with it, but whose rows are not those of its input."""
    part, manifest = output / "part-0000000.parquet", output / "_manifests" / "part-0000000.json"
    table = pq.read_table(part)
    pq.write_table(table.take([1, 0, *range(2, len(table))]), part)
    from leantune.system.checksums import describe_file

    described = describe_file(part)
    content = json.loads(manifest.read_text())
    content |= {"output_bytes": described["bytes"], "output_sha256": described["sha256"]}
    manifest.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="row 1 has the id 'a-1', expected 'a-0'"):
        verify(run, options_of(kept, output))


def test_a_folder_where_another_process_works_is_refused(run, kept, output):
    from leantune.cluster.predict.lease import leased

    with (
        leased(Folder(str(output))),
        pytest.raises(UsageError, match=f"process {os.getpid()} on .* is using this folder"),
    ):
        bulk_predict(run, options_of(kept, output, resume=True))
    bulk_predict(run, options_of(kept, output, resume=True))


RACE = """
import sys, time
from leantune.cluster.predict.lease import leased
from leantune.cluster.storage import Folder
from leantune.errors import UsageError
print("ready", flush=True)
sys.stdin.readline()
try:
    with leased(Folder(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.readline()
except UsageError as error:
    print(error, flush=True)
"""


@pytest.mark.parametrize("dead", [0, 1, 2], ids=["new", "after a dead process", "after two dead processes"])
def test_of_processes_that_start_at_once_one_gets_the_folder(tmp_path, dead):
    """Each dead one is killed while it holds the lease."""
    for _ in range(dead):
        killed = _racer(tmp_path)
        killed.stdin.write("go\n")
        killed.stdin.flush()
        assert killed.stdout.readline() == "held\n"
        killed.kill()
        killed.communicate()
    racers = [_racer(tmp_path) for _ in range(4)]
    for each in racers:
        each.stdin.write("go\n")
        each.stdin.flush()
    answers = [each.stdout.readline() for each in racers]
    for each in racers:
        each.communicate("\n", timeout=60)
    assert answers.count("held\n") == 1
    assert sum("is using this folder" in answer for answer in answers) == 3
    assert not list(tmp_path.iterdir())


def _racer(folder: Path) -> Process:
    racer = commands().start(folder, code=RACE, stdin=PIPE, stdout=PIPE)
    assert racer.stdout.readline() == "ready\n"
    return racer


def test_a_part_whose_process_always_dies_ends_the_job_with_advice(run, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("leantune.cluster.predict.job.compute_here", _die)
    with pytest.raises(DistributedError, match="its process died 4 times"):
        bulk_predict(run, options_of(rows / "b.parquet", tmp_path / "out"))
    assert not content_of(tmp_path / "out")


def _die(part):
    os.kill(os.getpid(), signal.SIGKILL)


def _command(run: Path, rows: Path, output: Path, *more: str) -> Process:
    words = [
        "predict",
        str(run),
        "--input",
        f"{rows}/*",
        "--output",
        f"{output}/",
        "--id-column",
        "id",
        "--workers",
        "2",
    ]
    return commands().start(*words, *more)


@pytest.mark.long
def test_a_killed_command_and_its_processes_go_on_where_they_were(run, rows, tmp_path):
    """Killed at once with all its processes, after the first part, at any moment."""
    whole, output = tmp_path / "whole", tmp_path / "out"
    bulk_predict(run, options_of(f"{rows}/*", whole))
    for attempt in range(6):
        process = _command(run, rows, output, *(["--resume"] if (output / ledger.JOB).exists() else []))
        deadline = time.monotonic() + 60
        enough = len(list(output.glob("_manifests/part-*"))) + 1
        while process.poll() is None and time.monotonic() < deadline:
            if attempt < 5 and len(list(output.glob("_manifests/part-*"))) >= enough:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.002)
        _, said = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said
    assert process.returncode == 0
    assert content_of(output) == content_of(whole)
    assert not [path for path in output.rglob("*") if path.name.startswith(".tmp-")]


def test_the_command_says_what_is_wrong(run, rows, tmp_path, capsys):
    def said(*words: str) -> str:
        assert main(["predict", str(run), *words]) != 0
        return capsys.readouterr().err

    out = f"{tmp_path}/out/"
    assert "no files found" in said(f"{rows}/*.tsv", "--output", out)
    assert "the address does not answer" in said(str(rows), "--output", out, "--cluster", "127.0.0.1:1")
    assert "invalid address" in said(str(rows), "--output", out, "--cluster", "somewhere")
    assert "give a folder" in said(str(rows / "c.csv.gz"), "--output", "x.csv", "--workers", "2")
    assert "parts are never replaced" in said(str(rows), "--output", out, "--overwrite")
    assert "_job.json does not exist" in said(str(rows), "--output", out, "--verify")
    assert "Protocol not known: nowhere" in said("nowhere://x/*.csv", "--output", out)
    assert not (tmp_path / "out").exists()


def test_a_text_with_an_address_in_it_is_a_text(run, capsys):
    assert main(["predict", str(run), "see https://example.org for word1"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {"a", "b", "c"}


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4), row_group=st.integers(1, 50))
def test_parts_cover_every_row_once(tmp_path_factory, sizes, row_group):
    from leantune.cluster.predict.parts import find_parts
    from leantune.cluster.storage import find_files

    folder = tmp_path_factory.mktemp("sizes")
    for i, size in enumerate(sizes):
        write_parquet(folder / f"{i}.parquet", texts(size), row_group)
    parts = find_parts(find_files(str(folder)))
    assert [part.number for part in parts] == list(range(len(parts)))
    for i, size in enumerate(sizes):
        spans = [(p.first_row, p.first_row + p.rows) for p in parts if p.file.url.endswith(f"/{i}.parquet")]
        covered = [row for first, end in spans for row in range(first, end)]
        assert covered == list(range(size))


def test_a_full_disk_ends_the_job_with_one_error_and_no_half_part(run, tmp_path):
    """Files may have 6 KiB: those of the job fit, and a part does not."""
    write_parquet(tmp_path / "a.parquet", texts(400), 400)
    out = tmp_path / "out"
    words = [
        sys.executable,
        "-m",
        "leantune",
        "predict",
        str(run),
        str(tmp_path / "a.parquet"),
        "--output",
        f"{out}/",
    ]
    command = ["bash", "-c", 'ulimit -f 6; exec "$@"', "bash", *words, "--format", "csv", "--probabilities"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 6, done.stderr
    assert "the file would be larger than is allowed" in done.stderr
    assert "Traceback" not in done.stderr
    assert not content_of(out)
    assert main([*words[3:], "--format", "csv", "--probabilities", "--resume"]) == 0
    assert len(content_of(out)) == 1
