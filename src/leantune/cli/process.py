"""How a command starts and ends as a process: its streams, its signals, and one line for what goes wrong."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from leantune.errors import Interrupted, LeantuneError, ResourceError, UsageError
from leantune.system.atomic import disk_failure
from leantune.system.memory import is_out_of_memory
from leantune.system.messages import one_line


def prepare_process() -> None:
    """Streams that take every character and survive a full disk, and SIGTERM that ends as an error does."""
    if sys.stderr is None:  # closed: what is printed there would go to standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    elif sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _lenient(sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without a character shows its number
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, stop)  # training has its own, while it trains


class _Lenient(io.RawIOBase):
    """A descriptor that takes everything: a full disk under the log changes nothing about what is done."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, content: Any) -> int:
        with contextlib.suppress(OSError):
            return os.write(self._descriptor, content)
        return len(content)


def _lenient(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Standard error, but that writing to it never fails."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Lenient(stream.fileno())),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )


def stop(number: int, frame: FrameType | None) -> None:
    """End as after an error, so that temporary files go."""
    if _is_in_finalizer(frame):  # Python would print what is raised there, and go on
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        return
    raise Interrupted("stopped by SIGTERM", signal_number=number)


def _is_in_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def exit_code_of(command: Callable[[], None], *, debug: bool = False) -> int:
    """Run ``command``; what goes wrong becomes one line on standard error and an exit code."""
    try:
        command()
        if sys.stdout is not None:
            sys.stdout.flush()  # what fails after this is no longer reported
    except LeantuneError as error:
        return report(error, error.exit_code, debug)
    except KeyboardInterrupt:
        return report(LeantuneError("interrupted"), 130, debug=False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        reason = disk_failure(error)
        place = f"{error.filename}: " if error.filename else ""
        if reason is None:
            said = error.strerror or str(error)
            return report(UsageError(f"{place}{said}"), UsageError.exit_code, debug, cause=error)
        return report(ResourceError(f"{place}{reason}"), ResourceError.exit_code, debug, cause=error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return report(ResourceError(_MEMORY_ADVICE), ResourceError.exit_code, debug, cause=error)
    return 0


MAX_MESSAGE_CHARS = 4000
"""Whatever a file holds that a message quotes."""

# training names its own keys
_MEMORY_ADVICE = "out of memory: a smaller --batch-size helps where the command has it"


def report(error: Exception, code: int, debug: bool, cause: BaseException | None = None) -> int:
    """Print an error as one line, or raise it with ``debug``; returns ``code``."""
    if debug:
        raise error from cause
    text = one_line(error, MAX_MESSAGE_CHARS)
    print(f"leantune: error: {text}", file=sys.stderr)
    return code
