"""Where a model is: a folder, an embedded asset, or the hub, which is asked once and then left alone."""

from __future__ import annotations

import os
from pathlib import Path

from leantune.assets.download import ASSET_PREFIX, is_fetched, resolve_location
from leantune.errors import UsageError
from leantune.system.messages import one_line

DESCRIPTION_FILES = ("*.json", "*.txt", "*.model", "*.py")
"""Config and tokenizer, and code, which is run only where it is trusted; the weights are apart, since a plan
needs none."""

WEIGHT_FILES = ("*.safetensors",)

PROBE_SECONDS = 5.0

HUB_NAMES = {
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
    "mpnet": "sentence-transformers/all-mpnet-base-v2",
}
"""What an encoder among the assets is called on the hub; its weights are the same to the byte."""


def resolve_model(source: str | os.PathLike[str], *, with_weights: bool = True) -> str:
    """The folder of a model: as given, of an asset, or of a snapshot in the hub cache.

    A hub that does not answer within seconds is not asked again; what the cache has then serves.

    Raises:
        UsageError: for an asset that was not fetched, or a hub model that neither the hub nor the
            cache gives.
    """
    source = os.fspath(source)
    location = resolve_location(source)
    if Path(location).exists() or location.startswith((".", "/")):
        return location
    if location in HUB_NAMES:
        raise UsageError(
            f"model {location}: no such folder. The encoder that leantune downloads is named {ASSET_PREFIX}{location}: "
            "give that"
        )
    asset = next((asset for asset, name in HUB_NAMES.items() if name == location), None)
    if asset is not None and is_fetched(asset):
        return resolve_location(f"{ASSET_PREFIX}{asset}")
    from huggingface_hub import HfApi, constants, snapshot_download

    patterns = [*DESCRIPTION_FILES, *(WEIGHT_FILES if with_weights else ())]
    try:
        if not constants.HF_HUB_OFFLINE:
            HfApi().model_info(location, timeout=PROBE_SECONDS)
            return str(snapshot_download(location, allow_patterns=patterns))
        reason = "HF_HUB_OFFLINE is on"
    # the errors of the HTTP library below are not part of huggingface_hub's interface, and have changed
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error, 120)}"
    try:
        return str(snapshot_download(location, allow_patterns=patterns, local_files_only=True))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"model {source}: no such folder, the hub did not provide it ({reason}), and it is not in the cache "
            f"{constants.HF_HUB_CACHE}; give a folder, or check the name and the network"
        ) from error


def public_name(source: str) -> str:
    """What an adapter should call its base model: the hub's name for an asset, else ``source`` itself."""
    return (
        HUB_NAMES.get(source.removeprefix(ASSET_PREFIX), source)
        if source.startswith(ASSET_PREFIX)
        else source
    )
