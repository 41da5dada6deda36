"""A prediction of many files on Ray: several nodes, those that die, and what is stored elsewhere."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leantune.cluster import connection
from leantune.cluster.predict.job import BulkOptions, bulk_predict
from leantune.cluster.predict.verify import verify
from leantune.data.text.columns import Columns
from leantune.errors import DistributedError, UsageError
from tiny import WORDS

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # Ray and the libraries of storages leave sockets and files open


@pytest.fixture(scope="module")
def cluster():
    """Two Ray nodes of one core on this machine."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """600 rows in 30 row groups of 3 files."""
    folder = tmp_path_factory.mktemp("rows")
    for name in "abc":
        texts = [f"{WORDS[i % 24]} {WORDS[i * 7 % 24]} {WORDS[i * 5 % 90]}" for i in range(200)]
        ids = [f"{name}{i}" for i in range(200)]
        pq.write_table(pa.table({"id": ids, "text": texts}), folder / f"{name}.parquet", row_group_size=20)
    return folder


@pytest.fixture(scope="module")
def undisturbed(run, rows, tmp_path_factory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    bulk_predict(run, options_of(rows, output))
    return content_of(output)


def options_of(rows: Path | str, output: Path | str, **changes) -> BulkOptions:
    return BulkOptions(input=str(rows), output=str(output), columns=Columns(id="id"), **changes)


def content_of(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.glob("part-*"))}


@pytest.mark.long
def test_two_nodes_write_what_one_process_writes(cluster, run, rows, undisturbed, tmp_path):
    options = options_of(rows, tmp_path / "out", cluster=cluster.address, cores=1)
    assert bulk_predict(run, options).rows == 600
    assert content_of(tmp_path / "out") == undisturbed
    assert verify(run, options).parts == 30


@pytest.mark.long
def test_killed_actors_lose_and_double_nothing(cluster, run, rows, undisturbed, tmp_path):
    import psutil

    killed = []

    def kill(done, parts):
        if done.parts in (3, 10, 17):
            actors = [
                each
                for each in psutil.process_iter(["cmdline"])
                if "MapWorker" in " ".join(each.info["cmdline"] or ())
            ]
            actors[0].send_signal(signal.SIGKILL)
            killed.append(actors[0].pid)

    options = options_of(rows, tmp_path / "out", cluster=cluster.address, cores=1)
    assert bulk_predict(run, options, on_part=kill).rows == 600
    assert len(killed) == 3
    assert content_of(tmp_path / "out") == undisturbed
    verify(run, options)


@pytest.mark.long
def test_a_node_that_dies_is_done_without(cluster, run, rows, undisturbed, tmp_path):
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    removed = threading.Event()

    def kill(done, parts):
        if done.parts == 5 and not removed.is_set():
            cluster.remove_node(node, allow_graceful=False)
            removed.set()

    options = options_of(rows, tmp_path / "out", cluster=cluster.address, cores=1)
    assert bulk_predict(run, options, on_part=kill).rows == 600
    assert removed.is_set()
    assert content_of(tmp_path / "out") == undisturbed


def test_more_cores_than_a_node_has_are_refused(cluster, run, rows, tmp_path):
    with pytest.raises(DistributedError, match="the largest node of the cluster has 1"):
        bulk_predict(run, options_of(rows, tmp_path / "out", cluster=cluster.address, cores=3))


def test_a_node_with_another_version_is_named(cluster, run, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "__version__", "0.0.1")
    with pytest.raises(
        DistributedError,
        match=r"node [\d.]+: found leantune .*, expected 0\.0\.1, the version that runs the command",
    ):
        bulk_predict(run, options_of(rows, tmp_path / "out", cluster=cluster.address, cores=1))


def test_a_full_disk_on_a_node_ends_the_job_with_one_error(cluster, run, rows, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "_manifests").write_text("in the way")
    with pytest.raises(UsageError, match="_manifests"):
        bulk_predict(run, options_of(rows, output, cluster=cluster.address, cores=1))


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A server with the API of S3, and credentials for it."""
    from moto.server import ThreadedMotoServer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ThreadedMotoServer(port=port)
    server.start()
    names = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield s3fs.S3FileSystem()
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_rows_in_s3_become_parts_in_s3(s3, run, rows, undisturbed):
    s3.put(str(rows), "bucket/in", recursive=True)
    options = options_of("s3://bucket/in/*.parquet", "s3://bucket/out/", workers=2)
    assert bulk_predict(run, options).rows == 600
    assert {Path(name).name: s3.cat_file(name) for name in s3.glob("bucket/out/part-*")} == undisturbed
    assert verify(run, options).parts == 30
    s3.rm_file("bucket/out/part-0000007.parquet")
    seen = []
    again = options_of("s3://bucket/in/*.parquet", "s3://bucket/out/", resume=True)
    bulk_predict(run, again, on_part=lambda done, parts: seen.append(done.parts))
    assert seen == [30]
    assert verify(run, options).parts == 30


def test_other_formats_in_s3_are_read_too(s3, run, tmp_path):
    s3.pipe_file("bucket/csv/x.csv", b"id,text\n1,word1 word2\n2,word9\n")
    bulk_predict(run, options_of("s3://bucket/csv/x.csv", tmp_path / "out", format=".csv"))
    lines = (tmp_path / "out" / "part-0000000.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["id", "1", "2"]


def test_what_s3_refuses_is_one_line(s3, run, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"s3://nobucket/x\.csv: the file, folder or bucket does not exist"):
        bulk_predict(run, options_of("s3://nobucket/x.csv", tmp_path / "out"))
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UsageError, match="the storage cannot be reached"):
        bulk_predict(run, options_of("s3://bucket/csv/x.csv", tmp_path / "out"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UsageError, match=r"access denied|cannot be reached"):
        bulk_predict(run, options_of("s3://bucket/csv/x.csv", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
