"""The parser of the command line, made of what each file in `leantune.cli.commands` states."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from leantune._version import __version__
from leantune.cli.commands import COMMANDS, GROUPS
from leantune.system.messages import nearest, shown

WIDTH = 100
FIRST_STEPS = """examples:
  leantune assets
  leantune train quickstart
  leantune predict runs/quickstart "Oil prices rose again on Monday."
  leantune COMMAND --help
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the nearest name where one was mistyped."""

    shows_all = False
    has_recipe = False
    """Whether the help of a recipe has every key."""

    def error(self, message: str) -> NoReturn:
        """Print ``message`` and exit with 2."""
        print(f"leantune: error: {message}; see: {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


class _Root(Parser):
    """The parser of ``leantune`` alone, whose help has the commands in groups."""

    def format_help(self) -> str:
        """The overview on one screen."""
        lines = [f"usage: {self.usage}", "", str(self.description), ""]
        for title, names in GROUPS.items():
            lines += [f"{title}:", *(f"  {name:<16}{COMMANDS[name].HELP}" for name in names), ""]
        lines += ["options:"]
        for action in self._actions:
            if action.option_strings:
                lines.append(f"  {', '.join(action.option_strings):<20}{action.help}")
        return "\n".join([*lines, "", str(self.epilog)])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line; words ``key=value`` may stand before, between and after flags."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = _parsers(shows_all="--help-all" in words)
    if not words:
        parser.print_help()
        raise SystemExit(0)
    first = next((word for word in words if not word.startswith("-")), None)
    if first is not None and first not in COMMANDS and words[0] == first:
        parser.error(
            f"no command {shown(first)}; choose from {', '.join(COMMANDS)}{nearest(first, list(COMMANDS))}"
        )
    options, rest = parser.parse_known_args(words)
    command = commands[options.command]
    for word in rest:
        if word.startswith("-"):
            flag = word.partition("=")[0]
            known = [each for each in command._option_string_actions if each.startswith("--")]
            command.error(f"no flag {flag}{nearest(flag, known)}")
        if not hasattr(options, "overrides"):
            command.error(f"unexpected argument {shown(word)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def build_parser(*, shows_all: bool = False) -> Parser:
    """The parser of all commands; with ``shows_all`` their help has every recipe key."""
    return _parsers(shows_all=shows_all)[0]


def _parsers(*, shows_all: bool) -> tuple[Parser, dict[str, Parser]]:
    import shtab

    parser = _Root(
        prog="leantune",
        usage="leantune COMMAND [OPTION ...]",
        description="Fine-tune text classifiers inside a parameter budget.",
        epilog=FIRST_STEPS,
        formatter_class=_formatter(),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"leantune {__version__}")
    shtab.add_argument_to(parser, "--print-completion", help="print the completion script of a shell")
    subparsers = parser.add_subparsers(parser_class=Parser, required=True, metavar="COMMAND", dest="command")
    commands = {}
    for name, command in COMMANDS.items():
        commands[name] = own = subparsers.add_parser(
            name,
            prog=f"leantune {name}",
            help=command.HELP,
            description=f"{command.HELP[:1].upper()}{command.HELP[1:]}.",
            epilog=f"examples:\n{textwrap.indent(textwrap.dedent(command.EXAMPLES).strip(), '  ')}",
            formatter_class=_formatter(),
            allow_abbrev=False,  # a flag must be whole, so that a mistyped one is found
        )
        own.shows_all = shows_all
        command.add_arguments(own)
        own.usage = own.usage or _usage(own)
        general = own.add_argument_group("general")
        general.add_argument("--quiet", action="store_true", help="print only the result and errors")
        if own.has_recipe:
            general.add_argument("--verbose", action="store_true", help="also print details of the progress")
        general.add_argument("--offline", action="store_true", help="never connect to a model hub")
        general.add_argument("--debug", action="store_true", help="show a traceback with errors")
    return parser, commands


def _usage(parser: Parser) -> str:
    """What must be given; the other options are explained below it."""
    words = [parser.prog]
    for action in parser._actions:
        if action.required and action.option_strings:
            words.append(f"{action.option_strings[0]} {action.metavar or action.dest.upper()}")
        elif not action.option_strings:
            name = str(action.metavar)
            words.append({"?": f"[{name}]", "*": f"{name} ..."}.get(str(action.nargs), name))
    return " ".join([*words, "[OPTION ...]"])


def _formatter() -> type[argparse.HelpFormatter]:
    width = min(WIDTH, shutil.get_terminal_size().columns)
    # argparse calls it with the name of the program alone
    return partial(argparse.RawDescriptionHelpFormatter, max_help_position=28, width=width)  # type: ignore[return-value]
