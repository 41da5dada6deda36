"""The supervised contrastive loss is the one of its paper, whoever holds the texts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leantune.system import distributed
from leantune.training.losses import of_all_processes, supervised_contrast


def as_the_paper_writes_it(inputs, labels, temperature: float) -> float:
    """Khosla et al., 2020, eq. 2, text by text."""
    units = [row / row.norm() for row in inputs.detach().double()]
    total = 0.0
    for i, anchor in enumerate(units):
        positives = [p for p in range(len(units)) if p != i and labels[p] == labels[i]]
        contrast = sum(math.exp(anchor @ units[a] / temperature) for a in range(len(units)) if a != i)
        for p in positives:
            total -= math.log(math.exp(anchor @ units[p] / temperature) / contrast) / len(positives)
    return total


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    temperature=st.floats(0.05, 2),
    seed=st.integers(0, 9),
)
def test_it_is_the_equation(labels, temperature, seed):
    torch.manual_seed(seed)
    inputs = torch.randn(len(labels), 8, requires_grad=True)
    found = supervised_contrast(inputs, torch.tensor(labels), temperature)
    assert found.item() == pytest.approx(
        as_the_paper_writes_it(inputs, labels, temperature), rel=1e-4, abs=1e-4
    )
    found.backward()
    assert inputs.grad.isfinite().all()
    if len(set(labels)) == len(labels):
        assert not inputs.grad.any()


def test_it_draws_texts_of_one_label_together_and_others_apart():
    inputs = torch.tensor([[1.0, 0.2], [0.8, 0.6], [0.6, 0.8], [0.2, 1.0]], requires_grad=True)
    supervised_contrast(inputs, torch.tensor([0, 0, 1, 1]), 0.2).backward()
    moved = (inputs - 0.01 * inputs.grad).detach()
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(moved[0], moved[1], 0) > cosine(inputs[0], inputs[1], 0)
    assert cosine(moved[1], moved[2], 0) < cosine(inputs[1], inputs[2], 0)


@pytest.mark.parametrize("sizes", [(4, 3), (1, 0)])
def test_gradients_of_processes_sum_to_that_of_one(monkeypatch, sizes):
    torch.manual_seed(0)
    whole, labels = torch.randn(sum(sizes), 5, requires_grad=True), torch.arange(sum(sizes)) % 3
    expected = supervised_contrast(whole, labels, 0.3)
    (gradient,) = torch.autograd.grad(expected, whole)
    pieces, given_labels = whole.detach().split(sizes), labels.split(sizes)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    summed = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "gather_tensors", Exchange(pieces, given_labels, max(sizes)))
        own = pieces[rank].clone().requires_grad_()
        loss = supervised_contrast(*of_all_processes(own, given_labels[rank], max(sizes)), 0.3)
        torch.testing.assert_close(loss, expected)
        summed.append(torch.autograd.grad(loss, own)[0])
    torch.testing.assert_close(torch.cat(summed), gradient)


class Exchange:
    """What `gather_tensors` gives where other processes have the other pieces; they are padded as this one's are."""

    def __init__(self, pieces, labels, most: int) -> None:
        self.pieces, self.labels, self.most = pieces, labels, most

    def __call__(self, own: torch.Tensor) -> list[torch.Tensor]:
        assert len(own) == self.most
        is_labels = own.dtype == torch.int64
        parts = self.labels if is_labels else self.pieces
        padded = [
            torch.cat([part, part.new_full((self.most - len(part), *part.shape[1:]), -1 if is_labels else 0)])
            for part in parts
        ]
        assert any(torch.equal(own, each) for each in padded)
        return padded
