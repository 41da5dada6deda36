"""The Open Inference Protocol, version 2, of KServe and Triton at ``/v2``. Triton's binary tensors are accepted."""

from __future__ import annotations

import struct
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from leantune.data.label_column import SEPARATOR
from leantune.serving.answer import Answer
from leantune.serving.http import answered, refused, require_key, service_of, until_gone
from leantune.serving.refusals import Kind, RefusalError

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
keyed = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], dependencies=[Depends(require_key)])

JSON_LENGTH = "inference-header-content-length"
"""Header with the length in bytes of the JSON that precedes binary tensors in a body."""
CLASS_IDS, LABELS, PROBABILITIES = "output-0", "labels", "probabilities"


class InputTensor(BaseModel):
    """A tensor of texts."""

    name: str
    shape: list[int] = Field(examples=[[2]])
    datatype: str = Field(examples=["BYTES"])
    data: list[Any] | None = Field(None, examples=[["a text", "another"]])
    parameters: dict[str, Any] | None = None


class OutputName(BaseModel):
    """A requested output."""

    name: str = Field(description="output-0: class ids; labels; probabilities")
    parameters: dict[str, Any] | None = None


class InferRequest(BaseModel):
    """A classification request with one input of texts, or two for a classifier of text pairs."""

    inputs: list[InputTensor] = Field(min_length=1, max_length=2)
    outputs: list[OutputName] | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None


def respond(error: RefusalError) -> Response:
    """Return an error response in the format of the protocol."""
    return refused(error, {"error": str(error)}, error.kind.plain_status)


@router.get("")
async def server_metadata() -> dict[str, Any]:
    """Return the server's name, version and extensions."""
    from leantune._version import __version__

    return {"name": "leantune", "version": __version__, "extensions": ["binary_tensor_data"]}


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """Report that the server is alive."""
    return {"live": True}


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """Report whether the server accepts requests."""
    if service_of(request).is_ready:
        return JSONResponse({"ready": True})
    return respond(RefusalError(Kind.UNHEALTHY, "not ready"))


# A name may contain slashes. The lower of two decorators adds its path first, and the first path that fits is used.
@keyed.get("/models/{model:path}/ready")
@keyed.get("/models/{model:path}/versions/1/ready")
async def model_ready(request: Request, model: str) -> Response:
    """Report whether a classifier is ready."""
    served = service_of(request).get(model)
    if not service_of(request).is_ready:
        return respond(RefusalError(Kind.UNHEALTHY, f"{served.name} is not ready"))
    return JSONResponse({"name": served.name, "ready": True})


@keyed.get("/models/{model:path}")
@keyed.get("/models/{model:path}/versions/1")
async def model_metadata(request: Request, model: str) -> dict[str, Any]:
    """Return the inputs and outputs of a classifier."""
    served = service_of(request).get(model)
    num_classes = len(served.description.labels)
    return {
        "name": served.name,
        "versions": ["1"],
        "platform": "leantune",
        "inputs": [{"name": "input-0", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {
                "name": CLASS_IDS,
                "datatype": "INT64",
                "shape": [-1, num_classes] if served.description.is_multi_label else [-1],
            },
            {"name": LABELS, "datatype": "BYTES", "shape": [-1]},
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, num_classes]},
        ],
    }


def _schema() -> dict[str, Any]:
    """Return the inlined JSON schema of `InferRequest`. FastAPI cannot derive it, because `_parsed` reads the body."""
    whole = InferRequest.model_json_schema()
    parts = whole.pop("$defs")

    def inlined(node: Any) -> Any:
        if isinstance(node, list):
            return [inlined(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return inlined(parts[node["$ref"].rpartition("/")[2]])
        return {name: inlined(value) for name, value in node.items()}

    schema: dict[str, Any] = inlined(whole)
    return schema


_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": _schema()}}}}


@keyed.post("/models/{model:path}/infer", openapi_extra=_BODY)
@keyed.post("/models/{model:path}/versions/1/infer", openapi_extra=_BODY)
async def infer(request: Request, model: str) -> Response:
    """Return class ids of texts, and labels and probabilities if the request asks for them."""
    service = service_of(request)
    served = service.get(model)
    body, tensors = await _parsed(request)
    unknown = {each.name for each in body.outputs or ()} - {CLASS_IDS, LABELS, PROBABILITIES}
    if unknown:
        raise RefusalError(
            Kind.VALIDATION,
            f"unknown output {sorted(unknown)[0][:100]}; expected {CLASS_IDS}, {LABELS} or {PROBABILITIES}",
        )
    texts, pairs = tensors[0], tensors[1] if len(tensors) > 1 else None

    async def work() -> Answer:
        return await service.classify(served, texts, pairs, until_gone=lambda: until_gone(request))

    def say(answer: Answer) -> Response:
        wanted = [each.name for each in body.outputs] if body.outputs else [CLASS_IDS]
        content = {"model_name": served.name, "model_version": "1", "outputs": outputs_of(answer, wanted)}
        return JSONResponse(content | ({"id": body.id} if body.id else {}))

    return await answered(request, served.name, "batch" if len(texts) > 1 else "single", texts, work, say)


def outputs_of(answer: Answer, names: list[str]) -> list[dict[str, Any]]:
    """Return tensors as JSON with flat data in row-major order.

    If a text may have several labels, class ids are 0 or 1 for each class, and labels are joined by ``|``.
    """
    scores, count = answer.scores(), len(answer.logits)
    chosen = answer.predicted()
    ids = chosen.argmax(axis=1) if not answer.is_multi_label else chosen.astype(int)
    labels = [SEPARATOR.join(answer.labels[i] for i in row.nonzero()[0]) for row in chosen]
    tensors = {
        CLASS_IDS: {"datatype": "INT64", "shape": list(ids.shape), "data": ids.ravel().tolist()},
        LABELS: {"datatype": "BYTES", "shape": [count], "data": labels},
        PROBABILITIES: {"datatype": "FP32", "shape": list(scores.shape), "data": scores.ravel().tolist()},
    }
    return [{"name": name, **tensors[name]} for name in names]


async def _parsed(request: Request) -> tuple[InferRequest, list[list[str]]]:
    """Return the request and the texts of each of its inputs.

    Raises:
        RefusalError: if the body is not a valid request.
    """
    raw = await request.body()
    said = request.headers.get(JSON_LENGTH)
    if said is not None and not (said.isascii() and said.isdecimal() and int(said[:12]) <= len(raw)):
        raise RefusalError(Kind.VALIDATION, f"{JSON_LENGTH} must be the length of the body's JSON in bytes")
    size = len(raw) if said is None else int(said)
    try:
        body = InferRequest.model_validate_json(raw[:size])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise RefusalError(Kind.VALIDATION, f"{place}: {first['msg']}") from error
    binary = memoryview(raw)[size:]
    tensors = []
    for tensor in body.inputs:
        parameters = tensor.parameters or {}
        length = parameters.get("binary_data_size")
        if length is None:
            texts = _texts_of(tensor)
        else:
            if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= len(binary):
                raise RefusalError(
                    Kind.VALIDATION,
                    f"{tensor.name[:100]}: binary_data_size must be an integer of at most the remaining bytes of the "
                    "body",
                )
            texts, binary = _binary_texts(binary[:length], tensor), binary[length:]
        expected = 1
        for size_of_axis in tensor.shape:
            expected *= size_of_axis
        if expected != len(texts):
            raise RefusalError(
                Kind.VALIDATION,
                f"{tensor.name[:100]}: shape {tensor.shape[:10]} does not match {len(texts)} texts",
            )
        tensors.append(texts)
    if len({len(texts) for texts in tensors}) > 1:
        raise RefusalError(
            Kind.VALIDATION, "the two inputs of a text pair classifier must have equal lengths"
        )
    return body, tensors


def _texts_of(tensor: InputTensor) -> list[str]:
    if tensor.datatype != "BYTES":
        raise RefusalError(Kind.VALIDATION, f"datatype {tensor.datatype[:20]}, expected BYTES (texts)")
    data = [each for row in tensor.data or () for each in (row if isinstance(row, list) else [row])]
    if not all(isinstance(each, str) for each in data):
        raise RefusalError(Kind.VALIDATION, f"{tensor.name[:100]}: data must be strings")
    return data


def _binary_texts(data: memoryview, tensor: InputTensor) -> list[str]:
    """Return the texts of a binary tensor, each preceded by its length as 4 bytes in little-endian order."""
    if tensor.datatype != "BYTES":
        raise RefusalError(Kind.VALIDATION, f"datatype {tensor.datatype[:20]}, expected BYTES (texts)")
    texts = []
    try:
        while data:
            (length,) = struct.unpack_from("<I", data)
            if len(data) < 4 + length:
                raise RefusalError(
                    Kind.VALIDATION, f"{tensor.name[:100]}: a text extends beyond the end of the tensor"
                )
            texts.append(str(data[4 : 4 + length], "utf-8"))
            data = data[4 + length :]
    except (struct.error, UnicodeDecodeError) as error:
        raise RefusalError(
            Kind.VALIDATION, f"{tensor.name[:100]}: the binary data is not a sequence of UTF-8 texts"
        ) from error
    return texts
