"""Runs one command. Results go to standard output; progress and errors to standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from leantune.cli.commands import COMMANDS
from leantune.cli.parser import parse
from leantune.cli.process import exit_code_of, prepare_process, report
from leantune.errors import UsageError
from leantune.system.memory import keep_freed_memory
from leantune.system.openmp import spin_briefly

TRAINING = ("train", "train-many", "search")
"""Commands that let threads spin only where products are in int8."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parse(arguments)
    if os.name != "posix":
        return report(UsageError("leantune needs Linux or macOS; on Windows use WSL"), 2, debug=False)
    if options.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if options.command not in TRAINING:
        spin_briefly()
    keep_freed_memory()
    prepare_process()
    return exit_code_of(lambda: COMMANDS[options.command].run(options), debug=options.debug)


if __name__ == "__main__":
    sys.exit(main())
