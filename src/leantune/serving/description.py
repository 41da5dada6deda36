"""The server's description of a classifier; the weights are in the workers."""

from __future__ import annotations

from dataclasses import dataclass

from leantune.config.abstention_file import Abstention


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A classifier that a worker has opened. It contains no torch objects, because the server does not import torch."""

    source: str
    labels: tuple[str, ...]
    takes_pairs: bool | None
    """Whether the classifier was trained on pairs of texts; None if unknown."""
    tokenizer_folder: str
    tokenizer_key: str
    """Key that is equal for classifiers with equal tokenizers."""
    max_length: int
    """Number of tokens after which a text is truncated."""
    group: str
    """Group of classifiers whose texts can share a batch."""
    is_multi_label: bool
    model_type: str
    precision: str
    """Precision of the encoder: ``bf16``, ``fp16``, ``fp32`` or ``int8``."""
    kernels: str
    sha256: str
    """SHA-256 checksum of the trained weights."""
    thresholds: tuple[float, ...] | None = None
    """Smallest probability of each predicted label; None if a text has exactly one label."""
    abstention: Abstention | None = None
    """Threshold below which the classifier abstains; None if none was chosen."""
