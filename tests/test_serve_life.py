"""A server under load and in change: classifiers that come and go, workers that die, signals, too much load."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time

import httpx
import pytest

pytest.importorskip("fastapi")

from leantune.inference.load import load
from leantune.training.run import run_training
from servers import ServerProcess
from tiny import WORDS, quiet, recipe_for, write_rows

KEY = "a-key-of-some-length"
TEXT = " ".join(WORDS[:6])


@pytest.fixture(scope="module")
def five(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("life")
    write_rows(folder / "train.csv", 240, labels=tuple("vwxyz"), seed=3)
    changes = {"data": str(folder / "train.csv"), "test": None, "epochs": 1}
    return run_training(recipe_for(inputs, folder / "five", **changes), console=quiet())


def test_replacing_a_classifier_under_traffic_loses_and_mixes_nothing(run, five, tmp_path):
    root = tmp_path / "root"
    for name, source in (("three", run), ("five", five)):
        shutil.copytree(source, root / name)
    expected = {
        labels: dict(zip(labels, load(folder, precision="fp32").predict_proba([TEXT])[0], strict=True))
        for labels, folder in (("abc", run), ("vwxyz", five))
    }
    words = [f"swapped={root / 'three'}", f"steady={root / 'five'}", "--precision", "fp32"]
    with ServerProcess(*words, "--adapter-root", root, "--api-key", KEY) as server:
        seen = asyncio.run(_replace_under_traffic(server.url, expected))
    assert seen["requests"] >= REQUESTS
    assert min(seen["abc"], seen["vwxyz"]) > 100, "both were asked"


REQUESTS = int(os.environ.get("LEANTUNE_REQUESTS", "2000"))
"""While classifiers are replaced; ``LEANTUNE_REQUESTS=10000`` for the figure of the documents."""


async def _replace_under_traffic(url, expected):
    seen = {"requests": 0, "abc": 0, "vwxyz": 0}
    stop = asyncio.Event()
    limits = httpx.Limits(max_connections=40)
    async with httpx.AsyncClient(
        base_url=url, timeout=60, headers={"authorization": f"Bearer {KEY}"}, limits=limits
    ) as client:

        async def ask():
            while not stop.is_set() or seen["requests"] < REQUESTS:
                answer = await client.post("/predict", json={"inputs": [[TEXT]] * 2, "model": "swapped"})
                assert answer.status_code == 200, answer.text
                for row in answer.json():
                    scores = {each["label"]: each["score"] for each in row}
                    labels = "".join(sorted(scores))
                    assert labels in expected, f"labels of two classifiers: {labels}"
                    assert scores == pytest.approx(expected[labels], abs=1e-4), "scores of another classifier"
                    seen[labels] += 1
                seen["requests"] += 1

        askers = [asyncio.create_task(ask()) for _ in range(16)]
        for i in range(50):
            body = {"lora_name": "swapped", "lora_path": ("five", "three")[i % 2]}
            answer = await client.post("/v1/load_lora_adapter", json=body)
            assert answer.status_code == 200, answer.text
            await asyncio.sleep(0.02)
        stop.set()
        await asyncio.gather(*askers)
        models = (await client.get("/v1/models")).json()["data"]
        assert [each["id"] for each in models] == ["swapped", "steady"]
        answer = await client.post("/v1/unload_lora_adapter", json={"lora_name": "swapped"})
        assert answer.status_code == 200
        gone = await client.post("/predict", json={"inputs": TEXT, "model": "swapped"})
        assert gone.status_code == 404
        metrics = (await client.get("/metrics")).text
        assert 'model="swapped",status="200"' not in metrics
    return seen


DRAINS = int(os.environ.get("LEANTUNE_DRAINS", "3"))
"""How often a server is stopped under load; ``LEANTUNE_DRAINS=100`` for the figure of the documents."""


@pytest.mark.parametrize("number", range(DRAINS))
def test_a_server_that_is_told_to_stop_answers_what_it_has_taken(run, number):
    with ServerProcess(f"three={run}", "--precision", "fp32") as server:
        counts = asyncio.run(_drain_under_load(server))
        code = server.process.wait(30)
    assert code == 0, "".join(server.log)[-2000:]
    assert counts["lost"] == [], counts
    assert counts["answered"] > 0
    assert counts["while not ready"] > 0
    assert 503 in counts["ready"], "it said that it was not ready before it was gone"


async def _drain_under_load(server):
    counts = {"answered": 0, "lost": [], "while not ready": 0, "ready": []}
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        is_told, is_refused = asyncio.Event(), asyncio.Event()

        async def ask():
            while not is_refused.is_set():
                try:
                    answer = await client.post("/predict", json={"inputs": [[TEXT]] * 4})
                except httpx.ConnectError:  # nobody listens any more: nothing was taken
                    is_refused.set()
                    return
                except httpx.HTTPError as error:
                    counts["lost"].append(repr(error))
                    return
                if answer.status_code == 200:
                    counts["answered"] += 1
                    counts["while not ready"] += is_told.is_set()
                else:
                    counts["lost"].append(answer.status_code)

        async def watch():
            while not is_refused.is_set():
                try:
                    answer = await client.get("/health")
                except httpx.HTTPError:
                    return
                counts["ready"].append(answer.status_code)
                await asyncio.sleep(0.02)

        tasks = [asyncio.create_task(ask()) for _ in range(16)] + [asyncio.create_task(watch())]
        await asyncio.sleep(0.5)
        is_told.set()
        server.terminate()
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
    return counts


def test_a_worker_that_dies_costs_no_request(run):
    with ServerProcess(f"three={run}", "--precision", "fp32") as server:
        expected = httpx.post(f"{server.url}/predict", json={"inputs": TEXT}, timeout=60).json()

        async def ask_and_kill():
            async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
                requests = [client.post("/predict", json={"inputs": TEXT}) for _ in range(200)]
                tasks = [asyncio.create_task(each) for each in requests]
                for pid in server.workers():
                    os.kill(pid, signal.SIGKILL)
                return await asyncio.gather(*tasks)

        answers = asyncio.run(ask_and_kill())
        assert {answer.status_code for answer in answers} == {200}
        for answer in answers:
            assert answer.json() == [
                {"label": each["label"], "score": pytest.approx(each["score"], abs=1e-5)} for each in expected
            ]
        assert any("a worker died" in line for line in server.log)


def test_alive_and_quick_to_refuse_at_more_load_than_it_bears(run):
    """Nothing here asserts a time; the figures are those of benchmarks.serving."""
    words = [f"three={run}", "--precision", "fp32", "--max-concurrent-requests", "8", "--timeout", "20"]
    with ServerProcess(*words) as server:

        async def overload():
            limits = httpx.Limits(max_connections=100)
            async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
                body = {"inputs": [[" ".join(WORDS[:28])]] * 200}
                tasks = [asyncio.create_task(client.post("/predict", json=body)) for _ in range(64)]
                alive = []
                while not all(task.done() for task in tasks):
                    alive.append((await client.get("/v2/health/live")).status_code)
                    await asyncio.sleep(0.01)
                return [task.result().status_code for task in tasks], alive

        statuses, alive = asyncio.run(overload())
    assert set(statuses) == {200, 429}
    assert set(alive) == {200}


def test_several_workers_share_the_work(run):
    with ServerProcess(f"three={run}", "--precision", "fp32", "--workers", "2") as server:
        assert len(server.workers()) == 2
        answer = httpx.post(f"{server.url}/predict", json={"inputs": [[TEXT]] * 500}, timeout=60)
        assert answer.status_code == 200
        assert len({str(row) for row in answer.json()}) == 1


@pytest.mark.parametrize("flags", [[], ["--log-texts"]])
def test_texts_are_logged_only_where_that_is_asked_for(run, flags):
    with ServerProcess(f"three={run}", "--precision", "fp32", *flags) as server:
        httpx.post(f"{server.url}/predict", json={"inputs": TEXT}, timeout=60).raise_for_status()
    (entry,) = (json.loads(line[line.index("{") :]) for line in server.log if '"/predict"' in line)
    assert entry["status"] == 200
    assert entry["model"] == "three"
    assert entry.get("inputs") == ([TEXT] if flags else None)


def test_ctrl_c_ends_it_without_a_word(run):
    server = ServerProcess(f"three={run}", "--precision", "fp32", "--quiet")
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 30
    assert "Traceback" not in "".join(server.log)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to serve: give a run"),
        (["nowhere"], "nowhere: no such folder"),
        (["RUN", "RUN"], "two classifiers are named 'run'"),
        (["RUN", "--adapter", "spam"], "'spam': expected NAME=FOLDER"),
        (["<b>x</b>=RUN"], "the name '<b>x</b>' has the character '<'"),
        (["RUN", "--adapter", "a\nb=RUN"], "the name 'a\\nb' has the character '\\n'"),
        (["a/../b=RUN"], "the name 'a/../b' has the segment '..'"),
        (["RUN", "--adapter-root", "RUN"], "for which they must have a key"),
        (["RUN", "--adapter-root", "nowhere"], "--adapter-root nowhere: no such folder"),
        (["RUN/merged", "--precision", "fp16"], "precision=fp16 needs a GPU"),
        (["RUN", "--host", "256.256.256.256"], "cannot listen on this address"),
        (["RUN", "--port", "70000"], "cannot listen on this address"),
        (["RUN/checkpoints"], "no run found"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(run, command, words, said):
    words = [word.replace("RUN", str(run)) for word in words]
    done = command.run("serve", *words, timeout=120)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert len([line for line in done.stderr.splitlines() if "error" in line]) == 1
    assert "Traceback" not in done.stderr
