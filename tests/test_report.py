"""The page and the card of runs in every state, read back with parsers."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leantune.errors import CheckpointError, UsageError
from leantune.evaluation.comparison import compare
from leantune.evaluation.metrics import evaluate_probabilities
from leantune.report import write_model_card, write_report
from leantune.report.adaptation import grid_of, running_mean
from leantune.report.charts import Series, axis, line_chart, tick_text
from leantune.report.run_folder import load_run
from leantune.report.wording import duration

LABELS = ("earn", "acq", "crude", "trade", "money-fx", "interest", "ship", "grain")
KINDS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
FEATURES = {"intermediate.dense": (384, 1536), "output.dense": (1536, 384)}
TOTAL_STEPS, WARMUP_STEPS, FINAL_STEPS = 515, 60, 180
INITIAL_RANK = 6


def metrics_json(
    num_rows: int, skill: float, labels: tuple[str, ...] = LABELS, seed: int = 0
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    label_ids = np.minimum(rng.geometric(0.42, num_rows) - 1, len(labels) - 1)
    logits = rng.normal(size=(num_rows, len(labels)))
    logits[np.arange(num_rows), label_ids] += skill
    odds = np.exp(logits)
    return evaluate_probabilities(odds / odds.sum(axis=1, keepdims=True), label_ids, labels).to_json()


def module_names() -> list[str]:
    return [f"bert.encoder.layer.{layer}.{kind}" for layer in range(6) for kind in KINDS]


def ranks_at(progress: float) -> dict[str, int]:
    rng = np.random.default_rng(3)
    keep = {name: rng.uniform(-0.5, 1) + 0.12 * int(name.split(".")[3]) for name in module_names()}
    return {
        name: max(0, round(INITIAL_RANK * (1 - progress) + progress * 4 * value))
        for name, value in keep.items()
    }


def example_record() -> dict[str, Any]:
    final_ranks = ranks_at(1.0)
    modules = [
        {
            "name": name,
            "in_features": FEATURES.get(name.split(".", 4)[4], (384, 384))[0],
            "out_features": FEATURES.get(name.split(".", 4)[4], (384, 384))[1],
            "initial_rank": INITIAL_RANK,
            "final_rank": final_ranks[name],
        }
        for name in module_names()
    ]
    size = {one["name"]: one["in_features"] + one["out_features"] + 1 for one in modules}
    adapters = sum(size[name] * INITIAL_RANK for name in size)
    adapters_final = sum(size[name] * final_ranks[name] for name in size)
    head = 384 * len(LABELS) + len(LABELS)
    checkpoints = [
        {"step": step, "epoch": epoch, "validation": metrics_json(640, skill, seed=5), "kept": epoch > 1}
        for step, epoch, skill in [(172, 1.0, 3.6), (343, 2.0, 4.5), (515, 3.0, 4.6)]
    ]
    labels = np.ones(640, dtype=int)
    comparison = compare(np.where(np.arange(640) < 30, 0, 1), np.where(np.arange(640) < 27, 0, 1), labels)
    counts = {label: 2840 // (i + 1) ** 2 for i, label in enumerate(LABELS)}
    split = {
        "source": "reuters-r8/train.csv",
        "sha256": "9f" * 32,
        "rows": 4845,
        "tokens": 629850,
        "truncated_rows": 41,
        "duplicate_rows": 12,
        "label_counts": counts,
    }
    return {
        "leantune": "0.1.0",
        "run_id": "reuters-r8-20261124-2200",
        "created": "2026-11-24T22:00:00Z",
        "status": "finished",
        "command": ["leantune", "train", "quickstart", "train_file=reuters-r8/train.csv"],
        "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.24.0", "peft": "0.21.2"},
        "hardware": {"device": "cpu", "cpu": "AMD EPYC 7R13", "cores": 2, "memory_bytes": 24 * 2**30,
                     "gpu": None},
        "recipe": {"model": "sentence-transformers/all-MiniLM-L6-v2", "param_budget": 280000, "epochs": 3,
                   "learning_rate": 2e-4, "seed": 42, "targets": ["query", "value"], "text_pair": None,
                   "advanced": {"weight_decay": 0.01, "dropout": None}},
        "labels": {"names": list(LABELS), "sha256": "ab" * 32},
        "data": {
            "train": split,
            "validation": split | {"rows": 640, "tokens": 83200, "truncated_rows": 0, "duplicate_rows": 0},
            "test": split | {"source": "reuters-r8/test.csv", "rows": 2189, "tokens": 284570},
        },
        "model": {"source": "sentence-transformers/all-MiniLM-L6-v2", "architecture": "bert",
                  "attention": "packed", "precision": "bf16"},
        "parameters": {"budget": 280000, "initial": head + adapters, "final": head + adapters_final,
                       "total": 22713216 + head + adapters, "head": head, "adapters": adapters,
                       "adapters_final": adapters_final, "modules": modules},
        "schedule": {"total_steps": TOTAL_STEPS, "lr_warmup_steps": 52, "warmup_steps": WARMUP_STEPS,
                     "final_steps": FINAL_STEPS, "allocate_every": 10,
                     "init_budget": INITIAL_RANK * len(modules), "target_budget": sum(final_ranks.values())},
        "ranks": final_ranks,
        "skipped_steps": 0,
        "baseline": {"name": "linear probe", "validation": metrics_json(640, 3.2),
                     "test": metrics_json(2189, 3.2)},
        "checkpoints": checkpoints,
        "selected": {"step": 515, "metric": "macro_f1", "rule": "one-se",
                     "comparison": comparison.sentence("checkpoints of steps 343 and 515")},
        "metrics": {"validation": checkpoints[-1]["validation"], "test": metrics_json(2189, 4.4, seed=1)},
        "timings": {"train_s": 192.4, "train_samples_per_s": 75.6, "train_tokens_per_s": 9821.3,
                    "tokenise_s": 1.9, "probe_s": 14.2, "evaluate_s": 9.5, "total_s": 224.7},
        "artefacts": {"adapter": {"max_logit_difference": 1.9e-6},
                      "merged": {"max_logit_difference": 7.2e-6}},
    }  # fmt: skip


def budget_at(step: int, schedule: dict[str, int]) -> int:
    rest = TOTAL_STEPS - WARMUP_STEPS - FINAL_STEPS
    left = 1 - min(1.0, max(0.0, (step - WARMUP_STEPS) / rest))
    return round(schedule["target_budget"] + (schedule["init_budget"] - schedule["target_budget"]) * left**3)


def example_history(record: dict[str, Any]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    events: list[dict[str, Any]] = []
    for step in range(5, TOTAL_STEPS + 1, 5):
        budget = budget_at(step, record["schedule"])
        live = budget_at(step - step % 10, record["schedule"])
        event = {
            "event": "step",
            "step": step,
            "epoch": step / 172,
            "loss": 0.25 + 1.8 * math.exp(-step / 70) + abs(rng.normal(0, 0.07)),
            "orthogonality": 9.7 * math.exp(-step / 220) + 0.3,
            "learning_rate": 2e-4 * min(step / 52, (TOTAL_STEPS - step) / (TOTAL_STEPS - 52)),
            "budget": budget,
            "spent": live,
            "live_triplets": live,
            "tokens_per_s": 9800 + rng.normal(0, 150),
        }
        if step % 50 == 0:
            initial, target = record["schedule"]["init_budget"], record["schedule"]["target_budget"]
            event["ranks"] = ranks_at((initial - live) / max(1, initial - target))
        events.append(event)
    pruned_at = TOTAL_STEPS - FINAL_STEPS
    events.append({"event": "pruned", "step": pruned_at, "ranks": record["ranks"],
                   "trainable": record["parameters"]["final"]})  # fmt: skip
    for one in record["checkpoints"]:
        kept = {key: one[key] for key in ("step", "epoch", "validation")}
        events.append({"event": "evaluation"} | kept)
    return events


def write_run(folder: Path, record: dict[str, Any], history: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    lines = "".join(json.dumps(event) + "\n" for event in history)
    (folder / "history.jsonl").write_text(lines, encoding="utf-8")
    return folder


class Page(HTMLParser):
    """The elements of a page in order; fails on what is not closed."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.values += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def values_of(self, name: str) -> list[str]:
        return [value for key, value in self.values if key == name]


@pytest.fixture
def record() -> dict[str, Any]:
    return example_record()


@pytest.fixture
def run_dir(tmp_path: Path, record: dict[str, Any]) -> Path:
    return write_run(tmp_path / "run", record, example_history(record))


def page_of(folder: Path, record: dict[str, Any], history: list[dict[str, Any]]) -> Page:
    return Page(write_report(write_run(folder, record, history)).read_text(encoding="utf-8"))


def test_the_page_says_what_the_run_achieved(run_dir: Path) -> None:
    text = Page(write_report(run_dir).read_text(encoding="utf-8")).text
    for expected in (
        "all-MiniLM-L6-v2 on reuters-r8/train.csv",
        "Test accuracy 99.2 % 95 % interval 98.8 to 99.5, 2,189 rows",
        "linear probe: 93.6 % (92.5 to 94.6)",
        "of a budget of 280,000; 252,128 at the start",
        "3 min 12 s 9,821 tokens/s, 76 texts/s",
        "Checkpoints of steps 343 and 515 cannot be told apart on 640 rows",
        "The last checkpoint within one standard error of the best macro F1 was selected.",
        "truncated rows 41 (0.8 %) 0 41 (1.9 %)",
        "duplicate rows 12 (0.2 %)",
        "leantune train quickstart train_file=reuters-r8/train.csv",
        "torch 2.13.0",
        "memory 24.0 GiB",
        "learning rate 0.0002",
        "Recipe, advanced weight decay 0.01 dropout none",
    ):
        assert expected in text


def test_all_charts_and_sections_are_there(run_dir: Path) -> None:
    page = Page(write_report(run_dir).read_text(encoding="utf-8"))
    sections = [value for name, value in page.values if name == "id" and not value.endswith("-title")]
    assert sections == [
        "classes", "data", "curves", "checkpoints", "ranks", "parameters", "artefacts", "provenance",
    ]  # fmt: skip
    assert page.values_of("href")[-len(sections) :] == [f"#{each}" for each in sections]
    for title in (
        "Task loss by step, without the orthogonality penalty",
        "Orthogonality penalty by step, before its weight",
        "Learning rate by step",
        "Budget and its use by step",
        "Validation accuracy by checkpoint",
    ):
        assert title in page.texts


def test_the_rank_map_shows_every_module(run_dir: Path, record: dict[str, Any]) -> None:
    page = Page(write_report(run_dir).read_text(encoding="utf-8"))
    shown = set(page.values_of("title"))
    for name, rank in record["ranks"].items():
        layer, kind = name.removeprefix("bert.encoder.layer.").split(".", 1)
        short = kind.removeprefix("attention.self.")
        assert f"{short}, {layer}: {rank}" in shown


def test_only_a_page_with_rows_has_a_script_and_it_names_it(run_dir: Path) -> None:
    row = {"finding": "wrong", "part": "test", "row": 1, "text": "<script>alert(1)</script>", "label": "a"}
    (run_dir / "rows_to_check.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    text = write_report(run_dir).read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'\">" in text


def test_the_page_needs_nothing_from_outside(run_dir: Path) -> None:
    text = write_report(run_dir).read_text(encoding="utf-8")
    page = Page(text)
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "@import" not in text
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not {"src", "srcset"} & {name for name, _ in page.values}
    assert all(value.startswith("#") for value in page.values_of("href"))


def test_the_page_is_accessible(run_dir: Path) -> None:
    page = Page(write_report(run_dir).read_text(encoding="utf-8"))
    identifiers = page.values_of("id")
    assert len(identifiers) == len(set(identifiers))
    assert set(page.values_of("aria-labelledby")) <= set(identifiers)
    drawings = [names for tag, names in page.elements if tag == "svg"]
    assert drawings
    assert all("role" in names for names in drawings)
    titles_and_drawings = [tag for tag, _ in page.elements if tag in ("svg", "title")]
    assert titles_and_drawings == ["title", *["svg", "title"] * len(drawings)]
    tables, captions = ([tag for tag, _ in page.elements if tag == name] for name in ("table", "caption"))
    assert len(tables) == len(captions)
    assert all("scope" in names for tag, names in page.elements if tag == "th")


ATTACK = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>&amp;</style>${body}"
STRUCTURAL = {"event", "status"}


def poisoned(value: Any, key: str = "") -> Any:
    """The same structure with every text, and every key that is a label, carrying an attack."""
    if isinstance(value, dict):
        are_free = key in ("label_counts", "versions", "recipe", "advanced")
        new_key = (lambda name: name if name == "advanced" else name + ATTACK) if are_free else str
        return {new_key(name): poisoned(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [poisoned(one, key) for one in value]
    return value + ATTACK if isinstance(value, str) and key not in STRUCTURAL else value


def test_text_from_the_data_stays_text(tmp_path: Path, record: dict[str, Any]) -> None:
    record["ranks"] = {}  # whose keys are module names of the library's own making
    history = [event for event in example_history(record) if event["event"] != "pruned"]
    for event in history:
        event.pop("ranks", None)
    harmless = page_of(tmp_path / "a", record, history)
    attacked = page_of(tmp_path / "b", poisoned(record), [poisoned(event) for event in history])
    assert attacked.elements == harmless.elements
    assert ATTACK in attacked.text


def test_a_label_named_script_is_inert(tmp_path: Path, record: dict[str, Any]) -> None:
    for part in (record["metrics"]["test"]["per_class"][0], record["metrics"]["validation"]["per_class"][0]):
        part["label"] = "<script>"
    record["labels"]["names"][0] = "<script>"
    path = write_report(write_run(tmp_path, record, example_history(record)))
    assert "<script" not in path.read_text(encoding="utf-8")
    assert "&lt;script&gt;" in path.read_text(encoding="utf-8")
    card = write_model_card(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in card


def test_controls_in_text_are_written_as_their_numbers(tmp_path: Path, record: dict[str, Any]) -> None:
    obeyed = "a\x1b[31m\u202eb\x9d"
    record["metrics"]["test"]["per_class"][0]["label"] = record["command"][1] = obeyed
    record["labels"]["names"][0] = record["model"]["source"] = record["data"]["train"]["source"] = obeyed
    folder = write_run(tmp_path, record, example_history(record))
    card = (
        write_model_card(folder).read_text(encoding="utf-8").split("---\n", 2)[2]
    )  # YAML has escapes of its own
    for text in (
        write_report(folder).read_text(encoding="utf-8"),
        card.replace("\\\\", "\\").replace("\\[", "["),
    ):
        assert r"a\x1b[31m\u202eb\x9d" in text
        assert not set("\x1b\u202e\x9d") & set(text)


@pytest.mark.parametrize("part", list(example_record()))
@pytest.mark.parametrize("absent", [lambda record, part: record.pop(part),
                                    lambda record, part: record.update({part: None})])  # fmt: skip
def test_any_part_of_the_record_may_be_missing(
    tmp_path: Path, record: dict[str, Any], part: str, absent: Any
) -> None:
    history = example_history(record)
    absent(record, part)
    assert "leantune run" in page_of(tmp_path, record, history).text
    assert write_model_card(tmp_path).stat().st_size > 0


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_a_run_that_has_no_results_yet(tmp_path: Path, record: dict[str, Any], status: str) -> None:
    history = [event for event in example_history(record) if event["step"] < 200]
    for part in ("metrics", "baseline", "selected", "checkpoints", "artefacts", "timings", "ranks"):
        record[part] = None
    record["status"] = status
    for key in ("final", "adapters_final"):
        record["parameters"][key] = None
    for module in record["parameters"]["modules"]:
        module["final_rank"] = None
    text = page_of(tmp_path, record, history).text
    assert ("has not finished" if status == "running" else "was interrupted") in text
    assert "step 172, epoch 1" in text, "evaluations come from the history until the record has them"
    assert "selected" not in text
    assert "Rank at step 150" in text
    assert "trainable 252,128 –" in text
    assert "had not finished" in write_model_card(tmp_path).read_text(encoding="utf-8")


def test_a_run_that_has_barely_begun(tmp_path: Path) -> None:
    assert page_of(tmp_path, {"run_id": "r1"}, []).text == "r1 · leantune leantune run r1 r1 · leantune"


def test_without_a_test_set_the_validation_figure_is_called_optimistic(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    record["metrics"]["test"] = record["baseline"]["test"] = record["data"]["test"] = None
    text = page_of(tmp_path, record, example_history(record)).text
    assert "Validation accuracy 99.8 %" in text
    assert "so the metrics are optimistic" in text
    assert "linear probe" in text
    assert "optimistic" in write_model_card(tmp_path).read_text(encoding="utf-8")
    record["refit"] = {"rows": 5485, "steps": 172, "seconds": 60.0}
    text = page_of(tmp_path, record, example_history(record)).text
    assert "Measured before the refit" in text
    card = write_model_card(tmp_path).read_text(encoding="utf-8")
    assert "| before the refit |" in card
    assert "was not measured on unseen rows" in card


def test_a_run_without_the_penalty_has_no_panel_of_it(tmp_path: Path, record: dict[str, Any]) -> None:
    history = example_history(record)
    for event in history:
        if event["event"] == "step":
            event["orthogonality"] = 0.0
    text = page_of(tmp_path, record, history).text
    assert "Orthogonality" not in text
    assert "Learning rate by step" in text


def test_plain_lora_has_no_allocation(tmp_path: Path, record: dict[str, Any]) -> None:
    record["schedule"]["target_budget"] = record["schedule"]["init_budget"]
    history = [event for event in example_history(record) if event["event"] != "pruned"]
    for event in history:
        for key in ("orthogonality", "ranks"):
            event.pop(key, None)
    text = page_of(tmp_path, record, history).text
    assert "allocation starts" not in text
    assert "Orthogonality" not in text
    assert "During training" not in text
    card = write_model_card(tmp_path).read_text(encoding="utf-8")
    assert "[LoRA]" in card
    assert "AdaLoRA" not in card


@pytest.mark.parametrize("num_classes", [2, 52, 130])
def test_any_number_of_classes(tmp_path: Path, record: dict[str, Any], num_classes: int) -> None:
    labels = tuple(f"class {i}" for i in range(num_classes))
    record["metrics"]["test"] = metrics_json(3000, 2.0, labels)
    record["labels"]["names"] = list(labels)
    path = write_report(write_run(tmp_path, record, example_history(record)))
    page = Page(path.read_text(encoding="utf-8"))
    assert "Most frequent confusions" in page.text
    assert path.stat().st_size < 1_000_000


def test_a_long_history_makes_no_large_page(tmp_path: Path, record: dict[str, Any]) -> None:
    step = example_history(record)[0]
    history = [step | {"step": i, "loss": 1 / (i + 1)} for i in range(30_000)]
    path = write_report(write_run(tmp_path, record, history))
    assert path.stat().st_size < 200_000


def test_a_line_cut_off_by_a_crash_is_left_out(run_dir: Path) -> None:
    whole = write_report(run_dir).read_text(encoding="utf-8")
    with open(run_dir / "history.jsonl", "ab") as file:
        file.write('{"event": "step", "step": 520, "loss": 9, "note": "é'.encode()[:-1])
    assert write_report(run_dir).read_text(encoding="utf-8") == whole


def test_after_a_resume_the_later_line_of_a_step_holds(tmp_path: Path) -> None:
    steps = [
        {"event": "step", "step": step, "loss": loss} for step, loss in [(10, 2.0), (20, 7.0), (20, 1.0)]
    ]
    run = load_run(write_run(tmp_path, {}, steps))
    assert [(event.step, event.loss) for event in run.steps] == [(10, 2.0), (20, 1.0)]


def test_losses_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    losses = [(10, 2.0), (20, math.nan), (30, math.inf), (40, 1.0), (50, None)]
    steps = [{"event": "step", "step": step, "loss": loss} for step, loss in losses]
    page = page_of(tmp_path, {}, steps)
    [points] = page.values_of("points")
    assert len(points.split()) == 2


def test_a_folder_without_a_record(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no record\.json"):
        write_report(tmp_path)
    with pytest.raises(UsageError, match=r"no record\.json"):
        write_model_card(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("record.json", b'{"leantune": ', "record.json: damaged: Invalid JSON"),
        ("record.json", b"[]", "record.json: damaged: Input should be an object"),
        ("record.json", b"\xff\xfe\xff", "record.json: damaged: Invalid JSON"),
        (
            "history.jsonl",
            b'{"event": "step", "step": 1}\n{"eve\n{}\n',
            "history.jsonl:2: damaged: Invalid JSON",
        ),
    ],
)
def test_a_damaged_file_is_named_with_its_line(run_dir: Path, name: str, content: bytes, place: str) -> None:
    (run_dir / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=place.replace(".", r"\.")) as error:
        write_report(run_dir)
    assert "\n" not in str(error.value)


def test_writing_is_atomic(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(run_dir)
    before = path.read_bytes()

    def disk_fails(*_: object) -> None:
        raise OSError("disk failed")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", disk_fails)
        with pytest.raises(OSError, match="disk failed"):
            write_report(run_dir)
    assert path.read_bytes() == before
    write_report(run_dir)
    assert sorted(one.name for one in run_dir.iterdir()) == ["history.jsonl", "record.json", "report.html"]


def test_reports_import_nothing_heavy() -> None:
    code = "import sys, leantune.report; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy", "datasets"} & set(result.stdout.split())


def test_the_card_is_one_that_the_hub_accepts(run_dir: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(write_model_card(run_dir))
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    results = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert results["accuracy"] == pytest.approx(0.992, abs=0.001)
    assert set(results) == {"accuracy", "f1"}
    assert "license" not in card.data.to_dict()
    assert 'pipeline("text-classification", model="merged", truncation=True)' in card.text
    assert "num_labels=8" in card.text


@pytest.mark.parametrize("source", ["/models/minilm", "./minilm", "minilm/", "a/b/c", "C:\\minilm"])
def test_a_local_folder_is_no_base_model(tmp_path: Path, record: dict[str, Any], source: str) -> None:
    record["model"]["source"] = source
    write_run(tmp_path, record, [])
    assert "base_model" not in write_model_card(tmp_path).read_text(encoding="utf-8")


def test_strange_names_leave_the_card_readable(tmp_path: Path, record: dict[str, Any]) -> None:
    from huggingface_hub import ModelCard

    strange = "a: b\n---\n# \x85\u2028\U0001f600 'x\""
    record["data"]["train"]["source"] = strange
    record["labels"]["names"][0] = "a | b\n\n# c `d`"
    card = ModelCard.load(write_model_card(write_run(tmp_path, record, [])))
    assert card.data.model_name == f"all-MiniLM-L6-v2 on {strange}"
    assert r"| 0 | a \| b # c \`d\` |" in card.text


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(2, 8))
def test_an_axis_covers_its_values_with_few_rising_ticks(low: float, width: float, num_ticks: int) -> None:
    made = axis(low, low + width, start=0, end=100, num_ticks=num_ticks)
    tolerance = 1e-6 * max(abs(low), width, 1)
    assert made.ticks[0] <= low + tolerance
    assert made.ticks[-1] >= low + width - tolerance
    assert list(made.ticks) == sorted(set(made.ticks))
    assert 2 <= len(made.ticks) <= 2 * num_ticks + 2


def test_ticks_are_round() -> None:
    assert axis(0, 0.73, start=0, end=1).ticks == (0, 0.2, 0.4, 0.6, 0.8)
    assert [tick_text(tick) for tick in (0, 0.25, 1500, 1.5e-4)] == ["0", "0.25", "1,500", "1.5e-4"]


def test_curves_stay_inside_the_drawing() -> None:
    chart = line_chart([Series(name="a", points=[(x, math.sin(x) ** 2) for x in range(2000)])],
                       title="t", y_label="y")  # fmt: skip
    places = chart.curves[0].points
    assert len(places) <= 402
    assert all(0 <= x <= 420 and 0 <= y <= 240 for x, y in places)
    assert places[-1][0] > 400


def test_running_mean_reaches_to_both_sides() -> None:
    points = [(1, 0.0), (2, 3.0), (3, 6.0), (4, 0.0)]
    assert running_mean(points, reach=1) == [(1, 1.5), (2, 3.0), (3, 3.0), (4, 3.0)]


@pytest.mark.parametrize(
    ("names", "kinds", "layers"),
    [
        (["roberta.encoder.layer.0.attention.self.query", "roberta.encoder.layer.1.attention.self.value"],
         ("query", "value"), (0, 1)),
        (["layers.0.attn.Wqkv", "layers.10.attn.Wqkv", "layers.2.attn.Wqkv"], ("Wqkv",), (0, 2, 10)),
        (["e.layer.0.attention.output.dense", "e.layer.0.output.dense", "e.layer.0.intermediate.dense"],
         ("attention.output.dense", "output.dense", "intermediate.dense"), (0,)),
        (["pooler.dense", "e.layer.0.query"], ("dense", "query"), (None, 0)),
    ],
)  # fmt: skip
def test_modules_are_arranged_by_kind_and_layer(
    names: list[str], kinds: tuple[str, ...], layers: tuple[int | None, ...]
) -> None:
    grid = grid_of(names)
    assert (grid.kinds, grid.layers) == (kinds, layers)
    assert sorted(name for row in grid.modules for name in row if name) == sorted(names)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (192.4, "3 min 12 s"), (7500, "2 h 05 min")]
)
def test_durations_are_readable(seconds: float, expected: str) -> None:
    assert duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == expected


def test_planned_counts_of_a_run_that_was_stopped_are_no_results(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    history = [event for event in example_history(record) if event["step"] < 60]
    for part in ("metrics", "baseline", "selected", "checkpoints", "artefacts", "timings", "ranks"):
        record[part] = None
    record["status"] = "interrupted"
    for module in record["parameters"]["modules"]:
        module["final_rank"] = None
    text = page_of(tmp_path, record, history).text
    planned = record["parameters"]["final"]
    assert f"{planned:,}" not in text
    assert "freed by pruning 0" in text
    card = write_model_card(tmp_path / "run" if (tmp_path / "run").is_dir() else tmp_path).read_text("utf-8")
    assert "at the end" not in card


def test_a_rate_of_nothing_is_no_zero(tmp_path: Path, record: dict[str, Any]) -> None:
    names = ("here", "never seen", "guessed")
    probabilities = np.array([[0.9, 0.0, 0.1], [0.8, 0.0, 0.2], [0.2, 0.0, 0.8]])
    metrics = evaluate_probabilities(probabilities, np.array([0, 0, 0]), names).to_json()
    record["metrics"] = {"validation": None, "test": metrics}
    record["labels"]["names"] = list(names)
    page = write_report(write_run(tmp_path / "run", record, [])).read_text("utf-8")
    cells = {
        row[0]: row[1:]
        for row in re.findall(r'<tr><th scope="row">([^<]*)</th>' + 4 * r"<td[^>]*>([^<]*)</td>", page)
        if row[0] in names
    }
    assert cells["never seen"] == ("–", "–", "–", "0")
    assert cells["guessed"] == ("0.0\N{NO-BREAK SPACE}%", "–", "0.0\N{NO-BREAK SPACE}%", "0")


def test_a_confidence_without_rows_is_a_page(tmp_path: Path, record: dict[str, Any]) -> None:
    nothing = {"mean_confidence": 0.5, "bins": [], "coverage": [], "suspect_labels": 0}
    for bins in ([], [{"rows": 0, "mean_confidence": None, "accuracy": None}] * 10):
        record["confidence"] = {"validation": None, "test": nothing | {"bins": bins}}
        assert "the model is underconfident" in page_of(tmp_path, record, []).text


def test_a_class_name_makes_no_page_of_its_own(tmp_path: Path, record: dict[str, Any]) -> None:
    name = "x" * 20_000
    metrics = evaluate_probabilities(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]), ("short", name))
    record["metrics"] = {"validation": None, "test": metrics.to_json()}
    page = write_report(write_run(tmp_path / "run", record, [])).read_text("utf-8")
    assert "x" * 119 + "…" in page
    assert "x" * 120 not in page.partition('id="provenance"')[0]
