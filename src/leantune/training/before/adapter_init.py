"""Initial values of the adapters that are computed from training rows.

`attend_evenly` makes the first token of a text attend equally to all others in the last layer, so that the head reads
a mean of the text. `init_lora_from_gradient` turns the rows of A along the gradient (``adapter_init=gradient``).

While B is zero, a step can change a weight only within the rows of its A. Random rows catch about ``R / in`` of the
gradient G of the weight; its first R right singular vectors catch the most that R rows can (Wang et al., 2024,
LoRA-GA, arXiv 2407.05000, section 3.2). LoRA-GA also starts B from the left singular vectors and subtracts the product
from the frozen weight. Here B stays zero, so the base model is unchanged.

G ``(out, in)`` is never formed: the gradients of B and A are its products with A and B, so two backward passes
through the adapters are one step of subspace iteration (Halko et al., 2011, arXiv 0909.4061, algorithm 4.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from leantune.adalora.layer import AdaLoraLinear
from leantune.adalora.triplets import Triplets
from leantune.data.tokens.dataset import LabelledRows
from leantune.evaluation.batches import map_rows
from leantune.model.classifier import Classifier
from leantune.system import distributed
from leantune.training.objectives import objective_of

MAX_GRADIENT_ROWS = 640
"""Most training rows used to compute the gradient."""
ROW_NORM = 1 / math.sqrt(3)
"""Expected norm of a Kaiming-uniform row of A; keeping it lets learning rates tuned for ``lora`` stay valid."""


ROWS_OF_MEAN = 256
"""Training rows used to average the query's input, which hardly differs between texts."""


@dataclass(frozen=True, slots=True)
class EvenAttention:
    """One triplet of the last layer's query that makes attention even, and the values that it replaced."""

    layer: AdaLoraLinear
    drawn: Triplets

    @torch.no_grad()
    def undo(self) -> None:
        """Restore the replaced values."""
        self.layer.pinned = 0
        self.layer.lora_A.copy_(self.drawn.A)
        self.layer.lora_E.copy_(self.drawn.E)
        self.layer.lora_B.copy_(self.drawn.B)


@torch.no_grad()
def attend_evenly(
    classifier: Classifier, rows: LabelledRows, batch_size: int, *, seed: int
) -> EvenAttention | None:
    """Make first tokens attend equally to all tokens of their text in the last layer.

    There, a first token has nearly the same input vector m in every text (in MiniLM 0.1 % of its square differs), so
    its query is nearly ``W m + b``. A triplet of rank one, ``-(W m + b) m^T / |m|^2``, cancels it: scores become zero,
    weights equal, and the head reads the mean of all values. In encoders trained on the mean of their tokens, that mean
    holds far more than the first token (benchmarks/notebook). The triplet is trained like any other.

    Args:
        classifier: with fresh adapters; the other triplets of the layer must be zero.
        rows: training rows; `ROWS_OF_MEAN` of them are used.
        batch_size: texts per batch.
        seed: seed for choosing the rows.

    Returns:
        the change; None if there is no such query, it has no adapter, or E is not one as `draw_lora` leaves it.
    """
    layer = classifier.adapted_layers().get(classifier.pooling_query or "")
    if layer is None or layer.lora_B.any():
        return None
    drawn = Triplets(
        *(parameter.detach().clone() for parameter in (layer.lora_A, layer.lora_E, layer.lora_B))
    )
    order = np.random.default_rng([seed, 0x5EED]).permutation(len(rows))[:ROWS_OF_MEAN]
    was_training = classifier.training
    classifier.eval()
    inputs = map_rows(classifier, rows[order], batch_size, classifier.inputs_of_pooling_query)
    classifier.train(was_training)
    mean = torch.from_numpy(inputs).mean(0).to(layer.lora_A)
    query = F.linear(
        mean, layer.base.weight.float(), None if layer.base.bias is None else layer.base.bias.float()
    )
    if not query.isfinite().all() or not mean.any():
        return None
    layer.lora_A[0] = mean / mean.norm() * ROW_NORM
    layer.lora_B[:, 0] = -query / mean.norm() / (ROW_NORM * layer.scaling)
    layer.pinned = 1
    return EvenAttention(layer, drawn)


def init_lora_from_gradient(
    classifier: Classifier,
    rows: LabelledRows,
    batch_size: int,
    *,
    seed: int,
    class_weights: Tensor | None = None,
) -> int:
    """Set the rows of each A to the first right singular vectors of the weight's gradient, the steepest first.

    E must be one and B zero, as ``draw_lora`` leaves them. B is zero afterwards too, so the logits do not change.
    Pinned triplets stay as they are. Rows that the gradient does not determine keep their random values: the rows
    beyond its rank, and all rows if the gradient is not finite, which the first training step reports.

    Args:
        classifier: with the head that the gradient passes through.
        rows: training rows; `MAX_GRADIENT_ROWS` of them are used.
        batch_size: rows per backward pass of one process.
        seed: seed for choosing the rows.
        class_weights: ``(C,)`` fp32 weights of the loss; None: all equal.

    Returns:
        the number of rows used.
    """
    order = np.random.default_rng([seed, 0x96AD]).permutation(len(rows))[:MAX_GRADIENT_ROWS]
    chosen = rows[order]
    layers = list(classifier.adapted_layers().values())
    drawn = [layer.lora_A.detach().clone() for layer in layers]
    was_training = classifier.training
    classifier.eval()
    fill_gradients(classifier, chosen, batch_size, class_weights)
    for layer in layers:
        _probe_from_the_left(layer)
    fill_gradients(classifier, chosen, batch_size, class_weights)
    for layer, rows_of_A in zip(layers, drawn, strict=True):
        _take_right_singular_vectors(layer, rows_of_A)
    classifier.zero_grad(set_to_none=True)
    classifier.train(was_training)
    return len(chosen)


def fill_gradients(
    classifier: Classifier, rows: LabelledRows, batch_size: int, class_weights: Tensor | None = None
) -> None:
    """Fill the gradients of all trainable parameters with the loss summed over ``rows`` and all processes.

    The sum points in the direction of the mean but does not underflow in fp16.
    """
    parameters = list(classifier.trainable().values())
    for parameter in parameters:  # zeros, so that a parameter that no row reaches has a gradient too
        parameter.grad = torch.zeros_like(parameter)
    weight = None if class_weights is None else class_weights.to(classifier.device)
    own = np.arange(distributed.rank(), len(rows), distributed.world_size())
    for start in range(0, len(own), batch_size):
        batch = classifier.batch_of(rows[own[start : start + batch_size]])
        assert batch.labels is not None
        loss = objective_of(rows).loss(classifier(batch), batch.labels, weight)
        torch.autograd.backward(loss)
    distributed.sum_gradients([p.grad for p in parameters if p.grad is not None])


@torch.no_grad()
def _probe_from_the_left(layer: AdaLoraLinear) -> None:
    """Set B to an orthonormal basis of its gradient ``G A^T (out, R)``, and A to zero: the update stays zero."""
    assert layer.lora_B.grad is not None
    first = layer.pinned
    basis, _ = torch.linalg.qr(layer.lora_B.grad[:, first:])
    layer.lora_B[:, first:] = 0
    layer.lora_B[:, first : first + basis.shape[1]] = basis
    layer.lora_A[first:] = 0


@torch.no_grad()
def _take_right_singular_vectors(layer: AdaLoraLinear, drawn_RI: Tensor) -> None:
    """Set A from its gradient ``B^T G (R, in)``, and B back to zero."""
    assert layer.lora_A.grad is not None
    first = layer.pinned
    gradient = layer.lora_A.grad[first:]
    layer.lora_A[first:] = drawn_RI[first:]
    layer.lora_B[:, first:] = 0
    if not len(gradient) or not gradient.isfinite().all():
        return
    _, steepness, vectors = torch.linalg.svd(gradient, full_matrices=False)
    known = steepness > steepness[0] * max(gradient.shape) * torch.finfo(gradient.dtype).eps
    layer.lora_A[first : first + len(known)][known] = vectors[known] * ROW_NORM
