"""Several processes on one run, started by torchrun (``torchrun --nproc-per-node 2 -m leantune train ...``) or by Ray.

Every process holds the whole model, whose trainable part is small; gradients are summed in one flat
buffer, so that all processes take the same step bit for bit. torch.distributed is the only state:
without it every function here is that of a single process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from leantune.errors import DistributedError
from leantune.system.environment import whole_number

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if it did; leave them at the end, if it comes without an error.

    A process that is in a group already stays in it: who made the group ends it.

    Raises:
        DistributedError: if the processes cannot find each other, or there are more than GPUs.
    """
    if dist.is_initialized() or (whole_number("WORLD_SIZE") or 1) == 1:
        yield
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    device = None
    if backend == "nccl":
        local, count = whole_number("LOCAL_RANK") or 0, torch.cuda.device_count()
        if local >= count:
            raise DistributedError(
                f"more processes on this machine than its {count} GPU(s): start one a GPU (--nproc-per-node {count})"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=10), device_id=device)
    except (RuntimeError, ValueError) as error:
        raise DistributedError(f"the processes cannot find each other: {error}") from error
    yield
    # not after an error: with NCCL this would wait for the others, which wait for this one, and hide what is wrong
    dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes and speaks."""
    return rank() == 0


def sum_gradients(grads: Sequence[Tensor]) -> None:
    """Replace every gradient by its sum over all processes, in place."""
    if world_size() == 1:
        return
    _in_one_buffer(grads, dist.all_reduce)


def take_from_main(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor by that of the first process, in place."""
    if world_size() > 1:
        _in_one_buffer(tensors, partial(dist.broadcast, src=0))


def _in_one_buffer(tensors: Sequence[Tensor], exchange: Callable[[Tensor], object]) -> None:
    """Let ``exchange`` change all tensors, of one type, at once, whatever their strides."""
    assert len({tensor.dtype for tensor in tensors}) == 1, "a buffer of several types would round some"
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    exchange(flat)
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))


def sum_numbers(*numbers: float) -> list[float]:
    """Each number summed over all processes."""
    if world_size() == 1:
        return list(numbers)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.tolist()


def gather(value: T) -> list[T]:
    """The value of every process, by rank, on every process."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_tensors(own: Tensor) -> list[Tensor]:
    """The tensor of every process, by rank, on every process; all have the same shape and type."""
    if world_size() == 1:
        return [own]
    tensors = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(tensors, own)
    return tensors


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def check_agreement(what: str, value: object) -> None:
    """Fail if ``value`` is not the same in all processes.

    Raises:
        DistributedError: naming what differs.
    """
    values = gather(value)
    if any(each != values[0] for each in values):
        raise DistributedError(
            f"{what} differs between the processes: {', '.join(f'rank {i}: {v}' for i, v in enumerate(values))}"
        )
