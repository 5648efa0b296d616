"""A removal request that comes with a picture, or with a photo of a person: what in this home it may be about.

The file is somebody else's. It is decoded by a worker within bounds, and nothing of it is kept: no copy, no hash, no
embedding. Equal bytes and verified matches are told apart from what is merely alike, and a face is only ever a
proposal: `review_sheet` draws what was found for the person who decides.

What is searched may take its time; without a `ledger` given, the ledger is held for the reading alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from flows.home import Home
from flows.stages.duplicates import forget_vectors, vectors_of
from flows.stages.faces import detector_choice
from flows.terminal import Progress, counted, escape, silent
from policy.durable import write_durably
from policy.errors import InputError, StorageError
from policy.ledger import Ledger
from policy.tombstones import Tombstones

if TYPE_CHECKING:
    from curation.contact_sheet import Tile
    from curation.near_embedding import Embedder
    from curation.person_search import Box, PersonMatch
    from curation.picture_search import Asked, PictureMatch
    from curation.shard_reader import DatasetReader

Rgb = npt.NDArray[np.uint8]

COLUMNS, SIDE = 5, 256  # of a review sheet

_HASHES = """
SELECT content_sha256, any_value(pdq ORDER BY batch_seq, row_no) FILTER (WHERE pdq_quality >= ?)
FROM content WHERE content_sha256 IS NOT NULL GROUP BY content_sha256 ORDER BY content_sha256
"""
# Where the pixels of a content were sealed, in the dataset that was sealed last.
_SEALED = """
SELECT content_sha256, dataset, ordinal FROM slot WHERE content_sha256 IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
"""
# Contents on which somebody found a face, or whose faces nobody has looked for; of the rows that saw any, the newest.
_WITH_FACES = """
SELECT content_sha256, faces_json, width, height FROM content
WHERE content_sha256 IS NOT NULL
QUALIFY row_number() OVER (
    PARTITION BY content_sha256
    ORDER BY CASE WHEN face_count > 0 THEN 0 WHEN face_count IS NULL THEN 2 ELSE 1 END, batch_seq DESC, row_no DESC
) = 1 AND (face_count > 0 OR face_count IS NULL)
ORDER BY content_sha256
"""
_CLUSTERS = """
WITH newest AS (
    SELECT content_sha256, representative_sha256 FROM duplicate
    WHERE content_sha256 IS NOT NULL AND representative_sha256 IS NOT NULL AND verified
    QUALIFY row_number() OVER (PARTITION BY content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
), asked AS (
    SELECT DISTINCT unnest($contents::VARCHAR[]) AS content_sha256
), heads AS (
    SELECT DISTINCT coalesce(newest.representative_sha256, asked.content_sha256) AS representative_sha256
    FROM asked LEFT JOIN newest USING (content_sha256)
)
SELECT representative_sha256, content_sha256 FROM newest SEMI JOIN heads USING (representative_sha256)
UNION SELECT representative_sha256, representative_sha256 FROM heads
ORDER BY ALL
"""
# Every place where one of these contents was seen: under its address, or as the evidence of a pair has it.
_OCCURRENCES = """
WITH asked AS (
    SELECT DISTINCT unnest($contents::VARCHAR[]) AS content_sha256
), shown AS (
    SELECT content_sha256, o.pair_key FROM content SEMI JOIN asked USING (content_sha256)
    JOIN occurrence o USING (url_key) WHERE o.pair_key IS NOT NULL
    UNION SELECT content_sha256, pair_key FROM evidence SEMI JOIN asked USING (content_sha256)
    WHERE pair_key IS NOT NULL
)
SELECT shown.content_sha256, shown.pair_key, o.page_url, o.image_url, o.alt
FROM shown LEFT JOIN occurrence o ON o.pair_key = shown.pair_key
QUALIFY row_number() OVER (
    PARTITION BY shown.content_sha256, shown.pair_key ORDER BY o.batch_seq DESC NULLS LAST, o.row_no DESC
) = 1
ORDER BY shown.content_sha256, shown.pair_key
"""


@dataclass(frozen=True, slots=True)
class PersonSearch:
    """What a search for a person looked at. `pictures`: candidates; `faces`: those that were told of by their faces.

    What nobody can tell of is counted, and is no "no": `without_pixels`: candidates whose pixels are gone; `too_small`:
    faces that are too small in what is kept; `failed`: candidates that could not be looked at.
    """

    matches: tuple[PersonMatch, ...]
    pictures: int
    faces: int
    too_small: int
    without_pixels: int
    failed: int


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A place where a content was seen; its addresses are None where nothing but the pair's key is left of it."""

    content_sha256: str
    pair_key: str
    page_url: str | None
    image_url: str | None
    alt: str | None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Pictures that were verified to show the same, the one that stands for them, and wherever they were seen."""

    representative: str
    members: tuple[str, ...]
    occurrences: tuple[Occurrence, ...]


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def asked_picture(home: Home, path: Path, *, faces: bool = False) -> Asked:
    """The picture of a request, read and decoded as the searches do it. `faces`: they are looked for as well.

    Raises InputError: it is missing, too large, or cannot be decoded. Nothing of it is kept.
    """
    from curation.images import DecodeLimits
    from curation.picture_search import asking_pool, read_asked

    limits = DecodeLimits(max_pixels=home.settings.images.max_pixels)
    with asking_pool(limits, detector_choice(home) if faces else None) as pool:
        return read_asked(path, pool, max_bytes=home.settings.crawl.max_image_bytes)


# ── by picture ─────────────────────────────────────────────────────────────────────────────────────────────────────


def find_by_picture(
    home: Home,
    ledger: Ledger | None,
    path: Path,
    *,
    embedder: Embedder | None = None,
    progress: Progress = silent,
) -> tuple[PictureMatch, ...]:
    """Which contents of the ledger show what this picture file shows: equal bytes, then verified copies, then what is
    only like it (`verified` is False), each best first.

    Only the first two are fit to be held without a person's look. Contents that have pixels and no embedding are
    embedded on the way, and that is kept; of the file nothing is. `embedder`: by default the packaged model.

    Raises:
        InputError: the file is missing, too large, or no picture that can be decoded.
        ConfigurationError: the weights of the packaged model are missing.
        IntegrityError: sealed pictures are not what was sealed.
    """
    from curation.duplicates import MIN_QUALITY
    from curation.near_embedding import NearEmbedder
    from curation.picture_search import Known, known_words, search, views

    asked = asked_picture(home, path)
    model = embedder or NearEmbedder()
    with _reading(home, ledger) as opened:
        rows = opened.query(_HASHES, [MIN_QUALITY])
        pixels = Pixels.of(home, opened)
    with pixels:
        contents = [sha for sha, _ in rows]
        vectors, there = _embedded(home, ledger, contents, model, pixels, progress)
        words, told = known_words([pdq for _, pdq in rows])
        return search(
            asked,
            model.embed(views(asked.rgb)),
            Known(contents, words, told, vectors, there),
            pixels.rgb,
            max_distance=home.ruleset.duplicate.pdq_max_distance,
        )


def _embedded(
    home: Home, ledger: Ledger | None, contents: Sequence[str], model: Embedder, pixels: Pixels, progress: Progress
) -> tuple[Any, npt.NDArray[np.bool_]]:
    """The vectors of these contents. None is left behind of what a removal took out meanwhile."""
    tombstones, added = home.tombstones(ledger), list[str]()

    def pictures(places: Sequence[tuple[int, str]]) -> Iterator[tuple[int, Rgb]]:
        for place, content in places:
            if tombstones.covers_content(content) is None and (rgb := pixels.rgb(content)) is not None:
                added.append(content)
                yield place, rgb

    try:
        return vectors_of(home, contents, model, progress, pictures=pictures)
    finally:
        # A removal forgets vectors after its tombstone is in force: whichever of the two came last sees the other.
        after = home.tombstones(ledger) if added else tombstones
        forget_vectors(home, [content for content in added if after.covers_content(content)])


# ── by person ──────────────────────────────────────────────────────────────────────────────────────────────────────


def find_by_person(
    home: Home,
    ledger: Ledger | None,
    path: Path,
    *,
    threshold: float | None = None,
    face: int | None = None,
    progress: Progress = silent,
) -> tuple[PersonMatch, ...]:
    """The matches of `search_person`."""
    return search_person(home, ledger, path, threshold=threshold, face=face, progress=progress).matches


def search_person(
    home: Home,
    ledger: Ledger | None,
    path: Path,
    *,
    threshold: float | None = None,
    face: int | None = None,
    contents: Sequence[str] | None = None,
    matcher: str | None = None,
    progress: Progress = silent,
) -> PersonSearch:
    """Which pictures may show the person of this photo, nearest first. Every match is a proposal.

    Candidates are the contents on which a face was found, or on which nobody looked for one; `contents`: of these
    alone. `threshold`: the distance up to which a face is proposed, by default
    `curation.person_search.THRESHOLD`. `face`: which of the photo's faces, from the left, counted from 1.
    `matcher`: "module:factory" of another `FaceMatcher`.

    Descriptors of faces are reckoned in worker processes that end with this call; none reaches this one, or a disk.

    Raises:
        ConfigurationError: the extra person-search is not installed, or the face detector cannot be used.
        InputError: the file is no picture that can be decoded, or shows no face, several of which none was chosen, or
            one that is too small; the threshold is none.
    """
    from curation.person_search import DLIB, THRESHOLD, PersonPool, chosen_face, nearest, require_extra
    from curation.worker_pool import NotDone

    limit = THRESHOLD if threshold is None else threshold
    if not 0 < limit <= 1:
        remedy = f"Give a distance above 0 and up to 1; {THRESHOLD} is usual"
        raise InputError(f"{limit} is no threshold", where="threshold", remedy=remedy)
    if matcher is None:
        require_extra()
    detector = detector_choice(home)
    asked = asked_picture(home, path, faces=True)
    chosen = chosen_face(asked, min_score=home.ruleset.faces.min_score, number=face, where=str(path))
    with _reading(home, ledger) as opened:
        wanted = None if contents is None else frozenset(contents)
        rows = [row for row in opened.query(_WITH_FACES) if wanted is None or row[0] in wanted]
        tombstones = home.tombstones(opened)
        pixels = Pixels.of(home, opened)
    counts = dict.fromkeys(("faces", "too_small", "without_pixels", "failed"), 0)
    matches: list[PersonMatch] = []

    def take(content: object, seen: Any) -> None:
        if isinstance(seen, NotDone):
            counts["failed"] += 1
            return
        counts["faces"] += sum(one.distance is not None for one in seen)
        counts["too_small"] += sum(one.distance is None for one in seen)
        if (match := nearest(str(content), seen, limit)) is not None:
            matches.append(match)

    workers = home.settings.images.decode_workers
    with pixels, PersonPool(asked, chosen, workers=workers, detector=detector, matcher=matcher or DLIB) as pool:
        for done, (content, faces_json, width, height) in enumerate(rows, 1):
            gone = tombstones.covers_content(content) is not None
            if gone or (jpeg := pixels.get(content)) is None:
                counts["without_pixels"] += 1
            else:
                pool.submit_candidate(content, jpeg, _shares(faces_json, width, height))
            for answer in pool.ready():
                take(*answer)
            progress(done, len(rows), "person search")
        for answer in pool.drain():
            take(*answer)
    matches.sort(key=lambda match: (match.distance, match.content_sha256))
    return PersonSearch(tuple(matches), len(rows), **counts)


def _shares(
    faces_json: str | None, width: int | None, height: int | None
) -> list[tuple[float, float, float, float]] | None:
    """The boxes of the ledger in shares of the picture; None where they have not been looked for."""
    if faces_json is None or not width or not height:
        return None
    return [(f["x"] / width, f["y"] / height, f["w"] / width, f["h"] / height) for f in json.loads(faces_json)]


# ── what belongs together ──────────────────────────────────────────────────────────────────────────────────────────


def clusters(home: Home, ledger: Ledger | None, contents: Sequence[str]) -> tuple[Cluster, ...]:
    """These contents with all that was verified to show the same as one of them, by what stands for them, and every
    place where any of it was seen. A content that nothing was compared with is a cluster of its own.
    """
    with _reading(home, ledger) as opened:
        members: dict[str, list[str]] = {}
        for head, content in opened.query(_CLUSTERS, {"contents": list(contents)}):
            members.setdefault(head, []).append(content)
        every = sorted({content for held in members.values() for content in held})
        seen: dict[str, list[Occurrence]] = {}
        for row in opened.query(_OCCURRENCES, {"contents": every}):
            seen.setdefault(row[0], []).append(Occurrence(*row))
    return tuple(
        Cluster(head, tuple(held), tuple(place for content in held for place in seen.get(content, ())))
        for head, held in sorted(members.items())
    )


# ── for the reviewer ───────────────────────────────────────────────────────────────────────────────────────────────


def review_sheet(
    home: Home,
    matches: Sequence[PictureMatch | PersonMatch],
    out: Path,
    *,
    ledger: Ledger | None = None,
    asked: Path | None = None,
) -> int:
    """Draw what was found, as .html or .png, where the reviewer says; how many pictures are on it.

    `asked`: the request's own picture, to hold the others against. The sheet shows people: it may not lie in the home,
    where no removal would look for it, and only its owner may read it. What a removal took out meanwhile is not shown.

    Raises:
        InputError: nothing was found, `out` is neither .html nor .png, or lies in the home, or has too many pictures.
        StorageError: it cannot be written.
    """
    from curation import contact_sheet

    kind = out.suffix.lower()
    if kind not in (".png", ".html", ".htm"):
        raise InputError("a review sheet is .html or .png", where=str(out), remedy="Name the file so")
    if out.resolve().is_relative_to(home.path.resolve()):
        what = "a review sheet shows people, and may not lie in the home"
        raise InputError(what, where=str(out), remedy="Name a place outside it, and delete the sheet after the review")
    if not matches:
        raise InputError("nothing was found that could be drawn", where=str(out))
    tiles = [] if asked is None else [_asked_tile(asked_picture(home, asked))]
    with _reading(home, ledger) as opened:
        tombstones, pixels = home.tombstones(opened), Pixels.of(home, opened)
        places: dict[str, list[str]] = {}
        for row in opened.query(_OCCURRENCES, {"contents": [match.content_sha256 for match in matches]}):
            places.setdefault(row[0], []).append(escape(row[4] or "") or escape(row[3] or ""))
    with pixels:
        for number, match in enumerate(matches, 1):
            tiles.append(_tile(number, match, tombstones, pixels, places.get(match.content_sha256, [])))
    if kind == ".png":
        try:
            made = contact_sheet.as_png(tiles, columns=min(COLUMNS, len(tiles)), side=SIDE)
        except ValueError as error:
            raise InputError(str(error), where=str(out), remedy="Write .html, or fewer") from error
    else:
        notes = ("Proposals for a person to confirm: nothing here was decided.", "Delete this file after the review.")
        made = contact_sheet.as_html(tiles, title="Removal: review", notes=notes, side=SIDE).encode()
    try:
        write_durably(out, made, mode=0o600)
    except OSError as error:
        raise StorageError(f"cannot be written ({error.strerror})", where=str(out)) from error
    return len(tiles)


def _tile(
    number: int, match: PictureMatch | PersonMatch, tombstones: Tombstones, pixels: Pixels, places: Sequence[str]
) -> Tile:
    from curation.contact_sheet import Box, Tile
    from curation.images import encode_jpeg
    from curation.person_search import PersonMatch

    gone = tombstones.covers_content(match.content_sha256)
    boxes: tuple[Box, ...] = ()
    if isinstance(match, PersonMatch):
        badge, tone, boxes = f"face {match.distance:.2f}", "defer", (Box(*match.box, f"{match.distance:.2f}"),)
    else:
        sure = "verified" if match.verified else "like it" if match.compared else "like it, not compared"
        badge, tone = f"{match.method}, {sure}", "deny" if match.verified else "defer"
    facts = (f"score {match.score:.2f}", f"seen in {counted(len(places), 'place')}", match.content_sha256)
    if gone is not None:
        return Tile(None, f"{number}", "allow", f"taken out: {gone}", facts[-1:])
    rgb = pixels.rgb(match.content_sha256)
    title = f"{number}  {next(filter(None, places), '')}".rstrip()
    return Tile(None if rgb is None else encode_jpeg(rgb), title, tone, badge, facts, boxes)


def _asked_tile(asked: Asked) -> Tile:
    from curation.contact_sheet import Tile
    from curation.images import encode_jpeg, resize

    return Tile(encode_jpeg(resize(asked.rgb, 2 * SIDE)), "the request's own picture", "", "asked for")


# ── pixels ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Pixels:
    """The pixels of contents: as they are kept, else as they were sealed; a context manager."""

    def __init__(
        self, home: Home, kept: frozenset[str], sealed: Mapping[str, tuple[str, int]], gone: Tombstones
    ) -> None:
        from curation.pixel_store import PixelStore

        self._home, self._kept, self._sealed, self._gone = home, kept, sealed, gone
        self._store = PixelStore(home.pixels_path)
        self._readers: dict[str, DatasetReader | None] = {}
        self._open = ExitStack()

    @classmethod
    def of(cls, home: Home, ledger: Ledger) -> Self:
        """What there is now: the pixels themselves are read without the ledger."""
        from curation.pixel_store import PixelStore

        kept = frozenset(PixelStore(home.pixels_path).keys())
        sealed = {sha: (dataset, ordinal) for sha, dataset, ordinal in ledger.query(_SEALED) if sha not in kept}
        return cls(home, kept, sealed, home.tombstones(ledger))

    def get(self, content_sha256: str) -> bytes | None:
        """An encoded picture of ours; None where there is none. Raises IntegrityError for a damaged shard."""
        if content_sha256 in self._kept:
            try:
                return self._store.get(content_sha256)
            except InputError:
                return None  # taken out meanwhile
        if content_sha256 not in self._sealed:
            return None
        dataset, ordinal = self._sealed[content_sha256]
        reader = self._reader(dataset)
        if reader is None or ordinal in self._gone.slots(dataset) or not 0 <= ordinal < reader.slots:
            return None
        return reader.image_bytes(ordinal)

    def rgb(self, content_sha256: str) -> Rgb | None:
        """Its pixels, uint8 [H, W, 3]."""
        from curation.images import decode

        body = self.get(content_sha256)
        try:
            return None if body is None else decode(body)
        except InputError:
            return None  # damaged: nobody can tell what it shows

    def _reader(self, dataset: str) -> DatasetReader | None:
        if dataset not in self._readers:
            from curation.shard_reader import DatasetReader

            try:
                self._readers[dataset] = self._open.enter_context(
                    DatasetReader.open(self._home.dataset(dataset), verify=False)
                )
            except InputError:
                self._readers[dataset] = None  # the dataset was deleted
        return self._readers[dataset]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


# ── within ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _reading(home: Home, ledger: Ledger | None) -> AbstractContextManager[Ledger]:
    return home.ledger(readonly=True) if ledger is None else nullcontext(ledger)
