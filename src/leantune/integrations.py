"""Working rank allocation for PEFT's AdaLoRA under transformers' ``Trainer``.

PEFT leaves the calls to its allocator to the user. Without them, training silently becomes plain LoRA at the initial
rank. A callback makes these calls::

    model = get_peft_model(model, AdaLoraConfig(init_r=11, target_r=8, total_step=1, ...))
    Trainer(model, args, ..., callbacks=[AdaLoraCallback(rank_warmup=0.1, rank_final=0.4)]).train()
"""

from __future__ import annotations

import warnings
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from peft.tuners.adalora import AdaLoraModel
from torch import nn
from transformers import TrainerCallback

from leantune.adalora.schedule import RankSchedule, steps_from
from leantune.errors import DivergedError, UsageError

__all__ = ["AdaLoraCallback", "exclude_penalty_from_evaluation", "live_ranks"]

_WITHOUT_PENALTY: WeakSet[AdaLoraModel] = WeakSet()
"""Models to which `exclude_penalty_from_evaluation` has added its hooks."""


class AdaLoraCallback(TrainerCallback):  # type: ignore[misc]  # mypy sees no types of transformers
    """A callback that makes PEFT's AdaLoRA follow its schedule under transformers' ``Trainer``.

    When training begins, it writes the schedule of the run into PEFT's config: the Trainer's actual number of optimiser
    steps, and the phases computed from it. The ``total_step`` in the config is ignored. After every optimiser step,
    before the gradients are cleared, it calls PEFT's importance update and allocation. A step with gradients that are
    not finite is skipped: the optimiser gets no gradients, and PEFT's running averages, which would stay NaN, are not
    updated. Evaluation losses exclude the orthogonality penalty.

    Args:
        rank_warmup: optimiser steps before ranks are reduced (PEFT's ``tinit``): a fraction of the run if below 1, else
            a number of steps. None for the value in the PEFT config, interpreted in the same way.
        rank_final: optimiser steps after ranks are final (``tfinal``), in the same units.
        allocate_every: optimiser steps between two allocations (``deltaT``), in the same units.
    """

    def __init__(
        self,
        *,
        rank_warmup: float | None = None,
        rank_final: float | None = None,
        allocate_every: float | None = None,
    ) -> None:
        self.rank_warmup = rank_warmup
        self.rank_final = rank_final
        self.allocate_every = allocate_every
        self.schedule: RankSchedule | None = None
        """Schedule of the rank budget; None before training begins."""
        self.skipped_steps = 0
        """Number of optimiser steps skipped because their gradients were not finite."""
        self._configured: WeakKeyDictionary[AdaLoraModel, tuple[float, float, float]] = WeakKeyDictionary()
        """Phases in a model's PEFT config before its first run, which overwrites them with steps."""
        self._is_cut = False
        self._is_finite = True

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: nn.Module, **kwargs: Any) -> None:
        """Write the schedule of this run into PEFT's config.

        Raises:
            UsageError: if the model has no trainable PEFT AdaLoRA adapter, its ranks were already reduced, the schedule
                leaves no step for pruning, or a run is resumed after the start of pruning. (If the checkpoint's ranks
                were already reduced, PEFT fails earlier with ``size mismatch``.)
        """
        tuner = _tuner_of(model)
        _check_adapter(tuner)
        config = tuner.peft_config[tuner.trainable_adapter_name]
        self._configured.setdefault(tuner, (config.tinit, config.tfinal, config.deltaT))
        self.schedule = schedule = self._schedule_for(tuner, state.max_steps)
        if schedule.prunes and state.global_step > schedule.warmup_steps:
            raise UsageError(
                f"this run cannot be resumed at step {state.global_step}: PEFT's checkpoints do not contain the "
                f"importances used for pruning since step {schedule.warmup_steps}; start again without "
                "resume_from_checkpoint, or train with leantune, which resumes exactly"
            )
        for each in (config, tuner.rankallocator.peft_config):
            each.total_step = schedule.total_steps
            each.tinit, each.tfinal = schedule.warmup_steps, schedule.final_steps
            each.deltaT = schedule.allocate_every
        self.skipped_steps, self._is_cut = 0, False
        exclude_penalty_from_evaluation(model)
        if config.orth_reg_weight:
            _warn_of_a_lost_penalty(tuner)

    def _schedule_for(self, tuner: AdaLoraModel, total_steps: int) -> RankSchedule:
        allocator, (warmup, final, every) = tuner.rankallocator, self._configured[tuner]

        def steps(chosen: float | None, configured: float) -> int:
            return steps_from(configured if chosen is None else chosen, total_steps)

        return RankSchedule(
            init_budget=allocator.init_bgt,
            target_budget=allocator.target_bgt,
            total_steps=total_steps,
            warmup_steps=steps(self.rank_warmup, warmup),
            final_steps=steps(self.rank_final, final),
            allocate_every=max(1, steps(self.allocate_every, every)),
        )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reset the best checkpoint until ranks are final.

        An earlier checkpoint has more triplets than planned, and PEFT cannot load it into the pruned model at the end
        (``load_best_model_at_end``).
        """
        assert self.schedule is not None
        if self.schedule.prunes and not self._is_cut:
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **kwargs: Any
    ) -> None:
        """Clear gradients that are not finite, so that the optimiser changes nothing.

        In fp16, the gradient scaler skips the step itself and needs the gradients.
        """
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        self._is_finite = bool(torch.nn.utils.get_total_norm(grads).isfinite())  # host sync
        if not self._is_finite and getattr(optimizer, "scaler", None) is None:
            model.zero_grad(set_to_none=True)

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **kwargs: Any
    ) -> None:
        """Let PEFT update importances from this step's gradients and enforce its budget."""
        assert self.schedule is not None
        if not self._is_finite or getattr(optimizer, "step_was_skipped", False):
            self.skipped_steps += 1
            return
        if not self.schedule.prunes:  # PEFT fails if there is nothing to prune
            return
        step = state.global_step + 1  # the Trainer counts the step after this event
        if not self._is_cut:  # the final pruning is delayed if its own step was skipped
            step = min(step, self.schedule.prune_step)
        tuner = _tuner_of(model)
        _zero_missing_gradients(tuner)
        tuner.update_and_allocate(step)
        self._is_cut = step >= self.schedule.prune_step

    def on_train_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, **kwargs: Any) -> None:
        """Check that the ranks have followed the schedule.

        Raises:
            DivergedError: if no triplet was pruned although the schedule requires it.
        """
        schedule = self.schedule
        assert schedule is not None
        live = sum(live_ranks(model).values())
        if live <= schedule.target_budget:
            return
        found = (
            f"after {state.global_step} of {schedule.total_steps} steps ({self.skipped_steps} skipped), {live} "
            f"triplets remain and the target is {schedule.target_budget}"
        )
        if live == schedule.init_budget:
            raise DivergedError(
                f"the ranks were never reduced: {found}; this adapter is plain LoRA at its initial rank"
            )
        warnings.warn(f"the run ended before its ranks were final: {found}", stacklevel=2)


def live_ranks(model: nn.Module) -> dict[str, int]:
    """Return the number of remaining triplets in each layer adapted by PEFT's AdaLoRA, by layer name.

    Raises:
        UsageError: if the model has no trainable PEFT AdaLoRA adapter.
    """
    tuner = _tuner_of(model)
    adapter = tuner.trainable_adapter_name
    pattern = tuner.peft_config[adapter].rank_pattern or {}
    # PEFT removes the adapter's name from the keys when it saves.
    kept = {name.removesuffix(f".{adapter}"): sum(mask) for name, mask in pattern.items()}
    return {
        name.removesuffix(".lora_E"): kept.get(name, len(triplets[adapter]))
        for name, triplets in tuner.model.named_modules()
        if name.endswith(".lora_E") and adapter in triplets
    }


def exclude_penalty_from_evaluation(model: nn.Module) -> None:
    """Exclude PEFT's orthogonality penalty from ``eval_loss``, which otherwise includes it.

    The function adds hooks that set the penalty's weight to zero in every forward pass in evaluation mode.
    `AdaLoraCallback` calls it when training begins.

    Args:
        model: the model returned by ``peft.get_peft_model`` for an ``AdaLoraConfig``.

    Raises:
        UsageError: if the model has no trainable PEFT AdaLoRA adapter.
    """
    tuner = _tuner_of(model)
    if tuner in _WITHOUT_PENALTY:  # a second pair of hooks would restore the zero of the first
        return
    _WITHOUT_PENALTY.add(tuner)
    config = tuner.peft_config[tuner.trainable_adapter_name]
    set_aside: list[float] = []  # the user may change the config between training steps

    def before(module: nn.Module, inputs: Any) -> None:
        if not module.training:
            set_aside.append(config.orth_reg_weight)
            config.orth_reg_weight = 0.0

    def after(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if set_aside:
            config.orth_reg_weight = set_aside.pop()

    tuner.register_forward_pre_hook(before)
    tuner.register_forward_hook(after, always_call=True)


def _warn_of_a_lost_penalty(tuner: AdaLoraModel) -> None:
    """Warn after the first training forward pass if the model returns no loss, to which PEFT adds its penalty."""

    def look(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if not module.training:
            return
        handle.remove()
        if getattr(outputs, "loss", None) is None:
            warnings.warn(
                "the triplets train without the orthogonality penalty: PEFT adds it to the loss returned by the model, "
                "but this model returns no loss (Trainer computes the loss itself with label_smoothing_factor or a "
                "custom compute_loss). Set orth_reg_weight=0 to silence this warning",
                stacklevel=2,
            )

    handle = tuner.register_forward_hook(look)


def _tuner_of(model: nn.Module) -> AdaLoraModel:
    """Return the part of a PEFT model that contains the allocator."""
    tuner = getattr(model, "base_model", None)
    if not isinstance(tuner, AdaLoraModel):
        raise UsageError(
            f"expected a model from peft.get_peft_model(model, AdaLoraConfig(...)). Got {type(model).__name__} "
            "instead; adapters injected by model.add_adapter() have no allocator"
        )
    if not hasattr(tuner, "trainable_adapter_name"):
        raise UsageError(
            "the AdaLoRA adapter of this model is frozen; load it with PeftModel.from_pretrained(..., "
            "is_trainable=True)"
        )
    return tuner


def _check_adapter(tuner: AdaLoraModel) -> None:
    """Check for adapters that PEFT's allocator would prune wrongly.

    Raises:
        UsageError: if the adapter was already pruned, or its name is part of other parameter names.
    """
    name = tuner.trainable_adapter_name
    if tuner.peft_config[name].rank_pattern:
        raise UsageError(
            f"the ranks of the adapter '{name}' were reduced by an earlier run, and PEFT would count the pruned ranks: "
            "train a new adapter, or remove AdaLoraCallback to continue with the current ranks"
        )
    suffix = f".{name}"
    paths = (path.removesuffix(suffix) for path, _ in tuner.model.named_parameters() if "lora_" in path)
    mistaken = next((path for path in paths if name in path), None)
    if mistaken is not None:
        raise UsageError(
            f"PEFT identifies the weights of the adapter '{name}' by its name, which also occurs in '{mistaken}': use "
            "an adapter name that is not part of any module or adapter name"
        )


def _zero_missing_gradients(tuner: AdaLoraModel) -> None:
    """Set missing gradients to zero. The loss did not use these weights, and PEFT would fail on None."""
    adapter = tuner.trainable_adapter_name
    for name, parameter in tuner.model.named_parameters():
        if parameter.grad is None and "lora_" in name and name.endswith(f".{adapter}"):
            parameter.grad = torch.zeros_like(parameter)
