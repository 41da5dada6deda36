"""Real runs of transformers' Trainer with PEFT's AdaLoRA on a tiny random BERT."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, TaskType, get_peft_model, inject_adapter_in_model
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from leantune.errors import DivergedError, UsageError
from leantune.integrations import AdaLoraCallback, exclude_penalty_from_evaluation, live_ranks
from tiny import VOCAB_SIZE, tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:Adapter 'default'. [0-9]+ LoRA tensor:UserWarning"),
]

INIT_RANK, TARGET_RANK, NUM_LAYERS = 6, 2, 4
"""Two blocks with query and value."""
STEPS, BATCH = 24, 4


def adalora(model: nn.Module | None = None, **changes: Any) -> nn.Module:
    settings: dict[str, Any] = {
        "task_type": TaskType.SEQ_CLS,
        "target_modules": ["query", "value"],
        "init_r": INIT_RANK,
        "target_r": TARGET_RANK,
        "total_step": 1_000_000,
    }
    return get_peft_model(model or tiny_model("bert"), AdaLoraConfig(**settings | changes))


def rows(count: int) -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(4, VOCAB_SIZE, (count, 9), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": each, "labels": each[1] % 3} for each in ids]


def trainer_of(model: nn.Module, folder: Path, *callbacks: TrainerCallback, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 5e-3,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return Trainer(
        model,
        TrainingArguments(str(folder), **settings | changes),
        train_dataset=rows(64),
        eval_dataset=rows(8),
        callbacks=list(callbacks),
    )


class Recorder(TrainerCallback):
    """Live triplets after every optimiser step."""

    def __init__(self) -> None:
        self.live: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, **kwargs: Any) -> None:
        self.live.append(sum(live_ranks(model).values()))


class Poison(TrainerCallback):
    """Put a NaN into one gradient at the given steps, before the callback under test looks."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, **kwargs: Any
    ) -> None:
        if state.global_step + 1 in self.steps:
            gradient = next(p.grad for p in model.parameters() if p.grad is not None)
            gradient.view(-1)[0] = float("nan")


def zero_triplets(model: nn.Module) -> int:
    return sum(int((p == 0).sum()) for name, p in model.named_parameters() if ".lora_E." in name)


def test_ranks_fall_to_the_target_with_the_callback(tmp_path: Path) -> None:
    model, recorder = adalora(), Recorder()
    callback = AdaLoraCallback(rank_warmup=0.25, rank_final=0.25, allocate_every=1)
    trainer_of(model, tmp_path, callback, recorder).train()
    assert callback.schedule is not None
    assert recorder.live == [callback.schedule.budget_at(step) for step in range(1, STEPS + 1)]
    assert recorder.live[5] == NUM_LAYERS * INIT_RANK > recorder.live[6]
    assert recorder.live[-1] == NUM_LAYERS * TARGET_RANK
    assert zero_triplets(model) == NUM_LAYERS * (INIT_RANK - TARGET_RANK)
    assert len(set(live_ranks(model).values())) > 1, "every layer kept the same rank"


def test_ranks_do_not_move_without_the_callback(tmp_path: Path) -> None:
    model = adalora()
    trainer_of(model, tmp_path).train()
    assert set(live_ranks(model).values()) == {INIT_RANK}
    assert model.peft_config["default"].rank_pattern is None
    assert zero_triplets(model) == 0


def test_the_schedule_of_the_run_is_written_into_the_config_and_the_allocator(tmp_path: Path) -> None:
    model = adalora(tinit=0.25, tfinal=6, deltaT=0.1, total_step=100)
    trainer_of(model, tmp_path, AdaLoraCallback()).train()
    for config in (model.peft_config["default"], model.base_model.rankallocator.peft_config):
        assert (config.total_step, config.tinit, config.tfinal, config.deltaT) == (STEPS, 6, 6, 2)
    assert sum(live_ranks(model).values()) == NUM_LAYERS * TARGET_RANK


def test_epochs_are_turned_into_the_trainers_number_of_steps(tmp_path: Path) -> None:
    model = adalora()
    trainer_of(model, tmp_path, AdaLoraCallback(rank_final=0.3), max_steps=-1, num_train_epochs=2).train()
    assert model.peft_config["default"].total_step == 2 * 64 // BATCH


def test_accumulated_gradients_count_as_one_step(tmp_path: Path) -> None:
    model, recorder = adalora(), Recorder()
    callback = AdaLoraCallback(rank_warmup=2, rank_final=2, allocate_every=1)
    trainer_of(model, tmp_path, callback, recorder, max_steps=8, gradient_accumulation_steps=4).train()
    assert callback.schedule is not None
    assert callback.schedule.total_steps == 8
    assert recorder.live == [callback.schedule.budget_at(step) for step in range(1, 9)]
    assert recorder.live[-1] == NUM_LAYERS * TARGET_RANK


def test_a_step_with_a_nan_gradient_changes_nothing(tmp_path: Path) -> None:
    model = adalora()
    before_and_after: dict[int, list[torch.Tensor]] = {}

    class Snapshot(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            allocator = model.base_model.rankallocator
            tensors = [p for p in model.parameters() if p.requires_grad]
            tensors += [*allocator.exp_avg_ipt.values(), *allocator.exp_avg_unc.values()]
            before_and_after[state.global_step] = [tensor.detach().clone() for tensor in tensors]

    callback = AdaLoraCallback(rank_warmup=4, rank_final=4, allocate_every=3)
    trainer_of(model, tmp_path, Poison(5), callback, Snapshot()).train()
    torch.testing.assert_close(before_and_after[5], before_and_after[4], rtol=0, atol=0)
    assert all(tensor.isfinite().all() for step in before_and_after.values() for tensor in step)
    assert callback.skipped_steps == 1
    assert sum(live_ranks(model).values()) == NUM_LAYERS * TARGET_RANK


def test_the_final_cut_is_made_late_when_its_own_step_is_skipped(tmp_path: Path) -> None:
    model, recorder = adalora(), Recorder()
    callback = AdaLoraCallback(rank_warmup=4, rank_final=6, allocate_every=100)
    trainer_of(model, tmp_path, Poison(18, 19), callback, recorder).train()
    init, target = NUM_LAYERS * INIT_RANK, NUM_LAYERS * TARGET_RANK
    assert recorder.live == [init] * 19 + [target] * 5


def test_a_step_that_a_loss_scaler_skipped_is_skipped_too() -> None:
    model, callback = adalora(), AdaLoraCallback(rank_warmup=1, rank_final=1)
    state = SimpleNamespace(max_steps=9, global_step=0)
    callback.on_train_begin(None, state, None, model=model)
    callback.on_optimizer_step(
        None, state, None, model=model, optimizer=SimpleNamespace(step_was_skipped=True)
    )
    assert callback.skipped_steps == 1
    assert not model.base_model.rankallocator.exp_avg_ipt


def test_a_layer_that_the_loss_does_not_use_loses_its_triplets(tmp_path: Path) -> None:
    base = tiny_model("bert")
    base.bert.unused_query = nn.Linear(32, 32)
    model = adalora(base, target_modules=["query", "value", "unused_query"], target_r=4, orth_reg_weight=0.0)
    trainer_of(model, tmp_path, AdaLoraCallback(rank_warmup=0.25, rank_final=0.25)).train()
    ranks = live_ranks(model)
    assert ranks["bert.unused_query"] == 0
    assert sum(ranks.values()) == (NUM_LAYERS + 1) * 4


def test_evaluation_loss_is_the_task_loss(tmp_path: Path) -> None:
    model = adalora(lora_dropout=0.0)
    trainer = trainer_of(model, tmp_path)
    polluted = trainer.evaluate()["eval_loss"]
    exclude_penalty_from_evaluation(model)
    exclude_penalty_from_evaluation(model)  # as the callback does once more
    clean = trainer.evaluate()["eval_loss"]
    batch = {key: torch.stack([row[key] for row in rows(8)]) for key in ("input_ids", "labels")}
    with torch.no_grad():
        logits = model.eval()(input_ids=batch["input_ids"]).logits
        task_loss = nn.functional.cross_entropy(logits, batch["labels"]).item()
        in_training = model.train()(**batch).loss.item()
    assert clean == pytest.approx(task_loss, rel=1e-5)
    assert polluted > clean + 0.1
    assert in_training > clean + 0.1, "training lost the penalty, too"
    assert model.peft_config["default"].orth_reg_weight == 0.5


def test_the_callback_cleans_the_evaluations_of_a_run(tmp_path: Path) -> None:
    callback = AdaLoraCallback(rank_final=0.3)
    trainer = trainer_of(
        adalora(orth_reg_weight=1e3), tmp_path, callback, eval_strategy="steps", eval_steps=8
    )
    trainer.train()
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert len(losses) == 3
    assert max(losses) < 100


def test_a_penalty_that_has_no_loss_to_be_added_to_is_told_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the triplets train without the orthogonality penalty") as warned:
        trainer_of(adalora(), tmp_path, AdaLoraCallback(), label_smoothing_factor=0.1).train()
    assert sum("without the orthogonality penalty" in str(each.message) for each in warned) == 1
    trainer_of(adalora(orth_reg_weight=1e-9), tmp_path, AdaLoraCallback()).train()


def test_ranks_survive_a_save_in_the_middle_of_the_run(tmp_path: Path) -> None:
    model, recorder = adalora(), Recorder()
    callback = AdaLoraCallback(rank_warmup=0.25, rank_final=0.25)
    trainer_of(model, tmp_path, callback, recorder, save_strategy="steps", save_steps=5).train()
    assert recorder.live == sorted(recorder.live, reverse=True)
    assert recorder.live[-1] == NUM_LAYERS * TARGET_RANK
    assert {name.split(".")[-1] for name in live_ranks(model)} == {"query", "value"}


def test_a_run_whose_ranks_had_begun_to_fall_cannot_be_resumed(tmp_path: Path) -> None:
    state = SimpleNamespace(max_steps=STEPS, global_step=10)
    callback = AdaLoraCallback(rank_warmup=6, rank_final=6)
    with pytest.raises(UsageError, match="cannot be resumed at step 10"):
        callback.on_train_begin(None, state, None, model=adalora())


def test_a_real_resume_after_the_warm_up_fails_in_pefts_words(tmp_path: Path) -> None:
    def trainer() -> Trainer:
        callback = AdaLoraCallback(rank_warmup=0.25, rank_final=0.25)
        return trainer_of(adalora(), tmp_path, callback, save_strategy="steps", save_steps=4)

    trainer().train()
    with pytest.raises(RuntimeError, match="size mismatch"):
        trainer().train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))  # before ranks fall
    assert sum(live_ranks(resumed.model).values()) == NUM_LAYERS * TARGET_RANK


def test_the_best_model_at_the_end_has_its_final_ranks(tmp_path: Path) -> None:
    model = adalora()
    trainer = trainer_of(
        model,
        tmp_path,
        AdaLoraCallback(rank_warmup=0.25, rank_final=0.4),
        save_strategy="steps",
        save_steps=4,
        eval_strategy="steps",
        eval_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # the worst: an early one
    )
    trainer.train()
    losses = {log["step"]: log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log}
    best = max((16, 20, 24), key=lambda step: losses[step])  # the final cut is at 24 - 10
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert sum(live_ranks(model).values()) == NUM_LAYERS * TARGET_RANK
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-5)


def test_an_adapter_that_was_cut_is_not_cut_again(tmp_path: Path) -> None:
    model = adalora()
    trainer = trainer_of(model, tmp_path / "run", AdaLoraCallback(rank_warmup=0.25, rank_final=0.25))
    trainer.train()
    with pytest.raises(UsageError, match="were reduced by an earlier run"):
        trainer.train()
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(tiny_model("bert"), str(tmp_path / "adapter"), is_trainable=True)
    with pytest.raises(UsageError, match="were reduced by an earlier run"):
        trainer_of(loaded, tmp_path / "run", AdaLoraCallback()).train()


@pytest.mark.parametrize(("other", "is_refused"), [("default_old", True), ("other", False)])
def test_an_adapter_with_anothers_name_in_it_is_refused(tmp_path: Path, other: str, is_refused: bool) -> None:
    model = adalora()
    frozen = AdaLoraConfig(
        task_type=TaskType.SEQ_CLS,
        target_modules=["query", "value"],
        init_r=INIT_RANK,
        target_r=TARGET_RANK,
        total_step=100,
        inference_mode=True,
    )
    model.add_adapter(other, frozen)
    model.set_adapter("default")
    trainer = trainer_of(model, tmp_path, AdaLoraCallback(rank_warmup=0.25, rank_final=0.25))
    if is_refused:
        with pytest.raises(UsageError, match=rf"which also occurs in '.*\.{other}'"):
            trainer.train()
    else:
        trainer.train()
        assert sum(live_ranks(model).values()) == NUM_LAYERS * TARGET_RANK


@pytest.mark.parametrize("name", ["query", "en"])
def test_a_name_that_occurs_in_those_of_modules_is_refused(tmp_path: Path, name: str) -> None:
    settings = adalora().peft_config["default"]
    model = get_peft_model(tiny_model("bert"), settings, adapter_name=name)
    with pytest.raises(
        UsageError, match=f"the adapter '{name}' by its name, which also occurs in 'bert.encoder"
    ):
        trainer_of(model, tmp_path, AdaLoraCallback(rank_warmup=0.25, rank_final=0.25)).train()


def test_fractions_of_the_config_are_of_every_run(tmp_path: Path) -> None:
    model, callback = adalora(tinit=0.25, tfinal=0.25), AdaLoraCallback()
    with pytest.raises(DivergedError, match="never reduced"):
        trainer_of(model, tmp_path, callback, StopAt(3)).train()
    trainer_of(model, tmp_path, callback, max_steps=2 * STEPS).train()
    assert callback.schedule is not None
    assert (callback.schedule.warmup_steps, callback.schedule.final_steps) == (STEPS // 2, STEPS // 2)


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def test_a_penalty_that_changes_while_training_is_left_alone(tmp_path: Path) -> None:
    class Anneal(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
            model.peft_config["default"].orth_reg_weight = 0.25

    model = adalora(orth_reg_weight=0.5)
    callbacks = (AdaLoraCallback(rank_final=0.3), Anneal())
    trainer_of(model, tmp_path, *callbacks, eval_strategy="steps", eval_steps=8).train()
    assert model.peft_config["default"].orth_reg_weight == 0.25


@pytest.mark.parametrize("kind", ["plain", "lora", "injected"])
def test_a_model_without_peft_adalora_is_refused(tmp_path: Path, kind: str) -> None:
    model = tiny_model("bert")
    if kind == "lora":
        model = get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=["query"]))
    if kind == "injected":
        model = inject_adapter_in_model(AdaLoraConfig(target_modules=["query"], total_step=10), model)
    with pytest.raises(UsageError, match=r"expected a model from peft.get_peft_model.*AdaLoraConfig"):
        trainer_of(model, tmp_path, AdaLoraCallback()).train()


def test_a_frozen_adapter_is_refused() -> None:
    with pytest.raises(UsageError, match="is frozen"):
        live_ranks(adalora(inference_mode=True))


def test_a_schedule_without_a_pruning_phase_is_refused(tmp_path: Path) -> None:
    callback = AdaLoraCallback(rank_warmup=20, rank_final=10)
    with pytest.raises(UsageError, match="no pruning phase"):
        trainer_of(adalora(), tmp_path, callback).train()


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_too_short_for_importances_is_refused(tmp_path: Path, steps: int) -> None:
    with pytest.raises(UsageError, match="train longer"):
        trainer_of(
            adalora(), tmp_path, AdaLoraCallback(rank_warmup=0.1, rank_final=0.4), max_steps=steps
        ).train()


def test_gradients_that_are_not_finite_are_left_to_a_loss_scaler() -> None:
    scaler, model = torch.amp.GradScaler("cpu"), nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    scaler.scale(model(torch.ones(1, 2)).sum() * 1e38).backward()
    before = model.weight.detach().clone()
    AdaLoraCallback().on_pre_optimizer_step(
        None, None, None, model=model, optimizer=SimpleNamespace(scaler=scaler)
    )
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.weight, before)
    assert scaler.get_scale() < 65536


def test_a_target_above_the_initial_rank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="above the initial"):
        trainer_of(adalora(target_r=INIT_RANK + 1), tmp_path, AdaLoraCallback()).train()


def test_an_equal_target_is_plain_lora_without_an_error(tmp_path: Path) -> None:
    model = adalora(target_r=INIT_RANK)
    trainer_of(model, tmp_path, AdaLoraCallback(), max_steps=4).train()
    assert set(live_ranks(model).values()) == {INIT_RANK}


def test_ranks_that_never_moved_fail_the_run(tmp_path: Path) -> None:
    trainer = trainer_of(adalora(), tmp_path, Poison(*range(1, STEPS + 1)), AdaLoraCallback())
    with pytest.raises(
        DivergedError, match=r"never reduced: after 24 of 24 steps \(24 skipped\), 24 triplets"
    ):
        trainer.train()


def test_a_run_that_is_stopped_while_ranks_fall_warns(tmp_path: Path) -> None:
    class StopEarly(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 12

    callback = AdaLoraCallback(rank_warmup=4, rank_final=4)
    with pytest.warns(UserWarning, match="ended before its ranks were final: after 12 of 24 steps"):
        trainer_of(adalora(), tmp_path, callback, StopEarly()).train()
