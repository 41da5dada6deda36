"""Which number type is picked where."""

from __future__ import annotations

import pytest
import torch

from leantune.errors import UsageError
from leantune.hardware import describe_hardware, pick_precision

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(("is_native", "expected"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_that_only_emulates_bf16_computes_in_fp16(monkeypatch, is_native, expected):
    def supports(including_emulation: bool = True) -> bool:
        return including_emulation or is_native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supports)
    assert pick_precision("auto", GPU) == expected


def test_a_cpu_without_native_bf16_computes_in_fp32(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert pick_precision("auto", CPU) == "fp32"
    assert describe_hardware(CPU)["onednn_max_cpu_isa"] == "AVX2"


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(UsageError, match="precision=fp16 needs a GPU"):
        pick_precision("fp16", CPU)
    assert pick_precision("fp32", CPU) == "fp32"
