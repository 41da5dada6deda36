"""What was typed for ``leantune serve``, and what it prints."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from leantune.errors import UsageError
from leantune.serving.settings import ServeSettings
from leantune.system.messages import shown

if TYPE_CHECKING:
    from leantune.serving.service import Service

PARTS = ("adapter", "merged")
"""Folders of a run, which are called as their run."""


def settings_from(options: argparse.Namespace) -> ServeSettings:
    """The settings of a server.

    Raises:
        UsageError: for no classifier, a name that two have, or a folder that is not there.
    """
    classifiers = [*map(named, options.classifiers), *map(_with_name, options.adapter)]
    if not classifiers and not options.adapter_root:
        raise UsageError("nothing to serve: give a run, for example: leantune serve runs/mine")
    names = [name for name, _ in classifiers]
    for name, folder in classifiers:
        if names.count(name) > 1:
            raise UsageError(f"two classifiers are called {shown(name)}; give one of them as NAME={folder}")
        if not Path(folder).is_dir():
            raise UsageError(f"{folder}: no such folder; give the output folder of 'leantune train'")
    root = None if options.adapter_root is None else Path(options.adapter_root)
    if root is not None and not root.is_dir():
        raise UsageError(f"--adapter-root {root}: no such folder")
    api_key = options.api_key or os.environ.get("LEANTUNE_API_KEY") or None
    if root is not None and api_key is None:
        raise UsageError(
            "--adapter-root lets clients load adapters, for which they must have a key: add --api-key"
        )
    return ServeSettings(
        classifiers=tuple(classifiers),
        host=options.host,
        port=options.port,
        workers=options.workers,
        precision=options.precision,
        api_key=api_key,
        adapter_root=root,
        adapter_memory_bytes=options.adapter_memory_mb * 1_000_000,
        max_concurrent_requests=options.max_concurrent_requests,
        max_batch_tokens=options.max_batch_tokens,
        max_body_bytes=options.payload_limit,
        max_texts=options.max_client_batch_size,
        timeout_s=options.timeout,
        drain_s=options.drain,
        auto_truncate=not options.no_auto_truncate,
        logs_texts=options.log_texts,
    )


def named(word: str) -> tuple[str, str]:
    """Name and folder of ``FOLDER`` or ``NAME=FOLDER``.

    >>> named("runs/mine"), named("runs/mine/adapter/"), named("spam=./peft")
    (('mine', 'runs/mine'), ('mine', 'runs/mine/adapter/'), ('spam', './peft'))
    """
    if "=" in word and not Path(word).is_dir():
        return _with_name(word)
    path = Path(word).resolve()
    return (path.parent.name if path.name in PARTS else path.name), word


def _with_name(word: str) -> tuple[str, str]:
    name, _, folder = word.partition("=")
    if not name or not folder:
        raise UsageError(f"{shown(word)}: expected NAME=FOLDER")
    return name, os.path.expanduser(folder)


def start_log(*, quiet: bool) -> None:
    """Let the server log to standard error: a line of JSON a request."""
    handler = logging.StreamHandler()  # not a console of rich, which takes longer than a request
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("leantune.serve")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False


def print_ready(url: str, service: Service) -> None:
    """Say on standard output what is served and where."""
    for name in service.names:
        description = service.get(name).description
        shared = "its own encoder" if description.group.startswith("alone") else "a shared encoder"
        print(
            f"{name}: {len(description.labels)} classes, {description.model_type}, {description.precision}, {shared} "
            f"({description.source})"
        )
    print(f"ready: {url} (page and POST /predict; {url}/docs has every request)", flush=True)
