"""A headless Chromium, spoken to by its debugging protocol over two pipes: no driver and no port."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BASH = shutil.which("bash")
TIMEOUT_S = 60.0
TROUBLE = (
    "Runtime.consoleAPICalled",
    "Runtime.exceptionThrown",
    "Log.entryAdded",
    "Network.requestWillBeSent",
)


class Browser:
    """One tab; a context manager.

    Args:
        profile: an empty folder for what the browser writes.
    """

    def __init__(self, profile: Path) -> None:
        to_browser, self._writing = os.pipe()
        self._reading, from_browser = os.pipe()
        command = [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={profile}",
        ]  # fmt: skip
        try:  # the browser reads its third descriptor and writes its fourth
            self._process = subprocess.Popen(
                [str(BASH), "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", *command],
                pass_fds=(to_browser, from_browser),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            os.close(to_browser)
            os.close(from_browser)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._writing)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._reading)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path, *, width: int) -> None:
        """Load a file in a window of this width."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.events.clear()
        self.ask("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str, *, waits: bool = False) -> Any:
        """The value of a JavaScript expression in the page; ``waits`` for that of a promise."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=waits)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def trouble(self) -> list[dict[str, Any]]:
        """What came to the console, and requests but the first, which is for the page itself."""
        found = [event for event in self.events if event["method"] in TROUBLE]
        return [event for event in found if event["params"].get("type") != "Document"]

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reading], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            read = os.read(self._reading, 1 << 16)
            assert read, "the browser has gone"
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
