"""Upload of a finished run to the Hugging Face hub: the merged model, the adapter in a subfolder, and the card."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from leantune.config.record.run import FinishedRecord, read_finished_record
from leantune.errors import CheckpointError, UsageError, first_line
from leantune.model.hub import HUB_NAME
from leantune.report.model_card import render
from leantune.report.run_folder import load_run
from leantune.system.checksums import find_difference
from leantune.system.file_names import entry_of

ADAPTER = "adapter"


def files_to_push(run: Path) -> dict[str, Path]:
    """Return the local path of each file to upload, by its path in the repository.

    The class names are the only part of the training data that these files contain.

    Raises:
        UsageError: if ``run`` is not a run folder.
        CheckpointError: if the run is not finished, or its files have changed since.
    """
    record = read_finished_record(run)
    return {
        **{path.name: path for path in _checked(run, "merged", record)},
        **{f"{ADAPTER}/{path.name}": path for path in _checked(run, ADAPTER, record)},
    }


def push(run: Path, repository: str, *, private: bool, examples: Sequence[str] = ()) -> str:
    """Upload the run in one commit. Create the repository if it does not exist.

    After an upload that failed, the same call goes on: the hub keeps the large files that arrived.

    Args:
        run: the folder of a finished run.
        repository: ``NAME`` or ``ORG/NAME``.
        private: whether a new repository is private.
        examples: texts for the widget of the page.

    Returns:
        The URL of the repository.

    Raises:
        UsageError: for an invalid name, without a network, or without permission to write.
        CheckpointError: if the run is not finished, or its files have changed since.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    if not HUB_NAME.fullmatch(repository):
        raise UsageError(f"{repository}: invalid repository name, expected NAME or ORG/NAME")
    files = files_to_push(run)
    if constants.HF_HUB_OFFLINE:
        raise UsageError(
            "push needs the Hugging Face hub, but offline mode is on: unset HF_HUB_OFFLINE or remove --offline"
        )
    with tempfile.TemporaryDirectory() as scratch:
        card = Path(scratch, "README.md")
        api = HfApi()
        try:
            made = api.create_repo(repository, private=private, exist_ok=True)
            # the hub knows the user of a NAME alone
            card.write_text(render(load_run(run), made.repo_id, examples), "utf-8")
            added = [
                CommitOperationAdd(name, str(path)) for name, path in {**files, "README.md": card}.items()
            ]
            api.create_commit(made.repo_id, added, commit_message="A classifier trained with leantune")
        # huggingface_hub does not document which errors of its HTTP library it lets through.
        except Exception as error:
            raise UsageError(
                f"{repository}: upload to the Hugging Face hub failed: {first_line(error)}; check the network, the "
                "repository name, and that you are logged in ('hf auth login') with a token that has write permission; "
                "then run the same command again: what has arrived is not sent again"
            ) from error
    return str(made)


def _checked(run: Path, name: str, record: FinishedRecord) -> Iterator[Path]:
    folder, files = entry_of(run, name), record.artefacts[name].files or {}
    if difference := find_difference(folder, files):
        raise CheckpointError(f"{folder}: {difference}: the files have changed since the run wrote them")
    yield from (entry_of(folder, file) for file in sorted(files))
