"""The model card, RUN/README.md: what the hub shows, with how to load what the run wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import yaml

from leantune.report.run_folder import Json, Run, load_run
from leantune.report.sections import final_metrics, validation_caveat
from leantune.report.wording import count, inert, path_end, percent, rate_with_interval, significant
from leantune.system.atomic import write_text
from leantune.system.file_names import entry_of

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
PAPERS = {
    "AdaLoRA": "https://arxiv.org/abs/2303.10512",
    "LoRA": "https://arxiv.org/abs/2106.09685",
}
LOAD_MERGED = Template("""\
The merged model is a plain transformers classifier. Its tokenizer cuts texts where training did:

```python
from transformers import pipeline

classify = pipeline("text-classification", model="merged", truncation=True)
classify($called_with)
```
""")
LOAD_ADAPTER = Template("""\
The adapter goes on top of the encoder that it was trained on:

```python
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained($source, num_labels=$num_labels)
model = PeftModel.from_pretrained(model, "adapter").eval()
tokenizer = AutoTokenizer.from_pretrained("adapter")
logits = model(**tokenizer($tokenized, truncation=True, padding=True, return_tensors="pt")).logits
```
""")
ONE_TEXT = {"called_with": '"a text"', "tokenized": '["a text"]'}
A_PAIR = {
    "called_with": '{"text": "a text", "text_pair": "its second text"}',
    "tokenized": '["a text"], ["its second text"]',
}


def write_model_card(run_dir: Path) -> Path:
    """Write RUN/README.md from RUN/record.json.

    The licence is left to its owner; ``base_model`` is named only where it can be a hub name, since
    the hub refuses a card that names a folder.

    Args:
        run_dir: the folder of a run.

    Returns:
        The card's path.

    Raises:
        UsageError: the folder holds no record.
        CheckpointError: the record or the history is damaged.
    """
    path = entry_of(run_dir, "README.md")
    write_text(path, render(load_run(run_dir)))
    return path


def render(run: Run) -> str:
    """The card as text: YAML front matter, then Markdown."""
    front_matter = f"---\n{yaml.safe_dump(_front_matter(run), allow_unicode=True, sort_keys=False)}---"
    parts = [
        front_matter,
        f"# {_text(_title(run))}",
        _about(run),
        *_results(run),
        *_loading(run),
        *_labels(run),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _front_matter(run: Run) -> dict[str, Any]:
    matter: dict[str, Any] = {
        "library_name": "peft",
        "pipeline_tag": "text-classification",
        "tags": ["leantune", _method(run).lower(), "text-classification"],
    }
    if source := _hub_name(run):
        matter["base_model"] = source
    if final := final_metrics(run):
        matter["metrics"] = ["accuracy", "f1"]
        matter["model-index"] = [_model_index(run, *final)]
    return matter


def _model_index(run: Run, split: str, metrics: Json) -> Json:
    dataset = path_end((run.part("data").get(split) or {}).get("source") or split, 2)
    return {
        "name": _title(run),
        "results": [
            {
                "task": {"type": "text-classification"},
                "dataset": {"name": dataset, "type": dataset, "split": split},
                "metrics": [
                    {"type": "accuracy", "value": metrics["accuracy"], "name": f"{split} accuracy"},
                    {"type": "f1", "value": metrics["macro_f1"], "name": f"{split} macro F1"},
                ],
            }
        ],
    }


def _about(run: Run) -> str:
    parameters, model = run.part("parameters"), run.part("model")
    method, version = _method(run), _text(run.record.get("leantune", ""))
    sentences = [f"A text classifier trained with [{method}]({PAPERS[method]}) by leantune {version}."]
    if model.get("source"):
        sentences.append(f"Encoder: `{_code(model['source'])}`.")
    if parameters:
        final = parameters.get("final")
        at_the_end = "" if final is None else f", {count(final)} at the end"
        sentences.append(f"Trainable parameters: {count(parameters['initial'])} at the start{at_the_end}.")
    if run.record.get("status") != "finished":
        sentences.append("The run had not finished when this card was written.")
    return " ".join(sentences)


def _results(run: Run) -> Iterator[str]:
    final = final_metrics(run)
    if final is None:
        return
    split, metrics = final
    is_refitted = split == "validation" and bool(run.record.get("refit"))
    rows = [("before the refit" if is_refitted else "this model", metrics)]
    baseline = run.part("baseline")
    if baseline.get(split):
        rows.append((baseline["name"], baseline[split]))
    yield f"## Results on {count(metrics['num_rows'])} {split} rows"
    yield _markdown_table(
        ["", "accuracy (95 % interval)", "macro F1 (95 % interval)", "log loss", "calibration error"],
        [
            [
                name,
                rate_with_interval(one, "accuracy"),
                rate_with_interval(one, "macro_f1"),
                significant(one["log_loss"]),
                percent(one["calibration_error"]),
            ]
            for name, one in rows
        ],
    )
    if split == "validation":
        yield validation_caveat(run)


def _loading(run: Run) -> Iterator[str]:
    artefacts = run.part("artefacts")
    example = A_PAIR if run.part("recipe").get("text_pair_column") else ONE_TEXT
    if artefacts:
        yield "## How to load it"
    if artefacts.get("merged"):
        yield LOAD_MERGED.substitute(example)
    if artefacts.get("adapter"):
        source, names = _base_model(run), run.part("labels").get("names") or []
        yield LOAD_ADAPTER.substitute(example, source=json.dumps(source), num_labels=len(names))


def _labels(run: Run) -> Iterator[str]:
    names = run.part("labels").get("names")
    if names:
        yield "## Labels"
        yield _markdown_table(["id", "label"], [[str(i), name] for i, name in enumerate(names)])


def _method(run: Run) -> str:
    return "AdaLoRA" if run.adapts_ranks else "LoRA"


def _title(run: Run) -> str:
    base, data = _base_model(run), run.part("data").get("train", {}).get("source")
    if not base:
        return "leantune classifier"
    return f"{Path(base).name} on {data}" if data else Path(base).name


def _base_model(run: Run) -> str | None:
    """The encoder by the name that others can load it under."""
    model = run.part("model")
    name: str | None = model.get("base_model") or model.get("source")
    return name


def _hub_name(run: Run) -> str | None:
    source = _base_model(run)
    is_name = source and HUB_NAME.fullmatch(source) and not Path(source).exists()
    return source if is_name else None


def _markdown_table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    """Text that Markdown, the HTML in it and terminals leave alone, on one line."""
    line = inert(" ".join(str(value).split()))
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", escape(line, quote=False))


def _code(value: object) -> str:
    return inert(" ".join(str(value).replace("`", "'").split()))
