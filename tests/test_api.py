"""The public names: training, planning and loading from Python, with data and artefacts of every kind."""

from __future__ import annotations

import csv
import doctest
import json
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import leantune
from leantune.cli.main import main
from leantune.data.tokens.tokenization import Tokenizer
from tiny import WORDS, save_tiny_encoder, write_rows

PUBLIC = [
    "AdaLoraCallback",
    "LeanTextClassifier",
    "LeantuneError",
    "TextClassifier",
    "__version__",
    "abstain",
    "audit",
    "compare",
    "errors",
    "explain",
    "frontier",
    "learning_curve",
    "load",
    "passport",
    "plan",
    "train",
]
TEXTS = [" ".join(WORDS[(7 * i + j) % len(WORDS)] for j in range(1 + i % 9)) for i in range(30)]
MEMBERS = {
    "classes",
    "confusion",
    "evaluate",
    "labels",
    "metrics",
    "predict",
    "predict_proba",
    "report",
    "save",
    "settings",
    "source",
    "tokenizer",
}


def test_the_public_names_are_these():
    assert leantune.__all__ == PUBLIC
    assert all(getattr(leantune, name).__doc__ for name in PUBLIC if name != "__version__")
    with pytest.raises(AttributeError, match="no attribute 'tune'"):
        _ = leantune.tune
    assert set(dir(leantune.TextClassifier)) >= MEMBERS


def test_importing_it_imports_nothing_else():
    code = "import sys, leantune; assert not {'torch', 'numpy', 'transformers', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def modules() -> list[str]:
    return [
        each.name
        for each in pkgutil.walk_packages(leantune.__path__, "leantune.")
        if not each.name.endswith(("__main__", "native_kernels"))
    ]


@pytest.mark.parametrize("name", modules())
def test_the_examples_in_docstrings_run(name):
    __import__(name)
    assert doctest.testmod(sys.modules[name], optionflags=doctest.ELLIPSIS).failed == 0


@pytest.fixture(scope="module")
def settings(inputs):
    return {
        "model": inputs / "encoder",
        "max_trainable_params": 5000,
        "epochs": 2,
        "learning_rate": 1e-2,
        "max_length": 32,
        "precision": "fp32",
        "quiet": True,
    }


@pytest.fixture(scope="module")
def trained(inputs, settings, tmp_path_factory):
    output = tmp_path_factory.mktemp("api") / "run"
    return leantune.train(inputs / "train.csv", test=inputs / "test.csv", output=output, **settings)


def test_a_trained_classifier_says_what_was_measured_and_predicts(trained):
    assert trained.classes == ("a", "b", "c")
    assert trained.metrics["test"]["accuracy"] > 0.8
    probabilities = trained.predict_proba(TEXTS)
    assert probabilities.shape == (30, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert trained.predict(TEXTS) == [trained.classes[best] for best in probabilities.argmax(1)]
    assert (trained.source / "report.html").is_file()
    assert (trained.source / "README.md").is_file()


def in_memory(kind: str, path: Path):
    table = pd.read_csv(path)
    if kind == "DataFrame":
        return table.assign(held=[object() for _ in range(len(table))])  # which no file can hold
    if kind == "Dataset":
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b", "c"])}
        )
        ids = table.label.map({"a": 0, "b": 1, "c": 2})
        return datasets.Dataset.from_dict({"text": list(table.text), "label": list(ids)}, features=features)
    return list(table.text), list(table.label)


@pytest.mark.parametrize("kind", ["DataFrame", "Dataset", "tuple"])
def test_rows_in_memory_train_the_same_classifier(inputs, settings, trained, kind):
    rows, test = (in_memory(kind, inputs / f"{name}.csv") for name in ("train", "test"))
    same = leantune.train(rows, test=test, **settings)
    np.testing.assert_array_equal(same.predict_proba(TEXTS), trained.predict_proba(TEXTS))
    assert same.metrics["test"] == trained.metrics["test"]


def test_a_temporary_run_goes_with_its_classifier(inputs, settings):
    classifier = leantune.train(inputs / "train.csv", **settings | {"epochs": 1})
    folder = classifier.source.parent
    assert folder.is_dir()
    del classifier
    assert not folder.exists()


def test_what_is_saved_is_loaded_wherever_it_is(trained, tmp_path, capsys):
    expected = trained.predict_proba(TEXTS)
    folder = trained.save(tmp_path / "saved")
    assert not (folder / "checkpoints").exists()
    for part in ("adapter", "merged"):
        shutil.copytree(folder / part, tmp_path / part)
    for path in (folder, folder / "adapter", folder / "merged", tmp_path / "adapter", tmp_path / "merged"):
        loaded = leantune.load(path, precision="fp32")
        assert loaded.classes == ("a", "b", "c")
        np.testing.assert_allclose(loaded.predict_proba(TEXTS), expected, atol=1e-5)
    assert leantune.load(folder).metrics == trained.metrics
    assert leantune.load(folder / "merged").metrics == {}
    with pytest.raises(leantune.errors.UsageError, match="already exists"):
        trained.save(folder)
    assert leantune.load(folder / "merged").save(tmp_path / "again").is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": 3}, "data: a int, expected a path, a DataFrame, a datasets.Dataset, a tuple"),
        ({"encoder": "x"}, "encoder and model are spellings of one key"),
        ({"budgt": 3}, "unknown key 'budgt'"),
        ({"data": (["a b"], ["x", "y"])}, "data: 1 texts and 2 labels, lengths must match"),
        ({"data": (["a b", 3], ["x", "y"])}, "text 1 .* is a number"),
        (
            {"data": pd.DataFrame({"body": ["a"]})},
            "data: no column 'text' among body; name it with text_column=",
        ),
        ({"max_trainable_params": 10}, "max_trainable_params=10 is too small"),
        ({"data": "/no/such.csv"}, "no such file"),
    ],
)
def test_what_cannot_be_is_one_of_its_errors_and_leaves_nothing(inputs, settings, tmp_path, changes, message):
    output = tmp_path / "run"
    with pytest.raises(leantune.LeantuneError, match=message):
        leantune.train(**{"data": inputs / "train.csv", "output": output, **settings, **changes})
    assert not output.exists()


def test_a_plan_needs_no_weights_and_no_rows_where_labels_are_named(inputs, settings):
    words = {"model": settings["model"], "max_trainable_params": 5000}
    plan = leantune.plan(inputs / "train.csv", **words)
    assert plan.parameters.initial <= 5000 < plan.parameters.initial + plan.parameters.per_rank
    assert plan.steps is not None
    named = leantune.plan(**words, labels=["a", "b", "c"])
    assert (named.parameters, named.steps) == (plan.parameters, None)
    with pytest.raises(leantune.errors.UsageError, match="data: none given"):
        leantune.plan(**words)


def test_torch_and_its_generator_are_the_callers(inputs, settings):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    leantune.train(inputs / "train.csv", **settings | {"epochs": 1})
    assert torch.equal(torch.rand(2), expected)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """A merged RoBERTa classifier and an adapter on it, as transformers and PEFT save them."""
    folder = tmp_path_factory.mktemp("foreign")
    encoder = save_tiny_encoder(folder / "encoder", "roberta", max_position_embeddings=66)
    names = {0: "negative", 1: "neutral", 2: "positive"}
    model = AutoModelForSequenceClassification.from_pretrained(
        str(encoder), num_labels=3, id2label=names, label2id={name: i for i, name in names.items()}
    )
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.normal_()
    model.save_pretrained(str(folder / "classifier"))
    AutoTokenizer.from_pretrained(str(encoder)).save_pretrained(str(folder / "classifier"))
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=2,
        lora_alpha=4,
        target_modules=["query", "value"],
        init_lora_weights=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what PEFT calls in transformers
        adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "classifier")
    adapted.save_pretrained(str(folder / "adapter"))
    return folder


def probabilities_of(model, folder: Path) -> np.ndarray:
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    with torch.no_grad():
        rows = [
            model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits
            for text in TEXTS
        ]
    return torch.cat(rows).double().softmax(-1).numpy()


def theirs_of(foreign: Path, kind: str):
    from peft import PeftModel

    model = AutoModelForSequenceClassification.from_pretrained(str(foreign / "classifier")).eval()
    if kind == "adapter":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(model, str(foreign / "adapter")).eval()
    return model


@pytest.mark.parametrize("kind", ["classifier", "adapter"])
def test_a_strangers_artefact_predicts_what_its_own_library_does(foreign, kind):
    classifier = leantune.load(foreign / kind, precision="fp32")
    assert classifier.classes == ("negative", "neutral", "positive")
    assert classifier.tokenizer.max_length == 64, "of 66 positions RoBERTa uses two for itself"
    expected = probabilities_of(theirs_of(foreign, kind), foreign / "classifier")
    np.testing.assert_allclose(classifier.predict_proba(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["classifier", "adapter"])
def test_the_commands_take_a_strangers_artefact(foreign, tmp_path, kind, capsys):
    classifier = leantune.load(foreign / kind, precision="fp32")
    rows = tmp_path / "rows.csv"
    with open(rows, "w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *zip(TEXTS, classifier.predict(TEXTS), strict=True)])
    output = tmp_path / "predictions.csv"
    words = [str(foreign / kind), "--precision", "fp32"]
    assert main(["predict", *words, "--input", str(rows), "--output", str(output)]) == 0
    assert list(pd.read_csv(output).label) == classifier.predict(TEXTS)
    capsys.readouterr()
    assert main(["evaluate", *words, "--data", str(rows), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1
    merged = tmp_path / "merged"
    assert main(["export", str(foreign / kind), "--format", "merged", "--output", str(merged)]) == 0
    found = leantune.load(merged, precision="fp32")
    assert found.classes == classifier.classes
    np.testing.assert_allclose(found.predict_proba(TEXTS), classifier.predict_proba(TEXTS), atol=1e-5)


def test_exports_that_cannot_be_say_what_can(foreign, tmp_path, capsys):
    for words, message in (
        (
            ["classifier", "--format", "lora", "--output", "x"],
            "a merged model, which has no separate adapter",
        ),
        (
            ["adapter", "--format", "openvino", "--output", "x"],
            "an adapter, expected a merged model; make it with",
        ),
        (
            ["adapter", "--format", "adalora", "--output", "x"],
            "a plain LoRA adapter, which has no AdaLoRA form",
        ),
        (
            ["classifier", "--format", "merged"],
            "so the export has no default place: give --output",
        ),
    ):
        assert main(["export", str(foreign / words[0]), *words[1:]]) == 2
        assert message in capsys.readouterr().err
    assert main(["predict", str(foreign / "adapter"), "--engine", "openvino", "--input", "x.csv"]) == 2
    assert "--engine openvino needs a run folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem_type": "regression"}, "a model for regression, expected a classifier"),
        ({"id2label": {"0": "x"}}, "names must be two or more"),
        ({"id2label": {"0": "x", "1": "x"}}, "each once"),
        ({"id2label": {"0": "x", "2": "y"}}, "ids must be 0 to 1"),
        ({"id2label": {"0": "x", "1": "y"}}, "classifier.out_proj.weight"),
    ],
)
def test_a_strangers_classifier_of_another_kind_is_refused(foreign, tmp_path, changes, message):
    shutil.copytree(foreign / "classifier", tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    settings = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps(settings | changes), "utf-8")
    with pytest.raises(leantune.errors.CheckpointError, match=message):
        leantune.load(tmp_path / "other")


def test_labels_may_be_named_and_must_be_as_many(foreign, trained):
    names = ("bad", "so-so", "good")
    for kind in ("classifier", "adapter"):
        assert leantune.load(foreign / kind, labels=names).classes == names
        with pytest.raises(leantune.errors.UsageError, match=r"a classifier of 3 classes\. Got 2 labels"):
            leantune.load(foreign / kind, labels=names[:2])
    with pytest.raises(leantune.errors.UsageError, match="labels: a run names its classes; leave it out"):
        leantune.load(trained.source, labels=names)


def test_an_adapter_may_be_put_on_another_base(foreign, tmp_path):
    shutil.copytree(foreign / "classifier", tmp_path / "moved")
    shutil.copytree(foreign / "adapter", tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    settings = json.loads(config.read_text("utf-8")) | {"base_model_name_or_path": str(tmp_path / "gone")}
    config.write_text(json.dumps(settings), "utf-8")
    with pytest.raises(leantune.errors.UsageError, match="gone"):
        leantune.load(tmp_path / "adapter")
    found = leantune.load(tmp_path / "adapter", base=tmp_path / "moved", precision="fp32")
    expected = leantune.load(foreign / "adapter", precision="fp32")
    np.testing.assert_array_equal(found.predict_proba(TEXTS), expected.predict_proba(TEXTS))


def test_a_folder_of_nothing_is_told_apart(tmp_path):
    with pytest.raises(leantune.errors.UsageError, match="no such folder"):
        leantune.load(tmp_path / "none")
    with pytest.raises(
        leantune.errors.UsageError, match=r"no run found .* no adapter .* no classifier of transformers"
    ):
        leantune.load(tmp_path)


def test_pairs_where_single_texts_were_trained_on_are_refused(trained):
    with pytest.raises(leantune.errors.UsageError, match="trained on single texts: give no pairs"):
        trained.predict(["a"], pairs=["b"])


def test_more_rows_of_another_file_are_not_mixed_up(inputs, settings, tmp_path):
    """Two trainings in one folder: the second replaces the first only where that is said."""
    output = tmp_path / "run"
    rows = write_rows(tmp_path / "rows.csv", 120, seed=5)
    leantune.train(inputs / "train.csv", output=output, **settings | {"epochs": 1})
    with pytest.raises(leantune.errors.UsageError, match="already holds a run"):
        leantune.train(rows, output=output, **settings | {"epochs": 1})
    again = leantune.train(rows, output=output, overwrite=True, **settings | {"epochs": 1})
    assert again.source == output


def test_a_run_that_fails_leaves_no_temporary_folder(inputs, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(leantune.LeantuneError):
        leantune.train(inputs / "train.csv", **settings | {"max_trainable_params": 10})
    with pytest.raises(leantune.LeantuneError):
        leantune.train(in_memory("tuple", inputs / "train.csv"), **settings | {"learning_rate": 1e30})
    assert list(tmp_path.iterdir()) == []


def test_rows_in_memory_stay_with_the_run_that_was_made_of_them(inputs, settings, tmp_path):
    texts, labels = in_memory("tuple", inputs / "train.csv")
    output, few = tmp_path / "run", settings | {"epochs": 1}

    def kept() -> set[Path]:
        return set(output.glob("rows-*"))

    leantune.train((texts, labels), output=output, **few)
    first = kept()
    assert len(first) == 1
    with pytest.raises(leantune.errors.UsageError, match="already holds a run"):
        leantune.train((texts[:200], labels[:200]), output=output, **few)
    assert kept() == first
    leantune.train((texts[:200], labels[:200]), output=output, overwrite=True, **few)
    assert len(kept()) == 1
    assert kept() != first


CTRL_C = """
import sys, leantune
settings = {"encoder": sys.argv[2], "budget": 5000, "epochs": 500, "precision": "fp32", "max_length": 32}
try:
    leantune.train(sys.argv[1], output=sys.argv[3], save_every=1, **settings)
except KeyboardInterrupt as stopped:
    print(stopped.__cause__)
"""


def test_ctrl_c_is_a_keyboard_interrupt_that_says_how_to_go_on(inputs, tmp_path):
    output = tmp_path / "run"
    command = [sys.executable, "-c", CTRL_C, inputs / "train.csv", inputs / "encoder", output]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while not list((output / "checkpoints").glob("step-*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 0
    assert f"leantune train --resume {output}" in said


@pytest.mark.parametrize("labels", [["a"], ["a", "a", "b"]])
def test_names_that_cannot_be_are_errors_and_no_tracebacks(trained, tmp_path, labels):
    with pytest.raises(leantune.errors.UsageError, match="labels: names must be two or more, each once"):
        leantune.load(trained.source / "merged", labels=labels)
    shutil.copytree(trained.source / "adapter", tmp_path / "adapter")
    about = tmp_path / "adapter" / "leantune.json"
    about.write_text(json.dumps(json.loads(about.read_text("utf-8")) | {"labels": labels}), "utf-8")
    with pytest.raises(
        leantune.errors.CheckpointError, match=r"leantune\.json: damaged: .*two or more, each once"
    ):
        leantune.load(tmp_path / "adapter")


def test_a_tokenizer_that_says_no_limit_cuts_where_no_model_does(foreign, tmp_path):
    shutil.copytree(foreign / "classifier", tmp_path / "other")
    config = tmp_path / "other" / "tokenizer_config.json"
    said = json.loads(config.read_text("utf-8")) | {"model_max_length": 10**30}
    config.write_text(json.dumps(said), "utf-8")
    assert Tokenizer.saved(tmp_path / "other", longest=64).max_length == 64
    assert Tokenizer.saved(tmp_path / "other", longest=None).max_length == 512


def test_a_merged_export_of_an_adapter_needs_no_more_than_itself(trained, tmp_path):
    adapter = shutil.copytree(trained.source / "adapter", tmp_path / "adapter")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (adapter / name).unlink()
    assert main(["export", str(adapter), "--format", "merged", "--output", str(tmp_path / "merged")]) == 0
    assert (tmp_path / "merged" / "leantune.json").read_bytes() == (adapter / "leantune.json").read_bytes()
    found = leantune.load(tmp_path / "merged", precision="fp32")
    assert found.classes == trained.classes
    np.testing.assert_allclose(found.predict_proba(TEXTS), trained.predict_proba(TEXTS), atol=1e-5)
