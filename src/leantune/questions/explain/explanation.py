"""What is said of one prediction: the nearest training texts and the weight of each word. Evidence, not proof."""

from __future__ import annotations

from dataclasses import dataclass

from leantune.config.rows_to_check import NearRow


@dataclass(frozen=True, slots=True, kw_only=True)
class WordWeight:
    """A word, and how much of the logit it accounts for."""

    word: str
    start: int
    """First character in its text."""
    end: int
    """The one behind the last."""
    is_of_pair: bool
    """Whether it is in the second text."""
    weight: float
    """Above 0: it speaks for the class; below 0: against it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordWeights:
    """Integrated gradients of the logit of one class."""

    class_name: str
    words: tuple[WordWeight, ...]
    """In the order of the text; what was cut off has none."""
    logit: float
    """Of the text."""
    baseline_logit: float
    """Of the text with a neutral token in the place of each of its tokens."""
    steps: int
    """Points at which gradients were taken."""

    @property
    def gap(self) -> float:
        """The sum of the weights less the difference of the logits: 0, were the integral exact (completeness)."""
        return sum(each.weight for each in self.words) - (self.logit - self.baseline_logit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One text or pair and what was predicted of it. It is evidence, not proof."""

    text: str
    pair: str | None
    label: str
    """The predicted class."""
    probability: float
    """Of the predicted class."""
    nearest: tuple[NearRow, ...]
    """Training texts, the nearest first."""
    attribution: WordWeights | None
    """None where no weights were asked for."""

    @property
    def words(self) -> tuple[WordWeight, ...]:
        """The words with their weights; empty where none were asked for."""
        return () if self.attribution is None else self.attribution.words
