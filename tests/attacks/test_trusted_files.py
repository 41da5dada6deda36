"""What lies in a cache is executed or believed only if nobody else can have put it there."""

from __future__ import annotations

import os
import stat

import pytest

from leantune.assets import download as assets
from leantune.assets.download import asset_path
from leantune.errors import UnsafeFileError
from leantune.system.trusted_files import make_trusted_folder, open_trusted

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o622])
def test_a_file_that_others_can_write_is_refused(tmp_path, mode):
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    with pytest.raises(UnsafeFileError, match=f"writable by others \\(mode {mode:o}\\)"):
        open_trusted(path)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_folder_that_others_can_write_is_refused(tmp_path, mode):
    (tmp_path / "file").touch()
    tmp_path.chmod(mode)
    with pytest.raises(UnsafeFileError, match="writable by others"):
        open_trusted(tmp_path / "file")


@needs_root
def test_files_and_folders_of_others_are_refused(tmp_path):
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    path.touch()
    os.chown(path, 4242, 4242)
    with pytest.raises(UnsafeFileError, match="belongs to user 4242"):
        open_trusted(path)
    os.chown(path, 0, 0)
    os.chown(path.parent, 4242, 4242)
    with pytest.raises(UnsafeFileError, match="belongs to user 4242"):
        open_trusted(path)
    with pytest.raises(UnsafeFileError, match="belongs to user 4242"):
        make_trusted_folder(path.parent)


def test_pipes_links_and_folders_are_no_trusted_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/hostname")
    for name in ("pipe", "folder"):
        with pytest.raises(UnsafeFileError, match="not a regular file"):
            open_trusted(tmp_path / name)
    with pytest.raises(OSError, match="symbolic links"):
        open_trusted(tmp_path / "link")


def test_no_descriptor_is_left_open(tmp_path):
    (tmp_path / "file").touch(0o666)
    (tmp_path / "file").chmod(0o666)
    before = os.listdir("/proc/self/fd")
    for _ in range(10):
        with pytest.raises(UnsafeFileError):
            open_trusted(tmp_path / "file")
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_what_is_opened_is_what_was_checked(tmp_path):
    path = tmp_path / "file"
    path.write_text("good")
    descriptor = open_trusted(path)
    path.rename(tmp_path / "moved")
    path.write_text("evil")
    assert os.read(descriptor, 10) == b"good"
    os.close(descriptor)


def test_a_folder_that_a_lax_umask_made_is_closed(tmp_path):
    before = os.umask(0o000)
    try:
        make_trusted_folder(tmp_path / "a" / "b")
        assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) & 0o022 == 0
        (tmp_path / "old").mkdir()
        make_trusted_folder(tmp_path / "old")
        assert stat.S_IMODE((tmp_path / "old").stat().st_mode) & 0o022 == 0
    finally:
        os.umask(before)


def test_an_asset_that_others_can_write_is_refused(tmp_path):
    folder = tmp_path / "minilm"
    folder.mkdir()
    for name in assets.ASSETS["minilm"].members:
        (folder / name).write_text("{}")
    assert asset_path("minilm", cache_dir=tmp_path) == folder
    (folder / "model.safetensors").chmod(0o666)
    with pytest.raises(
        UnsafeFileError, match=r"model\.safetensors: writable by others .* set LEANTUNE_CACHE"
    ):
        asset_path("minilm", cache_dir=tmp_path)
    (folder / "model.safetensors").chmod(0o644)
    folder.chmod(0o777)
    with pytest.raises(UnsafeFileError, match="writable by others"):
        asset_path("minilm", cache_dir=tmp_path)
