"""Options that several commands share, and options made from the fields of a dataclass."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leantune.cli.values import at_least, number_above, path, positive
from leantune.config.option import options_of
from leantune.config.recipe import PRECISIONS
from leantune.errors import UsageError
from leantune.system.messages import shown

if TYPE_CHECKING:
    from rich.console import Console

    from leantune.data.text.columns import Columns
    from leantune.data.text.read import ExampleSource
    from leantune.inference.text_classifier import TextClassifier

ENGINES = ("torch", "openvino", "openvino-int8", "onnx", "onnx-int8")


def add_fields(
    parser: argparse.ArgumentParser,
    settings: type[Any],
    *,
    group: str | None = None,
    optional: bool = False,
    is_shown: bool = True,
) -> None:
    """Add a flag for each field of ``settings`` that was made by `leantune.config.option.option`.

    Args:
        parser: of the command.
        settings: a dataclass.
        group: heading for fields that name none.
        optional: whether a flag that is left out gives None instead of the field's default.
        is_shown: whether ``--help`` lists the flags.
    """
    kinds = typing.get_type_hints(settings)
    groups: dict[str | None, Any] = {None: parser}
    for name, each in options_of(settings).items():
        title = each.metadata.get("group", group)
        if title not in groups:
            groups[title] = parser.add_argument_group(title if is_shown else None)
        keywords = _keywords(each, kinds[name], optional)
        if not is_shown:
            keywords["help"] = argparse.SUPPRESS
        groups[title].add_argument(_flag(each), **keywords, dest=name)


def _flag(each: dataclasses.Field[Any]) -> str:
    word = each.name.replace("_", "-")
    return f"--no-{word}" if each.default is True else f"--{word}"


def _keywords(each: dataclasses.Field[Any], kind: Any, optional: bool) -> dict[str, Any]:
    """What argparse needs to know of a field."""
    is_required = each.default is dataclasses.MISSING
    keywords: dict[str, Any] = {"help": help_of(each), "default": None if is_required else each.default}
    if optional:
        keywords["default"] = None
    elif is_required:
        keywords["required"] = True
    if isinstance(each.default, bool):
        return keywords | {"action": "store_false" if each.default else "store_true"}
    if "choices" in each.metadata:
        return keywords | {"choices": each.metadata["choices"]}
    plain = next(member for member in typing.get_args(kind) or (kind,) if member is not types.NoneType)
    types_of = {
        int: at_least(each.metadata.get("least", 1)),
        float: number_above(0),
        Path: lambda word: Path(path(word)),
    }
    if plain in types_of:
        keywords["type"] = types_of[plain]
    return keywords | {
        "metavar": each.metadata.get("metavar", {int: "N", float: "X", Path: "FOLDER"}.get(plain))
    }


def help_of(each: dataclasses.Field[Any]) -> str:
    """The help of a field, with its default unless the text says it."""
    said: str = each.metadata["doc"]
    is_said = (
        each.default in (dataclasses.MISSING, None) or isinstance(each.default, bool) or "default" in said
    )
    return (said if is_said else f"{said} [{each.default}]").replace("%", "%%")


def values_of(options: argparse.Namespace, settings: type[Any]) -> dict[str, Any]:
    """The values of the fields that `add_fields` made flags of; fields that were left out have their default."""
    values = {name: getattr(options, name) for name in options_of(settings)}
    return {name: value for name, value in values.items() if value is not None}


def add_run(parser: argparse.ArgumentParser, *, only: bool = False) -> None:
    """The classifier that a command opens; ``only`` a run."""
    help_text = (
        "a run folder" if only else "a run folder, its adapter/ or merged/, or another classifier's folder"
    )
    parser.add_argument("run_folder", metavar="RUN", type=path, help=help_text)


def add_columns(parser: argparse.ArgumentParser, *, label: bool) -> None:
    """The columns of a file of rows; see `columns_from`."""
    group = parser.add_argument_group("columns", "by default those of training")
    group.add_argument("--text-column", metavar="NAME", help="column of the text")
    group.add_argument("--text-pair-column", metavar="NAME", help="column of the second text of a pair")
    if label:
        group.add_argument("--label-column", metavar="NAME", help="column of the label")
    what = "leave out rows with a blank text" if label else "give rows with a blank text an empty label"
    group.add_argument("--skip-blank-rows", action="store_true", help=what)


def add_computing(parser: argparse.ArgumentParser) -> None:
    """How a classifier computes; see `engine_from`."""
    group = parser.add_argument_group("computing")
    group.add_argument(
        "--batch-size",
        metavar="N",
        type=positive,
        help="texts per batch; default: the recipe's eval_batch_size",
    )
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="torch",
        help="library that computes; all but torch need an export first [torch]",
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="default: the recipe's; int8: bf16 with int8 products, on x86 CPUs with VNNI",
    )
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Whether Python code that comes with a model may run; see `trusts`."""
    parser.add_argument(
        "--trust-remote-code",
        nargs="?",
        const="true",
        choices=("true", "false"),
        help="run Python code that comes with the model",
    )


def trusts(options: argparse.Namespace) -> bool:
    """Whether Python code that comes with a model may run."""
    return bool(options.trust_remote_code == "true")


def engine_from(options: argparse.Namespace) -> TextClassifier:
    """Open the classifier that the command line names."""
    from leantune.inference.engines.choose import load_engine

    return load_engine(
        options.engine,
        Path(options.run_folder),
        precision=options.precision,
        trust_remote_code=trusts(options),
    )


def columns_from(options: argparse.Namespace, trained: Any) -> Columns:
    """The columns that the command reads: those of its flags, else those of training."""
    from leantune.data.text.columns import columns_for

    return columns_for(
        trained,
        text_column=options.text_column,
        text_pair_column=options.text_pair_column,
        label_column=getattr(options, "label_column", None),
        id_column=getattr(options, "id_column", None),
        skip_blank_rows=options.skip_blank_rows,
    )


def rows_from(options: argparse.Namespace, by_flag: str | None, flag: str) -> str:
    """The file of rows, which may be given by position or by flag."""
    given = [each for each in (options.rows, by_flag) if each is not None]
    if len(given) != 1:
        problem = (
            f"{options.rows} and {flag} {by_flag}: give only one of them" if given else "no rows: give a file"
        )
        raise UsageError(f"{problem}, as in: leantune {options.command} {options.run_folder} rows.csv")
    return str(given[0])


def new_folder(output: str) -> Path:
    """The folder that a command writes, which must not exist yet."""
    folder = Path(output).expanduser()
    if folder.exists():
        raise UsageError(f"output {folder}: already exists; choose another folder or remove it")
    return folder


def print_notes(source: ExampleSource, options: argparse.Namespace) -> None:
    """Say on standard error how a file was read."""
    for line in () if options.quiet else source.notes:
        print(line, file=sys.stderr)


def progress_console(options: argparse.Namespace) -> Console:
    """The console on standard error for progress; silent with ``--quiet`` and in all processes but the first."""
    from leantune.system.console import console

    # torchrun numbers the processes
    is_quiet = options.quiet or os.environ.get("RANK", "0") != "0"
    return console(stderr=True, quiet=is_quiet, verbose=getattr(options, "verbose", False))


def refuse_first(given: Mapping[str, Any], why: str) -> None:
    """Refuse the first flag that was given of some that have no meaning here."""
    for flag, value in given.items():
        if value:
            raise UsageError(f"{flag} {why}")


def share_from(options: argparse.Namespace, name: str) -> float:
    """The value of ``--NAME`` as a share: ``95%`` or ``0.95``."""
    word = str(getattr(options, name))
    try:
        share = float(word.removesuffix("%")) / (100 if word.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UsageError(f"--{name} {shown(word)}: must be a share between 0 and 1, such as 95% or 0.95")
    return share
