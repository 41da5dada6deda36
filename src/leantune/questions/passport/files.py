"""Writer of ``passport.json``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from leantune.questions.passport.compute import Passport
from leantune.system.atomic import write_text
from leantune.training.before.folder import PASSPORT


def write_passport(run: Path, found: Passport, output: str | None = None) -> Path:
    """Write all results to ``output``, by default to the run folder, and return the path."""
    target = Path(output).expanduser() if output else run / PASSPORT
    write_text(target, json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n")
    return target
