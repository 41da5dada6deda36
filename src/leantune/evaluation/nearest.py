"""Find the nearest training texts in the space of the output layer's inputs.

Two texts are near if the cosine of their vectors is high. That suggests what a prediction was learned from, but does
not prove it: the output layer sums up many texts.

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
"""File in a run folder with the vectors of its training rows, so that they are computed only once."""
QUERIES_AT_ONCE = 16

Vectors = npt.NDArray[np.float32]


def nearest(queries_QD: Vectors, vectors_ND: Vectors, count: int) -> tuple[Index, Vectors]:
    """Find the nearest of N vectors to each query.

    Args:
        queries_QD: vectors of any norm.
        vectors_ND: vectors of any norm; at least one.
        count: K; fewer are returned if there are fewer vectors.

    Returns:
        positions ``(Q, K)``, nearest first and ties by position, and cosines ``(Q, K)``.
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
    """Return the result ``(N, D)`` of ``compute``, from a file in the run folder if that was saved for ``key``.

    Args:
        run: the run folder; if it is not writable, nothing is saved.
        key: must change whenever the vectors would.
        compute: called if the vectors are not saved.

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
    """The vectors in a file; None if it is missing, damaged or has another key."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="numpy") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            features: Vectors = file.get_tensor("features")
            return features
    except SafetensorError:  # computed again, as if it did not exist
        return None
