"""The needle scan: whatever form a value has, wherever it lies, it is found; what was not read is not called clean."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import html
import io
import itertools
import json
import lzma
import os
import pickle
import random
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from curation.fingerprints import pdq
from flows.cli import cli
from flows.home import Home
from flows.settings import DEFAULT_TEXT
from flows.stages.removing import applying, approving, requests
from flows.stages.removing.forms import passages, text_forms
from flows.stages.removing.likeness import RemovedPictures, pixel_rows
from flows.stages.removing.needles import Needles, gather
from flows.stages.removing.scanning import ScanReport, scan
from flows.stages.removing.searching import Pattern, Search
from policy import removal_matches
from policy.column_scan import ColumnScan
from policy.errors import InputError, RefusedError
from policy.ruleset import Ruleset
from tests.builders import replaced
from tests.flows.sealable import sealable_home, text_of

URL = "https://museum.example/gallery/äpfel no 7.jpg?size=large&v=2"
TEXT = 'Großmutters "roter" Apfel <am> Fenster'
SHA256 = hashlib.sha256(b"an original").hexdigest()
KEY = hashlib.blake2b(b"a sample", digest_size=16).hexdigest()
VALUES = {"url": URL, "text": TEXT, "sha256": SHA256, "key": KEY}
NEEDLES = Needles.of_values(VALUES.values())


def kinds(report: ScanReport) -> set[str]:
    """Of what was found."""
    return {hit.kind for hit in report.hits}


def drawn(seed: int, size: int = 96) -> Image.Image:
    """A picture with structure, unlike any of another seed."""
    blocks = np.random.default_rng(seed).integers(0, 255, (12, 12), dtype=np.uint8)
    return Image.fromarray(blocks).resize((size, size), Image.Resampling.BILINEAR).convert("RGB")


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    held = io.BytesIO()
    image.save(held, form, **options)
    return held.getvalue()


# ── every form of every value ────────────────────────────────────────────────────────────────────────────────────


def spellings() -> Iterator[tuple[str, bytes]]:
    """How URL, text and digests are met in files, each written here by what would write it there."""
    for name, value in {"url": URL, "text": TEXT}.items():
        yield f"{name}: as it is", value.encode()
        yield f"{name}: JSON, ASCII", json.dumps({"a": value}).encode()
        yield f"{name}: JSON, UTF-8", json.dumps({"a": value}, ensure_ascii=False).encode()
        yield f"{name}: JSON in JSON", json.dumps(json.dumps([value])).encode()
        yield f"{name}: HTML", f'<img alt="{html.escape(value)}">'.encode()
        yield f"{name}: HTML, ASCII", html.escape(value).encode("ascii", "xmlcharrefreplace")
        yield f"{name}: UTF-16", value.encode("utf-16-le")
        for before in range(3):
            yield f"{name}: base64, {before} bytes on", base64.b64encode(b"xyz"[:before] + value.encode() + b"tail")
        yield f"{name}: a pickle in base64", base64.b64encode(pickle.dumps({"result": [value]}))
    yield "url: without its scheme", URL.removeprefix("https://").encode()
    yield "url: of another scheme", URL.replace("https", "http").encode()
    yield "url: slashes escaped", json.dumps(URL).replace("/", "\\/").encode()
    yield "text: UTF-16, big endian", TEXT.encode("utf-16-be")
    yield "text: Latin-1", TEXT.encode("latin-1")
    yield "text: case folded", TEXT.casefold().encode()
    yield "text: other white space", TEXT.replace(" ", "\n   ").encode()
    for name, digest in {"sha256": SHA256, "key": KEY}.items():
        yield f"{name}: hex", digest.encode()
        yield f"{name}: HEX", digest.upper().encode()
        yield f"{name}: raw", bytes.fromhex(digest)
        for before in range(3):
            shifted = b"xyz"[:before] + bytes.fromhex(digest) + b"tail"
            yield f"{name}: base64, {before} bytes on", base64.b64encode(shifted)
            yield f"{name}: base64 for URLs, {before} bytes on", base64.urlsafe_b64encode(shifted)


SPELLINGS = dict(spellings())


@pytest.fixture(scope="module")
def search() -> Search:
    return Search(NEEDLES.patterns)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_form_is_found(spelling: str, search: Search) -> None:
    """A value is found however it is written, with anything before and behind it."""
    for around in (b"", b"\0\1\2", b" word ", b'"'):
        assert search.in_bytes(around + SPELLINGS[spelling] + around).total()


def test_nothing_is_found_where_nothing_is(search: Search) -> None:
    """Other URLs of the site, other texts and digests are no hits."""
    for other in (URL[:-6].encode(), TEXT[:-3].encode(), hashlib.sha256(b"another").digest(), os.urandom(1 << 20)):
        assert not search.in_bytes(other)


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(min_size=8, max_size=60))
def test_base64_of_anything_around_it_shows_it(before: bytes, behind: bytes, value: bytes) -> None:
    """Whatever bytes stand around a value, their base64 holds one of its forms."""
    from flows.stages.removing.forms import base64_forms

    forms = set(base64_forms(value))
    assert any(form in base64.b64encode(before + value + behind) for form in forms)
    assert any(form in base64.urlsafe_b64encode(before + value + behind) for form in forms)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(min_size=8, max_size=40), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(0, 300), max_size=12),
    st.binary(max_size=120),
    st.data(),
)
def test_a_value_is_found_across_any_border(
    values: list[bytes], borders: list[int], filling: bytes, data: st.DataObject
) -> None:
    """However a stream is cut into chunks, each place counts just as often as in the whole."""
    whole = filling + b"".join(value + filling[: data.draw(st.integers(0, 20))] for value in values)
    search = Search([Pattern("it", value) for value in values])
    cuts = sorted({0, len(whole), *(b for b in borders if b < len(whole))})
    chunks = iter([whole[a:b] for a, b in itertools.pairwise(cuts)])
    found, size = search.in_stream(lambda n: next(chunks, b""))
    assert size == len(whole)
    assert found["it"] == sum(whole[at:].startswith(value) for value in values for at in range(len(whole)))


def test_a_url_that_others_go_on_from_is_found_by_itself_alone() -> None:
    """Where a longer URL stays, the shorter one counts where it ends, also before punctuation, and at a border."""
    search = Search([Pattern("page", b"a.example/list", whole=True)])
    for text, count in {
        b"https://a.example/list": 1, b'"https://a.example/list",': 1, b"see a.example/list.": 1, 
        b"(a.example/list)": 1,
        b"https://a.example/list/7": 0, b"a.example/list?page=2": 0, b"a.example/list.html": 0, b"aa.example/list": 0,
    }.items():  # fmt: skip
        assert search.in_bytes(text)["page"] == count, text
        for cut in range(len(text)):
            chunks = iter((text[:cut], text[cut:])) if cut else iter((text,))
            assert search.in_stream(lambda n, chunks=chunks: next(chunks, b""))[0]["page"] == count, (text, cut)


def test_who_asks_is_looked_for_by_name_and_address(tmp_path: Path, fresh_home: Callable[..., Home]) -> None:
    """Each part of what was written down, and no empty one: nothing is as common. Phrase lists in the home or not."""
    home = fresh_home(
        tmp_path / "home", settings_text=DEFAULT_TEXT.replace("phrase_lists = []", 'phrase_lists = ["a"]')
    )
    (home.path / "a").write_text("a kite\n")
    asked = requests.add(home, "url", "https://a.example/b.png", requester="Nora Quillfeather <nora@quill.example>").id
    with home.ledger(readonly=True) as ledger:
        needles = gather(home, ledger, [asked])
    search = Search(needles.patterns)
    for said in (b"for Nora Quillfeather.", b"mailto:nora@quill.example"):
        assert "requester" in search.in_bytes(said)


def test_a_long_text_is_found_by_its_parts() -> None:
    """Of a long text its beginning, middle and end are looked for, so that a copy that was cut is found."""
    text = " ".join(f"word{n}" for n in range(60))
    search = Search([Pattern("it", form) for part in passages(text) for form in text_forms(part)])
    assert all(search.in_bytes(part.encode()) for part in (text[:80], text[-80:], text[150:300]))


# ── every container ──────────────────────────────────────────────────────────────────────────────────────────────


def tar_of(body: bytes, name: str = "a.txt") -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(body)
        tar.addfile(info, io.BytesIO(body))
    return held.getvalue()


def zip_of(body: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", body)
    return held.getvalue()


def parquet_of(column: Any) -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.table({"n": [1] * len(column), "deep": column}), held, compression="zstd")
    return held.getvalue()


def arrow_of(body: bytes, *, stream: bool) -> bytes:
    held = io.BytesIO()
    table = pa.table({"a": pa.array([b"other", body])})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(held, table.schema, options=options) as writer:
        writer.write_table(table)
    return held.getvalue()


def sqlite_of(body: bytes) -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (a BLOB)")
        connection.execute("INSERT INTO t VALUES (?)", [b"x" * 9_000 + body + b"y" * 9_000])  # over several pages
        connection.commit()
        return bytes(connection.serialize())


def png_of(body: bytes) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", body.decode("latin-1"), zip=True)
    return encoded(drawn(9), "PNG", pnginfo=info)


def npz_of(body: bytes) -> bytes:
    held = io.BytesIO()
    np.savez_compressed(held, a=np.frombuffer(b"--" + body, np.uint8))
    return held.getvalue()


def zstd_of(body: bytes) -> bytes:
    return bytes(
        pa.Codec("zstd").compress(b"first frame " * 9, asbytes=True) + pa.Codec("zstd").compress(body, asbytes=True)
    )


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "plain bytes": lambda body: os.urandom(100) + body + os.urandom(100),
    "gzip": lambda body: gzip.compress(b"a line\n") + gzip.compress(body),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd_of,
    "tar": tar_of,
    "zip": zip_of,
    "npz": npz_of,
    "Parquet": lambda body: parquet_of([b"other", body]),
    "Parquet, a dictionary": lambda body: parquet_of(pa.array([body] * 9, pa.binary()).dictionary_encode()),
    "Parquet, a list in a struct": lambda body: parquet_of(pa.array([{"a": [b"", body]}, {"a": None}])),
    "Parquet, a map": lambda body: parquet_of(pa.array([[("k", body)]], pa.map_(pa.string(), pa.binary()))),
    "Parquet, a list of numbers": lambda body: parquet_of(pa.array([list(body)], pa.list_(pa.uint8()))),
    "Arrow, a file": lambda body: arrow_of(body, stream=False),
    "Arrow, a stream": lambda body: arrow_of(body, stream=True),
    "SQLite": sqlite_of,
    "PNG": png_of,
    "a data URI": lambda body: b'<img src="data:application/x;base64,' + base64.b64encode(gzip.compress(body)) + b'">',
    "gzip in tar in zip in Parquet": lambda body: parquet_of([zip_of(tar_of(gzip.compress(body)))]),
}  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_value_is_found_in_every_container(container: str, tmp_path: Path) -> None:
    """Each kind of value is found in each kind of container, whose bytes alone would often show none; without any of
    them the same container is clean."""
    for number, value in enumerate((URL.encode(), bytes.fromhex(SHA256), KEY.encode(), TEXT.encode("latin-1"))):
        (tmp_path / str(number)).write_bytes(CONTAINERS[container](value))
    report = scan(tmp_path, NEEDLES)
    assert {hit.where.partition(",")[0] for hit in report.hits} == {"0", "1", "2", "3"}
    assert report.unread == ()

    for number in range(4):
        (tmp_path / str(number)).write_bytes(CONTAINERS[container](b"nothing that is looked for"))
    report = scan(tmp_path, NEEDLES)
    assert (report.hits, report.unread, report.files) == ((), (), 4)
    assert report.clean


def test_columns_are_read_where_bytes_show_nothing(tmp_path: Path) -> None:
    """DuckDB packs texts: the file's bytes do not show a value that it holds, its columns do."""
    rows = [f"https://museum.example/gallery/{n * 7919 % 10_007}/picture-{n}.jpg" for n in range(20_000)]
    with duckdb.connect(str(tmp_path / "a.duckdb")) as connection:
        connection.register("given", pa.table({"url": rows}))
        connection.execute("CREATE TABLE t AS FROM given")
        connection.execute("CHECKPOINT")
        used = connection.execute("SELECT DISTINCT compression FROM pragma_storage_info('t')").fetchall()
    assert ("FSST",) in used or ("DICT_FSST",) in used
    wanted = Needles.of_values([rows[12_345]])
    assert not Search(wanted.patterns).in_bytes((tmp_path / "a.duckdb").read_bytes())
    report = scan(tmp_path, wanted)
    assert [(hit.where, hit.count) for hit in report.hits] == [("a.duckdb, table t, column url", 1)]


def test_a_duckdb_file_is_read_to_its_last_type(tmp_path: Path) -> None:
    """Blobs, UUIDs, lists, structs, enumerations and what the catalog says are read; so is one within a tar."""
    path = tmp_path / "a.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"CREATE TYPE kind AS ENUM ('other', '{KEY}')")
        connection.execute("CREATE TABLE t (b BLOB, u UUID, l VARCHAR[], s STRUCT(a VARCHAR))")
        connection.execute("INSERT INTO t VALUES (?, ?, [?], {'a': ?})", [bytes.fromhex(SHA256), KEY, URL, TEXT])
        connection.execute(f"CREATE VIEW v AS SELECT '{SHA256}' AS x")
    expected = {f"table t, column {name}" for name in "buls"}
    expected |= {"table (catalog), column types", "table (catalog), column views"}
    assert {hit.where.partition(", ")[2] for hit in scan(tmp_path, NEEDLES).hits} - {""} == expected

    (tmp_path / "a.tar").write_bytes(tar_of(path.read_bytes()))
    path.unlink()
    found = {hit.where.partition(", member 0, ")[2] for hit in scan(tmp_path, NEEDLES).hits} - {""}
    assert found == expected


def test_what_only_bytes_could_tell_is_not_called_clean(tmp_path: Path) -> None:
    """A row that was deleted from a DuckDB file stays in its packed bytes until the file is copied: that is said."""
    with duckdb.connect(str(tmp_path / "a.duckdb")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 'a text, number ' || i AS a FROM range(9000) r(i)")
    assert scan(tmp_path, NEEDLES).clean
    with duckdb.connect(str(tmp_path / "a.duckdb")) as connection:
        connection.execute("DELETE FROM t WHERE a = 'a text, number 7'")
    report = scan(tmp_path, NEEDLES)
    assert not report.clean
    assert any("1 deleted rows of t" in one.why for one in report.unread)


def test_the_log_of_a_sqlite_file_is_read(tmp_path: Path) -> None:
    """What a killed server left in the write-ahead log is found as a value, though it lies there in parts."""
    path = tmp_path / "prefect.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE log (line TEXT)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for shift in range(8):  # one of them at least has a page's end in it
            connection.execute("INSERT INTO log VALUES (?)", ["x" * (4_000 + 20 * shift) + URL + "y" * 9_000])
        connection.commit()
        copy = tmp_path / "home"
        copy.mkdir()
        for name in ("prefect.db", "prefect.db-wal"):
            (copy / name).write_bytes((tmp_path / name).read_bytes())
    counts = {hit.where: hit.count for hit in scan(copy, NEEDLES).hits}
    assert counts["prefect.db, table log, column line"] == 8


# ── names, links, and what cannot be read ────────────────────────────────────────────────────────────────────────


def test_names_count_and_are_not_told(tmp_path: Path) -> None:
    """A value in the name of a file, a directory or a member, in a link or an attribute is a hit; its place is told by
    number, and neither report, needles nor errors show a value."""
    (tmp_path / KEY).mkdir()
    (tmp_path / KEY / f"{SHA256}.json").write_text("{}")
    (tmp_path / ".hidden").write_bytes(tar_of(b"", f"{KEY}.jpg"))
    (tmp_path / "link").symlink_to(f"{KEY}/{SHA256}.json")
    mirrored = tmp_path / URL.removeprefix("https://")
    mirrored.parent.mkdir(parents=True)
    mirrored.write_text("")
    report = scan(tmp_path, NEEDLES)
    places = {hit.where for hit in report.hits}
    assert len(places) == 5
    assert {".hidden", "link, the link", "museum.example/gallery/(entry 0)"} < places
    for shown in (repr(report), str(report), repr(NEEDLES), repr(NEEDLES.patterns), repr(NEEDLES.pictures)):
        assert not Search(NEEDLES.patterns).in_bytes(shown.encode())


def test_what_is_not_read_is_told_with_its_reason(tmp_path: Path) -> None:
    """Cut archives, encrypted ones, formats that are not opened, links that lead out: none is called clean."""
    whole = tar_of(b"x" * 3_000)
    (tmp_path / "cut.tar").write_bytes(whole[:2_000])
    (tmp_path / "endless.tar").write_bytes(whole[: 512 + 3_072])
    (tmp_path / "cut.gz").write_bytes(gzip.compress(os.urandom(5_000))[:-1_000])
    (tmp_path / "cut.parquet").write_bytes(parquet_of([b"x" * 50])[:-30])
    (tmp_path / "a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(50))
    (tmp_path / "broken.duckdb").write_bytes(bytes(8) + b"DUCK" + bytes(9_000))
    encrypted = bytearray(zip_of(b"secret" * 9))
    encrypted[6] |= 1
    at = encrypted.index(b"PK\x01\x02")
    encrypted[at + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(encrypted)
    strange = bytearray(zip_of(b"secret" * 9))
    strange[8] = strange[strange.index(b"PK\x01\x02") + 10] = 9  # Deflate64, which nothing here unpacks
    (tmp_path / "strange.zip").write_bytes(strange)
    deep = b"text"
    for _ in range(12):
        deep = gzip.compress(deep)
    (tmp_path / "deep.gz").write_bytes(deep)
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "cut.jpg").write_bytes(encoded(drawn(1))[:-400])
    os.mkfifo(tmp_path / "pipe")
    report = scan(tmp_path, NEEDLES)
    unread = {one.where.partition(",")[0]: one.why for one in report.unread}
    assert set(unread) == {
        "cut.tar", "endless.tar", "cut.gz", "cut.parquet", "a.7z", "broken.duckdb", "locked.zip", "deep.gz", "out",
        "cut.jpg", "strange.zip",
    }  # fmt: skip
    assert "cut in it" in unread["cut.tar"]
    assert "encrypted" in unread["locked.zip"]
    assert "not known" in unread["strange.zip"]
    assert [(one.where, one.why) for one in report.skipped] == [("pipe", "a named pipe")]
    assert not report.hits
    assert not report.clean
    assert report.is_clean(allowing={one.where for one in report.unread})
    assert not report.is_clean(allowing={"out"})


def test_what_came_before_the_cut_counts(tmp_path: Path) -> None:
    """Of a compressed stream that breaks off, what can be had is searched, and the rest is told as unread."""
    packed = gzip.compress(URL.encode() + os.urandom(50_000))
    (tmp_path / "a.gz").write_bytes(packed[:-9_000])
    report = scan(tmp_path, NEEDLES)
    assert kinds(report) == {"given"}
    assert [one.where for one in report.unread] == ["a.gz"]


def test_a_stream_too_large_to_hold_is_searched_as_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressed tar that does not fit into memory is walked as it is unpacked, members that are packed included."""
    monkeypatch.setattr("flows.stages.removing.containers.HELD_BYTES", 1 << 20)
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        for name, body in (("big", bytes(3 << 20)), ("packed", gzip.compress(URL.encode())), (f"{KEY}.txt", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(held.getvalue(), 1))
    report = scan(tmp_path, NEEDLES)
    assert [hit.where for hit in report.hits] == ["a.tar.gz, member 1", "a.tar.gz, member 2"]
    assert report.unread == ()


def test_many_processes_find_what_one_finds(tmp_path: Path) -> None:
    """Shared out to processes, a scan comes to the same; where there are many files they go many at a time."""
    for number in range(40):
        body = (URL if number % 4 == 0 else "nothing").encode()
        (tmp_path / f"{number}.gz").write_bytes(gzip.compress(body))
    (tmp_path / "a.parquet").write_bytes(parquet_of([bytes.fromhex(SHA256)]))
    alone, shared = scan(tmp_path, NEEDLES, workers=1), scan(tmp_path, NEEDLES, workers=2)
    assert shared.hits == alone.hits
    assert (shared.files, shared.bytes, shared.unread) == (41, alone.bytes, ())
    assert {hit.where.partition(",")[0] for hit in alone.hits} == {"a.parquet", *(f"{n}.gz" for n in range(0, 40, 4))}


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────

GONE, STAYS = drawn(1), drawn(2)
PICTURES = Needles(
    (),
    RemovedPictures(
        pdqs=(pdq(np.array(GONE))[0],), staying=(pdq(np.array(STAYS))[0],), max_distance=31,
        file_sha256s=frozenset({hashlib.sha256(encoded(GONE)).digest()}),
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(encoded(GONE), id="the same"),
        pytest.param(encoded(GONE, quality=40), id="recompressed"),
        pytest.param(encoded(GONE.resize((300, 300))), id="resized"),
        pytest.param(encoded(GONE.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG"), id="mirrored, PNG"),
        pytest.param(encoded(GONE.rotate(90), "WEBP", quality=70), id="turned, WebP"),
        pytest.param(encoded(GONE, "AVIF"), id="AVIF"),
        pytest.param(encoded(GONE, "GIF"), id="GIF"),
    ],
)
def test_a_removed_picture_is_found_wherever_it_lies(body: bytes, tmp_path: Path) -> None:
    """As a file, between other bytes as in a pack, in a tar in gzip, in a column and as a data URI in a page."""
    (tmp_path / "1.bin").write_bytes(body)
    (tmp_path / "2.pack").write_bytes(os.urandom(5_000) + encoded(STAYS) + body + encoded(drawn(3)) + bytes(99))
    (tmp_path / "3.tar.gz").write_bytes(gzip.compress(tar_of(body)))
    (tmp_path / "4.parquet").write_bytes(parquet_of([encoded(STAYS), body]))
    data = base64.b64encode(body)
    (tmp_path / "5.html").write_bytes(b'<img src="data:image/x;base64,' + data + b'"> and so on')
    report = scan(tmp_path, PICTURES)
    assert {hit.where[0] for hit in report.hits} == {"1", "2", "3", "4", "5"}
    assert kinds(report) == {"picture"}
    assert report.pictures >= 8
    assert report.unread == ()


def test_pictures_that_stay_are_no_hits(tmp_path: Path) -> None:
    """Other pictures, and copies of what stays, are compared and pass."""
    for seed in range(2, 30):
        (tmp_path / f"{seed}.jpg").write_bytes(encoded(drawn(seed), quality=60))
    report = scan(tmp_path, PICTURES)
    assert (report.hits, report.pictures, report.alike) == ((), 28, 0)


def test_a_picture_as_near_to_what_stays_is_counted_apart(tmp_path: Path) -> None:
    """Where a hash cannot tell a removed picture from one that stays, it is neither a hit nor passed over."""
    (tmp_path / "a.jpg").write_bytes(encoded(GONE, quality=80))
    both = RemovedPictures(pdqs=PICTURES.pictures.pdqs, staying=PICTURES.pictures.pdqs)
    report = scan(tmp_path, Needles((), both))
    assert (report.hits, report.alike) == ((), 1)


def test_a_picture_in_a_grid_without_loss_is_found(tmp_path: Path) -> None:
    """A sheet that shows it pixel by pixel among others is a hit, though its hash is another; one of others is none."""
    needles = Needles((), RemovedPictures(rows=(pixel_rows(np.array(GONE)),)))
    for name, tiles in {"with": (3, 4, 1, 5), "without": (3, 4, 2, 5)}.items():
        sheet = Image.new("RGB", (200, 200), "white")
        for place, seed in enumerate(tiles):
            sheet.paste(drawn(seed), (2 + 98 * (place % 2), 2 + 98 * (place // 2)))
        (tmp_path / f"{name}.png").write_bytes(encoded(sheet, "PNG"))
    assert [hit.where for hit in scan(tmp_path, needles).hits] == ["with.png"]


def test_a_picture_across_chunks_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that is larger than what is read at once is put together before it is looked at."""
    monkeypatch.setattr("flows.stages.removing.searching.CHUNK_BYTES", 1_000)
    (tmp_path / "a.pack").write_bytes(bytes(2_500) + encoded(GONE) + encoded(STAYS) + bytes(700))
    report = scan(tmp_path, PICTURES)
    assert (report.pictures, [hit.count for hit in report.hits], report.unread) == (2, [1], ())


def test_the_first_bytes_of_a_picture_alone_are_none(tmp_path: Path) -> None:
    """Marks that stand in a log, or in bytes by chance, are neither pictures nor something unread."""
    chance = random.Random(1)
    for number, mark in enumerate(
        (b"GIF89a", b"RIFF\x10\0\0\0WEBPVP8 ", b"\0\0\0\x20ftypavif", b"\xff\xd8\xff\xe0\0\x10JFIF\0",
         b"\x89PNG\r\n\x1a\n",
         b";base64,", b"\x1f\x8b\x08", b"PK\x03\x04")
    ):  # fmt: skip
        (tmp_path / f"{number}.log").write_bytes((b"format " + mark + b" is unknown; see the manual, 7\n") * 20)
        (tmp_path / f"{number}.bin").write_bytes(
            b"".join(chance.randbytes(2_000) + mark for _ in range(30)) + bytes(99)
        )
    report = scan(tmp_path, PICTURES)
    assert (report.hits, report.unread, report.pictures) == ((), (), 0)


# ── what is gathered ─────────────────────────────────────────────────────────────────────────────────────────────

COUNT = 30


def photo(n: int) -> bytes:
    return encoded(drawn(n, 64))


@pytest.fixture(scope="module")
def sealable(tmp_path_factory: pytest.TempPathFactory) -> Home:
    # Without the marks by which copies are recognised, which take a model.
    exact = replaced(Ruleset.default_text(), {'suppression = "near"': 'suppression = "exact"'})
    return sealable_home(tmp_path_factory.mktemp("needles") / "home", COUNT, photo, policy_text=exact)


def test_what_belongs_to_the_removed_alone_is_gathered(sealable: Home, copy_of: Callable[[Home], Home]) -> None:
    """Its URL, keys, texts, digests and pixels are looked for, and found in the home; the page on which others stay is
    left out as shared, and the creator, of whom something else stays, as too common."""
    home = copy_of(sealable)
    asked = requests.add(home, "url", "https://site1.example/pictures/7.jpg")
    other = {
        "pair_key": "ab" * 16,
        "image_url": "https://site9.example/x.jpg",
        "hints_json": '[{"creator": "Painter 7"}]',
    }
    with home.ledger() as ledger:
        assert "creator" in gather(home, ledger, [asked.id]).kinds
        ledger.append("occurrence", [other], key="another picture of hers")
        needles = gather(home, ledger, [asked.id])
        [one] = removal_matches.match(ledger, "image_url", "https://site1.example/pictures/8.jpg")
        proposed = removal_matches.record_state(ledger, asked.id, [one], removal_matches.PROPOSED, now=ledger._clock())
        assert (proposed, gather(home, ledger, [asked.id]).patterns) == (1, needles.patterns)  # it stays, so far
    expected = {"alt", "evidence_id", "image_url", "pair_key", "pixels", "sample_key", "sha256", "title"}
    assert expected <= set(needles.kinds)
    assert (needles.shared, needles.too_common) == ({"page_url": 1}, {"creator": 1})
    assert len(needles.pictures.pdqs) == 1
    report = scan(home.path, needles)
    assert (expected - {"pixels"}) | {"picture"} <= kinds(report)


def test_a_removal_leaves_nothing_and_a_leak_is_found(sealable: Home, copy_of: Callable[[Home], Home]) -> None:
    """After apply no form of anything is left in ledger, snapshot, shards, pixels or caches. What a row that no erasure
    knows of says afterwards is a hit."""
    from flows.stages.seal import seal

    home = copy_of(sealable)
    seal(home, name="book")
    asked = requests.add(home, "url", "https://site1.example/pictures/7.jpg")
    with home.ledger(readonly=True) as ledger:
        needles = gather(home, ledger, [asked.id])
    approving.approve(home, asked.id, by="a test")
    applying.apply(home, asked.id, scan=False, receipts=False)
    report = scan(home.path, needles)
    assert (report.hits, report.unread) == ((), ())
    with home.ledger() as ledger:
        ledger.append("event", [{"kind": "a leak", "detail": f"saw {text_of(7)}"}], key="leak")
    report = scan(home.path, needles)
    assert ("ledger.duckdb, table event, column detail", "alt") in {(hit.where, hit.kind) for hit in report.hits}
    assert kinds(report) == {"alt"}
    with home.ledger(readonly=True) as ledger, pytest.raises(RefusedError, match="--needle"):
        gather(home, ledger, [asked.id])


def test_a_scan_at_the_prompt_answers_by_its_exit_code(fresh_home: Callable[..., Home], tmp_path: Path) -> None:
    """0: nothing is left, 1: something is, or was not read (unless that is allowed), 2: nothing to look for."""
    home = fresh_home(tmp_path / "home")

    def run(*options: str, given: str = "") -> Any:
        done = CliRunner().invoke(cli, ["removal", "scan", *options, "--home", str(home.path), "--json"], input=given)
        return done.exit_code, json.loads(done.output) if done.output.startswith("{") else done.output

    code, said = run("--needle", URL)
    assert (code, said["clean"], said["hits"]) == (0, True, [])
    (home.path / "notes.txt").write_text(f"{TEXT}\n")
    (home.path / "cut.gz").write_bytes(gzip.compress(b"x" * 999)[:-9])
    code, said = run("--needle-file", "-", given=f"{URL}\n\n{TEXT}\n")
    assert (code, [hit["where"] for hit in said["hits"]]) == (1, ["notes.txt"])
    code, said = run("--needle", URL)
    assert (code, [one["where"] for one in said["unread"]]) == (1, ["cut.gz"])
    assert run("--needle", URL, "--allow-unread", "cut.gz")[0] == 0
    code, said = run()
    assert (code, "nothing to look for" in said) == (2, True)


def test_a_text_that_others_have_is_no_needle(tmp_path: Path) -> None:
    """A text that is part of another picture's, or short, is left out and counted; nothing of it is a false alarm."""
    texts = {3: "apple", 4: "a red apple on a table", 5: "a red apple on a table, and more"}
    home = sealable_home(tmp_path / "home", 8, photo, alt=lambda n: texts.get(n, text_of(n)))
    for n in (3, 4):
        asked = requests.add(home, "url", f"https://site1.example/pictures/{n}.jpg")
        with home.ledger(readonly=True) as ledger:
            needles = gather(home, ledger, [asked.id])
        assert needles.too_common["alt"] == 1
        assert "alt" not in needles.kinds


def test_who_asks_is_looked_for(sealable: Home, copy_of: Callable[[Home], Home]) -> None:
    """The requester's name and address are found in clear, and not in the ledger, which keeps them encrypted."""
    from dataclasses import replace

    from policy import removals

    home = copy_of(sealable)
    with home.ledger() as ledger:
        request = removals.RemovalRequest.receive("image_url", "https://elsewhere.example/1.jpg", now=ledger._clock())
        removals.record(ledger, replace(request), requester="Erika Mustermann <erika@mail.example>", keys=home.keys)
        needles = gather(home, ledger, [request.removal])
    assert kinds(scan(home.path, needles)) == {"image_url"}  # the request is still on record
    (home.path / "mail.log").write_text("from erika@mail.example: please")
    (home.path / "note.txt").write_bytes("Erika Mustermann".encode("utf-16-le"))
    found = {hit.where for hit in scan(home.path, needles).hits if hit.kind == "requester"}
    assert found == {"mail.log", "note.txt"}


def test_nothing_to_look_for_is_refused(tmp_path: Path) -> None:
    """No value, one too short to mean anything, or no directory: said, not scanned."""
    for values in ([], ["abc"]):
        with pytest.raises(InputError):
            Needles.of_values(values)
    with pytest.raises(InputError, match="no such directory"):
        scan(tmp_path / "none", NEEDLES)


def test_a_scan_of_columns_waits_for_the_ledgers_writer(sealable: Home) -> None:
    """While the ledger is held for writing its columns are not read: it is busy, and said so."""
    from policy.errors import BusyError

    with sealable.ledger(), pytest.raises(BusyError):
        ColumnScan.open(sealable.ledger_path, wait_s=0)
