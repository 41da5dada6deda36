"""The nearest training texts in a classifier's own space: that of what its output layer is given.

Two texts are near if the cosine of their vectors is high. It is evidence of what a prediction was learned from, not
proof: the output layer adds up many texts.

Shapes: N rows, Q queries, K nearest, D model width.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from leantune.data.tokens.dataset import Index
from leantune.system.atomic import atomic_file
from leantune.system.file_names import entry_of

FEATURES = "training_features.safetensors"
"""In a run folder: vectors of its training rows, kept so that they are computed once."""
QUERIES_AT_ONCE = 16

Vectors = npt.NDArray[np.float32]


def nearest(queries_QD: Vectors, vectors_ND: Vectors, count: int) -> tuple[Index, Vectors]:
    """The nearest of N vectors to each query.

    Args:
        queries_QD: of any length.
        vectors_ND: of any length; at least one.
        count: K, if there are as many vectors.

    Returns:
        positions ``(Q, K)``, the nearest first and of equal ones the first, and cosines ``(Q, K)``.
    """
    queries, vectors = _of_length_one(queries_QD), _of_length_one(vectors_ND)
    count = min(count, len(vectors))
    positions = np.empty((len(queries), count), dtype=np.int64)
    cosines = np.empty((len(queries), count), dtype=np.float32)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        some = slice(start, start + QUERIES_AT_ONCE)
        products = queries[some] @ vectors.T
        positions[some] = np.argsort(-products, axis=1, kind="stable")[:, :count]
        cosines[some] = np.take_along_axis(products, positions[some], axis=1)
    return positions, cosines.clip(-1, 1)


def _of_length_one(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled


def kept_features(run: Path, key: str, compute: Callable[[], Vectors]) -> Vectors:
    """What ``compute`` gives ``(N, D)``, from a file in the run folder where it is that of ``key``.

    Args:
        run: the run folder; where it cannot be written, nothing is kept.
        key: changes whenever other vectors would be computed.
        compute: called if they are not there.

    Raises:
        ResourceError: if the disk is full or fails.
        UnsafeFileError: if the file is a link that leads out of the folder.
    """
    path = entry_of(run, FEATURES)
    found = _read(path, key)
    if found is not None:
        return found
    features = compute()
    if os.access(run, os.W_OK):
        with atomic_file(path) as temporary:
            save_file({"features": torch.from_numpy(features)}, temporary, {"key": key})
    return features


def _read(path: Path, key: str) -> Vectors | None:
    """The vectors in a file; None if there is none, or it is of another key or damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="numpy") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            features: Vectors = file.get_tensor("features")
            return features
    except SafetensorError:  # computed again, as if it were not there
        return None
