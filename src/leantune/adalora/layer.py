"""The adapted linear layer: W x + scaling * B ((A * E) x)  (Zhang et al., 2023, eq. 3).

R rank, the number of triplets in the layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leantune.adalora.triplets import Draw, Triplets, draw_normal

SHAPE_MULTIPLE = 8
"""The rank is padded with zeros to a multiple of this in products.

After pruning, layers have different ranks, and oneDNN compiles a kernel for each new shape; batches without padding
make all shapes new at every step."""


class AdaLoraLinear(nn.Module):
    """A frozen linear layer with a trainable update of ``R`` triplets.

    ``lora_A (R, in)``, ``lora_E (R, 1)`` and ``lora_B (out, R)`` are fp32 whatever the dtype of the frozen weight;
    products are computed in the dtype of the input. The initial update is zero, so a new layer computes exactly what
    the frozen one does.

    Plain LoRA is the same layer with E fixed to one.

    Args:
        base: the pretrained layer; it is frozen here.
        rank: R, at least 1.
        scaling: ``alpha / init_rank``, fixed for the whole run, also after pruning.
        dropout: applied to the input of the update only.
        generator: generator of the initial values.
        draw: function that draws the initial values.
        trains_e: whether E is trained.
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        *,
        scaling: float,
        dropout: nn.Module,
        generator: torch.Generator,
        draw: Draw = draw_normal,
        trains_e: bool = True,
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scaling = scaling
        self.dropout = dropout
        drawn = draw(rank, base.in_features, base.out_features, generator)
        self.pinned = 0
        """Number of leading triplets that are never pruned, because the initial layer depends on them."""
        self.lora_A = nn.Parameter(drawn.A)
        self.lora_E = nn.Parameter(drawn.E, requires_grad=trains_e)
        self.lora_B = nn.Parameter(drawn.B)

    @classmethod
    def of(cls, base: nn.Linear, triplets: Triplets, *, scaling: float) -> AdaLoraLinear:
        """Add an already trained update to ``base``; nothing in it is trainable."""
        layer = cls(
            base,
            triplets.rank,
            scaling=scaling,
            dropout=nn.Identity(),
            generator=torch.Generator(),
            draw=lambda *_: triplets,
        )
        return layer.to(base.weight.device).requires_grad_(False)

    @property
    def weight(self) -> Tensor:
        """The frozen weight ``(out, in)``: some encoders read its dtype (T5)."""
        return self.base.weight

    @property
    def rank(self) -> int:
        """Number of triplets that the layer holds, masked ones included."""
        return self.lora_E.shape[0]

    @property
    def trains_e(self) -> bool:
        """Whether E is trained; in plain LoRA it is fixed to one."""
        return self.lora_E.requires_grad

    @property
    def triplet_parameters(self) -> int:
        """Number of trainable parameters in one triplet: in + out, and 1 if E is trained."""
        return self.base.in_features + self.base.out_features + self.trains_e

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``, in the dtype of ``x``."""
        scaled_A, B = (self.lora_A * (self.lora_E * self.scaling)).to(x.dtype), self.lora_B.to(x.dtype)
        frozen = self.base(x)
        spare = -self.rank % SHAPE_MULTIPLE
        scaled_A, padded_B = F.pad(scaled_A, (0, 0, 0, spare)), F.pad(B, (0, spare))
        low_rank = F.linear(self.dropout(x), scaled_A).flatten(0, -2)  # (rows, R + spare)
        update = torch.addmm(frozen.flatten(0, -2), low_rank, padded_B.t())
        return update.view(frozen.shape)

    @torch.no_grad()
    def delta_weight(self) -> Tensor:
        """The update as one matrix ``(out, in)``, fp32."""
        return (self.lora_B @ (self.lora_A * self.lora_E)) * self.scaling

    def triplets(self) -> Triplets:
        """The update of the layer, on the CPU."""
        return Triplets(*(p.detach().cpu() for p in (self.lora_A, self.lora_E, self.lora_B)))

    @torch.no_grad()
    def keep(self, keep_mask: Tensor) -> None:
        """Remove the triplets outside ``keep_mask (R,)`` bool; the tensors become smaller."""
        self.lora_A = nn.Parameter(self.lora_A[keep_mask].clone())
        self.lora_E = nn.Parameter(self.lora_E[keep_mask].clone(), requires_grad=self.trains_e)
        self.lora_B = nn.Parameter(self.lora_B[:, keep_mask].clone())


def orthogonal_penalty(layers: list[AdaLoraLinear]) -> Tensor:
    """Mean over layers and sides of ``||A A^T - I||_F`` and ``||B^T B - I||_F``, fp32 scalar.

    This is the regulariser of Zhang et al., 2023, eq. 4, without its square, as in the authors' code and PEFT. It
    makes E behave like singular values, so layers with fixed E have none. Sides of the same shape are stacked, so the
    cost is a few batched products.
    """
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for layer in layers:
        if layer.trains_e:
            for side in (layer.lora_A, layer.lora_B.t()):
                by_shape.setdefault(side.shape, []).append(side)
    if not by_shape:
        return torch.zeros((), device=layers[0].lora_A.device if layers else None)
    norms = []
    for (rank, _), sides in by_shape.items():
        stacked = torch.stack(sides)  # (M, R, in or out)
        gram = stacked @ stacked.mT - torch.eye(rank, device=stacked.device)
        norms.append(torch.linalg.matrix_norm(gram))
    return torch.cat(norms).mean()
