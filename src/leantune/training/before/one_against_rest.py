"""Logistic regression of each label against the rest, all at once.

All labels share the features, so one product gives the logits of all of them: with 90 labels this takes a hundredth of
the time of separate fits. The summed loss separates into one term per label, so its minimum is the same.

Shapes: N rows, D features, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

Floats = npt.NDArray[np.float64]

HELD_OUT = 0.2
"""Share of the rows held out to choose the penalty."""
MOST_ITERATIONS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class OneAgainstRest:
    """Fitted weights and biases, and their log loss on held-out rows."""

    weight: Floats
    """``(C, D)``."""
    bias: Floats
    """``(C,)``."""
    scaled_bias: Floats
    """``(C,)`` bias with which scaled weights predict each label at its frequency on average."""
    log_loss: float
    """Mean over held-out rows of the summed log losses of all labels; infinite without held-out rows."""


def fit_one_against_rest(
    features: Floats,
    labels: npt.NDArray[np.int64],
    inverse_penalties: Sequence[float],
    rng: np.random.Generator,
    *,
    scale: float,
) -> OneAgainstRest:
    """Fit with the penalty that is best on held-out rows.

    Args:
        features: ``(N, D)``, standardised.
        labels: ``(N, C)`` ones and zeros.
        inverse_penalties: values of scikit-learn's C to choose from.
        rng: generator for choosing the held-out rows.
        scale: factor that the weights are multiplied by when ``scaled_bias`` is used.
    """
    order = rng.permutation(len(features))
    held_out, fitted = np.split(order, [int(HELD_OUT * len(order))])
    losses = {}
    for inverse_penalty in inverse_penalties if len(held_out) else ():
        weight, bias = logistic_regressions(features[fitted], labels[fitted], inverse_penalty)
        logits = features[held_out] @ weight.T + bias
        losses[inverse_penalty] = float(_losses(logits, labels[held_out]).sum(axis=1).mean())
    best = min(losses, key=lambda each: losses[each], default=inverse_penalties[-2])
    weight, bias = logistic_regressions(features, labels, best)
    scaled_logits = scale * (features @ weight.T)
    return OneAgainstRest(
        weight=weight,
        bias=bias,
        scaled_bias=_bias_for(scaled_logits, _frequencies(labels)),
        log_loss=losses.get(best, np.inf),
    )


def logistic_regressions(
    features: Floats, labels: npt.NDArray[np.int64], inverse_penalty: float
) -> tuple[Floats, Floats]:
    """Weights ``(C, D)`` and biases ``(C,)`` as scikit-learn's ``LogisticRegression`` fits them to each label.

    A label that all rows have, or none, gets zero weights and a bias from its frequency.
    """
    num_features, counts = features.shape[1], labels.sum(axis=0)
    weight = np.zeros((labels.shape[1], num_features))
    bias = _logit(_frequencies(labels))
    varies = np.flatnonzero((counts > 0) & (counts < len(labels)))
    if not len(varies):
        return weight, bias
    targets = labels[:, varies]

    def loss_and_gradient(flat: Floats) -> tuple[float, Floats]:
        own = flat.reshape(len(varies), num_features + 1)
        logits = features @ own[:, :-1].T + own[:, -1]
        loss = inverse_penalty * _losses(logits, targets).sum() + 0.5 * (own[:, :-1] ** 2).sum()
        errors = inverse_penalty * (expit(logits) - targets)
        gradient = np.concatenate([errors.T @ features + own[:, :-1], errors.sum(axis=0)[:, None]], axis=1)
        return float(loss), gradient.reshape(-1)

    start = np.concatenate([weight[varies], bias[varies, None]], axis=1).reshape(-1)
    found = minimize(
        loss_and_gradient,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MOST_ITERATIONS, "gtol": 1e-3},
    ).x.reshape(len(varies), num_features + 1)
    weight[varies], bias[varies] = found[:, :-1], found[:, -1]
    return weight, bias


def _losses(logits: Floats, labels: npt.NDArray[np.int64]) -> Floats:
    return np.asarray(np.logaddexp(0, logits) - labels * logits)


def _frequencies(labels: npt.NDArray[np.int64]) -> Floats:
    """Share of rows with each label ``(C,)``, with half a row added on both sides so that it is never 0 or 1."""
    return np.asarray((labels.sum(axis=0) + 0.5) / (len(labels) + 1))


def _logit(shares: Floats) -> Floats:
    return np.asarray(np.log(shares / (1 - shares)))


def _bias_for(logits: Floats, shares: Floats) -> Floats:
    """The bias ``(C,)`` that makes the mean sigmoid of logits ``(N, C)`` equal each share, found by bisection."""
    low, high = np.full(len(shares), -50.0), np.full(len(shares), 50.0)
    for _ in range(60):
        middle = (low + high) / 2
        is_low = expit(logits + middle).mean(axis=0) < shares
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return np.asarray((low + high) / 2)
