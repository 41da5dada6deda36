"""Two processes under torchrun (gloo, CPU) are one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from leantune.training.checkpoint import list_checkpoints
from tiny import save_tiny_encoder, write_rows

ADAPTER = "adapter/adapter_model.safetensors"


def settings(folder: Path, **changes) -> list[str]:
    values = {
        "data": folder / "train.csv",
        "test": folder / "test.csv",
        "model": folder / "encoder",
        "init_rank": 4,
        "target_rank": 1,
        "epochs": 3,
        "batch_size": 15,
        "learning_rate": 1e-2,
        "max_length": 32,
        "precision": "fp32",
        "validation_size": 48,
    }
    return [f"{key}={value}" for key, value in {**values, **changes}.items()]


def command(processes: int, *words: str) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(launcher if processes > 1 else []), "-m", "leantune", "train", *words]


def train(processes: int, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command(processes, *words), capture_output=True, text=True, env=environment, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def read(run: Path) -> tuple[dict, list[dict]]:
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return json.loads((run / "record.json").read_text()), [line for line in lines if line["event"] == "step"]


def descendants(pid: int) -> list[int]:
    """The processes below ``pid``, deepest last, from /proc."""
    children = [
        int(number)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for number in (task / "children").read_text().split()
    ]
    return children + [deeper for child in children for deeper in descendants(child)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    # without dropout, so that who draws which mask cannot matter
    save_tiny_encoder(folder / "encoder", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    write_rows(folder / "train.csv", 211)  # the last batch has one row: fewer than processes
    write_rows(folder / "test.csv", 31, seed=1)
    return folder


def test_two_processes_equal_one_on_the_same_batches(folder, tmp_path):
    # 163 rows: 54, 54, 54 and 1
    words = settings(folder, lora_dropout=0.0, batch_size=54, orth_reg_weight=0.5, supcon_weight=0.5)
    train(1, *words, f"output={tmp_path / 'one'}")
    train(2, *words, f"output={tmp_path / 'two'}")
    (one, steps_one), (two, steps_two) = read(tmp_path / "one"), read(tmp_path / "two")
    assert two["processes"] == 2
    assert one["ranks"] == two["ranks"]
    assert one["metrics"]["test"]["confusion"] == two["metrics"]["test"]["confusion"]
    for a, b in zip(steps_one, steps_two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3, abs=1e-5)
        assert 0 < a["orthogonality"] == pytest.approx(b["orthogonality"], rel=1e-3)
        assert a.get("ranks") == b.get("ranks")
    mine, theirs = load_file(tmp_path / "one" / ADAPTER), load_file(tmp_path / "two" / ADAPTER)
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-2, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("model_type", ["bert", "albert"])  # albert draws from torch's own generator
def test_two_processes_with_dropout_repeat_and_resume_bit_for_bit(folder, tmp_path, model_type):
    save_tiny_encoder(tmp_path / "encoder", model_type, attention_probs_dropout_prob=0.1)
    words = [*settings(folder, model=tmp_path / "encoder", dropout="none"), "save_every=3"]
    train(2, *words, f"output={tmp_path / 'whole'}")
    output = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(2, *words, f"output={output}"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        env=environment, start_new_session=True,
    )  # fmt: skip
    while not list_checkpoints(output) and process.poll() is None:
        time.sleep(0.02)
    for child in [*descendants(process.pid), process.pid]:  # workers have sessions of their own
        os.kill(child, signal.SIGKILL)
    process.wait()
    assert not (output / "adapter").exists(), "it finished before it could be killed"
    train(2, "--resume", str(output))
    assert (tmp_path / "whole" / ADAPTER).read_bytes() == (output / ADAPTER).read_bytes()


FAILING = """
import os, sys
from leantune.cli.main import main
from leantune.errors import DataError
from leantune.training import loop

backward = loop._backward

def fail(state, *arguments):
    if os.environ["RANK"] == "1" and state.step == 3:
        raise DataError("this process cannot go on", path="rank-one")
    return backward(state, *arguments)

loop._backward = fail
sys.exit(main(sys.argv[1:]))
"""


def test_an_error_in_one_process_ends_all_and_is_told(folder, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = ["train", *settings(folder), f"output={tmp_path / 'run'}"]
    done = subprocess.run(
        [*launcher, str(tmp_path / "failing.py"), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "leantune: error: rank-one: this process cannot go on" in done.stderr


@pytest.mark.long
def test_resume_with_another_number_of_processes_is_refused(folder, tmp_path):
    words = [*settings(folder), "save_every=3"]
    output = tmp_path / "run"
    train(2, *words, f"output={output}")
    done = subprocess.run(
        command(1, "--resume", str(output)), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 5
    assert "written by 2 processes, this run has 1: start the same number" in done.stderr


def test_all_processes_begin_with_the_weights_of_the_first(folder):
    """As on two kinds of processor, whose probes and decompositions round differently."""
    code = """
import os
import torch
from leantune.system import distributed
with distributed.process_group():
    tensors = [torch.full((2, 3), 1.0 + distributed.rank()).t(), torch.arange(4.0) * distributed.rank()]
    distributed.take_from_main(tensors)
    os.write(1, f"{[float(tensor.sum()) for tensor in tensors]}\\n".encode())  # at once, not between another's
"""
    (folder / "begin.py").write_text(code)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, str(folder / "begin.py")], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines() == ["[6.0, 0.0]"] * 2
