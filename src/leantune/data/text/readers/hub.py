"""Reads datasets of the Hugging Face hub, ``org/name[@config][:split]``, from the network or the cache."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from leantune.data.text.readers.arrow import ArrowTable, table_of
from leantune.errors import UsageError
from leantune.system.messages import one_line

PROBE_SECONDS = 5.0

_HUB_NAME = re.compile(
    r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<config>[\w.+-]+))?(?::(?P<split>[\w.+-]+))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class HubName:
    """The name of a hub dataset as the user wrote it; ``config`` and ``split`` are None if not given."""

    id: str
    config: str | None
    split: str | None


def parse_hub_name(location: str) -> HubName | None:
    """Parse ``org/name[@config][:split]``; return None for anything else."""
    match = _HUB_NAME.fullmatch(location)
    return HubName(match["id"], match["config"], match["split"]) if match else None


def open_hub(location: str, hub_name: HubName, default_split: str) -> ArrowTable:
    """Open the rows of a hub dataset, downloading it into the ``datasets`` cache if needed.

    Raises:
        UsageError: the dataset, config or split does not exist, or the hub cannot be reached.
    """
    import datasets

    split = hub_name.split or default_split
    if not _is_cached(hub_name.id):
        _probe(location, hub_name)
    try:
        dataset: Any = datasets.load_dataset(hub_name.id, name=hub_name.config, split=split)
    # load_dataset passes on the errors of its many back ends; each means that the dataset cannot be loaded.
    except Exception as error:
        raise _unavailable(location, hub_name, error) from error
    if not isinstance(dataset, datasets.Dataset):
        raise UsageError(f"{location}: the split {split!r} is not one table: name one split")
    return table_of(location, dataset.features.arrow_schema, partial(_batches, dataset))


def _batches(dataset: Any, wanted: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    chosen = dataset.select_columns(list(wanted)).with_format("arrow")
    for table in chosen.iter(batch_size=batch_rows):
        yield from table.combine_chunks().to_batches()


def _is_cached(dataset_id: str) -> bool:
    import datasets
    from datasets.naming import camelcase_to_snakecase

    org, _, name = dataset_id.partition("/")
    return (Path(datasets.config.HF_DATASETS_CACHE) / f"{org}___{camelcase_to_snakecase(name)}").is_dir()


def _probe(location: str, hub_name: HubName) -> None:
    """Ask the hub once whether the dataset exists, because ``load_dataset`` would retry for half a minute."""
    import datasets
    from huggingface_hub import HfApi

    try:
        HfApi(endpoint=datasets.config.HF_ENDPOINT).dataset_info(hub_name.id, timeout=PROBE_SECONDS)
    # The HTTP library's errors are not part of huggingface_hub's interface and have changed before.
    except Exception as error:
        raise _unavailable(location, hub_name, error) from error


def _unavailable(location: str, hub_name: HubName, error: Exception) -> UsageError:
    import datasets

    offline = " (HF_HUB_OFFLINE is on)" if datasets.config.HF_HUB_OFFLINE else ""
    return UsageError(
        f"{location}: no local file has that name, and the hub dataset {hub_name.id!r} cannot be loaded"
        f"{offline}: {type(error).__name__}: {one_line(error, 160)}; check the name, or name a local file"
    )
