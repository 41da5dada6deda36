"""Find a model: a folder, an embedded asset, or a hub model; a hub that fails once is not asked again."""

from __future__ import annotations

import os
import re
from pathlib import Path

from leantune.assets.download import ASSET_PREFIX, is_fetched, resolve_location
from leantune.errors import UsageError
from leantune.system.messages import one_line

DESCRIPTION_FILES = ("*.json", "*.txt", "*.model", "*.py")
"""Config, tokenizer and code, which runs only if trusted. Weights are separate, because a plan needs none."""

WEIGHT_FILES = ("*.safetensors",)

PROBE_SECONDS = 5.0

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

HUB_NAMES = {
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
    "mpnet": "sentence-transformers/all-mpnet-base-v2",
}
"""Hub names of the embedded encoders; their weights are identical to the byte."""


def resolve_model(source: str | os.PathLike[str], *, with_weights: bool = True) -> str:
    """The folder of a model: as given, of an asset, or of a snapshot in the hub cache.

    If the hub does not answer within seconds, it is not asked again and the cache is used.

    Raises:
        UsageError: for an asset that was not fetched, or a hub model that neither the hub nor the cache has.
    """
    source = os.fspath(source)
    location = resolve_location(source)
    if Path(location).exists() or location.startswith((".", "/")):
        return location
    if location in HUB_NAMES:
        raise UsageError(
            f"model {location}: no such folder. The encoder that leantune downloads is named {ASSET_PREFIX}{location}: "
            "use that name"
        )
    asset = next((asset for asset, name in HUB_NAMES.items() if name == location), None)
    if asset is not None and is_fetched(asset):
        return resolve_location(f"{ASSET_PREFIX}{asset}")
    return _snapshot(location, f"model {source}", with_weights=with_weights)


def resolve_classifier(source: str | os.PathLike[str]) -> Path:
    """The folder of a trained classifier: as given, or the snapshot of a hub model named ``USER/NAME``.

    If there is a folder ``USER`` here, the name is a path, and the hub is not asked: a mistyped path must not load
    the model of a stranger.

    Raises:
        UsageError: if neither the hub nor the cache has the model.
    """
    source = os.fspath(source)
    folder = Path(source).expanduser()
    user, slash, _ = source.partition("/")
    if not slash or not HUB_NAME.fullmatch(source) or Path(user).exists():
        return folder
    return Path(_snapshot(source, source, with_weights=True))


def _snapshot(name: str, found: str, *, with_weights: bool) -> str:
    """The folder of a hub model in the cache; ``found`` begins the message of an error."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    patterns = [*DESCRIPTION_FILES, *(WEIGHT_FILES if with_weights else ())]
    try:
        if not constants.HF_HUB_OFFLINE:
            HfApi().model_info(name, timeout=PROBE_SECONDS)
            return str(snapshot_download(name, allow_patterns=patterns))
        reason = "HF_HUB_OFFLINE is on"
    except GatedRepoError:
        reason = f"its owner has not given you access: ask at {constants.ENDPOINT}/{name}"
    except RepositoryNotFoundError:
        reason = "it has no model of this name, or a private one: log in with 'hf auth login'"
    # the errors of the HTTP library below are not part of huggingface_hub's interface, and have changed
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error, 120)}"
    try:
        return str(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{found}: no such folder, the hub did not provide it ({reason}), and it is not in the cache "
            f"{constants.HF_HUB_CACHE}; give a folder, or check the name and the network"
        ) from error


def public_name(source: str) -> str:
    """The name of a base model in an adapter: the hub's name for an asset, else ``source`` itself."""
    return (
        HUB_NAMES.get(source.removeprefix(ASSET_PREFIX), source)
        if source.startswith(ASSET_PREFIX)
        else source
    )
