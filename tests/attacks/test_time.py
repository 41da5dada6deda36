"""Short inputs cost little: what took minutes by growing with the square is read by a process with little time.

The limit is processor time of the system, a hundred times what each takes.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

from attacks.inputs import INPUTS
from leantune.data.text.read import Columns, open_examples
from leantune.data.text.readers.content import UNPACKED_VARIABLE
from leantune.errors import DataError, UsageError

READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
from leantune.data.text.read import Columns, open_examples
from leantune.errors import LeantuneError
try:
    for batch in open_examples(sys.argv[1], Columns(), labels="ignore").batches():
        pass
    print("read")
except LeantuneError as error:
    print(str(error)[:300])
"""


@pytest.mark.parametrize("name", INPUTS)
def test_a_short_input_is_read_or_refused_in_little_time(tmp_path, name):
    content, said = INPUTS[name]
    path = tmp_path / name
    path.write_text(content, "utf-8")
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert said in done.stdout


def test_a_packed_file_that_unpacks_to_gigabytes_of_short_rows_is_refused(tmp_path):
    path = tmp_path / "rows.csv.gz"
    rows = gzip.compress(b"a\n" * 2**24)  # 32 MiB; members follow each other
    path.write_bytes(gzip.compress(b"text\n") + rows * 40)
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "unpacks to more than 1,073,741,824 bytes" in done.stdout
    assert UNPACKED_VARIABLE in done.stdout


@pytest.mark.parametrize(
    ("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)]
)
def test_the_limit_of_what_a_file_unpacks_to_can_be_set(tmp_path: Path, monkeypatch, suffix, pack):
    path = tmp_path / f"rows.csv.{suffix}"
    path.write_bytes(pack(b"text\n" + b"word\n" * 300_000))
    monkeypatch.setenv(UNPACKED_VARIABLE, "1")
    with pytest.raises(DataError, match="unpacks to more than 1,048,576 bytes"):
        open_examples(str(path), Columns(), labels="ignore")
    monkeypatch.setenv(UNPACKED_VARIABLE, "2")
    batches = open_examples(str(path), Columns(), labels="ignore").batches()
    assert sum(len(batch.texts) for batch in batches) == 300_000
    for nonsense in ("x", "-1", "9" * 5000):
        monkeypatch.setenv(UNPACKED_VARIABLE, nonsense)
        with pytest.raises(UsageError, match=f"{UNPACKED_VARIABLE} must be a whole number") as caught:
            open_examples(str(path), Columns(), labels="ignore")
        assert len(str(caught.value)) < 300
