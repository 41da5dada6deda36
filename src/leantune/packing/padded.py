"""Texts of a batch as transformers takes them: padded on the right to one length.

S texts of a batch, L tokens that they are padded to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Inputs = dict[str, npt.NDArray[np.int64]]


def padded_inputs(
    token_lists: Sequence[npt.NDArray[np.int32]], second_starts: Sequence[int], *, length: int, pad_id: int
) -> Inputs:
    """``input_ids``, ``attention_mask`` and ``token_type_ids``, each ``(S, L)`` int64.

    Args:
        token_lists: S arrays of token ids, special tokens included.
        second_starts: index of the first token of the second text; the number of tokens where there is none.
        length: L.
        pad_id: token of the padding.
    """
    shape = len(token_lists), length
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    mask, types = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for i, (tokens, second) in enumerate(zip(token_lists, second_starts, strict=True)):
        input_ids[i, : len(tokens)] = tokens
        mask[i, : len(tokens)] = 1
        types[i, second : len(tokens)] = 1
    return {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": types}
