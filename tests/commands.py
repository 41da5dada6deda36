"""Commands and small scripts in processes of their own that need not import torch first.

A server imports once what commands need and forks a process for each of them, which goes on as ``python -m leantune``
or ``python -c`` would: with a folder, an environment, streams and a session of its own. Variables that are read while
modules are imported cannot be tried here, nor the start itself: such tests start an interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import runpy
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

PRELOADED = (
    "accelerate",
    "captum.attr",
    "datasets",
    "fastapi",
    "leantune.analysis",
    "leantune.cli.main",
    "leantune.estimator",
    "leantune.inference.export.formats",
    "leantune.inference.predict",
    "leantune.integrations",
    "leantune.report",
    "leantune.training.run",
    "peft",
    "transformers.models.bert.modeling_bert",
    "uvicorn",
)
"""What commands import, once for all of them; what is not installed is left out."""
AT_IMPORT = ("HF_", "KMP_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON", "TRANSFORMERS_")
"""Variables that are read while modules are imported begin so."""
ENVIRONMENT = dict(os.environ)
"""The environment that the suite was started in."""
SERVER = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # that of jemalloc has a thread
    "OMP_NUM_THREADS": "1",  # threads do not survive a fork
    "TOKENIZERS_PARALLELISM": "false",
}
SECONDS = 240.0
LENGTH = struct.Struct("!Q")
PIPE, STDOUT, DEVNULL = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL


def restore_environment() -> None:
    """Undo changes to variables that are read at import: commands and libraries in the tests' own process make some."""
    for name in {*os.environ, *ENVIRONMENT}:
        if not name.startswith(AT_IMPORT):
            continue
        if name in ENVIRONMENT:
            os.environ[name] = ENVIRONMENT[name]
        else:
            os.environ.pop(name, None)


class Process:
    """A command that runs: used as `subprocess.Popen` is, and in a process group of its own.

    Args:
        pid: of the process.
        status: a descriptor from which its exit code comes.
        streams: this side of its standard input, output and error; None where there is no pipe.
        text: whether the streams are of characters.
    """

    def __init__(self, pid: int, status: int, streams: list[int | None], text: bool) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._text = text
        self.stdin, self.stdout, self.stderr = (
            None if descriptor is None else self._opened(descriptor, mode)
            for descriptor, mode in zip(streams, "wrr", strict=True)
        )

    def _opened(self, descriptor: int, mode: str) -> IO[Any]:
        if self._text:
            return open(descriptor, mode, encoding="utf-8")
        return open(descriptor, f"{mode}b")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self.wait()

    def _close(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def poll(self) -> int | None:
        """The exit code, which is negative for a signal; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended; returns the exit code."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("leantune", timeout or 0)
            said = os.read(self._status, 64)
            assert said, "the server of the commands has ended"
            os.close(self._status)
            self.returncode = int(said)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, input: Any = None, timeout: float | None = SECONDS) -> tuple[Any, Any]:
        """Give it ``input`` and wait for its end; what it wrote to standard output and error."""
        read: dict[str, Any] = {}

        def drain(name: str, stream: IO[Any]) -> None:
            read[name] = stream.read()

        def feed() -> None:
            assert self.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                if input:
                    self.stdin.write(input)
                self.stdin.close()

        threads = [
            threading.Thread(target=drain, args=(name, stream), daemon=True)
            for name in ("stdout", "stderr")
            if (stream := getattr(self, name)) is not None and not stream.closed
        ]
        if self.stdin is not None:
            threads.append(threading.Thread(target=feed, daemon=True))
        for thread in threads:
            thread.start()
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise subprocess.TimeoutExpired("leantune", timeout or 0)
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        self._close()
        return read.get("stdout"), read.get("stderr")


class Commands:
    """The server, and what it starts; it ends with this process."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair()
        self._lock = threading.Lock()
        self._environment = ENVIRONMENT
        with other:
            command = [sys.executable, str(Path(__file__).resolve()), str(other.fileno())]
            self._server = subprocess.Popen(
                command,
                cwd=Path(__file__).parents[1],  # whatever folder the first test that needs it is in
                env=self._environment | SERVER,
                pass_fds=[other.fileno()],
                stdin=DEVNULL,
            )

    def start(
        self,
        *words: object,
        code: str | None = None,
        stdin: Any = DEVNULL,
        stdout: Any = PIPE,
        stderr: Any = PIPE,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        text: bool = True,
    ) -> Process:
        """``python -m leantune WORDS``, or ``python -c CODE WORDS``.

        Args:
            words: what is typed behind it.
            code: a script.
            stdin, stdout, stderr: as for `subprocess.Popen`: a constant of it, or an open file.
            cwd: where it runs; None here.
            env: its environment; None that of the tests.
            text: whether its streams are of characters.

        Raises:
            ValueError: for what only a fresh interpreter can try.
        """
        environment = dict(os.environ if env is None else env)
        self._check(words, environment)
        request = {
            "words": [os.fspath(word) if isinstance(word, Path) else str(word) for word in words],
            "code": code,
            "cwd": str(cwd or Path.cwd()),
            "env": environment,
        }
        ours: list[int | None] = []
        theirs: list[int] = []
        for number, stream in enumerate((stdin, stdout, stderr)):
            if stream == PIPE:
                ends = os.pipe()
                ours.append(ends[number == 0])
                theirs.append(ends[number != 0])
                continue
            ours.append(None)
            if stream == STDOUT:
                theirs.append(os.dup(theirs[1]))
            elif stream == DEVNULL:
                theirs.append(os.open(os.devnull, os.O_RDWR))
            else:
                theirs.append(os.dup(2 if stream is None else stream.fileno()))
        status, their_status = os.pipe()
        theirs.append(their_status)
        content = json.dumps(request).encode()
        with self._lock:
            socket.send_fds(self._socket, [LENGTH.pack(len(content))], theirs)
            self._socket.sendall(content)
            for descriptor in theirs:
                os.close(descriptor)
            (pid,) = LENGTH.unpack(_received(self._socket, LENGTH.size))
        return Process(pid, status, ours, text)

    def run(
        self,
        *words: object,
        code: str | None = None,
        input: Any = None,
        timeout: float = SECONDS,
        check: bool = False,
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """`start`, and wait for its end, as `subprocess.run` does.

        Raises:
            CalledProcessError: with ``check``, if it fails.
            TimeoutExpired: if it takes too long.
        """
        with self.start(*words, code=code, stdin=DEVNULL if input is None else PIPE, **options) as process:
            try:
                out, error = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        assert process.returncode is not None
        done = subprocess.CompletedProcess(["leantune", *words], process.returncode, out, error)
        if check:
            done.check_returncode()
        return done

    def _check(self, words: tuple[object, ...], environment: Mapping[str, str]) -> None:
        if "--offline" in words:
            raise ValueError("--offline is for what is imported: start an interpreter")
        known = self._environment | SERVER
        for name in {*environment, *self._environment}:
            value = environment.get(name)
            if (
                name.startswith(AT_IMPORT)
                and name != "PYTHONUNBUFFERED"
                and value not in (self._environment.get(name), known.get(name))
            ):
                raise ValueError(f"{name} is read while modules are imported: start an interpreter")

    def close(self) -> None:
        """End the server and all that it started."""
        self._socket.close()
        self._server.wait()


@functools.cache
def commands() -> Commands:
    """Those of this process."""
    return Commands()


def _received(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        more = connection.recv(size - len(content))
        if not more:
            raise ConnectionError("the other side has ended")
        content += more
    return content


def _serve(connection: socket.socket) -> dict[str, Any]:
    """Fork for every request; returns in the forked process alone."""
    running: dict[int, int] = {}
    wake_read, wake_write = socket.socketpair()
    for each in (wake_read, wake_write):
        each.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake_write.fileno())
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is wake_read:
                    with contextlib.suppress(BlockingIOError):
                        wake_read.recv(4096)
                    for pid, code in _ended(running):
                        status = running.pop(pid)
                        with contextlib.suppress(BrokenPipeError):
                            os.write(status, str(code).encode())
                        os.close(status)
                    continue
                head, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, 4)
                if not head:
                    for pid in running:
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(pid, signal.SIGKILL)
                    os._exit(0)
                request = json.loads(_received(connection, *LENGTH.unpack(head)))
                pid = os.fork()
                if pid == 0:
                    os.setsid()
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for number, descriptor in enumerate(descriptors[:3]):
                        os.dup2(descriptor, number)
                    for status in running.values():
                        os.close(status)
                    for descriptor in descriptors:
                        os.close(descriptor)
                    for each in (connection, wake_read, wake_write):
                        each.close()
                    return request
                running[pid] = descriptors[3]
                for descriptor in descriptors[:3]:
                    os.close(descriptor)
                connection.sendall(LENGTH.pack(pid))


def _ended(running: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    for pid in list(running):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            yield pid, os.waitstatus_to_exitcode(status)


def _become(request: dict[str, Any]) -> None:
    """What the interpreter would be that was started with these words."""
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    is_unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    for name, descriptor, errors in (("stdout", 1, "strict"), ("stderr", 2, "backslashreplace")):
        stream = io.TextIOWrapper(
            open(descriptor, "wb", closefd=False),  # noqa: SIM115 - likewise
            encoding="utf-8",
            errors=errors,
            line_buffering=descriptor == 2,
            write_through=is_unbuffered,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if request["code"] is None:
        sys.path[0] = os.getcwd()
        sys.argv = ["leantune", *request["words"]]
        runpy.run_module("leantune", run_name="__main__", alter_sys=True)
        return
    sys.path[0] = ""
    sys.argv = ["-c", *request["words"]]
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(request["code"], "<string>", "exec"), module.__dict__)


def _main() -> None:
    for name in PRELOADED:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    code = _code_of(lambda: _become(request))
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it
            stream.flush()
    os._exit(code)  # else all that was preloaded is taken down again


def _code_of(command: Callable[[], None]) -> int:
    """Run ``command``; the exit code of an interpreter that it ends."""
    try:
        command()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 255
        print(error.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    _main()
