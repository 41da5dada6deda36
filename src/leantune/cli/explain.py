"""``leantune explain``: the nearest training texts of a prediction, and the weight of each word."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from leantune.cli.values import count, path
from leantune.errors import UsageError
from leantune.system.console import console
from leantune.system.messages import place_name

if TYPE_CHECKING:
    from leantune.questions.explain.explanation import Explanation, WordWeights

SHOWN_WORDS = 12
"""Those with the largest weights."""
BAR = 20
"""Characters of the longest bar."""
NEAR_CHARACTERS = 100


def add_arguments(parser: Any) -> None:
    """The arguments of the command."""
    parser.add_argument("run_folder", metavar="RUN", type=path, help="a run")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="one text in quotes")
    parser.add_argument("--pair", metavar="TEXT", help="its second text, for a classifier of pairs")
    parser.add_argument(
        "--nearest", metavar="N", type=count, default=3, help="training texts; 0: do not read them [3]"
    )
    parser.add_argument(
        "--class", dest="class_name", metavar="NAME", help="of the weights [the predicted one]"
    )
    parser.add_argument("--no-words", action="store_true", help="leave out the weights, which need captum")
    parser.add_argument(
        "--errors",
        action="store_true",
        help="write RUN/explanations.html of the wrong predictions in the report, and take no text",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def explain_command(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UsageError: if flags contradict each other.
        LeantuneError: as `leantune.questions.explain.compute.explain`.
    """
    _check(options)
    run, trusts = Path(options.run_folder), options.trust_remote_code == "true"
    from leantune.questions.explain.compute import explain, explain_errors

    with console(stderr=True, quiet=options.quiet).status("explaining"):
        if options.errors:
            from leantune.questions.explain.show import write_explanations

            errors = explain_errors(run, count=options.nearest, trust_remote_code=trusts)
            page = write_explanations(run, errors)
        else:
            (found,) = explain(
                run,
                [options.text],
                None if options.pair is None else [options.pair],
                count=options.nearest,
                with_words=not options.no_words,
                class_name=options.class_name,
                trust_remote_code=trusts,
            )
    if options.errors:
        print(page)
    elif options.json:
        print(json.dumps(asdict(found), ensure_ascii=False))
    else:
        _print(found)


def _check(options: argparse.Namespace) -> None:
    if options.errors == (options.text is not None):
        raise UsageError(
            "explain takes one text in quotes, or --errors and no text, as in: leantune explain RUN 'a text'"
        )
    of_a_text = {
        "--pair": options.pair,
        "--class": options.class_name,
        "--no-words": options.no_words,
        "--json": options.json,
    }
    if options.errors and (wrong := [flag for flag, is_given in of_a_text.items() if is_given]):
        raise UsageError(f"{wrong[0]} is for one text, not for --errors; leave it out")
    if options.no_words and options.class_name:
        raise UsageError("--class is whose weights are printed, and --no-words prints none; leave one out")


def _print(found: Explanation) -> None:
    terminal = console()
    terminal.print(f"{place_name(found.label)}  {100 * found.probability:.1f} %")
    if found.attribution is not None:
        _print_words(found.attribution)
    if found.nearest:
        terminal.print()
        table = Table(box=None, pad_edge=False)
        table.add_column("nearest training texts", overflow="fold")
        for name in ("label", "cosine", "row"):
            table.add_column(name, justify="left" if name == "label" else "right")
        for near in found.nearest:
            text = near.text if near.pair is None else f"{near.text} | {near.pair}"
            table.add_row(_line(text), place_name(near.label), f"{near.cosine:.3f}", f"{near.row:,}")
        terminal.print(table)
    terminal.print("\nThis is evidence, not proof.")


def _print_words(attribution: WordWeights) -> None:
    terminal = console()
    words = sorted(attribution.words, key=lambda each: -abs(each.weight))[:SHOWN_WORDS]
    largest = max((abs(each.weight) for each in words), default=0.0)
    table = Table(box=None, pad_edge=False)
    table.add_column(f"word, for {place_name(attribution.class_name)}")
    table.add_column("weight", justify="right")
    table.add_column("")
    for each in words:
        bar = round(BAR * abs(each.weight) / largest) if largest else 0
        style = "green" if each.weight > 0 else "red"
        table.add_row(
            _line(each.word), f"{each.weight:+.3f}", Text(("+" if each.weight > 0 else "-") * bar, style)
        )
    terminal.print()
    terminal.print(table)
    difference = attribution.logit - attribution.baseline_logit
    left = len(attribution.words) - len(words)
    more = f"{left:,} more words; " if left else ""
    terminal.print(
        f"{more}all weights sum to {difference + attribution.gap:+.3f}, the logit rises by {difference:+.3f} from the "
        "text with all words masked",
        soft_wrap=True,
    )


def _line(text: str) -> str:
    """The beginning of a text, on one line and with nothing that a terminal obeys."""
    return place_name(" ".join(text.split())[:NEAR_CHARACTERS])
