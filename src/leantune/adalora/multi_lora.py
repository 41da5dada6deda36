"""Updates of many adapters over one frozen linear layer: each text of a batch uses its own adapter.

This is the heterogeneous batching of Sheng et al., 2023 (S-LoRA, arXiv 2311.03285, section 5): the frozen product is
computed once for all texts, and each update only for the rows of its texts.

T rows, S texts, R rank of an update, L adaptable layers of an encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from leantune.adalora.triplets import Triplets


@dataclass(frozen=True, slots=True)
class LowRank:
    """The update ``B A x`` of one layer, in the dtype of the encoder."""

    A: Tensor
    """``(R, in)``, including the scaling."""
    B: Tensor
    """``(R, out)``: B transposed."""

    @classmethod
    def of(cls, triplets: Triplets, scaling: float, like: Tensor) -> LowRank:
        """``scaling * B (A * E)`` with the dtype and device of ``like``."""
        return cls(
            (triplets.A * (triplets.E * scaling)).to(like).contiguous(), triplets.B.t().to(like).contiguous()
        )


@dataclass(frozen=True)
class Adapter:
    """All updates of one adapter."""

    updates: tuple[LowRank | None, ...]
    """L updates, by the numbers of the layers."""

    @cached_property
    def addresses(self) -> npt.NDArray[np.int64]:
        """``(L, 3)``: addresses of A and B of each layer, and R; zeros without an update."""
        found = np.zeros((len(self.updates), 3), dtype=np.int64)
        for number, update in enumerate(self.updates):
            if update is not None:
                found[number] = update.A.data_ptr(), update.B.data_ptr(), len(update.A)
        return found

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that the updates take."""
        return sum(each.nbytes for update in self.updates if update for each in (update.A, update.B))


@dataclass(frozen=True, slots=True)
class TextAdapters:
    """The adapter of each text of a batch, in the order of its texts."""

    adapters: tuple[Adapter, ...]
    """S adapters."""
    token_starts: npt.NDArray[np.int64]
    """``(S + 1,)``: the first token of each text."""
    text_starts: npt.NDArray[np.int64]
    """``(S + 1,)``: the same if the batch holds only first tokens."""
    addresses: npt.NDArray[np.int64]
    """``(S, L, 3)``: see `Adapter.addresses`."""
    has_update: npt.NDArray[np.bool_]
    """``(L,)``: whether any text has an update of the layer."""
    most_rank: int
    """The highest rank of all updates."""

    @classmethod
    def of(cls, adapters: Sequence[Adapter], lengths: Sequence[int]) -> TextAdapters:
        """Assign ``adapters`` to texts of ``lengths`` tokens; both have S entries."""
        addresses = np.stack([adapter.addresses for adapter in adapters])
        ranks = addresses[:, :, 2]
        return cls(
            adapters=tuple(adapters),
            token_starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            text_starts=np.arange(len(adapters) + 1),
            addresses=addresses,
            has_update=ranks.max(axis=0) > 0,
            most_rank=int(ranks.max()),
        )

    def starts(self, num_rows: int) -> npt.NDArray[np.int64]:
        """First row of each text ``(S + 1,)`` if there are ``num_rows``: all tokens, or the first of each text."""
        return self.text_starts if num_rows == len(self.adapters) else self.token_starts


@dataclass(slots=True)
class Assignment:
    """The adapters of the texts of the current batch; shared by all layers of an encoder."""

    current: TextAdapters | None = None
    """None: no text has an adapter."""


class MultiLoraLinear(nn.Module):
    """A frozen linear layer that adds the update of each text's adapter to the text's output.

    Args:
        base: the pretrained layer.
        number: index of the layer among those that can have updates.
        assignment: shared by all layers of the encoder.
    """

    def __init__(self, base: nn.Linear, number: int, assignment: Assignment) -> None:
        super().__init__()
        self.base, self.number, self.assignment = base, number, assignment

    @property
    def has_update(self) -> bool:
        """Whether any text of the batch has an update for this layer."""
        current = self.assignment.current
        return current is not None and bool(current.has_update[self.number])

    def forward(self, x_TD: Tensor) -> Tensor:
        """``(T, in)`` to ``(T, out)``, in the dtype of ``x_TD``."""
        out: Tensor = self.base(x_TD)
        for rows, update in self._updates(len(x_TD)):
            out[rows] += (x_TD[rows] @ update.A.t()) @ update.B
        return out

    def _updates(self, num_rows: int) -> Iterator[tuple[slice, LowRank]]:
        """Yield rows of consecutive texts with the same adapter, and its update."""
        if not self.has_update:
            return
        assert self.assignment.current is not None
        adapters = self.assignment.current.adapters
        starts = self.assignment.current.starts(num_rows)
        first = 0
        for i in range(1, len(adapters) + 1):
            if i < len(adapters) and adapters[i] is adapters[first]:
                continue
            update = adapters[first].updates[self.number]
            if update is not None:
                yield slice(int(starts[first]), int(starts[i])), update
            first = i
