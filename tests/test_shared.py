"""Several classifiers over one frozen encoder: one copy of its weights, every classifier's own logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import softmax

from leantune.errors import CheckpointError, DataError, UsageError
from leantune.inference.load import load_run
from leantune.inference.multi_adapter import SharedEncoder
from leantune.packing.batch import pack
from leantune.training.run import run_training
from tiny import WORDS, assert_same_logits, quiet, random_tokens, recipe_for, save_tiny_encoder, write_rows

# raised by peft and transformers about themselves
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*rank_pattern keys.*:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors.*:UserWarning"),
]
TOKENS = random_tokens([3, 17, 9, 1])


@pytest.fixture(scope="module")
def five_classes(inputs, tmp_path_factory):
    """A plain LoRA run with five classes on the encoder of ``run``, which has three."""
    folder = tmp_path_factory.mktemp("five")
    write_rows(folder / "train.csv", 240, labels=tuple("vwxyz"), seed=3)
    changes = {"data": str(folder / "train.csv"), "test": None, "method": "lora", "init_rank": None}
    recipe = recipe_for(inputs, folder / "run", **changes, epochs=2, targets="all-linear")
    return run_training(recipe, console=quiet())


@pytest.fixture
def shared(inputs, run, five_classes) -> SharedEncoder:
    encoder = SharedEncoder(str(inputs / "encoder"), precision="fp32")
    encoder.load("three", run)
    encoder.load("five", five_classes)
    return encoder


def batch_for(classifier):
    return pack(TOKENS, np.arange(len(TOKENS)), position_offset=classifier.position_offset)


def test_every_classifier_has_the_logits_of_its_own_merged_model(shared, run, five_classes):
    for name, folder, classes in (("three", run, 3), ("five", five_classes, 5), ("three", run, 3)):
        merged = load_run(folder, precision="fp32").classifier
        batch = batch_for(merged)
        with torch.inference_mode():
            expected = merged(batch)
        found = shared.classify(name, batch)
        assert found.shape == (len(TOKENS), classes)
        assert_same_logits(found, expected)


def test_the_encoders_weights_are_the_same_tensors_in_all_of_them(shared):
    def own_weights(classifier) -> set[int]:
        layers = classifier.adapted_layers()
        weights = {id(p) for n, p in classifier.named_weights().items() if n.startswith("bert.")}
        factors = {id(p) for layer in layers.values() for p in (layer.lora_A, layer.lora_E, layer.lora_B)}
        return weights - factors

    own = own_weights(shared.base)
    for name in shared.names:
        assert own_weights(shared[name].classifier) == own
        assert not shared[name].classifier.trainable()
    three, five = (shared[name].classifier for name in shared.names)
    added = {id(p) for p in five.parameters()} - {id(p) for p in three.parameters()}
    triplets = sum(layer.rank * layer.triplet_parameters for layer in five.adapted_layers().values())
    constant = sum(layer.rank for layer in five.adapted_layers().values())  # E of plain LoRA
    assert sum(p.numel() for p in five.parameters() if id(p) in added) == triplets + constant + 32 * 5 + 5


def test_loading_a_classifier_takes_no_memory_for_the_encoder(shared):
    def bytes_of(classifiers) -> int:
        tensors = {
            t.data_ptr(): t.numel() * t.element_size()
            for classifier in classifiers
            for t in (*classifier.parameters(), *classifier.buffers())
            if t.numel()
        }
        return sum(tensors.values())

    three, five = (shared[name].classifier for name in shared.names)
    encoder = sum(p.numel() * p.element_size() for p in shared.base.parameters())
    added = bytes_of([three, five]) - bytes_of([three])
    assert 0 < added < encoder / 4


def test_a_trained_pooler_is_a_classifiers_own(inputs, run, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_tiny_encoder(tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors")
    kept = {name: t for name, t in weights.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    trained = run_training(recipe_for(inputs, tmp_path / "run", model=str(folder), epochs=2), console=quiet())
    shared = SharedEncoder(str(folder), precision="fp32")
    shared.load("own pooler", trained)
    merged = load_run(trained, precision="fp32").classifier
    batch = batch_for(merged)
    with torch.inference_mode():
        assert_same_logits(shared.classify("own pooler", batch), merged(batch))
    mine = shared["own pooler"].classifier.head.dense.weight
    assert mine is not shared.base.head.dense.weight


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
    with pytest.raises(DataError, match="one text, expected a list of texts"):
        shared.predict_proba("three", "word1")
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
    with pytest.raises(CheckpointError, match="trained on another encoder than"):
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
