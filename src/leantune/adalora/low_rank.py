"""Reduce an update to a lower rank."""

from __future__ import annotations

import torch
from torch import nn

from leantune.adalora.layer import AdaLoraLinear
from leantune.adalora.triplets import Triplets


def nearest_of_rank(triplets: Triplets, rank: int) -> Triplets:
    """The update of at most ``rank`` that is nearest in the Frobenius norm.

    It consists of the first terms of the singular value decomposition (Eckart and Young, 1936, Psychometrika 1:211),
    but the product is never formed. Rows of A keep their average norm, B holds the singular values and E is one, as
    in plain LoRA.

    Args:
        triplets: an update of any rank.
        rank: 1 or more; if ``triplets`` have a lower rank, they keep it.
    """
    rank = min(rank, triplets.rank)
    norm = triplets.A.norm(dim=1).mean().clamp(min=torch.finfo(triplets.A.dtype).tiny)
    left, left_factor = torch.linalg.qr(triplets.B)
    right, right_factor = torch.linalg.qr((triplets.A * triplets.E).t())
    U, S, Vh = torch.linalg.svd(left_factor @ right_factor.t())
    return Triplets(
        A=norm * (Vh[:rank] @ right.t()),
        E=torch.ones(rank, 1),
        B=left @ (U[:, :rank] * S[:rank]) / norm,
    )


def put(layer: AdaLoraLinear, triplets: Triplets) -> None:
    """Give a plain LoRA layer another update, of any rank."""
    device = layer.lora_A.device
    layer.pinned = 0
    layer.lora_A = nn.Parameter(triplets.A.to(device, copy=True))
    layer.lora_E = nn.Parameter(triplets.E.to(device, copy=True), requires_grad=layer.trains_e)
    layer.lora_B = nn.Parameter(triplets.B.to(device, copy=True))
