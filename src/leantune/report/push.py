"""A finished run as a repository of the Hugging Face hub: the merged model, the adapter in a folder, and their card."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from leantune.config.record.run import FinishedRecord, read_finished_record
from leantune.errors import CheckpointError, UsageError, first_line
from leantune.report.model_card import HUB_NAME, render
from leantune.report.run_folder import load_run
from leantune.system.checksums import find_difference
from leantune.system.file_names import entry_of

ADAPTER = "adapter"


def files_to_push(run: Path) -> dict[str, Path]:
    """What goes to the hub, by its path there. Nothing of the training data is among it but the names of the classes.

    Raises:
        UsageError: if ``run`` is no run folder.
        CheckpointError: if it is not finished, or its files are not what it wrote.
    """
    record = read_finished_record(run)
    return {
        **{path.name: path for path in _checked(run, "merged", record)},
        **{f"{ADAPTER}/{path.name}": path for path in _checked(run, ADAPTER, record)},
    }


def push(run: Path, repository: str, *, private: bool) -> str:
    """Make the repository if it is not there, and upload the run to it in one commit.

    Args:
        run: the folder of a finished run.
        repository: ``NAME`` or ``ORG/NAME``.
        private: whether a new repository is seen by its owner alone.

    Returns:
        the address of the repository.

    Raises:
        UsageError: for a name that is none, without a network, or without the right to write there.
        CheckpointError: if the run is not finished, or its files are not what it wrote.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    if not HUB_NAME.fullmatch(repository):
        raise UsageError(f"{repository}: no name of a repository, expected NAME or ORG/NAME")
    files = files_to_push(run)
    if constants.HF_HUB_OFFLINE:
        raise UsageError(
            "push needs the hub, and HF_HUB_OFFLINE (or --offline) forbids to ask it: unset that"
        )
    with tempfile.TemporaryDirectory() as scratch:
        card = Path(scratch, "README.md")
        card.write_text(render(load_run(run), repository), "utf-8")
        api = HfApi()
        try:
            made = api.create_repo(repository, private=private, exist_ok=True)
            added = [
                CommitOperationAdd(name, str(path)) for name, path in {**files, "README.md": card}.items()
            ]
            api.create_commit(made.repo_id, added, commit_message="A classifier trained with leantune")
        # the errors of the HTTP library below are not part of huggingface_hub's interface
        except Exception as error:
            raise UsageError(
                f"{repository}: the hub did not take it: {first_line(error)}; check the network, the name, and that "
                "'hf auth login' was given a token that may write"
            ) from error
    return str(made)


def _checked(run: Path, name: str, record: FinishedRecord) -> Iterator[Path]:
    folder, files = entry_of(run, name), record.artefacts[name].files or {}
    if difference := find_difference(folder, files):
        raise CheckpointError(f"{folder}: {difference}: it is not what the run wrote")
    yield from (entry_of(folder, file) for file in sorted(files))
