"""One way to write: what a kill, a damaged file, a link or a pipe can do to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dgl_lib import files
from dgl_lib.errors import UserError
from dgl_lib.files import exclusive, kept, lies_in, need_apart, read_arrays, regular, write_bytes


@pytest.mark.parametrize("size", [0, 1, 60, -1])
def test_damaged_arrays_are_set_aside_and_made_again(size: int, tmp_path: Path) -> None:
    path, made = tmp_path / "maps" / "part-00000.npz", {"a": np.arange(99.0), "b": np.eye(3)}
    kept(path, lambda: made)
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    with pytest.warns(UserWarning, match=r"^maps/part-00000.npz is damaged \(.+\): set aside and made again$"):
        again = kept(path, lambda: made)
    assert all(np.array_equal(again[name], made[name]) for name in made) and path.read_bytes() == whole
    assert path.with_name("part-00000.npz.damaged").read_bytes() == whole[:size]
    kept(path, lambda: pytest.fail("it is there"))


def test_a_bit_that_flipped_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    kept(path, lambda: {"a": np.random.default_rng(0).random(999)})
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 1
    path.write_bytes(broken)
    with pytest.warns(UserWarning, match="is damaged"):
        kept(path, lambda: {"a": np.zeros(1)})


def test_a_file_that_may_not_be_read_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    kept(tmp_path / "a.npz", lambda: {"a": np.zeros(1)})
    monkeypatch.setattr(np, "load", forbidden)
    with pytest.raises(PermissionError):
        kept(tmp_path / "a.npz", lambda: pytest.fail("it is there"))


def test_what_a_killed_run_left_half_written_is_swept_by_the_next(tmp_path: Path) -> None:
    write = "import os, signal, sys; from pathlib import Path; from dgl_lib import files; os.replace = lambda *_: "
    for name in ("part-00000.npz", "boxes.json"):
        code = write + f"os.kill(os.getpid(), signal.SIGKILL); files.write_text(Path(sys.argv[1]) / {name!r}, 'a')"
        subprocess.run([sys.executable, "-c", code, str(tmp_path)])
        assert [path.name.rsplit(".", 2)[::2] for path in tmp_path.iterdir()] == [[f".{name}", "dgl-unfinished"]]
    mark = "dgl-unfinished"
    own = [f".notes.txt.{os.getpid()}.{mark}", ".notes.txt.bak", ".notes.txt.999999999", f".notes.txt.{10**30}.{mark}"]
    for name in own:  # another writer's, which is still at work, and what is not ours
        (tmp_path / name).write_text(name)
    write_bytes(tmp_path / "other.csv", b"a")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*own, "other.csv"])


def test_a_folder_has_one_lock_whatever_links_lead_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    monkeypatch.chdir(tmp_path / "a")
    with exclusive(tmp_path / "a"):
        for way in (Path(), Path("../link"), tmp_path / "a" / "." / ".." / "a"):
            with pytest.raises(UserError, match=r"^a is being written by process \d+ since"), exclusive(way):
                pass
    with exclusive(Path()):
        pass


def test_a_lock_that_cannot_be_made_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(*_: object, **__: object) -> None:
        raise files.Timeout("lock")

    monkeypatch.setattr(files, "FileLock", wait)
    with pytest.raises(UserError, match=r"a: its folder cannot be written to$"), exclusive(tmp_path / "a"):
        pass


def test_who_holds_a_lock_is_told_no_longer_than_that(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "a"):
        assert (tmp_path / ".a.holder").is_file()
        raise ZeroDivisionError
    assert not (tmp_path / ".a.holder").exists()


def test_a_folder_beside_which_nothing_may_be_written_is_locked_in_itself(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(files.os, "access", lambda path, _: path != tmp_path)
    with exclusive(tmp_path / "a"), pytest.raises(UserError, match="is being written"), exclusive(tmp_path / "a"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_places_are_compared_after_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "link").symlink_to("data/images")
    assert lies_in(tmp_path / "link" / "a.jpg", tmp_path / "data") and lies_in(tmp_path / "data", tmp_path / "data")
    assert not lies_in(tmp_path / "data" / ".." / "a.jpg", tmp_path / "data")
    assert not lies_in(tmp_path / "database", tmp_path / "data")
    for out in (".", "data", "data/new", "link", "link/new", "elsewhere/../data"):
        with pytest.raises(UserError, match="one apart from the data's"):
            need_apart(tmp_path / out, tmp_path / "data")
    need_apart(tmp_path / "found", tmp_path / "data")
    need_apart(tmp_path, None)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("a")
    (tmp_path / "link").symlink_to("file")
    for name in ("pipe", "."):
        with pytest.raises(UserError, match="not a regular file"):
            regular(tmp_path / name)
    assert regular(tmp_path / "link") == tmp_path / "link"
    assert regular(tmp_path / "missing") == tmp_path / "missing"  # whoever opens it says so
    assert read_arrays(tmp_path / "missing") == {}
