"""Every reason a rule may give, in words, and the making of judgements from them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from policy.verdict import Judgement, Reason, Signal, Verdict

_MAX_DETAIL_CHARS = 1_000
_CLOCK_SKEW = timedelta(days=1)

# The codes that a document of an origin shares with its fellows: <mechanism>-<what>.
_DOCUMENTS: Mapping[str, str] = {
    "robots": "robots.txt",
    "tdmrep": "tdmrep.json",
    "ai-txt": "ai.txt",
    "trust-txt": "trust.txt",
    "rsl": "the RSL licence file",
}
_DOCUMENT_SENTENCES: Mapping[str, str] = {
    "absent": "The site has no {0}.",
    "forbidden": "The site refuses to show {0}; a refusal counts as a no.",
    "unreachable": "The site did not answer when asked for {0}; nothing is taken until it does.",
    "unreachable-long": "The site has not answered for {0} for longer than the ruleset waits.",
    "unreadable": "{0} was answered, but not in a way that can be relied on.",
    "too-large": "{0} is longer than what is read, so what it says is not known.",
}

# code -> a sentence for a person. A code is counted and queried, so it never changes its meaning.
SENTENCES: Mapping[str, str] = {
    # any rule
    "not-asked": "The ruleset no longer asks this rule.",
    "not-observed": "What this rule needs was not observed; that is never read as permission.",
    "evidence-stale": "The observation is older than the ruleset allows; it must be made again.",
    "evidence-incomplete": "The stored document that was observed cannot be found any more.",
    "fetch-failed": "The image could not be fetched, so there was nothing to look at.",
    "mechanism-not-built": "Something is declared that this version cannot read yet, so the sample stays out.",
    # documents of an origin
    **{f"{m}-{k}": s.format(d) for m, d in _DOCUMENTS.items() for k, s in _DOCUMENT_SENTENCES.items()},
    "robots-allow": "robots.txt allows this path to our agent.",
    "robots-disallow": "robots.txt disallows this path to our agent.",
    "robots-no-rule": "robots.txt has no rule for this path.",
    "robots-bad-encoding": "robots.txt holds bytes that are no text, so a rule may have been lost.",
    # headers and meta elements
    "x-robots-noai": "The page or the image's response says noai.",
    "x-robots-noimageai": "The page or the image's response says noimageai.",
    "x-robots-noml": "The page or the image's response says noml.",
    "x-robots-none": "The page or the image's response says none: not to be indexed, which the ruleset honours.",
    "x-robots-noindex": "The page or the image's response says noindex, which the ruleset honours.",
    "x-robots-noimageindex": "The page or the image's response says noimageindex, which the ruleset honours.",
    "x-robots-damaged": "A robots header or meta element holds characters that are no text, so a word may be lost.",
    "x-robots-absent": "Neither the responses nor the page's meta elements object.",
    # other AI crawlers' groups
    "ai-agents-absent": "robots.txt names no crawler that collects training data.",
    "ai-agents-disallow": "robots.txt disallows this path to a crawler that collects training data.",
    "ai-agents-no-objection": "robots.txt names crawlers that collect training data and lets them have this path.",
    "ai-agents-not-honoured": "The ruleset does not count what robots.txt says to other crawlers.",
    # AIPREF
    "content-usage-absent": "No Content-Usage preference is declared.",
    "content-usage-disallowed": "A Content-Usage preference disallows AI training.",
    "content-usage-allowed": "A Content-Usage preference allows AI training.",
    "content-usage-silent": "The Content-Usage preference says nothing of AI training.",
    "content-usage-unreadable": "A Content-Usage preference that may be about AI training cannot be read.",
    "content-usage-not-crawled": "robots.txt forbids this path, so its Content-Usage preference does not count.",
    # Content Signals
    "content-signal-damaged": "A Content-Signal header holds characters that are no text, so a word may be lost.",
    "content-signal-absent": "No Content-Signal is declared.",
    "content-signal-no": "A Content-Signal says ai-train=no.",
    "content-signal-unknown": "A Content-Signal speaks of ai-train in a way that is not known; that counts as a no.",
    "content-signal-yes": "A Content-Signal says ai-train=yes.",
    "content-signal-silent": "A Content-Signal is declared and says nothing of training this image.",
    # RSL
    "rsl-absent": "No RSL licence is declared.",
    "rsl-missing": "An RSL licence is declared and there is none at its address; that is no permission.",
    "rsl-unreadable": "An RSL licence is declared and cannot be read as one; that is no permission.",
    "rsl-prohibited": "The RSL licence prohibits AI training.",
    "rsl-not-permitted": "The RSL licence lists the uses that it permits, and AI training is not among them.",
    "rsl-constrained": "The RSL licence permits AI training on a condition that no grant covers.",
    "rsl-permitted": "The RSL licence permits AI training freely.",
    "rsl-silent": "The RSL licence says nothing of AI training.",
    "rsl-no-match": "The RSL licence is not about this address.",
    # TDMRep
    "tdmrep-reserved": "The rights of text and data mining are reserved (TDMRep).",
    "tdmrep-constrained": "The rights of text and data mining are reserved; a policy names conditions nobody has met.",
    "tdmrep-not-reserved": "The rights of text and data mining are declared not to be reserved (TDMRep).",
    "tdmrep-no-match": "tdmrep.json has no entry for this address.",
    "tdmrep-invalid": "tdmrep.json is there and is not valid; nothing is taken until it is.",
    "tdmrep-invalid-long": "tdmrep.json has not been valid for longer than the ruleset waits; it counts as a no.",
    "tdmrep-invalid-reservation": "tdmrep.json is not valid, but what can be read of it reserves these rights.",
    "tdmrep-protocol-error": "A TDM reservation has a value that is neither 0 nor 1, which says nothing.",
    "tdmrep-damaged": "A TDM reservation, or the metadata it may stand in, is damaged: what it said cannot be told.",
    "tdmrep-damaged-reservation": "The image's metadata is damaged, and the words of a TDM reservation stand in it.",
    # ai.txt, trust.txt
    "ai-txt-allow": "ai.txt allows this address.",
    "ai-txt-disallow": "ai.txt disallows this address.",
    "ai-txt-no-rule": "ai.txt has no rule for this address.",
    "ai-txt-not-understood": "There is an ai.txt of another shape, which is recorded and not understood.",
    "ai-txt-bad-encoding": "ai.txt holds bytes that are no text, so a rule may have been lost.",
    "trust-txt-no": "trust.txt says that the site's data may not be trained on.",
    "trust-txt-yes": "trust.txt says that the site's data may be trained on.",
    "trust-txt-unknown": "trust.txt speaks of training in a way that is not known, so nothing is taken.",
    "trust-txt-silent": "trust.txt says nothing of training.",
    "trust-txt-bad-encoding": "trust.txt holds bytes that are no text, so a no may have been lost.",
    # embedded metadata
    "xmp-prohibited": "The image's own metadata prohibits data mining (PLUS Data Mining).",
    "xmp-constrained": "The image's own metadata prohibits data mining but on conditions that nobody has met.",
    "xmp-allowed": "The image's own metadata allows data mining.",
    "xmp-unspecified": "The image's own metadata leaves data mining unspecified.",
    "xmp-unknown-value": "The image's own metadata says of data mining what is not in the vocabulary.",
    "xmp-damaged-reservation": "The image's metadata is damaged, and the words of a reservation stand in it.",
    "xmp-damaged": "The image's metadata, or the file around it, is damaged: what it said cannot be told.",
    "xmp-absent": "The image's own metadata says nothing of data mining.",
    # C2PA
    "c2pa-absent": "The image holds no C2PA manifest.",
    "c2pa-silent": "The C2PA manifests say nothing of training or data mining.",
    "c2pa-not-allowed": "A C2PA manifest of the image or of one of its ingredients does not allow training.",
    "c2pa-constrained": "A C2PA manifest allows training on a condition only, and no grant covers it.",
    "c2pa-unknown-word": "A C2PA manifest speaks of training in a word that the specification does not know.",
    "c2pa-not-trusted": "A C2PA manifest allows training; that alone is no permission.",
    "c2pa-allowed": "A valid C2PA manifest, signed by somebody whom the operator trusts, allows generative training.",
    "c2pa-unreadable": "There is a C2PA manifest store, and it cannot be read; what it says is not known.",
    "c2pa-changed": "The C2PA manifest store was changed after it was signed; what it said is not known.",
    "c2pa-remote": "The C2PA manifest is said to be elsewhere, and is not asked for; what it says is not known.",
    # registries
    "registry-listed": "A list that the operator imported names it.",
    "registry-missing": "A list that the ruleset requires was never imported.",
    "registry-overdue": "An imported list is older than its limit; it must be imported anew.",
    "registry-not-listed": "No imported list names it.",
    # grants
    "granted": "A grant on record covers what is said against it.",
    # licences
    "licence-allowed": "The ruleset allows this licence for its purpose.",
    "licence-denied": "The ruleset does not allow this licence for its purpose.",
    "licence-not-listed": "The licence is recognised but not in the ruleset's table.",
    "licence-share-alike": "The licence asks for share-alike, which this ruleset does not undertake.",
    "licence-incompatible": "The licence asks for share-alike, and what is trained is shared under another licence.",
    "licence-no-derivatives": "The licence permits no adaptations, and what is kept of the picture was changed.",
    "licence-unreadable": "Metadata of the image or linked data of the page that may speak of rights cannot be read.",
    "licence-unknown": "No licence is stated that can be recognised and that covers the image.",
    "licence-reserved": "All rights are reserved.",
    "licence-conflict": "A statement of reserved rights stands against a freer licence; a person must look.",
    # people
    "no-face": "No face was found.",
    "face-found": "A face was found, and the ruleset takes no faces.",
    "face-blur": "Every face that was found is blurred.",
    "face-not-blurred": "A face was found and is not blurred yet.",
    "face-without-consent": "A face was found and no consent is on record.",
    # quality
    "size-ok": "Size and shape are within the ruleset's bounds.",
    "too-small": "The picture is smaller than the ruleset asks for.",
    "too-large": "The picture is larger than the ruleset takes.",
    "too-narrow": "The picture is longer and narrower than the ruleset takes.",
    "quality-ok": "There is enough to be seen in the picture.",
    "too-plain": "There is hardly anything to be seen in the picture.",
    "too-flat": "More of the picture is of one colour than the ruleset takes.",
    "too-blurred": "The picture has no sharp edge.",
    "screenshot": "The picture looks like a screenshot.",
    # safety
    "safe": "The model that looks for what is not safe for work finds little of it.",
    "nsfw": "The model that looks for what is not safe for work finds more of it than the ruleset takes.",
    "nsfw-unsure": "The model that looks for what is not safe for work is in doubt.",
    # duplicates
    "no-duplicate": "The picture stands for itself.",
    "duplicate": "Another picture that is the same to the eye stands for this one.",
    "duplicate-reserved": "A picture that is the same to the eye carries a reservation in its own bytes.",
    # text
    "alt-text": "The alt text describes the picture.",
    "caption": "The caption that was found for the picture is sure enough.",
    "caption-missing": "There is no text that describes the picture.",
    "caption-uncertain": "The caption that was found is less sure than the ruleset asks for.",
    "text-contact-data": "The text holds an e-mail or postal address or a telephone number.",
    "text-person-name": "The text likely names a person.",
    "text-file-name": "The text is a file name, an address or a machine's name for the file.",
    "text-boilerplate": "The text is about the page or its maker, and says next to nothing of the picture.",
    "text-keywords": "The text was written for a search engine.",
    "text-language": "The text is in another language than the ruleset asks for.",
    "text-disagrees": "CLIP does not find in the picture what the text says.",
    "text-read-off": "CLIP finds the text in the picture only as letters: mirrored, the two agree much less.",
    "text-too-long": "The text is longer than the ruleset takes.",
    # removals
    "tombstoned": "An approved removal covers it.",
    "tombstoned-copy": "It is a copy of a picture that an approved removal covers.",
    "near-tombstoned": "It is much like a picture that an approved removal covers; a person must look.",
    "not-tombstoned": "No removal covers it.",
    "removal-held": "A removal request names it; it is held until that is decided.",
    "removal-rejected": "A removal request that named it was rejected.",
    "objected": "An objection to its use was granted.",
    "objection-lifted": "An objection to its use was taken back.",
}


def sentence(code: str) -> str:
    """A reason code in words; a code of another version says so."""
    return SENTENCES.get(code, f"(reason {code!r} of another version of Custody)")


def reason(code: str, detail: str = "") -> Reason:
    """A Reason with a code that SENTENCES knows (else KeyError), its detail cut to 1,000 characters."""
    if not detail:
        return _BARE[code]
    if code not in SENTENCES:
        raise KeyError(code)
    return Reason(code, detail if len(detail) <= _MAX_DETAIL_CHARS else detail[:_MAX_DETAIL_CHARS] + "…")


_BARE: Mapping[str, Reason] = {code: Reason(code) for code in SENTENCES}  # most reasons of a crawl are one of these


def judgement(
    mechanism: str,
    verdict: Verdict | None,
    code: str,
    detail: str = "",
    where: str = "",
    signals: tuple[Signal, ...] = (),
) -> Judgement:
    """A Judgement whose reason code is a known one."""
    return Judgement(mechanism, verdict, reason(code, detail), where, signals)


def not_observed(mechanism: str, what: str, where: str = "") -> Judgement:
    """DEFER: what the rule needs was never looked at."""
    return judgement(mechanism, Verdict.DEFER, "not-observed", what, where)


_WEIGHT: Mapping[Verdict | None, int] = {None: 0, Verdict.ALLOW: 1, Verdict.DEFER: 2, Verdict.DENY: 3}


def worst(judgements: Iterable[Judgement]) -> Judgement:
    """The judgement that decides among several of one mechanism, carrying the signals of all.

    DENY before DEFER before ALLOW before unset; the first of equals.
    """
    judged = tuple(judgements)
    if len(judged) == 1:
        return judged[0]
    deciding = max(judged, key=lambda j: _WEIGHT[j.verdict])
    if not any(j.signals for j in judged if j is not deciding):
        return deciding
    signals = tuple(s for j in judged for s in j.signals)
    return Judgement(deciding.mechanism, deciding.verdict, deciding.reason, deciding.where, signals)


def is_stale(observed_at: datetime, now: datetime, max_age_days: int) -> bool:
    """Whether an observation is too old to rest on, or claims to be from the future."""
    return not _AHEAD <= now - observed_at <= _days(max_age_days)


_AHEAD = -_CLOCK_SKEW
_days = functools.cache(lambda number: timedelta(days=number))


def unless_stale(judged: Judgement, observed_at: datetime, now: datetime, max_age_days: int) -> Judgement:
    """The judgement, or DEFER where it permits on an observation that is too old. A no does not age."""
    if judged.verdict in (Verdict.DENY, Verdict.DEFER) or not is_stale(observed_at, now, max_age_days):
        return judged
    detail = f"observed {observed_at.isoformat()}, at most {max_age_days} days count"
    return replace(judged, verdict=Verdict.DEFER, reason=reason("evidence-stale", detail))
