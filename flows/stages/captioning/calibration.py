"""What the scores of a model that brings no calibration are worth, measured on pairs of the ledger itself.

Allowed pairs with a text of their own are captioned as if they had none, with their own texts among those that may be
chosen. Half of them choose the threshold: the lowest cosine from which on the captions prove the precision that [clip]
asks for. The other half say what that is worth. A text that was found is right if it is the pair's own; one that was
made up, if it has all of the own text's words, or nothing but words of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flows.home import Home
from flows.pace import Pace
from flows.terminal import Progress
from policy.durable import write_durably
from policy.errors import ConfigurationError, CustodyError, StorageError

if TYPE_CHECKING:
    from curation.captions import Captioner
    from curation.clip_model import Calibration, Rgb
    from flows.stages.captioning.models import CaptionerChoice

FILE = "calibration.json"
# At 95 % confidence 9 in 10 takes 29 captions without an error; of a half, and not all are kept.
FEWEST_PAIRS, MOST_PAIRS = 100, 1_000
CHUNK = 128

# In the order of their keys, which are digests: a choice that follows nothing. A twin would flatter the measure.
_PAIRS = """
SELECT sample_key, content_sha256, caption FROM trainable WHERE caption_origin IN ('alt', 'figcaption', 'title')
QUALIFY count(*) OVER (PARTITION BY content_sha256) = 1 AND count(*) OVER (PARTITION BY lower(caption)) = 1
ORDER BY sample_key LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class _Pair:
    key: str
    text: str
    picture: Rgb


def calibrated(home: Home, choice: CaptionerChoice, progress: Progress) -> Calibration:
    """The calibration of a model that lies beside its cached embeddings; measured now if there is none.

    Raises:
        ConfigurationError: fewer than FEWEST_PAIRS pairs can be had.
    """
    path = choice.cache / FILE
    if (known := _read(path, choice.digest)) is not None:
        return known
    pairs = _pairs(home)
    if len(pairs) < FEWEST_PAIRS:
        raise ConfigurationError(
            f"no score is known from which on a caption of {choice.name} is kept, and {len(pairs)} allowed pairs with "
            f"a text of their own are too few to measure it on (at least {FEWEST_PAIRS})",
            where=str(home.settings_path),
            remedy="Crawl more pages with alt text, or set captions.threshold (a cosine: about 0.3 for ViT-B/32)",
        )
    captioner, wanted = choice.captioner(0.0, len(pairs), progress), home.settings.clip
    measured = measure(captioner, choice, pairs, wanted.target_precision, wanted.confidence, progress)
    try:
        write_durably(path, json.dumps(asdict(measured), indent=1, sort_keys=True).encode())
    except OSError as error:
        raise StorageError(f"cannot write ({error.strerror})", where=str(path)) from error
    return measured


def measure(
    captioner: Captioner,
    choice: CaptionerChoice,
    pairs: Sequence[_Pair],
    target: float,
    confidence: float,
    progress: Progress,
) -> Calibration:
    """Caption the pairs, choose the threshold on the first half of them and test it on the second.

    target, confidence: [clip]'s target_precision and confidence, as for a CLIP that is trained here.
    """
    from curation.caption_bank import MODEL
    from curation.clip_model import normalised_text
    from training.calibration import recall_at, settled, without_qualifiers

    clip = choice.loaded.clip
    own_texts = clip.encode_texts([pair.text for pair in pairs])
    images, found, scores = [], [], []
    pace = Pace(progress, "calibrate", len(pairs))
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        pictures = [pair.picture for pair in chunk]
        embedded = clip.encode_images(pictures)
        images.append(embedded)
        for proposals, cosines in zip(captioner.propose(pictures, 1), embedded @ own_texts.T, strict=True):
            best = proposals[0]
            text, score, nearest = best.text.text, best.score, int(cosines.argmax())
            # Of texts that are found, the held-out pairs' own may be chosen too: the right one has to be among them.
            if best.text.source_kind != MODEL and cosines[nearest] >= score:
                text, score = pairs[nearest].text, float(cosines[nearest])
            found.append(text)
            scores.append(score)
        pace.add(len(chunk))

    own = [pair.text for pair in pairs]
    plain = np.array([normalised_text(f) == normalised_text(o) for f, o in zip(found, own, strict=True)])
    loose = np.array([without_qualifiers(f) == without_qualifiers(o) for f, o in zip(found, own, strict=True)])
    criteria = [("exact", plain), ("unqualified", loose)]
    if captioner.origin == "coca":
        criteria = [("words", np.array([says_the_same(f, o) for f, o in zip(found, own, strict=True)]))]
    return settled(
        np.array(scores),
        criteria,
        (np.arange(0, len(pairs), 2), np.arange(1, len(pairs), 2)),
        (target, confidence),
        model_digest=captioner.digest,
        bank_digest=captioner.bank_digest,
        bank_size=len(getattr(captioner, "bank", ())) + len(pairs),
        r_at_1=recall_at(np.concatenate(images), own_texts, 1),
        r_at_5=recall_at(np.concatenate(images), own_texts, 5),
    )


_FILLERS = frozenset({"a", "an", "the", "of", "on", "in", "at", "with", "and", "is", "are", "this", "it", "its"})


def says_the_same(made: str, own: str) -> bool:
    """Whether one of two texts has all the words of the other, articles and prepositions aside."""
    one, other = ({w for w in re.findall(r"[^\W_]+", t.casefold()) if w not in _FILLERS} for t in (made, own))
    return bool(one and other) and (one <= other or other <= one)


def _pairs(home: Home) -> list[_Pair]:
    from curation.images import decode
    from curation.pixel_store import PixelStore

    with home.ledger(readonly=True) as ledger:
        rows = ledger.query(_PAIRS, [MOST_PAIRS])
        tombstones = home.tombstones(ledger)
    store, pairs = PixelStore(home.pixels_path), []
    for key, sha, text in rows:
        if tombstones.covers_content(sha) or tombstones.covers_sample(key):
            continue
        try:
            pairs.append(_Pair(key, text, decode(store.get(sha))))
        except CustodyError:
            continue  # its pixels are not kept, or no picture any more
    return pairs


def _read(path: Path, digest: str) -> Calibration | None:
    from curation.clip_model import Calibration

    try:
        found = Calibration(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # none, or of another version: it is measured again
    return found if found.model_digest == digest else None
