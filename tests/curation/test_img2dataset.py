"""Folders as img2dataset 1.47.0 writes them, whole and broken in every way that a killed run or a hostile giver can."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.img2dataset import PROBLEMS, Imported, Problem, read_img2dataset
from policy.errors import InputError

FORMATS = ("webdataset", "files", "parquet")


def body(number: int) -> bytes:
    """The bytes of a sample."""
    return f"picture {number}".encode() * 50


@dataclass(slots=True)
class Shard:
    """A shard in the making: rows as img2dataset has them; what it stores of one may differ from what it downloaded."""

    number: int = 0
    size: int = 4
    failed: Mapping[int, str] = field(default_factory=dict)
    stored: Mapping[int, bytes] = field(default_factory=dict)
    changed: Mapping[int, Mapping[str, object]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.number:05d}"

    def row(self, index: int) -> dict[str, object]:
        error = self.failed.get(index)
        row: dict[str, object] = {
            "url": f"https://site.example/{self.number}/{index}.jpg",
            "caption": f"caption {index}",
            "licence": "CC0" if index % 2 else None,
            "key": f"{self.name}{index:04d}",
            "status": "failed_to_download" if error else "success",
            "error_message": error,
            "width": None if error else 256,
            "height": None if error else 128,
            "original_width": None if error else 640,
            "original_height": None if error else 320,
            "exif": None if error else '{"Image Artist": "A"}',
            "sha256": None if error else hashlib.sha256(body(index)).hexdigest(),
        }
        return row | dict(self.changed.get(index, {}))

    def rows(self) -> list[dict[str, object]]:
        return [self.row(index) for index in range(self.size)]

    def pictures(self) -> Iterator[tuple[dict[str, object], bytes]]:
        for index in range(self.size):
            if index not in self.failed:
                yield self.row(index), self.stored.get(index, body(index))

    def write(self, folder: Path, form: str) -> Path:
        """All its files, in one of the three formats."""
        folder.mkdir(exist_ok=True)
        rows = self.rows()
        if form == "webdataset":
            members = [
                (f"{row['key']}.{ext}", data) for row, picture in self.pictures() for ext, data in parts(row, picture)
            ]
            write_tar(folder / f"{self.name}.tar", members)
        elif form == "files":
            (folder / self.name).mkdir()
            for row, picture in self.pictures():
                for ext, data in parts(row, picture):
                    (folder / self.name / f"{row['key']}.{ext}").write_bytes(data)
        else:
            for index, row in enumerate(rows):
                row["jpg"] = None if index in self.failed else self.stored.get(index, body(index))
        write_rows(folder / f"{self.name}.parquet", rows)
        stats = {"count": self.size, "successes": self.size - len(self.failed), "status_dict": {}}
        (folder / f"{self.name}_stats.json").write_text(json.dumps(stats))
        return folder


def parts(row: Mapping[str, object], picture: bytes) -> Iterator[tuple[str, bytes]]:
    """The three members of a sample, in the order of webdataset's writer."""
    yield "jpg", picture
    yield "json", json.dumps(row, indent=4).encode()
    yield "txt", str(row["caption"]).encode()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    """As webdataset's TarWriter does it: times with fractions, so a pax header stands before every member."""
    with tarfile.open(path, "w|") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1764410000.25
            tar.addfile(info, io.BytesIO(data))


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """The rows as img2dataset types them."""
    kinds = {"width": pa.int32(), "height": pa.int32(), "original_width": pa.int32(), "original_height": pa.int32()}
    schema = pa.schema([(name, kinds.get(name, pa.binary() if name == "jpg" else pa.string())) for name in rows[0]])
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


def sample(folder: Path, **more: object) -> tuple[list[Imported], list[Problem]]:
    """What is read of a folder, rows and problems apart."""
    read = list(read_img2dataset(folder, **more))  # type: ignore[arg-type]
    return [i for i in read if isinstance(i, Imported)], [p for p in read if isinstance(p, Problem)]


def codes(problems: Sequence[Problem]) -> dict[str, int]:
    """How many samples each code concerns."""
    counted: Counter[str] = Counter()
    for problem in problems:
        assert problem.code in PROBLEMS
        counted[problem.code] += problem.count
    return dict(counted)


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_gives_the_same_rows(tmp_path: Path, form: str) -> None:
    """Failures, bytes, sizes, captions and hashes are the same whichever format holds them, and nothing is wrong."""
    folder = tmp_path / "out"
    Shard(0, failed={2: "HTTP Error 404: Not Found"}).write(folder, form)
    Shard(1).write(folder, form)
    rows, problems = sample(folder, keep=("licence",))
    assert problems == []
    assert [row.shard for row in rows] == ["00000"] * 4 + ["00001"] * 4
    by_key = {row.key: row for row in rows}
    assert len(by_key) == 8
    failed = by_key["000000002"]
    assert (failed.status, failed.error, failed.stored) == ("failed_to_download", "HTTP Error 404: Not Found", None)
    assert failed.is_original is None
    whole = by_key["000010003"]
    assert whole == Imported(
        shard="00001",
        key="000010003",
        url="https://site.example/1/3.jpg",
        caption="caption 3",
        status="success",
        error=None,
        stored=body(3),
        extension="jpg",
        width=256,
        height=128,
        original_width=640,
        original_height=320,
        exif='{"Image Artist": "A"}',
        hash_name="sha256",
        original_hash=hashlib.sha256(body(3)).hexdigest(),
        is_original=True,
        kept=(("licence", "CC0"),),
    )


@pytest.mark.parametrize("form", FORMATS)
def test_bytes_that_were_encoded_anew_are_told_from_the_original(tmp_path: Path, form: str) -> None:
    """Only bytes with the hash of the download count as the original: in others, rights fields were lost unseen."""
    folder = Shard(stored={1: b"encoded anew"}, changed={2: {"sha256": None}}).write(tmp_path / "out", form)
    rows, problems = sample(folder)
    assert problems == []
    assert [row.is_original for row in sorted(rows, key=lambda row: row.key)] == [True, False, None, True]


def test_a_folder_is_read_by_its_url(tmp_path: Path) -> None:
    """An fsspec URL names the same folder as its path."""
    folder = Shard().write(tmp_path / "out", "webdataset")
    assert list(read_img2dataset(folder.as_uri())) == list(read_img2dataset(folder))


@pytest.mark.parametrize("form", FORMATS)
def test_urls_that_must_not_be_kept_are_named_by_key_alone(tmp_path: Path, form: str) -> None:
    """A secret in a URL stands in no row and in no problem; what is no URL is no row either; spellings become one."""
    folder = Shard(
        changed={
            0: {"url": "https://user:hidden@site.example/0.jpg"},
            1: {"url": "https://site.example/1.jpg?X-Amz-Signature=hidden"},
            2: {"url": "file:///etc/hidden"},
            3: {"url": "HTTPS://Site.example:443/a/../3.jpg#top"},
        }
    ).write(tmp_path / "out", form)
    rows, problems = sample(folder)
    assert [row.url for row in rows] == ["https://site.example/3.jpg"]
    assert codes(problems) == {"secret-url": 2, "bad-url": 1}
    assert "hidden" not in repr((rows, problems))


@pytest.mark.parametrize("form", FORMATS)
def test_a_picture_over_the_limit_is_not_read(tmp_path: Path, form: str) -> None:
    """The limit holds in each format; the row stays, without bytes."""
    folder = Shard(stored={1: bytes(5000)}).write(tmp_path / "out", form)
    rows, problems = sample(folder, max_bytes=4000)
    assert [row.stored is None for row in sorted(rows, key=lambda row: row.key)] == [False, True, False, False]
    assert codes(problems) == {"too-large": 1}


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _cut(name: str, keep: float) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return cut


def _cut_end_mark(folder: Path) -> None:
    """What lies before the two zero blocks is whole: a stock reader takes it for a shorter tar."""
    path = folder / "00000.tar"
    path.write_bytes(
        path.read_bytes().rstrip(b"\0").ljust(len(path.read_bytes()) // 512 * 512, b"\0")[: 512 * _blocks(path)]
    )


def _blocks(path: Path) -> int:
    """Blocks up to the end of the last member."""
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    return (last.offset_data + last.size + 511) // 512


def _spoil(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def _rewrite(change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        path = folder / "00000.tar"
        with tarfile.open(path) as tar:
            members = [(info, tar.extractfile(info).read()) for info in tar.getmembers()]  # type: ignore[union-attr]
        change(members)
        with tarfile.open(path, "w|") as tar:
            for info, data in members:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

    return rewrite


def _add_link(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    for kind, name in ((tarfile.SYMTYPE, "000000009.jpg"), (tarfile.LNKTYPE, "000000008.jpg")):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        members.append((info, b""))


def _add_paths(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    for name in ("../000000009.jpg", "/etc/000000009.jpg", "000000009.pyd", "000000009.pickle", "9" * 200 + ".jpg"):
        members.append((tarfile.TarInfo(name), b"x"))


def _spoil_json(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members[1] = (members[1][0], b"{" * 100_000)


def _change_url_in_json(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members[1] = (members[1][0], members[1][1].replace(b"site.example", b"else.example"))


def _drop_json(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    del members[1]


def _drop_sample(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    del members[0:3]


def _rename_sample(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    for info, _ in members[0:3]:
        info.name = "000000077" + info.name[9:]


def _repeat_sample(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members += members[0:3]


def _lengthen(folder: Path) -> None:
    """A pax header that gives the next member another length."""
    data = (folder / "00000.tar").read_bytes()
    record = b"17 size=99999999\n"
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    (folder / "00000.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + data)


def _drop_rows(indexes: Sequence[int]) -> Callable[[Path], None]:
    return lambda folder: write_rows(
        folder / "00000.parquet", [row for index, row in enumerate(Shard().rows()) if index not in indexes]
    )


def _other_columns(folder: Path) -> None:
    write_rows(folder / "00000.parquet", [{"picture": "x", "text": "y"}])


def _of_another_shard(folder: Path) -> None:
    shutil.copy(folder / "00001.parquet", folder / "00000.parquet")


def _nothing_but_statistics(folder: Path) -> None:
    (folder / "00000.tar").unlink()
    (folder / "00000.parquet").unlink()


def _tfrecord(folder: Path) -> None:
    (folder / "00000.tar").rename(folder / "00000.tfrecord")


def _extra_files(folder: Path) -> None:
    (folder / "_tmp").mkdir()
    (folder / "notes.txt").write_text("hello")
    (folder / "00007.tar").symlink_to("/etc/passwd")


# what is done to 00000 of two shards of four -> rows of it with bytes, rows without, what is wrong
BROKEN: dict[str, tuple[Callable[[Path], None], int, int, dict[str, int]]] = {
    "tar without its Parquet": (_remove("00000.parquet"), 4, 0, {"parquet-missing": 1}),
    "Parquet without its tar": (_remove("00000.tar"), 0, 4, {"bytes-missing": 4}),
    "no statistics": (_remove("00000_stats.json"), 4, 0, {"stats-missing": 1}),
    "statistics cut": (_cut("00000_stats.json", 0.5), 4, 0, {"stats-unreadable": 1}),
    "statistics nested": (_spoil("00000_stats.json", b"[" * 200_000), 4, 0, {"stats-unreadable": 1}),
    "tar cut": (_cut("00000.tar", 0.4), 2, 2, {"tar-cut": 1, "bytes-missing": 2}),
    "tar without its end": (_cut_end_mark, 4, 0, {"tar-cut": 1}),
    "tar empty": (_spoil("00000.tar", b""), 0, 4, {"tar-cut": 1, "bytes-missing": 4}),
    "tar of something else": (_spoil("00000.tar", b"<html>" * 1000), 0, 4, {"tar-damaged": 1, "bytes-missing": 4}),
    "tar with another length in pax": (_lengthen, 0, 4, {"tar-damaged": 1, "bytes-missing": 4}),
    "Parquet cut": (_cut("00000.parquet", 0.5), 4, 0, {"parquet-unreadable": 1}),
    "Parquet of other columns": (_other_columns, 4, 0, {"parquet-unreadable": 1}),
    "Parquet of another shard": (_of_another_shard, 0, 0, {"key-mismatch": 8}),
    "row lost": (_drop_rows([1]), 3, 0, {"rows-dropped": 1, "key-mismatch": 1}),
    "links in the tar": (_rewrite(_add_link), 4, 0, {"unexpected-member": 2}),
    "paths in the tar": (_rewrite(_add_paths), 4, 0, {"unexpected-member": 5}),
    "JSON that cannot be parsed": (_rewrite(_spoil_json), 4, 0, {"json-unreadable": 1}),
    "JSON of another URL": (_rewrite(_change_url_in_json), 3, 0, {"disagreement": 1}),
    "no JSON": (_rewrite(_drop_json), 4, 0, {"json-missing": 1}),
    "sample lost": (_rewrite(_drop_sample), 3, 1, {"bytes-missing": 1}),
    "key of no row": (_rewrite(_rename_sample), 3, 1, {"key-mismatch": 1, "json-unreadable": 1, "bytes-missing": 1}),
    "sample twice": (_rewrite(_repeat_sample), 4, 0, {"key-mismatch": 1}),
    "dummy": (_nothing_but_statistics, 0, 0, {"format-not-supported": 1}),
    "tfrecord": (_tfrecord, 0, 0, {"format-not-supported": 1}),
    "a run that was killed, other files, a link": (_extra_files, 4, 0, {"unfinished": 1, "unexpected-file": 2}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named_and_counted_and_the_rest_goes_on(tmp_path: Path, case: str) -> None:
    """One broken shard costs what is broken of it and nothing of the next."""
    folder = tmp_path / "out"
    Shard(0).write(folder, "webdataset")
    Shard(1).write(folder, "webdataset")
    spoil, with_bytes, without, expected = BROKEN[case]
    spoil(folder)
    rows, problems = sample(folder)
    assert codes(problems) == expected
    first = [row for row in rows if row.shard == "00000"]
    assert [sum(row.stored is not None for row in first), sum(row.stored is None for row in first)] == [
        with_bytes,
        without,
    ]
    assert all(row.is_original for row in first if row.stored is not None)
    assert [row.key for row in rows if row.shard == "00001"] == [f"00001{index:04d}" for index in range(4)]


def test_a_folder_of_files_is_read_without_following_links(tmp_path: Path) -> None:
    """A link where a picture should be is not opened, and a picture that is gone is named."""
    folder = Shard().write(tmp_path / "out", "files")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "00000/000000000.jpg").unlink()
    (folder / "00000/000000000.jpg").symlink_to(tmp_path / "secret")
    (folder / "00000/000000001.jpg").unlink()
    rows, problems = sample(folder)
    assert codes(problems) == {"unexpected-member": 1, "bytes-missing": 2}
    assert [row.key for row in rows if row.stored is None] == ["000000000", "000000001"]
    (folder / "00000.parquet").unlink()
    rows, problems = sample(folder)
    assert codes(problems) == {"unexpected-member": 1, "bytes-missing": 2, "parquet-missing": 1}


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_what_is_no_folder_of_img2dataset_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A place that is missing, empty or a file is wrong use, said with what is expected."""
    make(tmp_path / "place")
    with pytest.raises(InputError) as refused:
        list(read_img2dataset(tmp_path / "place"))
    assert refused.value.remedy


def test_memory_holds_one_picture(tmp_path: Path) -> None:
    """A shard of many pictures needs no more memory than a few of them."""
    size, picture = 60, bytes(500_000)
    folder = Shard(size=size, stored=dict.fromkeys(range(size), picture)).write(tmp_path / "out", "webdataset")
    assert next(iter(read_img2dataset(folder))) is not None  # imports and caches are paid before it counts
    tracemalloc.start()
    try:
        assert sum(isinstance(item, Imported) for item in read_img2dataset(folder)) == size
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(picture)
