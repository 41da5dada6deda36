"""Functions for runs in several processes, started by torchrun or Ray.

An example is ``torchrun --nproc-per-node 2 -m leantune train ...``. Every process has the whole model. Gradients of its
small trainable part are summed in one flat buffer, so that all processes take bit-identical steps. The only state is
that of torch.distributed; without it, every function behaves as in a single process.
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
    """Join the process group if torchrun started this process, and leave it when the block ends without an error.

    A process that is already in a group stays in it; the code that made the group ends it.

    Raises:
        DistributedError: the processes cannot find each other, or there are more processes than GPUs.
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
    # Not after an error: NCCL would wait for the other processes, which wait for this one, and hide the error.
    dist.destroy_process_group()


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the main process, which writes files and prints."""
    return rank() == 0


def sum_gradients(grads: Sequence[Tensor]) -> None:
    """Replace every gradient by its sum over all processes, in place."""
    if world_size() == 1:
        return
    _in_one_buffer(grads, dist.all_reduce)


def take_from_main(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor by the main process's tensor, in place."""
    if world_size() > 1:
        _in_one_buffer(tensors, partial(dist.broadcast, src=0))


def _in_one_buffer(tensors: Sequence[Tensor], exchange: Callable[[Tensor], object]) -> None:
    """Apply ``exchange`` to all tensors at once in a flat buffer; all must have the same dtype."""
    assert len({tensor.dtype for tensor in tensors}) == 1, "a buffer of several types would round some"
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    exchange(flat)
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))


def sum_numbers(*numbers: float) -> list[float]:
    """Return each number summed over all processes."""
    if world_size() == 1:
        return list(numbers)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.tolist()


def gather(value: T) -> list[T]:
    """Return the values of all processes by rank, on every process."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_tensors(own: Tensor) -> list[Tensor]:
    """Return the tensors of all processes by rank, on every process; all must have the same shape and dtype."""
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
    """Check that ``value`` is the same in all processes.

    Raises:
        DistributedError: the values differ; the message lists them.
    """
    values = gather(value)
    if any(each != values[0] for each in values):
        raise DistributedError(
            f"{what} differs between the processes: {', '.join(f'rank {i}: {v}' for i, v in enumerate(values))}"
        )
