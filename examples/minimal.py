"""AdaLoRA under a parameter budget, the whole method on tiny data, for reading: ``python examples/minimal.py``.

A frozen layer W gets a low-rank update, W x + s P diag(lambda) Q x: Q is ``lora_A (R, in)``, lambda is
``lora_E (R, 1)`` and P is ``lora_B (out, R)``. One lambda with its row of Q and its column of P is a triplet.
Training decides which triplets are worth their parameters; the others are removed. The encoder is tiny and
random, so nothing is fetched. The pieces are those of `leantune train`, without its files and C kernels.

T tokens of a batch, S texts, D model width, R rank, C classes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leantune.adalora.allocator import RankAllocator
from leantune.adalora.budget import Target, plan_parameters
from leantune.adalora.layer import AdaLoraLinear, orthogonal_penalty
from leantune.adalora.prune import prune
from leantune.adalora.schedule import RankSchedule
from leantune.model.encoder import Encoder, EncoderConfig, LayerConfig
from leantune.packing.batch import PackedBatch, pack
from leantune.packing.dropout import DropoutStream

TOPICS = {
    "sport": "team goal match coach season league striker referee cup defender",
    "kitchen": "salt oven butter dough onion recipe pan sauce flour simmer",
    "weather": "rain cloud wind storm frost forecast sunny snow degrees fog",
}
FILLERS = "the a of and in was very after today before with some more they it for on by"
WORDS = " ".join(["[CLS]", FILLERS, *TOPICS.values()]).split()
IDS = {word: i for i, word in enumerate(WORDS)}

LIMIT = 5_000  # trainable parameters at any time, head included: the input of the method
STEPS, BATCH_SIZE, LEARNING_RATE, ORTHOGONALITY = 300, 32, 1e-2, 0.1
Text = tuple[list[int], int]  # token ids and the class


def write_texts(count: int, seed: int) -> list[Text]:
    """Short texts of mostly fillers, with a few words of one topic: 4 to 20 tokens."""
    rng = np.random.default_rng(seed)
    texts = []
    for label in rng.integers(len(TOPICS), size=count).tolist():
        own = rng.choice(list(TOPICS.values())[label].split(), rng.integers(1, 4))
        words = [*own, *rng.choice(FILLERS.split(), rng.integers(2, 17))]
        rng.shuffle(words)
        texts.append(([IDS["[CLS]"], *(IDS[word] for word in words)], label))
    return texts


def packed(texts: list[Text]) -> PackedBatch:
    """The texts end to end in one row of tokens, shortest first; ``cu_seqlens`` says where each begins. No padding."""
    token_ids = [np.array(ids, np.int32) for ids, _ in texts]
    return pack(token_ids, np.arange(len(texts)), labels=np.array([label for _, label in texts]))


class Classifier(nn.Module):
    """A frozen encoder, and a trained linear head on the first token of each text."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        config = EncoderConfig(
            vocab_size=len(WORDS), width=64, num_heads=4, inner_width=128, layers=(LayerConfig(),) * 3,
            norm_eps=1e-5, embedding_width=64, max_positions=32,
        )  # fmt: skip
        self.encoder = Encoder(config, DropoutStream(seed=0))  # the kernels of a new encoder are plain torch
        self.head = nn.Linear(config.width, len(TOPICS))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5, generator=generator)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        self.encoder.requires_grad_(False)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Logits ``(S, C)`` in the order of ``batch.labels``; attention is within each text."""
        return self.head(self.encoder(batch, only_first=True))

    def adapted_layers(self) -> dict[str, AdaLoraLinear]:
        """The layers that have triplets, by name."""
        return {name: layer for name, layer in self.named_modules() if isinstance(layer, AdaLoraLinear)}

    def replace(self, name: str, module: nn.Module) -> None:
        """Put ``module`` where ``name`` is."""
        self.set_submodule(name, module)

    def num_trainable(self) -> int:
        """Trainable parameters now."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def accuracy(model: Classifier, texts: list[Text]) -> float:
    """Share of texts whose class is predicted."""
    batch = packed(texts)
    with torch.no_grad():
        return (model(batch).argmax(-1) == batch.labels).float().mean().item()


def main() -> None:
    model = Classifier(generator := torch.Generator().manual_seed(0))
    train, test = write_texts(800, seed=1), write_texts(400, seed=2)

    # the limit decides the ranks before anything is trained: 6 is the most that fits, and 2 shall be left
    names = [f"encoder.layers.{i}.{part}" for i in range(3) for part in ("query", "value")]
    layers = {name: model.get_submodule(name) for name in names}
    targets = [Target(name, layer.in_features, layer.out_features) for name, layer in layers.items()]
    head = model.num_trainable()
    plan = plan_parameters(targets, head=head, base=0, limit=LIMIT, init_rank=6, target_rank=2)
    print(f"limit {LIMIT:,}: {plan.initial:,} trainable parameters, {plan.init_budget} triplets")
    no_dropout = nn.Identity()
    for name, layer in layers.items():
        adapted = AdaLoraLinear(layer, plan.init_rank, scaling=1.5, dropout=no_dropout, generator=generator)
        model.replace(name, adapted)

    # triplets that may live: all for 30 steps, then fewer by a cubic curve, and from step 180 on the target
    schedule = RankSchedule(
        init_budget=plan.init_budget, target_budget=plan.target_budget,
        total_steps=STEPS, warmup_steps=30, final_steps=120, allocate_every=10,
    )  # fmt: skip
    allocator = RankAllocator(model.adapted_layers(), schedule)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    rng = np.random.default_rng(3)
    print(f"before training: test accuracy {accuracy(model, test):.3f}")
    for step in range(1, STEPS + 1):
        batch = packed([train[i] for i in rng.choice(len(train), BATCH_SIZE, replace=False)])
        loss = F.cross_entropy(model(batch), batch.labels)
        # rows of Q and columns of P stay near orthonormal, so that lambda means singular values
        penalty = orthogonal_penalty(list(model.adapted_layers().values()))
        optimizer.zero_grad()
        (loss + ORTHOGONALITY * penalty).backward()
        # importance of a triplet: how much |weight x gradient| is on average, and how much it varies
        allocator.observe()
        optimizer.step()
        # lambda of the least important triplets becomes zero; they may come back until the last time
        keep_masks = allocator.allocate(step)
        if keep_masks is not None:  # the last time: tensors become smaller, and moments in the optimizer
            prune(model, keep_masks, optimizer)
        if step % 30 == 0:
            print(f"{step}: loss {loss:.3f}, penalty {penalty:.3f}, {allocator.live_triplets} triplets live")

    allocator.check_ranks_are_final(STEPS)
    for name, rank in allocator.live_ranks.items():
        print(f"{name}: rank {rank}")
    print(f"{model.num_trainable():,} trainable parameters, test accuracy {accuracy(model, test):.3f}")


if __name__ == "__main__":
    main()
