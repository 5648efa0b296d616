"""The pixels that are kept: whole or absent, durable once they are settled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import curation.pixel_store
from curation.pixel_store import PixelStore
from policy.durable import sweep_unfinished
from policy.errors import InputError, StorageError

ONE, TWO, THREE = "ab" * 32, "cd" * 32, "ac" * 32
ROOT = Path(__file__).resolve().parents[2]


def files(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.rglob("*") if p.is_file())


def test_pixels_are_kept_by_digest_and_go_when_told(tmp_path: Path) -> None:
    """Put, settle, get, list and delete, with nothing temporary left behind."""
    store = PixelStore(tmp_path / "pixels")
    assert list(store.keys()) == []
    store.settle()  # nothing was put: nothing happens
    store.put(TWO, b"two")
    store.put(ONE, b"one")
    store.put(ONE, b"one again")
    store.settle()
    assert list(store.keys()) == [ONE, TWO]
    assert store.get(ONE) == b"one again"
    assert TWO in store
    assert store.delete(TWO)
    assert not store.delete(TWO)
    assert TWO not in store
    assert files(tmp_path) == [f"{ONE}.jpg"]
    with pytest.raises(InputError, match="not kept"):
        store.get(TWO)


def test_an_unsettled_picture_is_here_for_its_store_alone(tmp_path: Path) -> None:
    """Before it is settled a picture has no name that another process could take for a whole one."""
    mine, others = PixelStore(tmp_path), PixelStore(tmp_path)
    mine.put(ONE, b"one")
    assert (ONE in mine, mine.get(ONE)) == (True, b"one")
    assert ONE not in others
    assert list(mine.keys()) == []
    mine.settle()
    assert others.get(ONE) == b"one"


def test_an_unsettled_picture_is_deleted_and_discarded_like_any_other(tmp_path: Path) -> None:
    """What was put and shall not stay leaves nothing, whether it was settled or not."""
    store = PixelStore(tmp_path)
    store.put(ONE, b"one")
    store.put(TWO, b"two")
    assert store.delete(ONE)
    store.discard()
    store.settle()
    assert files(tmp_path) == []
    assert TWO not in store


def test_the_same_picture_is_not_written_again(tmp_path: Path) -> None:
    """A picture that is kept, and the same, is left alone; another takes its place whole, at settling."""
    store = PixelStore(tmp_path)
    store.put(ONE, b"one")
    store.settle()
    before = store.path(ONE).stat()
    store.put(ONE, b"one")
    assert files(tmp_path) == [f"{ONE}.jpg"]
    store.settle()
    assert store.path(ONE).stat() == before
    store.put(ONE, b"other")
    assert PixelStore(tmp_path).get(ONE) == b"one"
    store.settle()
    assert PixelStore(tmp_path).get(ONE) == b"other"


@pytest.mark.parametrize("pictures", [3, 60])
@pytest.mark.parametrize("by_file_system", [True, False])
def test_bytes_are_on_the_disk_before_they_have_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: int, by_file_system: bool
) -> None:
    """Settling flushes every temporary file, then renames all, then flushes the names; many with two calls."""
    done: list[tuple[str, int]] = []

    def recorded(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(path: Path) -> object:
            done.append((name, len(list(tmp_path.rglob("??/*.jpg")))))
            return real(path)

        return call

    store = curation.pixel_store
    for name in ("sync_file", "sync_directory"):
        monkeypatch.setattr(store, name, recorded(name, getattr(store, name)))
    whole = store._sync_file_system if by_file_system else lambda path: False
    monkeypatch.setattr(store, "_sync_file_system", recorded("syncfs", whole))
    kept = PixelStore(tmp_path)
    keys = [f"{i:064x}" for i in range(pictures)]
    for key in keys:
        kept.put(key, key.encode())
    assert done == []
    kept.settle()
    assert {named for _, named in done} == {0, pictures}  # never in between: all flushed, all named
    one_by_one = [step for step in done if step[0] != "syncfs"]
    if pictures > 16 and by_file_system:
        assert done == [("syncfs", 0), ("syncfs", pictures)]
    else:
        assert one_by_one == [("sync_file", 0)] * pictures + [("sync_directory", pictures)] * 3
    assert all(PixelStore(tmp_path).get(key) == key.encode() for key in keys)
    done.clear()
    kept.settle()
    assert done == []


def test_two_stores_may_put_the_same_picture(tmp_path: Path) -> None:
    """Each has a temporary file of its own; whoever settles last names the same bytes."""
    first, second = PixelStore(tmp_path), PixelStore(tmp_path)
    first.put(ONE, b"one")
    second.put(ONE, b"one")
    first.settle()
    second.settle()
    assert files(tmp_path) == [f"{ONE}.jpg"]


KILLED = """
import os, signal, sys
from pathlib import Path
from curation.pixel_store import PixelStore
store = PixelStore(Path(sys.argv[1]))
store.put("ab" * 32, b"settled")
store.settle()
store.put("ab" * 32, b"other")
for number in range(50):
    store.put(f"{number:064x}", os.urandom(40_000))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_each_picture_whole_or_absent(tmp_path: Path) -> None:
    """kill -9 before settling: what was settled stands as it was, nothing else has a name, and the rest is swept."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    store = PixelStore(tmp_path)
    assert list(store.keys()) == [ONE]
    assert store.get(ONE) == b"settled"
    assert len(sweep_unfinished(tmp_path)) == 51
    assert files(tmp_path) == [f"{ONE}.jpg"]


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "AB" * 32, "ab" * 31])
def test_only_a_digest_is_a_place(tmp_path: Path, key: str) -> None:
    """A key that is no sha256 is refused, so that none can name a path."""
    for ask in (lambda s: s.put(key, b""), lambda s: s.get(key), lambda s: s.delete(key), lambda s: key in s):
        with pytest.raises(InputError):
            ask(PixelStore(tmp_path))


def test_a_disk_that_refuses_is_a_storage_error(tmp_path: Path) -> None:
    """What cannot be written is named, leaves nothing, and does not keep the others from being settled."""
    (tmp_path / "cd").write_bytes(b"a file where the folder should be")
    store = PixelStore(tmp_path)
    store.put(ONE, b"one")
    with pytest.raises(StorageError, match="could not be written"):
        store.put(TWO, b"two")
    store.settle()
    assert list(store.keys()) == [ONE]
    store.put(THREE, b"three")
    os.unlink(next(tmp_path.glob("ac/.*")))
    with pytest.raises(StorageError, match="could not be written"):
        store.settle()
