"""What ``leantune serve`` refuses, and that nothing a client sends ends in a 500 or reaches the disk."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

pytest.importorskip("fastapi")

from servers import ServerProcess
from tiny import WORDS

TEXT = " ".join(WORDS[:6])
KEY = "a-key-of-some-length"


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    words = [f"three={run}", "--adapter-root", root, "--api-key", KEY, "--payload-limit", "100000"]
    with ServerProcess(*words, "--precision", "fp32", "--max-client-batch-size", "1000") as process:
        process.root = root
        yield process


@pytest.fixture(scope="module")
def client(server):
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server.url, timeout=60, headers=headers) as client:
        yield client


def raw_request(server, content: bytes) -> bytes:
    """What comes back to some bytes."""
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall(content)
        received = b""
        with contextlib.suppress(TimeoutError):
            while part := connection.recv(65536):
                received += part
                head, _, body = received.partition(b"\r\n\r\n")
                lengths = [
                    line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                ]
                if lengths and len(body) >= int(lengths[0].split(b":")[1]):
                    break
        return received


@pytest.mark.parametrize("path", ["/predict", "/classify", "/v2/models/three/infer", "/info", "/v1/models"])
def test_without_the_key_nothing_is_said(server, path):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY[:-1]}):
        method = "GET" if path in ("/info", "/v1/models") else "POST"
        answer = httpx.request(method, server.url + path, headers=headers, json={"inputs": "x", "input": "x"})
        assert answer.status_code == 401
        assert "error" in answer.json()
        assert answer.headers["www-authenticate"] == "Bearer"
    for free in ("/health", "/ping", "/metrics", "/v2/health/live", "/v2/health/ready"):
        assert httpx.get(server.url + free).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"inputs": NaN}',
        b'{"inputs": Infinity}',
        b'{"inputs": "\xff\xfe"}',
        b"\xff\xfe\x00",
        b'{"inputs": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"[:0],
        b"[" * 90_000,
        b'{"a":' * 10_000,
        b'{"inputs": 1e999}',
        b'{"inputs": "a", "inputs": 3}',
        b'{"inputs": {"0": "a"}}',
        b'{"inputs": true}',
        b'{"inputs": "a", "model": {"x": 1}}',
        b'{"inputs": "a", "model": "../../etc/passwd"}',
        b'{"inputs": "a", "model": "\\u0000"}',
        b'{"inputs": "a", "parameters": {"top_k": -1}}',
    ],
    ids=lambda body: repr(body[:20]),
)
@pytest.mark.parametrize("path", ["/predict", "/classify", "/v2/models/three/infer"])
def test_what_is_no_request_is_refused_in_words(client, path, body):
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text[:500]
    assert answer.json()["error"]
    assert len(answer.text) < 2000, "what was sent is not sent back"


def test_a_form_is_no_json(client):
    answer = client.post("/predict", data={"inputs": "a"})
    assert answer.status_code == 422
    assert answer.json()["error_type"] == "Validation"


def test_a_body_that_is_too_large(client, server):
    for path, is_error in (("/predict", str), ("/classify", dict), ("/v2/models/three/infer", str)):
        answer = client.post(path, json={"inputs": "x" * 200_000})
        assert answer.status_code == 413
        assert isinstance(answer.json()["error"], is_error)

    def parts():  # no length is said
        for _ in range(100):
            yield b"x" * 10_000

    answer = client.post("/predict", content=parts(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 99999999999\r\n\r\n"
    assert b" 413 " in raw_request(server, head.encode())[:40]


def test_too_many_texts(client):
    answer = client.post("/predict", json={"inputs": [["a"]] * 1001})
    assert answer.status_code == 413
    assert answer.json() == {
        "error": "batch size 1001 > maximum allowed batch size 1000",
        "error_type": "Validation",
    }


def test_a_path_or_method_that_is_none(client):
    for path, status in (
        ("/nothing", 404),
        ("/v1/nothing", 404),
        ("/v2/nothing", 404),
        ("/page/../app.py", 404),
    ):
        answer = client.get(path)
        assert answer.status_code == status
        assert answer.json()["error"]
    assert client.get("/predict").status_code == 405
    assert client.delete("/v1/models").status_code == 405
    assert client.get("/page/%2e%2e/app.py").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "..",
        ".",
        "/",
        "/etc",
        "../outside",
        "a/../../outside",
        "link",
        "link/../..",
        "nothing",
        "a\0b",
        "x" * 5000,
        "",
    ],
)
def test_adapters_come_from_one_folder_only(client, server, run, path):
    link = server.root / "link"
    if not link.is_symlink():
        link.symlink_to(run)
        (server.root.parent / "outside").mkdir(exist_ok=True)
    before = client.get("/v1/models").json()
    answer = client.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": path})
    assert answer.status_code in (400, 403, 404), answer.text
    assert answer.json()["error"]["message"]
    assert client.get("/v1/models").json() == before


@pytest.mark.parametrize(
    "name",
    [
        "",
        "<img src=x>",
        "a\nb",
        "a b",
        "é",
        "a\0",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        "./a",
        "x" * 129,
        "\u202e",
    ],
)
def test_a_name_that_could_be_misread_is_refused(client, server, run, name):
    if not (server.root / "good").exists():
        shutil.copytree(run / "adapter", server.root / "good")
    before = client.get("/v1/models").json()
    answer = client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": "good"})
    assert answer.status_code == 400, answer.text
    assert "the name " in answer.json()["error"]["message"]
    assert client.get("/v1/models").json() == before


def test_a_name_with_slashes_is_reached_in_every_dialect(client, server, run):
    name = "team-a/versions/1/spam_v1.2" + "x" * 101
    shutil.copytree(run / "adapter", server.root / "slashes")
    body = {"lora_name": name, "lora_path": "slashes"}
    assert client.post("/v1/load_lora_adapter", json=body).status_code == 200
    assert client.post("/predict", json={"inputs": TEXT, "model": name}).status_code == 200
    assert client.post("/classify", json={"input": TEXT, "model": name}).json()["model"] == name
    tensor = {"name": "input-0", "shape": [1], "datatype": "BYTES", "data": [TEXT]}
    for version in ("", "/versions/1"):
        place = f"/v2/models/{name}{version}"
        assert client.post(f"{place}/infer", json={"inputs": [tensor]}).json()["model_name"] == name
        assert client.get(f"{place}/ready").json() == {"name": name, "ready": True}
        assert client.get(place).json()["name"] == name
    assert client.post("/v1/unload_lora_adapter", json={"lora_name": name}).status_code == 200


def test_without_a_root_nothing_is_loaded(run):
    with ServerProcess(f"three={run}", "--precision", "fp32") as server:
        body = {"lora_name": "x", "lora_path": str(run)}
        for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            answer = httpx.post(server.url + path, json=body)
            assert answer.status_code == 403
            assert "--adapter-root" in answer.json()["error"]["message"]


def test_a_folder_that_holds_no_classifier(client, server):
    (server.root / "empty").mkdir(exist_ok=True)
    answer = client.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "empty"})
    assert answer.status_code == 500
    assert "no run found" in answer.json()["error"]["message"]
    assert client.post("/predict", json={"inputs": TEXT}).status_code == 200


def test_headers_that_are_none(server):
    good = f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    body = json.dumps({"inputs": TEXT})
    for header, expected in (
        (f"Content-Length: {len(body)}", b" 200 "),
        ("Content-Length: -5", b" 400 "),
        ("Content-Length: many", b" 400 "),
    ):
        answer = raw_request(server, f"{good}{header}\r\n\r\n{body}".encode())
        assert expected in answer[:40], answer[:200]
    for length in ("-1", "1e3", "9999", "²"):
        answer = raw_request(
            server,
            f"POST /v2/models/three/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: "
            f"{len(body)}\r\nInference-Header-Content-Length: {length}\r\n\r\n{body}".encode(),
        )
        assert b" 400 " in answer[:40], answer[:200]


def test_nothing_in_the_schema_ends_in_a_500(client, server):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    headers = {"authorization": f"Bearer {KEY}"}
    for operation in schema.get_all_operations():
        strategy = operation.ok().as_strategy()

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(strategy)
        def send(case):
            answer = case.call(base_url=server.url, headers=headers)
            assert answer.status_code < 500 or answer.status_code == 503, (case.path, case.body, answer.text)

        send()
    assert client.post("/predict", json={"inputs": TEXT}).status_code == 200


@pytest.fixture(scope="module")
def narrow(run):
    """A server that takes four requests at once, and a second for each."""
    words = [f"three={run}", "--precision", "fp32", "--max-concurrent-requests", "4", "--timeout", "3"]
    with ServerProcess(*words) as process:
        yield process


def test_a_full_server_says_so_at_once(narrow):
    long = {"inputs": [[" ".join(WORDS[:28])]] * 3000}
    statuses, waits = [], []

    def send(_):
        started = time.monotonic()
        answer = httpx.post(f"{narrow.url}/predict", json=long, timeout=60)
        statuses.append(answer.status_code)
        if answer.status_code == 429:
            waits.append(time.monotonic() - started)
            assert answer.headers["retry-after"].isdecimal()
            assert answer.json() == {"error": "Model is overloaded", "error_type": "Overloaded"}

    with ThreadPoolExecutor(16) as executor:
        list(executor.map(send, range(32)))
    assert set(statuses) <= {200, 429, 504}
    assert statuses.count(429) > 0
    assert httpx.post(f"{narrow.url}/predict", json={"inputs": TEXT}, timeout=60).status_code == 200


def test_work_of_a_client_that_is_gone_is_dropped(narrow):
    def in_flight() -> float:
        lines = httpx.get(f"{narrow.url}/metrics").text.splitlines()
        return float(
            next(line for line in lines if line.startswith("leantune_requests_in_flight")).split()[1]
        )

    body = json.dumps({"inputs": [[" ".join(WORDS[:28])]] * 3000}).encode()
    place = urlsplit(narrow.url)
    connections = []
    for _ in range(3):
        connection = socket.create_connection((place.hostname, place.port))
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        connections.append(connection)
    deadline = time.monotonic() + 20
    while in_flight() == 0:
        assert time.monotonic() < deadline
    for connection in connections:
        connection.close()
    while in_flight() > 0:
        assert time.monotonic() < deadline, "the work of clients that are gone goes on"
        time.sleep(0.02)
    gone = [line for line in httpx.get(f"{narrow.url}/metrics").text.splitlines() if 'status="499"' in line]
    assert gone or "504" in httpx.get(f"{narrow.url}/metrics").text


def test_a_slow_sender_keeps_nobody_waiting(narrow):
    place = urlsplit(narrow.url)
    slow = [socket.create_connection((place.hostname, place.port)) for _ in range(20)]
    for connection in slow:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    done = threading.Event()

    def ask():
        assert httpx.post(f"{narrow.url}/predict", json={"inputs": TEXT}, timeout=60).status_code == 200
        done.set()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(30)
    assert done.is_set()
    for connection in slow:
        connection.close()


def status_for(server, host: str, path: str = "/health") -> int:
    """The status that a request gets which names this host."""
    return httpx.get(server.url + path, headers={"host": host}).status_code


def test_a_page_of_another_host_gets_nothing_from_a_private_server(narrow):
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]", "[::1]:9"):
        assert status_for(narrow, host) == 200, host
    for host in (
        "evil.example",
        "localhost.evil.example:8000",
        "127.0.0.1.evil.example",
        "",
        "localhost:x",
        "::1:",
    ):
        assert status_for(narrow, host) == 421, host
    for path, is_error in (("/predict", str), ("/classify", dict), ("/v2/models/three/infer", str)):
        answer = httpx.post(narrow.url + path, json={"inputs": TEXT}, headers={"host": "evil.example"})
        assert answer.status_code == 421
        assert isinstance(answer.json()["error"], is_error)
        assert "--allowed-hosts" in str(answer.json()["error"])
        assert "\n" not in answer.text
    twice = b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert b" 200 " not in raw_request(narrow, twice)[:40]


def test_the_key_or_another_address_leaves_hosts_free(server, run):
    assert status_for(server, "any.example") == 200, "who has the key may come by any name"
    with ServerProcess(f"three={run}", "--precision", "fp32", "--host", "0.0.0.0") as public:
        assert status_for(public, "any.example") == 200


@pytest.mark.parametrize(
    ("named", "host", "others"), [("a.example, [::2]", "A.example:8000", 421), ("localhost,*", "x", 200)]
)
def test_hosts_can_be_named(run, named, host, others):
    words = ["--allowed-hosts", named, "--api-key", KEY]
    with ServerProcess(f"three={run}", "--precision", "fp32", *words) as server:
        assert status_for(server, host) == 200
        assert status_for(server, "[::2]:1") == 200
        assert status_for(server, "evil.example") == others
        assert status_for(server, "localhost") == others
