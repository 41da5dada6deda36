"""Orders and batches of rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from leantune.data.tokens.dataset import MAX_BATCH_TOKENS, by_length, evenly, shuffled


@given(lengths=st.lists(st.integers(0, 9000), max_size=80), batch_size=st.integers(1, 70))
def test_batches_by_length_hold_every_row_once_within_both_limits(lengths, batch_size):
    array = np.array(lengths, dtype=np.int32)
    batches = list(by_length(array, batch_size))
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * int(array[batch].max()) <= MAX_BATCH_TOKENS
    longest = [int(array[batch].max()) for batch in batches]
    assert longest == sorted(longest, reverse=True)


@given(
    lengths=st.lists(st.integers(1, 600) | st.integers(1, 9000), max_size=300), batch_size=st.integers(1, 70)
)
def test_even_batches_hold_every_row_once_and_are_as_large_as_one_another(lengths, batch_size):
    array = np.array(lengths, dtype=np.int32)
    batches = list(evenly(array, batch_size))
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(len(lengths)))
    texts = [len(batch) for batch in batches]
    tokens = [int(array[batch].sum()) for batch in batches]
    if batches:
        assert min(texts) >= 1
        assert max(texts) <= min(batch_size, min(texts) + 1)
        assert max(tokens) - min(tokens) <= 2 * max(lengths)
        assert max(tokens) <= MAX_BATCH_TOKENS + 2 * max(lengths)


@given(num_rows=st.integers(0, 500), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_an_epoch_is_a_permutation_of_seed_and_epoch_alone(num_rows, seed, epoch):
    order = shuffled(num_rows, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(num_rows))
    shuffled.cache_clear()
    assert np.array_equal(order, shuffled(num_rows, seed=seed, epoch=epoch))
    if num_rows > 20:
        others = [
            shuffled(num_rows, seed=seed + 1, epoch=epoch),
            shuffled(num_rows, seed=seed, epoch=epoch + 1),
        ]
        assert not any(np.array_equal(order, other) for other in others)
