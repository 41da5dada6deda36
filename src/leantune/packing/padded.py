"""Texts of a batch in the form that transformers expects: right-padded to one length.

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
        token_lists: S arrays of token ids, with special tokens.
        second_starts: index of the first token of the second text; the number of tokens if there is no second text.
        length: L.
        pad_id: id of the padding token.
    """
    shape = len(token_lists), length
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    mask, types = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for i, (tokens, second) in enumerate(zip(token_lists, second_starts, strict=True)):
        input_ids[i, : len(tokens)] = tokens
        mask[i, : len(tokens)] = 1
        types[i, second : len(tokens)] = 1
    return {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": types}
