"""``leantune bench-serve``: load for a server of classifiers, level by level, and a table of how it took it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from leantune.errors import LeantuneError, UsageError, first_line
from leantune.system.console import console

if TYPE_CHECKING:
    from leantune.serving.load.levels import Level, Load
    from leantune.serving.load.summary import Summary

CLIENTS = (1, 8, 64)
"""Levels, if none are given."""
BUSY = 0.8
"""CPU seconds a second of one process, from which on it may be the load generator that is slow."""


def bench_serve(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UsageError: a server that cannot be measured, or a package that is missing.
        LeantuneError: not one request was answered.
    """
    try:
        from leantune.serving.load.connection import Address
        from leantune.serving.load.first_request import check_server
        from leantune.serving.load.levels import Load
        from leantune.serving.load.processes import measure
        from leantune.serving.load.texts import grouped, texts_of
    except ImportError as error:
        raise UsageError(
            f"bench-serve needs {error.name}, which cannot be imported ({first_line(error)}); "
            "install it with: pip install 'leantune[serve]'"
        ) from error
    _check_options(options)
    levels = _levels(options)
    load = Load(
        address=Address.of(options.url),
        dialect=options.dialect,
        texts=grouped(texts_of(options.data, options.text_column), options.texts_per_request),
        model=options.model,
        key=options.api_key,
        seconds=options.seconds,
        warmup=options.warmup,
        timeout=options.timeout,
        seed=options.seed,
    )
    server = check_server(load, options.url)
    found: list[Summary] = []
    terminal = console(stderr=True, quiet=options.quiet)
    with terminal.status(f"load: {levels[0].title}") as status:
        for summary in measure(load, levels, options.processes):
            found.append(summary)
            if len(found) < len(levels):
                status.update(f"load: {levels[len(found)].title}")
    console().print(_table(found))
    for line in _notes(found, options):
        console().print(line, soft_wrap=True)
    if options.output:
        _write(Path(options.output), _result(options, load, server, found))
    if not any(each.answered for each in found):
        raise LeantuneError(f"{options.url}: not one request was answered; {_why(found)}")


def _check_options(options: argparse.Namespace) -> None:
    """What can be said before anything is sent."""
    from leantune.serving.load.connection import MAX_CONNECTIONS
    from leantune.serving.load.dialects import DIALECTS

    if DIALECTS[options.dialect].needs_model and options.model is None:
        raise UsageError(f"--dialect {options.dialect} has the model in its path: give --model NAME")
    if options.text_column and options.data is None:
        raise UsageError("--text-column is a column of --data: give --data, too")
    if options.api_key and not (options.api_key.isascii() and options.api_key.isprintable()):
        raise UsageError("--api-key: a key must be of printable ASCII characters; look whether it is whole")
    most = MAX_CONNECTIONS * options.processes
    if options.clients and max(options.clients) > most:
        enough = -(-max(options.clients) // MAX_CONNECTIONS)
        raise UsageError(
            f"--clients {max(options.clients)}: {options.processes} process of the load generator has {most} "
            f"connections; give --processes {enough}"
        )
    if options.output and os.path.lexists(options.output) and not options.overwrite:
        raise UsageError(f"--output {options.output}: exists already; add --overwrite to replace it")
    if options.output and not Path(options.output).absolute().parent.is_dir():
        raise UsageError(f"--output {options.output}: no such folder; make it, or choose another name")


def _levels(options: argparse.Namespace) -> list[Level]:
    from leantune.serving.load.levels import Level

    clients = options.clients or ([] if options.rate else CLIENTS)
    return [Level(clients=each) for each in clients] + [Level(rate=each) for each in options.rate or []]


def _table(found: Sequence[Summary]) -> Table:
    table = Table(box=None, pad_edge=False)
    columns = (
        *("load", "requests/s", "texts/s", "p50 ms", "p95 ms", "p99 ms"),
        *("answered", "refused (429)", "failed", "generator, cores"),
    )
    for name in columns:
        table.add_column(name, justify="left" if name == "load" else "right")
    for each in found:
        latency = each.latency_ms or {}
        ms = (f"{latency[key]:.1f}" if latency else "-" for key in ("p50", "p95", "p99"))
        counts = (f"{count:,}" for count in (each.answered, each.refused, each.failed))
        rates = (f"{rate:,.1f}" for rate in (each.requests_per_s, each.texts_per_s))
        table.add_row(each.level, *rates, *ms, *counts, f"{each.generator_cpu:.2f}")
    return table


def _notes(found: Sequence[Summary], options: argparse.Namespace) -> list[str]:
    """What went wrong, and where the numbers may be those of the load generator."""
    lines = []
    for each in found:
        if each.failures:
            first = next(iter(each.failures))
            lines.append(
                f"{each.level}: {each.failed:,} of {each.sent:,} requests failed, the first: {first}"
            )
    if any(each.generator_busiest > BUSY for each in found):
        lines.append(
            f"the load generator was busy more than {BUSY:.0%} of the time, so that latencies may be its own: "
            f"give --processes {options.processes + 1}"
        )
    return lines


def _why(found: Sequence[Summary]) -> str:
    """Why nothing was answered."""
    refused = sum(each.refused for each in found)
    failures = [f"{sum(each.failed for each in found):,} failed"] if any(e.failed for e in found) else []
    first = next((f", the first: {message}" for each in found for message in each.failures), "")
    if not refused and not failures:
        return "none was sent: give a higher --rate, or more --seconds"
    return " and ".join([*([f"{refused:,} were refused (429)"] if refused else []), *failures]) + first


def _result(
    options: argparse.Namespace, load: Load, server: dict[str, Any] | None, found: Sequence[Summary]
) -> dict[str, Any]:
    """Everything, for a file; the key is not in it."""
    from leantune.system.hardware import describe_hardware, describe_versions, pick_device

    packages = ("leantune", "httptools", "uvloop")
    return {
        "date": date.today().isoformat(),
        "url": options.url,
        "server": server,
        "dialect": load.dialect,
        "model": load.model,
        "data": options.data,
        "texts_per_request": options.texts_per_request,
        "seconds": load.seconds,
        "warmup": load.warmup,
        "timeout": load.timeout,
        "seed": load.seed,
        "processes": options.processes,
        "levels": [asdict(each) for each in found],
        "hardware": describe_hardware(pick_device()),
        "versions": describe_versions() | {name: metadata.version(name) for name in packages},
    }


def _write(path: Path, result: dict[str, Any]) -> None:
    from leantune.system.atomic import atomic_file

    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(path, file=sys.stderr)
