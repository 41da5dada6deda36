"""What servers of classifiers understand: the paths, the requests and the answers of three dialects."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from leantune.system.messages import one_line, type_word

MAX_MESSAGE_CHARS = 200
"""Of what a server says in an error."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How texts are sent, and how many of them an answer classifies.

    Args:
        server: whose dialect it is, in a few words.
        path: below the server's address; takes the name of the model.
        body: the JSON of a request; takes the texts and the name of the model.
        count: the number of results in the JSON of an answer; fails with a KeyError, an IndexError or a TypeError
            where it is something else.
        needs_model: whether a request without a name of a model is none.
    """

    server: str
    path: Callable[[str | None], str]
    body: Callable[[Sequence[str], str | None], Any]
    count: Callable[[Any], int]
    needs_model: bool = False


def _tei_path(model: str | None) -> str:
    """One server of leantune has several models; TEI has one, and takes no notice."""
    return "/predict" if model is None else f"/predict?model={quote(model, safe='')}"


def _tei_body(texts: Sequence[str], model: str | None) -> Any:
    """A list of two texts would be a pair: each text of several is a list of its own."""
    return {"inputs": texts[0] if len(texts) == 1 else [[text] for text in texts]}


def _tei_count(answer: Any) -> int:
    """The scores of one text are a list, those of several a list of lists."""
    if isinstance(answer[0], list):
        return sum(1 for scores in answer if scores[0]["label"] is not None)
    return 1 if answer[0]["label"] is not None else 0


def _vllm_body(texts: Sequence[str], model: str | None) -> Any:
    return {"input": list(texts)} | ({} if model is None else {"model": model})


def _oip_body(texts: Sequence[str], model: str | None) -> Any:
    tensor = {"name": "input-0", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}
    return {"inputs": [tensor]}


DIALECTS: Mapping[str, Dialect] = {
    "tei": Dialect("text-embeddings-inference and leantune", _tei_path, _tei_body, _tei_count),
    "vllm": Dialect("vLLM", lambda model: "/classify", _vllm_body, lambda answer: len(answer["data"])),
    "oip": Dialect(
        "the Open Inference Protocol",
        lambda model: f"/v2/models/{quote(model or '', safe='')}/infer",
        _oip_body,
        lambda answer: int(answer["outputs"][0]["shape"][0]),
        needs_model=True,
    ),
}
"""By the values of ``--dialect``."""


def problem_of(dialect: Dialect, body: bytes, num_texts: int) -> str | None:
    """What is wrong with the body of an answer with status 200; None if it classifies as many texts as were sent."""
    try:
        answer = json.loads(body)
    except ValueError:
        return "the answer is no JSON"
    try:
        count = dialect.count(answer)
    except (LookupError, TypeError):
        return f"the answer is {type_word(answer)} without results"
    return None if count == num_texts else f"{count} results for {num_texts} texts"


def message_of(body: bytes) -> str:
    """What a server says in an error, whichever of the usual places it has for that."""
    try:
        answer = json.loads(body)
    except ValueError:
        return _short(body.decode("utf-8", "replace"))
    for key in ("error", "message", "detail"):
        if isinstance(answer, dict) and key in answer:
            answer = answer[key]
    return _short(answer if isinstance(answer, str) else json.dumps(answer))


def _short(text: str) -> str:
    return one_line(ValueError(text), MAX_MESSAGE_CHARS)
