"""Turn the rows of A along the gradient before the first step (``adapter_init=gradient``).

While B is zero a step can change a weight only within the rows of its A. Rows that are drawn at random catch
about ``R / in`` of the gradient G of the weight; its first R right singular vectors catch the most that R rows can
(Wang et al., 2024, LoRA-GA, arXiv 2407.05000, section 3.2). LoRA-GA starts B from the left ones, too, and takes the
product off the frozen weight; here B stays zero, so the base model is the pretrained one.

G ``(out, in)`` is never formed: the gradients of B and A are its products with A and B, so two backward passes
through the adapters are one step of subspace iteration (Halko et al., 2011, arXiv 0909.4061, algorithm 4.4).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from leantune.adalora.layer import AdaLoraLinear
from leantune.data.dataset import LabelledRows
from leantune.model.classifier import Classifier
from leantune.system import distributed

MAX_GRADIENT_ROWS = 640
"""Training rows that the gradient is of."""
ROW_NORM = 1 / math.sqrt(3)
"""Expected norm of a Kaiming-uniform row of A, so that learning rates of the start ``lora`` stay right."""


def init_lora_from_gradient(
    classifier: Classifier,
    rows: LabelledRows,
    batch_size: int,
    *,
    seed: int,
    class_weights: Tensor | None = None,
) -> int:
    """Put the first right singular vectors of each adapted weight's gradient into the rows of its A, the
    steepest first.

    E must be one and B zero, as ``draw_lora`` leaves them; B is zero afterwards, too, so the logits do not change.
    Rows that the gradient says nothing of keep their draw: those beyond its rank, and all of a weight whose
    gradient is not finite, which the first step of training reports.

    Args:
        classifier: with the head that the gradient is to pass through.
        rows: training rows; `MAX_GRADIENT_ROWS` of them are used.
        batch_size: rows of a backward pass of one process.
        seed: of their choice.
        class_weights: ``(C,)`` fp32 of the loss; None: all alike.

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
    """Give all trainable parameters the gradient of the loss summed over ``rows`` and over all processes; the sum,
    whose direction is that of the mean, does not underflow in fp16.
    """
    parameters = list(classifier.trainable().values())
    for parameter in parameters:  # zeros, so that one which no row reaches has a gradient, too
        parameter.grad = torch.zeros_like(parameter)
    weight = None if class_weights is None else class_weights.to(classifier.device)
    own = np.arange(distributed.rank(), len(rows), distributed.world_size())
    for start in range(0, len(own), batch_size):
        batch = classifier.batch_of(rows[own[start : start + batch_size]])
        assert batch.labels is not None
        loss = F.cross_entropy(classifier(batch), batch.labels, weight=weight, reduction="sum")
        torch.autograd.backward(loss)
    distributed.sum_gradients([p.grad for p in parameters if p.grad is not None])


@torch.no_grad()
def _probe_from_the_left(layer: AdaLoraLinear) -> None:
    """B an orthonormal basis of its gradient ``G A^T (out, R)``, A zero: the update is still zero."""
    assert layer.lora_B.grad is not None
    basis, _ = torch.linalg.qr(layer.lora_B.grad)
    layer.lora_B.zero_()
    layer.lora_B[:, : basis.shape[1]] = basis
    layer.lora_A.zero_()


@torch.no_grad()
def _take_right_singular_vectors(layer: AdaLoraLinear, drawn_RI: Tensor) -> None:
    """A from its gradient ``B^T G (R, in)``, B zero again."""
    gradient = layer.lora_A.grad
    assert gradient is not None
    layer.lora_A.copy_(drawn_RI)
    layer.lora_B.zero_()
    if not gradient.isfinite().all():
        return
    _, steepness, vectors = torch.linalg.svd(gradient, full_matrices=False)
    known = steepness > steepness[0] * max(gradient.shape) * torch.finfo(gradient.dtype).eps
    layer.lora_A[: len(known)][known] = vectors[known] * ROW_NORM
