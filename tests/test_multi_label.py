"""A classifier of several labels a text, from the command line to its servers and back."""

from __future__ import annotations

import csv
import json
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score, label_ranking_average_precision_score

import leantune
from leantune.cli.main import main
from leantune.config.thresholds_file import FILE as THRESHOLDS
from leantune.config.thresholds_file import read_thresholds
from leantune.data.text.read import Columns, open_examples
from leantune.errors import DataError, Interrupted, UsageError
from leantune.estimator import LeanTextClassifier
from leantune.evaluation.thresholds import choose_thresholds
from leantune.inference.export.formats import export, export_int8
from leantune.inference.load import load
from leantune.inference.multi_adapter import SharedEncoder
from leantune.training.after.calibration_data import rows_to_measure
from leantune.training.run import run_training
from servers import ServerProcess
from tiny import quiet, recipe_for, save_tiny_encoder, tiny_model, write_label_sets

MULTI_LABEL = "multi_label_classification"
TEXTS = ["word1 word2 word9 word3", "word17 word18 word40", "word60", ""]


@pytest.fixture(scope="module")
def topics(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("topics")
    save_tiny_encoder(folder / "encoder")
    write_label_sets(folder / "train.csv", 320)
    write_label_sets(folder / "test.csv", 80, seed=1)
    return folder


def changes(**more: Any) -> dict[str, Any]:
    return {"problem_type": MULTI_LABEL, "validation_size": 80, "epochs": 6, **more}


@pytest.fixture(scope="module")
def several(topics, tmp_path_factory) -> Path:
    """A run that the command line made."""
    output = tmp_path_factory.mktemp("runs") / "several"
    recipe = recipe_for(topics, output, **changes())
    assert main(["train", *(f"{key}={value}" for key, value in recipe.by_key().items())]) == 0
    return output


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "record.json").read_text("utf-8"))
    return record


def rows_of(path: Path) -> tuple[list[str], np.ndarray]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], np.array(
        [["abc"[c] in row["label"] for c in range(3)] for row in rows]
    )


def test_the_record_says_what_was_measured(several, topics):
    record = record_of(several)
    assert record["labels"]["problem_type"] == record["recipe"]["problem_type"] == MULTI_LABEL
    assert record["recipe"]["metric"] == record["selected"]["metric"] == "micro_f1"
    classifier = load(several, precision="fp32")
    texts, labels = rows_of(topics / "test.csv")
    probabilities = classifier.predict_proba(texts)
    predicted = probabilities >= classifier.thresholds
    test = record["metrics"]["test"]
    assert test["micro_f1"] == pytest.approx(f1_score(labels, predicted, average="micro"))
    assert test["micro_f1"] > 0.7
    assert test["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert test["lrap"] == pytest.approx(label_ranking_average_precision_score(labels, probabilities))
    assert test["accuracy"] == pytest.approx((labels == predicted).all(axis=1).mean())
    assert [each["support"] for each in test["per_class"]] == labels.sum(axis=0).tolist()
    assert record["baseline"]["test"]["micro_f1"] > 0.4
    assert record["data"]["train"]["label_counts"].keys() == {"a", "b", "c"}
    assert "confidence" not in record


def test_thresholds_are_the_best_on_the_validation_rows(several):
    classifier = load(several, precision="fp32")
    rows, name = rows_to_measure(several, None)
    assert (name, len(rows)) == ("validation", 80)
    probabilities = classifier.probabilities(rows.encoded(), 64, start=0)
    predicted = probabilities >= classifier.thresholds
    for c in range(3):
        truth = rows.label_ids[:, c]
        every = (f1_score(truth, probabilities[:, c] >= each) for each in probabilities[:, c])
        assert f1_score(truth, predicted[:, c]) == pytest.approx(max(every))
    chosen = choose_thresholds(probabilities, rows.label_ids)
    assert classifier.thresholds == pytest.approx(chosen, abs=1e-4)
    files = [read_thresholds(several / part) for part in ("adapter", "merged")]
    assert files[0] == files[1]
    assert list(files[0].by_label) == ["a", "b", "c"]
    assert THRESHOLDS in record_of(several)["artefacts"]["merged"]["files"]


def pipeline_scores(folder: Path, texts: list[str]) -> np.ndarray:
    """What transformers says by the ``config.json`` alone: with ``top_k=None`` and no function named."""
    from transformers import pipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classify = pipeline("text-classification", str(folder), device="cpu", top_k=None, truncation=True)
        found = classify(texts)
    by_label = [{each["label"]: each["score"] for each in row} for row in found]
    return np.array([[row[name] for name in "abc"] for row in by_label])


def test_the_pipeline_of_transformers_gives_the_same_scores(several):
    expected = load(several, precision="fp32").predict_proba(TEXTS)
    assert json.loads((several / "merged" / "config.json").read_text())["problem_type"] == MULTI_LABEL
    assert pipeline_scores(several / "merged", TEXTS) == pytest.approx(expected, abs=1e-5)
    assert np.abs(expected.sum(axis=1) - 1).max() > 0.05


def test_every_form_gives_the_same_labels(several, topics, tmp_path):
    classifier = load(several, precision="fp32")
    texts, _ = rows_of(topics / "test.csv")
    expected, labels = classifier.predict_proba(texts), classifier.predict(texts)
    assert labels == [
        [classifier.classes[i] for i in np.flatnonzero(row >= classifier.thresholds)] for row in expected
    ]
    assert {len(each) for each in labels} >= {0, 1, 2}
    shared = SharedEncoder(topics / "encoder", precision="fp32")
    merged = export(several / "adapter", "merged", str(tmp_path / "merged"))
    for other in (
        load(several / "adapter", base=topics / "encoder", precision="fp32"),
        load(several / "merged", precision="fp32"),
        load(merged, precision="fp32"),
        shared.load("several", several),
    ):
        assert other.labels == classifier.labels
        assert other.predict_proba(texts) == pytest.approx(expected, abs=1e-5)
        assert other.predict(texts) == labels
    renamed = load(several / "merged", labels=["x", "y", "z"], precision="fp32")
    assert renamed.predict(texts) == [["xyz"["abc".index(name)] for name in row] for row in labels]


def test_peft_loads_the_adapter(several, topics):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForSequenceClassification.from_pretrained(
            topics / "encoder", num_labels=3, problem_type=MULTI_LABEL
        )
        model = PeftModel.from_pretrained(base, several / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(several / "adapter")
    with torch.inference_mode():
        logits = model(**tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")).logits
    expected = load(several, precision="fp32").predict_proba(TEXTS)
    assert torch.sigmoid(logits).numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_what_predict_writes_can_be_trained_on(several, topics, tmp_path, suffix):
    texts, _ = rows_of(topics / "test.csv")
    output = tmp_path / f"predictions.{suffix}"
    words = [
        "predict",
        str(several),
        str(topics / "test.csv"),
        "--output",
        str(output),
        "--precision",
        "fp32",
    ]
    assert main([*words, "--probabilities"]) == 0
    classifier = load(several, precision="fp32")
    columns = Columns(text="id", splits_labels=suffix in ("csv", "tsv"))
    labels = open_examples(str(output), columns, labels="required").labels()
    assert labels == [tuple(each) for each in classifier.predict(texts)]
    if suffix == "parquet":
        table = pq.read_table(output)
        assert str(table.schema.field("label").type).startswith("list<")
        found = np.array([table[f"p_{name}"].to_pylist() for name in "abc"]).T
        assert found == pytest.approx(classifier.predict_proba(texts), abs=1e-6)
        assert table["score"].to_pylist() == found.max(axis=1).tolist()


def test_a_class_with_the_separator_is_written_in_lists_alone(topics, tmp_path, capsys):
    rows = (
        [f"word{i % 8} word{i % 5}" for i in range(80)],
        [["a|b"] if i % 2 else ["a|b", "c"] for i in range(80)],
    )
    classifier = leantune.train(
        rows, encoder=topics / "encoder", output=tmp_path / "run", epochs=3, validation_size=20, quiet=True
    )
    assert classifier.labels.is_multi_label
    assert classifier.classes == ("a|b", "c")
    words = ["predict", str(tmp_path / "run"), str(topics / "test.csv"), "--output"]
    assert main([*words, str(tmp_path / "found.csv")]) == 2
    assert "the label 'a|b' contains '|'" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "found.jsonl")]) == 0
    assert json.loads((tmp_path / "found.jsonl").read_text().splitlines()[0])["label"][0] == "a|b"


def test_evaluate_measures_by_the_thresholds_of_the_run(several, topics, capsys):
    words = ["evaluate", str(several), "--data", str(topics / "test.csv"), "--precision", "fp32"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["micro_f1"] == pytest.approx(record_of(several)["metrics"]["test"]["micro_f1"])
    assert main(words) == 0
    assert "micro F1" in capsys.readouterr().out
    assert main(["predict", str(several), "word1 word2 word3", "--precision", "fp32"]) == 0
    assert {"yes", "no"} & set(capsys.readouterr().out.split())


def test_the_report_shows_no_number_of_single_labels(several):
    page = (several / "report.html").read_text("utf-8")
    for said in ("Test micro F1", "label ranking average precision", "Hamming loss", "Metrics by class"):
        assert said in page
    for silent in (
        "Confusion matrix",
        "Most frequent confusions",
        "Test accuracy",
        "Confidence and accuracy",
    ):
        assert silent not in page
    card = (several / "README.md").read_text("utf-8")
    assert "| micro F1 (95 % interval)" in card.replace("|  |", "|")
    assert 'problem_type="multi_label_classification"' in card
    assert "top_k=None" in card


def test_the_rows_to_check_are_pairs_of_a_row_and_a_class(several):
    rows = [json.loads(line) for line in (several / "rows_to_check.jsonl").read_text().splitlines()]
    wrong = [row for row in rows if row["finding"] == "wrong"]
    assert wrong
    thresholds = read_thresholds(several / "merged").by_label
    for row in wrong:
        name = row["of_class"]
        given, predicted = (name in row[key].split("|") for key in ("label", "predicted"))
        assert given != predicted
        assert (row["probability"] >= thresholds[name] - 1e-4) == predicted


class InterruptAt:
    """Ask for the end of a run after a given step, as a signal would."""

    def __init__(self, monkeypatch, step: int) -> None:
        from leantune.training import callbacks

        original = callbacks.RunObserver.after_step

        def after_step(self, state, result):
            if state.step == step:
                self.interrupt.signal_number = 15
            return original(self, state, result)

        monkeypatch.setattr(callbacks.RunObserver, "after_step", after_step)


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(several, topics, tmp_path, monkeypatch):
    recipe = recipe_for(topics, tmp_path / "run", **changes())
    with monkeypatch.context() as patch:
        InterruptAt(patch, 40)
        with pytest.raises(Interrupted):
            run_training(recipe, console=quiet())
    run_training(recipe, console=quiet(), resume=True)
    for name in ("adapter/adapter_model.safetensors", f"merged/{THRESHOLDS}"):
        assert (several / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_the_server_gives_each_label_by_itself(several, topics, tmp_path):
    texts = TEXTS[:3]
    classifier = load(several, precision="fp32")
    expected = classifier.predict_proba(texts)
    labels = classifier.predict(texts)
    inputs = [{"name": "input-0", "shape": [3], "datatype": "BYTES", "data": texts}]
    outputs = [{"name": name} for name in ("output-0", "labels", "probabilities")]
    with (
        ServerProcess(f"several={several}", "--precision", "fp32") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        found = client.post("/predict", json={"inputs": [[text] for text in texts]}).json()
        scores = [{each["label"]: each["score"] for each in row} for row in found]
        assert np.array([[row[name] for name in "abc"] for row in scores]) == pytest.approx(
            expected, abs=1e-5
        )
        assert pipeline_scores(several / "merged", texts) == pytest.approx(expected, abs=1e-5)
        vllm = client.post("/classify", json={"input": texts}).json()["data"]
        assert np.array([each["probs"] for each in vllm]) == pytest.approx(expected, abs=1e-5)
        answer = client.post("/v2/models/several/infer", json={"inputs": inputs, "outputs": outputs}).json()
        ids, names, probabilities = (each["data"] for each in answer["outputs"])
        assert np.array(probabilities).reshape(3, 3) == pytest.approx(expected, abs=1e-5)
        assert (
            np.array(ids).reshape(3, 3).tolist() == (expected >= classifier.thresholds).astype(int).tolist()
        )
        assert names == ["|".join(row) for row in labels]
        assert client.get("/v2/models/several").json()["outputs"][0]["shape"] == [-1, 3]
        info = client.get("/info").json()
        assert info["is_multi_label"] is True
        assert info["thresholds"] == classifier.thresholds.tolist()
        refused = client.post("/predict", json={"inputs": "word1", "abstain": True})
        assert refused.status_code == 422


def test_a_classifier_of_another_library_has_thresholds_of_a_half(topics, tmp_path):
    model = tiny_model("bert", problem_type=MULTI_LABEL, id2label={0: "a", 1: "b", 2: "c"})
    model.save_pretrained(tmp_path / "other")
    for file in (topics / "encoder").glob("token*"):
        shutil.copy(file, tmp_path / "other")
    classifier = load(tmp_path / "other", precision="fp32")
    assert classifier.thresholds.tolist() == [0.5, 0.5, 0.5]
    assert pipeline_scores(tmp_path / "other", TEXTS) == pytest.approx(
        classifier.predict_proba(TEXTS), abs=1e-5
    )


def test_weights_smoothing_a_race_and_no_validation_rows(topics, tmp_path):
    more = {
        "class_weights": "balanced",
        "label_smoothing": 0.1,
        "effort": "balanced",
        "epochs": 3,
        "test": None,
    }
    more |= {"init_rank": None, "target_rank": None, "adapter_init": "gradient", "learning_rate": None}
    record = record_of(
        run_training(recipe_for(topics, tmp_path / "race", **changes(**more)), console=quiet())
    )
    assert len(record["race"]) > 1
    assert all(0 <= each["accuracy"] <= 1 for each in record["race"])
    run = run_training(
        recipe_for(topics, tmp_path / "none", **changes(validation_size=0, epochs=2)), console=quiet()
    )
    assert set(read_thresholds(run / "merged").by_label.values()) == {0.5}
    assert record_of(run)["metrics"]["test"]["micro_f1"] >= 0


def test_onnx_gives_the_same_labels(several, topics, tmp_path):
    pytest.importorskip("onnxscript")
    from leantune.inference.engines.choose import load_engine

    copy = load(several).save(tmp_path / "run")
    export(copy, "onnx", None)
    texts, _ = rows_of(topics / "test.csv")
    classifier = load(several, precision="fp32")
    found = load_engine("onnx", copy)
    assert found.predict_proba(texts) == pytest.approx(classifier.predict_proba(texts), abs=1e-4)
    assert found.thresholds.tolist() == classifier.thresholds.tolist()


def test_openvino_int8_is_compared_by_all_labels_of_a_row(several, topics, tmp_path):
    if find_spec("nncf") is None:  # importing it first would let it report its use
        pytest.skip("needs nncf")
    from leantune.training.after.calibration_data import calibration_data

    copy = load(several).save(tmp_path / "run")
    _, cost = export_int8(copy, None, lambda: calibration_data(copy, str(topics / "test.csv")))
    assert 0 <= cost.int8_accuracy <= 1
    assert cost.equal_predictions > 0.5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["abstain", "RUN", "--precision", "90%"], "leantune abstain is only for one label per text"),
        (["passport", "RUN", "TEST"], "leantune passport is only for one label per text"),
        (
            ["predict", "RUN", "TEST", "--submission", "--output", "found.csv"],
            "--submission is only for one label per row",
        ),
        (["learning-curve", "RECIPE"], "leantune learning-curve is only for one label per text"),
        (["train", "RECIPE", "loss=robust"], "loss=robust: only for one label per text"),
        (["train", "RECIPE", "unlabelled=TEST"], "unlabelled: only for one label per text"),
        (
            ["train", "RECIPE", "problem_type=regression"],
            "leantune trains classifiers; put the numbers into bins",
        ),
    ],
)
def test_what_needs_one_label_is_refused_in_a_sentence(
    several, topics, tmp_path, monkeypatch, capsys, words, said
):
    monkeypatch.chdir(tmp_path)
    recipe = recipe_for(topics, tmp_path / "new", **changes(test=None))
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), "utf-8")
    places = {"RUN": several, "TEST": topics / "test.csv", "RECIPE": tmp_path / "recipe.yaml"}
    typed = [str(places.get(word, word)).replace("=TEST", f"={topics / 'test.csv'}") for word in words]
    assert main(typed) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_labels_and_problem_type_must_agree(topics, inputs, tmp_path):
    with pytest.raises(UsageError, match="metric=micro_f1 is only for several labels per text"):
        run_training(recipe_for(inputs, tmp_path / "run", metric="micro_f1"), console=quiet())
    rows = [{"text": f"word{i}", "label": ["a", "b"][: i % 3]} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    more = {"data": str(tmp_path / "rows.jsonl"), "problem_type": "single_label_classification", "test": None}
    with pytest.raises(UsageError, match="the cells of the label column are lists"):
        run_training(recipe_for(topics, tmp_path / "run", **more), console=quiet())
    more |= {"problem_type": None, "test": str(inputs / "test.csv")}
    with pytest.raises(DataError, match="one label, expected a list of labels"):
        run_training(recipe_for(topics, tmp_path / "run", **more), console=quiet())
    with pytest.raises(UsageError, match="the estimator supports one label per text only"):
        LeanTextClassifier(recipe={"problem_type": MULTI_LABEL}).fit(["a", "b"], ["x", "y"])


def test_an_audit_finds_labels_that_were_planted(topics, tmp_path, capsys):
    with (topics / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    planted = np.random.default_rng(0).choice(len(rows), 24, replace=False).tolist()
    for i in planted:
        rows[i]["label"] = "|".join(sorted(set(rows[i]["label"].split("|")) - {""} ^ {"b"}))
    with (tmp_path / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    words = [f"data={tmp_path / 'train.csv'}", f"model={topics / 'encoder'}", f"output={tmp_path / 'audit'}"]
    words += [
        f"problem_type={MULTI_LABEL}",
        "init_rank=2",
        "max_length=32",
        "learning_rate=0.01",
        "epochs=60",
    ]
    assert main(["audit", *words, "--folds", "3", "--quiet"]) == 0
    assert "are probably wrong" in capsys.readouterr().out
    with (tmp_path / "audit" / "suspects.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert (
        sum(int(each["row"]) in planted and each["label"] == "b" for each in found[:20]) >= 7
    )  # of 20; one in forty was
    for each in found:
        row = rows[int(each["row"])]
        assert (each["found"] == "doubtful") == (each["label"] in row["label"].split("|"))
        assert (each["labels"], each["text"]) == (row["label"], row["text"])
    labels = np.load(tmp_path / "audit" / "labels.npy")
    assert labels.shape == np.load(tmp_path / "audit" / "pred_probs.npy").shape == (len(rows), 3)
    tasks = json.loads((tmp_path / "audit" / "label_studio.json").read_text())
    assert {each["data"]["row"] for each in tasks} == {int(each["row"]) for each in found}


def test_a_plan_counts_a_parameter_row_for_each_label(topics, tmp_path, capsys):
    recipe = recipe_for(topics, tmp_path / "run", **changes(test=None))
    assert main(["plan", *(f"{key}={value}" for key, value in recipe.by_key().items())]) == 0
    assert "3 classes" in capsys.readouterr().out


def test_a_wrong_prediction_shows_near_texts_with_all_their_labels(several):
    rows = [json.loads(line) for line in (several / "rows_to_check.jsonl").read_text("utf-8").splitlines()]
    near = [each for row in rows if row["finding"] == "wrong" for each in row["nearest"]]
    assert near
    assert {name for each in near for name in each["label"].split("|")} <= {"a", "b", "c", ""}
    assert any("|" in each["label"] for each in near)


def test_a_prediction_of_several_labels_is_explained_by_the_most_probable(several):
    (found,) = leantune.explain(several, ["word1 word2 word9 word3"], words=False)
    scores = load(several).predict_proba(["word1 word2 word9 word3"])[0]
    assert found.probability == pytest.approx(scores.max())
    assert found.label == "abc"[scores.argmax()]
    assert len(found.nearest) == 3


def test_a_frontier_counts_texts_whose_labels_are_all_right(topics):
    found = leantune.frontier(
        topics / "train.csv",
        encoder=topics / "encoder",
        validation=topics / "test.csv",
        with_full=False,
        quiet=True,
        **{"problem_type": MULTI_LABEL, "init_rank": 2, "max_length": 32, "epochs": 6, "learning_rate": 0.01},
    )
    assert found.points[0].name == "linear probe"
    assert 0.5 < found.best.accuracy <= 1
    assert found.smallest.recipe.problem_type == MULTI_LABEL
