"""Explanation of a finished run's predictions by the nearest training texts and the weight of each word."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leantune.config import Recipe, recipe_of_run
from leantune.config.record.run import FinishedRecord, read_finished_record, to_json
from leantune.config.rows_to_check import NearRow, Part, read_rows_to_check
from leantune.data.label_sets import named
from leantune.data.text.read import ExampleSource
from leantune.data.tokens.dataset import LabelledRows
from leantune.data.tokens.tokenization import Encoded
from leantune.errors import UsageError
from leantune.evaluation.batches import map_batches, map_own_rows
from leantune.evaluation.nearest import kept_features, nearest
from leantune.inference.load import artefact_of, load_merged_transformers, load_run, require_run
from leantune.inference.text_classifier import TorchTextClassifier, batch_of
from leantune.questions.explain.attribution import WordAttribution, has_captum
from leantune.questions.explain.explanation import Explanation, WordWeights
from leantune.system import hardware
from leantune.system.messages import nearest as nearest_word
from leantune.system.messages import shown
from leantune.training.after.rows_again import read_rows_again, texts_at
from leantune.training.before.dataset import PreparedData

NEAREST = 3
WITHOUT_ROWS = "explain with word weights only (nearest 0)"
MEASURED: tuple[Part, ...] = ("test", "validation")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedError:
    """A wrong prediction of a run and its explanation."""

    part: Part
    row: int
    """Row number in the file of the split, from 0."""
    label: str
    """The given label."""
    explanation: Explanation


def explain(
    run: Path,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    count: int = NEAREST,
    with_words: bool | None = None,
    class_name: str | None = None,
    trust_remote_code: bool = False,
) -> list[Explanation]:
    """Explain the predictions of N texts.

    Args:
        run: the folder of a finished run.
        texts: N texts.
        pairs: N second texts, for a text pair classifier.
        count: number of nearest training texts; with 0, the training rows are not read.
        with_words: whether to compute word weights, which needs captum; None: if captum is installed.
        class_name: class whose logit the weights explain; None for the predicted class of each text.
        trust_remote_code: whether to run code that comes with the model.

    Raises:
        UsageError: if ``run`` is not a run folder, the class does not exist, the training rows are not available, or
            captum is not installed.
        DataError: if the training rows have changed, or a text is invalid.
        CheckpointError: if the run is damaged.
    """
    record, recipe = _finished(run)
    classifier = load_run(run, trust_remote_code=trust_remote_code)
    if class_name is not None and class_name not in classifier.labels.names:
        raise UsageError(
            f"{run}: unknown class {shown(class_name)}{nearest_word(class_name, classifier.labels.names)}"
        )
    data = read_rows_again(run, record, recipe, advice=WITHOUT_ROWS) if count else None
    return _explained(
        run, record, classifier, data, texts, pairs, count=count, with_words=with_words, class_name=class_name,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip


def explain_errors(
    run: Path, *, count: int = NEAREST, trust_remote_code: bool = False
) -> list[ExplainedError]:
    """Explain the wrong predictions recorded in a run, with word weights for the predicted class.

    Args:
        run: the folder of a finished run.
        count: number of nearest training texts for each prediction.
        trust_remote_code: whether to run code that comes with the model.

    Raises:
        UsageError, DataError, CheckpointError: see `explain`; also UsageError if no wrong predictions are recorded.
    """
    record, recipe = _finished(run)
    wrong = [row for row in read_rows_to_check(run) if row.finding == "wrong"]
    if not wrong:
        raise UsageError(f"{run}: the run recorded no wrong predictions; explain a text of your own instead")
    wrong.sort(key=lambda row: (MEASURED.index(row.part), -(row.probability or 0.0)))
    data = read_rows_again(
        run, record, recipe, advice="explain a text of your own instead", with_test=bool(recipe.test)
    )
    read = {
        part: texts_at(_source_of(data, recipe, part), {row.row for row in wrong if row.part == part})
        for part in MEASURED
        if any(row.part == part for row in wrong)
    }
    found = [read[row.part][row.row] for row in wrong]
    pairs = [pair for _, pair in found if pair is not None]
    explanations = _explained(
        run,
        record,
        load_run(run, trust_remote_code=trust_remote_code),
        data,
        [text for text, _ in found],
        pairs or None,
        count=count,
        with_words=None,
        class_name=None,
        trust_remote_code=trust_remote_code,
    )
    return [
        ExplainedError(part=row.part, row=row.row, label=row.label, explanation=each)
        for row, each in zip(wrong, explanations, strict=True)
    ]


def _finished(run: Path) -> tuple[FinishedRecord, Recipe]:
    require_run(run)
    record = read_finished_record(run)
    return record, recipe_of_run(run, record.recipe)


def _source_of(data: PreparedData, recipe: Recipe, part: Part) -> ExampleSource:
    """Return the source of a split. Held-out validation rows come from the training file."""
    return data.sources["train" if part == "validation" and not recipe.validation else part]


def _explained(
    run: Path,
    record: FinishedRecord,
    classifier: TorchTextClassifier,
    data: PreparedData | None,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    *,
    count: int,
    with_words: bool | None,
    class_name: str | None,
    trust_remote_code: bool,
) -> list[Explanation]:
    probabilities = classifier.predict_proba(texts, pairs)  # also checks texts and pairs
    best = probabilities.argmax(axis=1)
    wanted = best if class_name is None else np.full(len(best), classifier.labels.names.index(class_name))
    near: Sequence[Sequence[NearRow]] = [()] * len(texts)
    if data is not None and len(texts):
        near = _near_texts(run, record, classifier, data, classifier.tokenizer.encode(texts, pairs), count)
    weights: Sequence[WordWeights | None] = [None] * len(texts)
    if has_captum() if with_words is None else with_words:
        model = load_merged_transformers(
            artefact_of(run, "merged", trust_remote_code=trust_remote_code),
            trust_remote_code=trust_remote_code,
        )
        attribution = WordAttribution(model.to(hardware.pick_device()), classifier.tokenizer)
        weights = [
            attribution.weights(
                text,
                None if pairs is None else pairs[i],
                class_id=int(wanted[i]),
                class_name=classifier.labels.names[wanted[i]],
            )
            for i, text in enumerate(texts)
        ]
    return [
        Explanation(
            text=text,
            pair=None if pairs is None else pairs[i],
            label=classifier.labels.names[best[i]],
            probability=float(probabilities[i, best[i]]),
            nearest=tuple(near[i]),
            attribution=weights[i],
        )
        for i, text in enumerate(texts)
    ]


def _near_texts(
    run: Path,
    record: FinishedRecord,
    classifier: TorchTextClassifier,
    data: PreparedData,
    encoded: Encoded,
    count: int,
) -> list[list[NearRow]]:
    model, batch_size = classifier.classifier, classifier.settings.batch_size
    queries = map_batches(
        model,
        encoded.lengths,
        batch_size,
        lambda positions: batch_of(encoded, positions, model),
        model.features,
    )
    key = _key_of(record, data.train, model.encoder_precision)
    vectors = kept_features(run, key, lambda: map_own_rows(model, data.train, batch_size, model.features))
    positions, cosines = nearest(queries, vectors, count)
    read = texts_at(data.sources["train"], set(data.train.row_of[positions.reshape(-1)].tolist()))
    found = []
    for own_positions, own_cosines in zip(positions.tolist(), cosines.tolist(), strict=True):
        rows = [int(data.train.row_of[position]) for position in own_positions]
        found.append(
            [
                NearRow(
                    row=row,
                    label=named(classifier.labels.names, data.train.label_ids[position]),
                    cosine=cosine,
                    text=read[row][0],
                    pair=read[row][1],
                )
                for row, position, cosine in zip(rows, own_positions, own_cosines, strict=True)
            ]
        )
    return found


def _key_of(record: FinishedRecord, rows: LabelledRows, precision: str) -> str:
    """Return a cache key that depends on the weights, the rows and the precision."""
    parts = [record.run_id, to_json(record.artefacts["merged"].files), rows.tables[0].source_sha256]
    positions = hashlib.sha256(rows.row_of.tobytes()).hexdigest()
    return hashlib.sha256(json.dumps([*parts, positions, precision], sort_keys=True).encode()).hexdigest()
