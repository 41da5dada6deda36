"""The benchmark of the server: the peer answers as it should, and the result says what was measured."""

from __future__ import annotations

import sys
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are no part of the package

from benchmarks.peer.pipeline_server import BATCH, Batches, Waiting, app_of
from benchmarks.serving import OURS, PEER, answer_of, draw, markdown_of, measured, middle, rates_around


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


@pytest.fixture
def peer() -> Iterator[str]:
    """The address of a server with `classify` in the place of the pipeline."""
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
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def test_the_peer_answers_as_text_embeddings_inference(peer):
    assert answer_of(f"{peer}/info") == {"most": 128}
    scores = answer_of(f"{peer}/predict", {"inputs": [["a"], ["b"]]})
    assert [[each["label"] for each in of_text] for of_text in scores] == [["a"], ["b"]]
    assert answer_of(f"{peer}/predict", {"inputs": "a"}) == scores[0]
    with pytest.raises(urllib.error.HTTPError, match="424"):
        answer_of(f"{peer}/predict", {"inputs": "fail"})


def span(*texts: str) -> dict[str, Any]:
    return {"texts": texts, "seconds": 0.5, "warmup": 0}


def test_load_by_clients_that_wait_counts_every_answer(peer):
    found = measured(peer, {"clients": 2}, span("a", "b"))
    assert (found["clients"], found["rate"]) == (2, None)
    assert found["answered"] == found["sent"] > 0
    assert found["requests_per_s"] == pytest.approx(found["answered"] / 0.5, abs=2 / 0.5)
    times = [found["latency_ms"][name] for name in ("p50", "p95", "p99", "max")]
    assert 0 < times[0] <= times[1] <= times[2] <= times[3] < 1000


def test_load_at_a_rate_comes_whether_others_are_answered_or_not(peer):
    found = measured(peer, {"rate": 200}, span("a"))
    assert found["answered"] == found["sent"] == pytest.approx(100, abs=40)  # four standard deviations
    assert found == found | {"refused": 0, "failed": 0, "failures": {}}


def test_load_says_what_failed(peer):
    found = measured(peer, {"clients": 1}, span("fail"))
    assert found["failed"] == found["sent"] > 0
    assert list(found["failures"]) == ["status 424: the model failed"]
    assert found["latency_ms"] is None


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
