"""Write a trained classifier in two standard forms; reload each from disk and compare it before publishing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leantune.adalora.adapter_file import AdapterFile, merge_into, read_adapter
from leantune.adalora.allocator import BETA1, BETA2
from leantune.adalora.budget import ParameterPlan
from leantune.adalora.export import WRITERS
from leantune.adalora.schedule import RankSchedule
from leantune.adalora.triplets import Triplets
from leantune.config import Recipe
from leantune.config.classifier_file import write_classifier_file
from leantune.config.record.run import ArtefactRecord, ArtefactsRecord
from leantune.config.thresholds_file import Thresholds, write_thresholds
from leantune.data.labels import LabelMap
from leantune.data.tokens.dataset import LabelledRows
from leantune.data.tokens.tokenization import Tokenizer
from leantune.evaluation.agreement import check_logits
from leantune.evaluation.batches import map_own_rows
from leantune.model.build import load_pretrained, skeleton_of
from leantune.model.classifier import Classifier
from leantune.model.hub import public_name
from leantune.model.low_rank_output import effective_parameters
from leantune.model.pretrained import Pretrained, load_transformers, quiet_transformers
from leantune.packing.padded import padded_inputs
from leantune.system.atomic import atomic_folder
from leantune.system.checksums import describe_folder
from leantune.training.state import saved_parameters

PROBE_ROWS = 32


def publish(
    run: Path,
    classifier: Classifier,
    *,
    recipe: Recipe,
    pretrained: Pretrained,
    plan: ParameterPlan,
    schedule: RankSchedule,
    labels: LabelMap,
    thresholds: Thresholds | None,
    tokenizer: Tokenizer,
    probe: LabelledRows,
) -> ArtefactsRecord:
    """Write ``adapter/`` and ``merged/`` into ``run``.

    Returns:
        for each, the largest difference of logits on ``probe``, and sizes and checksums of the files.

    Raises:
        CheckpointError: if a reloaded artefact does not compute what the trained model does; it is then not
            published.
    """
    pretrained = pretrained.with_labels(labels)
    shell = skeleton_of(pretrained)
    drawn = (*shell.head_names(), *shell.pooler_names)  # the adapter holds their weights
    # hold one fp32 copy of the encoder at a time: each is freed before the next is loaded
    expected = _logits_in_float(classifier, load_pretrained(pretrained, labels), probe)
    with atomic_folder(run / "adapter") as folder:
        assert recipe.method is not None, "plan_run sets it"
        WRITERS[recipe.method](folder, adapter_of(classifier, recipe, plan, schedule))
        tokenizer.save(folder)
        write_classifier_file(folder, recipe, labels.to_record())
        if thresholds is not None:
            write_thresholds(folder, thresholds)
        adapted = _load_with_peft(load_transformers(pretrained, may_lack=drawn), folder)
        adapter_difference = check_logits("adapter", padded_logits(adapted, probe), expected)
        del adapted
        adapter_files = describe_folder(folder)
    with atomic_folder(run / "merged") as folder:
        base = load_transformers(pretrained, may_lack=drawn)
        _write_merged(folder, base, read_adapter(run / "adapter"))
        tokenizer.save(folder)
        write_classifier_file(folder, recipe, labels.to_record())
        if thresholds is not None:
            write_thresholds(folder, thresholds)
        merged_again = Pretrained.at(str(folder), trust_remote_code=pretrained.trust_remote_code)
        merged = load_transformers(merged_again).eval()
        merged_difference = check_logits("merged", padded_logits(merged, probe), expected)
        merged_files = describe_folder(folder)
    return ArtefactsRecord(
        adapter=ArtefactRecord(max_logit_difference=adapter_difference, files=adapter_files),
        merged=ArtefactRecord(max_logit_difference=merged_difference, files=merged_files),
    )


def adapter_of(
    classifier: Classifier, recipe: Recipe, plan: ParameterPlan, schedule: RankSchedule
) -> AdapterFile:
    """The trained parameters as an adapter folder holds them; pruned modules have rank 0."""
    layers = classifier.adapted_layers()
    modules = {
        target.name: layers[target.name].triplets()
        if target.name in layers
        else Triplets.none(target.in_features, target.out_features)
        for target in plan.targets
    }
    return AdapterFile(
        modules=modules or _zero_update(classifier),
        head=head_tensors(classifier),
        head_modules=tuple(_head_module_names(classifier)),
        base_model=public_name(recipe.model),
        init_rank=max(1, plan.init_rank),
        alpha=recipe.alpha_for(max(1, plan.init_rank)),
        config={
            "target_r": plan.target_rank,
            "lora_dropout": recipe.advanced.lora_dropout,
            "beta1": BETA1,
            "beta2": BETA2,
            "orth_reg_weight": recipe.advanced.orth_reg_weight,
            "tinit": schedule.warmup_steps,
            "tfinal": schedule.final_steps,
            "deltaT": schedule.allocate_every,
            "total_step": schedule.total_steps,
        },
    )


def _zero_update(classifier: Classifier) -> dict[str, Triplets]:
    """An update of rank one that changes nothing, for a head that was trained alone: PEFT loads no LoRA without any."""
    name, layer = next(iter(classifier.encoder_linears().items()))
    assert isinstance(layer, nn.Linear)
    return {name: Triplets.zero(layer.in_features, layer.out_features)}


def _logits_in_float(classifier: Classifier, base: Classifier, probe: LabelledRows) -> np.ndarray:
    trained = in_float(classifier, base)
    return map_own_rows(trained, probe, PROBE_ROWS, trained)


def _write_merged(folder: Path, model: Any, adapter: AdapterFile) -> None:
    merge_into(dict(model.named_parameters()), adapter)
    with quiet_transformers():
        model.save_pretrained(str(folder))


@torch.no_grad()
def in_float(classifier: Classifier, base: Classifier) -> Classifier:
    """The trained classifier over an fp32 base on the CPU: the reference that artefacts are compared with."""
    frozen = base.encoder_linears()
    for name, layer in classifier.adapted_layers().items():
        weight = frozen[name].weight
        assert isinstance(weight, Tensor)
        weight.add_(layer.delta_weight().cpu())
    weights = base.named_weights()
    for name, tensor in head_tensors(classifier).items():
        weights[name].copy_(tensor)
    return base.eval()


def head_tensors(classifier: Classifier) -> dict[str, Tensor]:
    """The head's parameters by name, trained or not, without the adapters."""
    output = effective_parameters(classifier.output_layer)
    tensors = {
        name: tensor
        for name, tensor in saved_parameters(classifier).items()
        if name.rpartition(".")[2] not in ("lora_A", "lora_E", "lora_B")
        and not name.startswith(f"{classifier.output_name}.")
    } | {f"{classifier.output_name}.{name}": tensor for name, tensor in output.items()}
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def _head_module_names(classifier: Classifier) -> list[str]:
    trained = classifier.trainable()
    poolers = (p for p in classifier.pooler_names if any(name.startswith(f"{p}.") for name in trained))
    return [*classifier.head_names(), *poolers]


def _load_with_peft(base: Any, folder: Path) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings(), quiet_transformers():
        # users of leantune cannot act on these: PEFT warns that a rank of 0 initialises nothing, that its own
        # AdaLoRA rank pattern is not LoRA's, and about functions of transformers that it calls
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        warnings.filterwarnings("ignore", message="The following rank_pattern keys")
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        return PeftModel.from_pretrained(base, str(folder)).eval()


@torch.inference_mode()
def padded_logits(model: Any, rows: LabelledRows) -> np.ndarray:
    """Logits ``(N, C)`` of right-padded rows, through transformers alone."""
    tokens = rows.tokens()
    inputs = padded_inputs(
        tokens,
        rows.second_starts().tolist(),
        length=max(len(each) for each in tokens),
        pad_id=model.config.pad_token_id or 0,
    )
    if getattr(model.config, "type_vocab_size", 0) < 2:
        del inputs["token_type_ids"]
    tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
    logits: np.ndarray = model(**tensors).logits.float().numpy()
    return logits
