"""Decoders that classify by the last token, and encoders made from them: equal to transformers in every form."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leantune.model.encoder import reversed_texts
from leantune.model.families import family_of
from leantune.packing.batch import pack
from leantune.packing.positions import KeptFrequencies, Rotary
from test_packing import LENGTHS, packed_forward, packed_logits, padded_forward
from tiny import classifier_from, random_tokens, tiny_config, tiny_model

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
GEMMA_LAYERS = ["sliding_attention", "full_attention"]
FORMS = {
    "llama": ("llama", {}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, own heads": ("llama", {"num_key_value_heads": 4, "head_dim": 12}),
    "llama 3": ("llama", {"rope_parameters": LLAMA3}),
    "llama, linear": ("llama", {"rope_parameters": LINEAR}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, window": ("mistral", {"sliding_window": 5}),
    "qwen2": ("qwen2", {}),
    "qwen2, windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("qwen3", {}),
    "qwen3, windows": ("qwen3", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4}),
    "gemma3": ("gemma3_text", {"sliding_window": 6, "layer_types": GEMMA_LAYERS}),
    "gemma3, scores scaled": ("gemma3_text", {"query_pre_attn_scalar": 7, "num_hidden_layers": 7}),
    "gemma3, both directions": (
        "gemma3_text",
        {"use_bidirectional_attention": True, "sliding_window": 6, "layer_types": GEMMA_LAYERS},
    ),
    "eurobert, first token": ("eurobert", {"classifier_pooling": "bos"}),
    "eurobert, mean": ("eurobert", {"classifier_pooling": "mean"}),
    "eurobert": ("eurobert", {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_transformers_in_logits_and_gradients(form):
    model_type, changes = FORMS[form]
    model = tiny_model(model_type, **changes)
    tokens = random_tokens([*LENGTHS, 50])
    classifier = classifier_from(copy.deepcopy(model)).eval()
    assert classifier.is_packed
    batch = pack(tokens, np.arange(len(tokens)), position_offset=classifier.position_offset)
    expected, found = padded_forward(model, tokens), packed_forward(classifier, batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed_logits(classifier, batch), expected, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    grads = {name: p.grad for name, p in classifier.named_weights().items()}
    assert grads.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("form", ["llama", "mistral, window", "qwen3", "gemma3", "eurobert"])
def test_the_config_on_disk_says_the_same_as_that_of_transformers(form, tmp_path):
    """Runs read ``config.json`` without transformers."""
    model_type, changes = FORMS[form]
    config = tiny_config(model_type, **changes)
    config.save_pretrained(tmp_path)
    on_disk = json.loads((tmp_path / "config.json").read_text("utf-8"))
    family = family_of(on_disk)
    assert family.encoder_config(on_disk) == family.encoder_config(config.to_dict())


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        ),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}),
        ("qwen2", {"layer_types": ["full_attention", "chunked_attention"]}),
    ],
)
def test_other_forms_run_in_transformers(model_type, changes):
    assert family_of(tiny_config(model_type, **changes).to_dict()) is None


def test_an_older_config_has_the_rotary_base_beside_its_scaling():
    old = {
        "model_type": "llama",
        "rope_theta": 5e5,
        "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"},
    }
    layer = family_of(old).encoder_config(old).layers[0]
    assert layer.rotary == Rotary(5e5, 8.0, KeptFrequencies(low=1.0, high=4.0, length=16))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_each_text_is_reversed_in_its_place(lengths):
    tokens = [np.arange(length, dtype=np.int32) + 10 * length for length in lengths]
    batch = pack(tokens, np.arange(len(tokens)))
    backwards = batch.input_ids[reversed_texts(batch)]
    starts = batch.cu_seqlens.tolist()
    for start, stop in itertools.pairwise(starts):
        assert backwards[start:stop].tolist() == batch.input_ids[start:stop].flip(0).tolist()


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_what_follows_a_token_of_a_decoder_does_not_change_it(model_type):
    """The last token of a prefix has the state that it has in the whole text."""
    model = tiny_model(model_type)
    classifier = classifier_from(model).eval()
    (text,) = random_tokens([30])
    hidden = classifier.encoder(pack([text], np.arange(1)), only_first=False)
    for length in (1, 7, 30):
        own = classifier.encoder(pack([text[:length]], np.arange(1)), only_first=True)
        torch.testing.assert_close(own[0], hidden[30 - length], atol=1e-5, rtol=1e-5)
