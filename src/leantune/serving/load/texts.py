"""The texts that are sent: those of a file, or a few sentences of English."""

from __future__ import annotations

from itertools import cycle, islice

MAX_TEXTS = 10_000
"""Of a file, from its beginning; more would only fill memory."""
SENTENCES = (
    "Oil prices rose again on Monday.",
    "The home team won after extra time, and the stadium sang until midnight.",
    "Shares of the airline fell when it reported a loss for the third quarter.",
    "A new telescope has seen water vapour around a planet of another star.",
    "The delivery came two days late and one of the glasses was broken.",
    "I would like to change the address of my next order.",
    "The film is too long, but the last half hour is worth the wait.",
    "Why was I charged twice for the same month?",
    "The minister said that talks would go on, whatever the outcome of the vote on Thursday.",
    "Great battery, and the screen is bright enough to read in the sun.",
    "Researchers found that bees can count to four.",
    "The app closes itself whenever I open the settings.",
    "Heavy rain closed the road between the two villages for most of the day.",
    "The bank raised its rate by a quarter of a point, as most had expected.",
    "She scored twice in the first ten minutes of her first match.",
    "Please cancel my subscription.",
    "The update fixes a fault that let anyone read the messages of others.",
    "Harvests were good this year, so bread has become cheaper in the north of the country.",
    "The room was clean and quiet, and breakfast was better than in the hotel next door.",
    "How long does a refund take?",
)


def texts_of(data: str | None, column: str | None) -> list[str]:
    """The first texts of ``data`` that are not blank, or `SENTENCES`.

    Args:
        data: anything that leantune reads.
        column: of the text; None: the one called text.

    Raises:
        DataError: a file without texts, or what else is wrong with it.
        UsageError: no such file.
    """
    if data is None:
        return list(SENTENCES)
    from leantune.assets.download import resolve_location
    from leantune.data.read import Columns, open_examples
    from leantune.errors import DataError

    source = open_examples(resolve_location(data), Columns(text=column), labels="ignore", split="test")
    texts = (text for batch in source.batches() for text in batch.texts if text.strip())
    if found := list(islice(texts, MAX_TEXTS)):
        return found
    raise DataError("every text is blank, expected one to send; give other rows", path=data)


def grouped(texts: list[str], size: int) -> list[list[str]]:
    """``texts`` in groups of ``size`` in their order; the last one is filled up with the first texts.

    >>> grouped(["a", "b", "c"], 2)
    [['a', 'b'], ['c', 'a']]
    """
    endless = cycle(texts)
    return [list(islice(endless, size)) for _ in range(-(-len(texts) // size))]
