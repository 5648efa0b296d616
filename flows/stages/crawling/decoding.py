"""Pictures are decoded and measured in worker processes; faces are looked for where nothing cheaper says no.

Looking for faces costs thirty times what all else does that is measured of a picture, and of most pictures of the web
a licence, a header or their size has settled the matter. So each is measured first, every rule that needs no model is
asked of the pairs that show it, and only what none of them refuses goes to the workers a second time, for its faces.
A rule that defers is no refusal: what is awaited (a list, a grant, an answer) comes without the picture.

Of a picture that is refused no pixels are kept, as none would be after the next `custody decide`; so where faces are
to be blurred, no pixels are ever kept in which nobody has looked for them. Its faces stay not observed. A rule that
no longer refuses it does not make them known: the picture is asked for once more (`sources`, "unobserved").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from curation.decode_pool import DecodePool
from curation.images import DecodeError, DecodeLimits, ShapeConfig, Shaped
from curation.observe import observe_again
from curation.pixel_store import PixelStore
from curation.recognition import Recognised
from flows.home import Home, utc_now
from flows.stages.crawling.observer import Observer, trust_anchors
from flows.stages.crawling.recognising import EMBEDDED_AT_ONCE, REMOVED, TOMBSTONED, WITHHELD, Embedded
from flows.stages.crawling.recording import observed_pair
from flows.stages.crawling.rows import PageSeen, fetched_of, pair_of, shaped_row
from flows.stages.evidence import newest_evidence
from flows.stages.faces import blur_from, detector_choice
from flows.stages.look import LOOKED
from flows.stages.parts import part_groups
from policy.evidence import Evidence
from policy.ledger import Ledger
from policy.people import FACES
from policy.ruleset import judge
from policy.signals import registry
from policy.verdict import Verdict

JUDGED_AT_MOST = 16  # pairs of one picture: a logo hangs on every page, and judging a thousand costs more than a look
_DEARER = frozenset({FACES, *LOOKED})

Row = Mapping[str, Any]


@dataclass(slots=True)
class _Waiting:
    """A picture on its way: its row, its bytes, the pairs that show it (None: faces are looked for at once)."""

    row: dict[str, object]
    body: bytes
    pairs: Sequence[Row] | None
    is_original: bool


class Decoding:
    """Measures pictures as the home wants it, and keeps what may be kept of their pixels.

    ::

        with Decoding(home, observer, pixels) as decoding:
            decoding.submit(row, body, pairs)
            for row in decoding.ready(): …      # whole: with what was measured
            for row in decoding.drain(): …
    """

    def __init__(self, home: Home, observer: Observer, pixels: PixelStore) -> None:
        self._observer, self._pixels = observer, pixels
        self._looks_for_faces = FACES in home.ruleset.mechanisms
        self._blurs = blur_from(home) is not None
        self._refuses = Refusing(home, observer)
        self._pool = decode_pool(home)
        self._embedded = Embedded(home)
        self._arrived: list[tuple[dict[str, object], Shaped]] = []  # to be kept, if they are like nothing removed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._embedded.settle()
        self._pool.close()

    def start(self) -> None:
        """Start the workers now: they load while the origins are asked for their documents."""
        self._pool.start()

    def fileno(self) -> int:
        """A descriptor that is readable when a worker has answered."""
        return self._pool.fileno()

    def submit(self, row: Row, body: bytes, pairs: Sequence[Row], *, is_original: bool = True) -> None:
        """Hand in a picture with the pairs that show it; not `is_original`: its bytes were encoded anew on the way."""
        waiting = _Waiting(dict(row) | {"size_bytes": len(body)}, body, pairs, is_original)
        self._pool.submit(waiting, body, analyse=False)

    def ready(self) -> Iterator[dict[str, object]]:
        """The rows of what is finished by now."""
        return self._finished(self._pool.ready())

    def drain(self) -> Iterator[dict[str, object]]:
        """The rows of everything that was submitted."""
        return self._finished(self._pool.drain())

    def _finished(self, results: Iterable[tuple[object, Shaped | DecodeError]]) -> Iterator[dict[str, object]]:
        for waiting, result in results:
            assert isinstance(waiting, _Waiting)  # as it was submitted, above
            if isinstance(result, DecodeError):
                yield waiting.row | {"outcome": f"decode-{result.code}", "detail": result.what}
                continue
            if not waiting.is_original:
                # What bytes that were encoded anew do not say was not observed.
                result = replace(result, embedded=None, c2pa=None)
            why = self._observer.keeps_out(result)
            if why in REMOVED:
                # Nothing that was measured goes any further: it would be personal data that had just been erased.
                yield waiting.row | {"outcome": "refused-by-policy", "detail": why}
                continue
            is_kept_out = why is not None
            if self._looks_for_faces and (pairs := waiting.pairs) is not None:
                is_kept_out = is_kept_out or self._refuses(waiting.row, result, pairs)
                if not is_kept_out:
                    waiting.pairs = None
                    self._pool.submit(waiting, waiting.body)
                    continue
            if is_kept_out or (self._blurs and result.faces is None):
                yield waiting.row | shaped_row(result)
                continue
            self._arrived.append((waiting.row, result))
            if not self._observer.in_force.embeds or len(self._arrived) >= EMBEDDED_AT_ONCE:
                yield from self._kept()
        if not self._pool.unanswered:
            yield from self._kept()  # nobody waits for a batch to be full

    def _kept(self) -> Iterator[dict[str, object]]:
        """Keep what has arrived, but what is like a removed picture; their rows."""
        arrived, self._arrived = self._arrived, []
        likeness: dict[int, Recognised] = {}
        if arrived and self._observer.in_force.embeds:
            # What is kept already was looked at when it came, or is by the next look.
            new = [n for n, (_, shaped) in enumerate(arrived) if shaped.content_sha256 not in self._pixels]
            shaped = [arrived[n][1] for n in new]
            found, vectors = self._observer.in_force.alike(shaped, self._embedded.embedder) if new else ([], ())
            for n, like, vector in zip(new, found, vectors, strict=True):
                if like is not None:
                    likeness[n] = like
                else:
                    self._embedded.add(arrived[n][1].content_sha256, vector.tobytes())
        for n, (row, one) in enumerate(arrived):
            if self._observer.in_force.tombstones.covers_content(one.content_sha256):  # asked to go meanwhile
                yield row | {"outcome": "refused-by-policy", "detail": TOMBSTONED}
            elif n in likeness:
                yield row | {
                    "outcome": WITHHELD,
                    "detail": f"{likeness[n].likeness:.4f}",
                    "content_sha256": one.content_sha256,
                }
            else:
                self._pixels.put(one.content_sha256, one.jpeg)
                yield row | shaped_row(one)


class Refusing:
    """Whether a rule that is cheaper than looking for faces refuses a picture that was measured.

    One pair that is refused is enough: equal bytes share every DENY (view `standing_content`).
    """

    def __init__(self, home: Home, observer: Observer) -> None:
        self._rules, self._observer = home.ruleset, observer
        self._cheaper = tuple(name for name in self._rules.mechanisms if name not in _DEARER)
        self._page_seen: tuple[str, PageSeen] | None = None  # the last: pairs of one page mostly follow each other

    def __call__(self, row: Row, shaped: Shaped, pairs: Sequence[Row]) -> bool:
        now = utc_now()
        for pair in pairs[:JUDGED_AT_MOST]:
            evidence = self._evidence(row, shaped, pair)
            if any(judge(self._rules, name, evidence, now).verdict is Verdict.DENY for name in self._cheaper):
                return True
        return False

    def _evidence(self, row: Row, shaped: Shaped, pair: Row) -> Evidence:
        """What the ledger will be told of a pair, as far as it is known: licence documents are asked for later."""
        origins = self._observer.known()
        if (standing := pair.get("standing")) is not None:
            fetched, now = fetched_of(row, "image"), row["started_at"]
            seen = observe_again(standing, image=fetched, facts=shaped, origins=origins, now=now)
        else:
            seen = observed_pair(pair_of(pair), self._page(pair["page_json"]), row, shaped, origins)
        lists = self._observer.registries
        asked = lists.answers_for(seen) if registry.MECHANISM in self._rules.mechanisms else None
        return replace(seen, registry=asked, grants=self._observer.grants.grants_for(seen))

    def _page(self, text: str | None) -> PageSeen | None:
        if text is None:
            return None
        if self._page_seen is None or self._page_seen[0] != text:
            self._page_seen = text, PageSeen.of(text)
        return self._page_seen[1]


def decode_pool(home: Home) -> DecodePool:
    """Decoding workers as the home sets them up; they can look for faces, and blur them, where the ruleset asks it."""
    settings = home.settings.images
    choice = detector_choice(home) if FACES in home.ruleset.mechanisms else None
    return DecodePool(
        settings.decode_workers,
        config=ShapeConfig(
            settings.size,
            settings.quality,
            full_chroma=settings.full_chroma,
            c2pa_trust_anchors=trust_anchors(home),
            blur_from=blur_from(home),
        ),
        limits=DecodeLimits(max_pixels=settings.max_pixels),
        analyser=choice.factory if choice is not None else None,
        analyser_arguments=choice.arguments if choice is not None else (),
    )


def shown_pairs(home: Home, ledger: Ledger, observer: Observer, pairs: Path) -> dict[str, list[Row]]:
    """The pairs of a unit's file by their picture, as many as are judged, without those that a removal covers.

    A pair that is asked again has its newest evidence beside it (`standing`). Empty where nobody looks for faces.
    """
    if FACES not in home.ruleset.mechanisms:
        return {}
    shown: dict[str, list[Row]] = {}
    texts: dict[str, str] = {}  # of pages: the rows of one page share what was observed of it
    again: dict[str, dict[str, Any]] = {}
    for rows in part_groups(pairs):
        for row in rows:
            mine, page = shown.setdefault(row["image_url"], []), row["page_url"]
            if len(mine) >= JUDGED_AT_MOST or (page is not None and observer.in_force.tombstones.covers_url(page)):
                continue
            if (text := row["page_json"]) is not None:
                row["page_json"] = texts.setdefault(text, text)
            if row["prior_key"] is not None:
                again[row["prior_key"]] = row
            mine.append(row)
    standing = newest_evidence(ledger, list(again), bodies=True) if again else {}
    for key, row in again.items():
        row["standing"] = standing.get(key)
    return shown
