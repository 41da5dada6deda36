"""What exports to other libraries have in common: what is said of them, and texts to compare them with their run on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from leantune._version import __version__
from leantune.config.record.run import read_finished_record
from leantune.config.thresholds_file import FILE as THRESHOLDS
from leantune.data.tokens.tokenization import Encoded
from leantune.inference.engines.exported import ABOUT
from leantune.inference.load import kind_of
from leantune.inference.text_classifier import TextClassifier
from leantune.system.checksums import describe_folder

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""What transformers saves of a tokenizer."""
COPIED_FILES = (*TOKENIZER_FILES, THRESHOLDS)
"""What an export has from the merged model as it is."""
PROBE_LENGTHS = (1, 5, 15, 16, 17, 40, 100)
"""Words of the texts on which an export is compared with its run."""


def write_about(folder: Path, source: Path, versions: dict[str, str], **more: Any) -> None:
    """Write what the files in ``folder`` are, of which run, and made by what."""
    about = {
        "leantune": __version__,
        "run_id": read_finished_record(source).run_id if kind_of(source) == "run" else None,
        "versions": versions,
        "files": describe_folder(folder),
        **more,
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", "utf-8")


def probe_of(trained: TextClassifier) -> Encoded:
    """Texts of several lengths, of the tokenizer's own words."""
    tokenizer = trained.tokenizer
    rng = np.random.default_rng(0)

    def texts() -> list[str]:
        tokens = [rng.integers(0, tokenizer.num_ids, length).tolist() for length in PROBE_LENGTHS]
        words = [tokenizer.decode(each) for each in tokens]
        # a text may hold the padding token, whose position some encoders do not count
        return [f"{words[0]} {tokenizer.pad_token} {words[0]}", *words[1:]]

    return tokenizer.encode(texts(), texts() if trained.settings.takes_pairs else None)
