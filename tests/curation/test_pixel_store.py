"""The pixels that are kept: whole or absent, durable once they are settled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.pixel_store import PixelStore
from policy.durable import sweep_unfinished
from policy.errors import InputError, IntegrityError, StorageError

ONE, TWO, THREE = "ab" * 32, "cd" * 32, "ac" * 32
ROOT = Path(__file__).resolve().parents[2]


def packs(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file())


def held(directory: Path) -> bytes:
    """Every byte of every file."""
    return b"".join(p.read_bytes() for p in packs(directory))


def kept(directory: Path, **pictures: bytes) -> PixelStore:
    store = PixelStore(directory)
    for name, jpeg in pictures.items():
        store.put(KEYS[name], jpeg)
    store.settle()
    return store


KEYS = {"one": ONE, "two": TWO, "three": THREE}


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
    assert [p.suffix for p in packs(tmp_path)] == [".pack"]
    with pytest.raises(InputError, match="not kept"):
        store.get(TWO)


def test_what_is_deleted_leaves_neither_pixels_nor_digest(tmp_path: Path) -> None:
    """A picture that goes is overwritten where it lay, its digest with it; the last one takes its pack along."""
    store = kept(tmp_path, one=b"the first picture" * 1_000, two=b"the second picture", three=b"third")
    others = PixelStore(tmp_path)
    assert list(others.keys()) == [ONE, THREE, TWO]
    assert store.delete_all([ONE, THREE, "ee" * 32]) == 2
    assert b"first" not in held(tmp_path)
    assert b"third" not in held(tmp_path)
    assert bytes.fromhex(ONE) not in held(tmp_path)
    assert (store.get(TWO), PixelStore(tmp_path).get(TWO)) == (b"the second picture",) * 2
    assert (list(store.keys()), list(others.keys())) == ([TWO], [TWO])
    assert store.delete(TWO)
    assert packs(tmp_path) == []


def test_places_are_given_back_to_the_file_system(tmp_path: Path) -> None:
    """What a deleted picture took is free again, where the file system can do that."""
    store = kept(tmp_path, one=os.urandom(4 << 20), two=b"two")
    [pack] = packs(tmp_path)
    before = pack.stat()
    store.delete(ONE)
    after = pack.stat()
    assert after.st_size == before.st_size
    if after.st_blocks == before.st_blocks:
        pytest.skip("no holes can be punched into files here")
    assert after.st_blocks * 512 < 1 << 20


def test_a_deletion_that_was_killed_is_done_by_the_next(tmp_path: Path) -> None:
    """Killed between the picture and its record: it is not here any more, and deleting again takes the record too."""
    store = kept(tmp_path, one=b"the first picture", two=b"two")
    [entry] = store._index.find(bytes.fromhex(ONE))
    with entry.pack.open("r+b") as file:
        file.seek(entry.offset)
        file.write(bytes(entry.length))
    again = PixelStore(tmp_path)
    with pytest.raises(InputError, match="not kept"):
        again.get(ONE)
    assert again.delete(ONE)
    assert bytes.fromhex(ONE) not in held(tmp_path)
    assert again.get(TWO) == b"two"


def test_a_picture_that_is_no_longer_what_it_was_is_not_given_out(tmp_path: Path) -> None:
    """A flipped bit on the disk makes a picture absent, not another one; one that is met again is written anew."""
    store = kept(tmp_path, one=b"the first picture", two=b"two")
    [pack] = packs(tmp_path)
    data = bytearray(pack.read_bytes())
    data[3] ^= 1
    pack.write_bytes(data)
    with pytest.raises(InputError, match="not kept"):
        store.get(ONE)
    assert store.get(TWO) == b"two"
    kept(tmp_path, one=b"the first picture")
    assert store.get(ONE) == b"the first picture"


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 500])
def test_a_damaged_pack_is_named(tmp_path: Path, damage: bytes) -> None:
    """A pack that ends otherwise than a pack does is an error with its name, not an empty one."""
    kept(tmp_path, one=b"one")
    [pack] = packs(tmp_path)
    pack.write_bytes(damage)
    with pytest.raises(IntegrityError, match="damaged"):
        PixelStore(tmp_path).get(ONE)


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
    assert ONE not in store
    assert b"one" not in held(tmp_path)
    store.discard()
    store.settle()
    store.put(ONE, b"one")
    assert store.delete(ONE)
    store.settle()
    assert packs(tmp_path) == []
    assert TWO not in store


def test_the_same_picture_is_not_written_again(tmp_path: Path) -> None:
    """A picture that is kept, and the same, is left alone; another takes its place at settling, and the first goes."""
    store = kept(tmp_path, one=b"one picture", two=b"two")
    before = [(p.name, p.stat()) for p in packs(tmp_path)]
    store.put(ONE, b"one picture")
    store.settle()
    assert [(p.name, p.stat()) for p in packs(tmp_path)] == before
    store.put(ONE, b"another")
    assert PixelStore(tmp_path).get(ONE) == b"one picture"
    store.settle()
    assert (store.get(ONE), PixelStore(tmp_path).get(ONE)) == (b"another", b"another")
    assert b"one picture" not in held(tmp_path)
    assert list(store.keys()) == [ONE, TWO]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_settling_that_failed_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """While the disk refuses nothing has a name; when it takes the bytes, a second settling makes all of them whole."""
    store = PixelStore(tmp_path)
    store.put(ONE, b"one")

    def refused(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, refused)
        with pytest.raises(StorageError, match="could not be written"):
            store.settle()
        assert list(PixelStore(tmp_path).keys()) == []
    store.settle()
    assert PixelStore(tmp_path).get(ONE) == b"one"


def test_bytes_are_on_the_disk_before_they_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settling flushes the pack, then names it, then flushes the name: three steps, however many pictures there are."""
    done: list[str] = []

    def recorded(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object) -> object:
            done.append(f"{name} {len(list(tmp_path.glob('*.pack')))}")
            return real(*given)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    store, keys = PixelStore(tmp_path), [f"{i:064x}" for i in range(60)]
    for key in keys:
        store.put(key, key.encode())
    assert done == []
    store.settle()
    assert done == ["fsync 0", "replace 0", "fsync 1"]
    assert all(PixelStore(tmp_path).get(key) == key.encode() for key in keys)
    done.clear()
    store.settle()
    assert done == []


def test_two_stores_may_put_the_same_picture(tmp_path: Path) -> None:
    """Each has a pack of its own; the one settled last counts, and deleting takes both."""
    first, second = PixelStore(tmp_path), PixelStore(tmp_path)
    first.put(ONE, b"one picture")
    second.put(ONE, b"one picture")
    first.settle()
    second.settle()
    third = PixelStore(tmp_path)
    assert list(third.keys()) == [ONE]
    assert third.get(ONE) == b"one picture"
    assert third.delete(ONE)
    assert packs(tmp_path) == []


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 5), st.binary(min_size=1, max_size=40)),
            st.tuples(st.just("settle")),
            st.tuples(st.just("discard")),
            st.tuples(st.just("delete"), st.integers(0, 5)),
            st.tuples(st.just("open")),
        ),
        max_size=60,
    )
)
def test_a_store_is_what_a_dictionary_would_be(steps: list[tuple[object, ...]]) -> None:
    """Whatever is put, settled, discarded, deleted and opened again in whatever order: the last of each digest counts.

    So many packs come of it that their records are merged.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        settled: dict[str, bytes] = {}
        waiting: dict[str, bytes] = {}
        store = PixelStore(directory)
        for number, step in enumerate([("settle",), *steps]):
            match step:
                case ("put", int(n), bytes(jpeg)):
                    store.put(f"{n:064x}", jpeg)
                    waiting[f"{n:064x}"] = jpeg
                case ("delete", int(n)):
                    key = f"{n:064x}"
                    assert store.delete(key) is (key in waiting or key in settled)
                    waiting.pop(key, None)
                    settled.pop(key, None)
                case ("discard",):
                    store.discard()
                    waiting.clear()
                case _:
                    store.settle()
                    settled |= waiting
                    waiting.clear()
                    if step == ("open",):
                        store = PixelStore(directory)
            if number % 5 == 0:
                assert list(store.keys()) == sorted(settled)
        expected = settled | waiting
        assert {key: store.get(key) for key in expected} == expected
        assert sum(f"{n:064x}" in store for n in range(6)) == len(expected)
        store.discard()


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
    assert len(sweep_unfinished(tmp_path)) == 1
    assert len(packs(tmp_path)) == 1


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "AB" * 32, "ab" * 31])
def test_only_a_digest_is_a_place(tmp_path: Path, key: str) -> None:
    """A key that is no sha256 is refused, so that none can name a path."""
    for ask in (lambda s: s.put(key, b""), lambda s: s.get(key), lambda s: s.delete(key), lambda s: key in s):
        with pytest.raises(InputError):
            ask(PixelStore(tmp_path))


def test_a_disk_that_refuses_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written is an error, and does not keep the others from being settled."""
    (tmp_path / "file").write_bytes(b"a file where the folder should be")
    with pytest.raises(StorageError, match="could not be written"):
        PixelStore(tmp_path / "file").put(ONE, b"one")
    store = PixelStore(tmp_path / "pixels")
    store.put(ONE, b"one")
    real, full = os.pwrite, OSError(28, "No space left on device")

    def half(descriptor: int, data: bytes, offset: int) -> int:
        if len(data) < 4:
            raise full
        return real(descriptor, data[: len(data) // 2], offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", half)
        with pytest.raises(StorageError, match="No space left"):
            store.put(TWO, b"two" * 100)
    assert TWO not in store
    store.put(THREE, b"three")
    store.settle()
    assert list(store.keys()) == [ONE, THREE]
    assert (store.get(ONE), store.get(THREE)) == (b"one", b"three")
