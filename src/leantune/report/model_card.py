"""The model card RUN/README.md, which the Hugging Face hub shows: results and code that loads the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leantune.config.record.run import Measures
from leantune.model.hub import HUB_NAME
from leantune.report import results
from leantune.report.page import templates
from leantune.report.run_folder import Run, load_run
from leantune.report.wording import path_end
from leantune.system.atomic import write_text
from leantune.system.file_names import entry_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


def write_model_card(run_dir: Path) -> Path:
    """Write RUN/README.md from RUN/record.json.

    The card names no licence, which is the owner's choice. It sets ``base_model`` only to a possible hub name, because
    the hub rejects a card whose base model is a folder.

    Args:
        run_dir: the run folder.

    Returns:
        The card's path.

    Raises:
        UsageError: the folder contains no record.
        CheckpointError: the record or the history is damaged.
    """
    path = entry_of(run_dir, "README.md")
    write_text(path, render(load_run(run_dir)))
    return path


def render(run: Run, repository: str | None = None, examples: Sequence[str] = ()) -> str:
    """Return the card as text: YAML front matter, then Markdown.

    Args:
        run: the run to describe.
        repository: hub repository of the files; None if they are in the run folder.
        examples: texts for the widget of the hub, which runs the merged model.
    """
    from huggingface_hub import ModelCard, ModelCardData

    final, method = results.final_metrics(run), "AdaLoRA" if run.adapts_ranks else "LoRA"
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["leantune", "peft", method.lower(), "text-classification"],
        base_model=_hub_name(run),
        metrics=list(dict.fromkeys(kind for kind, _, _ in _rates(final[1]))) if final else None,
        model_name=_title(run) if final else None,
        eval_results=_eval_results(run, *final) if final else None,
    )
    if examples:
        data["widget"] = [{"text": example} for example in examples]
    text = templates().get_template("model_card.md.j2").render(
        run=run, record=run.record, results=results, final=final, method=method, title=_title(run),
        base_model=_base_model(run), repository=repository,
    )  # fmt: skip
    return str(ModelCard(f"---\n{data}\n---\n\n{text}"))


def _eval_results(run: Run, split: str, metrics: Measures) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    rows = run.record.data.parts().get(split) if run.record.data else None
    dataset = path_end(rows.source if rows else split, 2)
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=kind,
            metric_name=f"{split} {name}",
            metric_value=value,
        )
        for kind, name, value in _rates(metrics)
    ]


def _rates(metrics: Measures) -> Iterator[tuple[str, str, float]]:
    """Yield kind, name and value of each metric that the hub shows."""
    rate = results.headline(metrics)
    yield ("f1" if results.has_several(metrics) else "accuracy"), rate.name, rate.value
    yield "f1", "macro F1", metrics.macro_f1


def _title(run: Run) -> str:
    base, data = _base_model(run), run.record.data
    if not base:
        return "leantune classifier"
    return f"{Path(base).name} on {data.train.source}" if data else Path(base).name


def _base_model(run: Run) -> str | None:
    """Return the name under which others can load the encoder."""
    model = run.record.model
    return (model.base_model or model.source) if model else None


def _hub_name(run: Run) -> str | None:
    source = _base_model(run)
    is_name = source and HUB_NAME.fullmatch(source) and not Path(source).exists()
    return source if is_name else None
