"""The canary: a malicious file must be refused with nothing imported, called or opened."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from leantune.data.text.read import Columns, open_examples
from leantune.errors import LeantuneError, UnsafeFileError

Refused = Callable[..., str]

WATCHED = (
    *("import", "open", "exec", "compile", "os.", "socket.", "subprocess.", "pickle.", "ctypes.", "marshal."),
    *("code.", "shutil.", "urllib.", "pty.", "glob.", "builtins.input", "builtins.breakpoint"),
)


class Watch:
    """An audit hook cannot be removed, so one hook notes events while a file is read."""

    def __init__(self) -> None:
        self.path: str | None = None
        self.events: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.path is None or (event == "open" and str(args[0]) == self.path):
            return
        if event.startswith(WATCHED):
            self.events.append(f"{event}{args[:1]}")

    @contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        self.path, self.events = str(path), []
        try:
            yield
        finally:
            self.path = None


WATCH = Watch()


def read(path: Path) -> None:
    for _ in open_examples(str(path), Columns(), labels="ignore").batches():
        pass


@pytest.fixture(scope="session")
def _is_warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the reader itself imports late, it imports before the canary watches."""
    path = tmp_path_factory.mktemp("warm") / "rows.pkl"
    for value in (
        {"text": ["a"]},
        pd.DataFrame({"text": ["a"]}),
        datasets.Dataset.from_dict({"text": ["a"]}),
    ):
        for pack in (lambda b: b, gzip.compress, bz2.compress, lzma.compress):
            for protocol in range(6):
                path.write_bytes(pack(pickle.dumps(value, protocol)))
                read(path)
    with zipfile.ZipFile(path, "w") as archive:  # whose names have a codec of their own
        archive.writestr("rows.pkl", b"")
    with pytest.raises(LeantuneError):
        read(path)


@pytest.fixture
def accepted(tmp_path: Path) -> Callable[[bytes], None]:
    """Read a file that is good."""

    def check(content: bytes) -> None:
        (tmp_path / "rows.pkl").write_bytes(content)
        read(tmp_path / "rows.pkl")

    return check


@pytest.fixture
def refused(tmp_path: Path, _is_warm: None) -> Refused:
    """Read a file that must be refused, under the canary's eyes; gives the message."""

    def check(content: bytes, error: type[LeantuneError] = UnsafeFileError, name: str = "rows.pkl") -> str:
        path = tmp_path / name
        path.write_bytes(content)
        tracemalloc.start()
        began = time.perf_counter()
        with WATCH.reading(path), pytest.raises(LeantuneError) as caught:
            read(path)
        seconds = time.perf_counter() - began
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert WATCH.events == []
        assert peak <= 4 * len(content) + 200_000_000
        assert seconds < 10  # 2 s without tracemalloc on a free machine
        assert type(caught.value) is error
        return one_line(str(caught.value), str(path))

    return check


def one_line(message: str, path: str) -> str:
    assert "\n" not in message
    assert message.startswith(path)
    assert len(message) < 600 + len(path)
    return message
