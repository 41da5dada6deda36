"""The page RUN/explanations.html: wrong predictions with word weights and nearest training texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leantune.report.page import run_name, templates
from leantune.report.rows import ShownNear
from leantune.report.run_folder import load_run
from leantune.report.wording import count, shortened, significant
from leantune.system.atomic import write_text
from leantune.system.file_names import entry_of

if TYPE_CHECKING:
    from leantune.questions.explain.compute import ExplainedError
    from leantune.questions.explain.explanation import Explanation, WordWeight

PAGE = "explanations.html"
SHOWN_SHARE = 0.05
"""Share of the largest weight below which a word is not marked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a text."""

    text: str
    weight: str = ""
    """Formatted weight with its sign; empty if the piece is not marked."""
    strength: int = 0
    """Absolute weight in per cent of the largest one."""
    is_against: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownExplanation:
    """One wrong prediction as the page shows it."""

    label: str
    predicted: str
    place: str
    texts: Sequence[Sequence[Piece]]
    sums: str
    """Sentence that compares the sum of the weights with the difference of the logits."""
    nearest: Sequence[ShownNear]


def write_explanations(run_dir: Path, errors: Sequence[ExplainedError]) -> Path:
    """Write RUN/explanations.html.

    Args:
        run_dir: the folder of a finished run.
        errors: predictions to show, in this order.

    Returns:
        The page's path.

    Raises:
        UsageError: the folder contains no record.
        CheckpointError: the record or the history is damaged.
    """
    path = entry_of(run_dir, PAGE)
    name = f"Wrong predictions of {run_name(load_run(run_dir))}"
    about = {"name": name, "errors": [_shown(each) for each in errors]}
    write_text(path, templates().get_template("explanations.html").render(about))
    return path


def _shown(error: ExplainedError) -> ShownExplanation:
    found = error.explanation
    texts = (found.text,) if found.pair is None else (found.text, found.pair)
    words = found.attribution
    assert words is not None, "explain_errors asks for them"
    rise = words.logit - words.baseline_logit
    return ShownExplanation(
        label=shortened(error.label),
        predicted=shortened(found.label),
        place=f"probability {significant(found.probability)}, row {count(error.row)} of the {error.part} rows",
        texts=[list(pieces(found, text, is_of_pair=i == 1)) for i, text in enumerate(texts)],
        sums=f"the weights sum to {rise + words.gap:+.2f}, the logit rises by {rise:+.2f}",
        nearest=[
            ShownNear(
                label=shortened(near.label),
                place=f"cosine {near.cosine:.2f}, row {count(near.row)} of the training rows",
                texts=[shortened(text, 300) for text in (near.text, near.pair) if text],
            )
            for near in found.nearest
        ],
    )


def pieces(explanation: Explanation, text: str, *, is_of_pair: bool) -> Iterator[Piece]:
    """Split a text into its words and the parts between them."""
    words = [each for each in explanation.words if each.is_of_pair == is_of_pair]
    largest = max((abs(each.weight) for each in explanation.words), default=0.0)
    behind = 0
    for word in words:
        if word.start > behind:
            yield Piece(text=text[behind : word.start])
        yield _piece(text[max(behind, word.start) : word.end], word, largest)
        behind = max(behind, word.end)
    if behind < len(text):
        yield Piece(text=text[behind:])


def _piece(text: str, word: WordWeight, largest: float) -> Piece:
    share = abs(word.weight) / largest if largest else 0.0
    if share < SHOWN_SHARE:
        return Piece(text=text)
    return Piece(
        text=text, weight=f"{word.weight:+.2f}", strength=round(100 * share), is_against=word.weight < 0
    )
