"""A request that comes with a picture or a photo: what it finds in a home, and that it leaves nothing there."""

from __future__ import annotations

import hashlib
import json
import stat
import struct
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation import person_search
from curation.images import encode_jpeg, resize
from curation.near_embedding import NearEmbedder, VectorCache, Vectors
from curation.person_search import PersonMatch
from curation.picture_search import PictureMatch
from curation.pixel_store import PixelStore
from flows import settings
from flows.home import Home
from flows.stages import duplicates
from flows.stages.removing import applying, approving, requests
from flows.stages.removing.pictures import clusters, find_by_person, find_by_picture, review_sheet, search_person
from flows.stages.seal import seal
from policy.errors import ConfigurationError, InputError
from policy.evidence import DuplicateOf
from tests.builders import ask, replaced
from tests.curation.drawn import photo_like
from tests.curation.photos import photo
from tests.curation.test_person_search import MeanColour, needs_extra
from tests.curation.test_picture_search import COPIES, OTHERS, PHOTO
from tests.flows.sealable import sealable_home
from tests.flows.test_duplicates import Colours, put, sha

Rgb = np.ndarray

MATCHER = "tests.curation.test_person_search:MeanColour"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    one_worker = replaced(settings.DEFAULT_TEXT, {"decode_workers = 2": "decode_workers = 1"})
    return Home.create(tmp_path / "home", settings_text=one_worker)


def saved(path: Path, rgb: Rgb) -> Path:
    Image.fromarray(np.ascontiguousarray(rgb)).save(path)
    return path


def files_of(directory: Path) -> dict[str, str]:
    """Every file below, and the digest of its bytes."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


# ── by picture ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_copies_are_found_and_another_is_not(home: Home, tmp_path: Path) -> None:
    """Recompressed, smaller, mirrored and cropped copies in the home are verified; another picture is not."""
    put(home, "recompressed", "smaller", "mirrored", "cropped", "another", "smile", "blank")
    matches = find_by_picture(home, None, saved(tmp_path / "asked.png", PHOTO), embedder=Colours())
    verified = {match.content_sha256 for match in matches if match.verified}
    assert verified == {sha(name) for name in ("recompressed", "smaller", "mirrored", "cropped")}


def test_a_search_leaves_nothing_of_the_file(home: Home, tmp_path: Path) -> None:
    """The home's own embeddings are kept, so that a second search embeds the asked picture alone; neither search leaves
    the file, its digest, its hash or its embedding anywhere in the home.
    """
    put(home, "photo", "another")
    asked, embedder = saved(tmp_path / "asked.png", COPIES["mirrored"]), Colours()
    first = find_by_picture(home, None, asked, embedder=embedder)
    kept = files_of(home.path)
    embedder.embedded = 0
    assert find_by_picture(home, None, asked, embedder=embedder) == first
    assert embedder.embedded == 8
    assert files_of(home.path) == kept
    digest = hashlib.sha256(asked.read_bytes()).digest()
    vectors = Colours().embed([np.ascontiguousarray(COPIES["mirrored"])])
    held = b"".join(path.read_bytes() for path in home.path.rglob("*") if path.is_file())
    for needle in (digest, digest.hex().encode(), asked.read_bytes()[100:164], vectors.tobytes()):
        assert needle not in held


def test_equal_bytes_are_exact_without_pixels(home: Home, tmp_path: Path) -> None:
    """Bytes that the ledger knows are found though their pixels were never kept."""
    asked = saved(tmp_path / "asked.png", PHOTO)
    known = hashlib.sha256(asked.read_bytes()).hexdigest()
    with home.ledger() as ledger:
        ledger.append("content", [{"content_sha256": known, "url_key": "u"}], key="denied")
        (match,) = find_by_picture(home, ledger, asked, embedder=Colours())
    assert match == PictureMatch(known, "exact", 0.0, 1.0, True, True)


def test_what_was_sealed_is_found_without_kept_pixels(tmp_path: Path) -> None:
    """Where pixels are in shards alone they are read from there: embedded, compared and drawn."""
    home = sealable_home(tmp_path / "home", 2, lambda n: encode_jpeg((PHOTO, OTHERS["another"])[n]))
    seal(home, name="sealed")
    contents = [content for (content,) in ask(home, "SELECT content_sha256 FROM content ORDER BY batch_seq, row_no")]
    PixelStore(home.pixels_path).delete_all(contents)
    matches = find_by_picture(home, None, saved(tmp_path / "asked.png", COPIES["cropped"]), embedder=Colours())
    assert [match.content_sha256 for match in matches if match.verified] == contents[:1]
    assert review_sheet(home, matches, tmp_path / "sheet.html") == len(matches)
    assert (tmp_path / "sheet.html").read_text().count("data:image/jpeg") == len(matches)


def test_a_removal_that_comes_meanwhile_leaves_no_embedding(tmp_path: Path) -> None:
    """What is approved and carried through while a search embeds is in no file of vectors when the search ends."""
    home = sealable_home(tmp_path / "home", 3, lambda n: encode_jpeg((PHOTO, *OTHERS.values())[n]))
    (gone,), *_ = ask(home, "SELECT content_sha256 FROM content ORDER BY batch_seq, row_no")

    class Meanwhile(Colours):
        def embed(self, pictures: Sequence[Rgb]) -> Vectors:
            if not self.embedded:
                request = requests.add(home, "sha256", gone)
                approving.approve(home, request.id, by="A. Reviewer")
                applying.apply(home, request.id)
            return super().embed(pictures)

    find_by_picture(home, None, saved(tmp_path / "asked.png", PHOTO), embedder=Meanwhile())
    _, there = VectorCache(home.vectors_path, Colours.digest).load([gone])
    assert not there.any()
    held = b"".join(path.read_bytes() for path in home.vectors_path.rglob("*.vectors"))
    assert bytes.fromhex(gone) not in held
    assert held


def test_the_packaged_model_proposes_borders_crops_and_words(home: Home, tmp_path: Path) -> None:
    """With the packaged model a bordered, a turned and cropped, and an overlaid copy are found and verified."""
    put(home, "photo", "another", "smile", "frown")
    asked = {
        "bordered": COPIES["bordered"],
        "cropped and turned": np.rot90(COPIES["cropped"]),
        "overlaid": COPIES["overlaid"],
    }
    model = NearEmbedder()
    for name, rgb in asked.items():
        matches = find_by_picture(home, None, saved(tmp_path / f"{name}.png", rgb), embedder=model)
        assert [match.content_sha256 for match in matches if match.verified] == [sha("photo")], name
    _, there = VectorCache(home.vectors_path, NearEmbedder.digest).load([sha("photo"), sha("smile")])
    assert there.all()


@pytest.mark.parametrize("body", [b"", b"<html>", encode_jpeg(PHOTO)[:3000]], ids=["empty", "page", "cut"])
def test_a_bad_file_is_refused_before_anything_is_read(home: Home, tmp_path: Path, body: bytes) -> None:
    """A file that is no picture is named, with what to do; the home is as it was."""
    (tmp_path / "asked.jpg").write_bytes(body)
    before = files_of(home.path)
    with pytest.raises(InputError, match="cannot be decoded") as raised:
        find_by_picture(home, None, tmp_path / "asked.jpg", embedder=Colours())
    assert raised.value.where == str(tmp_path / "asked.jpg")
    assert files_of(home.path) == before


# ── what belongs together ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_cluster_holds_all_copies_and_every_place(tmp_path: Path) -> None:
    """Asked for one copy, the whole cluster is named with all its occurrences; what stands alone is its own cluster."""
    home = sealable_home(tmp_path / "home", 4, lambda n: encode_jpeg(photo_like(n, 32)))
    (first, second, third, alone), pairs = zip(
        *ask(home, "SELECT content_sha256, pair_key FROM evidence ORDER BY batch_seq, row_no"), strict=True
    )
    again = {"pair_key": "p" * 32, "page_url": "https://b.example/", "image_url": "https://b.example/2.jpg"}
    with home.ledger() as ledger:
        ledger.append("occurrence", [again | {"url_key": f"{1:032x}", "alt": "once more"}], key="again")
    found = [(content, DuplicateOf(first, "pdq", 0.01)) for content in (second, third)]
    duplicates._record(home, [(first, DuplicateOf(first, "", 0.0)), *found])
    one, other = clusters(home, None, [third, alone])
    if one.representative != first:
        one, other = other, one
    assert (one.representative, set(one.members)) == (first, {first, second, third})
    assert {(place.content_sha256, place.pair_key) for place in one.occurrences} == {
        *zip((first, second, third), pairs, strict=False),
        (second, "p" * 32),
    }
    assert [place.alt for place in one.occurrences if place.pair_key == "p" * 32] == ["once more"]
    assert (other.representative, other.members, len(other.occurrences)) == (alone, (alone,), 1)
    with home.ledger(readonly=True) as ledger:
        assert clusters(home, ledger, []) == ()


# ── by person ──────────────────────────────────────────────────────────────────────────────────────────────────────

FACE = (0.350, 0.122, 0.172, 0.212)  # of the astronaut


def with_faces(home: Home, pictures: Mapping[str, tuple[Rgb, list[tuple[float, ...]] | None]]) -> None:
    """Keep these pictures, with the boxes (shares) of their faces as a crawl writes them; None: nobody looked."""
    store, rows = PixelStore(home.pixels_path), []
    for name, (rgb, boxes) in pictures.items():
        height, width = rgb.shape[:2]
        store.put(sha(name), encode_jpeg(resize(rgb, 256)))
        faces = boxes and [
            {"x": x * width, "y": y * height, "w": w * width, "h": h * height, "score": 0.9} for x, y, w, h in boxes
        ]
        row = {"content_sha256": sha(name), "url_key": sha(name)[:32], "width": width, "height": height}
        looked = {} if boxes is None else {"faces_json": json.dumps(faces), "face_count": len(boxes)}
        rows.append(row | looked)
    store.settle()
    with home.ledger() as ledger:
        ledger.append_many([("content", [row], row["url_key"]) for row in rows])


def person_home(home: Home) -> Rgb:
    """A home with a person, a stranger, a landscape and faces of which nobody can tell; the person's photo."""
    person = photo("astronaut.png")
    stranger = np.zeros_like(person)
    stranger[:, :, 1] = 255
    with_faces(
        home,
        {
            "person": (person, [FACE]),
            "darker": ((person * 0.98).astype(np.uint8), [FACE]),
            "unlooked": (person[:, ::-1], None),
            "stranger": (stranger, [FACE]),
            "no face": (person, []),
            "far away": (person, [(0.4, 0.2, 0.02, 0.02)]),
            "gone": (person, [FACE]),
            "not asked about": (person, [FACE]),
        },
    )
    PixelStore(home.pixels_path).delete(sha("gone"))
    return person


def test_a_person_is_proposed_by_faces_alone_and_leaves_nothing(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faces near the asked one are proposed, nearest first: those of the ledger, and those that are looked for now.

    What nobody can tell is counted, and pictures without a face are no candidates. Afterwards no file is new, none has
    changed, and no descriptor lies in the home or where temporary files go.
    """
    person = person_home(home)
    asked, scratch = saved(tmp_path / "photo.png", person), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    with home.ledger(readonly=True):
        pass  # its lock file is there from the first opening on
    before = files_of(tmp_path)
    contents = [sha(name) for name in ("person", "darker", "unlooked", "stranger", "no face", "far away", "gone")]
    found = search_person(home, None, asked, threshold=0.2, matcher=MATCHER, contents=contents)
    assert {match.content_sha256 for match in found.matches} == {sha("person"), sha("darker"), sha("unlooked")}
    assert [match.distance for match in found.matches] == sorted(match.distance for match in found.matches)
    assert (found.pictures, found.faces, found.too_small) == (6, 4, 1)
    assert (found.without_pixels, found.failed) == (1, 0)
    (box,) = (match.box for match in found.matches if match.content_sha256 == sha("person"))
    assert box == pytest.approx(FACE)
    assert files_of(tmp_path) == before
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for rgb in (person, np.ascontiguousarray(person[:, ::-1]), resize(person, 256)):
        for number in MeanColour().describe(rgb, FACE):
            assert struct.pack("<d", number) not in held
            assert repr(float(number)).encode() not in held


def test_a_threshold_is_a_distance(home: Home, tmp_path: Path) -> None:
    """None of zero, above one, or no number at all."""
    for threshold in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(InputError, match="is no threshold"):
            find_by_person(home, None, tmp_path / "photo.png", threshold=threshold)


def test_a_photo_without_a_face_is_refused(home: Home, tmp_path: Path) -> None:
    """A picture with no face in it finds nobody, and it is said how many were found."""
    with pytest.raises(InputError, match="0 faces were found") as raised:
        search_person(home, None, saved(tmp_path / "photo.png", PHOTO), matcher=MATCHER)
    assert raised.value.where == str(tmp_path / "photo.png")


@pytest.mark.skipif(
    find_spec("dlib") is not None and find_spec(person_search.MODULE) is not None, reason="the extra is installed"
)
def test_without_the_extra_nobody_is_searched_for(home: Home, tmp_path: Path) -> None:
    """Before the photo is even read, the command that installs the extra is named."""
    with pytest.raises(ConfigurationError) as raised:
        find_by_person(home, None, tmp_path / "missing.png")
    assert 'pip install "image-custody[person-search]"' in str(raised.value)


@needs_extra
def test_the_real_matcher_finds_the_person(home: Home, tmp_path: Path) -> None:
    """With the extra, the person's pictures are proposed, and nothing is left on the disk."""
    person = person_home(home)
    asked = saved(tmp_path / "photo.png", person)
    with home.ledger(readonly=True):
        pass
    before = files_of(tmp_path)
    matches = find_by_person(home, None, asked)
    assert {match.content_sha256 for match in matches} == {
        sha("person"),
        sha("darker"),
        sha("unlooked"),
        sha("not asked about"),
    }
    assert files_of(tmp_path) == before


# ── for the reviewer ───────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_found_is_drawn_for_the_reviewer(home: Home, tmp_path: Path) -> None:
    """Pictures with what is said of them and the boxes of faces, beside the asked one, for the owner's eyes alone."""
    person = person_home(home)
    asked = saved(tmp_path / "photo.png", person)
    matches = [
        PersonMatch(sha("person"), FACE, 0.31, 0.69),
        PictureMatch(sha("darker"), "pdq-turned", 0.02, 0.98, True, True),
        PictureMatch(sha("gone"), "pdq", 12.0, 0.91, False, False),
    ]
    for kind in ("html", "png"):
        out = tmp_path / f"sheet.{kind}"
        beside = asked if kind == "html" else None
        assert review_sheet(home, matches, out, asked=beside) == len(matches) + (beside is not None)
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("data:image/jpeg") == 3
    assert 'class="box"' in page
    for words in ("face 0.31", "pdq-turned, verified", "pdq, like it, not compared", "no picture kept", sha("gone")):
        assert words in page
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.width > 3 * 256


def test_a_sheet_shows_nothing_that_was_taken_out(tmp_path: Path) -> None:
    """A picture whose removal is in force is named, not shown."""
    home = sealable_home(tmp_path / "home", 2, lambda n: encode_jpeg(photo_like(n, 64)))
    (gone,), (other,) = ask(home, "SELECT content_sha256 FROM content ORDER BY batch_seq, row_no")
    request = requests.add(home, "sha256", gone)
    approving.approve(home, request.id, by="A. Reviewer")
    matches = [PictureMatch(content, "exact", 0.0, 1.0, True, True) for content in (gone, other)]
    assert review_sheet(home, matches, tmp_path / "sheet.html") == 2
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("data:image/jpeg") == 1
    assert f"taken out: {request.id}" in page


def test_a_sheet_has_its_place(home: Home, tmp_path: Path) -> None:
    """Not in the home, where no removal would look for it; .html or .png; and not of nothing."""
    matches = [PictureMatch(sha("photo"), "exact", 0.0, 1.0, True, True)]
    (tmp_path / "link").symlink_to(home.path)
    for out, words in (
        (home.path / "sheet.html", "may not lie in the home"),
        (tmp_path / "link" / "samples" / "sheet.png", "may not lie in the home"),
        (tmp_path / "sheet.pdf", r"\.html or \.png"),
    ):
        with pytest.raises(InputError, match=words):
            review_sheet(home, matches, out)
    with pytest.raises(InputError, match="nothing was found"):
        review_sheet(home, [], tmp_path / "sheet.html")
    assert not list(tmp_path.glob("sheet*"))
