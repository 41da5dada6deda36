"""Every kernel in C computes what plain torch does, for every instruction set of this machine: for any shape, no rows
and one, and any number of threads; and it writes not a byte beside what it is to write.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("leantune.kernels.native.library")

from kernel_calls import (
    Argument,
    Array,
    Guarded,
    at_odd_place,
    dropout_factors,
    levels_here,
    random_bits,
    run,
)
from leantune.kernels.native.library import Library, load_kernels

pytestmark = pytest.mark.needs_kernels

LEVELS = levels_here()
SIDE, STEP, LANES = 32, 64, 16
ALL_LEVELS = 65536
KEY = (12345, 987654321)

few = settings(max_examples=25, deadline=None)
levels = st.sampled_from(LEVELS)
rows = st.sampled_from([0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 65, 100, 129, 300])
threads = st.integers(1, 8)
kept = st.sampled_from([ALL_LEVELS, 50000, 1])
seeds = st.integers(0, 3)


def library_of(level: str) -> Library:
    found = load_kernels(level).library
    assert found is not None
    return found


def bf16(*shape: int, std: float = 1.0) -> Tensor:
    return (torch.randn(shape) * std).bfloat16()


def near(found: Tensor, expected: Tensor, rtol: float = 2**-7, atol: float = 1e-2) -> None:
    torch.testing.assert_close(found.float(), expected.float(), rtol=rtol, atol=atol)


def alike(found: Tensor, expected: Tensor, share: float, floor: float = 1e-6) -> None:
    """The difference is small against all of it, or below ``floor``: for what is rounded on the way."""
    assert found.isfinite().all()
    limit = share * expected.float().norm() + floor * expected.numel() ** 0.5
    assert (found.float() - expected.float()).norm() <= limit


def same_bits(compute: Callable[[int], list[Tensor]], num_threads: int) -> list[Tensor]:
    """What it computes, which is the same with one thread."""
    found, alone = compute(num_threads), compute(1)
    for one, other in zip(found, alone, strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8)), "threads change the result"
    return found


def mask_of(kept_levels: int) -> Argument:
    return Argument("dropout_mask", kept_levels=kept_levels, key=KEY)


@few
@given(
    level=levels,
    rows=rows,
    width=st.sampled_from([16, 48, 96]),
    biased=st.booleans(),
    num_threads=threads,
    seed=seeds,
)
def test_gelu(level, rows, width, biased, num_threads, seed):
    torch.manual_seed(seed)
    x, bias, grad = at_odd_place(bf16(rows, width)), bf16(width), at_odd_place(bf16(rows, width))

    def compute(count: int) -> list[Tensor]:
        out, grad_x = Guarded((rows, width)), Guarded((rows, width))
        argument = Argument(
            "gelu",
            x=x,
            bias=bias if biased else None,
            num_rows=rows,
            width=width,
            out=out,
            grad_out=grad,
            grad_x=grad_x,
            num_threads=count,
        )
        run(library_of(level), "gelu_forward", argument)
        run(library_of(level), "gelu_backward", argument)
        return [out.check(), grad_x.check()]

    out, grad_x = same_bits(compute, num_threads)
    exact = (x.float() + (bias.float() if biased else 0)).requires_grad_()
    expected = F.gelu(exact)
    near(out, expected, atol=1e-4)
    near(grad_x, torch.autograd.grad(expected, exact, grad.float())[0], atol=1e-3)


@few
@given(level=levels, rows=rows, width=st.sampled_from([16, 48, 384]), num_threads=threads, seed=seeds)
def test_embeddings(level, rows, width, num_threads, seed):
    torch.manual_seed(seed)
    tables = [bf16(size, width) for size in (50, 2, 40)]
    ids = [torch.randint(len(table), (rows,)) for table in tables]
    gamma, beta = bf16(width), bf16(width)

    def compute(count: int) -> list[Tensor]:
        out = Guarded((rows, width))
        names = dict(
            zip(
                ("word_ids", "type_ids", "position_ids", "words", "types", "positions"),
                (*ids, *tables),
                strict=True,
            )
        )
        norm = Argument("norm", gamma=gamma, beta=beta, epsilon=1e-5)
        run(
            library_of(level),
            "embedding_forward",
            Argument("embedding", **names, norm=norm, num_rows=rows, width=width, out=out, num_threads=count),
        )
        return [out.check()]

    (found,) = same_bits(compute, num_threads)
    total = sum(table.float()[each] for table, each in zip(tables, ids, strict=True))
    near(found, F.layer_norm(total, (width,), gamma.float(), beta.float(), 1e-5), atol=0.02)


@few
@given(
    level=levels,
    rows=rows,
    width=st.sampled_from([32, 64, 384]),
    biased=st.booleans(),
    kept=st.sampled_from([ALL_LEVELS, 50000]),
    num_threads=threads,
    seed=seeds,
)
def test_residual_and_norm(level, rows, width, biased, kept, num_threads, seed):
    torch.manual_seed(seed)
    x, other, grad = (at_odd_place(bf16(rows, width)) for _ in range(3))
    bias, gamma, beta = bf16(width), bf16(width), bf16(width)

    def compute(count: int) -> list[Tensor]:
        out, total, grad_x, grad_other = (Guarded((rows, width)) for _ in range(4))
        stats = Guarded((rows, 2), torch.float32)
        norm = Argument("norm", gamma=gamma, beta=beta, epsilon=1e-5)
        argument = Argument(
            "residual",
            x=x,
            residual=other,
            bias=bias if biased else None,
            norm=norm,
            num_rows=rows,
            width=width,
            mask=mask_of(kept),
            out=out,
            sum=total,
            stats=stats,
            grad_out=grad,
            grad_x=grad_x if kept < ALL_LEVELS else grad_other,
            grad_residual=grad_other,
            num_threads=count,
        )
        run(library_of(level), "residual_forward", argument)
        run(library_of(level), "residual_backward", argument)
        grad_x = grad_x if kept < ALL_LEVELS else grad_other
        return [each.check() for each in (out, total, grad_x, grad_other)]

    out, total, grad_x, grad_other = same_bits(compute, num_threads)
    factor = dropout_factors(x.numel(), kept, KEY).view(rows, width)
    near(total, (x.float() + (bias.float() if biased else 0)) * factor + other.float())
    exact = total.float().requires_grad_()
    normed = F.layer_norm(exact, (width,), gamma.float(), beta.float(), 1e-5)
    near(out, normed, atol=0.02)
    (expected,) = torch.autograd.grad(normed, exact, grad.float())
    near(grad_other, expected, atol=0.05)
    near(grad_x, expected * factor, atol=0.07)


def attention_masks(lengths: list[int], num_heads: int, kept_levels: int) -> list[Tensor]:
    """The factors ``(N, L, L)`` of the weights of each text, as `csrc/attention.c` draws them."""
    masks = []
    for text, length in enumerate(lengths):
        of_text = []
        for head in range(num_heads):
            index = np.array([(len(lengths) - 1 - text) * num_heads + head])
            first = int(random_bits(index, KEY)[0])
            key = (first, (first * 0x9E3779B9 + KEY[1]) % 2**32)
            query, place = np.arange(length)[:, None], np.arange(length)[None]
            bits = random_bits(place // 2 * (-(-length // LANES) * LANES) + query, key)
            drawn = np.where(place % 2 == 0, bits & 0xFFFF, bits >> 16)
            of_text.append(np.where(drawn < kept_levels, ALL_LEVELS / kept_levels, 0.0))
        masks.append(torch.from_numpy(np.stack(of_text)).float())
    return masks


def plain_attention(
    qkv: list[Tensor],
    lengths: list[int],
    factors: list[Tensor],
    window: int,
    first: bool,
    bias: Tensor | None,
) -> Tensor:
    """``(T, N, H)`` in fp32; zeros where nothing is computed."""
    q, k, v = qkv
    begin, pieces = 0, []
    for length, factor in zip(lengths, factors, strict=True):
        part = slice(begin, begin + length)
        scores = torch.einsum("qnh,knh->nqk", q[part], k[part]) * q.shape[-1] ** -0.5
        place = torch.arange(length)
        if bias is not None:
            scores = scores + bias[:, place[:, None] - place + bias.shape[1] // 2]
        if window:
            scores = scores.masked_fill((place[:, None] - place).abs() >= window, -torch.inf)
        weights = scores.softmax(-1) * factor
        result = torch.einsum("nqk,knh->qnh", weights, v[part])
        pieces.append(torch.cat([result[:1], torch.zeros_like(result[1:])]) if first else result)
        begin += length
    pieces.append(q[begin:] * 0)
    return torch.cat(pieces)


@settings(max_examples=60, deadline=None)
@given(
    level=levels,
    lengths=st.lists(st.sampled_from([1, 1, 2, 15, 16, 17, 31, 33, 70]), max_size=9).map(sorted),
    heads=st.sampled_from([(1, 32), (2, 64), (3, 32), (1, 96)]),
    layout=st.sampled_from(["side by side", "apart", "wide"]),
    spare=st.sampled_from([0, 3]),
    kept=st.sampled_from([ALL_LEVELS, 55000]),
    window=st.sampled_from([0, 0, 5]),
    first=st.booleans(),
    biased=st.booleans(),
    num_threads=threads,
    seed=seeds,
)
def test_attention(level, lengths, heads, layout, spare, kept, window, first, biased, num_threads, seed):
    torch.manual_seed(seed)
    (num_heads, width), tokens = heads, sum(lengths) + spare
    window = 0 if first else window
    if layout == "side by side":
        qkv = list(bf16(tokens, 3, num_heads, width).unbind(1))
    elif layout == "apart":
        qkv = [at_odd_place(bf16(tokens, num_heads, width)) for _ in range(3)]
    else:
        qkv = [bf16(tokens, num_heads + 1, width + 32)[:, 1:, 32:] for _ in range(3)]
    longest = max(lengths, default=0)
    reach = -(-longest // LANES) * LANES + 16
    bias = torch.randn(num_heads, 2 * reach - 1) if biased else None
    ends = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    grad = bf16(tokens, num_heads, width)
    if first:  # nothing is read of what nobody wants
        wanted = torch.zeros(tokens, dtype=torch.bool)
        wanted[ends[:-1].long()[: len(lengths)]] = True
        grad[~wanted] = 0

    def compute(count: int) -> list[Tensor]:
        out, grads = (
            Guarded((tokens, num_heads, width)),
            [Guarded((tokens, num_heads, width)) for _ in range(3)],
        )
        stats = Guarded((2, num_heads, tokens), torch.float32)
        argument = Argument(
            "attention",
            q=qkv[0],
            k=qkv[1],
            v=qkv[2],
            cu_seqlens=ends,
            num_texts=len(lengths),
            num_heads=num_heads,
            head_width=width,
            num_tokens=tokens,
            longest=longest,
            window=window,
            only_first=first,
            by_distance=bias,
            distances=0 if bias is None else bias.shape[1],
            scaling=width**-0.5,
            kept_levels=kept,
            key=KEY,
            out=out,
            stats=stats,
            grad_out=grad,
            grad_q=grads[0],
            grad_k=grads[1],
            grad_v=grads[2],
            grad_stride=num_heads * width,
            num_threads=count,
        )
        for name, each in zip(("q_strides", "k_strides", "v_strides"), qkv, strict=True):
            argument[name] = each.stride()[:2]
        run(library_of(level), "attention_forward", argument)
        run(library_of(level), "attention_backward", argument)
        stats.check()
        return [out.check(), *(each.check() for each in grads)]

    out, *grads = same_bits(compute, num_threads)
    exact = [each.float().requires_grad_() for each in qkv]
    expected = plain_attention(exact, lengths, attention_masks(lengths, num_heads, kept), window, first, bias)
    near(out, expected, rtol=0.03, atol=0.03)
    if tokens:
        wanted_grads = torch.autograd.grad(
            expected, exact, grad.float(), allow_unused=True, materialize_grads=True
        )
        for found, each in zip(grads, wanted_grads, strict=True):
            alike(found, each, 0.02, floor=2e-2)


@few
@given(
    level=levels,
    rows=rows,
    width=st.sampled_from([32, 96, 544]),
    columns=st.sampled_from([32, 800]),
    kind=st.sampled_from(["alone", "norm", "block"]),
    num_threads=threads,
    seed=seeds,
)
def test_dense_layers(level, rows, width, columns, kind, num_threads, seed):
    torch.manual_seed(seed)
    library, x = library_of(level), at_odd_place(bf16(rows, width))

    def layer(out: int, inner: int) -> tuple[Tensor, Tensor, Argument]:
        weight, bias, panels = bf16(out, inner, std=inner**-0.5), bf16(out), Guarded((out * inner,))
        run(
            library,
            "lay_out_weight",
            Argument("dense_weight", w=weight, F=out, D=inner, panels=panels, num_threads=num_threads),
        )
        panels.check()
        return (
            weight.float(),
            bias.float(),
            Argument("dense_layer", panels=panels, bias=bias, rows=out, width=inner),
        )

    out_width = width if kind == "block" else columns
    before, last = layer(columns, width), layer(out_width, columns if kind == "block" else width)
    residual, gamma, beta = at_odd_place(bf16(rows, out_width)), bf16(out_width), bf16(out_width)

    def compute(count: int) -> list[Tensor]:
        out = Guarded((rows, out_width))
        argument = Argument(
            "dense",
            x=x,
            T=rows,
            last=last[2],
            out=out,
            num_threads=count,
            norm=Argument("norm", gamma=gamma, beta=beta, epsilon=1e-5),
        )
        if kind == "block":
            argument["before"] = before[2]
        if kind != "alone":
            argument["residual"] = residual
        run(library, "dense_forward", argument)
        return [out.check()]

    (found,) = same_bits(compute, num_threads)
    inner = F.gelu(F.linear(x.float(), before[0], before[1])) if kind == "block" else x.float()
    expected = F.linear(inner, last[0], last[1])
    if kind != "alone":
        expected = F.layer_norm(expected + residual.float(), (out_width,), gamma.float(), beta.float(), 1e-5)
    near(found, expected, rtol=0.03, atol=0.05)


def rounded(x: Tensor) -> Tensor:
    """Rows of whole numbers from -127 to 127 times their scale, in float64."""
    greatest = x.float().abs().amax(1, keepdim=True)
    rate = torch.where(greatest > 0, 127 / greatest, torch.zeros_like(greatest))
    return (x.double() * rate.double()).round() * (greatest / 127).double()


def matrix_of(library: Library, weight: Tensor, num_threads: int) -> Argument:
    count, width = weight.shape
    panels = Guarded((-(-count // SIDE) * SIDE * -(-width // STEP) * STEP,), torch.uint8)
    scales = Guarded((count,), torch.float32)
    run(
        library,
        "round_weight",
        Argument(
            "int8_weight", w=weight, F=count, D=width, panels=panels, scales=scales, num_threads=num_threads
        ),
    )
    panels.check(), scales.check()
    return Argument("matrix", panels=panels, scales=scales, rows=count, width=width)


def in_rows(blocks: Tensor, count: int, width: int) -> Tensor:
    """``(rows / 32, columns / 32, 32, 32)`` as ``(count, width)``."""
    down, across = blocks.shape[:2]
    return blocks.transpose(1, 2).reshape(down * SIDE, across * SIDE)[:count, :width]


@few
@given(
    level=levels,
    rows=rows,
    widths=st.sampled_from([(16, 48), (208, 112), (384, 96)]),
    biased=st.booleans(),
    adds=st.booleans(),
    rank=st.sampled_from([0, 32, 64]),
    num_threads=threads,
    seed=seeds,
)
def test_product_in_int8(level, rows, widths, biased, adds, rank, num_threads, seed):
    torch.manual_seed(seed)
    library, (width, columns) = library_of(level), widths
    x, weight, bias, onto = (
        at_odd_place(bf16(rows, width)),
        bf16(columns, width),
        bf16(columns),
        bf16(rows, columns),
    )
    low, up = bf16(-(-rows // SIDE) * SIDE, rank), bf16(columns, rank)

    def compute(count: int) -> list[Tensor]:
        out = Guarded((rows, columns), content=onto)
        argument = Argument(
            "product",
            x=x,
            T=rows,
            last=matrix_of(library, weight, count),
            bias=bias if biased else None,
            out=out,
            adds=adds,
            num_threads=count,
        )
        if rank:
            argument["low"], argument["up"], argument["R"] = low, up, rank
        run(library, "multiply_quantized", argument)
        return [out.check()]

    (found,) = same_bits(compute, num_threads)
    expected = rounded(x) @ rounded(weight).t() if rows else torch.zeros(0, columns)
    expected = expected + (bias.double() if biased else 0) + (onto.double() if adds else 0)
    if rank:
        expected = expected + low[:rows].double() @ up.double().t()
    near(found, expected, atol=0.25)  # a tie may be rounded the other way


@few
@given(
    level=levels, rows=rows, widths=st.sampled_from([(16, 48), (96, 224)]), num_threads=threads, seed=seeds
)
def test_feed_forward_block_in_int8(level, rows, widths, num_threads, seed):
    torch.manual_seed(seed)
    library, (width, inner) = library_of(level), widths
    x, bias, grad = at_odd_place(bf16(rows, width)), bf16(inner), bf16(rows, width)
    first, last = bf16(inner, width, std=width**-0.5), bf16(width, inner, std=inner**-0.5)

    def compute(count: int) -> list[Tensor]:
        matrices = [
            matrix_of(library, each.contiguous(), count) for each in (first, last, last.t(), first.t())
        ]
        before = Guarded((-(-rows // SIDE), -(-inner // SIDE), SIDE, SIDE))
        out, grad_x = Guarded((rows, width)), Guarded((rows, width))
        forward = Argument(
            "product",
            x=x,
            T=rows,
            first=matrices[0],
            gelu_bias=bias,
            pre_gelu=before,
            last=matrices[1],
            out=out,
            num_threads=count,
        )
        run(library, "multiply_quantized", forward)
        back = Argument(
            "product",
            x=grad,
            T=rows,
            first=matrices[2],
            gelu_bias=bias,
            pre_gelu=before,
            takes_slope=1,
            last=matrices[3],
            out=grad_x,
            num_threads=count,
        )
        run(library, "multiply_quantized", back)
        return [out.check(), grad_x.check(), in_rows(before.check(), rows, inner).contiguous()]

    out, grad_x, before = same_bits(compute, num_threads)
    exact = x.float().requires_grad_()
    product = F.linear(exact, first.float())
    expected = F.linear(F.gelu(product + bias.float()), last.float())
    alike(before, product, 0.02)
    alike(out, expected, 0.03)
    alike(grad_x, torch.autograd.grad(expected, exact, grad.float())[0], 0.03)


class Adapters:
    """Projections of one input, of which some have an update, as the kernels take them."""

    def __init__(self, width: int, sizes: list[int], ranks: list[int]) -> None:
        self.width, self.sizes, self.ranks = width, sizes, ranks
        self.factors = [
            (torch.randn(r, width) * width**-0.5, torch.randn(r), torch.randn(size, r) * 0.3)
            for size, r in zip(sizes, ranks, strict=True)
        ]
        self.biases = [bf16(size) for size in sizes]
        self.R = -(-(sum(ranks) + 1) // 32) * 32
        self.F, self.scaling = sum(sizes), 0.5

    def described(self, grads: list[list[Guarded]] | None = None) -> Array:
        each, column, first = [], 0, 0
        for number, (size, rank, (A, E, B)) in enumerate(
            zip(self.sizes, self.ranks, self.factors, strict=True)
        ):
            one = Argument(
                "projection", bias=self.biases[number], columns=size, rank=rank, column=column, first=first
            )
            if rank:
                one["A"], one["E"], one["B"], one["scaling"] = A, E, B, self.scaling
                if grads is not None:
                    one["grad_A"], one["grad_E"], one["grad_B"] = grads[number]
            each.append(one)
            column, first = column + size, first + rank
        return Array(each)

    def memory(self) -> list[list[Guarded]]:
        return [[Guarded(tuple(factor.shape), torch.float32) for factor in three] for three in self.factors]

    def update(self, x: Tensor, factors: list[tuple[Tensor, ...]], number: int) -> Tensor:
        A, E, B = factors[number]
        return self.scaling * (x @ (A * E[:, None]).t()) @ B.t()

    def learning(self) -> list[tuple[Tensor, ...]]:
        return [tuple(factor.clone().requires_grad_() for factor in three) for three in self.factors]


adapters = st.sampled_from(
    [
        (32, [32], [3]),
        (64, [32, 64, 32], [4, 0, 17]),
        (96, [96, 96, 96], [16, 16, 16]),
        (32, [32, 32], [0, 40]),
    ]
)


@few
@given(
    level=levels,
    rows=rows,
    shapes=adapters,
    kept=st.sampled_from([ALL_LEVELS, 50000]),
    wants_x=st.booleans(),
    num_threads=threads,
    seed=seeds,
)
def test_adapters(level, rows, shapes, kept, wants_x, num_threads, seed):
    torch.manual_seed(seed)
    library, a = library_of(level), Adapters(*shapes)
    x, grad, base_grad = at_odd_place(bf16(rows, a.width)), bf16(rows, a.F), bf16(rows, a.width)
    padded = -(-rows // SIDE) * SIDE

    def compute(count: int) -> list[Tensor]:
        A, B = Guarded((a.R, a.width)), Guarded((a.F, a.R))
        dropped, low = Guarded((rows, a.width)), Guarded((padded, a.R))
        common = {
            "num_projections": len(a.sizes),
            "T": rows,
            "D": a.width,
            "F": a.F,
            "R": a.R,
            "A": A,
            "B": B,
            "mask": mask_of(kept),
            "num_threads": count,
        }
        drops = dropped if kept < ALL_LEVELS else None
        run(
            library,
            "adapter_down",
            Argument("adapter_forward", x=x, projections=a.described(), dropped=drops, low=low, **common),
        )
        grad_x, grads = Guarded((rows, a.width), content=base_grad), a.memory()
        seen = dropped if kept < ALL_LEVELS else x
        run(
            library,
            "adapter_up",
            Argument(
                "adapter_backward",
                grad=grad,
                dropped=seen,
                low=low,
                projections=a.described(grads),
                grad_x=grad_x if wants_x else None,
                **common,
            ),
        )
        checked = [each.check() for three in grads for each in three]
        return [
            low.check()[:rows].contiguous(),
            B.check(),
            grad_x.check(),
            *(each for each in checked if each.numel()),
        ]

    low, B, grad_x, *grads = same_bits(compute, num_threads)
    exact = x.float().requires_grad_()
    factors = a.learning()
    seen = exact * dropout_factors(x.numel(), kept, KEY).view(x.shape)
    updates = [a.update(seen, factors, number) + a.biases[number].float() for number in range(len(a.sizes))]
    expected = torch.cat(updates, 1)
    near(low.float() @ B.float().t(), expected, rtol=0.05, atol=0.1)
    if not rows:
        assert all((each == 0).all() for each in grads)
        return
    learns = [factor for three in factors for factor in three if factor.numel()]
    wanted = torch.autograd.grad(expected, [exact, *learns], grad.float())
    for found, each in zip(grads, wanted[1:], strict=True):
        alike(found, each, 0.03)
    alike(grad_x, base_grad.float() + (wanted[0] if wants_x else 0), 0.02)


@settings(max_examples=30, deadline=None)
@given(
    level=levels,
    lengths=st.lists(st.sampled_from([1, 2, 16, 31, 70]), max_size=6).map(sorted),
    ranks=st.sampled_from([[4, 0, 17], [0, 0, 0], [16, 16, 16]]),
    num_layers=st.integers(1, 2),
    spare=st.sampled_from([0, 3]),
    first=st.booleans(),
    drops=st.booleans(),
    num_threads=threads,
    seed=seeds,
)
def test_layers_in_int8(level, lengths, ranks, num_layers, spare, first, drops, num_threads, seed):
    torch.manual_seed(seed)
    library, D, inner, width = library_of(level), 64, 96, 32
    tokens, kept = sum(lengths) + spare, 55000 if drops else ALL_LEVELS
    counts = [tokens] * (num_layers - 1) + [len(lengths) if first else tokens]
    ends = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    shapes = {"qkv": (3 * D, D), "out_proj": (D, D), "up_proj": (inner, D), "down_proj": (D, inner)}
    weights = [
        {name: bf16(*shape, std=shape[1] ** -0.5) for name, shape in shapes.items()}
        for _ in range(num_layers)
    ]
    adapters = [Adapters(D, [D] * 3, ranks) for _ in range(num_layers)]
    norms = [[bf16(D) for _ in range(6)] for _ in range(num_layers)]
    gelu_biases = [bf16(inner) for _ in range(num_layers)]
    x, grad = at_odd_place(bf16(tokens, D)), bf16(counts[-1], D)
    if not first:
        grad[sum(lengths) :] = 0

    def compute(count: int) -> list[Tensor]:
        outputs, stack, memories = [Guarded((tokens, D), content=x)], [], []
        for number in range(num_layers):
            a, n, is_first = adapters[number], norms[number], first and number == num_layers - 1
            outputs.append(Guarded((counts[number], D)))
            grads, grad_x = a.memory(), Guarded((tokens, D))
            memories.append((grads, grad_x))
            down = Argument(
                "adapter_forward",
                x=outputs[-2],
                projections=a.described(),
                num_projections=3,
                T=tokens,
                D=D,
                F=3 * D,
                R=a.R,
                mask=mask_of(kept),
                num_threads=count,
            )
            heads = Argument(
                "attention",
                cu_seqlens=ends,
                num_texts=len(lengths),
                num_heads=D // width,
                head_width=width,
                num_tokens=tokens,
                longest=max(lengths, default=0),
                only_first=is_first,
                scaling=width**-0.5,
                kept_levels=kept,
                key=KEY,
                num_threads=count,
            )
            residuals = [
                Argument(
                    "residual",
                    bias=bias,
                    norm=Argument("norm", gamma=gamma, beta=beta, epsilon=1e-5),
                    num_rows=counts[number],
                    width=D,
                    mask=mask_of(kept),
                    num_threads=count,
                )
                for bias, gamma, beta in (n[:3], n[3:])
            ]
            residuals[1]["out"] = outputs[-1]
            layer = Argument(
                "layer",
                down=down,
                heads=heads,
                norm=residuals[0],
                last_norm=residuals[1],
                gelu_bias=gelu_biases[number],
                gradients=a.described(grads),
                grad_x=grad_x,
                wants_x=1,
            )
            for name, weight in weights[number].items():
                layer[name] = matrix_of(library, weight, count)
                layer[f"{name}_back"] = matrix_of(library, weight.t().contiguous(), count)
            run(library, "layer_measure", layer)
            layer["kept"] = Guarded((layer.number("kept_bytes"),), torch.uint8)
            stack.append(layer)
        for number, layer in enumerate(stack):
            layer["grad_out"] = grad if number == num_layers - 1 else memories[number + 1][1]
        run(
            library,
            "layers_forward",
            Argument("stack", layers=Array(stack, of_addresses=True), num_layers=num_layers),
        )
        run(
            library,
            "layers_backward",
            Argument("stack", layers=Array(stack, of_addresses=True), num_layers=num_layers),
        )
        learnt = [
            each.check() for grads, _ in memories for three in grads for each in three if each.tensor.numel()
        ]
        end = sum(lengths)
        wanted = outputs[-1].check() if first else outputs[-1].check()[:end]
        return [wanted.contiguous(), memories[0][1].check()[:end].contiguous(), *learnt]

    found = same_bits(compute, num_threads)
    if not lengths or drops:  # what dropout leaves is compared part by part above
        assert all(each.isfinite().all() for each in found)
        return
    exact = x.float().requires_grad_()
    hidden, learns = exact, []
    for number in range(num_layers):
        a, n, w = (
            adapters[number],
            norms[number],
            {name: each.float() for name, each in weights[number].items()},
        )
        factors = a.learning()
        learns += [factor for three in factors for factor in three if factor.numel()]
        updates = [a.update(hidden, factors, i) + a.biases[i].float() for i in range(3)]
        qkv = [
            each.view(tokens, -1, width)
            for each in (F.linear(hidden, w["qkv"]) + torch.cat(updates, 1)).split(D, 1)
        ]
        heads = plain_attention(
            qkv, lengths, attention_masks(lengths, D // width, kept), 0, False, None
        ).flatten(1)
        if first and number == num_layers - 1:
            heads, hidden = heads[ends[:-1].long()], hidden[ends[:-1].long()]
        bias, gamma, beta, last_bias, last_gamma, last_beta = (each.float() for each in n)
        hidden = F.layer_norm(F.linear(heads, w["out_proj"], bias) + hidden, (D,), gamma, beta, 1e-5)
        block = F.linear(
            F.gelu(F.linear(hidden, w["up_proj"], gelu_biases[number].float())), w["down_proj"], last_bias
        )
        hidden = F.layer_norm(block + hidden, (D,), last_gamma, last_beta, 1e-5)
    wanted = torch.autograd.grad(hidden, [exact, *learns], grad.float())
    end = sum(lengths)
    alike(found[0], hidden if first else hidden[:end], 0.05)
    alike(found[1], wanted[0][:end], 0.1)
    if learns:  # those of query and key are small, and rounded twice on the way
        alike(
            torch.cat([each.flatten() for each in found[2:]]),
            torch.cat([each.flatten() for each in wanted[1:]]),
            0.3,
        )
