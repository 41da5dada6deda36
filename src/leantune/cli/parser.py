"""What can be typed: the parser of every command, and the recipe that words and flags make together."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from leantune.config import Recipe, load_recipe, parse_overrides, shipped_recipes
from leantune.config.recipe import key_groups, keys

EXAMPLES = """examples:
  leantune train quickstart
  leantune train agnews-roberta data=train.csv model=./roberta-base max_trainable_params=999999
  leantune train --data train.csv --model ./minilm --max-trainable-params 100000 --output runs/mine
  leantune plan agnews-roberta-as-published model=./roberta-base
  leantune evaluate runs/mine --data test.csv
  leantune predict runs/mine --input new.csv --output predictions.csv
  leantune export runs/mine --format lora --output lora-adapter
  leantune export runs/mine --format openvino-int8
  leantune predict runs/mine --input new.csv --output predictions.csv --engine openvino-int8
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of one command line; key=value words may stand before, between and after flags."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-") or not hasattr(options, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
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


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show a traceback with errors")
    common.add_argument("--offline", action="store_true", help="never ask a hub")
    parser = argparse.ArgumentParser(
        prog="leantune",
        description="Fine-tune text classifiers inside a parameter budget.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    from leantune import __version__

    parser.add_argument("--version", action="version", version=f"leantune {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for add in (_add_train, _add_plan, _add_evaluate, _add_predict, _add_export, _add_report, _add_assets):
        add(commands, common)
    return parser


def _add_train(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("train", parents=[common], help="train a classifier")
    _add_recipe_arguments(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier run in the output folder"
    )
    parser.add_argument(
        "--resume", metavar="RUN", type=_path, help="go on with an interrupted run, bit for bit"
    )


def _add_plan(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "plan", parents=[common], help="the ledger of parameters and the schedule, without loading weights"
    )
    _add_recipe_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe",
        nargs="?",
        help=f"a YAML file, or one of {', '.join(shipped_recipes())}; or none, with flags",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any recipe key")
    for title, fields in zip(("recipe keys", "advanced recipe keys"), key_groups(), strict=True):
        group = parser.add_argument_group(f"{title}, also as flags [default]")
        for field in fields:
            _add_key(group, field)


def _add_key(group: Any, field: dataclasses.Field[Any]) -> None:
    is_said = field.default in (dataclasses.MISSING, None) or "default" in field.metadata["doc"]
    default = "" if is_said else f" [{_word(field.default)}]"
    kind: dict[str, Any] = {"metavar": "VALUE"}
    if isinstance(field.default, bool):
        kind = {"metavar": "BOOL", "nargs": "?", "const": "true"}
    group.add_argument(
        *dict.fromkeys((f"--{field.name.replace('_', '-')}", f"--{field.name}")),
        dest=f"key_{field.name}",
        **kind,
        help=(field.metadata["doc"] + default).replace("%", "%%"),
    )


def _word(value: object) -> str:
    """A default as it is typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _add_evaluate(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("evaluate", parents=[common], help="measure a finished run on labelled rows")
    parser.add_argument("run_folder", metavar="RUN", type=_path)
    parser.add_argument("--data", required=True, help="labelled rows")
    _add_column_arguments(parser)
    parser.add_argument("--label-column", help="column of the label")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_predict(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("predict", parents=[common], help="classify rows")
    parser.add_argument("run_folder", metavar="RUN", type=_path)
    parser.add_argument("--input", required=True, help="rows to classify; - for standard input")
    parser.add_argument(
        "--output", default="-", type=_path, help=".csv .tsv .jsonl .parquet; - for standard output"
    )
    _add_column_arguments(parser)
    parser.add_argument("--id-column", help="column to carry over as the id; default: the row number from 0")
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument("--probabilities", action="store_true", help="add a column p_LABEL for every class")
    layout.add_argument("--submission", action="store_true", help="write ID,label with whole-number labels")
    parser.add_argument("--overwrite", action="store_true", help="replace the output file")


def _add_column_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text-column", help="column of the text; default: as in training")
    parser.add_argument("--text-pair-column", help="column of the second text; default: as in training")
    parser.add_argument(
        "--batch-size", type=_positive, help="texts per batch; default: the recipe's eval_batch_size"
    )
    parser.add_argument(
        "--engine",
        choices=("torch", "openvino", "openvino-int8"),
        default="torch",
        help="what computes; those of OpenVINO must be exported first",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp16", "fp32", "int8"),
        help="default: the recipe's; int8: bf16 with products in int8, on an x86 CPU with VNNI",
    )
    _add_trust(parser)


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-remote-code",
        nargs="?",
        const="true",
        choices=("true", "false"),
        help="allow code that comes with the model",
    )


def _path(word: str) -> str:
    """A path as typed; the shell leaves the tilde of ``--output=~/x`` alone."""
    if not word:
        raise argparse.ArgumentTypeError("must not be empty")
    return os.path.expanduser(word)


def _positive(word: str) -> int:
    number = int(word)  # argparse says what a ValueError means
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1. Got {word} instead")
    return number


def _add_export(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("export", parents=[common], help="write another standard form of a run")
    parser.add_argument("run_folder", metavar="RUN", type=_path)
    parser.add_argument(
        "--format", required=True, choices=("adalora", "lora", "merged", "openvino", "openvino-int8")
    )
    parser.add_argument(
        "--output", type=_path, help="folder to write; default: RUN/export-FORMAT, RUN/openvino[-int8]"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in RUN")
    parser.add_argument(
        "--data", help="labelled rows to calibrate and measure int8 with; default: those of the run"
    )
    _add_trust(parser)


def _add_report(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("report", parents=[common], help="write report.html of a run again")
    parser.add_argument("run_folder", metavar="RUN", type=_path)


def _add_assets(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("assets", parents=[common], help="fetch a real model and real data to try")
    parser.add_argument(
        "--path",
        metavar="NAME",
        help="fetch one of minilm, mpnet, reuters-r8, reuters-r52, 20newsgroups and print its folder",
    )
