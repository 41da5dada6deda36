"""``leantune serve``: one or many classifiers over HTTP."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from leantune.cli.options import add_fields, values_of
from leantune.cli.values import path
from leantune.errors import UsageError
from leantune.model.hub import resolve_classifier
from leantune.serving.settings import ServeSettings, name_problem
from leantune.system.messages import shown

if TYPE_CHECKING:
    from leantune.serving.service import Service

HELP = "answer over HTTP with one or many classifiers"
EXAMPLES = """
    leantune serve runs/mine
    leantune serve runs/topic runs/tone --adapter spam=./peft-folder --port 8000
    leantune serve runs/mine --host 0.0.0.0 --api-key "$KEY" --adapter-root ./adapters
"""
PARTS = ("adapter", "merged")
"""Folders of a run, which are named after it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "classifiers",
        metavar="[NAME=]FOLDER",
        nargs="*",
        type=path,
        help="runs, their adapter/ or merged/, or other classifiers; the name defaults to the folder's",
    )
    parser.add_argument(
        "--adapter",
        metavar="NAME=FOLDER",
        action="append",
        default=[],
        type=path,
        help="another classifier, by a name",
    )
    add_fields(parser, ServeSettings)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    try:
        from leantune.serving.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("leantune"):
            raise
        raise UsageError(f"serve needs {error.name}: pip install 'leantune[serve]'") from error
    settings = settings_from(options)
    _start_log(quiet=options.quiet)
    serve(settings, on_ready=_print_ready)


def settings_from(options: argparse.Namespace) -> ServeSettings:
    """The settings of a server.

    Raises:
        UsageError: without a classifier, for a name that two have or that is not allowed, or for a folder that does
            not exist.
    """
    classifiers = [*map(named, options.classifiers), *map(_with_name, options.adapter)]
    if not classifiers and not options.adapter_root:
        raise UsageError("nothing to serve: give a run, for example: leantune serve runs/mine")
    names = [name for name, _ in classifiers]
    for name, folder in classifiers:
        if names.count(name) > 1:
            raise UsageError(f"two classifiers are named {shown(name)}; give one of them as NAME={folder}")
        if problem := name_problem(name):
            raise UsageError(f"{problem}, for example: good-name={shown(folder)}")
        if not resolve_classifier(folder).is_dir():
            raise UsageError(f"{folder}: no such folder; give the output folder of 'leantune train'")
    values = values_of(options, ServeSettings)
    if options.adapter_root is not None and not options.adapter_root.is_dir():
        raise UsageError(f"--adapter-root {options.adapter_root}: no such folder")
    if api_key := options.api_key or os.environ.get("LEANTUNE_API_KEY"):
        values["api_key"] = api_key
    elif options.adapter_root is not None:
        raise UsageError(
            "--adapter-root lets clients load adapters, for which they must have a key: add --api-key"
        )
    return ServeSettings(classifiers=tuple(classifiers), **values)


def named(word: str) -> tuple[str, str]:
    """Name and folder of ``FOLDER`` or ``NAME=FOLDER``.

    >>> named("runs/mine"), named("runs/mine/adapter/"), named("spam=./peft")
    (('mine', 'runs/mine'), ('mine', 'runs/mine/adapter/'), ('spam', './peft'))
    """
    if "=" in word and not Path(word).is_dir():
        return _with_name(word)
    folder = Path(word).resolve()
    return (folder.parent.name if folder.name in PARTS else folder.name), word


def _with_name(word: str) -> tuple[str, str]:
    name, _, folder = word.partition("=")
    if not name or not folder:
        raise UsageError(f"{shown(word)}: expected NAME=FOLDER")
    return name, os.path.expanduser(folder)


def _start_log(*, quiet: bool) -> None:
    """Log to standard error, a line for each request."""
    handler = logging.StreamHandler()  # a console of rich takes longer than a request
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("leantune.serve")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False


def _print_ready(url: str, service: Service) -> None:
    """Print what is served and where."""
    for name in service.names:
        description = service.get(name).description
        shared = "its own encoder" if description.group.startswith("alone") else "a shared encoder"
        print(
            f"{name}: {len(description.labels)} classes, {description.model_type}, {description.precision}, {shared} "
            f"({description.source})"
        )
    print(f"ready: {url} (page and POST /predict; {url}/docs has every request)", flush=True)
