"""The deployable forms of a run, each as a function from texts to probabilities.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from leantune.errors import DataError, UsageError
from leantune.evaluation.metrics import Floats
from leantune.inference.engines.choose import load_engine
from leantune.inference.load import load, load_merged_transformers
from leantune.inference.saved import read_saved
from leantune.packing.padded import padded_inputs

SERVER_TEXTS = 256
"""Number of texts in a request to a server."""
EXPORTS = ("onnx", "onnx-int8", "openvino", "openvino-int8")

Texts: TypeAlias = Sequence[str]
Predict: TypeAlias = Callable[[Texts, Texts | None], Floats]
"""Function from texts, and second texts of pairs or None, to probabilities ``(N, C)``."""


@dataclass(frozen=True, slots=True)
class Form:
    """A deployable form of a run."""

    name: str
    open: Callable[[], Predict]
    folder: Path | None
    """Folder of the form's files; None for a server."""


def forms_of(run: Path, url: str | None) -> list[Form]:
    """Return all possible forms of a run. The first one is the measured classifier.

    Args:
        run: the run folder.
        url: URL of a server with the API of text-embeddings-inference; None for no server.
    """

    def engine(name: str) -> Predict:
        return load_engine(name, run).predict_proba

    forms = [
        Form("as measured", lambda: load(run).predict_proba, run / "merged"),
        Form("adapter", lambda: load(run / "adapter").predict_proba, run / "adapter"),
        Form("merged, fp32", lambda: load(run, precision="fp32").predict_proba, run / "merged"),
        Form("merged, transformers", partial(_in_transformers, run), run / "merged"),
        Form("merged, int8", lambda: load(run, precision="int8").predict_proba, run / "merged"),
        *(Form(name, partial(engine, name), run / name) for name in EXPORTS),
    ]
    if url is not None:
        forms.append(Form(f"server {url}", partial(_of_server, url, read_saved(run).labels), None))
    return forms


def _in_transformers(run: Path) -> Predict:
    """Load the merged model in transformers, with padding and in fp32."""
    import torch

    model, trained = load_merged_transformers(run / "merged"), load(run, precision="fp32")
    pad_id, size = model.config.pad_token_id or 0, trained.settings.batch_size
    has_types = getattr(model.config, "type_vocab_size", 0) > 1

    def predict(texts: Texts, pairs: Texts | None) -> Floats:
        rows = trained.tokenizer.encode(texts, pairs)
        order = np.argsort(rows.lengths, kind="stable")
        found = np.empty((len(texts), len(trained.labels.names)))
        for start in range(0, len(order), size):
            positions = order[start : start + size]
            inputs = padded_inputs(
                [rows.input_ids[i] for i in positions],
                rows.second_starts[positions].tolist(),
                length=int(rows.lengths[positions].max()),
                pad_id=pad_id,
            )
            tensors = {
                name: torch.from_numpy(each)
                for name, each in inputs.items()
                if has_types or "type" not in name
            }
            with torch.inference_mode():
                found[positions] = model(**tensors).logits.double().softmax(-1).numpy()
        return found

    return predict


def _of_server(url: str, classes: Sequence[str]) -> Predict:
    """Return a function that asks a server with the API of text-embeddings-inference."""
    column = {name: i for i, name in enumerate(classes)}

    def predict(texts: Texts, pairs: Texts | None) -> Floats:
        found = np.zeros((len(texts), len(classes)))
        for start in range(0, len(texts), SERVER_TEXTS):
            rows = range(start, min(start + SERVER_TEXTS, len(texts)))
            inputs = [[texts[i]] if pairs is None else [texts[i], pairs[i]] for i in rows]
            for i, answers in zip(rows, _ask(url, {"inputs": inputs, "truncate": True}), strict=True):
                for answer in answers:
                    if answer["label"] not in column:
                        raise DataError(
                            f"{url}: the server returned the label {answer['label']!r}, which the run does not have"
                        )
                    found[i, column[answer["label"]]] = answer["score"]
        return found

    _ask(url, {"inputs": [["a text"]], "truncate": True})  # check that the server answers
    return predict


def _ask(url: str, body: object) -> list[list[dict[str, float | str]]]:
    """Return the answer to a request to ``/predict``."""
    request = urllib.request.Request(
        f"{url.rstrip('/')}/predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: list[list[dict[str, float | str]]] = json.loads(answer.read())
            return found
    except (urllib.error.URLError, ValueError) as error:
        raise UsageError(
            f"{url}/predict: no valid answer in the format of text-embeddings-inference ({error})"
        ) from error
