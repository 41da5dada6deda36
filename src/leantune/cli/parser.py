"""What can be typed: the parser of every command, and the recipe that words and flags make together."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from leantune.cli import abstain, audit, bulk_predict, explain, frontier, learning_curve, passport
from leantune.cli.cluster_training import add_cluster_arguments
from leantune.cli.help import COMMANDS, EXAMPLES, GROUPS, WIDTH
from leantune.cli.search import add_search
from leantune.cli.train_many import add_train_many
from leantune.cli.values import count, path, positive
from leantune.config import Recipe, load_recipe, parse_overrides, shipped_recipes
from leantune.config.recipe import keys
from leantune.system.messages import nearest, shown


class Parser(argparse.ArgumentParser):
    """An error is one line, with the nearest name where one was mistyped."""

    def error(self, message: str) -> NoReturn:
        """Print ``message`` and end with 2."""
        print(f"leantune: error: {message}; see: {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of one command line; key=value words may stand before, between and after flags."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = _parsers(shows_all="--help-all" in words)
    if not words:
        parser.print_help()
        raise SystemExit(0)
    first = next((word for word in words if not word.startswith("-")), None)
    if first is not None and first not in COMMANDS and words[0] == first:
        parser.error(
            f"no command {shown(first)}; there are {', '.join(COMMANDS)}{nearest(first, list(COMMANDS))}"
        )
    options, rest = parser.parse_known_args(words)
    command = commands[options.command]
    for word in rest:
        if word.startswith("-"):
            flag = word.partition("=")[0]
            known = [each for each in command._option_string_actions if each.startswith("--")]
            command.error(f"no flag {flag}{nearest(flag, known)}")
        if not hasattr(options, "overrides"):
            command.error(f"{shown(word)} is more than the command takes")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def keys_from_flags(options: argparse.Namespace) -> dict[str, str]:
    """The recipe keys that were given as flags."""
    values = {field.name: getattr(options, f"key_{field.name}") for field in keys().values()}
    return {name: value for name, value in values.items() if value is not None}


def recipe_from(options: argparse.Namespace) -> Recipe:
    """The recipe of ``train`` and ``plan``: flags over words over the file.

    Raises:
        UsageError: naming every key that is unknown and every value that cannot be.
    """
    words = list(options.overrides)
    source = options.recipe
    if source and "=" in source and not os.path.isfile(source):
        words, source = [source, *words], None
    return load_recipe(source, parse_overrides(words) | keys_from_flags(options))


def build_parser(*, shows_all: bool = False) -> argparse.ArgumentParser:
    """The parser of all commands; ``shows_all`` recipe keys in their help."""
    return _parsers(shows_all=shows_all)[0]


def _parsers(*, shows_all: bool) -> tuple[Parser, dict[str, Parser]]:
    """The parser of all commands, and that of each; ``shows_all`` recipe keys in their help."""
    import shtab

    from leantune._version import __version__

    parser = _parser("leantune", "", description="Fine-tune text classifiers inside a parameter budget.")
    parser.add_argument("--version", action="version", version=f"leantune {__version__}")
    shtab.add_argument_to(
        parser, "--print-completion", help="print the completion of a shell, to be sourced by it"
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    add: dict[str, Callable[[Parser], None]] = {
        "train": lambda command: _add_train(command, shows_all),
        "train-many": add_train_many,
        "search": lambda command: add_search(command, lambda each: _add_recipe_arguments(each, shows_all)),
        "plan": lambda command: _add_plan(command, shows_all),
        "evaluate": _add_evaluate,
        "predict": _add_predict,
        "serve": _add_serve,
        "export": _add_export,
        "frontier": lambda command: _add_frontier(command, shows_all),
        "audit": lambda command: _add_audit(command, shows_all),
        "learning-curve": lambda command: _add_learning_curve(command, shows_all),
        "abstain": abstain.add_arguments,
        "passport": passport.add_arguments,
        "explain": _add_explain,
        "report": _add_report,
        "push": _add_push,
        "assets": _add_assets,
    }
    commands = {}
    for name, what in COMMANDS.items():
        command = subparsers.add_parser(
            name, help=what, **_style(name), description=f"{what[:1].upper()}{what[1:]}."
        )
        commands[name] = command
        add[name](command)
        general = command.add_argument_group("general")
        general.add_argument("--quiet", action="store_true", help="print the result and errors only")
        general.add_argument("--offline", action="store_true", help="never ask a hub")
        general.add_argument("--debug", action="store_true", help="show a traceback with errors")
    return parser, commands


def _parser(program: str, command: str, **settings: Any) -> Parser:
    return Parser(prog=program, **_style(command), **settings)


def _style(command: str) -> dict[str, Any]:
    """What the parsers of all commands have alike; a flag must be whole, so that a mistyped one is found."""
    width = min(WIDTH, shutil.get_terminal_size().columns)
    formatter = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28, width=width)
    return {
        "epilog": f"examples:{EXAMPLES[command].rstrip()}",
        "formatter_class": formatter,
        "allow_abbrev": False,
    }


def _add_train(parser: Parser, shows_all: bool) -> None:
    _add_recipe_arguments(parser, shows_all)
    run = parser.add_argument_group("run folder")
    run.add_argument("--overwrite", action="store_true", help="replace an earlier run in the output folder")
    run.add_argument("--resume", metavar="RUN", type=path, help="go on with an interrupted run, bit for bit")
    add_cluster_arguments(parser)


def _add_plan(parser: Parser, shows_all: bool) -> None:
    _add_recipe_arguments(parser, shows_all)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_learning_curve(parser: Parser, shows_all: bool) -> None:
    _add_recipe_arguments(parser, shows_all)
    learning_curve.add_arguments(parser)


def _add_frontier(parser: Parser, shows_all: bool) -> None:
    _add_recipe_arguments(parser, shows_all)
    frontier.add_arguments(parser)


def _add_explain(parser: Parser) -> None:
    explain.add_arguments(parser)
    _add_trust(parser)


def _add_audit(parser: Parser, shows_all: bool) -> None:
    _add_recipe_arguments(parser, shows_all)
    audit.add_arguments(parser)


def _add_recipe_arguments(parser: Parser, shows_all: bool) -> None:
    parser.usage = f"{parser.prog} [RECIPE] [KEY=VALUE ...] [--KEY VALUE ...]"
    parser.add_argument("--help-all", action="help", help="show every key of a recipe and exit")
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?",
        help=f"a YAML file, or one of {', '.join(shipped_recipes())}; or none, with flags",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="any recipe key")
    known = keys()
    grouped = [name for names in GROUPS.values() for name in names]
    groups = {**GROUPS, "other keys": [name for name in known if name not in grouped]}
    for title, names in groups.items():
        is_shown = shows_all or title in GROUPS
        group = parser.add_argument_group(title if is_shown else None)
        for name in names:
            _add_key(group, known[name], is_shown)


def _add_key(group: Any, field: dataclasses.Field[Any], is_shown: bool) -> None:
    is_said = field.default in (dataclasses.MISSING, None) or "default" in field.metadata["doc"]
    default = "" if is_said else f" [{_word(field.default)}]"
    kind: dict[str, Any] = {"metavar": "VALUE", "dest": f"key_{field.name}"}
    if isinstance(field.default, bool):
        kind |= {"metavar": "BOOL", "nargs": "?", "const": "true"}
    help_text = (field.metadata["doc"] + default).replace("%", "%%") if is_shown else argparse.SUPPRESS
    flag = f"--{field.name.replace('_', '-')}"
    group.add_argument(flag, **kind, help=help_text)
    if "_" in field.name:
        group.add_argument(f"--{field.name}", **kind, help=argparse.SUPPRESS)


def _word(value: object) -> str:
    """A default as it is typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _add_evaluate(parser: Parser) -> None:
    _add_run(parser)
    parser.add_argument("rows", metavar="DATA", nargs="?", help="labelled rows")
    parser.add_argument("--data", metavar="DATA", help="the same")
    _add_column_arguments(parser)
    parser.add_argument("--label-column", help="column of the label")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_predict(parser: Parser) -> None:
    _add_run(parser)
    parser.add_argument(
        "rows",
        metavar="INPUT",
        nargs="?",
        help="rows to classify: a file, - for standard input, or one text in quotes",
    )
    parser.add_argument("--input", metavar="INPUT", help="the same, and never a text")
    parser.add_argument(
        "--output",
        default="-",
        type=path,
        help=".csv .tsv .jsonl .parquet; - for standard output; a folder for many files",
    )
    _add_column_arguments(parser)
    parser.add_argument(
        "--id-column", help="column to carry over, under its name; default: the row number from 0, as id"
    )
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument("--probabilities", action="store_true", help="add a column p_LABEL for every class")
    layout.add_argument("--submission", action="store_true", help="write ID,label with whole-number labels")
    parser.add_argument(
        "--abstain",
        nargs="?",
        const="overall",
        choices=("overall", "by-class"),
        help="leave the label empty below the threshold that 'leantune abstain' chose",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output file")
    bulk_predict.add_arguments(parser)


def _add_run(parser: Parser) -> None:
    parser.add_argument(
        "run_folder",
        metavar="RUN",
        type=path,
        help="a run, its adapter/ or merged/, or another classifier's folder",
    )


def _add_column_arguments(parser: Parser) -> None:
    parser.add_argument("--text-column", help="column of the text; default: as in training")
    parser.add_argument("--text-pair-column", help="column of the second text; default: as in training")
    parser.add_argument(
        "--batch-size", type=positive, help="texts per batch; default: the recipe's eval_batch_size"
    )
    parser.add_argument(
        "--engine",
        choices=("torch", "openvino", "openvino-int8", "onnx", "onnx-int8"),
        default="torch",
        help="what computes; all but torch must be exported first",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp16", "fp32", "int8"),
        help="default: the recipe's; int8: bf16 with products in int8, on an x86 CPU with VNNI",
    )
    _add_trust(parser)


def _add_trust(parser: Parser) -> None:
    parser.add_argument(
        "--trust-remote-code",
        nargs="?",
        const="true",
        choices=("true", "false"),
        help="allow code that comes with the model",
    )


def _add_serve(parser: Parser) -> None:
    parser.add_argument(
        "classifiers",
        metavar="[NAME=]FOLDER",
        nargs="*",
        type=path,
        help="runs, their adapter/ or merged/, or other classifiers; a run is called as its folder",
    )
    parser.add_argument(
        "--adapter",
        metavar="NAME=FOLDER",
        action="append",
        default=[],
        type=path,
        help="the same, by a name",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on [127.0.0.1]")
    parser.add_argument("--port", type=count, default=8000, help="0: any that is free [8000]")
    computing = parser.add_argument_group("computing")
    computing.add_argument("--workers", type=positive, default=1, help="processes that compute [1]")
    computing.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp16", "fp32", "int8"),
        help="default: as each was trained; int8: of merged models",
    )
    computing.add_argument(
        "--max-batch-tokens", type=positive, default=16_384, help="tokens computed at once [16384]"
    )
    computing.add_argument(
        "--adapter-memory-mb",
        type=positive,
        default=1500,
        help="memory of a worker for adapters; what was not asked for lately goes back to disk [1500]",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-concurrent-requests", type=positive, default=512, help="more get status 429 [512]"
    )
    limits.add_argument(
        "--payload-limit", type=positive, default=2_000_000, help="bytes of a request [2000000]"
    )
    limits.add_argument(
        "--max-client-batch-size", type=positive, default=10_000, help="texts of a request [10000]"
    )
    limits.add_argument("--timeout", type=positive, default=30, help="seconds for a request [30]")
    limits.add_argument(
        "--no-auto-truncate",
        action="store_true",
        help="refuse texts that are too long instead of cutting them",
    )
    limits.add_argument(
        "--drain", type=count, default=1, help="seconds after SIGTERM in which requests are still taken [1]"
    )
    limits.add_argument(
        "--log-texts", action="store_true", help="log the texts of requests and their labels, too"
    )
    managing = parser.add_argument_group("access")
    managing.add_argument(
        "--api-key", help="what requests must bring; default: LEANTUNE_API_KEY of the environment, or nothing"
    )
    managing.add_argument(
        "--adapter-root", type=path, help="folder from which clients with the key may load adapters"
    )


def _add_export(parser: Parser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--format",
        required=True,
        choices=("adalora", "lora", "merged", "openvino", "openvino-int8", "onnx", "onnx-int8"),
    )
    parser.add_argument(
        "--output", type=path, help="folder to write; default: RUN/export-FORMAT, RUN/onnx, RUN/openvino"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in RUN")
    parser.add_argument(
        "--data", help="labelled rows to calibrate and measure int8 with; default: those of the run"
    )
    _add_trust(parser)


def _add_report(parser: Parser) -> None:
    _add_run(parser)


def _add_push(parser: Parser) -> None:
    _add_run(parser)
    parser.add_argument("repository", metavar="REPOSITORY", help="NAME or ORG/NAME on the hub")
    parser.add_argument("--private", action="store_true", help="let its owner alone see a new repository")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be published, and publish nothing"
    )


def _add_assets(parser: Parser) -> None:
    parser.add_argument(
        "--path",
        metavar="NAME",
        help="fetch one of minilm, mpnet, reuters-r8, reuters-r52, 20newsgroups and print its folder",
    )
