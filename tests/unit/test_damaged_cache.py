"""A cache that is damaged, foreign, locked or not ours: made again or named, never a traceback."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cogvx_exp.core.disk import disk_issue
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import make_folder
from cogvx_exp.data.index import database as rebuildable
from cogvx_exp.data.index.files import FILES, FileIndex
from cogvx_exp.latents.cache import TensorCache
from cogvx_exp.media.video import VideoInfo

Damage = Callable[[Path], object]
STAMP = ("a.mp4", 10, 20, 30)
INFO = VideoInfo(9, 32, 48, 8.0, 1.125)


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


SEEN_AT_ONCE: dict[str, Damage] = {
    "empty": lambda path: path.write_bytes(b""),
    "three bytes": lambda path: path.write_bytes(b"abc"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "cut header": lambda path: path.write_bytes(path.read_bytes()[:30]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "garbage": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another tensor": lambda path: save_file({"other": torch.zeros(2, 3)}, path),
    "another shape": lambda path: save_file({"tensor": torch.zeros(3, 2)}, path),
}


@pytest.mark.parametrize("damage", SEEN_AT_ONCE)
def test_a_damaged_entry_counts_as_absent(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = TensorCache(tmp_path)
    key = cache.key({"a": damage})
    assert not cache.has(key, (2, 3))
    cache.save(key, torch.arange(6).reshape(2, 3))
    assert cache.has(key, (2, 3))
    SEEN_AT_ONCE[damage](cache._path(key))
    for _ in range(2):
        assert not cache.has(key, (2, 3))
    assert capsys.readouterr().out.replace("\n", "").count("encoding it again") == 1
    cache.save(key, torch.arange(6).reshape(2, 3))
    assert cache.has(key, (2, 3))
    assert cache.load(key).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damage_that_is_found_later_is_named_and_out_of_the_way(damage: str, tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    key = cache.key({"a": damage})
    cache.save(key, torch.randn(2, 3).bfloat16())
    path = cache._path(key)
    {"flip": lambda: _flip(path, -3), "cut": lambda: os.truncate(path, 50), "delete": path.unlink}[damage]()
    with pytest.raises(UserError, match=f"{path.name}.*is damaged"):
        cache.load(key)
    assert not cache.has(key)


def test_an_entry_of_an_older_version_is_read(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    path = cache._path("ab" * 16)
    path.parent.mkdir()
    save_file({"tensor": torch.ones(2)}, path)
    assert cache.has("ab" * 16, (2,))
    assert cache.load("ab" * 16).tolist() == [1, 1]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "encoded")
    (tmp_path / "encoded").mkdir()
    (tmp_path / "encoded" / "ab").write_text("")
    with pytest.raises(OSError) as raised:  # noqa: PT011, which one is the file system's choice
        cache.save("ab" * 16, torch.ones(2))
    assert f"{tmp_path / 'encoded' / 'ab'}: " in str(disk_issue(raised.value))


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"cache_dir=.*is a file"):
            make_folder(path, "cache_dir")


def _filled(path: Path) -> None:
    with FileIndex(path) as index:
        index.add_infos([(STAMP, INFO)])
        index.add_hashes([(STAMP, "ff")])


def _foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute(f"CREATE TABLE {FILES} (name TEXT, content BLOB)")
    database.close()


def _half_gone(path: Path) -> None:
    """Tables whose pages are noise."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + os.urandom(len(content) - 4096))


DAMAGED_INDEX: dict[str, Damage] = {
    "text": lambda path: path.write_text("not a database, but long enough to look at" * 40),
    "noise": lambda path: path.write_bytes(os.urandom(8192)),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "pages": _half_gone,
    "foreign": _foreign,
}


@pytest.mark.parametrize("damage", DAMAGED_INDEX)
def test_a_damaged_index_is_rebuilt(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "index.sqlite"
    _filled(path)
    DAMAGED_INDEX[damage](path)
    with FileIndex(path) as index:
        assert index.infos([STAMP]) == {}
        assert index.hashes([STAMP]) == {}
    assert capsys.readouterr().out.count("Rebuilding") == 1
    assert (tmp_path / "index.sqlite.damaged").exists(), "what was there is not lost"
    _filled(path)
    with FileIndex(path) as index:
        assert index.infos([STAMP]) == {STAMP[0]: INFO}
        assert index.hashes([STAMP]) == {STAMP[0]: "ff"}
    assert capsys.readouterr().out == ""


def test_an_index_that_is_found_damaged_when_written_is_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    _filled(path)
    DAMAGED_INDEX["pages"](path)
    with FileIndex(path) as index:
        index.add_infos([(STAMP, INFO)])
        assert index.infos([STAMP]) == {STAMP[0]: INFO}


@pytest.mark.parametrize("how", ["locked", "a folder", "read-only"])
def test_an_index_that_cannot_be_used_is_done_without(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.sqlite"
    monkeypatch.setattr(rebuildable, "LOCK_TIMEOUT", 0.1)
    if how == "a folder":
        path.mkdir()
    else:
        _filled(path)
        monkeypatch.setattr(Path, "touch", lambda path: None)
    other = sqlite3.connect(path if how == "locked" else ":memory:")
    if how == "locked":
        other.execute("BEGIN EXCLUSIVE")
    if how == "read-only":  # root may write whatever its mode is
        connect = sqlite3.connect
        read_only = lambda file, **named: connect(  # noqa: E731
            file if file == ":memory:" else f"file:{file}?mode=ro", uri=True, **named
        )
        monkeypatch.setattr(rebuildable.sqlite3, "connect", read_only)
    with FileIndex(path) as index:
        known = index.infos([STAMP])
        index.add_infos([(STAMP, INFO)])
        assert index.infos([STAMP]) == {STAMP[0]: INFO}
    assert known == ({STAMP[0]: INFO} if how == "read-only" else {})
    assert "examined again in every run" in capsys.readouterr().out.replace("\n", " ")
    other.close()
