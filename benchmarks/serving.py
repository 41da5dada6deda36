"""Our server beside one of transformers' ``pipeline``: ``python -m benchmarks.serving [RUN] [--rounds 3]``.

RUN is the folder of a finished run, by default runs/quickstart of ``make quickstart``. ``leantune serve RUN`` and
`benchmarks.peer.pipeline_server` of its merged model run side by side and take turns at every level of load: so many
clients that wait for their answers, then so many requests a second around what each of them can do. Locust makes the
load in a process of its own (`benchmarks.load`), one text of AG News a request. Prints medians and writes JSON,
Markdown and a plot.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from transformers import AutoTokenizer

from benchmarks.harness import (
    RESULTS,
    ROOT,
    Benchmark,
    Result,
    measured_by,
    page,
    table,
    turns,
    whole_numbers,
    words,
)
from benchmarks.inputs import finished_run, read_rows
from benchmarks.processes import COMMAND, output_of, wait_for
from benchmarks.quality.data import SOURCES, files_of, missing_source
from benchmarks.speed.arithmetic import agreement

BENCHMARK = Benchmark("serving", __doc__)
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

Level = Mapping[str, Any]
"""``clients`` that wait for their answers, or a ``rate`` of requests that come."""


@dataclass(frozen=True, slots=True)
class System:
    """A server that runs."""

    name: str
    url: str
    process: psutil.Process

    def labels_of(self, texts: Sequence[str]) -> list[str]:
        """The most probable label of each text."""
        found = []
        for start in range(0, len(texts), 32):
            body = {"inputs": [[text] for text in texts[start : start + 32]]}
            every = answer_of(f"{self.url}/predict", body)
            found += [max(scores, key=lambda each: each["score"])["label"] for scores in every]
        return found

    def rss_bytes(self) -> int:
        """Memory of its processes."""
        each = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_info().rss for process in each)


def main() -> None:
    parser = BENCHMARK.parser()
    default = ROOT / "runs" / "quickstart"
    parser.add_argument("run", type=finished_run, nargs="?", default=str(default), metavar="RUN")
    parser.add_argument("--rounds", type=int, default=3, help="repeats of each level, alternating")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured, of each level")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before that")
    parser.add_argument("--clients", type=whole_numbers, default=[1, 8, 64])
    parser.add_argument(
        "--rates", type=whole_numbers, help="requests a second; default: around what each can do"
    )
    parser.add_argument("--systems", type=words, default=[OURS, PEER], help=f"default: {OURS},{PEER}")
    options = parser.parse_args()
    if missing := missing_source("agnews"):
        parser.error(f"{missing}: not there; put the rows of AG News there")
    if unknown := set(options.systems) - {OURS, PEER}:
        parser.error(f"--systems: no {', '.join(sorted(unknown))}; there are {OURS} and {PEER}")
    texts = [text for text, _ in read_rows(files_of(SOURCES["agnews"])[1])][:TEXTS]
    span = {"texts": texts, "seconds": options.seconds, "warmup": options.warmup}
    result: dict[str, Any] = {
        **BENCHMARK.origin(),
        "mean_tokens": mean_tokens(options.run / "merged", texts),
        **{key: span[key] for key in ("seconds", "warmup")},
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        systems = [
            stack.enter_context(running(name, command_of(name, options.run), Path(folder)))
            for name in options.systems
        ]
        result["systems"] = {each.name: {"about": answer_of(f"{each.url}/info")} for each in systems}
        labels = [system.labels_of(texts[:COMPARED]) for system in systems]
        result["agreement"] = agreement(labels[0], labels[-1])
        waiting = [(system, {"clients": count}) for count in options.clients for system in systems]
        result["levels"] = take_turns(waiting, span, options.rounds)
        most = {
            each["system"]: max(summary["requests_per_s"] for summary in each["rounds"])
            for each in result["levels"]
            if each["clients"] == max(options.clients)
        }
        coming = [
            (system, {"rate": rate})
            for rate in options.rates or rates_around(most.values())
            for system in systems
            if options.rates or rate <= TOO_MUCH * most[system.name]
        ]
        result["levels"] += take_turns(coming, span, options.rounds)
        for system in systems:
            result["systems"][system.name]["rss_bytes"] = system.rss_bytes()
    BENCHMARK.publish(options.results, result, markdown_of(result))
    draw(result, IMAGE if options.results == RESULTS else options.results / IMAGE.name)


def answer_of(url: str, body: Any = None) -> Any:
    """What a server answers; ``body`` is posted."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def mean_tokens(model: Path, texts: Sequence[str]) -> float:
    """Tokens of a text, as it is cut for the model."""
    encoded = AutoTokenizer.from_pretrained(model)(list(texts), truncation=True)["input_ids"]
    return sum(map(len, encoded)) / len(texts)


def command_of(name: str, run: Path) -> list[str]:
    """What starts a server; the port comes behind it."""
    if name == OURS:
        return [*COMMAND, "serve", str(run), "--port"]
    return [sys.executable, "-m", "benchmarks.peer.pipeline_server", str(run / "merged"), "--port"]


@contextmanager
def running(name: str, command: Sequence[str], folder: Path) -> Iterator[System]:
    """A server on a free port, from when it is ready as long as this lasts; each decides its own threads.

    Raises:
        SystemExit: it ended; with the end of what it printed.
        TimeoutError: it was not ready in time.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    log = folder / f"{port}.log"
    with log.open("w") as file:
        process = subprocess.Popen([*command, str(port)], stdout=file, stderr=file, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        if not wait_for(process, lambda: is_ready(url), pause_s=0.2, patience_s=START_S):
            raise SystemExit(f"{name} ended ({process.returncode}):\n{log.read_text()[-2000:]}")
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


def measured(url: str, level: Level, span: Mapping[str, Any]) -> dict[str, Any]:
    """What a fresh process of `benchmarks.load` finds; ``span`` are texts, seconds and warm-up."""
    settings = json.dumps({"url": url, **level, **span})
    summary: dict[str, Any] = json.loads(
        output_of([sys.executable, "-m", "benchmarks.load"], cwd=ROOT, stdin=settings)
    )
    return summary


def take_turns(
    levels: Sequence[tuple[System, Level]], span: Mapping[str, Any], rounds: int
) -> list[dict[str, Any]]:
    """Each level by each system that takes part in it, in so many rounds."""
    found = [
        {"system": system.name, "clients": None, "rate": None, **level, "rounds": []}
        for system, level in levels
    ]
    for number, ((system, level), kept) in turns(tuple(zip(levels, found, strict=True)), rounds):
        summary = measured(system.url, level, span)
        kept["rounds"].append(summary)
        p99 = (summary["latency_ms"] or {}).get("p99", float("nan"))
        (kind, value), *_ = level.items()
        print(
            f"round {number + 1}, {kind} {value:g}, {system.name}: {summary['requests_per_s']:.1f} requests/s, "
            f"p99 {p99:.1f} ms, {summary['refused']} refused, {summary['failed']} failed",
            flush=True,
        )
    return found


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


def markdown_of(result: Result) -> str:
    """A table for each kind of load, under what was done and where."""
    rounds = max(len(each["rounds"]) for each in result["levels"])
    busiest = max(each["generator_cpu"] for level in result["levels"] for each in level["rounds"])
    shares = f"{result['agreement']:.1%} of {COMPARED} texts"
    same = f" Both give {shares} the same label." if len(result["systems"]) > 1 else ""
    memory = (
        f"- {name}: {about['rss_bytes'] / 1e9:.2f} GB of memory at the end"
        for name, about in result["systems"].items()
    )
    blocks = []
    for key, unit, title in (
        ("clients", "clients", "Clients that wait"),
        ("rate", "requests/s", "Requests that come"),
    ):
        levels = (each for each in result["levels"] if each[key] is not None)
        ordered = sorted(levels, key=lambda each: (each[key], each["system"] != OURS))
        header = [unit, "server", "answered/s", "p50 ms", "p95 ms", "p99 ms", "refused", "failed"]
        blocks += [f"## {title}", table(header, (_cells(each, key) for each in ordered))]
    return page(
        f"Serving, {result['date']}",
        f"{measured_by(result, 'torch', 'transformers')}. One text of AG News a request, {result['mean_tokens']:.0f} "
        "tokens on average. The servers have the same merged model, run side by side and take turns. Medians of "
        f"{rounds} rounds of {result['seconds']:g} s after {result['warmup']:g} s. The load generator took at most "
        f"{busiest:.2f} of a core.{same}",
        "\n".join(memory),
        *blocks,
    )


def _cells(level: Level, key: str) -> list[str]:
    ms = (middle(level, percentile) for percentile in PERCENTILES)
    counts = (sum(each[name] for each in level["rounds"]) for name in ("refused", "failed"))
    return [
        f"{level[key]:g}",
        level["system"],
        f"{middle(level, 'requests_per_s'):.1f}",
        *("" if each is None else f"{each:.1f}" for each in ms),
        *(f"{each:,}" for each in counts),
    ]


def draw(result: Result, image: Path) -> None:
    """What was answered, and how long it took, over what was asked for."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    answered, latency = figure.subplots(1, 2)
    styles = {"p50": (2, "-"), "p95": (1.2, "--"), "p99": (1.2, ":")}
    for name, color in ((OURS, "#1f6f54"), (PEER, "#c2571a")):
        levels = [each for each in result["levels"] if each["system"] == name and each["rate"] is not None]
        levels.sort(key=lambda each: each["rate"])
        rates = [each["rate"] for each in levels]
        shared = {"color": color, "marker": "o", "markersize": 3}
        answered.plot(rates, [middle(each, "requests_per_s") for each in levels], linewidth=2, **shared)
        for percentile, (width, style) in styles.items():
            looks = {**shared, "linewidth": width, "linestyle": style}
            label = f"{name}, {percentile}" if levels else None
            latency.plot(rates, [middle(each, percentile) for each in levels], label=label, **looks)
    answered.axline((0, 0), slope=1, color="#999999", linewidth=0.8, zorder=0)
    answered.set(ylabel="requests/s that are answered", xlim=(0, None), ylim=(0, None))
    latency.set(ylabel="latency, ms", xlim=(0, None), yscale="log")
    for axis in (answered, latency):
        axis.set_xlabel("requests/s that come")
        axis.grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=140)


if __name__ == "__main__":
    main()
