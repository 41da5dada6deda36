"""A run on two nodes of a Ray cluster is the run of two processes, to the bit, whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leantune.training.checkpoint import list_checkpoints
from tiny import save_tiny_encoder, write_rows

ray = pytest.importorskip("ray", reason="pip install 'leantune[ray]'")

ARTEFACTS = ("adapter/adapter_model.safetensors", "merged/model.safetensors")
SECONDS = 240

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each: two raylets, as on two machines."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_tiny_encoder(folder / "encoder", attention_probs_dropout_prob=0.1)
    write_rows(folder / "train.csv", 211)  # the last batch has one row: fewer than workers
    write_rows(folder / "test.csv", 31, seed=1)
    return folder


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory) -> Path:
    """The run of two processes that torchrun starts."""
    output = tmp_path_factory.mktemp("torchrun") / "whole"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = run_command([*launcher, "-m", "leantune", "train", *words_of(inputs), f"output={output}"])
    assert done.returncode == 0, done.stderr
    return output


def words_of(inputs: Path, **changes: object) -> list[str]:
    values = {
        "data": inputs / "train.csv",
        "test": inputs / "test.csv",
        "model": inputs / "encoder",
        "init_rank": 4,
        "target_rank": 1,
        "epochs": 3,
        "batch_size": 15,
        "learning_rate": 1e-2,
        "max_length": 32,
        "precision": "fp32",
        "validation_size": 48,
        "dropout": "none",
        "save_every": 2,
    }
    return [f"{key}={value}" for key, value in (values | changes).items()]


def flags_of(cluster, *, workers: int = 2) -> list[str]:
    return ["--cluster", cluster.address, "--num-workers", str(workers)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run_command(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=SECONDS,
        check=False,
    )


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(["-m", "leantune", "train", *arguments])


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "leantune", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def descendants(pid: int) -> list[int]:
    """The processes below ``pid``, from /proc; they may end meanwhile."""
    try:
        files = list(Path(f"/proc/{pid}/task").glob("*/children"))
        children = [int(number) for file in files for number in file.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return children + [deeper for child in children for deeper in descendants(child)]


def workers_of(cluster) -> list[int]:
    """The processes of Ray Train's workers on the nodes of this cluster, and no other's."""
    raylets = [each.process.pid for node in cluster.list_all_nodes() for each in node.all_processes["raylet"]]
    found = {pid for raylet in raylets for pid in descendants(raylet)}
    return sorted(pid for pid in found if b"RayTrainWorker" in command_line(pid))


def both_workers(cluster, run: Path, process: subprocess.Popen[str]) -> tuple[int, int]:
    """The processes of rank 0, which holds the run folder, and of rank 1."""
    while process.poll() is None:
        main = int((run / "run.lock").read_text().split()[1])
        others = [pid for pid in workers_of(cluster) if pid != main]
        if len(others) == 1:  # a worker has another name while it is told something
            return main, others[0]
        time.sleep(0.005)
    raise AssertionError(process.communicate()[1])


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it ended between the look and the read
        return b""


def last_step(run: Path) -> int:
    path = run / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return max((json.loads(line)["step"] for line in lines[-3:] if line.endswith(b"\n")), default=0)


def has_reached(run: Path, step: int, since: float) -> bool:
    """Whether workers that were started after a moment have taken a step."""
    history = run / "history.jsonl"
    return last_step(run) >= step and history.stat().st_mtime > since


def wait_for(is_there, process: subprocess.Popen[str]) -> None:
    while not is_there():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def assert_same(run: Path, whole: Path) -> None:
    for name in ARTEFACTS:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    one, other = (json.loads((each / "record.json").read_text()) for each in (run, whole))
    for part in ("metrics", "ranks", "parameters", "selected", "processes", "labels"):
        assert one[part] == other[part], part
    assert one["recipe"] | {"output": None} == other["recipe"] | {"output": None}


@pytest.mark.long
def test_two_nodes_give_the_bits_of_two_processes(cluster, inputs, whole, tmp_path):
    output = tmp_path / "run"
    done = train(*words_of(inputs), f"output={output}", *flags_of(cluster))
    assert done.returncode == 0, done.stderr
    assert_same(output, whole)
    (places,) = re.findall(r"2 worker\(s\) with 1 core\(s\) each, on (.*)", done.stderr)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        nodes = {node["NodeID"][:8] for node in ray.nodes()}
    finally:
        ray.shutdown()
    assert set(re.findall(r"\((\w{8})\)", places)) == nodes
    assert len(nodes) == 2
    assert "step 33: " in done.stderr
    assert str(output / "report.html") in done.stdout
    assert not (output / "ray").exists()
    assert "step 33: " in (output / "train.log").read_text()
    assert json.loads((output / "record.json").read_text())["command"][1:3] == ["train", words_of(inputs)[0]]


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_is_killed_is_started_again_and_goes_on_to_the_same_bits(
    cluster, inputs, whole, tmp_path, rank
):
    output = tmp_path / "run"
    process = start(*words_of(inputs), f"output={output}", *flags_of(cluster))
    since = 0.0
    for step in sorted(random.Random(rank).sample(range(3, 30), 2 if rank else 1)):
        wait_for(lambda step=step, since=since: has_reached(output, step, since), process)
        os.kill(both_workers(cluster, output, process)[rank], signal.SIGKILL)
        since = time.time() + 1  # the other one may still write
    result, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert "raylet" in errors
    assert "raylet" not in result
    assert "a worker was lost: resuming" in errors
    assert "resumed from step" in errors
    assert_same(output, whole)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_that_the_named_command_goes_on_from(
    cluster, inputs, whole, tmp_path, number
):
    output = tmp_path / "run"
    process = start(*words_of(inputs), f"output={output}", *flags_of(cluster))
    wait_for(lambda: last_step(output) >= 2, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + number, errors
    said = re.search(rf"{number.name} after step (\d+): saved .*; continue with: leantune (train .*)", errors)
    assert said, errors
    assert int(said[1]) in list_checkpoints(output)
    resumed = train(*said[2].split()[1:])
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed from step {said[1]} of 33" in resumed.stderr
    assert_same(output, whole)


@pytest.mark.long
def test_an_error_of_a_worker_is_that_of_the_command_and_starts_nothing_again(cluster, inputs, tmp_path):
    (tmp_path / "bad.csv").write_text("text,label\nword1,a\nword2,\n")
    words = words_of(inputs, data=tmp_path / "bad.csv")
    plain = train(*words, f"output={tmp_path / 'plain'}")
    done = train(*words, f"output={tmp_path / 'run'}", *flags_of(cluster))
    assert plain.returncode == done.returncode == 3
    assert done.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1]
    assert "a worker was lost" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_an_error_of_one_worker_alone_ends_the_others(cluster, inputs, tmp_path):
    """Only the main process writes checkpoints, and refuses to where a link leads out of the run."""
    output = tmp_path / "run"
    process = start(*words_of(inputs, epochs=50), f"output={output}", *flags_of(cluster))
    wait_for(lambda: last_step(output) >= 2 and list_checkpoints(output), process)
    (output / "checkpoints").rename(tmp_path / "elsewhere")
    (output / "checkpoints").symlink_to(tmp_path / "elsewhere")
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 4, errors
    assert "which is not in that folder: refused" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert "a worker was lost" not in errors


@pytest.mark.long
def test_a_run_with_too_many_losses_ends_and_says_how_to_go_on(cluster, inputs, tmp_path):
    output = tmp_path / "run"
    process = start(*words_of(inputs), f"output={output}", *flags_of(cluster), "--max-failures", "0")
    wait_for(lambda: bool(list_checkpoints(output)), process)
    os.kill(both_workers(cluster, output, process)[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 8, errors
    assert re.search(r"workers were lost too often \(.*worker 1: its process or node died", errors), errors
    assert f"continue with: leantune train --resume {output} --cluster {cluster.address}" in errors
    assert "Traceback" not in errors


@pytest.mark.long
def test_more_workers_than_the_cluster_has_cores_for_are_refused_at_once(cluster, inputs, tmp_path):
    done = train(*words_of(inputs), f"output={tmp_path / 'run'}", *flags_of(cluster, workers=3))
    assert done.returncode == 8
    assert "--num-workers 3 with 1 core(s) each: the cluster has room for only 2" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_node_that_has_another_folder_of_that_name_is_named(cluster, inputs, tmp_path):
    """A third raylet in a mount namespace of its own, where the folder of the runs is another disk."""
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("a mount namespace needs rights that this user has not")
    runs = tmp_path / "runs"
    runs.mkdir()
    join = (
        f"exec {sys.executable} -m ray.scripts.scripts start --address={cluster.address} --num-cpus=1 --block"
    )
    node = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none '{runs}' && {join}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        wait_for(lambda: sum(each["Alive"] for each in ray.nodes()) == 3, node)
        ray.shutdown()
        done = train(*words_of(inputs), f"output={runs / 'run'}", *flags_of(cluster))
    finally:
        os.killpg(node.pid, signal.SIGTERM)
        node.wait()
    assert done.returncode == 8, done.stderr
    assert f"does not share the run folder {runs / 'run'}" in done.stderr.splitlines()[-1]
    assert not (runs / "run").exists()


@pytest.mark.long
def test_an_earlier_run_is_not_taken_for_this_one_when_a_worker_dies_early(cluster, inputs, whole, tmp_path):
    """A run in the folder, to be replaced, has checkpoints of its own: no one goes on from them."""
    output = tmp_path / "run"
    done = train(*words_of(inputs, epochs=1, seed=5), f"output={output}")
    assert done.returncode == 0, done.stderr
    old = json.loads((output / "record.json").read_text())["run_id"]
    process = start(*words_of(inputs), f"output={output}", "--overwrite", *flags_of(cluster))
    lock = output / "run.lock"
    wait_for(lambda: lock.exists() and lock.read_text(), process)
    main, _ = both_workers(cluster, output, process)
    assert json.loads((output / "record.json").read_text())["run_id"] == old
    os.kill(main, signal.SIGKILL)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert_same(output, whole)


def test_an_address_without_a_cluster_is_an_error_in_seconds(inputs, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = time.monotonic()
    done = train(*words_of(inputs), f"output={tmp_path / 'run'}", "--cluster", address, "--num-workers", "2")
    assert done.returncode == 8
    assert f"--cluster {address}: the address does not answer" in done.stderr
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-workers", "2"], "--num-workers needs a cluster: add --cluster auto"),
        (["--cluster", "auto"], "give the number of workers: --num-workers N"),
        (["--cluster", "ray://127.0.0.1:1", "--num-workers", "2"], "Ray client addresses are not supported"),
        (["--cluster", "nowhere", "--num-workers", "2"], "invalid address; expected local, auto, HOST:PORT"),
    ],
)
def test_flags_that_cannot_be_are_refused(inputs, tmp_path, flags, message):
    done = train(*words_of(inputs), f"output={tmp_path / 'run'}", *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "run").exists()
