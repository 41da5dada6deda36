"""For those who stay with transformers' ``Trainer`` and PEFT: an AdaLoRA that really allocates.

PEFT leaves the calls to its allocator to the user, and nothing says so when they are missing: the
run is then plain LoRA at the initial rank. One callback makes them::

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
"""Models that `exclude_penalty_from_evaluation` has changed."""


class AdaLoraCallback(TrainerCallback):  # type: ignore[misc]  # mypy sees no types of transformers
    """Makes PEFT's AdaLoRA follow its schedule under transformers' ``Trainer``.

    When training begins it writes the schedule of this run into PEFT's config: the Trainer's real
    number of optimiser steps and, from it, phases that were given as fractions (whatever
    ``total_step`` the config was made with does not matter). After every optimiser step, while the
    gradients are still there, it lets PEFT update importances and allocate. A step whose gradients
    are not finite is no step: the optimiser gets no gradients and PEFT's averages, which would stay
    NaN for good, do not see it. Losses of evaluations are freed of the orthogonality penalty.

    Args:
        rank_warmup: optimiser steps before ranks fall (PEFT's ``tinit``): a fraction of the run below
            1, or a number of steps. None: what the PEFT config says, read in the same way.
        rank_final: the same for the steps after ranks are final (``tfinal``).
        allocate_every: the same for the steps between two allocations (``deltaT``).
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
        """The rank budget of the run; None before it begins."""
        self.skipped_steps = 0
        """Optimiser steps that were left out because of gradients that were not finite."""
        self._configured: WeakKeyDictionary[AdaLoraModel, tuple[float, float, float]] = WeakKeyDictionary()
        """Phases as the PEFT config of a model had them before its first run, which writes its steps over them."""
        self._is_cut = False
        self._is_finite = True

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: nn.Module, **kwargs: Any) -> None:
        """Give PEFT the schedule of this run.

        Raises:
            UsageError: for a model without a trainable PEFT AdaLoRA adapter or with one whose ranks were cut
                before, a schedule that leaves no step to prune in, or a resumed run whose ranks were to fall
                already. (Of a checkpoint whose ranks fell, PEFT itself says ``size mismatch`` before that.)
        """
        tuner = _tuner_of(model)
        _check_adapter(tuner)
        config = tuner.peft_config[tuner.trainable_adapter_name]
        self._configured.setdefault(tuner, (config.tinit, config.tfinal, config.deltaT))
        self.schedule = schedule = self._schedule_for(tuner, state.max_steps)
        if schedule.prunes and state.global_step > schedule.warmup_steps:
            raise UsageError(
                f"this run cannot be resumed at step {state.global_step}: PEFT's checkpoints lack the importances "
                f"that ranks have been cut by since step {schedule.warmup_steps}; start again without "
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
        """Until ranks are final no checkpoint is the best one: it has more triplets than the plan, and PEFT
        cannot load it into a model that was cut (``load_best_model_at_end``).
        """
        assert self.schedule is not None
        if self.schedule.prunes and not self._is_cut:
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **kwargs: Any
    ) -> None:
        """Take gradients that are not finite away from the optimiser, which then changes nothing; in fp16 its scaler
        does that, and asks for them.
        """
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        self._is_finite = bool(torch.nn.utils.get_total_norm(grads).isfinite())  # host sync
        if not self._is_finite and getattr(optimizer, "scaler", None) is None:
            model.zero_grad(set_to_none=True)

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **kwargs: Any
    ) -> None:
        """Let PEFT observe the gradients of this step and enforce its budget."""
        assert self.schedule is not None
        if not self._is_finite or getattr(optimizer, "step_was_skipped", False):
            self.skipped_steps += 1
            return
        if not self.schedule.prunes:  # PEFT asks for the 0th smallest importance and fails
            return
        step = state.global_step + 1  # the Trainer counts the step after this event
        if not self._is_cut:  # the final cut is made late if its own step was skipped
            step = min(step, self.schedule.prune_step)
        tuner = _tuner_of(model)
        _zero_missing_gradients(tuner)
        tuner.update_and_allocate(step)
        self._is_cut = step >= self.schedule.prune_step

    def on_train_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, **kwargs: Any) -> None:
        """See that the ranks did what the schedule says.

        Raises:
            DivergedError: if no triplet was pruned although some had to be.
        """
        schedule = self.schedule
        assert schedule is not None
        live = sum(live_ranks(model).values())
        if live <= schedule.target_budget:
            return
        found = (
            f"after {state.global_step} of {schedule.total_steps} steps ({self.skipped_steps} skipped) {live} "
            f"triplets are alive and the target is {schedule.target_budget}"
        )
        if live == schedule.init_budget:
            raise DivergedError(
                f"the ranks never moved: {found}; this adapter is plain LoRA at its initial rank"
            )
        warnings.warn(f"the run ended before its ranks were final: {found}", stacklevel=2)


def live_ranks(model: nn.Module) -> dict[str, int]:
    """Triplets alive in each layer that PEFT's AdaLoRA adapts, by the layer's name.

    Raises:
        UsageError: for a model without a trainable PEFT AdaLoRA adapter.
    """
    tuner = _tuner_of(model)
    adapter = tuner.trainable_adapter_name
    pattern = tuner.peft_config[adapter].rank_pattern or {}
    # PEFT drops the adapter's name from the keys when it saves
    kept = {name.removesuffix(f".{adapter}"): sum(mask) for name, mask in pattern.items()}
    return {
        name.removesuffix(".lora_E"): kept.get(name, len(triplets[adapter]))
        for name, triplets in tuner.model.named_modules()
        if name.endswith(".lora_E") and adapter in triplets
    }


def exclude_penalty_from_evaluation(model: nn.Module) -> None:
    """Make ``eval_loss`` the task loss: PEFT adds its orthogonality penalty in evaluation, too.

    From here on the penalty's weight is zero in every forward pass of a model in evaluation mode.
    `AdaLoraCallback` calls this when training begins.

    Args:
        model: what ``peft.get_peft_model`` returned for an ``AdaLoraConfig``.

    Raises:
        UsageError: for a model without a trainable PEFT AdaLoRA adapter.
    """
    tuner = _tuner_of(model)
    if tuner in _WITHOUT_PENALTY:  # two pairs of hooks would put back each other's zero
        return
    _WITHOUT_PENALTY.add(tuner)
    config = tuner.peft_config[tuner.trainable_adapter_name]
    set_aside: list[float] = []  # in training the config is left alone: the user may change it between steps

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
    """Look at the first forward pass in training: where it returns no loss, PEFT has nothing to add its penalty to."""

    def look(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if not module.training:
            return
        handle.remove()
        if getattr(outputs, "loss", None) is None:
            warnings.warn(
                "PEFT adds its orthogonality penalty to the loss that the model returns, and this one returns none "
                "(Trainer computes the loss itself under label_smoothing_factor or a compute_loss of its own): "
                "the triplets train without the penalty. Set orth_reg_weight to 0 to say so",
                stacklevel=2,
            )

    handle = tuner.register_forward_hook(look)


def _tuner_of(model: nn.Module) -> AdaLoraModel:
    """The part of a PEFT model that holds the allocator."""
    tuner = getattr(model, "base_model", None)
    if not isinstance(tuner, AdaLoraModel):
        raise UsageError(
            f"expected a model from peft.get_peft_model(model, AdaLoraConfig(...)). Got {type(model).__name__} "
            "instead; adapters that model.add_adapter() injected have no allocator"
        )
    if not hasattr(tuner, "trainable_adapter_name"):
        raise UsageError(
            "the AdaLoRA adapter of this model is frozen; load it with PeftModel.from_pretrained(..., "
            "is_trainable=True)"
        )
    return tuner


def _check_adapter(tuner: AdaLoraModel) -> None:
    """Refuse what PEFT's allocator would cut wrongly.

    Raises:
        UsageError: for an adapter that was cut, or one whose name is a part of other names.
    """
    name = tuner.trainable_adapter_name
    if tuner.peft_config[name].rank_pattern:
        raise UsageError(
            f"the ranks of the adapter '{name}' were cut by an earlier run, and PEFT would count those that are gone: "
            "train a new adapter, or leave AdaLoraCallback out to go on with the ranks that it has"
        )
    suffix = f".{name}"
    paths = (path.removesuffix(suffix) for path, _ in tuner.model.named_parameters() if "lora_" in path)
    mistaken = next((path for path in paths if name in path), None)
    if mistaken is not None:
        raise UsageError(
            f"PEFT finds the weights of the adapter '{name}' by its name, which also occurs in '{mistaken}': give the "
            "adapter a name that occurs in no module's and is no part of another adapter's"
        )


def _zero_missing_gradients(tuner: AdaLoraModel) -> None:
    """A weight that the loss did not use has sensitivity zero; PEFT multiplies by None and fails."""
    adapter = tuner.trainable_adapter_name
    for name, parameter in tuner.model.named_parameters():
        if parameter.grad is None and "lora_" in name and name.endswith(f".{adapter}"):
            parameter.grad = torch.zeros_like(parameter)
