"""What the server knows of a classifier whose weights are in its workers."""

from __future__ import annotations

from dataclasses import dataclass

from leantune.config.abstention_file import Abstention


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A classifier, as a worker opened it; holds nothing of torch, which the server does not import."""

    source: str
    labels: tuple[str, ...]
    takes_pairs: bool | None
    """Whether it was trained on pairs of texts; None: nobody said."""
    tokenizer_folder: str
    tokenizer_key: str
    """The same for classifiers with the same tokenizer."""
    max_length: int
    """Tokens kept of a text."""
    group: str
    """Texts of classifiers of one group can be computed in one batch."""
    is_multi_label: bool
    model_type: str
    precision: str
    """``bf16``, ``fp16`` or ``fp32``."""
    kernels: str
    sha256: str
    """Checksum of the weights that were trained."""
    thresholds: tuple[float, ...] | None = None
    """The least probability of each label that is predicted, where a text may have several."""
    abstention: Abstention | None = None
    """When it should not answer; None: nobody has chosen that."""
