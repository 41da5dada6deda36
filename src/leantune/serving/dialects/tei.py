"""The dialect of text-embeddings-inference 1.9: ``/predict``, ``/info``, ``/health``.

Where TEI is known to be wrong, this is right: several labels a text have scores by themselves, and requests count once.
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
    """What ``huggingface_hub.InferenceClient`` sends beside a text, and TEI does not have."""

    function_to_apply: Activation | None = None
    top_k: int | None = Field(default=None, ge=1)


class PredictRequest(BaseModel):
    """What is to be classified."""

    inputs: Inputs = Field(
        description="One text; one pair of texts as a list of two; or a list of lists of one or two texts, a batch",
        examples=["What is Deep Learning?", [["What is Deep Learning?"], ["a text", "its pair"]]],
    )
    truncate: bool | None = Field(
        None,
        description="Cut texts that are too long; else they are refused. Default: as the server was started",
    )
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = Field(
        None, description="The end that is cut off. Default: as the classifier was trained"
    )
    raw_scores: bool = Field(False, description="Logits instead of probabilities")
    abstain: bool = Field(
        False,
        description="Calibrated probabilities, and no label for a text below the threshold that leantune abstain chose",
    )
    parameters: Parameters | None = Field(
        None,
        description="Of the Hugging Face Inference API, which answers with a list for each text, for one, too",
    )
    model: str | None = Field(None, description="The classifier; default: the first one of the server")


class Prediction(BaseModel):
    """A label and its score."""

    score: float
    label: str


class ErrorResponse(BaseModel):
    """Why there is no answer."""

    error: str
    error_type: str


def respond(error: RefusalError) -> Response:
    """A refusal in the words of TEI."""
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
    """All labels of each text with their scores, the highest first."""
    service = service_of(request)
    served = service.get(body.model or model)
    texts, pairs, is_batch = parts_of(body.inputs)
    if body.abstain and served.description.abstention is None:
        raise RefusalError(
            Kind.VALIDATION, "`abstain`: no threshold was chosen for this classifier: leantune abstain"
        )

    async def work() -> Answer:
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
    """First texts, second texts or None, and whether it was a batch.

    Raises:
        RefusalError: for what is none of the three forms.

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
            f"list of {max(sizes)}; a batch of single texts is [[text], [text], ...]",
        )
    if len(sizes) > 1:
        raise RefusalError(
            Kind.VALIDATION, "`inputs` holds single texts and pairs; a classifier takes one of both"
        )
    firsts = [str(row[0]) for row in rows]
    return firsts, [str(row[1]) for row in rows] if sizes == {2} else None, is_batch


def predictions_of(
    answer: Answer, activation: Activation | None, top_k: int | None
) -> list[list[dict[str, Any]]]:
    """All labels of each text, or ``top_k``, the highest score first."""
    return [ranked(answer.labels, row, top_k) for row in answer.scores(activation)]


def ranked(labels: Sequence[str], scores: npt.NDArray[np.float64], top_k: int | None) -> list[dict[str, Any]]:
    """Labels with their scores, the highest first."""
    return [{"score": float(scores[i]), "label": labels[i]} for i in (-scores).argsort(kind="stable")[:top_k]]


def trusted_predictions_of(
    answer: Answer, abstention: Abstention | None, top_k: int | None
) -> list[list[dict[str, Any]]]:
    """Calibrated scores of each text; of one that is below the threshold nothing."""
    assert abstention is not None
    calibrated = with_temperature(answer.scores("softmax"), abstention.temperature)
    answers = is_answered(calibrated, abstention, answer.labels, per_class=False)
    return [
        ranked(answer.labels, row, top_k) if ok else [] for row, ok in zip(calibrated, answers, strict=True)
    ]


def headers_of(answer: Answer, num_characters: int) -> dict[str, str]:
    """What TEI says of the work: characters, tokens, and milliseconds; and how many texts were cut, as it does not."""
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
    """Whether requests are wanted: 200 without a body, or 503."""
    if service_of(request).is_ready:
        return Response()
    return respond(RefusalError(Kind.UNHEALTHY, "unhealthy"))


@keyed.get("/info")
async def info(request: Request, model: Annotated[str | None, Query()] = None) -> dict[str, Any]:
    """What is served, and within which limits; of one classifier, by default the first."""
    service = service_of(request)
    return described(service.get(model), request)


def described(served: Served, request: Request) -> dict[str, Any]:
    """``/info`` of a classifier."""
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
