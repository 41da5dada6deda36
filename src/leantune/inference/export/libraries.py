"""Shared parts of exports to other libraries: tracing, files, the comparison with the run, and a record."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leantune._version import __version__
from leantune.config.record.run import read_finished_record
from leantune.config.thresholds_file import FILE as THRESHOLDS
from leantune.data.tokens.tokenization import Encoded
from leantune.evaluation.agreement import check_logits
from leantune.inference.engines.exported import ABOUT, Compiled, open_export
from leantune.inference.load import kind_of
from leantune.inference.text_classifier import TextClassifier
from leantune.system.checksums import describe_folder

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""Files that transformers saves for a tokenizer."""
PROBE_LENGTHS = (1, 5, 15, 16, 17, 40, 100)
"""Lengths in words of the texts on which an export is compared with its run."""


def write_about(folder: Path, source: Path, versions: dict[str, str], **more: Any) -> None:
    """Write which files are in ``folder``, which run they belong to, and what made them."""
    about = {
        "leantune": __version__,
        "run_id": read_finished_record(source).run_id if kind_of(source) == "run" else None,
        "versions": versions,
        "files": describe_folder(folder),
        **more,
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", "utf-8")


def copy_merged_files(folder: Path, merged: Path) -> None:
    """Copy the config, the tokenizer and the thresholds of a merged model."""
    shutil.copy2(merged / "config.json", folder / "config.json")
    for name in (*TOKENIZER_FILES, THRESHOLDS):
        if (merged / name).is_file():
            shutil.copy2(merged / name, folder / name)


def example_inputs(model: Any) -> dict[str, torch.Tensor]:
    """A padded batch ``(2, 16)`` of int64 for tracing a transformers classifier."""
    ids = torch.ones(2, 16, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0  # transformers drops a mask that hides nothing
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    return inputs


def check_same(form: str, trained: TextClassifier, folder: Path, compiled: Compiled) -> None:
    """Check that the fp32 logits of an export agree with its run, on texts made of the tokenizer's words.

    Raises:
        CheckpointError: if they differ.
    """
    length = trained.tokenizer.max_length
    reopened = open_export(folder, trained.labels, trained.settings, compiled, max_length=length)
    probe = _probe_of(trained)
    check_logits(form, *(each.logits(probe, len(PROBE_LENGTHS)) for each in (reopened, trained)))


@contextlib.contextmanager
def quiet_library(*names: str) -> Iterator[None]:
    """Silence a library's progress on standard output, and its log messages below errors."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _probe_of(trained: TextClassifier) -> Encoded:
    """Encoded texts of several lengths, made of the tokenizer's own words."""
    tokenizer = trained.tokenizer
    rng = np.random.default_rng(0)

    def texts() -> list[str]:
        tokens = [rng.integers(0, tokenizer.num_ids, length).tolist() for length in PROBE_LENGTHS]
        words = [tokenizer.decode(each) for each in tokens]
        # a text may hold the padding token, whose position some encoders do not count
        return [f"{words[0]} {tokenizer.pad_token} {words[0]}", *words[1:]]

    return tokenizer.encode(texts(), texts() if trained.settings.takes_pairs else None)
