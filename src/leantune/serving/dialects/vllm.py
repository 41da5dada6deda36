"""The dialect of vLLM: ``/classify``, ``/v1/models``, and adapters that are loaded while the server runs."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field

from leantune.serving.answer import Answer
from leantune.serving.http import answered, refused, require_key, service_of, until_gone
from leantune.serving.refusals import Kind, RefusalError

router = APIRouter(tags=["vLLM"], dependencies=[Depends(require_key)])

TYPES = {
    Kind.NOT_FOUND: "NotFoundError",
    Kind.UNAUTHORIZED: "AuthenticationError",
    Kind.FORBIDDEN: "PermissionDeniedError",
    Kind.OVERLOADED: "RateLimitError",
    Kind.BACKEND: "InternalServerError",
    Kind.UNHEALTHY: "ServiceUnavailableError",
    Kind.TIMEOUT: "GatewayTimeoutError",
}


class ClassifyRequest(BaseModel):
    """What is to be classified."""

    model: str | None = Field(None, description="The classifier; default: the first one of the server")
    input: str | list[str] = Field(examples=["vLLM is great!", ["a text", "another"]])
    use_activation: bool | None = Field(None, description="False: logits instead of probabilities")
    truncate_prompt_tokens: int | None = Field(
        None,
        description="-1 or the classifier's length: cut longer texts; default: as the server was started",
    )
    user: str | None = None


class ClassifyData(BaseModel):
    """The classes of one text."""

    index: int
    label: str | None
    probs: list[float]
    num_classes: int


class ClassifyResponse(BaseModel):
    """The classes of all texts."""

    id: str
    object: str = "list"
    created: int
    model: str
    data: list[ClassifyData]
    usage: dict[str, Any]


class LoadRequest(BaseModel):
    """A classifier to be served."""

    lora_name: str = Field(min_length=1, max_length=200)
    lora_path: str = Field(
        min_length=1, max_length=4096, description="A folder below the server's --adapter-root"
    )


class UnloadRequest(BaseModel):
    """A classifier to be served no more."""

    lora_name: str


def respond(error: RefusalError) -> Response:
    """A refusal in the words of vLLM."""
    status = error.kind.plain_status
    kind = TYPES.get(error.kind, "BadRequestError")
    return refused(
        error, {"error": {"message": str(error), "type": kind, "param": None, "code": status}}, status
    )


@router.post("/classify", response_model=ClassifyResponse)
@router.post("/v1/classify", response_model=ClassifyResponse)
async def classify(request: Request, body: ClassifyRequest) -> Response:
    """The most probable label of each text, and the probabilities of all in the order of their ids."""
    service = service_of(request)
    served = service.get(body.model)
    texts = [body.input] if isinstance(body.input, str) else body.input

    async def work() -> Answer:
        return await service.classify(
            served,
            texts,
            truncate=True if body.truncate_prompt_tokens is not None else None,
            until_gone=lambda: until_gone(request),
        )

    def say(answer: Answer) -> Response:
        scores = answer.scores("none" if body.use_activation is False else None)
        data = [
            {
                "index": i,
                "label": answer.labels[int(row.argmax())],
                "probs": row.tolist(),
                "num_classes": len(row),
            }
            for i, row in enumerate(scores)
        ]
        usage = {
            "prompt_tokens": answer.num_tokens,
            "total_tokens": answer.num_tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        }
        return JSONResponse(
            {
                "id": f"classify-{uuid.uuid4().hex}",
                "object": "list",
                "created": int(time.time()),
                "model": served.name,
                "data": data,
                "usage": usage,
            }
        )

    return await answered(
        request, served.name, "single" if isinstance(body.input, str) else "batch", texts, work, say
    )


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """All classifiers."""
    service = service_of(request)
    return {
        "object": "list",
        "data": [
            {
                "id": name,
                "object": "model",
                "created": service.get(name).created,
                "owned_by": "leantune",
                "root": service.get(name).description.source,
                "parent": None,
                "max_model_len": service.get(name).description.max_length,
                "permission": [],
            }
            for name in service.names
        ],
    }


@router.post("/v1/load_lora_adapter", response_class=PlainTextResponse)
async def load(request: Request, body: LoadRequest) -> str:
    """Serve a classifier from a folder, in place of one of the same name, whose requests are still answered."""
    source = allowed_folder(request, body.lora_path)
    await service_of(request).load(body.lora_name, str(source))
    return f"Success: LoRA adapter '{body.lora_name}' added successfully."


@router.post("/v1/unload_lora_adapter", response_class=PlainTextResponse)
async def unload(request: Request, body: UnloadRequest) -> str:
    """Serve a classifier no more."""
    check_managed(request)
    await service_of(request).unload(body.lora_name)
    return f"Success: LoRA adapter '{body.lora_name}' removed successfully."


def check_managed(request: Request) -> Path:
    """The folder below which adapters may be.

    Raises:
        RefusalError: if the server was not started to be managed.
    """
    settings = service_of(request).settings
    if settings.api_key is None or settings.adapter_root is None:
        raise RefusalError(
            Kind.FORBIDDEN,
            "adapters can be loaded and unloaded where the server has --api-key and --adapter-root",
        )
    return settings.adapter_root


def allowed_folder(request: Request, path: str) -> Path:
    """The folder that a client names, if it is below the allowed one; links are followed before that is decided.

    Raises:
        RefusalError: if it is elsewhere, or not there.
    """
    root = check_managed(request).resolve()
    if "\0" in path:
        raise RefusalError(Kind.VALIDATION, "lora_path holds a NUL")
    try:
        folder = (root / path).resolve()
        is_below, is_there = folder.is_relative_to(root) and folder != root, folder.is_dir()
    except (OSError, RuntimeError) as error:
        raise RefusalError(Kind.VALIDATION, "lora_path is no path of a folder") from error
    if not is_below:
        raise RefusalError(
            Kind.FORBIDDEN, "lora_path leads out of the folder that the server was given as --adapter-root"
        )
    if not is_there:
        raise RefusalError(Kind.NOT_FOUND, "lora_path: no such folder below --adapter-root")
    return folder
