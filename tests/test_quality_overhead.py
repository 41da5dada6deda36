"""The overhead benchmark on a tiny encoder: it measures what it says, and changes nothing by measuring."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are no part of the package

pytest.importorskip("leantune.kernels.native.library", reason="benchmarks compare the kernels")
from benchmarks.overhead.__main__ import markdown_of
from benchmarks.overhead.measure import BATCH_SIZE, contestant, in_turn, measure, rows_needed
from benchmarks.profile.__main__ import markdown_of as profile_markdown_of
from benchmarks.speed.arithmetic import LayerWeights

from leantune.adalora.allocator import RankAllocator
from leantune.system.hardware import describe_hardware, describe_versions, pick_device
from tiny import save_tiny_encoder, write_rows

STEPS = 4


@pytest.fixture
def rows(tmp_path) -> Path:
    return write_rows(tmp_path / "rows.csv", rows_needed(STEPS) + BATCH_SIZE)


def test_measuring_covers_the_run_and_prunes_to_the_plan(rows, tmp_path):
    encoder = save_tiny_encoder(tmp_path / "encoder")
    found = measure(encoder, rows, tmp_path, STEPS)
    before, after = found["pruning"]["trainable"]
    assert before - after == (11 - 8) * 4 * (32 + 32 + 1)
    assert set(found["parts_s"]) == {"orthogonality", "importance", "allocation"}
    kept_before, kept_after = found["pruning"]["bytes_kept_for_backward"]
    assert 0 < kept_after <= kept_before
    result = {
        "date": "2026-01-01",
        "command": "c",
        "hardware": describe_hardware(pick_device()),
        "versions": describe_versions(),
        "models": {"tiny": found},
    }
    assert "| tiny, before to after pruning |" in markdown_of(result)


def test_both_take_their_steps_in_turn_and_only_one_allocates(rows, tmp_path, monkeypatch):
    encoder = save_tiny_encoder(tmp_path / "encoder")
    adaptive, plain = (
        contestant(encoder, rows, tmp_path / name, name, STEPS) for name in ("adalora", "lora")
    )
    due = []
    is_due = RankAllocator.is_due
    monkeypatch.setattr(
        RankAllocator, "is_due", lambda self, step: due.append((self, is_due(self, step))) or due[-1][1]
    )
    mine, theirs = in_turn(adaptive, plain, 3)
    assert len(mine) == len(theirs) == adaptive.state.step == plain.state.step == 3
    assert [tokens for _, tokens in mine] != [tokens for _, tokens in theirs], "other shapes for each"
    assert any(answer for allocator, answer in due if allocator is adaptive.state.allocator)
    assert not any(answer for allocator, answer in due if allocator is plain.state.allocator)


def profiled(model: str, processes: dict) -> dict:
    """A result of the profile, of one model."""
    return {
        "date": "2026-01-31",
        "command": "python -m benchmarks.profile",
        "hardware": {"cpu": "a processor", "gpu": None, "cores": 2},
        "versions": {"torch": "2", "transformers": "5"},
        "rounds": len(processes["native"]),
        "models": {model: processes},
        "weights": {model: asdict(LayerWeights(total=10_000_000, behind_last_attention=1_000_000))},
        "matrix_flops": 2e12,
    }


def test_the_profile_shows_medians_and_the_dearest_operators_of_both_kernels():
    def process(step_s: float, **operators_s: float) -> dict:
        return {"step_s": step_s, "tokens": 1700, "operators_s": operators_s}

    many = {f"small{i}": 1e-4 for i in range(20)}
    text = profile_markdown_of(
        profiled(
            "MiniLM-L6",
            {
                "native": [process(0.09, mm=0.05), process(0.11, mm=0.03)],
                "torch": [process(0.2, mm=0.02, bmm=0.04, **many), process(0.2, mm=0.02, bmm=0.04, **many)],
            },
        )
    )
    assert "| MiniLM-L6 | 1,700 | 100.0 ms | 200.0 ms | 2.00x |" in text
    assert "| `mm` | 40.0 | `bmm` | 40.0 |" in text
    assert "| everything else | 0.8 |" in text  # eight of the twenty small ones


def test_the_profile_says_how_near_a_step_is_to_the_limit():
    processes = {
        "native": [{"step_s": 0.064, "tokens": 1600, "operators_s": {}}],
        "torch": [{"step_s": 0.128, "tokens": 1600, "operators_s": {}}],
    }
    text = profile_markdown_of(profiled("tiny", processes))
    # 25,000 tokens/s times 4 operations a weight: 1.0 of 2 TFLOP/s; left out: a tenth of 49 of 50 tokens
    assert "| native kernels, products in int8 | 64.0 | 500 | 25,000 | 1,000 | 50% | 45% |" in text
    assert "| torch's kernels | 128.0 | 250 | 12,500 | 1,000 | 25% | 23% |" in text
