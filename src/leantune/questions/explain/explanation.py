"""The explanation of a prediction: the nearest training texts and the weight of each word."""

from __future__ import annotations

from dataclasses import dataclass

from leantune.config.rows_to_check import NearRow


@dataclass(frozen=True, slots=True, kw_only=True)
class WordWeight:
    """A word and its contribution to the logit."""

    word: str
    start: int
    """Index of the first character in the text."""
    end: int
    """Index after the last character."""
    is_of_pair: bool
    """Whether the word is in the second text."""
    weight: float
    """Contribution to the logit: positive for the class, negative against it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordWeights:
    """Integrated gradients of the logit of one class."""

    class_name: str
    words: tuple[WordWeight, ...]
    """Words in text order, without truncated ones."""
    logit: float
    """Logit of the text."""
    baseline_logit: float
    """Logit of the baseline, in which the mask token replaces each token that is not special."""
    steps: int
    """Number of points at which gradients were computed."""

    @property
    def gap(self) -> float:
        """Sum of the weights minus the difference of the logits, which is 0 for an exact integral (completeness)."""
        return sum(each.weight for each in self.words) - (self.logit - self.baseline_logit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The prediction for a text or text pair, with evidence for it, which is not proof."""

    text: str
    pair: str | None
    label: str
    """The predicted class."""
    probability: float
    """Probability of the predicted class."""
    nearest: tuple[NearRow, ...]
    """Training texts, the nearest first."""
    attribution: WordWeights | None
    """Word weights; None if they were not computed."""

    @property
    def words(self) -> tuple[WordWeight, ...]:
        """Words with their weights; empty if they were not computed."""
        return () if self.attribution is None else self.attribution.words
