"""Imported lists: key files that are whole or refused, and asked alike one by one and all at once."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy import registries
from policy.errors import IntegrityError
from policy.evidence import Evidence, Hop
from policy.ledger import Ledger
from policy.origins import is_registry_suffix
from policy.registries import ImportedList, NearHashes, Registries, check_keys, domains_of, found_in, keys_of, url_value
from policy.turned_hashes import turned_hashes

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
SEEN = Evidence(
    page_url="https://www.example.org/gallery",
    image_url="https://img.cdn.example.net/a.jpg",
    observed_at=NOW,
    observer="test",
    observer_version="1",
    hops=(
        Hop("https://img.cdn.example.net/a.jpg", 302, ()),
        Hop("https://store.example.com/b.jpg", 200, ()),
    ),
    content_sha256="ab" * 32,
    content_md5="cd" * 16,
    pdq="0f" * 32,
)


def made(directory: Path, kind: str, *values: str, name: str = "optouts") -> ImportedList:
    """A list of canonical values, as it is imported."""
    written = registries.write_keys(directory, name, kind, [keys_of(kind, values)])
    return ImportedList(name, kind, written.sha256, written.rows, NOW, 30, NOW)


def asked(directory: Path, kind: str, *values: str, distance: int = 31) -> Registries:
    return Registries.load(directory, [made(directory, kind, *values)], pdq_max_distance=distance)


def test_an_empty_home_has_no_lists_and_says_so() -> None:
    """Asked, and nothing there to answer: an empty tuple, not None."""
    assert Registries.load(Path("nowhere"), []).answers_for(SEEN) == ()


@pytest.mark.parametrize(
    ("kind", "value", "match"),
    [
        ("url", "//img.cdn.example.net/a.jpg", "url https://img.cdn.example.net/a.jpg"),
        ("url", "//www.example.org/gallery", "url https://www.example.org/gallery"),
        ("url", "//store.example.com/b.jpg", "url https://store.example.com/b.jpg"),
        ("url", "//img.cdn.example.net/", ""),
        ("url", "//img.cdn.example.net/a.jpg?x", ""),
        ("domain", "example.org", "domain example.org"),
        ("domain", "www.example.org", "domain www.example.org"),
        ("domain", "example.net", "domain example.net"),
        ("domain", "cdn.example.net", "domain cdn.example.net"),
        ("domain", "store.example.com", "domain store.example.com"),
        ("domain", "other.example.com", ""),
        ("domain", "ample.org", ""),
        ("sha256", "ab" * 32, "sha256 " + "ab" * 32),
        ("sha256", "ac" * 32, ""),
        ("md5", "cd" * 16, "md5 " + "cd" * 16),
        ("md5", "ce" * 16, ""),
        ("pdq", "0f" * 31 + "0e", "pdq " + "0f" * 32 + ", 1 of 256 bits away"),
        ("pdq", "f0" * 32, ""),
    ],
)
def test_a_pair_is_found_by_every_address_and_digest(tmp_path: Path, kind: str, value: str, match: str) -> None:
    """The picture's, the page's and every redirect's URL and domains; the bytes' digests; the look within its limit."""
    lists = asked(tmp_path, kind, value, "00" * 32 if kind == "pdq" else "decoy")
    [answer] = lists.answers_for(SEEN)
    assert (answer.name, answer.kind, answer.dated_at, answer.max_age_days) == ("optouts", kind, NOW, 30)
    assert answer.match == match
    assert lists.answers_for_all([SEEN]) == [(answer,)]


def test_a_list_of_http_addresses_covers_https_and_back(tmp_path: Path) -> None:
    """Two doors to one thing: who names one of them means both."""
    assert url_value("http://a.example/x") == url_value("https://a.example/x")
    assert asked(tmp_path, "url", url_value("http://img.cdn.example.net/a.jpg")).answers_for(SEEN)[0].match


def test_a_redirect_that_was_refused_counts_as_an_address(tmp_path: Path) -> None:
    """Where the way to the picture ended is where the picture is."""
    lists = asked(tmp_path, "domain", "hidden.example")
    assert lists.answers_for(replace(SEEN, refused_url="https://a.hidden.example/x.jpg"))[0].match
    assert not lists.answers_for(SEEN)[0].match


def test_no_match_costs_no_object(tmp_path: Path) -> None:
    """A million pairs that no list names share one answer."""
    lists = asked(tmp_path, "url", "//nobody.example/")
    assert lists.answers_for(SEEN) is lists.silent
    assert lists.answers_for_all([SEEN, SEEN])[1] is lists.silent


def test_what_is_not_contacted_yet_is_asked_by_its_address_alone(tmp_path: Path) -> None:
    """The crawl's gate asks lists of URLs and domains, and names the one that answers."""
    lists = Registries.load(
        tmp_path,
        [
            made(tmp_path, "url", "//a.example/x", name="urls"),
            made(tmp_path, "domain", "b.example", name="sites"),
            made(tmp_path, "sha256", "ab" * 32, name="hashes"),
        ],
    )
    assert lists.covers_url("https://a.example/x") == "urls"
    assert lists.covers_url("https://deep.below.b.example:8443/y") == "sites"
    assert lists.covers_url("https://a.example/y") is None


def test_addresses_and_suffixes_are_no_domains_of_others() -> None:
    """Parents of a host down to two labels; an IP address and localhost stand for themselves."""
    assert domains_of("A.B.Example.ORG.") == ("a.b.example.org", "b.example.org", "example.org")
    assert domains_of("127.0.0.1") == ("127.0.0.1",)
    assert domains_of("::1") == ("::1",)
    assert domains_of("localhost") == ("localhost",)


def test_a_public_suffix_is_told_from_a_company_that_sells_names() -> None:
    """com and co.uk are nobody's; github.io has an owner, who may opt out for all of it."""
    assert [is_registry_suffix(n) for n in ("com", "co.uk", "foo.ck", "xn--p1ai")] == [True] * 4
    assert [is_registry_suffix(n) for n in ("example.com", "bbc.co.uk", "www.ck", "github.io")] == [False] * 4


def test_another_process_is_handed_names_not_keys(tmp_path: Path) -> None:
    """A pickle of a hundred thousand keys is as small as that of one, and opens the very file: or refuses."""
    lists = asked(tmp_path, "domain", "example.org", *(f"{i}.example" for i in range(100_000)))
    body = pickle.dumps(lists)
    assert len(body) < 2_000
    assert pickle.loads(body).answers_for(SEEN) == lists.answers_for(SEEN)
    next(tmp_path.glob("*.keys")).unlink()
    with pytest.raises(IntegrityError):
        pickle.loads(body)


# ── the file ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_its_entries_in_whatever_order(tmp_path: Path) -> None:
    """Equal entries give equal bytes under an equal name, however often and in which order they came."""
    values = [f"//a.example/{i}" for i in range(1000)]
    one = registries.write_keys(tmp_path / "1", "x", "url", [keys_of("url", values)])
    random.Random(1).shuffle(values)
    batches = [keys_of("url", values[i : i + 70]) for i in range(0, 1000, 70)] + [keys_of("url", values[:500])]
    two = registries.write_keys(tmp_path / "2", "x", "url", batches)
    assert (one.sha256, one.rows) == (two.sha256, 1000)
    assert one.path.name == two.path.name == f"x-{one.sha256[:12]}.keys"
    assert one.path.read_bytes() == two.path.read_bytes()


def test_sorting_in_many_runs_gives_what_sorting_at_once_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs spilled to disk and merged by bucket: the same file, and nothing left beside it."""
    values = [f"//a.example/{i % 900}" for i in range(2000)]
    whole = registries.write_keys(tmp_path, "whole", "url", [keys_of("url", values)])
    monkeypatch.setattr(registries, "_RUN_ROWS", 64)
    few = (keys_of("url", values[i : i + 10]) for i in range(0, 2000, 10))
    cut = registries.write_keys(tmp_path, "cut", "url", few)
    assert (whole.sha256, whole.rows) == (cut.sha256, 900)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([whole.path.name, cut.path.name])


def test_an_import_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """What raises while keys come in leaves no file, half or temporary."""

    def broken() -> object:
        yield keys_of("url", ["//a.example/"])
        raise ValueError("line 2")

    with pytest.raises(ValueError, match="line 2"):
        registries.write_keys(tmp_path, "x", "url", broken())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["gone", "cut", "longer", "header", "other-kind", "empty", "directory"])
def test_a_list_whose_file_is_not_the_one_on_record_is_refused(tmp_path: Path, damage: str) -> None:
    """Lost, cut, grown or another's: nothing is let in without it, and the message says how to get it back."""
    row = made(tmp_path, "domain", "a.example", "b.example")
    path = row.path(tmp_path)
    body = path.read_bytes()
    path.unlink()
    match damage:
        case "cut":
            path.write_bytes(body[:-1])
        case "longer":
            path.write_bytes(body + b"\0")
        case "header":
            path.write_bytes(body.replace(b'"rows": 2', b'"rows": 1'))
        case "other-kind":
            path.write_bytes(body.replace(b'"domain"', b'"sha256"'))
        case "empty":
            path.write_bytes(b"")
        case "directory":
            path.mkdir()
    with pytest.raises(IntegrityError, match=r"'optouts'.*custody policy import FILE --kind domain --name optouts"):
        Registries.load(tmp_path, [row])


def test_changed_keys_are_found_by_reading_them_all(tmp_path: Path) -> None:
    """One bit of one key: opening does not read it, verifying does."""
    row = made(tmp_path, "domain", "a.example", "b.example")
    check_keys(tmp_path, row)
    body = bytearray(row.path(tmp_path).read_bytes())
    body[-1] ^= 1
    row.path(tmp_path).write_bytes(body)
    Registries.load(tmp_path, [row])
    with pytest.raises(IntegrityError, match="not those that were imported"):
        check_keys(tmp_path, row)


def test_of_each_name_the_last_import_counts(ledger: Ledger) -> None:
    """Rows are never changed: the newest of a name is the list, those before it are its history."""
    for number, (name, days) in enumerate([("a", 30), ("b", 30), ("a", 7)]):
        row = {"name": name, "kind": "url", "sha256": f"{number:064}", "row_count": 1, "max_age_days": days}
        ledger.append("registry", [{**row, "dated_at": NOW, "imported_at": NOW}], key=f"{number}")
    first, second = registries.imported_lists(ledger)
    assert (first.name, first.max_age_days, first.dated_at, second.name) == ("a", 7, NOW, "b")
    assert not first.is_overdue(NOW + timedelta(days=7))
    assert first.is_overdue(NOW + timedelta(days=7, seconds=1))


# ── searching ──────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(0, 40)), st.lists(st.integers(0, 40)))
def test_the_search_agrees_with_a_set(listed: list[int], wanted: list[int]) -> None:
    """Found are those that are there, though half of a key is shared by many."""

    def keys(numbers: list[int]) -> registries.Keys:
        return np.array([(n // 7, n) for n in numbers], dtype=np.uint64).reshape(-1, 2)

    sorted_keys = registries._sorted(keys(listed))
    assert found_in(sorted_keys, keys(wanted)).tolist() == [n in set(listed) for n in wanted]
    assert [registries._holds(sorted_keys, (n // 7, n)) for n in wanted] == [n in set(listed) for n in wanted]


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_asking_all_at_once_is_asking_each(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """The set-based answers are those of the pairs one by one, for every kind of list."""
    numbers = st.integers(0, 12)
    hosts = st.builds("{}.{}.example".format, numbers, numbers)
    urls = st.builds("https://{}/{}.jpg".format, hosts, numbers)
    digest = st.builds("{:064x}".format, numbers)
    lists = {
        "url": data.draw(st.lists(urls.map(url_value), min_size=1)),
        "domain": data.draw(st.lists(hosts, min_size=1)),
        "sha256": data.draw(st.lists(digest, min_size=1)),
        "md5": data.draw(st.lists(digest.map(lambda d: d[32:]), min_size=1)),
        "pdq": data.draw(st.lists(digest, min_size=1)),
    }
    directory = tmp_path_factory.mktemp("lists")
    loaded = Registries.load(
        directory, [made(directory, k, *v, name=k) for k, v in lists.items()], pdq_max_distance=data.draw(numbers)
    )
    pairs = data.draw(
        st.lists(
            st.builds(
                lambda page, image, sha: replace(
                    SEEN, page_url=page, image_url=image, hops=None, content_sha256=sha, content_md5=sha[32:], pdq=sha
                ),
                urls,
                urls,
                digest,
            )
        )
    )
    assert loaded.answers_for_all(pairs) == [loaded.answers_for(pair) for pair in pairs]


@pytest.mark.parametrize("distance", [0, 5, 15, 16, 31, 40])
def test_the_index_of_hashes_misses_none_that_comparing_finds(distance: int) -> None:
    """Hashes at every distance around the limit, with their differing bits heaped or spread, among thousands."""
    rng, draw = np.random.default_rng(7), random.Random(7)
    hashes = rng.integers(0, 2**64, (5000, 4), dtype=np.uint64)
    near = NearHashes(hashes, distance)
    assert near._indexed == (distance < 32)
    for away in (0, 1, distance - 1, distance, distance + 1, distance + 20):
        for bits in (draw.sample(range(256), max(away, 0)), list(range(max(away, 0)))):
            value = int.from_bytes(hashes[draw.randrange(5000)].astype(">u8").tobytes(), "big")
            for bit in bits:
                value ^= 1 << bit
            assert near.nearest(f"{value:064x}") == ((len(bits), False) if len(bits) <= distance else None)


@pytest.mark.parametrize("rows", [3, 5000])
def test_a_turned_or_mirrored_copy_is_on_a_list(rows: int) -> None:
    """A listed picture is found in each of its eight orientations, with its distance, and said to be turned."""
    rng = np.random.default_rng(11)
    hashes = rng.integers(0, 2**64, (rows, 4), dtype=np.uint64)
    near = NearHashes(hashes, 31)
    listed = hashes[1].astype(">u8").tobytes().hex()
    for number, turned in enumerate(turned_hashes(listed)):
        damaged = f"{int(turned, 16) ^ 0b10110 << 77:064x}"
        assert near.nearest(damaged) == (3, number > 0)
