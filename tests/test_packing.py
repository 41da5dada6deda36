"""Packed batches compute what the untouched transformers model computes on padded ones."""

from __future__ import annotations

import copy
import itertools
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

import leantune.packing.dropout as dropout_module
from layers import layout_of
from leantune.kernels import accelerator
from leantune.kernels.accelerator import padded_sdpa, varlen_attention
from leantune.kernels.grouped import grouped_attention
from leantune.model.classifier import Classifier
from leantune.model.families import family_of
from leantune.model.pretrained import with_dropout
from leantune.packing.batch import PackedBatch, pack
from leantune.packing.dropout import DropoutStream, PooledDropout, kept_value
from leantune.packing.layout import (
    BLOCK_OVERHEAD,
    BLOCK_TEXTS,
    LENGTH_MULTIPLE,
    WHOLE_TEXT,
    Layout,
    Window,
    block_width,
    group_by_length,
)
from leantune.packing.positions import DistanceBias, log_bucket
from tiny import classifier_from, random_tokens, tiny_config, tiny_model

PACKED = [
    "roberta",
    "xlm-roberta",
    "camembert",
    "bert",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "deberta-v2",
]
PADDED = ["roberta-prelayernorm", "albert"]
LENGTHS = [7, 1, 19, 19, 3, 30, 12]


def padded_logits(model, token_lists, second_starts=None) -> torch.Tensor:
    with torch.no_grad():
        return padded_forward(model, token_lists, second_starts)


def padded_forward(model, token_lists, second_starts=None) -> torch.Tensor:
    """What a transformers user computes: right padding and an attention mask."""
    longest = max(len(t) for t in token_lists)
    ids = torch.full((len(token_lists), longest), model.config.pad_token_id)
    mask = torch.zeros_like(ids)
    types = torch.zeros_like(ids)
    for i, tokens in enumerate(token_lists):
        ids[i, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
        mask[i, : len(tokens)] = 1
        if second_starts is not None:
            types[i, second_starts[i] : len(tokens)] = 1
    extra = {"token_type_ids": types} if second_starts is not None else {}
    return model(input_ids=ids, attention_mask=mask, **extra).logits


def packed_logits(classifier: Classifier, batch: PackedBatch) -> torch.Tensor:
    with torch.no_grad():
        return packed_forward(classifier, batch)


def packed_forward(classifier: Classifier, batch: PackedBatch) -> torch.Tensor:
    logits = classifier(batch)
    return torch.empty_like(logits).index_copy(0, batch.rows, logits)


@pytest.mark.parametrize("model_type", PACKED + PADDED)
def test_packed_logits_equal_padded_logits_of_the_untouched_model(model_type):
    model = tiny_model(model_type)
    padding = model.config.pad_token_id  # a text may name it, and transformers then counts other positions
    tokens = [*random_tokens(LENGTHS), np.array([5, padding, 7, padding, padding, 9, 8], np.int32)]
    expected = padded_logits(model, tokens)
    classifier = classifier_from(copy.deepcopy(model)).eval()
    assert classifier.is_packed == (model_type in PACKED)
    batch = pack(tokens, np.arange(len(tokens)), position_offset=classifier.position_offset)
    torch.testing.assert_close(packed_logits(classifier, batch), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_type", PACKED + PADDED)
def test_dropout_of_the_config_can_be_replaced_for_training(model_type):
    own = tiny_model(model_type).config
    tokens = random_tokens(LENGTHS)

    def spread(probability: float | None) -> float:
        model = AutoModelForSequenceClassification.from_config(with_dropout(own, probability))
        classifier = classifier_from(model).train()
        batch = pack(tokens, np.arange(len(tokens)), position_offset=classifier.position_offset)
        return (classifier(batch) - classifier(batch)).abs().max().item()

    assert spread(0.0) == 0.0 < spread(0.5)
    assert with_dropout(own, None).to_dict() == own.to_dict()


@pytest.mark.parametrize("model_type", PADDED)
def test_a_padded_encoder_in_bf16_has_its_head_in_fp32(model_type):
    model = tiny_model(model_type)
    tokens = random_tokens(LENGTHS)
    expected = padded_logits(model, tokens)
    classifier = classifier_from(model).eval()
    classifier.set_encoder_dtype(torch.bfloat16)
    batch = pack(tokens, np.arange(len(tokens)), position_offset=classifier.position_offset)
    torch.testing.assert_close(packed_logits(classifier, batch), expected, atol=0.05, rtol=0.05)


def test_threads_that_share_a_classifier_do_not_meet():
    classifier = classifier_from(tiny_model("bert")).eval()
    batches = [
        pack(random_tokens(lengths, seed), np.arange(len(lengths)))
        for seed, lengths in enumerate([[3, 17, 9, 1], [25, 2, 30, 12]])
    ]
    expected = [packed_logits(classifier, batch) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda i: packed_logits(classifier, batches[i % 2]), range(400)))
    assert all(torch.equal(logits, expected[i % 2]) for i, logits in enumerate(found))


def test_mean_pooling_of_modernbert_packs_too():
    model = tiny_model("modernbert", classifier_pooling="mean")
    tokens = random_tokens(LENGTHS)
    classifier = classifier_from(copy.deepcopy(model)).eval()
    batch = pack(tokens, np.arange(len(tokens)))
    torch.testing.assert_close(
        packed_logits(classifier, batch), padded_logits(model, tokens), atol=1e-5, rtol=0
    )


def test_far_tokens_of_mpnet_keep_what_their_distance_adds():
    """Distances up to 8 have a number each, those above share one by their logarithm, all from 128 on the last."""
    model = tiny_model("mpnet", max_position_embeddings=400)
    with torch.no_grad():
        model.mpnet.encoder.relative_attention_bias.weight.normal_(0, 2)
    tokens = random_tokens([300, 7, 150])
    expected = padded_logits(model, tokens)
    classifier = classifier_from(copy.deepcopy(model)).eval()
    batch = pack(tokens, np.arange(3), position_offset=classifier.position_offset)
    found = packed_logits(classifier, batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    classifier.encoder.distances.weight.data[31] += 1
    assert not torch.allclose(packed_logits(classifier, batch)[[0, 2]], found[[0, 2]], atol=1e-4)


@pytest.mark.parametrize("model_type", PACKED + PADDED)
def test_every_weight_has_the_name_that_transformers_gives_it(model_type):
    model = tiny_model(model_type)
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    found = {name: parameter.shape for name, parameter in classifier_from(model).named_weights().items()}
    assert found == expected


@pytest.mark.parametrize("model_type", ["bert", "electra"])
def test_text_pairs_carry_their_token_types(model_type):
    model = tiny_model(model_type, type_vocab_size=2)
    tokens = random_tokens([9, 5, 14])
    starts = np.array([4, 2, 6], np.int32)
    classifier = classifier_from(copy.deepcopy(model)).eval()
    batch = pack(tokens, np.arange(3), second_starts=starts)
    expected = padded_logits(model, tokens, starts)
    assert not torch.allclose(expected, padded_logits(model, tokens), atol=1e-5)
    torch.testing.assert_close(packed_logits(classifier, batch), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_type", PACKED)
def test_packed_gradients_equal_padded_ones_of_the_untouched_model(model_type):
    model = tiny_model(model_type).eval()
    if model_type == "mpnet":  # what distances add is never trained here
        model.mpnet.encoder.relative_attention_bias.requires_grad_(False)
    tokens = random_tokens(LENGTHS)
    classifier = classifier_from(copy.deepcopy(model)).eval()
    batch = pack(tokens, np.arange(len(tokens)), position_offset=classifier.position_offset)
    weight = torch.randn(len(tokens), model.config.num_labels)
    (padded_forward(model, tokens) * weight).sum().backward()
    (packed_forward(classifier, batch) * weight).sum().backward()
    found = {name: p.grad for name, p in classifier.named_weights().items()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


DEBERTA = {
    "v3": {"share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False},
    "v2-xlarge": {
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
    },
    "token types": {"type_vocab_size": 2},
    "content to position": {"pos_att_type": ["c2p"]},
    "position to content": {"pos_att_type": ["p2c"], "share_att_key": True},
    "content alone": {"pos_att_type": []},
    "no buckets": {"position_buckets": -1, "max_relative_positions": 12},
    "one layer": {"num_hidden_layers": 1, "conv_kernel_size": 5},
}


@pytest.mark.parametrize("form", DEBERTA)
def test_every_form_of_deberta_equals_transformers_in_logits_and_gradients(form):
    """Texts are longer than there are buckets, and than the largest distance with a bucket of its own."""
    model = tiny_model("deberta-v2", **DEBERTA[form])
    tokens = random_tokens([*LENGTHS, 50])
    classifier = classifier_from(copy.deepcopy(model)).eval()
    assert classifier.is_packed
    batch = pack(tokens, np.arange(len(tokens)), position_offset=classifier.position_offset)
    expected, found = padded_forward(model, tokens), packed_forward(classifier, batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(packed_logits(classifier, batch), expected, atol=1e-5, rtol=0)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    grads = {name: p.grad for name, p in classifier.named_weights().items()}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:  # it takes no part in this form
            assert grads[name] is None or not grads[name].any(), name
        else:
            torch.testing.assert_close(grads[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


@settings(deadline=None)  # the first example imports transformers' own
@given(st.integers(1, 400), st.sampled_from([4, 8, 32, 256]), st.integers(130, 512))
def test_log_buckets_are_those_of_transformers(reach, num_buckets, longest):
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distance = torch.arange(-reach, reach + 1)
    expected = make_log_bucket_position(distance, num_buckets, longest).long()
    assert torch.equal(log_bucket(distance, num_buckets, longest), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"relative_attention": False},
        {"attention_head_size": 16},
        {"embedding_size": 16},
        {"conv_kernel_size": 3, "conv_groups": 2},
    ],
)
def test_other_forms_of_deberta_run_in_transformers(changes):
    assert family_of(tiny_config("deberta-v2", **changes).to_dict()) is None


def test_dropout_of_disentangled_attention_changes_scores_and_is_drawn_again_in_the_backward_pass():
    model = tiny_model("deberta-v2", share_att_key=True, hidden_dropout_prob=0.0)
    classifier = classifier_from(model).train()
    tokens = random_tokens(LENGTHS)
    batch = pack(tokens, np.arange(len(tokens)), position_offset=classifier.position_offset)

    def loss(seed: int) -> torch.Tensor:
        classifier.stream.reseed(seed, 0, 0)
        return packed_forward(classifier, batch).square().sum()

    assert not torch.equal(loss(0), loss(1))
    weight = classifier.named_weights()["deberta.encoder.layer.0.attention.self.key_proj.weight"]
    loss(0).backward()
    step, slope = 1e-2 * weight.grad / weight.grad.norm(), weight.grad.norm().item() * 1e-2
    with torch.no_grad():
        weight += step
        above = loss(0).item()
        weight -= 2 * step
        below = loss(0).item()
    assert above - below == pytest.approx(2 * slope, rel=0.02)


@pytest.mark.parametrize("model_type", [*PACKED, "modernbert, mean"])
def test_only_first_tokens_reach_the_end_of_the_encoder_unless_others_are_read(model_type):
    changes = {"classifier_pooling": "mean"} if "mean" in model_type else {}
    classifier = classifier_from(tiny_model(model_type.partition(",")[0], **changes)).eval()
    batch = pack(random_tokens(LENGTHS), np.arange(len(LENGTHS)), position_offset=classifier.position_offset)
    rows = []
    last = classifier.encoder.layers[-1].down_proj
    last.register_forward_hook(lambda module, args, out: rows.append(args[0].shape[-2]))
    packed_logits(classifier, batch)
    assert rows == [128 if changes else len(LENGTHS)]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    window=st.builds(Window, *[st.sampled_from([None, 0, 2, 7])] * 2),
    is_biased=st.booleans(),
    seed=st.integers(0, 5),
)
def test_grouped_attention_and_its_backward_equal_sdpa_text_by_text(lengths, window, is_biased, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = sorted(lengths)
    layout = layout_of(lengths, spare=0)
    if is_biased:
        layout.distance_bias = DistanceBias(torch.randn(2, 2 * 48 - 1, generator=generator))
    qkv = [
        torch.randn(sum(lengths), 2, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(3)
    ]
    weight = torch.randn(sum(lengths), 2, 8, generator=generator, dtype=torch.float64)

    out = attend(qkv, layout, window)
    grads = torch.autograd.grad((out * weight).sum(), qkv)

    pieces = []
    for start, length in zip(layout.cu_seqlens.tolist(), lengths, strict=False):
        place = torch.arange(length)
        ahead = place - place[:, None]
        visible = (-ahead <= (length if window.before is None else window.before)) & (
            ahead <= (length if window.after is None else window.after)
        )
        added = torch.zeros(2, length, length, dtype=torch.float64)
        if is_biased:
            added = layout.distance_bias.by_distance[:, place[:, None] - place + 47].double()
        added = added.masked_fill(~visible, -torch.inf)
        q, k, v = (x[start : start + length].transpose(0, 1) for x in qkv)
        pieces.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=added))
    expected = torch.cat(pieces, dim=1).transpose(0, 1)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(grads, torch.autograd.grad((expected * weight).sum(), qkv))
    with torch.no_grad():
        out = attend(qkv, layout, window)
    torch.testing.assert_close(out, expected)


def attend(qkv: list[torch.Tensor], layout: Layout, window=WHOLE_TEXT, *, only_first=False) -> torch.Tensor:
    return grouped_attention(*qkv, layout, DropoutStream(0), 0.0, window, only_first=only_first)


def test_which_keys_are_hidden_is_found_once_a_batch_and_goes_with_it():
    """With a window it is as large as the scores: kept for longer, memory would grow with every batch."""
    layout = layout_of((20, 30))
    group = layout.groups[0]
    hidden = layout.hidden_keys(group, Window.around(2), torch.float32)
    assert hidden is layout.hidden_keys(group, Window.around(2), torch.float32)
    assert hidden is not layout.hidden_keys(group, WHOLE_TEXT, torch.float32)
    kept = weakref.ref(hidden)
    del hidden, layout
    assert kept() is None


@pytest.mark.parametrize("is_biased", [False, True])
@pytest.mark.parametrize("window", [WHOLE_TEXT, Window.around(2), Window(after=0), Window(before=0, after=3)])
def test_the_accelerator_path_equals_the_grouped_path(window, is_biased):
    layout = layout_of([2, 5, 5, 11], spare=0)
    if is_biased:
        layout.distance_bias = DistanceBias(torch.randn(2, 2 * 16 - 1))
    qkv = [torch.randn(23, 2, 8) for _ in range(3)]
    expected = attend(qkv, layout, window)
    torch.testing.assert_close(varlen_attention(*qkv, layout, 0.0, window), expected)
    torch.testing.assert_close(padded_sdpa(*qkv, layout, 8**-0.5, 0.0, window), expected)


def test_flash_attention_is_asked_for_only_where_it_serves(monkeypatch):
    half = SimpleNamespace(dtype=torch.float16, shape=(9, 2, 64), device=torch.device("cuda", 0))
    capability = [(8, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])
    assert accelerator._is_flash_supported(half)
    capability[0] = (7, 5)  # a T4
    assert not accelerator._is_flash_supported(half)
    capability[0] = (9, 0)
    assert not accelerator._is_flash_supported(SimpleNamespace(**vars(half) | {"dtype": torch.float32}))
    assert not accelerator._is_flash_supported(SimpleNamespace(**vars(half) | {"shape": (9, 2, 12)}))
    assert not accelerator._is_flash_supported(
        SimpleNamespace(**vars(half) | {"device": torch.device("cpu")})
    )


def test_varlen_attention_gets_the_window_and_the_scale_of_the_model(monkeypatch):
    """As on a GPU; the kernel itself is torch's."""
    asked = {}

    def varlen(q, k, v, cu_q, cu_k, max_q, max_k, *, scale, window_size):
        asked.update(cu=cu_q.tolist(), longest=max_q, scale=scale, window=window_size)
        return q

    monkeypatch.setattr("leantune.kernels.accelerator._is_flash_supported", lambda q: True)
    monkeypatch.setattr("leantune.kernels.accelerator._varlen_kernel", lambda: varlen)
    layout, qkv = layout_of([3, 5]), [torch.randn(8, 2, 16) for _ in range(3)]
    for window, expected in ((WHOLE_TEXT, (-1, -1)), (Window.around(3), (3, 3)), (Window(before=0), (0, 5))):
        varlen_attention(*qkv, layout, 0.0, window)
        assert asked == {"cu": [0, 3, 8], "longest": 5, "scale": 0.25, "window": expected}


@pytest.mark.skipif(torch.__version__ < (2, 13), reason="older ones may not have it")
def test_torch_has_the_varlen_attention_that_is_asked_for():
    from torch.nn.attention.varlen import varlen_attn

    assert accelerator._varlen_kernel() is varlen_attn


@given(st.lists(st.integers(1, 300), min_size=1, max_size=64).map(sorted))
def test_groups_hold_every_text_once_in_order(lengths):
    groups = group_by_length(tuple(lengths))
    assert [n for group in groups for n in group.lengths] == lengths


@given(st.lists(st.integers(1, 300), min_size=1, max_size=64).map(sorted))
def test_groups_have_few_shapes(lengths):
    for group in group_by_length(tuple(lengths)):
        assert group.size in BLOCK_TEXTS
        assert group.width % LENGTH_MULTIPLE == 0
        assert group.width - LENGTH_MULTIPLE < group.lengths[-1] <= group.width


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=9).map(sorted))
def test_groups_are_the_cheapest_cut(lengths):
    def cost(sizes):
        ends = list(itertools.accumulate(sizes))
        return sum(
            n * block_width(lengths[end - 1]) ** 2 + BLOCK_OVERHEAD
            for n, end in zip(sizes, ends, strict=True)
        )

    def cuts(count):
        if count == 0:
            yield ()
        for size in BLOCK_TEXTS:
            if size <= count:
                for rest in cuts(count - size):
                    yield (*rest, size)

    chosen = tuple(group.size for group in group_by_length(tuple(lengths)))
    assert cost(chosen) == min(map(cost, cuts(len(lengths))))


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_the_encoder_sees_a_round_number_of_tokens_and_their_surplus_changes_nothing(model_type, monkeypatch):
    model = tiny_model(model_type)
    classifier = classifier_from(copy.deepcopy(model))
    batch = pack(random_tokens(LENGTHS), np.arange(len(LENGTHS)), position_offset=classifier.position_offset)
    seen: list[int] = []
    embeddings = classifier.encoder.embeddings.word
    embeddings.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[0]))

    def logits_and_gradients():
        classifier.zero_grad()
        logits = classifier.eval()(batch)
        logits.square().sum().backward()
        return [logits.detach(), *(p.grad.clone() for p in classifier.parameters() if p.grad is not None)]

    rounded = logits_and_gradients()
    monkeypatch.setattr("leantune.model.encoder.TOKEN_MULTIPLE", 1)
    torch.testing.assert_close(logits_and_gradients(), rounded, atol=1e-5, rtol=1e-4)
    assert seen == [128, 91]


def test_only_first_tokens_of_the_last_attention_are_computed_and_get_gradients():
    layout = layout_of([2, 5, 5, 11], spare=0)
    qkv = [torch.randn(23, 2, 8, dtype=torch.float64).requires_grad_() for _ in range(3)]
    first, weight = layout.first_tokens, torch.randn(4, 2, 8, dtype=torch.float64)
    outs = [attend(qkv, layout, only_first=each)[first] for each in (False, True)]
    torch.testing.assert_close(outs[0], outs[1])
    with torch.no_grad():
        torch.testing.assert_close(attend(qkv, layout, only_first=True)[first], outs[0])
    grads = [torch.autograd.grad((out * weight).sum(), qkv) for out in outs]
    torch.testing.assert_close(grads[0], grads[1])


def test_position_ids_restart_with_every_text():
    batch = pack(random_tokens([3, 2]), np.arange(2), position_offset=2)
    assert batch.position_ids.tolist() == [2, 3, 2, 3, 4]
    assert batch.cu_seqlens.tolist() == [0, 2, 5]
    assert batch.cu_seqlens.dtype == torch.int32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.01, 0.1, 0.15, 0.5])
def test_dropout_keeps_the_share_and_the_mean(p, dtype):
    dropout = PooledDropout(p, DropoutStream(1)).train()
    x = torch.ones(4_000_000, dtype=dtype, requires_grad=True)
    y = dropout(x)
    assert abs((y > 0).double().mean().item() - (1 - p)) < 0.005
    assert abs(y.double().mean().item() - 1) < 0.002
    assert set(y.unique().tolist()) == {0.0, kept_value(p, dtype)}
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())


def test_masks_are_independent_within_and_between_each_other():
    stream = DropoutStream(5)
    masks = [(stream.mask((1000, 384), 0.5, torch.float32) > 0).double() - 0.5 for _ in range(40)]
    for first, second in itertools.pairwise(masks):
        for a, b in ((first, second), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
            assert abs((a * b).mean().item()) * 4 < 5 / a.numel() ** 0.5  # five standard deviations


@pytest.mark.parametrize("rows", [3, 5])
def test_a_mask_larger_than_half_the_pool_is_drawn_for_itself(rows, monkeypatch):
    monkeypatch.setattr(dropout_module, "POOL_SIZE", 1 << 12)
    stream = DropoutStream(0)
    masks = [stream.mask((rows, 1001), 0.25, torch.float32) > 0 for _ in range(2)]
    for mask in masks:
        assert mask.shape == (rows, 1001)
        assert abs(mask.double().mean().item() - 0.75) < 0.03
    # windows of one pool would have the beginning of one in the other
    first, second = (mask.numpy().tobytes() for mask in masks)
    assert first[:100] not in second
    assert second[:100] not in first


def test_dropout_does_nothing_in_evaluation():
    x = torch.randn(10)
    assert PooledDropout(0.5, DropoutStream(0)).eval()(x) is x


def test_dropout_stream_goes_on_from_its_saved_state():
    import json

    stream = DropoutStream(3)
    stream.mask((100,), 0.5, torch.float32)
    saved = json.loads(json.dumps(stream.state()))
    expected = stream.mask((1000,), 0.5, torch.float32)
    other = DropoutStream(99)
    other.load_state(saved)
    assert torch.equal(other.mask((1000,), 0.5, torch.float32), expected)
