"""The API of vLLM: ``/classify``, ``/v1/models``, and loading of adapters while the server runs."""

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
    """A classification request."""

    model: str | None = Field(
        None, description="Name of the classifier. Default: the server's first classifier"
    )
    input: str | list[str] = Field(examples=["vLLM is great!", ["a text", "another"]])
    use_activation: bool | None = Field(None, description="Set to false for logits instead of probabilities")
    truncate_prompt_tokens: int | None = Field(
        None,
        description="Any value truncates texts to the classifier's max_length. Default: the server's setting",
    )
    user: str | None = None


class ClassifyData(BaseModel):
    """The prediction for one text."""

    index: int
    label: str | None
    probs: list[float]
    num_classes: int


class ClassifyResponse(BaseModel):
    """The predictions for all texts."""

    id: str
    object: str = "list"
    created: int
    model: str
    data: list[ClassifyData]
    usage: dict[str, Any]


class LoadRequest(BaseModel):
    """A request to load a classifier."""

    lora_name: str = Field(
        description="Letters a-z and A-Z, digits, and . _ - /, at most 128; no segment is empty, . or .."
    )
    lora_path: str = Field(
        min_length=1, max_length=4096, description="Folder below the server's --adapter-root"
    )


class UnloadRequest(BaseModel):
    """A request to unload a classifier."""

    lora_name: str


def respond(error: RefusalError) -> Response:
    """Return an error response in vLLM's format."""
    status = error.kind.plain_status
    kind = TYPES.get(error.kind, "BadRequestError")
    return refused(
        error, {"error": {"message": str(error), "type": kind, "param": None, "code": status}}, status
    )


@router.post("/classify", response_model=ClassifyResponse)
@router.post("/v1/classify", response_model=ClassifyResponse)
async def classify(request: Request, body: ClassifyRequest) -> Response:
    """Return the most probable label of each text and the probabilities of all classes in order of their ids."""
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
    """Return all classifiers."""
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
    """Load a classifier from a folder. A classifier of the same name is replaced after answering its requests."""
    source = allowed_folder(request, body.lora_path)
    await service_of(request).load(body.lora_name, str(source))
    return f"Success: LoRA adapter '{body.lora_name}' added successfully."


@router.post("/v1/unload_lora_adapter", response_class=PlainTextResponse)
async def unload(request: Request, body: UnloadRequest) -> str:
    """Unload a classifier."""
    check_managed(request)
    await service_of(request).unload(body.lora_name)
    return f"Success: LoRA adapter '{body.lora_name}' removed successfully."


def check_managed(request: Request) -> Path:
    """Return the folder below which clients may load adapters.

    Raises:
        RefusalError: if the server was started without --api-key or --adapter-root.
    """
    settings = service_of(request).settings
    if settings.api_key is None or settings.adapter_root is None:
        raise RefusalError(
            Kind.FORBIDDEN,
            "loading and unloading adapters is disabled: start the server with --api-key and --adapter-root",
        )
    return settings.adapter_root


def allowed_folder(request: Request, path: str) -> Path:
    """Return the folder that a client names, if it is below --adapter-root after resolving symbolic links.

    Raises:
        RefusalError: if the folder is outside --adapter-root or does not exist.
    """
    root = check_managed(request).resolve()
    if "\0" in path:
        raise RefusalError(Kind.VALIDATION, "lora_path contains a NUL character")
    try:
        folder = (root / path).resolve()
        is_below, is_there = folder.is_relative_to(root) and folder != root, folder.is_dir()
    except (OSError, RuntimeError) as error:
        raise RefusalError(Kind.VALIDATION, "lora_path is not a valid path") from error
    if not is_below:
        raise RefusalError(Kind.FORBIDDEN, "lora_path is outside the server's --adapter-root")
    if not is_there:
        raise RefusalError(Kind.NOT_FOUND, "lora_path: this folder does not exist below --adapter-root")
    return folder
