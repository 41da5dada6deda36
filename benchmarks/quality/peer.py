"""One run of another pipeline: ``python -m benchmarks.quality.peer SETTINGS.json OUTPUT.json``.

transformers' ``Trainer`` with PEFT LoRA, with PEFT AdaLoRA and its allocator called, or with every weight
trained; the same code as the speed benchmark's pipeline, measured on validation and test rows at the end.
`benchmarks.quality.others` has those without ``Trainer``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from scipy.special import softmax
from transformers import AutoTokenizer

from benchmarks.peer.trainer_peft import (
    CountingTrainer,
    StopWatch,
    adapted_model,
    pretrained_model,
    seconds_since_start,
    tokenized,
    trainer_of,
)
from benchmarks.quality import others
from leantune.integrations import live_ranks
from leantune.system.hardware import describe_hardware, describe_versions

DEFAULTS: dict[str, Any] = {
    "precision": "bf16",
    "group_by_length": False,
    "attention": "sdpa",
    "pad_to_multiple_of": 16,  # faster: few shapes
    "alpha": 16,
    "dropout": 0.15,
    "encoder_dropout": None,
    "targets": "attention",
    "lora_init": None,
    "loraplus_ratio": None,
    "epochs": 3,
    "max_steps": -1,
    "batch_size": 32,
    "eval_batch_size": 64,
    "max_length": 128,
    "eval_steps": 0,
    "logging_steps": 10,
}
"""As the reference run has them; the settings file adds files, adapter, ranks, learning rate and seed."""


def main() -> None:
    settings_path, output = sys.argv[1:]
    settings = json.loads(Path(settings_path).read_text("utf-8"))
    found = others.measured(settings) if settings["adapter"] in others.PIPELINES else trained(settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = {**found, "versions": describe_versions(), "hardware": describe_hardware(device)}
    Path(output).write_text(json.dumps(result) + "\n", "utf-8")


def trained(settings: dict[str, Any]) -> dict[str, Any]:
    """One run of transformers' ``Trainer``."""
    options = argparse.Namespace(**DEFAULTS | settings)
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    parts = read(options, tokenizer)
    names = parts["train"].features["label"].names
    build = pretrained_model if options.adapter == "full" else adapted_model
    model = build(options, names)
    initial = sum(p.numel() for p in model.parameters() if p.requires_grad)
    watch = StopWatch()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trainer_of(options, model, tokenizer, watch, scratch, train_dataset=parts["train"])
        trainer.train()
        metrics = {part: measured(trainer, parts[part]) for part in ("validation", "test")}
    ranks = live_ranks(model) if options.adapter == "adalora" else None
    return {
        "metrics": metrics,
        "parameters": {"initial": initial, "final": initial - pruned(model, ranks)},
        "ranks": ranks,
        "train_s": watch.train_s,
        "total_s": seconds_since_start(),
    }


def read(options: argparse.Namespace, tokenizer: Any) -> dict[str, Dataset]:
    """``train``, ``validation`` and ``test`` with token and label ids."""
    options.test = options.files["test"]
    options.train = options.files["train"]
    splits, _ = tokenized(options, tokenizer)
    parts = {"train": splits["train"], "test": splits["test"]}
    options.test = options.files["validation"]
    parts["validation"] = tokenized(options, tokenizer)[0]["test"]
    return parts


def measured(trainer: CountingTrainer, rows: Dataset) -> dict[str, float]:
    by_length = np.argsort([len(tokens) for tokens in rows["input_ids"]], kind="stable")  # less padding
    prediction = trainer.predict(rows.select(by_length))
    probabilities = softmax(prediction.predictions.astype(np.float64), axis=-1)
    return others.measures_of(prediction.label_ids, probabilities, range(probabilities.shape[1]))


def pruned(model: Any, ranks: dict[str, int] | None) -> int:
    """Parameters of the triplets that PEFT has masked; it keeps them in memory to the end."""
    if ranks is None:
        return 0
    count = 0
    for name, rank in ranks.items():
        layer = model.base_model.model.get_submodule(name.removeprefix("model."))
        masked = layer.lora_E["default"].shape[0] - rank
        count += masked * (layer.in_features + layer.out_features + 1)
    return count


if __name__ == "__main__":
    main()
