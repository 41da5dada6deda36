"""The usual pipeline, tuned as a careful user tunes it: transformers' ``Trainer`` with PEFT.

    python benchmarks/peer/trainer_peft.py --model roberta-base --train train.csv --test test.csv \\
        --adapter adalora --precision bf16 --group-by-length --output result.json

Recipe values are those of the reference run (AdaLoRA on query and value, initial rank 11, target 8,
alpha 16, dropout 0.15, AdamW, 10 % linear warm-up, weight decay 0.01, batches of 32). AdaLoRA's
allocator is called at each step. The CSV files have the columns ``text`` and ``label``.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from datasets import DatasetDict, disable_progress_bars, load_dataset
from peft import AdaLoraConfig, LoraConfig, PeftModel, TaskType, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from leantune.integrations import AdaLoraCallback, live_ranks
from leantune.model.pretrained import with_dropout

WARMUP, WEIGHT_DECAY, ORTHOGONALITY = 0.1, 0.01, 0.5
RANK_WARMUP, RANK_FINAL, ALLOCATE_EVERY = 0.1, 0.4, 0.01
"""Phases of AdaLoRA as fractions of the run."""
QUERY_AND_VALUE = {"mpnet": ["q", "v"]}
"""What other architectures call these layers."""
ALL_LINEAR = r".*encoder\.layer\..*(query|key|value|dense)"
"""Linear layers of an encoder of BERT's kind; PEFT's own ``all-linear`` has the pooler, too, which is trained whole."""


def main() -> None:
    options = parse_options()
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    splits, label_names = tokenized(options, tokenizer)
    model = adapted_model(options, label_names)
    watch = StopWatch()
    with tempfile.TemporaryDirectory() as scratch:
        parts = {"train_dataset": splits["train"], "eval_dataset": splits.get("test")}
        trainer = trainer_of(options, model, tokenizer, watch, scratch, **parts, compute_metrics=accuracy)
        trainer.train()
        if "test" in splits and not (watch.evaluations and watch.evaluations[-1]["step"] == watch.steps):
            trainer.evaluate()
    result = describe(options, trainer, watch)
    Path(options.output).write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder or hub name of a pretrained encoder")
    parser.add_argument("--train", required=True, help="CSV of training rows: text,label")
    parser.add_argument("--test", help="CSV of test rows; none: no evaluation")
    parser.add_argument("--output", required=True, help="JSON file to write")
    parser.add_argument("--adapter", choices=("adalora", "lora"), default="adalora")
    parser.add_argument("--precision", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--group-by-length", action="store_true", help="batches of texts of like length")
    parser.add_argument(
        "--pad-to-multiple-of", type=int, help="of tokens; few shapes mean few compiled kernels on a CPU"
    )
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    parser.add_argument("--init-rank", type=int, default=11, help="AdaLoRA's initial rank")
    parser.add_argument("--target-rank", type=int, default=8, help="AdaLoRA's target rank, LoRA's rank")
    parser.add_argument("--alpha", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.15, help="on the input of the adapters")
    parser.add_argument("--targets", choices=("attention", "all-linear"), default="attention")
    parser.add_argument("--lora-init", help="LoRA's start in PEFT's terms, as pissa; none: B zero")
    parser.add_argument("--loraplus-ratio", type=float, help="of B's learning rate to A's; none: no LoRA+")
    parser.add_argument("--encoder-dropout", type=float, help="within the encoder; none: its own")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--max-steps", type=int, default=-1, help="optimiser steps; -1: all epochs")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--eval-batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--max-length", type=int, default=256, help="tokens kept of a text")
    parser.add_argument("--eval-steps", type=int, default=0, help="steps between evaluations; 0: at the end")
    parser.add_argument("--logging-steps", type=int, default=10, help="steps between two losses on record")
    parser.add_argument("--seed", type=int, default=42)
    return parser.parse_args()


def tokenized(options: argparse.Namespace, tokenizer: Any) -> tuple[DatasetDict, list[str]]:
    """The splits with token ids and label ids, and the label names in the order of their ids."""
    files = {"train": options.train} | ({"test": options.test} if options.test else {})
    splits = load_dataset("csv", data_files=files, keep_default_na=False)
    splits = splits.select_columns(["text", "label"]).class_encode_column("label")
    names: list[str] = splits["train"].features["label"].names
    if "test" in splits:
        splits = splits.align_labels_with_mapping({name: i for i, name in enumerate(names)}, "label")

    def encode(batch: dict[str, list[Any]]) -> Any:
        return tokenizer(batch["text"], truncation=True, max_length=options.max_length)

    return splits.map(encode, batched=True, remove_columns=["text"]), names


def pretrained_model(options: argparse.Namespace, label_names: list[str], **settings: Any) -> Any:
    """The encoder with a new head; ``settings`` go into its ``config.json``."""
    torch.manual_seed(options.seed)
    config = AutoConfig.from_pretrained(
        options.model,
        num_labels=len(label_names),
        id2label=dict(enumerate(label_names)),
        label2id={name: i for i, name in enumerate(label_names)},
        **settings,
    )
    return AutoModelForSequenceClassification.from_pretrained(
        options.model,
        config=with_dropout(config, options.encoder_dropout),
        dtype=torch.float32,
        attn_implementation=options.attention,
    )


def adapted_model(options: argparse.Namespace, label_names: list[str], **settings: Any) -> PeftModel:
    """The same with adapters."""
    model = pretrained_model(options, label_names, **settings)
    shared = {
        "task_type": TaskType.SEQ_CLS,
        "target_modules": ALL_LINEAR
        if options.targets == "all-linear"
        else QUERY_AND_VALUE.get(model.config.model_type, ["query", "value"]),
        "lora_alpha": options.alpha,
        "lora_dropout": options.dropout,
    }
    if options.adapter == "lora":
        start = options.lora_init or True
        return get_peft_model(model, LoraConfig(r=options.target_rank, init_lora_weights=start, **shared))
    ranks = {"init_r": options.init_rank, "target_r": options.target_rank}
    # AdaLoraCallback puts the real number of steps in the place of total_step
    return get_peft_model(
        model, AdaLoraConfig(**ranks, **shared, total_step=1, orth_reg_weight=ORTHOGONALITY)
    )


def trainer_of(
    options: argparse.Namespace, model: Any, tokenizer: Any, watch: StopWatch, scratch: str, **parts: Any
) -> CountingTrainer:
    """The ``Trainer`` of one run; with AdaLoRA, its allocator is called. ``parts`` are its data sets."""
    callbacks: list[TrainerCallback] = [watch]
    if options.adapter == "adalora":
        callbacks.append(
            AdaLoraCallback(rank_warmup=RANK_WARMUP, rank_final=RANK_FINAL, allocate_every=ALLOCATE_EVERY)
        )
    if options.loraplus_ratio:
        parts["optimizers"] = (loraplus_optimizer(options, model), None)
    return CountingTrainer(
        model,
        training_arguments(options, scratch),
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=options.pad_to_multiple_of),
        processing_class=tokenizer,
        callbacks=callbacks,
        **parts,
    )


def loraplus_optimizer(options: argparse.Namespace, model: PeftModel) -> torch.optim.Optimizer:
    """AdamW with a learning rate of its own for B (Hayou et al., 2024, arXiv 2402.12354)."""
    return create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=options.learning_rate,
        loraplus_lr_ratio=options.loraplus_ratio,
        loraplus_weight_decay=WEIGHT_DECAY,
    )


def training_arguments(options: argparse.Namespace, scratch: str) -> TrainingArguments:
    return TrainingArguments(
        scratch,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.eval_batch_size,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps,
        learning_rate=options.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP,  # a fraction of the steps since transformers 5
        weight_decay=WEIGHT_DECAY,
        bf16=options.precision == "bf16",
        fp16=options.precision == "fp16",
        train_sampling_strategy="group_by_length" if options.group_by_length else "random",
        eval_strategy="steps" if options.eval_steps else "no",
        eval_steps=options.eval_steps or None,
        logging_steps=options.logging_steps,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_num_workers=2 if torch.cuda.is_available() else 0,
        seed=options.seed,
    )


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


class CountingTrainer(Trainer):
    """A Trainer that counts what it trains on; on the device, so that counting does not wait for it."""

    samples = 0
    padded_tokens = 0
    real_tokens: torch.Tensor | int = 0

    def training_step(self, model: Any, inputs: dict[str, torch.Tensor], *rest: Any) -> torch.Tensor:
        self.samples += len(inputs["labels"])
        self.padded_tokens += inputs["attention_mask"].numel()
        self.real_tokens += inputs["attention_mask"].sum()
        return super().training_step(model, inputs, *rest)


class StopWatch(TrainerCallback):
    """Seconds of training steps, loading of batches included, set-up and evaluations excluded."""

    def __init__(self) -> None:
        self.train_s = 0.0
        self.steps = 0
        self.evaluations: list[dict[str, float]] = []
        self._mark = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._mark = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps = state.global_step
        is_read = control.should_evaluate or state.global_step >= state.max_steps
        if is_read and torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.train_s += now - self._mark
        self._mark = now

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        self._mark = time.perf_counter()
        self.evaluations.append(
            {
                "step": state.global_step,
                "accuracy": metrics["eval_accuracy"],
                "loss": metrics["eval_loss"],
                "train_s": self.train_s,
                "runtime_s": metrics["eval_runtime"],
                "since_start_s": seconds_since_start(),
            }
        )


def seconds_since_start() -> float:
    """Seconds since this process began, imports included."""
    return time.time() - psutil.Process().create_time()


def describe(options: argparse.Namespace, trainer: CountingTrainer, watch: StopWatch) -> dict[str, Any]:
    """What goes into the JSON file."""
    real_tokens, losses = int(trainer.real_tokens), trainer.state.log_history
    return {
        "steps": watch.steps,
        "samples": trainer.samples,
        "real_tokens": real_tokens,
        "padded_tokens": trainer.padded_tokens,
        "train_s": watch.train_s,
        "train_samples_per_s": trainer.samples / watch.train_s,
        "train_tokens_per_s": real_tokens / watch.train_s,
        "objective_by_step": [[log["step"], log["loss"]] for log in losses if "loss" in log],
        "evaluations": watch.evaluations,
        "ranks": live_ranks(trainer.model) if options.adapter == "adalora" else None,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    main()
