"""A real server in a process of its own, for the tests of ``leantune serve``."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commands import commands

START_S = 240.0


class ServerProcess:
    """``leantune serve`` on a free port; a context manager.

    Args:
        words: what is typed behind ``serve``.
        env: variables beside those of the tests.
    """

    def __init__(self, *words: str | Path, env: Mapping[str, str] | None = None) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self.process = commands().start("serve", *words, "--port", "0", env=environment)
        self.lines: list[str] = []
        self.log: list[str] = []
        said: queue.Queue[str] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.lines, said), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.log, None), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        deadline = time.monotonic() + START_S
        while True:
            try:
                line = said.get(timeout=1)
            except queue.Empty:
                assert self.process.poll() is None, "".join(self.log)
                assert time.monotonic() < deadline, f"no server within {START_S} s"
                continue
            if line.startswith("ready: "):
                self.url = line.split()[1]
                return

    @staticmethod
    def _read(stream: Any, lines: list[str], said: queue.Queue[str] | None) -> None:
        for line in stream:
            lines.append(line)
            if said is not None:
                said.put(line)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def terminate(self) -> None:
        """Ask it to drain."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """End it; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        for reader, stream in zip(self._readers, (self.process.stdout, self.process.stderr), strict=True):
            reader.join(10)
            assert stream is not None
            stream.close()
        return code

    def workers(self) -> list[int]:
        """The processes that compute."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [
            int(child)
            for child in children
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text("utf-8", "replace")
        ]
