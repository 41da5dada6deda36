"""Packing of a classifier into bytes, and unpacking once per node, for nodes without a shared disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from leantune.adalora.adapter_file import CONFIG as ADAPTER_CONFIG
from leantune.adalora.adapter_file import read_adapter
from leantune.config.record.run import RECORD, read_finished_record
from leantune.errors import CheckpointError, UsageError
from leantune.inference.load import check_artefact, kind_of, load
from leantune.inference.text_classifier import TorchTextClassifier
from leantune.model.hub import DESCRIPTION_FILES, WEIGHT_FILES, resolve_model
from leantune.system.atomic import atomic_folder, remove_leftovers, write_bytes
from leantune.system.checksums import describe_folder, find_difference
from leantune.system.damage import explained_damage
from leantune.system.file_names import is_plain_name

CLASSIFIER, ENCODER, MANIFEST = "classifier", "encoder", "MANIFEST.json"
BASE_MODEL = "base_model_name_or_path"
"""Key of an adapter's config with the name of its encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedClassifier:
    """A packed classifier that any node can fetch, with the settings for loading it."""

    sha256: str
    """Checksum of the packed classifier."""
    fetch: Callable[[], bytes]
    """Function that returns the packed classifier on any node."""
    labels: tuple[str, ...] | None = None
    """Class names; see `leantune.load`."""
    precision: str | None = None
    trust_remote_code: bool = False

    def load(self) -> TorchTextClassifier:
        """Unpack the classifier on this node if necessary, and load it.

        Raises:
            LeantuneError: see `unpack_classifier` and `leantune.load`.
        """
        return load(
            unpack_classifier(self.sha256, self.fetch),
            labels=self.labels,
            precision=self.precision,
            trust_remote_code=self.trust_remote_code,
        )


def pack_classifier(path: str | Path, *, base: str | Path | None = None) -> bytes:
    """Pack the files that `leantune.load` needs into an uncompressed tar archive. Equal files give equal bytes.

    Args:
        path: a folder that `leantune.load` accepts. A run is packed as its record and merged model, an adapter
            together with its encoder.
        base: the pretrained encoder of an adapter; None for the one named in its config.

    Raises:
        UsageError: if the folder contains no classifier, or the encoder of an adapter is not available.
        CheckpointError: if the run is not finished, or files are missing or damaged.
    """
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, file in sorted(_files_of(Path(path).expanduser(), base)):
            entry = tarfile.TarInfo(name)  # without owner and time
            entry.size = file.stat().st_size
            with file.open("rb") as opened:
                archive.addfile(entry, opened)
    return content.getvalue()


def checksum_of(content: bytes) -> str:
    """Return the SHA-256 of a packed classifier, which names the folder that it is unpacked into."""
    return hashlib.sha256(content).hexdigest()


def unpack_classifier(sha256: str, fetch: Callable[[], bytes], *, cache: Path | None = None) -> Path:
    """Return the folder of a packed classifier on this node, for `leantune.load`.

    The first process unpacks the classifier, and other processes wait and use the same folder. The folder is replaced
    if its files have changed.

    Args:
        sha256: checksum of the packed classifier.
        fetch: returns the packed classifier; called only if it is not unpacked yet.
        cache: folder for unpacked classifiers; None for ``leantune-UID`` in ``TMPDIR``.

    Raises:
        CheckpointError: if the fetched bytes have another checksum.
        ResourceError: if the disk is full or fails.
        UsageError: if the cache belongs to another user.
    """
    place = (_own_cache() if cache is None else cache) / sha256
    place.mkdir(parents=True, exist_ok=True)
    files = place / "files"
    with FileLock(place / "lock", fallback_to_soft=False):  # flock is released when its process ends
        if not _is_whole(files):
            content = fetch()
            if checksum_of(content) != sha256:
                raise CheckpointError(
                    f"the packed classifier has SHA-256 {checksum_of(content)[:12]}…, expected {sha256[:12]}…: it was "
                    "damaged in transfer to this node; start the job again"
                )
            remove_leftovers(place)
            with atomic_folder(files) as temporary:
                _extract(content, temporary, files)
    return files / CLASSIFIER


def packed_file(content: bytes) -> Path:
    """Write a packed classifier to a file with a unique name in this node's cache, for libraries that ship files.

    Raises:
        ResourceError: if the disk is full or fails.
        UsageError: if the cache belongs to another user.
    """
    sha256 = checksum_of(content)
    file = _own_cache() / f"leantune-{sha256}.packed"  # Spark would unpack a .tar file
    write_bytes(file, content)
    return file


def _files_of(path: Path, base: str | Path | None) -> Iterator[tuple[str, Path]]:
    """Yield each file with its name in the archive."""
    kind = kind_of(path)
    if base is not None and kind != "adapter":
        raise UsageError(f"base: {path} already contains its encoder; remove the argument base")
    if kind == "run":
        merged = check_artefact(path, read_finished_record(path), "merged")
        yield f"{CLASSIFIER}/{RECORD}", path / RECORD
        for file in merged.iterdir():
            if file.is_file():
                yield f"{CLASSIFIER}/{merged.name}/{file.name}", file
        return
    yield from _model_files(path, CLASSIFIER)
    if kind == "adapter":
        with explained_damage(path):
            adapter = read_adapter(path)
        yield from _model_files(Path(resolve_model(base or adapter.base_model)), ENCODER)


def _model_files(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Yield config, tokenizer and weights of a model folder, and no other files."""
    for pattern in (*DESCRIPTION_FILES, *WEIGHT_FILES):
        for file in folder.glob(pattern):
            if file.is_file():
                yield f"{name}/{file.name}", file


def _extract(content: bytes, temporary: Path, target: Path) -> None:
    """Extract all files and their manifest into ``temporary``, which will be renamed to ``target``."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for entry in archive:
            parts = entry.name.split("/")
            assert entry.isfile(), entry.name
            assert all(map(is_plain_name, parts)), entry.name
            file = temporary.joinpath(*parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            opened = archive.extractfile(entry)
            assert opened is not None, "a regular file has content"
            file.write_bytes(opened.read())
    config = temporary / CLASSIFIER / ADAPTER_CONFIG
    if config.exists():
        settings = json.loads(config.read_text("utf-8")) | {BASE_MODEL: str((target / ENCODER).absolute())}
        config.write_text(json.dumps(settings, indent=1), "utf-8")
    manifest = {
        folder.relative_to(temporary).as_posix(): describe_folder(folder)
        for folder in temporary.rglob("*")
        if folder.is_dir()
    }
    (temporary / MANIFEST).write_text(json.dumps(manifest), "utf-8")


def _is_whole(files: Path) -> bool:
    """Return whether the folder exists and its files are unchanged."""
    try:
        manifest = json.loads((files / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):  # the manifest may be missing or damaged
        return False
    return all(find_difference(files / folder, described) is None for folder, described in manifest.items())


def _own_cache() -> Path:
    """Create and return a folder on this node that only the user can access.

    Raises:
        UsageError: if the folder belongs to another user.
    """
    folder = Path(tempfile.gettempdir()) / f"leantune-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UsageError(f"{folder}: belongs to another user; remove it, or set TMPDIR to another folder")
    return folder
