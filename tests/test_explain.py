"""Why a run says what it says: near texts are those of a brute force search, weights sum to what they explain."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import leantune
from attacks.box import without_own_script
from browser import BASH, CHROMIUM, Browser
from leantune.cli.main import main
from leantune.config.rows_to_check import MAX_NEAR_CHARACTERS, read_rows_to_check
from leantune.data.tokens.dataset import LabelledRows
from leantune.data.tokens.tokenization import LONG_CHARACTERS, Located, Tokenizer
from leantune.errors import CheckpointError, DataError, UsageError
from leantune.evaluation.nearest import FEATURES, nearest
from leantune.inference.load import load, load_run
from leantune.questions.explain.attribution import WordAttribution, _words
from leantune.questions.explain.compute import explain
from leantune.report import write_report
from leantune.training.after.near_rows import LEAST_ROWS, rows_to_search
from leantune.training.run import run_training
from test_report_in_browser import OPEN_ALL, STICKS_OUT
from tiny import WORDS, quiet, recipe_for, save_tiny_encoder, tiny_config

HOSTILE = "<script>alert('x')</script>"


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def hostile(inputs, tmp_path_factory) -> Path:
    """A run over rows some of which are markup, with wrong labels among them."""
    folder = tmp_path_factory.mktemp("hostile")
    lines = lines_of(inputs / "train.csv")
    for i, line in enumerate(lines):
        if i % 5 == 0:
            line["text"] = f"{HOSTILE} {line['text']}"
            line["label"] = "abc"[i % 3]
    with (folder / "train.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(lines)
    recipe = recipe_for(inputs, folder / "run", data=str(folder / "train.csv"), epochs=3, validation_size=80)
    return run_training(recipe, console=quiet())


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """A copy of the run, into which vectors may be written."""
    return Path(
        shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", FEATURES))
    )


def test_the_nearest_are_those_of_a_brute_force_search():
    rng = np.random.default_rng(0)
    queries, vectors = rng.normal(size=(40, 6)), rng.normal(size=(300, 6))
    queries, vectors = queries.astype(np.float32), vectors.astype(np.float32)
    vectors[7] = vectors[3] = 2 * queries[0]
    positions, cosines = nearest(queries, vectors, 5)
    for i, query in enumerate(queries.astype(np.float64)):
        found = [
            query @ each / np.linalg.norm(query) / np.linalg.norm(each) for each in vectors.astype(np.float64)
        ]
        assert cosines[i] == pytest.approx(sorted(found, reverse=True)[:5], abs=1e-6)
        assert np.take(found, positions[i]) == pytest.approx(cosines[i], abs=1e-6)
    assert set(positions[0, :2]) == {3, 7}
    assert nearest(queries, vectors[:2], 5)[0].shape == (40, 2)


def test_a_training_text_is_nearest_to_itself(copy, inputs):
    lines = lines_of(inputs / "train.csv")
    record = json.loads((copy / "record.json").read_text("utf-8"))
    found = explain(copy, [line["text"] for line in lines], count=1, with_words=False)
    own = [each.nearest[0].row == i for i, each in enumerate(found)]
    assert sum(own) == record["data"]["train"]["rows"], "those that were held out are no training rows"
    for i, each in enumerate(found):
        near = each.nearest[0]
        assert (near.text, near.label) == (lines[near.row]["text"], lines[near.row]["label"])
        if own[i]:
            assert near.cosine == pytest.approx(1, abs=1e-4)
        assert each.words == ()


def test_vectors_are_kept_and_computed_again_if_they_are_of_something_else(copy, inputs, monkeypatch):
    text = lines_of(inputs / "test.csv")[0]["text"]
    first = explain(copy, [text], with_words=False)
    path = copy / FEATURES
    before = path.stat().st_mtime_ns
    assert explain(copy, [text], with_words=False) == first
    assert path.stat().st_mtime_ns == before
    path.write_bytes(path.read_bytes()[:1000])
    assert explain(copy, [text], with_words=False) == first
    record = json.loads((copy / "record.json").read_text("utf-8"))
    record["run_id"] = "0" * 32
    (copy / "record.json").write_text(json.dumps(record), "utf-8")
    before = path.stat().st_mtime_ns
    assert explain(copy, [text], with_words=False) == first
    assert path.stat().st_mtime_ns > before


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "modernbert", "deberta-v2"])
def test_weights_sum_to_the_difference_of_the_logits(model_type, inputs, tmp_path):
    model, tokenizer = model_of(model_type, inputs, tmp_path)
    attribution = WordAttribution(model, tokenizer)
    for class_id in range(3):
        found = attribution.weights("word1 word30 word2 word9", class_id=class_id, class_name=str(class_id))
        assert [each.word for each in found.words] == ["word1", "word30", "word2", "word9"]
        assert abs(found.logit - found.baseline_logit) > 1e-4
        assert abs(found.gap) < 0.02 * max(abs(each.weight) for each in found.words)
        with torch.no_grad():
            ids = torch.from_numpy(tokenizer.locate("word1 word30 word2 word9").input_ids)[None].long()
            masked = torch.where(ids > 4, tokenizer.neutral_id, ids)
            for expected, each in ((found.logit, ids), (found.baseline_logit, masked)):
                assert float(model(input_ids=each).logits[0, class_id]) == pytest.approx(expected, abs=1e-5)


def model_of(model_type: str, inputs: Path, tmp_path: Path):
    from transformers import AutoModelForSequenceClassification

    folder = save_tiny_encoder(tmp_path / model_type, model_type)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(tiny_config(model_type))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval(), Tokenizer.pretrained(str(folder), 32)


def test_of_a_pair_each_word_has_its_text(inputs, tmp_path):
    model, tokenizer = model_of("bert", inputs, tmp_path)
    found = WordAttribution(model, tokenizer).weights("word1 word2", "word2", class_id=0, class_name="a")
    assert [(each.word, each.is_of_pair) for each in found.words] == [
        ("word1", False),
        ("word2", False),
        ("word2", True),
    ]


def test_parts_of_a_word_are_one_word_and_are_where_they_stand():
    """By a tokenizer that cuts words into pieces and counts the space before a word to it."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    pieces = ["▁un", "break", "able", "▁glass", "[UNK]"]
    backend = Backend(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=4))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    text = "unbreakable glass"
    found = backend.encode(text)
    assert found.tokens == pieces[:4]
    located = Located(
        np.array(found.ids, dtype=np.int32), 4, (0,) * 4, tuple(found.word_ids), tuple(found.offsets)
    )
    words = list(_words(located, (text, ""), [1.0, 2.0, 3.0, 4.0]))
    assert [(each.word, each.weight) for each in words] == [("unbreakable", 6.0), ("glass", 4.0)]
    assert [text[each.start : each.end] for each in words] == ["unbreakable", "glass"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_text_that_is_cut_has_weights_where_it_was_read(side, inputs, tmp_path):
    model, tokenizer = model_of("bert", inputs, tmp_path)
    text = " ".join(WORDS[i % 40] for i in range(100))
    found = WordAttribution(model, tokenizer.cutting(side)).weights(text, class_id=0, class_name="a")
    assert len(found.words) == 30
    assert (found.words[0].start == 0) == (side == "right")
    assert (found.words[-1].end == len(text)) == (side == "left")
    assert all(text[each.start : each.end] == each.word for each in found.words)


def test_the_place_of_tokens_in_a_very_long_text(inputs):

    tokenizer = load_tokenizer(inputs)
    text = "word3 " * (LONG_CHARACTERS // 4)
    for side in ("left", "right"):
        located = tokenizer.cutting(side).locate(text)
        start, end = located.offsets[1]
        assert text[start:end] == "word3"
        assert (start == 0) == (side == "right")


def load_tokenizer(inputs: Path):
    return Tokenizer.pretrained(str(inputs / "encoder"), 32)


def test_the_word_that_decides_has_the_largest_weight(inputs, tmp_path):
    """Of texts of random words, one class has a word that the other has not."""
    rng, path = np.random.default_rng(0), tmp_path / "planted.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(400):
            words = [WORDS[j] for j in rng.integers(0, 60, 6)]
            if i % 2:
                words[rng.integers(6)] = "word100"
            writer.writerow([" ".join(words), "with" if i % 2 else "without"])
    recipe = recipe_for(inputs, tmp_path / "run", data=str(path), test=None, epochs=12)
    folder = run_training(recipe, console=quiet())
    texts = [line["text"] for line in lines_of(path) if line["label"] == "with"][:20]
    found = leantune.explain(folder, texts, nearest=0, class_name="with")
    largest = [max(each.words, key=lambda word: word.weight).word for each in found]
    assert largest.count("word100") >= 18
    assert all(each.nearest == () for each in found)
    against = leantune.explain(folder, texts, nearest=0, class_name="without")
    lowest = [min(each.words, key=lambda word: word.weight).word for each in against]
    assert lowest.count("word100") >= 18


def test_the_report_has_the_nearest_training_rows_of_wrong_predictions(hostile, inputs):
    lines = lines_of(hostile.parent / "train.csv")
    classifier = load_run(hostile)
    record = json.loads((hostile / "record.json").read_text("utf-8"))
    wrong = [row for row in read_rows_to_check(hostile) if row.finding == "wrong"]
    assert wrong
    tests = lines_of(inputs / "test.csv")
    for row in wrong:
        assert len(row.nearest) == 3
        assert row.searched == record["data"]["train"]["rows"]
        cosines = [near.cosine for near in row.nearest]
        assert cosines == sorted(cosines, reverse=True)
        for near in row.nearest:
            assert near.label == lines[near.row]["label"]
            assert near.text == lines[near.row]["text"][:MAX_NEAR_CHARACTERS]
    texts = [tests[row.row]["text"] for row in wrong if row.part == "test"]
    on_request = explain(Path(shutil.copytree(hostile, hostile.parent / "other")), texts, with_words=False)
    kept = [[near.row for near in row.nearest] for row in wrong if row.part == "test"]
    assert [[near.row for near in each.nearest] for each in on_request] == kept
    assert classifier.predict(texts) == [row.predicted for row in wrong if row.part == "test"]


def test_the_page_shows_near_texts_escaped(hostile, tmp_path):
    copied = shutil.copytree(
        hostile, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "merged")
    )
    page = without_own_script(write_report(copied).read_text("utf-8"))
    assert "nearest training texts: <bdi>" in page
    assert "evidence, not proof" in page
    assert "<script" not in page
    near = page.partition('<details class="near">')[2].partition("</section>")[0]
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in near


def test_of_many_rows_a_sample_is_looked_through_with_each_class_in_proportion():
    labels = np.array([0] * 6000 + [1] * 3000 + [2] * 1000)
    rows = LabelledRows((), np.zeros(10_000, dtype=np.int64), np.arange(10_000), labels)
    found = rows_to_search(rows, 30_000, seed=0)
    assert len(found) == 1875
    assert np.abs(np.bincount(found.label_ids) / len(found) - [0.6, 0.3, 0.1]).max() < 0.01
    assert (np.diff(found.row_of) > 0).all()
    assert len(rows_to_search(rows, 1000, seed=0)) == LEAST_ROWS
    assert len(rows_to_search(rows[np.arange(900)], 1000, seed=0)) == 900


@pytest.mark.parametrize("near", [{"row": -1}, {"cosine": 1.5}, {"row": 2**60}])
def test_near_rows_that_cannot_be_are_damage(copy, near):
    path = copy / "rows_to_check.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    row = next(each for each in rows if each["finding"] == "wrong")
    row["nearest"] = [{"row": 1, "label": "a", "cosine": 0.5, "text": "x"} | near]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), "utf-8")
    with pytest.raises(CheckpointError, match="a number is out of range"):
        read_rows_to_check(copy)


def test_a_training_file_that_changed_or_is_gone_is_said(inputs, tmp_path):
    data = tmp_path / "rows.csv"
    shutil.copy(inputs / "train.csv", data)
    folder = run_training(
        recipe_for(inputs, tmp_path / "run", data=str(data), test=None, epochs=1), console=quiet()
    )
    data.write_text(data.read_text() + "word1 word2,a\n")
    with pytest.raises(
        DataError, match=r"rows\.csv: has changed since .* was trained on it; explain with word weights"
    ):
        leantune.explain(folder, ["word1"], words=False)
    data.unlink()
    with pytest.raises(UsageError, match="cannot be read again"):
        leantune.explain(folder, ["word1"], words=False)
    (alone,) = leantune.explain(folder, ["word1"], nearest=0)
    assert [each.word for each in alone.words] == ["word1"]


def test_without_captum_near_texts_are_shown_and_it_says_what_to_install(copy, inputs, command):
    code = (
        "import sys; sys.modules['captum'] = sys.modules['captum.attr'] = None\n"
        "from leantune.cli.main import main\n"
        f"words = ['explain', {str(copy)!r}, 'word1 word2']\n"
        "assert main([*words, '--quiet']) == 0\n"
        "sys.exit(main([*words, '--class', 'a']))"
    )
    done = command.run(code=code)
    assert done.returncode == 2
    assert "pip install 'leantune[explain]'" in done.stderr.splitlines()[-1]
    assert "nearest training texts" in done.stdout
    assert "without word weights, which need: pip install 'leantune[explain]'" in done.stdout


def test_the_command_prints_words_and_near_texts(copy, inputs, capsys):
    text = lines_of(inputs / "train.csv")[0]["text"]
    assert main(["explain", str(copy), text, "--nearest", "2"]) == 0
    printed = capsys.readouterr().out
    assert "nearest training texts" in printed
    assert "This is evidence, not proof." in printed
    assert main(["explain", str(copy), text, "--nearest", "2", "--class", "b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["attribution"]["class_name"] == "b"
    assert len(found["nearest"]) == 2
    assert " ".join(each["word"] for each in found["attribution"]["words"]) == text
    (same,) = leantune.explain(load(copy), [text], nearest=2, class_name="b")
    assert same.label == found["label"]
    assert [each.weight for each in same.words] == pytest.approx(
        [each["weight"] for each in found["attribution"]["words"]], abs=1e-6
    )


def test_what_cannot_be_explained_is_said(copy, capsys):
    for words, said in (
        ([], "takes either one text"),
        (["a text", "--errors"], "takes either one text"),
        (["--errors", "--json"], "--json is for one text"),
        (["word1", "--class", "d"], "unknown class 'd'"),
        (["word1", "--class", "a", "--no-words"], "give only one"),
        (["word1", "--pair", "word2"], "single texts"),
    ):
        assert main(["explain", str(copy), *words]) == 2
        assert said in capsys.readouterr().err
    assert main(["explain", str(copy / "merged"), "word1"]) == 2
    assert "not a run folder" in capsys.readouterr().err
    (copy / "rows_to_check.jsonl").write_text("")
    assert main(["explain", str(copy), "--errors"]) == 2
    assert "recorded no wrong predictions" in capsys.readouterr().err
    with pytest.raises(UsageError, match="nearest must be 0 or more"):
        leantune.explain(copy, ["word1"], nearest=-1)


@pytest.fixture(scope="module")
def page_of_errors(hostile) -> Path:
    assert main(["explain", str(hostile), "--errors", "--quiet"]) == 0
    return hostile / "explanations.html"


def test_the_page_of_errors_has_each_wrong_prediction_whole_and_escaped(page_of_errors, hostile, inputs):
    page = page_of_errors.read_text("utf-8")
    wrong = [row for row in read_rows_to_check(hostile) if row.finding == "wrong"]
    assert page.count("predicted <bdi>") == len(wrong)
    assert "<script" not in page
    assert "&lt;" in page
    assert "evidence, not proof" in page
    assert page.count("<mark ") > len(wrong)


@pytest.mark.skipif(CHROMIUM is None or BASH is None, reason="no chromium here")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_errors_fits_a_window(page_of_errors, tmp_path, width):
    with Browser(tmp_path / "profile") as browser:
        browser.open(page_of_errors, width=width)
        browser.evaluate(OPEN_ALL)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate(STICKS_OUT) == []
        assert browser.trouble() == []
        text = browser.evaluate(
            "[...document.querySelectorAll('.rows > li > .text')].map(each => "
            "{each.querySelectorAll('small').forEach(one => one.remove()); return each.textContent})"
        )
        assert all(each.strip() for each in text)
