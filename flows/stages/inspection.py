"""One observer alone, on files or a URL that a person names: `custody inspect …`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.home import Home, utc_now
from policy.errors import CustodyError, InputError
from policy.evidence import Evidence, Score
from policy.quality import QUALITY, SIZE
from policy.ruleset import judge
from policy.safety import SAFETY
from policy.text import AGREEMENT, AGREEMENT_FLIPPED, TEXT

if TYPE_CHECKING:
    from curation.agreement import Agreement


def page(file: Path, base: str) -> dict[str, Any]:
    """What is read out of an HTML file found under `base`.

    Raises:
        InputError: no such file, the base is no URL, or the page takes more memory or time than a crawl would give it.
    """
    from curation.page_pool import PageError, PagePool
    from curation.pair import canonical_url

    with PagePool(1) as pool:
        [(_, result)] = pool.read_all([(file, _bytes(file), canonical_url(base), None)])
    if isinstance(result, PageError):
        raise InputError(result.what, where=str(file))
    read = result.page()
    return {
        "url": read.url,
        "title": read.title,
        "pairs": [asdict(p) for p in read.pairs],
        "links": list(read.links),
        "meta": [list(m) for m in read.meta],
        "licence_claims": [asdict(c) for c in read.licence_claims],
    }


def fetch(home: Home, url: str) -> dict[str, Any]:
    """Fetch one URL as a crawl would, robots.txt and tombstones included."""
    from curation.pair import canonical_url
    from flows.stages.crawling.observer import observer_at

    (fetched,) = observer_at(home).fetch([canonical_url(url)], "image")
    return {
        "url": fetched.url,
        "outcome": fetched.outcome,
        "detail": fetched.detail,
        "status": fetched.status,
        "final_url": fetched.final_url,
        "address": fetched.address,
        "hops": [asdict(h) for h in fetched.hops],
        "bytes": len(fetched.body),
        "sha256": hashlib.sha256(fetched.body).hexdigest() if fetched.outcome == "ok" else None,
        "user_agent_product": home.product,
    }


def faces(files: Iterable[Path], home: Home | None = None) -> Iterator[dict[str, Any]]:
    """Faces in each picture, one line a file; an unreadable one, or one too long to be looked at, {"path", "error"}.

    "faces" are those that the ruleset takes for some, from its "min_score"; what scores less is under "doubtful".
    `home`: whose [images] face_detector looks, and whose ruleset; None: the packaged ones.

    Raises:
        ConfigurationError: the detector's weights are missing, are others, or fit no kind that is known.
    """
    from curation.face_detection import DetectorChoice, chosen_detector
    from curation.images import ShapeConfig, is_too_long
    from flows.stages.faces import detector_choice
    from policy.ruleset import Ruleset

    choice = detector_choice(home) if home is not None else DetectorChoice()
    detector = chosen_detector(*choice.arguments)
    least = (home.ruleset if home is not None else Ruleset.default()).faces.min_score
    for file in files:
        try:
            rgb = _decode(file)
            height, width = rgb.shape[:2]
            if is_too_long((width, height), ShapeConfig().analysis_px):  # as a crawl: nothing seen there is not "none"
                raise InputError(f"{width} x {height} pixels: too long to be looked at for faces", where=str(file))
            seen = detector.detect(rgb)
        except CustodyError as error:
            yield {"path": str(file), "error": error.what}
            continue
        found, doubtful = (
            [{"box": [f.x, f.y, f.w, f.h], "score": f.score} for f in seen if (f.score < least) == is_less]
            for is_less in (False, True)
        )
        said = {"path": str(file), "width": width, "height": height, "faces": found, "doubtful": doubtful}
        yield said | {"min_score": least, "detector": detector.id}


def captions(home: Home, files: Sequence[Path], top: int) -> Iterator[dict[str, Any]]:
    """The captioner's best candidates for each picture, and whether the first is sure enough to be kept.

    Asked and not recorded; a text that a removal has taken away since the bank was built is no candidate.
    """
    from curation.captions import PROPOSED, chosen, shows_something
    from flows.stages.captioning.bank import StandingTexts
    from flows.stages.captioning.models import CaptionerChoice
    from flows.terminal import silent

    choice = CaptionerChoice(home)
    captioner = choice.captioner(choice.kept_from(silent), len(files), silent)
    for file in files:
        try:
            rgb = _decode(file)
        except CustodyError as error:
            yield {"path": str(file), "error": error.what}
            continue
        if not shows_something(rgb):
            height, width = rgb.shape[:2]
            yield {"path": str(file), "error": f"{width} x {height} pixels: too small, or too long, to show something"}
            continue
        (proposals,) = captioner.propose([rgb], max(top, PROPOSED))
        with home.ledger(readonly=True) as ledger:
            standing = StandingTexts(ledger, home.tombstones(ledger), home.ruleset.bank_min_origins)
            (result,) = chosen(captioner, [proposals], standing)
            left = standing([proposal.text for proposal in proposals])
        candidates = [(t, p) for t, p in zip(left, proposals, strict=True) if t is not None][:top]
        yield {
            "path": str(file),
            "kept": result is not None and result.kept,
            "score": result.score if result is not None else None,
            "threshold": captioner.threshold,
            "origin": captioner.origin,
            "model": choice.name,
            "model_digest": choice.digest,
            "run": choice.run,
            "candidates": [
                {"text": t.text, "score": p.cosine, "sources": list(t.sources)}
                | ({} if p.mean_log_probability is None else {"mean_log_probability": p.mean_log_probability})
                for t, p in candidates
            ],
        }


def scores(home: Home, files: Sequence[Path], *, text: str | None, with_clip: bool) -> Iterator[dict[str, Any]]:
    """What is measured of each picture as it would be kept, and what the ruleset makes of it, one line a file.

    `text`: judged beside the pictures, as their alt text; `with_clip` asks the captioner's CLIP how well it fits.
    Where a scorer cannot tell, the value is None. Raises ConfigurationError for weights that are missing or wrong.
    """
    from curation.images import DecodeLimits, ShapeConfig, decode, shape
    from curation.language import detect
    from flows.stages.look import by, scorer_of

    settings, rules, now = home.settings.images, home.ruleset, utc_now()
    config = ShapeConfig(settings.size, settings.quality, settings.full_chroma)
    limits = DecodeLimits(max_pixels=settings.max_pixels)
    scorers = [scorer_of(home, mechanism) for mechanism in (QUALITY, SAFETY)]
    agreement = _agreement(home) if with_clip and text is not None else None
    language = detect(text) if text is not None else None
    for file in files:
        try:
            shaped = shape(_bytes(file), config, limits)
        except CustodyError as error:
            yield {"path": str(file), "error": error.what}
            continue
        kept = decode(shaped.jpeg)
        found = [
            (name, value, by(scorer))
            for scorer in scorers
            for name, value in zip(scorer.names, scorer.score([kept])[0], strict=True)
        ]
        if agreement is not None and text is not None:
            [[agreed]] = agreement.score([kept], [[text]])
            said = ((AGREEMENT, agreed.score), (AGREEMENT_FLIPPED, agreed.flipped))
            found += [(name, value, agreement.by) for name, value in said]
        evidence = Evidence(
            page_url=None,
            image_url="",
            observed_at=now,
            observer="inspect score",
            observer_version="1",
            content_sha256=shaped.content_sha256,
            width=shaped.width,
            height=shaped.height,
            alt=text,
            text_language=language,
            scores=tuple(Score(*score) for score in found if not math.isnan(score[1])),
        )
        asked = (SIZE, QUALITY, SAFETY, *((TEXT,) if text is not None else ()))
        judged = [judge(rules, mechanism, evidence, now) for mechanism in asked]
        line = {
            "path": str(file),
            "width": shaped.width,
            "height": shaped.height,
            "scores": [{"name": n, "value": None if math.isnan(v) else v, "by": source} for n, v, source in found],
            "judged": [
                {
                    "mechanism": j.mechanism,
                    "verdict": j.verdict.value if j.verdict is not None else "unset",
                    "reason": j.reason.code,
                    "detail": j.reason.detail,
                }
                for j in judged
            ],
        }
        yield line | ({"language": asdict(language)} if language is not None else {})


def _agreement(home: Home) -> Agreement:
    from curation.agreement import Agreement
    from flows.stages.captioning.models import CaptionerChoice

    return Agreement(CaptionerChoice(home).loaded.clip)


def _decode(file: Path) -> Any:
    from curation.images import decode

    return decode(_bytes(file))


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(file)) from error


def duplicates(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """What stands for each picture among these files, one line a file in their order; an unreadable one {"path",
    "error"}. The largest of those that are the same stands for the others, of equally large ones the first named.
    """
    import numpy as np

    from curation.duplicates import candidates, representatives
    from curation.fingerprints import pdq
    from curation.images import encode_jpeg, resize
    from curation.near_embedding import NearEmbedder
    from curation.near_thumbnail import Thumbnails

    read: list[tuple[Path, Any]] = []
    errors: dict[Path, str] = {}
    for file in files:
        try:
            read.append((file, _decode(file)))
        except CustodyError as error:
            errors[file] = error.what
    read.sort(key=lambda one: -(one[1].shape[0] * one[1].shape[1]))
    kept = [resize(rgb, 256) for _, rgb in read]  # the size that a home keeps unless it is told otherwise
    hashes = [pdq(rgb) for _, rgb in read]
    vectors, thumbnails = NearEmbedder().embed(kept), Thumbnails().embed(kept)
    told, qualities = [value for value, _ in hashes], [quality for _, quality in hashes]
    near = candidates(told, qualities, vectors, np.ones(len(kept), np.bool_), thumbnails)
    digests = [hashlib.sha256(encode_jpeg(rgb)).hexdigest() for rgb in kept]
    found = {}
    for place, match in representatives(near, kept.__getitem__, places=range(len(kept))):
        # Pictures with nothing to see in them are told by equal pixels alone.
        first = digests.index(digests[place])
        stands, method = (first, "pixels") if first < place else (match.representative, match.method)
        found[read[place][0]] = {
            "path": str(read[place][0]),
            "representative": str(read[stands][0]),
            "method": method,
            "distance": match.distance if stands == match.representative else 0.0,
            "pdq": hashes[place][0],
            "pdq_quality": hashes[place][1],
        }
    for file in files:
        yield found[file] if file in found else {"path": str(file), "error": errors[file]}
