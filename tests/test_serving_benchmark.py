"""The benchmark of the server: the peer answers as it should, and the result says what was measured."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import uvicorn

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are no part of the package

from benchmarks.peer.pipeline_server import BATCH, Batches, Waiting, app_of
from benchmarks.serving import OURS, PEER, draw, markdown_of, middle, rates_around
from leantune.serving.load.connection import Address
from leantune.serving.load.first_request import check_server
from leantune.serving.load.levels import Level, Load
from leantune.serving.load.processes import measure


def classify(texts: list[str], batch_size: int, **settings: Any) -> list[Any]:
    """As the pipeline, but that the label is the text."""
    assert batch_size == BATCH
    if "fail" in texts:
        raise RuntimeError("the model failed")
    return [[{"label": text, "score": 1.0}] for text in texts]


def batches_of(most: int = 128) -> Batches:
    return Batches(classify, most, {})


def waiting(*texts: str) -> Waiting:
    return Waiting(list(texts), None, None)  # type: ignore[arg-type]


def test_scores_of_the_peer_are_in_the_order_of_the_texts():
    texts = [str(i) * (1 + i % 7) for i in range(100)]
    assert [scores[0]["label"] for scores in batches_of().scores_of(texts)] == texts


def test_the_peer_takes_what_waits_and_keeps_a_request_whole():
    batches = batches_of(most=4)
    for number in (1, 2, 3, 1):
        batches.waiting.put(waiting(*("text",) * number))
    assert [len(each.texts) for each in batches.take(is_busy=True)] == [1, 2, 3]
    assert [len(each.texts) for each in batches.take(is_busy=False)] == [1]


def test_the_peer_answers_as_text_embeddings_inference():
    batches = batches_of()
    threading.Thread(target=batches.work, daemon=True).start()
    config = uvicorn.Config(app_of(batches, {"most": 128}), port=0, log_level="critical", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        for texts, failures in ((["a", "b"], []), (["a"], []), (["fail"], ["status 424: the model failed"])):
            load = Load(address=Address.of(url), dialect="tei", texts=[texts], seconds=0.2, warmup=0)
            if not failures:
                assert check_server(load, url) == {"most": 128}
            (found,) = measure(load, [Level(clients=2)])
            assert list(found.failures) == failures
            assert found.answered == (0 if failures else found.sent)
            assert found.sent > 0
    finally:
        server.should_exit = True
        thread.join()


def test_rates_are_around_what_each_server_can_do():
    assert rates_around([100.0]) == [50.0, 75.0, 90.0, 100.0, 110.0]
    assert rates_around([100.0, 100.0]) == rates_around([100.0])
    assert len(rates_around([100.0, 433.0])) == 10


@pytest.fixture
def result() -> dict[str, Any]:
    def level(system: str, factor: float, **kind: float) -> dict[str, Any]:
        rounds = [
            {
                "requests_per_s": 10.0 * factor * i,
                "latency_ms": {"p50": 1.0 * i, "p95": 2.0 * i, "p99": 3.0 * i} if i > 1 else None,
                "refused": 1,
                "failed": 0,
                "generator_cpu": 0.02,
            }
            for i in (1, 2, 3)
        ]
        return {"system": system, "clients": None, "rate": None, **kind, "rounds": rounds}

    kinds: list[dict[str, float]] = [{"clients": 1}, {"clients": 64}, {"rate": 50.0}, {"rate": 90.0}]
    return {
        "date": "2026-12-01",
        "commit": "0" * 12,
        "command": "python -m benchmarks.serving",
        "hardware": {"cpu": "Xeon", "gpu": None, "cores": 2},
        "versions": {"torch": "2.13.0", "transformers": "5.24.0"},
        "mean_tokens": 53.0,
        "seconds": 5.0,
        "warmup": 1.0,
        "agreement": 1.0,
        "systems": {OURS: {"rss_bytes": 5e8}, PEER: {"rss_bytes": 9e8}},
        "levels": [level(name, factor, **kind) for kind in kinds for name, factor in ((PEER, 1), (OURS, 3))],
    }


def test_the_table_of_serving_has_medians_and_ours_first(result):
    text = markdown_of(result)
    assert "Both give 100.0% of 256 texts the same label." in text
    assert f"| 64 | {OURS} | 60.0 | 2.5 | 5.0 | 7.5 | 3 | 0 |\n| 64 | {PEER} | 20.0 |" in text
    assert f"| 90 | {PEER} | 20.0 | 2.5 |" in text
    assert middle(result["levels"][0], "p50") == 2.5


def test_the_picture_of_serving_is_a_png(result, tmp_path):
    for name in ("both", "one"):
        draw(result, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        result["levels"] = [each for each in result["levels"] if each["system"] == PEER]
