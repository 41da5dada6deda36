"""Printing of an explanation."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from leantune.questions.explain.attribution import EXTRA, has_captum
from leantune.questions.explain.explanation import Explanation, WordWeights
from leantune.system.console import console
from leantune.system.messages import place_name

SHOWN_WORDS = 12
"""Number of words shown, those with the largest weights."""
BAR = 20
"""Length of the longest bar in characters."""
NEAR_CHARACTERS = 100


def print_explanation(found: Explanation) -> None:
    """Print the prediction, its word weights and the nearest training texts."""
    terminal = console()
    terminal.print(f"{place_name(found.label)}  {100 * found.probability:.1f} %")
    if found.attribution is not None:
        _print_words(found.attribution)
    elif not has_captum():
        terminal.print(f"without word weights, which need: pip install 'leantune[{EXTRA}]'", soft_wrap=True)
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
        f"{more}the sum of all weights is {difference + attribution.gap:+.3f}; the logit differs by {difference:+.3f} "
        "from that of the text with all words masked",
        soft_wrap=True,
    )


def _line(text: str) -> str:
    """Return the beginning of a text on one line, with control characters escaped."""
    return place_name(" ".join(text.split())[:NEAR_CHARACTERS])
