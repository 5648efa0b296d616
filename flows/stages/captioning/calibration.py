"""From which score on a captioner's answers are kept: measured on pairs it was not taught, against the bank itself.

Allowed pairs with a text of their own are captioned as if they had none. What may be chosen is what may be chosen for
a picture without a text: a text of the bank counts for a pair only if it would be there without the pair's own site.
In a catalogue (`unique`), where the right text of every picture is among the offered ones, the pairs' own are offered
in the place of as many others, a part of them where they are more than the bank holds. Chosen is the lowest score from
which on the answers prove the precision that [clip] asks for; what that is worth is measured on each fifth of the pairs
by the score that the other four choose.

An answer that was found is right if it is the pair's own, word for word. Where that proves nothing, it is right as far
as it goes if it is the same but for what qualifies it ("flag: Oman" for "flag: Norway"): then no more than that is
given ("flag"). One that was made up is right if it has all of the own text's words, or nothing but words of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from flows.home import Home, utc_now
from flows.pace import Pace
from flows.terminal import Progress
from policy.durable import write_durably
from policy.errors import ConfigurationError, CustodyError, StorageError
from policy.origins import host_of, site_of
from policy.provenance import utc_text

if TYPE_CHECKING:
    from curation.captions import Captioner, Proposal
    from curation.clip_model import Embeddings, Rgb
    from flows.stages.captioning.models import CaptionerChoice

FILE = "calibration.json"
# At 95 % confidence 9 in 10 takes 29 captions without an error, 103 with five, and a small CLIP may be that sure of one
# picture in thirty. So many cost half a minute a model on one core.
FEWEST_PAIRS, MOST_PAIRS = 100, 4_000
FOLDS = 5
_LEAST_SHARE = 1 / 64
CHUNK = 128
EXACT: Final = "exact"
UNQUALIFIED: Final = "unqualified"
WORDS: Final = "words"
NONE: Final = "none"
# By how much the ledger has to grow before it is measured anew: a larger bank has more that is nearly right.
GROWTH = 0.1

# In the order of their keys, which are digests: a choice that follows nothing. A twin would flatter the measure.
_PAIRS = """
SELECT sample_key, content_sha256, caption, page_url FROM trainable
WHERE caption_origin IN ('alt', 'figcaption', 'title')
    AND ($keys IS NULL OR list_contains($keys::VARCHAR[], sample_key))
QUALIFY count(*) OVER (PARTITION BY content_sha256) = 1
    AND row_number() OVER (PARTITION BY lower(caption) ORDER BY sample_key) = 1
ORDER BY sample_key LIMIT $most
"""
_HELD_OUT = """
SELECT sample_key FROM slot WHERE dataset = ? AND list_contains(?::BIGINT[], ordinal) AND sample_key IS NOT NULL
"""
_OCCURRENCES = "SELECT count(*) FROM occurrence"


@dataclass(frozen=True, slots=True)
class Calibration:
    """From which score on an answer is kept, and what that was worth on other pairs.

    `threshold`: of `Captioner.sureness`; `NOTHING_KEPT` where `reached` is False. `criterion`: what counted as
    right when it was chosen: "exact", "unqualified", "words", or "none" where no criterion reached the target.
    `lower_bound`: the precision that the `calibration_kept` of the `calibration_pairs` with that score prove at
    `confidence` (Clopper and Pearson 1934, one-sided); at least `target_precision` where it was reached, else that of
    the cut that comes closest.

    `precision` (by `criterion`), `precision_exact` and `coverage` (the share of pictures that get a caption) were
    measured on the same pairs, each fifth by what the other four choose; `measured_kept` of them were kept. `unique`:
    in a catalogue. `occurrences`, `phrase_bytes`: what could be in the bank then; `bank_size`: how many were offered.
    """

    model_digest: str
    bank_digest: str
    bank_size: int
    unique: bool
    occurrences: int
    phrase_bytes: int
    threshold: float
    criterion: str
    reached: bool
    target_precision: float
    confidence: float
    lower_bound: float
    calibration_kept: int
    calibration_pairs: int
    precision: float
    precision_exact: float
    coverage: float
    measured_kept: int
    measured_at: str


@dataclass(frozen=True, slots=True)
class CalibratingPair:
    """An allowed pair with a text of its own. `site`: the registrable domain of its page. `kept`: its stored pixels."""

    key: str
    text: str
    site: str
    kept: bytes

    @property
    def picture(self) -> Rgb:
        """[H, W, 3], decoded anew each time: of thousands of pairs only the files are held."""
        from curation.images import decode

        return decode(self.kept)


@dataclass(frozen=True, slots=True)
class Answers:
    """A captioner's answers [N] to pairs with a text of their own: how sure it is, what it says, what is theirs."""

    sure: npt.NDArray[np.float64]
    given: tuple[str, ...]
    own: tuple[str, ...]


def calibrated(home: Home, choice: CaptionerChoice, progress: Progress) -> Calibration:
    """The calibration that lies beside a model's cached embeddings; measured now if there is none that fits.

    It fits if model, target, confidence and kind of bank are the same, and what the bank is made of has grown by less
    than GROWTH.

    Raises:
        ConfigurationError: fewer than FEWEST_PAIRS pairs can be had.
    """
    path = choice.cache / FILE
    known = read_calibration(path)
    if known is not None and _fits(known, home, choice):
        return known
    pairs = calibrating_pairs(home, choice)
    if len(pairs) < FEWEST_PAIRS:
        which = "that it was not taught " if choice.run_dir is not None else ""
        raise ConfigurationError(
            f"no score is known from which on a caption of {choice.name} is kept, and {len(pairs)} allowed pairs with "
            f"a text of their own {which}are too few to measure it on (at least {FEWEST_PAIRS})",
            where=str(home.settings_path),
            remedy="Crawl more pages with alt text, or set captions.threshold (custody inspect caption shows scores)",
        )
    measured = measure(home, choice, pairs, progress)
    try:
        write_durably(path, json.dumps(asdict(measured), indent=1, sort_keys=True).encode())
    except OSError as error:
        raise StorageError(f"cannot write ({error.strerror})", where=str(path)) from error
    return measured


def read_calibration(path: Path) -> Calibration | None:
    """A calibration; None where there is none, or one of another version: it is measured again."""
    try:
        return Calibration(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def measure(home: Home, choice: CaptionerChoice, pairs: Sequence[CalibratingPair], progress: Progress) -> Calibration:
    """Caption the pairs, choose the threshold by them, and measure what such a threshold is worth."""
    from curation.captions import unqualified
    from curation.clip_model import normalised_text
    from flows.stages.captioning.models import KeptFrom
    from training.calibration import choose_threshold

    wanted = home.settings.clip
    captioner = choice.captioner(KeptFrom(0.0), len(pairs), progress)
    unique = home.settings.captions.unique and captioner.origin != "coca"  # made-up words are nobody's
    answers = answers_of(captioner, choice, pairs, home.ruleset.bank_min_origins, unique, progress)

    both = list(zip(answers.given, answers.own, strict=True))
    criteria = {EXACT: [normalised_text(given) == normalised_text(own) for given, own in both]}
    if captioner.origin == "coca":
        criteria = {WORDS: [says_the_same(given, own) for given, own in both]}
    elif not unique:  # in a catalogue no picture may be called what another one is
        plain = [(unqualified(given), unqualified(own)) for given, own in both]
        criteria[UNQUALIFIED] = [given == own for given, own in plain]
    right = {name: np.array(value, dtype=np.bool_) for name, value in criteria.items()}

    criterion = NONE
    for name, is_right in right.items():
        cut = choose_threshold(answers.sure, is_right, wanted.target_precision, wanted.confidence)
        if cut.reached:
            criterion = name
            break
    counted, exact = right.get(criterion, is_right), right.get(EXACT, is_right)
    # Their order follows nothing, so that every fifth one is a fifth.
    number, kept = np.arange(len(pairs)), np.zeros(len(pairs), dtype=np.bool_)
    for fold in range(FOLDS):
        here, elsewhere = number % FOLDS == fold, number % FOLDS != fold
        chosen = choose_threshold(
            answers.sure[elsewhere], counted[elsewhere], wanted.target_precision, wanted.confidence
        )
        kept |= here & (answers.sure >= chosen.threshold)
    occurrences, phrase_bytes = _offered(home)
    bank = len(getattr(captioner, "bank", ()))
    return Calibration(
        model_digest=captioner.digest,
        bank_digest=captioner.bank_digest,
        bank_size=bank,
        unique=home.settings.captions.unique,
        occurrences=occurrences,
        phrase_bytes=phrase_bytes,
        threshold=cut.threshold,
        criterion=criterion,
        reached=cut.reached,
        target_precision=wanted.target_precision,
        confidence=wanted.confidence,
        lower_bound=cut.lower_bound,
        calibration_kept=cut.kept if cut.reached else 0,
        calibration_pairs=len(pairs),
        precision=float(counted[kept].mean()) if kept.any() else 0.0,
        precision_exact=float(exact[kept].mean()) if kept.any() else 0.0,
        coverage=float(kept.mean()),
        measured_kept=int(kept.sum()),
        measured_at=utc_text(utc_now()),
    )


def says_the_same(made: str, own: str) -> bool:
    """Whether one of two texts has all the words of the other, articles and prepositions aside."""
    one, other = ({w for w in re.findall(r"[^\W_]+", t.casefold()) if w not in _FILLERS} for t in (made, own))
    return bool(one and other) and (one <= other or other <= one)


_FILLERS = frozenset({"a", "an", "the", "of", "on", "in", "at", "with", "and", "is", "are", "this", "it", "its"})


def answers_of(
    captioner: Captioner,
    choice: CaptionerChoice,
    pairs: Sequence[CalibratingPair],
    min_origins: int,
    unique: bool,
    progress: Progress,
) -> Answers:
    """What the captioner says of each pair's picture, of the texts that may be chosen for it."""
    from curation.captions import PROPOSED

    # In a catalogue the pairs' own texts take the places of others: as many are offered as will be.
    bank = len(getattr(captioner, "bank", ()))
    own = _OwnTexts(choice, pairs, bank) if unique else None
    share = 1.0 if own is None else max(0.0, 1 - own.offered / max(bank, 1))

    # So many proposals that the best of those that stay are among them.
    top = min(max(bank, PROPOSED), round(PROPOSED / max(share, _LEAST_SHARE)))

    def stays(text: str) -> bool:
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < share * 2**64

    given, sure = [], []
    pace = Pace(progress, "calibrate", len(pairs))
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        pictures = [pair.picture for pair in chunk]
        proposed = captioner.propose(pictures, top)
        offered = own.nearest(pictures, start, PROPOSED) if own is not None else [()] * len(chunk)
        for pair, proposals, theirs in zip(chunk, proposed, offered, strict=True):
            left = [p for p in proposals if _is_there_without(p, pair.site, min_origins) and stays(p.text.text)]
            left = sorted((*left, *theirs), key=lambda proposal: -proposal.cosine)
            given.append(left[0].text.text if left else "")
            sure.append(captioner.sureness(left) if left else -1.0)
        pace.add(len(chunk))
    return Answers(np.array(sure), tuple(given), tuple(pair.text for pair in pairs))


def _is_there_without(proposal: Proposal, site: str, min_origins: int) -> bool:
    """Whether a text would be in the bank if a site had never been crawled."""
    from curation.caption_bank import LEDGER

    text = proposal.text
    return text.source_kind != LEDGER or len({*text.origins} - {site}) >= min_origins


class _OwnTexts:
    """The pairs' own texts, as a bank beside the bank: a part of them, the pair's own among them, for each picture.

    They are parted so that no picture is offered more texts than there are in the bank: `offered`, or one less.
    """

    def __init__(self, choice: CaptionerChoice, pairs: Sequence[CalibratingPair], bank: int) -> None:
        self._clip, self._pairs = choice.loaded.clip, pairs
        self._texts: Embeddings = self._clip.encode_texts([pair.text for pair in pairs])
        self._parts = -(-len(pairs) // max(bank, 1))
        self.offered = -(-len(pairs) // self._parts)

    def nearest(self, pictures: Sequence[Rgb], first: int, top: int) -> Iterator[tuple[Proposal, ...]]:
        """The nearest `top` own texts that are offered to each of the pictures of pair `first` and those after it."""
        from curation.caption_bank import LIST, BankText
        from curation.captions import Proposal

        for number, picture in enumerate(self._clip.encode_images(pictures), first):
            there = np.arange(number % self._parts, len(self._pairs), self._parts)
            cosines = self._texts[there] @ picture
            best = np.argsort(-cosines, kind="stable")[:top]
            yield tuple(
                Proposal(BankText(self._pairs[there[i]].text, (), LIST, ()), float(cosines[i])) for i in best.tolist()
            )


def _fits(known: Calibration, home: Home, choice: CaptionerChoice) -> bool:
    wanted = home.settings.clip
    occurrences, phrase_bytes = _offered(home)
    return (
        (known.model_digest, known.unique) == (choice.digest, home.settings.captions.unique)
        and (known.target_precision, known.confidence) == (wanted.target_precision, wanted.confidence)
        and known.phrase_bytes == phrase_bytes
        and abs(occurrences - known.occurrences) < GROWTH * max(known.occurrences, 1)
    )


def _offered(home: Home) -> tuple[int, int]:
    """What a bank could be made of: occurrences in the ledger, bytes of phrase lists."""
    from flows.stages.captioning.bank import phrase_files

    with home.ledger(readonly=True) as ledger:
        ((occurrences,),) = ledger.query(_OCCURRENCES)
    return int(occurrences), sum(path.stat().st_size for path in phrase_files(home) if path.is_file())


def calibrating_pairs(home: Home, choice: CaptionerChoice) -> list[CalibratingPair]:
    """Pairs that the model was not taught: of a CLIP of our own those that its run holds out."""
    from curation.images import decode
    from curation.pixel_store import PixelStore

    with home.ledger(readonly=True) as ledger:
        keys = None
        if choice.run_dir is not None:
            keys = [key for (key,) in ledger.query(_HELD_OUT, list(_held_out(choice.run_dir)))]
        rows = ledger.query(_PAIRS, {"keys": keys, "most": MOST_PAIRS})
        tombstones = home.tombstones(ledger)
    store, pairs = PixelStore(home.pixels_path), []
    for key, sha, text, page_url in rows:
        if tombstones.covers_content(sha) or tombstones.covers_sample(key):
            continue
        try:
            kept = store.get(sha)
            decode(kept)
        except CustodyError:
            continue  # its pixels are not kept, or no picture any more
        pairs.append(CalibratingPair(key, text, site_of(host_of(page_url or "")), kept))
    return pairs


def _held_out(run_dir: Path) -> tuple[str, list[int]]:
    """The dataset of a CLIP's run and the ordinals that it holds out."""
    from training.checkpoint import load_run
    from training.clip import held_out_of

    run = load_run(run_dir)
    return ("", []) if run is None else (run.dataset, list(held_out_of(run)))
