"""``leantune bench-serve`` against real servers in this process: what it counts, and what it says of a wrong one."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from leantune.cli.main import main
from leantune.errors import UsageError
from leantune.serving.load.connection import Address, Connections
from leantune.serving.load.dialects import DIALECTS, message_of
from leantune.serving.load.first_request import check_server
from leantune.serving.load.levels import Level, Load, arrival_times, make_load
from leantune.serving.load.processes import measure
from leantune.serving.load.summary import Summary, latencies

KEY = "secret"
SCORES = [{"label": "sport", "score": 0.75}, {"label": "trade", "score": 0.25}]


@dataclass
class Behaviour:
    """What the server of a test does; ``seen`` is what it got."""

    delay: float = 0.0
    refuse_every: int = 0
    stall_at: int = 0
    drops: int = 0
    """Results that are missing in an answer."""
    dialects: tuple[str, ...] = ("tei", "vllm", "oip")
    key: str | None = None
    seen: int = 0
    num_texts: int = 0


def app_of(behaviour: Behaviour) -> FastAPI:
    """A server of one classifier, called topics, with the shapes of the three dialects."""
    app = FastAPI()

    async def before(request: Request, num_texts: int) -> JSONResponse | None:
        behaviour.seen += 1
        behaviour.num_texts += num_texts
        if behaviour.key and request.headers.get("authorization") != f"Bearer {behaviour.key}":
            return JSONResponse({"error": "no such key", "error_type": "Unauthorized"}, 401)
        if behaviour.refuse_every and behaviour.seen % behaviour.refuse_every == 0:
            return JSONResponse({"error": "overloaded", "error_type": "Overloaded"}, 429)
        if behaviour.seen == behaviour.stall_at:
            time.sleep(0.5)  # nothing else is answered, either
        await asyncio.sleep(behaviour.delay)
        return None

    if "tei" in behaviour.dialects:

        @app.post("/predict")
        async def predict(request: Request, model: str = "topics") -> Any:
            inputs = (await request.json()).get("inputs")
            if inputs is None:
                return JSONResponse({"error": "no inputs", "error_type": "Validation"}, 422)
            if model != "topics":
                return JSONResponse({"error": f"no model {model!r}", "error_type": "Validation"}, 404)
            texts = [inputs] if isinstance(inputs, str) else [text for (text,) in inputs]
            if refusal := await before(request, len(texts)):
                return refusal
            return SCORES if isinstance(inputs, str) else [SCORES] * (len(texts) - behaviour.drops)

    if "vllm" in behaviour.dialects:

        @app.post("/classify")
        async def classify(request: Request) -> Any:
            asked = await request.json()
            if asked.get("model", "topics") != "topics":
                error = {"message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404}
                return JSONResponse({"error": error}, 404)
            if refusal := await before(request, len(asked["input"])):
                return refusal
            data = [{"index": i, "label": "sport", "probs": [0.75, 0.25]} for i in range(len(asked["input"]))]
            return {"object": "list", "data": data}

    if "oip" in behaviour.dialects:

        @app.post("/v2/models/topics/infer")
        async def infer(request: Request) -> Any:
            (tensor,) = (await request.json())["inputs"]
            assert tensor["shape"] == [len(tensor["data"])]
            if refusal := await before(request, len(tensor["data"])):
                return refusal
            output = {"name": "output-0", "shape": tensor["shape"], "datatype": "INT64", "data": [0]}
            return {"model_name": "topics", "outputs": [output]}

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [{"id": "topics"}, {"id": "intents"}]}

    @app.get("/info")
    async def info() -> Any:
        return {"model_id": "topics", "version": "1"}

    return app


@contextmanager
def server(behaviour: Behaviour | None = None) -> Iterator[str]:
    """The address of a server that runs as long as this lasts."""
    config = uvicorn.Config(app_of(behaviour or Behaviour()), port=0, log_level="critical", ws="none")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()


@contextmanager
def raw_server(answer: bytes) -> Iterator[str]:
    """The address of one that sends ``answer`` on each connection, once, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def load_of(url: str, **changes: Any) -> Load:
    values: dict[str, Any] = {
        "address": Address.of(url),
        "dialect": "tei",
        "texts": [["Oil prices rose."], ["The home team won."]],
        "seconds": 0.5,
        "warmup": 0.0,
        "timeout": 20.0,
    }
    return Load(**values | changes)


def summary_at(load: Load, level: Level, processes: int = 1) -> Summary:
    (found,) = measure(load, [level], processes)
    return found


def fails(capsys, code: int, *arguments: str) -> str:
    assert main(["bench-serve", *arguments]) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("leantune: error: ")
    return error.removeprefix("leantune: error: ")


def test_every_request_is_counted_once():
    behaviour = Behaviour(refuse_every=5, delay=0.002)
    with server(behaviour) as url:
        found = summary_at(load_of(url), Level(clients=4))
    assert found.sent == behaviour.seen == found.answered + found.refused + found.failed
    assert found.refused == behaviour.seen // 5 > 0
    assert found.failed == 0
    assert found.failures == {}


def test_several_processes_share_the_clients_and_their_counts_add_up():
    behaviour = Behaviour(delay=0.005)
    with server(behaviour) as url:
        found = summary_at(load_of(url), Level(clients=3), processes=2)
    assert found.sent == found.answered == behaviour.seen > 0
    assert [share.clients for share in Level(clients=3).shares(2)] == [2, 1]
    assert [share.clients for share in Level(clients=1).shares(2)] == [1]
    assert [share.rate for share in Level(rate=50).shares(2)] == [25, 25]


def test_latencies_are_those_of_the_server():
    with server(Behaviour(delay=0.05)) as url:
        found = summary_at(load_of(url), Level(clients=2))
    assert found.latency_ms is not None
    assert 50 <= found.latency_ms["p50"] <= found.latency_ms["p95"] <= found.latency_ms["p99"]
    assert found.requests_per_s <= 2 / 0.05


def test_percentiles_of_known_latencies():
    found = latencies([float(ms) for ms in range(101)])
    assert found == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "mean": 50.0, "max": 100.0}
    assert latencies([]) is None


def test_arrivals_are_those_of_their_seed_and_keep_their_rate():
    level = Level(rate=100)
    times = list(takewhile(lambda each: each < 100, arrival_times(level, 0)))
    assert times == sorted(times)
    assert 9_500 < len(times) < 10_500  # five standard deviations of a Poisson process
    first = next(arrival_times(level, 0))
    assert first == times[0]
    assert first != next(arrival_times(level, 1))
    assert first != next(arrival_times(level, 0, number=1))


def test_a_rate_is_kept_whatever_the_server_does():
    behaviour = Behaviour(delay=0.3)
    with server(behaviour) as url:
        found = summary_at(load_of(url, seconds=1.0), Level(rate=60))
    planned = sum(1 for _ in takewhile(lambda each: each < 1.0, arrival_times(Level(rate=60), 0)))
    assert found.sent == found.answered == behaviour.seen == planned
    assert found.requests_per_s < found.sent  # those of the end came after it


def test_a_server_that_stands_still_is_charged_with_all_requests_of_that_time():
    with server(Behaviour(stall_at=20)) as url:
        share = make_load(load_of(url, seconds=1.0), Level(rate=100), time.monotonic() + 0.05)
    # of half a second: the one that stopped it, and about 40 that came in its first 0.4 s
    assert sum(1 for each in share.records if each.done - each.planned > 0.1) > 20


@pytest.mark.parametrize("num_texts", [1, 3])
@pytest.mark.parametrize("dialect", list(DIALECTS))
def test_each_dialect_sends_so_many_texts_a_request(dialect, num_texts):
    behaviour = Behaviour(delay=0.002)
    with server(behaviour) as url:
        load = load_of(url, dialect=dialect, model="topics", texts=[["text"] * num_texts], seconds=0.1)
        found = summary_at(load, Level(clients=1))
    assert found.sent == found.answered > 0
    assert behaviour.num_texts == num_texts * behaviour.seen
    assert found.texts_per_s == pytest.approx(num_texts * found.requests_per_s)


def test_an_answer_without_a_result_for_each_text_is_a_failure():
    with server(Behaviour(drops=1)) as url:
        found = summary_at(load_of(url, texts=[["a", "b", "c"]], seconds=0.2), Level(clients=1))
    assert found.answered == 0
    assert found.latency_ms is None
    assert found.failures == {"2 results for 3 texts": found.failed}


def test_a_request_without_an_answer_in_time_is_a_failure():
    with server(Behaviour(delay=2.0)) as url:
        found = summary_at(load_of(url, timeout=0.1, seconds=0.2), Level(rate=50))
    assert found.answered == 0
    assert found.failed == found.sent > 0
    assert set(found.failures) <= {"no answer in time (0.1 s)", "no connection in time (0.1 s)"}


def test_a_connection_that_the_server_closed_meanwhile_is_opened_anew():
    body = json.dumps(SCORES).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async def ask_three_times(url: str) -> list[int]:
        connections = Connections(Address.of(url))
        request = connections.address.request("POST", "/predict", b"{}")
        answers = [await connections.ask(request, time.monotonic() + 20) for _ in range(3)]
        connections.close()
        return [each.status for each in answers]

    with raw_server(answer) as url:
        assert asyncio.run(ask_three_times(url)) == [200, 200, 200]


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"SSH-2.0-OpenSSH\r\n", "not HTTP"), (b"", "closed the connection"), (b"HTTP/1.1 200", "closed")],
)
def test_what_is_no_server_of_http_is_named(answer, said):
    with raw_server(answer) as url, pytest.raises(UsageError, match=said):
        check_server(load_of(url), url)


def test_where_nothing_listens_the_start_of_a_server_is_named(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    said = fails(capsys, 2, f"http://127.0.0.1:{port}")
    assert said == (
        f"http://127.0.0.1:{port}: nothing listens there: start the server, as in: "
        f"leantune serve RUN --port {port}"
    )


def test_the_dialect_that_a_server_does_speak_is_named(capsys):
    with server(Behaviour(dialects=("vllm",))) as url:
        said = fails(capsys, 2, url)
        assert said == (
            f"{url}: POST /predict: 404 Not Found, 'Not Found': "
            "this server speaks another dialect; give --dialect vllm"
        )
    with server(Behaviour(dialects=())) as url:
        said = fails(capsys, 2, url, "--dialect", "vllm")
        assert said.endswith(
            "expected a server that speaks as vLLM; choose --dialect of tei, oip, or check the address"
        )


def test_an_address_that_holds_the_path_already_is_checked_too(capsys):
    with server() as url:
        assert "POST /nowhere/predict: 404 Not Found" in fails(capsys, 2, f"{url}/nowhere/")


@pytest.mark.parametrize(("dialect", "name"), [("tei", "topisc"), ("vllm", "topisc")])
def test_the_models_of_a_server_are_named(capsys, dialect, name):
    with server() as url:
        said = fails(capsys, 2, url, "--dialect", dialect, "--model", name)
    assert said.endswith("give one of its models with --model: 'topics', 'intents'; did you mean 'topics'?")


def test_a_key_is_sent_and_one_that_is_missing_or_wrong_is_named(capsys):
    with server(Behaviour(key=KEY)) as url:
        assert "401 Unauthorized, 'no such key': give its key (--api-key KEY)" in fails(capsys, 2, url)
        assert "the key is another one" in fails(capsys, 2, url, "--api-key", "guess")
        assert check_server(load_of(url, key=KEY), url) == {"model_id": "topics", "version": "1"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ftp://127.0.0.1"], "no address of a server, expected one like http://127.0.0.1:8000"),
        (["127.0.0.1:port"], "no address of a server"),
        (["127.0.0.1", "--dialect", "oip"], "give --model NAME"),
        (["127.0.0.1", "--text-column", "body"], "give --data, too"),
        (["127.0.0.1", "--clients", "1000"], "give --processes 2"),
        (["127.0.0.1", "--api-key", "ké"], "printable ASCII"),
        (["127.0.0.1", "--output", "no-such-folder/load.json"], "no such folder"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_sent(capsys, arguments, said):
    assert said in fails(capsys, 2, *arguments)


@pytest.mark.parametrize("word", ["a", "0", "8,", "-1"])
def test_a_level_is_a_number_from_one_on(capsys, word):
    with pytest.raises(SystemExit):
        main(["bench-serve", "127.0.0.1", "--clients", word])
    assert "--clients: must be" in capsys.readouterr().err


def test_the_command_prints_a_table_and_writes_everything(tmp_path, capsys):
    rows, output = tmp_path / "rows.csv", tmp_path / "load.json"
    rows.write_text("body,label\nOil prices rose.,trade\n ,trade\nThe home team won.,sport\n", "utf-8")
    words = ["--data", str(rows), "--text-column", "body", "--clients", "1,2", "--rate", "50"]
    words += ["--seconds", "0.2", "--warmup", "0.1", "--texts-per-request", "2", "--output", str(output)]
    with server(Behaviour(key=KEY)) as url:
        assert main(["bench-serve", url, *words, "--api-key", KEY]) == 0
        assert "exists already" in fails(capsys, 2, url, *words)
    result = json.loads(output.read_text("utf-8"))
    assert [each["level"] for each in result["levels"]] == ["1 client", "2 clients", "50 requests/s"]
    for level in result["levels"]:
        assert level["sent"] == level["answered"] > 0
        assert level["texts_per_s"] == pytest.approx(2 * level["requests_per_s"])
        assert level["generator_cpu"] > 0
    assert result["server"] == {"model_id": "topics", "version": "1"}
    assert {"date", "hardware", "versions"} <= set(result)
    assert KEY not in output.read_text("utf-8")


def test_the_table_has_a_line_a_level_and_the_first_failure(capsys):
    with server(Behaviour(refuse_every=3, delay=0.005)) as url:
        assert main(["bench-serve", url, "--clients", "1,8", "--seconds", "0.2", "--warmup", "0"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split()[:2] == ["load", "requests/s"]
    assert [line.split("  ")[0] for line in out.splitlines()[1:]] == ["1 client", "8 clients"]


def test_where_nothing_is_answered_the_command_fails(capsys):
    words = ("--clients", "1", "--seconds", "0.3", "--warmup", "0")
    with server(Behaviour(refuse_every=1)) as url:
        said = fails(capsys, 1, url, *words)
    assert said.startswith(f"{url}: not one request was answered; ")
    assert said.endswith("were refused (429)")


def test_without_the_extra_the_command_says_what_to_install():
    code = "import sys; sys.modules['httptools'] = None\nfrom leantune.cli.main import main\nmain(['bench-serve', 'x'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "bench-serve needs httptools" in done.stderr
    assert "pip install 'leantune[serve]'" in done.stderr


def test_the_load_generator_imports_no_torch():
    """Its processes start quickly, and no thread of it takes the processor from the server."""
    code = (
        "import sys, leantune.serving.load.processes; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": "too long", "error_type": "Validation"}', "too long"),
        (b'{"error": {"message": "no such model", "code": 404}}', "no such model"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"<html>\n<p>Bad gateway", "<html> <p>Bad gateway"),
        (b"[1]", "[1]"),
    ],
)
def test_what_a_server_says_of_an_error_is_found(body, said):
    assert message_of(body) == said


def test_the_bodies_are_those_of_the_dialects():
    load = load_of("http://[::1]:80/app/", texts=[["a", "é"]], model="my model", key=KEY)
    (request,) = load.requests()
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.splitlines()[:2] == [b"POST /app/predict?model=my%20model HTTP/1.1", b"Host: [::1]:80"]
    assert b"Authorization: Bearer secret" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == {"inputs": [["a"], ["é"]]}
    (request,) = replace(load, dialect="vllm").requests()
    assert json.loads(request.partition(b"\r\n\r\n")[2]) == {"model": "my model", "input": ["a", "é"]}
    (request,) = replace(load, dialect="oip").requests()
    assert request.startswith(b"POST /app/v2/models/my%20model/infer HTTP/1.1")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_signal_ends_the_command_at_once(processes):
    with server() as url:
        words = ["bench-serve", url, "--rate", "20", "--seconds", "60", "--warmup", "0"]
        command = [sys.executable, "-m", "leantune", *words, "--processes", processes]
        started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        time.sleep(3)
        started.send_signal(signal.SIGTERM)
        _, said = started.communicate(timeout=30)
    assert started.returncode == 143
    assert said == "leantune: error: stopped by SIGTERM\n"
