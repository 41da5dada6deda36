"""PEFT's adapters in leantune and leantune's in PEFT: the same logits."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from leantune.adalora.adapter_file import read_adapter
from leantune.data.labels import LabelMap
from leantune.errors import CheckpointError, UsageError
from leantune.inference.adapters import load_adapter
from leantune.inference.export.formats import export
from leantune.packing.batch import pack
from tiny import assert_same_logits, random_tokens, save_tiny_encoder

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
ADALORA = {"init_r": 4, "target_r": 2, "total_step": 100, "tinit": 10, "tfinal": 50}
CONFIGS = {
    "adalora": (AdaLoraConfig, ADALORA),
    "lora": (LoraConfig, {"r": 3}),
    "lora with patterns": (
        LoraConfig,
        {"r": 3, "rank_pattern": {"query": 5}, "alpha_pattern": {"0.attention.self.value": 4}},
    ),
    "rank-stabilised lora": (LoraConfig, {"r": 3, "use_rslora": True}),
}

OLD_SETTINGS = (
    *("peft_type", "task_type", "base_model_name_or_path", "inference_mode", "modules_to_save"),
    *("target_modules", "r", "init_r", "target_r", "lora_alpha", "lora_dropout", "bias", "fan_in_fan_out"),
    *(
        "tinit",
        "tfinal",
        "deltaT",
        "beta1",
        "beta2",
        "orth_reg_weight",
        "total_step",
        "use_dora",
        "use_rslora",
    ),
)
"""Of the settings that PEFT 0.14 wrote, those that PEFT still has."""


@pytest.fixture(scope="module", params=["bert", "roberta"])
def encoder(request, tmp_path_factory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"), request.param)


def save_with_peft(encoder: Path, folder: Path, kind: str) -> PeftModel:
    """An adapter of random values as PEFT saves it."""
    build, settings = CONFIGS[kind]
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(str(encoder), num_labels=5)
    config = build(task_type=TaskType.SEQ_CLS, target_modules=["query", "value"], lora_alpha=16, **settings)
    peft_model = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    peft_model.save_pretrained(str(folder))
    return peft_model.eval()


def logits_of_peft(model, tokens: list[np.ndarray]) -> torch.Tensor:
    with torch.no_grad():
        rows = [model(input_ids=torch.from_numpy(t.astype(np.int64))[None]).logits[0] for t in tokens]
    return torch.stack(rows)


def logits_of_leantune(classifier, tokens: list[np.ndarray]) -> torch.Tensor:
    batch = pack(tokens, np.arange(len(tokens)), position_offset=classifier.position_offset)
    logits = torch.empty(len(tokens), classifier.output_layer.out_features)
    with torch.no_grad():
        logits[batch.rows.long()] = classifier(batch)
    return logits


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_of_peft_gives_the_same_logits_here(encoder, tmp_path, kind):
    theirs = save_with_peft(encoder, tmp_path, kind)
    mine = load_adapter(tmp_path).classifier
    tokens = random_tokens([3, 17, 9, 1])
    assert_same_logits(logits_of_leantune(mine, tokens), logits_of_peft(theirs, tokens))


def test_an_adapter_of_peft_0_14_without_a_rank_pattern_gives_the_same_logits_here(encoder, tmp_path):
    """The released adapter of the reference run is of this kind: no rank pattern, few settings."""
    theirs = save_with_peft(encoder, tmp_path, "adalora")
    tensors = load_file(tmp_path / WEIGHTS)
    assert {name.rpartition(".")[2] for name in tensors if "lora_" in name} == {"lora_A", "lora_E", "lora_B"}
    assert all(name.startswith("base_model.model.classifier.") for name in tensors if "lora_" not in name)
    config = json.loads((tmp_path / CONFIG).read_text("utf-8"))
    stripped = {key: config[key] for key in OLD_SETTINGS} | {"rank_pattern": None, "alpha_pattern": {}}
    (tmp_path / CONFIG).write_text(json.dumps(stripped), encoding="utf-8")
    assert len(read_adapter(tmp_path).modules) == 4
    tokens = random_tokens([3, 17, 9, 1])
    assert_same_logits(
        logits_of_leantune(load_adapter(tmp_path).classifier, tokens), logits_of_peft(theirs, tokens)
    )


@pytest.mark.filterwarnings("ignore:Adapter 'default'. .* have invalid shape")
def test_pruned_triplets_of_peft_are_gone_here(encoder, tmp_path):
    theirs = save_with_peft(encoder, tmp_path / "full", "adalora")
    names = [name for name, _ in theirs.named_parameters() if name.endswith("lora_E.default")]
    kept = {
        name.removeprefix("base_model.model."): [i % 2 == 0, *[False] * 3] for i, name in enumerate(names)
    }
    with torch.no_grad():
        for name, mask in kept.items():
            parameter = theirs.get_parameter(f"base_model.model.{name}")
            parameter[~torch.tensor(mask)] = 0.0
    theirs.peft_config["default"].rank_pattern = kept
    theirs.save_pretrained(str(tmp_path / "pruned"))
    adapter = read_adapter(tmp_path / "pruned")
    assert sorted(t.rank for t in adapter.modules.values()) == [0, 0, 1, 1]
    tokens = random_tokens([3, 17])
    assert_same_logits(
        logits_of_leantune(load_adapter(tmp_path / "pruned").classifier, tokens),
        logits_of_peft(theirs, tokens),
    )


@pytest.mark.parametrize("form", ["adalora", "lora"])
def test_an_exported_run_gives_the_same_logits_in_peft_and_here(run, inputs, tmp_path, form):
    folder = export(run, form, str(tmp_path / form))
    base = AutoModelForSequenceClassification.from_pretrained(str(inputs / "encoder"), num_labels=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = PeftModel.from_pretrained(base, str(folder)).eval()
    tokens = random_tokens([3, 17, 9])
    expected = logits_of_peft(theirs, tokens)
    assert expected.abs().max() > 0.1
    mine = logits_of_leantune(load_adapter(folder, base=str(inputs / "encoder")).classifier, tokens)
    assert_same_logits(mine, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "a LOHA adapter, expected ADALORA or LORA"),
        ({"use_dora": True}, "an adapter with use_dora=True, which leantune does not read"),
        ({"alora_invocation_tokens": [1, 2]}, "an adapter with alora_invocation_tokens="),
        ({"bias": "all"}, "an adapter with bias=all"),
        (
            {"init_lora_weights": "pissa"},
            "init_lora_weights=pissa, which leantune does not read: most such starts change the weights",
        ),
        ({"peft_type": ["LORA"]}, r"a \['LORA'\] adapter, expected"),
        ({"r": 0}, "r is 0, expected a number above 0"),
        ({"lora_alpha": 0}, "lora_alpha is 0, expected a number above 0"),
        ({"alpha_pattern": {"(query": 3}}, "alpha_pattern cannot be read"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(encoder, tmp_path, change, message):
    save_with_peft(encoder, tmp_path, "lora")
    config = json.loads((tmp_path / CONFIG).read_text("utf-8"))
    (tmp_path / CONFIG).write_text(json.dumps(config | change), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        read_adapter(tmp_path)


@pytest.mark.parametrize("text", ["[]", "null"])
def test_a_config_that_is_no_object_is_refused(encoder, tmp_path, text):
    save_with_peft(encoder, tmp_path, "lora")
    (tmp_path / CONFIG).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="expected an object"):
        read_adapter(tmp_path)


def test_an_adapter_without_its_head_is_refused(encoder, tmp_path):
    save_with_peft(encoder, tmp_path, "lora")
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({name: t for name, t in tensors.items() if "classifier" not in name}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="expected the adapter of a sequence classifier, with its head"):
        load_adapter(tmp_path)


def test_what_is_no_folder_or_no_classifier_is_refused(encoder, tmp_path):
    save_with_peft(encoder, tmp_path, "lora")
    with pytest.raises(CheckpointError, match="expected an adapter folder"):
        load_adapter(str(tmp_path / CONFIG))
    tensors = load_file(tmp_path / WEIGHTS)
    output = {name: t[:1].clone() if "classifier" in name else t for name, t in tensors.items()}
    save_file(output, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="has one output"):
        load_adapter(tmp_path)


def test_labels_that_are_not_as_many_as_the_classes_are_refused(encoder, tmp_path):
    save_with_peft(encoder, tmp_path, "lora")
    with pytest.raises(UsageError, match=r"a classifier of 5 classes\. Got 2 labels instead"):
        load_adapter(tmp_path, labels=LabelMap(("a", "b")))


def test_a_part_of_the_head_that_is_nowhere_is_not_drawn_at_random(tmp_path):
    """PEFT saves DeBERTa's classifier and not its pooler, unless it is told to."""
    folder = save_tiny_encoder(tmp_path / "encoder", "deberta-v2")
    base = AutoModelForSequenceClassification.from_pretrained(str(folder), num_labels=3)
    targets = {"target_modules": ["query_proj", "value_proj"], "task_type": TaskType.SEQ_CLS}
    get_peft_model(base, LoraConfig(**targets)).save_pretrained(str(tmp_path / "without"))
    with pytest.raises(CheckpointError, match=r"has pooler.dense.weight and 1 more tensors of the head"):
        load_adapter(tmp_path / "without")
    base = AutoModelForSequenceClassification.from_pretrained(str(folder), num_labels=3)
    whole = LoraConfig(**targets, modules_to_save=["classifier", "pooler"])
    theirs = get_peft_model(base, whole).eval()
    theirs.save_pretrained(str(tmp_path / "with"))
    tokens = random_tokens([3, 17])
    assert_same_logits(
        logits_of_leantune(load_adapter(tmp_path / "with").classifier, tokens), logits_of_peft(theirs, tokens)
    )


def test_an_adapter_with_a_tensor_missing_is_refused(encoder, tmp_path):
    save_with_peft(encoder, tmp_path, "adalora")
    tensors = load_file(tmp_path / WEIGHTS)
    gone = next(name for name in tensors if name.endswith("lora_E"))
    del tensors[gone]
    save_file(tensors, tmp_path / WEIGHTS)
    module = gone.removeprefix("base_model.model.").removesuffix(".lora_E")
    with pytest.raises(CheckpointError, match=f"is missing for {module}"):
        read_adapter(tmp_path)
