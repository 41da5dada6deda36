"""Our server beside one of transformers' ``pipeline``: ``python -m benchmarks.serving [RUN] [--rounds 3]``.

RUN is the folder of a finished run, by default runs/quickstart of ``make quickstart``. ``leantune serve RUN`` and
`benchmarks.peer.pipeline_server` of its merged model run side by side and take turns at every level of load: so many
clients that wait for their answers, then so many requests a second around what each of them can do. The load is that of
``leantune bench-serve``, one text of AG News a request. Prints medians and writes JSON, Markdown and a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from transformers import AutoTokenizer

from benchmarks.quality.data import SOURCES, files_of, missing_source, read_rows
from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result
from benchmarks.speed.arithmetic import agreement
from benchmarks.tables import ROOT
from leantune.serving.load.connection import Address
from leantune.serving.load.first_request import check_server
from leantune.serving.load.levels import Level, Load
from leantune.serving.load.processes import measure

IMAGE = ROOT / "docs" / "images" / "serving-load.png"
OURS, PEER = "leantune serve", "FastAPI and pipeline"
TEXTS = 2_000
COMPARED = 256
"""Texts whose labels by both servers are compared."""
AROUND = (0.5, 0.75, 0.9, 1.0, 1.1)
"""Rates, as shares of what a server answers with the most clients."""
TOO_MUCH = 1.2
"""A server is not asked for more than this share of it: its queue would only grow."""
START_S = 180.0
"""In which a server must be ready."""
PERCENTILES = ("p50", "p95", "p99")


@dataclass(frozen=True, slots=True)
class System:
    """A server that runs."""

    name: str
    url: str
    process: psutil.Process

    def load(self, texts: Sequence[str], *, seconds: float, warmup: float) -> Load:
        return Load(
            address=Address.of(self.url),
            dialect="tei",
            texts=[[text] for text in texts],
            seconds=seconds,
            warmup=warmup,
        )

    def labels_of(self, texts: Sequence[str]) -> list[str]:
        """The most probable label of each text."""
        found = []
        for start in range(0, len(texts), 32):
            body = json.dumps({"inputs": [[text] for text in texts[start : start + 32]]}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{self.url}/predict", body, headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                every = json.load(answer)
            found += [max(scores, key=lambda each: each["score"])["label"] for scores in every]
        return found

    def rss_bytes(self) -> int:
        """Memory of its processes."""
        each = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_info().rss for process in each)


def main() -> int:
    options = parse_options()
    console = Console()
    texts = [text for text, _ in read_rows(files_of(SOURCES["agnews"])[1])][:TEXTS]
    result: dict[str, Any] = {
        **origin_of("benchmarks.serving"),
        "mean_tokens": mean_tokens(options.run / "merged", texts),
        "seconds": options.seconds,
        "warmup": options.warmup,
        "systems": {},
        "levels": [],
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        systems = [
            stack.enter_context(running(name, command_of(name, options.run), Path(folder)))
            for name in options.systems
        ]
        labels = [system.labels_of(texts[:COMPARED]) for system in systems]
        result["agreement"] = agreement(labels[0], labels[-1])
        for system in systems:
            about = check_server(system.load(texts, seconds=1, warmup=0), system.url)
            result["systems"][system.name] = {"about": about}
        clients = [Level(clients=each) for each in options.clients]
        result["levels"] += take_turns([(each, systems) for each in clients], texts, options, console)
        most = {
            each["system"]: max(summary["requests_per_s"] for summary in each["rounds"])
            for each in result["levels"]
            if each["clients"] == max(options.clients)
        }
        rates = rates_around(most.values()) if options.rates is None else options.rates
        levels = [
            (
                Level(rate=rate),
                [system for system in systems if options.rates or rate <= TOO_MUCH * most[system.name]],
            )
            for rate in rates
        ]
        result["levels"] += take_turns(levels, texts, options, console)
        for system in systems:
            result["systems"][system.name]["rss_bytes"] = system.rss_bytes()
    text = markdown_of(result)
    console.print(text, highlight=False, soft_wrap=True)
    is_for_the_docs = options.results == RESULTS
    for path in write_result(options.results, stem_of("serving", result["hardware"]), result, text):
        console.print(path, highlight=False, soft_wrap=True)
    draw(result, IMAGE if is_for_the_docs else options.results / IMAGE.name)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, nargs="?", default=ROOT / "runs" / "quickstart", metavar="RUN")
    parser.add_argument("--rounds", type=int, default=3, help="repeats of each level, alternating")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured, of each level")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before that")
    parser.add_argument("--clients", type=_numbers, default=[1, 8, 64])
    parser.add_argument("--rates", type=_numbers, help="requests a second; default: around what each can do")
    parser.add_argument(
        "--systems", type=lambda text: text.split(","), default=[OURS, PEER], help=f"{OURS},{PEER}"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write into")
    options = parser.parse_args()
    if not (options.run / "merged" / "config.json").is_file():
        parser.error(f"{options.run}: no finished run; make quickstart leaves one in runs/quickstart")
    if missing := missing_source("agnews"):
        parser.error(f"{missing}: not there; put the rows of AG News there")
    if unknown := set(options.systems) - {OURS, PEER}:
        parser.error(f"--systems: no {', '.join(sorted(unknown))}; there are {OURS} and {PEER}")
    return options


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def mean_tokens(model: Path, texts: Sequence[str]) -> float:
    """Of a text, as it is cut for the model."""
    encoded = AutoTokenizer.from_pretrained(model)(list(texts), truncation=True)["input_ids"]
    return sum(map(len, encoded)) / len(texts)


def command_of(name: str, run: Path) -> list[str]:
    """What starts a server; the port comes behind it."""
    if name == OURS:
        return [sys.executable, "-m", "leantune.cli", "serve", str(run), "--port"]
    return [sys.executable, "-m", "benchmarks.peer.pipeline_server", str(run / "merged"), "--port"]


@contextmanager
def running(name: str, command: Sequence[str], folder: Path) -> Iterator[System]:
    """A server on a free port, from when it is ready as long as this lasts; each decides its own threads.

    Raises:
        SystemExit: it ended, or was not ready in time; with the end of what it printed.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    log = folder / f"{port}.log"
    with log.open("w") as file:
        process = subprocess.Popen([*command, str(port)], stdout=file, stderr=file, env=environment)
    try:
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + START_S
        while not is_ready(url):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{name} is not ready (exit {process.poll()}):\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield System(name, url, psutil.Process(process.pid))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def take_turns(
    levels: Sequence[tuple[Level, Sequence[System]]],
    texts: Sequence[str],
    options: argparse.Namespace,
    console: Console,
) -> list[dict[str, Any]]:
    """Each level by each system that takes part in it, in so many rounds; who begins changes."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for number in range(options.rounds):
        for level, of in levels:
            for system in of if number % 2 == 0 else reversed(of):
                load = system.load(texts, seconds=options.seconds, warmup=options.warmup)
                (summary,) = measure(load, [level])
                kept = found.setdefault(
                    (system.name, level.title),
                    {"system": system.name, "clients": level.clients, "rate": level.rate, "rounds": []},
                )
                kept["rounds"].append(asdict(summary))
                p99 = (summary.latency_ms or {}).get("p99", float("nan"))
                console.print(
                    f"round {number + 1}, {level.title}, {system.name}: {summary.requests_per_s:.1f} requests/s, "
                    f"p99 {p99:.1f} ms, {summary.refused} refused, {summary.failed} failed",
                    highlight=False,
                    soft_wrap=True,
                )
    return list(found.values())


def rates_around(most: Iterable[float]) -> list[float]:
    """Requests a second around what each server can do, to two digits.

    >>> rates_around([100.0])
    [50.0, 75.0, 90.0, 100.0, 110.0]
    """
    return sorted({float(f"{share * each:.1e}") for each in most for share in AROUND})


def middle(level: Mapping[str, Any], key: str) -> float | None:
    """The median over the rounds: of a number, or of a percentile of the latency; None if nothing was answered."""
    values = [
        (each["latency_ms"] or {}).get(key) if key in PERCENTILES else each[key] for each in level["rounds"]
    ]
    known = [value for value in values if value is not None]
    return median(known) if known else None


def markdown_of(result: Mapping[str, Any]) -> str:
    """A table for each kind of load, under what was done and where."""
    hardware, versions = result["hardware"], result["versions"]
    rounds = max(len(each["rounds"]) for each in result["levels"])
    busiest = max(each["generator_cpu"] for level in result["levels"] for each in level["rounds"])
    shares = f"{result['agreement']:.1%} of {COMPARED} texts"
    same = f" Both give {shares} the same label." if len(result["systems"]) > 1 else ""
    lines = [
        f"# Serving, {result['date']}",
        "",
        f"`{result['command']}`, commit {result['commit']}, on {machine_name(hardware)}, {hardware['cores']} cores; "
        f"torch {versions['torch']}, transformers {versions['transformers']}. One text of AG News a request, "
        f"{result['mean_tokens']:.0f} tokens on average. The servers have the same merged model, run side by side and "
        f"take turns. Medians of {rounds} rounds of {result['seconds']:g} s after {result['warmup']:g} s. The "
        f"load generator took at most {busiest:.2f} of a core.{same}",
        "",
        *(
            f"- {name}: {about['rss_bytes'] / 1e9:.2f} GB of memory at the end"
            for name, about in result["systems"].items()
        ),
    ]
    names = {"clients": "clients", "rate": "requests/s"}
    titles = {"clients": "## Clients that wait", "rate": "## Requests that come"}
    for key, title in titles.items():
        levels = sorted(
            (each for each in result["levels"] if each[key] is not None),
            key=lambda each: (each[key], each["system"] != OURS),
        )
        lines += [
            *("", title, ""),
            f"| {names[key]} | server | answered/s | p50 ms | p95 ms | p99 ms | refused | failed |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [_line(each, key) for each in levels]
    return "\n".join([*lines, ""])


def _line(level: Mapping[str, Any], key: str) -> str:
    ms = (middle(level, percentile) for percentile in PERCENTILES)
    counts = (sum(each[name] for each in level["rounds"]) for name in ("refused", "failed"))
    cells = [
        f"{level[key]:g}",
        level["system"],
        f"{middle(level, 'requests_per_s'):.1f}",
        *("" if each is None else f"{each:.1f}" for each in ms),
        *(f"{each:,}" for each in counts),
    ]
    return f"| {' | '.join(cells)} |"


def draw(result: Mapping[str, Any], image: Path) -> None:
    """What was answered, and how long it took, over what was asked for."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (answered, latency) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    widths = {"p50": (2, "-"), "p95": (1.2, "--"), "p99": (1.2, ":")}
    for name, color in ((OURS, "#1f6f54"), (PEER, "#c2571a")):
        levels = sorted(
            (each for each in result["levels"] if each["system"] == name and each["rate"] is not None),
            key=lambda each: each["rate"],
        )
        rates = [each["rate"] for each in levels]
        shared = {"color": color, "marker": "o", "markersize": 3}
        answered.plot(rates, [middle(each, "requests_per_s") for each in levels], linewidth=2, **shared)
        for percentile, (width, style) in widths.items():
            latency.plot(
                rates,
                [middle(each, percentile) for each in levels],
                linewidth=width,
                linestyle=style,
                label=f"{name}, {percentile}" if levels else None,
                **shared,
            )
    answered.axline((0, 0), slope=1, color="#999999", linewidth=0.8, zorder=0)
    answered.set(
        xlabel="requests/s that come", ylabel="requests/s that are answered", xlim=(0, None), ylim=(0, None)
    )
    latency.set(xlabel="requests/s that come", ylabel="latency, ms", xlim=(0, None), yscale="log")
    for axis in (answered, latency):
        axis.grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=140)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
