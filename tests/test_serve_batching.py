"""What waits, what is computed together, what comes back: the queue, the engine and the workers, without HTTP."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi")

from leantune.errors import CheckpointError
from leantune.inference.load import load
from leantune.serving.batching import TEXTS_A_TURN, BatchQueue, Waiting, deliver, refuse
from leantune.serving.engine import Engine
from leantune.serving.pool import WorkerPool
from leantune.serving.refusals import Kind, RefusalError
from leantune.serving.worker import WorkerSettings
from tiny import WORDS


def waiting(loop, lengths, *, group="g", number=1, seconds=60.0) -> Waiting:
    return Waiting(
        number=number,
        group=group,
        input_ids=[np.full(length, number, np.int32) for length in lengths],
        second_starts=np.array(lengths, np.int32),
        deadline=time.monotonic() + seconds,
        done=loop.create_future(),
        loop=loop,
    )


@given(
    requests=st.lists(
        st.tuples(st.sampled_from("ab"), st.lists(st.integers(1, 40), min_size=1, max_size=80)),
        min_size=1,
        max_size=12,
    ),
    budget=st.integers(1, 500),
)
@settings(deadline=None, max_examples=60)
def test_every_text_is_in_one_batch_and_every_batch_in_its_budget(requests, budget):
    loop = asyncio.new_event_loop()
    queue = BatchQueue(budget)
    sent = [waiting(loop, lengths, group=group, number=i) for i, (group, lengths) in enumerate(requests)]
    for each in sent:
        queue.put(each)
    while any(each.missing for each in sent):
        batch = queue.take(lambda: 0)
        assert batch is not None
        assert len({each.group for each, _ in batch.texts}) == 1
        rows = batch.rows()
        assert batch.num_tokens == rows.lengths.sum() == len(rows.input_ids)
        assert batch.num_tokens <= budget or len(batch.texts) == 1
        deliver(batch, [np.array([each.number, i], np.float32) for each, i in batch.texts])
    assert queue.sizes() == (0, 0)
    loop.run_until_complete(asyncio.gather(*(each.done for each in sent)))
    for number, each in enumerate(sent):
        assert [row.tolist() for row in each.done.result()] == [
            [number, i] for i in range(len(each.input_ids))
        ]
    loop.close()


def test_a_large_request_lets_a_small_one_pass():
    loop = asyncio.new_event_loop()
    queue = BatchQueue(10 * TEXTS_A_TURN)
    large, small = waiting(loop, [10] * 1000), waiting(loop, [10], number=2)
    queue.put(large)
    queue.put(small)
    batches = [queue.take(lambda: 0) for _ in range(3)]
    assert any(each is small for batch in batches for each, _ in batch.texts)
    loop.close()


def test_a_request_that_is_computed_again_waits_in_one_place():
    """Two workers died with texts of it, of which the others were not taken yet."""
    loop = asyncio.new_event_loop()
    queue = BatchQueue(320)
    one, other = waiting(loop, [10] * 100), waiting(loop, [10], number=2)
    queue.put(one)
    assert queue.take(lambda: 0) is not None
    queue.put_alone([one])
    queue.put_alone([one])
    queue.put(other)
    taken = []
    while one.missing or other.missing:
        batch = queue.take(lambda: 0)
        taken += batch.texts
        deliver(batch, [np.zeros(2, np.float32)] * len(batch.texts))
    assert taken == [*((one, i) for i in range(100)), (other, 0)]
    assert queue.sizes() == (0, 0)
    loop.close()


def test_who_is_gone_or_late_is_not_computed():
    loop = asyncio.new_event_loop()
    queue = BatchQueue(100)
    gone, late, there = waiting(loop, [3]), waiting(loop, [3], seconds=-1.0), waiting(loop, [3], number=9)
    gone.is_gone = True
    for each in (gone, late, there):
        queue.put(each)
    batch = queue.take(lambda: 0)
    assert [each.number for each, _ in batch.texts] == [9]
    with pytest.raises(RefusalError, match="timed out in the queue"):
        loop.run_until_complete(late.done)
    loop.close()


def test_a_worker_that_computes_gets_no_small_batch_ahead():
    loop = asyncio.new_event_loop()
    queue = BatchQueue(10_000)
    queue.put(waiting(loop, [10] * 5))
    answers = iter([1, 0])  # busy first, then idle
    batch = queue.take(lambda: next(answers)) if _wakes(queue) else None
    assert batch is not None
    assert batch.num_tokens == 50
    loop.close()


def _wakes(queue: BatchQueue) -> bool:
    """Have the queue looked at again soon, as when a worker becomes idle."""
    import threading

    threading.Timer(0.1, queue.wake).start()
    return True


def test_a_closed_queue_gives_nothing_and_says_what_waited():
    loop = asyncio.new_event_loop()
    queue = BatchQueue(10)
    one = waiting(loop, [3])
    queue.put(one)
    assert queue.close() == [one]
    assert queue.take(lambda: 0) is None
    refuse([one], RefusalError(Kind.UNHEALTHY, "the server is shutting down"))
    with pytest.raises(RefusalError, match="the server is shutting down"):
        loop.run_until_complete(one.done)
    loop.close()


def test_adapters_beyond_the_memory_come_back_from_disk(run, tmp_path):
    trained = load(run, precision="fp32")
    rows = trained.tokenizer.encode([" ".join(WORDS[:7])])
    expected = trained.logits(rows, 1)[0]
    size = (run / "adapter" / "adapter_model.safetensors").stat().st_size
    engine = Engine(precision="fp32", adapter_memory_bytes=3 * size + 1)
    for number in range(8):
        shutil.copytree(run, tmp_path / str(number))
        engine.open(number, str(tmp_path / str(number)), shares=True)
        assert engine.num_in_memory <= 3
    for number in (0, 5, 0, 7, 3):
        np.testing.assert_allclose(engine.logits(rows, [number])[0], expected, atol=1e-5)
        assert engine.num_in_memory == 3
    both = rows.take([0, 0, 0, 0])
    for found in engine.logits(both, [0, 1, 2, 4]):  # more than there is room for at once
        np.testing.assert_allclose(found, expected, atol=1e-5)
    engine.close(0)
    engine.close(0)
    changed = tmp_path / "6" / "adapter" / "adapter_model.safetensors"
    content = changed.read_bytes()
    changed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="weights have changed since they were loaded; load the adapter again"):
        engine.logits(rows, [6])
    shutil.rmtree(tmp_path / "7")
    with pytest.raises(CheckpointError, match="can no longer be read"):
        engine.logits(rows, [7])
    np.testing.assert_allclose(engine.logits(rows, [3])[0], expected, atol=1e-5)


@pytest.fixture(scope="module")
def pool(run):
    queue = BatchQueue(1000)
    pool = WorkerPool(WorkerSettings(precision="fp32", adapter_memory_bytes=10**9, num_workers=2), 2, queue)
    pool.open(1, str(run), shares=True)
    yield pool
    pool.stop()


def ask(pool, number_of_texts: int, *, seconds: float = 120.0):
    """Logits of some texts of the classifier of ``pool``."""

    async def wait():
        loop = asyncio.get_running_loop()
        group = pool._opened[1].description.group
        one = waiting(loop, [8] * number_of_texts, group=group, seconds=seconds)
        one.input_ids = [np.arange(4, 12, dtype=np.int32)] * number_of_texts
        pool.queue.put(one)
        return await one.done

    return asyncio.run(wait())


def test_a_worker_that_is_killed_is_replaced_and_no_request_is_lost(pool):
    expected = ask(pool, 1)[0]
    for _ in range(3):
        before = pool.num_restarts
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        found = ask(pool, 50)
        assert len(found) == 50
        for row in found:
            np.testing.assert_allclose(row, expected, atol=1e-5)
        assert pool.num_restarts > before


def test_a_request_that_kills_workers_costs_itself_alone(pool):
    """Whatever computes it is killed meanwhile; others in its batch are answered."""
    expected = ask(pool, 1)[0]

    async def both():
        loop = asyncio.get_running_loop()
        group = pool._opened[1].description.group
        poison, good = (waiting(loop, [8] * count, group=group) for count in (400, 5))
        for each in (poison, good):
            each.input_ids = [np.arange(4, 12, dtype=np.int32)] * len(each.input_ids)

        async def kill():
            while not poison.done.done():
                for lane in pool._lanes:
                    first = list(lane._under_way)[:1]
                    if lane._has_started and first and poison in first[0][0].requests:
                        lane.worker.kill()
                await asyncio.sleep(0)

        killer = asyncio.create_task(kill())
        pool.queue.put(poison)
        pool.queue.put(good)
        found = await asyncio.wait_for(good.done, 120)
        (of_poison,) = await asyncio.wait_for(asyncio.gather(poison.done, return_exceptions=True), 120)
        await killer
        return found, of_poison

    found, of_poison = asyncio.run(both())
    assert len(found) == 5
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    if isinstance(of_poison, Exception):  # else it was faster than the killer
        assert isinstance(of_poison, RefusalError)
        assert of_poison.kind is Kind.BACKEND
        assert "two workers died while computing" in str(of_poison)
    np.testing.assert_allclose(ask(pool, 1)[0], expected, atol=1e-5)
