"""The API of text-embeddings-inference (TEI) 1.9: ``/predict``, ``/info``, ``/health``.

It differs where TEI has known bugs: multi-label scores use a sigmoid, and each request is counted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from leantune.config.abstention_file import Abstention
from leantune.evaluation.abstention import is_answered, with_temperature
from leantune.serving.answer import Activation, Answer
from leantune.serving.http import answered, refused, require_key, service_of, until_gone
from leantune.serving.refusals import Kind, RefusalError
from leantune.serving.service import Served

router = APIRouter(tags=["text-embeddings-inference"])
keyed = APIRouter(tags=["text-embeddings-inference"], dependencies=[Depends(require_key)])

Text = str
Inputs = Text | list[Text] | list[list[Text]]


class Parameters(BaseModel):
    """Parameters that ``huggingface_hub.InferenceClient`` sends and TEI does not support."""

    function_to_apply: Activation | None = None
    top_k: int | None = Field(default=None, ge=1)


class PredictRequest(BaseModel):
    """A classification request."""

    inputs: Inputs = Field(
        description="A text; a text pair as a list of two texts; or a batch, a list of lists of one or two texts",
        examples=["What is Deep Learning?", [["What is Deep Learning?"], ["a text", "its pair"]]],
    )
    truncate: bool | None = Field(
        None,
        description="Truncate long texts instead of refusing them. Default: the server's setting",
    )
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = Field(
        None, description="Side that is truncated. Default: the side used in training"
    )
    raw_scores: bool = Field(False, description="Logits instead of probabilities")
    abstain: bool = Field(
        False,
        description="Calibrated probabilities, and no label for a text below the threshold set by leantune abstain",
    )
    parameters: Parameters | None = Field(
        None,
        description="Parameters of the Hugging Face Inference API, which returns a list even for a single text",
    )
    model: str | None = Field(
        None, description="Name of the classifier. Default: the server's first classifier"
    )


class Prediction(BaseModel):
    """A label and its score."""

    score: float
    label: str


class ErrorResponse(BaseModel):
    """An error."""

    error: str
    error_type: str


def respond(error: RefusalError) -> Response:
    """Return an error response in TEI's format."""
    return refused(error, {"error": str(error), "error_type": error.kind.tei_name}, error.kind.status)


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 401, 404, 413, 422, 424, 429, 503, 504)
}


@keyed.post("/predict", response_model=list[Prediction] | list[list[Prediction]], responses=ERRORS)
@keyed.post("/invocations", response_model=list[Prediction] | list[list[Prediction]], responses=ERRORS)
@keyed.post("/", response_model=list[Prediction] | list[list[Prediction]], responses=ERRORS)
async def predict(
    request: Request, body: PredictRequest, model: Annotated[str | None, Query()] = None
) -> Response:
    """Return all labels of each text with their scores, the highest first."""
    service = service_of(request)
    served = service.get(body.model or model)
    texts, pairs, is_batch = parts_of(body.inputs)
    if body.abstain and served.description.abstention is None:
        raise RefusalError(
            Kind.VALIDATION, "`abstain`: this classifier has no threshold; set one with leantune abstain"
        )

    async def work() -> Answer:
        if any(not any(row) for row in zip(texts, *([] if pairs is None else [pairs]), strict=True)):
            raise RefusalError(Kind.EMPTY, "`inputs` cannot be empty")
        return await service.classify(
            served,
            texts,
            pairs,
            truncate=body.truncate,
            side=body.truncation_direction.lower() if body.truncation_direction else None,
            until_gone=lambda: until_gone(request),
        )

    def say(answer: Answer) -> Response:
        parameters = body.parameters or Parameters()
        if body.abstain:
            predictions = trusted_predictions_of(answer, served.description.abstention, parameters.top_k)
        else:
            activation = "none" if body.raw_scores else parameters.function_to_apply
            predictions = predictions_of(answer, activation, parameters.top_k)
        headers = headers_of(answer, sum(map(len, texts)) + sum(map(len, pairs or ())))
        is_list = is_batch or body.parameters is not None
        return JSONResponse(predictions if is_list else predictions[0], headers=headers)

    return await answered(request, served.name, "batch" if is_batch else "single", texts, work, say)


def parts_of(inputs: Inputs) -> tuple[list[Text], list[Text] | None, bool]:
    """Return first texts, second texts or None, and whether the request is a batch.

    Raises:
        RefusalError: if the inputs have none of the three forms.

    >>> parts_of("t"), parts_of(["a", "b"]), parts_of([["a"], ["c"]])
    ((['t'], None, False), (['a'], ['b'], False), (['a', 'c'], None, True))
    """
    if isinstance(inputs, str):
        return [inputs], None, False
    if not inputs:
        raise RefusalError(Kind.EMPTY, "`inputs` cannot be empty")
    is_batch = not isinstance(inputs[0], str)
    rows = [row if isinstance(row, list) else [row] for row in inputs] if is_batch else [inputs]
    sizes = {len(row) for row in rows}
    if not sizes <= {1, 2}:
        raise RefusalError(
            Kind.VALIDATION,
            "`inputs` must be a text, a pair of two texts, or a batch: a list of lists of one or two texts. Got a "
            f"list of {max(sizes)} texts; write a batch of single texts as [[text], [text], ...]",
        )
    if len(sizes) > 1:
        raise RefusalError(
            Kind.VALIDATION, "`inputs` mixes single texts and text pairs; send only one of the two kinds"
        )
    firsts = [str(row[0]) for row in rows]
    return firsts, [str(row[1]) for row in rows] if sizes == {2} else None, is_batch


def predictions_of(
    answer: Answer, activation: Activation | None, top_k: int | None
) -> list[list[dict[str, Any]]]:
    """Return the ``top_k`` labels of each text, or all labels for None, the highest score first."""
    return [ranked(answer.labels, row, top_k) for row in answer.scores(activation)]


def ranked(labels: Sequence[str], scores: npt.NDArray[np.float64], top_k: int | None) -> list[dict[str, Any]]:
    """Return labels with their scores, the highest first."""
    return [{"score": float(scores[i]), "label": labels[i]} for i in (-scores).argsort(kind="stable")[:top_k]]


def trusted_predictions_of(
    answer: Answer, abstention: Abstention | None, top_k: int | None
) -> list[list[dict[str, Any]]]:
    """Return calibrated scores of each text, and an empty list for a text below the threshold."""
    assert abstention is not None
    calibrated = with_temperature(answer.scores("softmax"), abstention.temperature)
    answers = is_answered(calibrated, abstention, answer.labels, per_class=False)
    return [
        ranked(answer.labels, row, top_k) if ok else [] for row, ok in zip(calibrated, answers, strict=True)
    ]


def headers_of(answer: Answer, num_characters: int) -> dict[str, str]:
    """Return TEI's headers (characters, tokens, milliseconds) and the number of truncated texts, which TEI lacks."""
    times = {
        "x-compute-time": answer.tokenization_s + answer.inference_s,
        "x-total-time": answer.total_s,
        "x-tokenization-time": answer.tokenization_s,
        "x-queue-time": answer.queue_s,
        "x-inference-time": answer.inference_s,
    }
    return {
        "x-compute-type": "cpu",
        "x-compute-characters": str(num_characters),
        "x-compute-tokens": str(answer.num_tokens),
        "x-truncated-texts": str(answer.num_truncated),
        **{name: str(round(seconds * 1000)) for name, seconds in times.items()},
    }


@router.get("/health", responses={503: {"model": ErrorResponse}})
@router.get("/ping", responses={503: {"model": ErrorResponse}})
async def health(request: Request) -> Response:
    """Report whether the server accepts requests: 200 without a body, or 503."""
    if service_of(request).is_ready:
        return Response()
    return respond(RefusalError(Kind.UNHEALTHY, "unhealthy"))


@keyed.get("/info")
async def info(request: Request, model: Annotated[str | None, Query()] = None) -> dict[str, Any]:
    """Return the description and the limits of a classifier, by default the first one."""
    service = service_of(request)
    return described(service.get(model), request)


def described(served: Served, request: Request) -> dict[str, Any]:
    """Return the content of ``/info`` for a classifier."""
    from leantune._version import __version__

    service, description = service_of(request), served.description
    settings = service.settings
    labels = description.labels
    return {
        "model_id": description.source,
        "model_sha": description.sha256,
        "model_dtype": {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(
            description.precision, description.precision
        ),
        "served_model_name": served.name,
        "model_type": {
            "classifier": {
                "id2label": {str(i): label for i, label in enumerate(labels)},
                "label2id": {label: i for i, label in enumerate(labels)},
            }
        },
        "takes_pairs": description.takes_pairs,
        "is_multi_label": description.is_multi_label,
        "thresholds": description.thresholds,
        "max_concurrent_requests": settings.max_concurrent_requests,
        "max_input_length": description.max_length,
        "max_batch_tokens": settings.max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_client_batch_size,
        "auto_truncate": settings.auto_truncate,
        "tokenization_workers": 1,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }
