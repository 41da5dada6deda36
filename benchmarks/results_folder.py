"""The files of a result: numbers as JSON, the same to read as Markdown, named after what, where and when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.speed.arithmetic import slug


def stem_of(kind: str, hardware: Mapping[str, Any], date: str) -> str:
    """Their common name: ``speed_some-processor_2026-01-31``."""
    return f"{kind}_{slug(hardware['gpu'] or hardware['cpu'])}_{date}"


def write_result(folder: Path, stem: str, result: Mapping[str, Any], text: str) -> list[Path]:
    """``<stem>.json`` and ``<stem>.md`` in ``folder``, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_markdown = (folder / f"{stem}.{suffix}" for suffix in ("json", "md"))
    as_json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    as_markdown.write_text(text, "utf-8")
    return [as_json, as_markdown]
