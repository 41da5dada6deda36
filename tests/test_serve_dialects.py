"""``leantune serve`` answers as TEI, vLLM and the Open Inference Protocol do, with the scores of transformers."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import warnings

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi")

from leantune.inference.load import load
from leantune.training.run import run_training
from servers import ServerProcess
from tiny import WORDS, quiet, recipe_for, tiny_model, write_rows

TEXT = " ".join(WORDS[:6])
TEXTS = [TEXT, " ".join(WORDS[20:40]), "word3", " "]


@pytest.fixture(scope="module")
def folders(inputs, run, tmp_path_factory):
    """Two runs over one encoder, a run of pairs, and a merged model of several labels a text."""
    folder = tmp_path_factory.mktemp("served")
    write_rows(folder / "train.csv", 240, labels=tuple("vwxyz"), seed=3)
    changes = {"data": str(folder / "train.csv"), "test": None, "epochs": 1}
    five = run_training(recipe_for(inputs, folder / "five", **changes), console=quiet())
    rows = [f"word{i % 9},word{40 + i % 7},{'ab'[i % 2]}" for i in range(120)]
    (folder / "pairs.csv").write_text("\n".join(["text,other,label", *rows]) + "\n", "utf-8")
    changes = {"data": str(folder / "pairs.csv"), "test": None, "text_pair_column": "other", "epochs": 1}
    pairs = run_training(recipe_for(inputs, folder / "pairs", **changes), console=quiet())
    names = {0: "red", 1: "green", 2: "blue"}
    model = tiny_model("bert", problem_type="multi_label_classification", id2label=names)
    model.save_pretrained(folder / "several")
    for file in (inputs / "encoder").glob("token*"):
        shutil.copy(file, folder / "several")
    return {"three": run, "five": five, "pairs": pairs, "several": folder / "several"}


@pytest.fixture(scope="module")
def server(folders):
    words = [f"{name}={folder}" for name, folder in folders.items()]
    with ServerProcess(*words, "--precision", "fp32") as process:
        yield process


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def pipeline_scores(folder, texts, **settings) -> list[dict[str, float]]:
    """What transformers says of its own reading of the merged model."""
    from transformers import pipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classify = pipeline("text-classification", str(folder), device="cpu")
        found = classify(texts, top_k=None, truncation=True, **settings)
    return [{each["label"]: each["score"] for each in row} for row in found]


def scores_of(predictions) -> dict[str, float]:
    return {each["label"]: each["score"] for each in predictions}


def test_scores_are_those_of_transformers(client, folders):
    for name in ("three", "five"):
        expected = pipeline_scores(folders[name] / "merged", TEXTS)
        body = {"inputs": [[text] for text in TEXTS], "model": name}
        found = client.post("/predict", json=body).json()
        for row, wanted in zip(found, expected, strict=True):
            assert scores_of(row) == pytest.approx(wanted, abs=1e-5)
            assert row == sorted(row, key=lambda each: -each["score"])


def test_pairs_and_several_labels_are_those_of_transformers(client, folders):
    pair = {"text": "word1 word2", "text_pair": "word41"}
    # transformers leaves types out for a tokenizer that is of no model
    (expected,) = pipeline_scores(folders["pairs"] / "merged", [pair], return_token_type_ids=True)
    found = client.post("/predict", json={"inputs": list(pair.values()), "model": "pairs"}).json()
    assert scores_of(found) == pytest.approx(expected, abs=1e-5)
    (expected,) = pipeline_scores(folders["several"], [TEXT])
    assert sum(expected.values()) != pytest.approx(1, abs=0.01), "each label by itself"
    found = client.post("/predict?model=several", json={"inputs": TEXT}).json()
    assert scores_of(found) == pytest.approx(expected, abs=1e-5)


def test_a_classifier_of_single_texts_takes_a_pair_as_tei_does_but_not_a_strict_server(server, folders):
    pair = [TEXT, "word41"]
    (expected,) = pipeline_scores(
        folders["three"] / "merged",
        [dict(zip(("text", "text_pair"), pair, strict=True))],
        return_token_type_ids=True,
    )
    found = httpx.post(f"{server.url}/predict", json={"inputs": [pair, pair]}, timeout=60).json()
    assert [scores_of(row) for row in found] == [pytest.approx(expected, abs=1e-5)] * 2
    deadline = time.monotonic() + 20
    while not any("WARNING `three` was trained on single texts" in line for line in server.log):
        assert time.monotonic() < deadline, server.log[-5:]
        time.sleep(0.02)
    with ServerProcess(f"three={folders['three']}", "--precision", "fp32", "--strict") as strict:
        answer = httpx.post(f"{strict.url}/predict", json={"inputs": pair}, timeout=60)
        assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")
        assert httpx.post(f"{strict.url}/predict", json={"inputs": TEXT}, timeout=60).status_code == 200


TEI = [
    # request, status, what the answer is
    ({"inputs": TEXT}, 200, "one"),
    ({"inputs": [TEXT]}, 200, "one"),
    ({"inputs": [[TEXT]]}, 200, "batch 1"),
    ({"inputs": [[text] for text in TEXTS]}, 200, "batch 4"),
    ({"inputs": [[TEXT]] * 100}, 200, "batch 100"),  # TEI refuses more than 32
    ({"inputs": TEXT, "truncate": True, "truncation_direction": "Left"}, 200, "one"),
    ({"inputs": TEXT, "raw_scores": True}, 200, "one"),
    ({"inputs": TEXT, "unknown": 1}, 200, "one"),
    ({"inputs": []}, 400, "Empty"),
    ({"inputs": ""}, 400, "Empty"),
    ({"inputs": [""]}, 400, "Empty"),
    ({"inputs": [[TEXT], [""]]}, 400, "Empty"),  # one empty text refuses the batch
    ({"inputs": ["", ""], "model": "pairs"}, 400, "Empty"),
    ({"inputs": " "}, 200, "one"),
    ({"inputs": "word1 " * 200}, 200, "one"),
    ({"inputs": "word1 " * 200, "truncate": True}, 200, "one"),
    ({"inputs": [TEXT, TEXT]}, 200, "one"),  # a pair, for a classifier of single texts
    ({"inputs": TEXT, "model": "pairs"}, 422, "Validation"),
    ({"inputs": [[TEXT, TEXT, TEXT]]}, 422, "Validation"),
    ({"inputs": [[TEXT], [TEXT, TEXT]]}, 422, "Validation"),
    ({"inputs": [[]]}, 422, "Validation"),
    ({"inputs": None}, 422, "Validation"),
    ({"inputs": 7}, 422, "Validation"),
    ({"inputs": {"a": 1}}, 422, "Validation"),
    ({"inputs": [[7]]}, 422, "Validation"),
    ({"inputs": [[None]]}, 422, "Validation"),
    ({"inputs": "\ud800"}, 422, "Validation"),
    ({"inputs": TEXT, "truncate": "perhaps"}, 422, "Validation"),
    ({"inputs": TEXT, "truncation_direction": "Up"}, 422, "Validation"),
    ({"inputs": "word1 " * 200, "truncate": False}, 422, "Validation"),
    ({"inputs": TEXT, "model": "nobody"}, 404, "NotFound"),
    ({}, 422, "Validation"),
]


@pytest.mark.parametrize("path", ["/predict", "/", "/invocations"])
@pytest.mark.parametrize(("body", "status", "expected"), TEI)
def test_tei(client, path, body, status, expected):
    answer = client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    found = answer.json()
    if status != 200:
        assert set(found) == {"error", "error_type"}
        assert found["error_type"] == expected
        return
    rows = [found] if expected == "one" else found
    assert expected == "one" or len(rows) == int(expected.split()[1])
    for row in rows:
        assert {each["label"] for each in row} == {"a", "b", "c"}
        assert all(set(each) == {"score", "label"} for each in row)
    assert answer.headers["x-compute-type"] == "cpu"
    assert int(answer.headers["x-compute-tokens"]) > 0
    for name in ("x-compute-time", "x-compute-characters", "x-total-time", "x-tokenization-time"):
        assert answer.headers[name].isdecimal()
    assert answer.headers["x-queue-time"].isdecimal()
    assert answer.headers["x-inference-time"].isdecimal()


def test_raw_scores_are_logits(client, folders):
    expected = load(folders["three"], precision="fp32")
    logits = expected.logits(expected.tokenizer.encode([TEXT]), 1)[0]
    found = scores_of(client.post("/predict", json={"inputs": TEXT, "raw_scores": True}).json())
    assert found == pytest.approx(dict(zip("abc", logits.tolist(), strict=True)), abs=1e-5)


def test_the_end_that_is_cut_can_be_chosen(client, folders):
    long = f"{'word1 ' * 100}{'word20 ' * 100}".strip()
    trained = load(folders["three"], precision="fp32")
    ways = {}
    for side in ("left", "right"):
        body = {"inputs": long, "truncation_direction": side.title()}
        found = scores_of(client.post("/predict", json=body).json())
        rows = trained.tokenizer.cutting(side).encode([long])
        logits = trained.logits(rows, 1)[0]
        powers = np.exp(logits - logits.max())
        assert [found[name] for name in "abc"] == pytest.approx((powers / powers.sum()).tolist(), abs=1e-5)
        ways[side] = found
    assert ways["left"] != ways["right"]
    assert scores_of(client.post("/predict", json={"inputs": long}).json()) == ways["right"], "as trained"


def test_a_server_that_cuts_nothing_refuses_long_texts_unless_asked(folders):
    with ServerProcess(f"three={folders['three']}", "--precision", "fp32", "--no-auto-truncate") as server:
        assert httpx.get(f"{server.url}/info").json()["auto_truncate"] is False
        for more, status in (({}, 422), ({"truncate": False}, 422), ({"truncate": True}, 200)):
            answer = httpx.post(f"{server.url}/predict", json={"inputs": "word1 " * 200} | more, timeout=60)
            assert answer.status_code == status
            assert status == 200 or "`inputs` must have less than" in answer.json()["error"]


def test_info_and_health(client, folders):
    info = client.get("/info").json()
    assert info["served_model_name"] == "three"
    classifier = info["model_type"]["classifier"]
    assert classifier["id2label"] == {"0": "a", "1": "b", "2": "c"}
    assert classifier["label2id"] == {"a": 0, "b": 1, "c": 2}
    assert info["model_dtype"] == "float32"
    assert info["max_input_length"] > 0
    assert client.get("/info?model=five").json()["served_model_name"] == "five"
    for path in ("/health", "/ping", "/"):
        answer = client.get(path)
        assert (answer.status_code, answer.content) == (200, b"")
    assert client.get("/info?model=nobody").status_code == 404


def test_metrics_count_a_request_once(client):
    def counters() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    before = counters()
    client.post("/predict", json={"inputs": TEXT})
    client.post("/predict", json={"inputs": [[TEXT]] * 3})
    client.post("/predict", json={"inputs": TEXT, "model": "pairs"})
    after = counters()

    def gained(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert gained('te_request_count{method="single"}') == 2
    assert gained('te_request_count{method="batch"}') == 1
    assert gained('te_request_success{method="single"}') == 1
    assert gained('te_request_success{method="batch"}') == 1
    assert gained('te_request_failure{err="validation"}') == 1
    assert gained("te_predict_count") == 3
    assert gained("te_predict_success") == 2
    assert gained("te_request_duration_count") == 2
    assert gained('leantune_texts_total{model="three"}') == 4
    assert "te_queue_size" in after
    assert gained("te_batch_next_size_count") >= 2


VLLM = [
    ({"model": "three", "input": TEXT}, 200, 1),
    ({"input": TEXT}, 200, 1),
    ({"model": "five", "input": TEXTS}, 200, 4),
    ({"model": "five", "input": TEXTS, "use_activation": False}, 200, 4),
    ({"model": "three", "input": ["", TEXT]}, 200, 2),  # vLLM computes the special tokens alone
    ({"model": "three", "input": TEXT, "truncate_prompt_tokens": -1, "user": "me"}, 200, 1),
    ({"model": "nobody", "input": TEXT}, 404, "NotFoundError"),
    ({"model": "three", "input": []}, 400, "BadRequestError"),
    ({"model": "three", "input": 7}, 400, "BadRequestError"),
    ({"model": "three"}, 400, "BadRequestError"),
    ({"model": 7, "input": TEXT}, 400, "BadRequestError"),
    ({"model": "pairs", "input": TEXT}, 400, "BadRequestError"),
]


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
@pytest.mark.parametrize(("body", "status", "expected"), VLLM)
def test_vllm(client, path, body, status, expected):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    found = answer.json()
    if status != 200:
        assert found["error"]["type"] == expected
        assert found["error"]["code"] == status
        assert set(found["error"]) == {"message", "type", "param", "code"}
        return
    assert found["id"].startswith("classify-")
    assert found["object"] == "list"
    assert found["model"] == body.get("model", "three")
    assert [each["index"] for each in found["data"]] == list(range(expected))
    for each in found["data"]:
        names = "abc" if each["num_classes"] == 3 else "vwxyz"
        assert each["label"] == names[int(np.argmax(each["probs"]))]
        assert len(each["probs"]) == each["num_classes"] == len(names)
        if "use_activation" not in body:
            assert sum(each["probs"]) == pytest.approx(1)
    usage = found["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"] > 0
    assert usage["completion_tokens"] == 0


def test_vllm_lists_all_classifiers(client, folders):
    found = client.get("/v1/models").json()
    assert [each["id"] for each in found["data"]] == ["three", "five", "pairs", "several"]
    assert found["data"][0]["root"] == str(folders["three"])
    assert all(each["object"] == "model" and each["max_model_len"] > 0 for each in found["data"])


def tensor(texts, **changes):
    return {"name": "input-0", "shape": [len(texts)], "datatype": "BYTES", "data": texts, **changes}


OIP = [
    ({"inputs": [tensor(TEXTS)]}, 200),
    ({"inputs": [tensor([TEXT], shape=[1, 1])], "id": "42"}, 200),
    ({"inputs": [tensor(TEXTS)], "outputs": [{"name": "probabilities"}, {"name": "labels"}]}, 200),
    ({"inputs": [tensor([])]}, 400),
    ({"inputs": []}, 400),
    ({}, 400),
    ({"inputs": [tensor(TEXTS, shape=[7])]}, 400),
    ({"inputs": [tensor(TEXTS, datatype="FP32")]}, 400),
    ({"inputs": [tensor([1, 2])]}, 400),
    ({"inputs": [tensor(TEXTS)], "outputs": [{"name": "nothing"}]}, 400),
]


@pytest.mark.parametrize(("body", "status"), OIP)
def test_open_inference_protocol(client, body, status):
    answer = client.post("/v2/models/three/infer", json=body)
    assert answer.status_code == status, answer.text
    found = answer.json()
    if status != 200:
        assert set(found) == {"error"}
        return
    assert found["model_name"] == "three"
    assert found.get("id") == body.get("id")
    count = len(body["inputs"][0]["data"])
    by_name = {each["name"]: each for each in found["outputs"]}
    assert list(by_name) == [each["name"] for each in body.get("outputs", [{"name": "output-0"}])]
    for each in by_name.values():
        assert each["shape"][0] == count
        assert len(each["data"]) == int(np.prod(each["shape"]))
    if "output-0" in by_name:
        assert by_name["output-0"]["datatype"] == "INT64"
        tei = client.post("/predict", json={"inputs": [[text] for text in body["inputs"][0]["data"]]}).json()
        assert ["abc"[i] for i in by_name["output-0"]["data"]] == [row[0]["label"] for row in tei]


def test_open_inference_protocol_tells_of_itself(client):
    assert client.get("/v2").json()["name"] == "leantune"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    about = client.get("/v2/models/five").json()
    assert about["name"] == "five"
    assert about["outputs"][2]["shape"] == [-1, 5]
    assert client.get("/v2/models/five/ready").status_code == 200
    answer = client.get("/v2/models/nobody")
    assert (answer.status_code, set(answer.json())) == (404, {"error"})


def test_a_pair_by_the_open_inference_protocol(client, folders):
    pair = {"text": "word1", "text_pair": "word41"}
    (expected,) = pipeline_scores(folders["pairs"] / "merged", [pair], return_token_type_ids=True)
    body = {
        "inputs": [tensor(["word1"]), tensor(["word41"], name="input-1")],
        "outputs": [{"name": "probabilities"}],
    }
    found = client.post("/v2/models/pairs/infer", json=body).json()
    assert found["outputs"][0]["data"] == pytest.approx([expected["a"], expected["b"]], abs=1e-5)


def test_the_client_of_the_hub(server, folders):
    from huggingface_hub import InferenceClient

    (expected,) = pipeline_scores(folders["three"] / "merged", [TEXT])
    found = InferenceClient(model=server.url).text_classification(TEXT)
    assert {each.label: each.score for each in found} == pytest.approx(expected, abs=1e-5)
    (best,) = InferenceClient(model=server.url).text_classification(TEXT, top_k=1)
    assert best.label == max(expected, key=expected.get)


def test_the_client_of_triton(server, folders):
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("five")
    expected = pipeline_scores(folders["five"] / "merged", TEXTS)
    for is_binary in (True, False):
        texts = triton.InferInput("input-0", [4], "BYTES")
        texts.set_data_from_numpy(np.array([text.encode() for text in TEXTS], object), binary_data=is_binary)
        found = client.infer("five", [texts])
        best = [max(each, key=each.get) for each in expected]
        assert ["vwxyz"[i] for i in found.as_numpy("output-0")] == best
    names = [triton.InferRequestedOutput(name) for name in ("probabilities", "labels")]
    found = client.infer("five", [texts], outputs=names)
    wanted = [[each[name] for name in "vwxyz"] for each in expected]
    np.testing.assert_allclose(found.as_numpy("probabilities"), wanted, atol=1e-5)


CURL = [
    # from the quick tour of TEI and the online serving pages of vLLM and KServe, but for names and texts
    ["/predict", "-X", "POST", "-d", '{"inputs":"I like you."}', "-H", "Content-Type: application/json"],
    [
        *("/predict", "-X", "POST", "-H", "Content-Type: application/json"),
        *("-d", '{"inputs":[["I like you."], ["I hate pineapples"]]}'),
    ],
    [
        *("/classify", "-H", "accept: application/json", "-H", "Content-Type: application/json"),
        *("-d", '{"model": "five", "input": ["Loved the new café", "coffee was great."]}'),
    ],
    [
        *("/v2/models/three/infer", "-H", "Content-Type: application/json"),
        *(
            "-d",
            '{"inputs": [{"name": "input-0", "shape": [2], "datatype": "BYTES", "data": ["Hello", "Good"]}]}',
        ),
    ],
]


@pytest.mark.parametrize("words", CURL, ids=lambda words: words[0])
def test_curl_as_in_the_documents_of_others(server, words):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl")
    path, *rest = words
    done = subprocess.run(
        [curl, "-sS", "--fail-with-body", server.url + path, *rest], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)


def test_the_schema_names_every_path(client):
    schema = client.get("/openapi.json").json()
    paths = {"/predict", "/invocations", "/health", "/info", "/classify", "/v1/models", "/metrics"}
    assert paths <= set(schema["paths"])
    assert "/v2/models/{model}/infer" in schema["paths"]
    assert client.get("/docs").status_code == 200
