"""Which number type is picked where, and how many threads compute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from leantune.errors import UsageError
from leantune.system import hardware
from leantune.system.hardware import cpu_limit, describe_hardware, keep_to_allowed_cpus, pick_precision
from leantune.system.openmp import has_int8_products

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(("is_native", "expected"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_that_only_emulates_bf16_computes_in_fp16(monkeypatch, is_native, expected):
    def supports(including_emulation: bool = True) -> bool:
        return including_emulation or is_native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supports)
    assert pick_precision("auto", GPU) == expected


def test_a_cpu_without_native_bf16_computes_in_fp32(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert pick_precision("auto", CPU) == "fp32"
    assert describe_hardware(CPU)["onednn_max_cpu_isa"] == "AVX2"


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(UsageError, match="precision=fp16 needs a GPU"):
        pick_precision("fp16", CPU)
    assert pick_precision("fp32", CPU) == "fp32"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


V2 = "30 23 0:26 {top} {place} rw,nosuid - cgroup2 cgroup rw\n"
MEMORY = "32 23 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V1 = MEMORY + "31 23 0:29 {top} {place} rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.mark.parametrize(
    ("top", "own", "files", "limit"),
    [
        ("/", "/user/job", {"user/job": "150000 100000"}, 1.5),
        ("/", "/user/job", {"user/job": "max 100000", "user": "50000 100000"}, 0.5),
        ("/", "/user/job", {"user/job": "200000 100000", "user": "800000 100000"}, 2.0),
        ("/", "/user/job", {"user/job": "max 100000"}, None),
        ("/", "/user/job", {}, None),
        ("/", "/", {"": "300000 100000"}, 3.0),
        ("/docker/1f", "/docker/1f", {"": "150000 100000"}, 1.5),
        ("/docker/1f", "/docker/1f/inner", {"inner": "90000 60000"}, 1.5),
        ("/docker/1f", "/elsewhere", {"": "150000 100000"}, 1.5),
        ("/", "/job", {"job": "much of it"}, None),
        ("/", "/job", {"job": "100000 0"}, None),
        ("/", "/job", {"job": ""}, None),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_the_quota_of_a_cgroup_is_read(tmp_path, version, top, own, files, limit):
    place = "/sys/fs/cgroup" if version == 2 else "/sys/fs/cgroup/cpu,cpuacct"
    lines = f"0::{own}\n" if version == 2 else f"9:memory:/other\n4:cpu,cpuacct:{own}\n"
    write(tmp_path / "proc/self/cgroup", lines)
    write(tmp_path / "proc/self/mountinfo", (V2 if version == 2 else V1).format(top=top, place=place))
    for folder, text in files.items():
        home = tmp_path / place.lstrip("/") / folder
        if version == 2:
            write(home / "cpu.max", f"{text}\n")
        else:
            quota, _, period = text.replace("max", "-1").partition(" ")
            write(home / "cpu.cfs_quota_us", f"{quota}\n")
            write(home / "cpu.cfs_period_us", f"{period}\n")
    assert cpu_limit(tmp_path) == limit


def test_without_cgroups_there_is_no_limit(tmp_path):
    assert cpu_limit(tmp_path) is None


@pytest.fixture
def cgroup():
    """A real cgroup of version 1 or 2 with 1.5 CPUs, where this system lets tests make one."""
    for top, quota in ((Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us"), (Path("/sys/fs/cgroup"), "cpu.max")):
        folder = top / f"leantune-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / quota).write_text("150000" if top.name == "cpu" else "150000 100000")
        except OSError:
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no cgroup may be made here")


def test_a_real_quota_is_noticed(cgroup):
    code = (
        "import os, pathlib, sys, torch; pathlib.Path(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()))\n"
        "from leantune.system.hardware import *; torch.set_num_threads(8); keep_to_allowed_cpus()\n"
        "print(cpu_limit(), torch.get_num_threads(), describe_hardware(torch.device('cpu'))['cpu_limit'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code, cgroup], env=environment, capture_output=True, text=True
    )
    cores = min(2, len(os.sched_getaffinity(0)))
    assert done.stdout.split() == ["1.5", str(cores), "1.5"], done.stderr


@pytest.mark.parametrize(("limit", "expected"), [(None, 4), (0.2, 1), (1.5, 2), (2.0, 2), (64.0, 4)])
def test_threads_follow_the_quota(monkeypatch, limit, expected):
    monkeypatch.setattr(hardware, "cpu_limit", lambda: limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert hardware.allowed_threads() == expected
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(6)
        keep_to_allowed_cpus()
        assert torch.get_num_threads() == expected
        torch.set_num_threads(6)
        monkeypatch.setenv("OMP_NUM_THREADS", "6")
        keep_to_allowed_cpus()
        assert torch.get_num_threads() == 6
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_of_the_command_line_spin_briefly(given, spins):
    code = (
        "import os, sys; from leantune.cli.main import main; assert 'torch' not in sys.modules\n"
        "try: main(['--version'])\nexcept SystemExit: pass\n"
        "try: main(['report', '/nowhere'])\nexcept SystemExit: pass\n"
        "print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    dropped = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    environment = {name: value for name, value in os.environ.items() if name not in dropped} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split()[-1] == spins, done.stderr


@pytest.mark.parametrize("precision", ["auto", "int8", "bf16", "fp32"])
def test_training_spins_briefly_where_its_products_are_in_int8(precision, tmp_path):
    code = (
        "import os; from leantune.cli.main import main\n"
        f"assert main(['train', 'data={tmp_path}/no.csv', 'model={tmp_path}', 'precision={precision}']) == 2\n"
        "print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    is_brief = precision in ("auto", "int8") and has_int8_products()
    assert done.stdout.split()[-1] == ("1000" if is_brief else "None"), done.stderr


@pytest.mark.parametrize(
    ("flags", "expected"), [("sse2 avx512_vnni", True), ("avx_vnni", True), ("avx512_vnni_x avx2", False)]
)
def test_products_in_int8_are_told_by_the_flags_of_the_processor(tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags}\n", "utf-8")
    assert has_int8_products(tmp_path / "cpuinfo") is expected
    assert not has_int8_products(tmp_path / "none")
