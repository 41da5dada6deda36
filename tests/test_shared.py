"""Several classifiers over one frozen encoder: one copy of its weights, every classifier's own logits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.special import softmax

from leantune.adalora.adapter_file import read_adapter
from leantune.data.tokens.tokenization import Encoded
from leantune.errors import CheckpointError, DataError, UsageError
from leantune.inference.load import load, load_run
from leantune.inference.multi_adapter import SharedEncoder
from leantune.training.run import run_training
from tiny import WORDS, assert_same_logits, quiet, random_tokens, recipe_for, save_tiny_encoder, write_rows


@pytest.fixture(scope="module")
def five_classes(inputs, tmp_path_factory):
    """A plain LoRA run with five classes on the encoder of ``run``, which has three."""
    folder = tmp_path_factory.mktemp("five")
    write_rows(folder / "train.csv", 240, labels=tuple("vwxyz"), seed=3)
    changes = {"data": str(folder / "train.csv"), "test": None, "method": "lora", "init_rank": None}
    recipe = recipe_for(inputs, folder / "run", **changes, epochs=2, targets="all-linear")
    return run_training(recipe, console=quiet())


def save_random_adapter(folder: Path, source: Path, *, classes: int, seed: int, targets=None) -> Path:
    """A LoRA adapter by PEFT whose B is not zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=classes)
    heads = (name for name, child in model.named_children() if list(child.parameters()))
    names = [name for name in heads if name != model.base_model_prefix]
    config = LoraConfig(
        task_type="SEQ_CLS", r=2 + seed, target_modules=targets or "all-linear", modules_to_save=names
    )
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture
def shared(inputs, run, five_classes) -> SharedEncoder:
    encoder = SharedEncoder(str(inputs / "encoder"), precision="fp32")
    encoder.load("three", run)
    encoder.load("five", five_classes)
    return encoder


def encoded(lengths: Sequence[int], seed: int = 0) -> Encoded:
    tokens = random_tokens(list(lengths), seed)
    sizes = np.array(lengths, dtype=np.int32)
    return Encoded(tokens, sizes, sizes)


def own_logits(folder, rows: Encoded, precision: str = "fp32") -> np.ndarray:
    return load_run(folder, precision=precision).logits(rows, 64)


def test_every_classifier_has_the_logits_of_its_own_merged_model(shared, run, five_classes):
    rows = encoded([3, 17, 9, 1])
    for name, folder, classes in (("three", run, 3), ("five", five_classes, 5), ("three", run, 3)):
        found = shared[name].logits(rows, 2)
        assert found.shape == (4, classes)
        assert_same_logits(torch.from_numpy(found), torch.from_numpy(own_logits(folder, rows)))


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    chosen=st.lists(st.sampled_from(["three", "five"]), min_size=12, max_size=12),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_texts_of_several_classifiers_in_one_batch(shared, merged_logits, lengths, chosen, seed):
    rows, names = encoded(lengths, seed), chosen[: len(lengths)]
    found = shared.logits(rows, names)
    for i, name in enumerate(names):
        expected = merged_logits(name, rows.take([i]))[0]
        assert_same_logits(torch.from_numpy(found[i]), torch.from_numpy(expected))


@pytest.fixture(scope="module")
def merged_logits(run, five_classes):
    merged = {
        "three": load_run(run, precision="fp32"),
        "five": load_run(five_classes, precision="fp32"),
    }
    return lambda name, rows: merged[name].logits(rows, 64)


@pytest.mark.parametrize("model_type", ["roberta", "modernbert", "distilbert", "mpnet", "electra"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_family_computes_its_adapters_in_one_batch(tmp_path, model_type, precision):
    """Each text alone through a model with its adapter merged, against all of them in one batch."""
    wide = (
        {"dim": 128, "hidden_dim": 192}
        if model_type == "distilbert"
        else {"hidden_size": 128, "intermediate_size": 192}
    )
    source = save_tiny_encoder(tmp_path / "encoder", model_type, **wide if precision == "bf16" else {})
    adapters = [save_random_adapter(tmp_path / f"a{i}", source, classes=i + 2, seed=i) for i in range(3)]
    encoder = SharedEncoder(source, precision=precision)
    for i, folder in enumerate(adapters):
        encoder.load(str(i), folder)
    rows, names = encoded([5, 21, 5, 9, 33, 2, 7]), ["0", "1", "2", "2", "0", "1", "1"]
    found = encoder.logits(rows, names)
    tolerance = 1e-5 if precision == "fp32" else 0.15
    for i, name in enumerate(names):
        expected = load(adapters[int(name)], precision=precision).logits(rows.take([i]), 1)[0]
        assert found[i].shape == (int(name) + 2,)
        np.testing.assert_allclose(found[i], expected, atol=tolerance)


@pytest.mark.needs_kernels
@pytest.mark.parametrize("level", ["amx", "v3"])
def test_what_else_is_in_a_batch_changes_nothing(tmp_path, level):
    source = save_tiny_encoder(tmp_path / "encoder", hidden_size=128, intermediate_size=192)
    adapters = [save_random_adapter(tmp_path / f"a{i}", source, classes=3, seed=i) for i in range(4)]
    script = f"""
import numpy as np
from leantune.data.tokens.tokenization import Encoded
from leantune.inference.multi_adapter import SharedEncoder
encoder = SharedEncoder({str(source)!r}, precision="bf16")
for folder in {[str(folder) for folder in adapters]!r}:
    encoder.load(folder[-1], folder)
rng = np.random.default_rng(0)
sizes = rng.integers(1, 90, 40).astype(np.int32)
rows = Encoded([rng.integers(4, 100, n).astype(np.int32) for n in sizes], sizes, sizes)
names = [str(i) for i in rng.integers(0, 4, 40)]
together = encoder.logits(rows, names)
for i, name in enumerate(names):
    alone = encoder.logits(rows.take([i]), [name])[0]
    assert np.abs(alone - together[i]).max() <= {1e-6 if level == "amx" else 0.02}, (i, alone, together[i])
print(encoder.base.encoder.kernels.name)
"""
    environment = os.environ | {"LEANTUNE_KERNELS": level}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("native"), done.stdout


@pytest.mark.parametrize(
    ("model_type", "precision", "targets"),
    [
        ("roberta-prelayernorm", "fp32", ["query", "value"]),
        ("deberta-v2", "fp32", ["query_proj", "value_proj"]),
        ("deberta-v2", "bf16", ["query_proj", "key_proj"]),
    ],
)
def test_an_encoder_that_cannot_mix_adapters_is_shared_too(tmp_path, model_type, precision, targets):
    wide = {"hidden_size": 128, "intermediate_size": 192} if precision == "bf16" else {}
    source = save_tiny_encoder(tmp_path / "encoder", model_type, **wide)
    adapters = [
        save_random_adapter(tmp_path / f"a{i}", source, classes=i + 2, seed=i, targets=targets)
        for i in range(2)
    ]
    encoder = SharedEncoder(source, precision=precision)
    trained = [encoder.load(str(i), folder) for i, folder in enumerate(adapters)]
    rows, names = encoded([5, 21, 5, 9]), ["0", "1", "1", "0"]
    tolerance = 1e-5 if precision == "fp32" else 0.15
    for i, logits in enumerate(encoder.logits(rows, names)):
        expected = load(adapters[int(names[i])], precision=precision).logits(rows.take([i]), 1)[0]
        np.testing.assert_allclose(logits, expected, atol=tolerance)
    weights = [dict(each.classifier.named_weights()) for each in trained]
    same = [name for name in weights[0] if weights[0][name] is weights[1].get(name)]
    assert any("embeddings" in name for name in same)
    made = [list(each.classifier.prepared()) for each in trained]
    assert all(a is b for a, b in zip(*made, strict=True))


def test_loading_a_classifier_takes_little_memory(shared, five_classes):
    five = shared["five"]
    adapter = read_adapter(five_classes / "adapter")
    own = sum(each.numel() for each in adapter.head.values())
    own += sum(triplets.A.numel() + triplets.B.numel() for triplets in adapter.modules.values())
    assert five.attached.num_bytes == 4 * own
    base = {weight.data_ptr() for weight in shared.base.parameters()}
    assert five.attached.head.dense.weight.data_ptr() in base


def test_what_was_removed_is_not_there(shared):
    shared.remove("three")
    assert shared.names == ("five",)
    with pytest.raises(UsageError, match="no classifier 'three' is loaded; there are five"):
        shared.logits(encoded([3]), ["three"])


def test_a_merged_model_is_no_adapter(shared, run):
    with pytest.raises(UsageError, match="a merged model, which does not share the encoder"):
        shared.load("merged", run / "merged")


def test_a_trained_pooler_is_a_classifiers_own(inputs, run, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_tiny_encoder(tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors")
    kept = {name: t for name, t in weights.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    trained = run_training(recipe_for(inputs, tmp_path / "run", model=str(folder), epochs=2), console=quiet())
    shared = SharedEncoder(str(folder), precision="fp32")
    own = shared.load("own pooler", trained)
    rows = encoded([3, 17, 9, 1])
    expected = torch.from_numpy(own_logits(trained, rows))
    assert_same_logits(torch.from_numpy(own.logits(rows, 4)), expected)
    assert own.attached.head.dense.weight is not shared.base.head.dense.weight


def test_texts_get_the_probabilities_of_their_classifier(shared):
    texts = [" ".join(WORDS[:5]), " ".join(WORDS[8:14]), ""]
    for name, classes in (("three", 3), ("five", 5)):
        probabilities = shared.predict_proba(name, texts)
        assert probabilities.shape == (3, classes)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-9)
    assert shared.names == ("three", "five")


def test_bf16_is_close_to_fp32(inputs, run, shared):
    half = SharedEncoder(str(inputs / "encoder"), precision="bf16")
    half.load("three", run)
    texts = [" ".join(WORDS[i : i + 6]) for i in range(0, 30, 3)]
    exact, rough = shared.predict_proba("three", texts), half.predict_proba("three", texts)
    assert np.abs(exact - rough).max() < 0.05


def test_what_is_no_list_of_texts_is_refused(shared):
    one = shared.predict_proba("three", "word1")
    np.testing.assert_array_equal(one, shared.predict_proba("three", ["word1"])[0])
    with pytest.raises(DataError, match=r"text 1 \(counted from 0\) is null, expected a text"):
        shared.predict_proba("three", ["word1", None])
    with pytest.raises(UsageError, match="was trained on single texts: give no pairs"):
        shared.predict_proba("three", ["word1"], ["word2"])


def test_a_classifier_of_pairs_wants_pairs(inputs, tmp_path):
    rows = [f"word{i % 9},word{40 + i % 7},{'ab'[i % 2]}" for i in range(120)]
    (tmp_path / "pairs.csv").write_text("\n".join(["text,other,label", *rows]) + "\n", "utf-8")
    changes = {"data": str(tmp_path / "pairs.csv"), "test": None, "text_pair_column": "other", "epochs": 1}
    run = run_training(recipe_for(inputs, tmp_path / "run", **changes), console=quiet())
    encoder = SharedEncoder(str(inputs / "encoder"), precision="fp32")
    trained = encoder.load("pairs", run)
    texts, others = [WORDS[1], WORDS[2]], [WORDS[41], WORDS[42]]
    expected = softmax(trained.logits(trained.tokenizer.encode(texts, others), 4), axis=1)
    np.testing.assert_allclose(encoder.predict_proba("pairs", texts, others), expected, rtol=1e-5)
    with pytest.raises(UsageError, match="was trained on pairs of texts: give the second texts as pairs"):
        encoder.predict_proba("pairs", texts)
    with pytest.raises(DataError, match="2 texts and 1 second texts"):
        encoder.predict_proba("pairs", texts, others[:1])


@pytest.mark.parametrize("changed", ["", "encoder.layer.1.output.dense.weight"])
def test_a_run_on_another_encoder_is_refused(inputs, run, tmp_path, changed):
    other = save_tiny_encoder(tmp_path / "encoder", "bert", initializer_range=0.5)
    if changed:  # a fine-tuned one: most of its weights are the same
        weights = load_file(inputs / "encoder" / "model.safetensors")
        weights[changed] = weights[changed] * 1.01
        save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="trained on an encoder other than"):
        SharedEncoder(str(other), precision="fp32").load("three", run)


def test_paths_may_be_texts_or_paths(inputs, run):
    encoder = SharedEncoder(inputs / "encoder", precision="fp32")
    encoder.load("three", str(run))
    expected = load_run(run, precision="fp32").predict_proba(["word1 word2"])
    np.testing.assert_allclose(encoder.predict_proba("three", ["word1 word2"]), expected, atol=1e-6)
    assert load_run(str(run)).labels.names == ("a", "b", "c")


def test_a_precision_that_is_none_is_named(inputs, run):
    with pytest.raises(UsageError, match=r"precision must be one of auto, .*bf16.*\. Got 'fp8' instead"):
        SharedEncoder(str(inputs / "encoder"), precision="fp8")
    with pytest.raises(UsageError, match="Got 'fp8' instead"):
        load_run(run, precision="fp8")


def test_a_name_that_is_not_loaded_is_refused_with_those_that_are(shared):
    with pytest.raises(UsageError, match="no classifier 'four' is loaded; there are three, five"):
        shared["four"]
