"""From which score on a retrieved caption is kept: measured and proven on pairs that were never fed.

A cut is believed when the captions it keeps prove the target precision, not when they happen to show it: the exact
one-sided lower bound of Clopper and Pearson (1934). 9 in 10 at 95 % takes 29 captions without an error, or 46 with one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from curation import clip_model
from curation.clip_model import NOTHING_KEPT, Calibration, ClipModel, Embeddings
from curation.images import DecodeError
from curation.shard_reader import DatasetReader
from policy.errors import InputError
from training.clip_inputs import picture


@dataclass(frozen=True, slots=True)
class Cut:
    """Scores of at least `threshold` are kept: `kept` of those it was chosen from, proving `lower_bound`.

    `reached`: whether that is the target precision; if not, `threshold` keeps nothing, and the rest tells of the cut
    that comes closest.
    """

    threshold: float
    reached: bool
    kept: int
    lower_bound: float


def recall_at(images: Embeddings, texts: Embeddings, k: int) -> float:
    """Image-to-text recall: the share of rows whose own text [N, D] is among the k nearest to their picture [N, D]."""
    scores = images @ texts.T
    better = (scores > np.diagonal(scores)[:, None]).sum(axis=1)
    return float((better < k).mean())


def lower_bound(right: int, kept: int, confidence: float) -> float:
    """The precision that `right` of `kept` prove at `confidence`: the p at which so many or more have 1 - confidence.

    Clopper and Pearson 1934, one-sided.
    """
    if right == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _at_least(right, kept, middle) > 1 - confidence else (middle, high)
    return low


def choose_threshold(
    scores: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], target: float, confidence: float = 0.95
) -> Cut:
    """The lowest cut whose kept answers prove the target; one that keeps nothing where there is none.

    scores, right: [N]. Equal scores are kept or left together. That the cut is chosen among many makes the confidence
    a nominal one: of 125 or 500 answers that are right 88 times in 100, one set in twenty "proves" 9 in 10 at 95 %. So
    what a cut is worth is measured on other pairs.
    """
    if not len(scores):
        return Cut(NOTHING_KEPT, False, 0, 0.0)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits = np.cumsum(right[order])
    last_of_equals = np.append(ranked[1:] < ranked[:-1], True)
    cuts = np.flatnonzero(last_of_equals) + 1
    # The bound reaches the target where so many right answers would be unlikely at the target.
    chances = np.array([_at_least(int(hits[kept - 1]), int(kept), target) for kept in cuts])
    proven = np.flatnonzero(chances <= 1 - confidence)
    kept = int(cuts[proven[-1] if len(proven) else chances.argmin()])
    threshold = float(ranked[kept - 1]) if len(proven) else NOTHING_KEPT
    return Cut(threshold, bool(len(proven)), kept, lower_bound(int(hits[kept - 1]), kept, confidence))


def calibrate(
    clip: ClipModel,
    reader: DatasetReader,
    held_out: Sequence[int],
    bank: Sequence[str],
    target_precision: float,
    *,
    confidence: float = 0.95,
    taken: Collection[int] = (),
) -> Calibration:
    """Retrieval among the held-out pairs; then half of them choose the threshold and the other half test it.

    held_out: live slots; one whose picture cannot be decoded is passed over.
    taken: slots whose texts are given to no other picture, and so are no candidates for the held-out ones.
    """
    pictures = {}
    for ordinal in held_out:
        try:
            pictures[ordinal] = picture(reader, ordinal)
        except DecodeError:
            continue
    if len(pictures) < 2:
        raise InputError("fewer than two held-out pairs are left to measure on", where=str(reader.directory))
    captions = [reader.caption(ordinal) or "" for ordinal in pictures]
    keys = [reader.key(ordinal) or "" for ordinal in pictures]
    images = clip.encode_images(list(pictures.values()))
    own_texts = clip.encode_texts(captions)

    known = {o: clip_model.normalised_text(c) for o in range(reader.slots) if (c := reader.caption(o)) is not None}
    given = {known[ordinal] for ordinal in taken if ordinal in known}
    texts = sorted({*known.values(), *map(clip_model.normalised_text, bank)} - given)
    matches = clip_model.best_matches(images, clip.encode_texts(texts))
    pairs = [(texts[i], clip_model.normalised_text(own)) for i, own in zip(matches.index, captions, strict=True)]
    exact = np.array([found == own for found, own in pairs])
    unqualified = np.array([without_qualifiers(found) == without_qualifiers(own) for found, own in pairs])

    # By rank of the key's hash, so that neither half follows the dataset's order.
    ranks = np.argsort([held_out_rank(key) for key in keys])
    choosing, testing = ranks[0::2], ranks[1::2]
    return settled(
        matches.cosine,
        (("exact", exact), ("unqualified", unqualified)),
        (choosing, testing),
        (target_precision, confidence),
        model_digest=clip.digest,
        bank_digest=clip_model.texts_digest(texts),
        bank_size=len(texts),
        r_at_1=recall_at(images, own_texts, 1),
        r_at_5=recall_at(images, own_texts, 5),
    )


def settled(
    cosine: npt.NDArray[np.float64],
    criteria: Sequence[tuple[str, npt.NDArray[np.bool_]]],
    halves: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]],
    wanted: tuple[float, float],
    *,
    model_digest: str,
    bank_digest: str,
    bank_size: int,
    r_at_1: float,
    r_at_5: float,
) -> Calibration:
    """The calibration of answers that score `cosine` [N]: the first criterion under which a cut is proven chooses it.

    criteria: (name, which answers are right [N]), the strictest first. halves: the places that choose the threshold,
    and those that test it. wanted: target precision and confidence.
    """
    (choosing, testing), (target_precision, confidence) = halves, wanted
    criterion = "none"
    for name, right in criteria:
        cut = choose_threshold(cosine[choosing], right[choosing], target_precision, confidence)
        if cut.reached:
            criterion = name
            break
    kept = testing[cosine[testing] >= cut.threshold]
    return Calibration(
        model_digest=model_digest,
        bank_digest=bank_digest,
        bank_size=bank_size,
        threshold=cut.threshold,
        criterion=criterion,
        reached=cut.reached,
        target_precision=target_precision,
        confidence=confidence,
        lower_bound=cut.lower_bound,
        calibration_kept=cut.kept if cut.reached else 0,
        calibration_pairs=len(choosing),
        precision=float(criteria[0][1][kept].mean()) if len(kept) else 0.0,
        precision_unqualified=float(criteria[-1][1][kept].mean()) if len(kept) else 0.0,
        coverage=len(kept) / len(testing),
        measured_kept=len(kept),
        measured_pairs=len(testing),
        r_at_1=r_at_1,
        r_at_5=r_at_5,
        heldout_pairs=len(cosine),
    )


def held_out_rank(sample_key: str) -> bytes:
    """By this the held-out pairs are chosen and halved, whatever the dataset's order."""
    return hashlib.blake2b(sample_key.encode(), digest_size=16, person=b"clip-held-out").digest()


_QUALIFIER = re.compile(r"[:,].*|\b(?:man|woman|person|men|women|people|(?:medium-)?(?:light|medium|dark) skin tone)\b")


def without_qualifiers(text: str) -> str:
    """A caption without sex, skin tone and what follows a colon or comma; "person" where nothing else is left."""
    return " ".join(_QUALIFIER.sub(" ", clip_model.normalised_text(text)).split()) or "person"


def _at_least(right: int, kept: int, p: float) -> float:
    """The chance that a binomial (kept, p) is at least `right`."""
    if p <= 0.0 or p >= 1.0:
        return float(p >= 1.0 or right == 0)
    counts = np.arange(right, kept + 1)
    logs = _log_choose(kept)[counts] + counts * np.log(p) + (kept - counts) * np.log1p(-p)
    return float(np.exp(logs).sum())


@lru_cache(maxsize=4096)
def _log_choose(n: int) -> npt.NDArray[np.float64]:
    """log of n over k for k = 0 … n."""
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    return np.asarray(logs[n] - logs - logs[::-1])
