"""The ruleset: one TOML file that says what may be used, its digest, and the judging of evidence under it.

Every key must be there and none may be unknown: a setting that is misspelt must not fall back on a default in silence.
The types below are the file's schema; policy.default.toml explains each key.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar, get_args, get_origin, get_type_hints

from policy.duplicates import DuplicateRules, judge_duplicate
from policy.errors import ConfigurationError
from policy.evidence import ORIGIN_DOCUMENTS, Evidence
from policy.grants import under_grants
from policy.judgements import judgement, not_observed
from policy.licences import LicenceRules, judge_licence
from policy.limits import days, within
from policy.people import FacesRules, judge_faces
from policy.quality import QualityRules, SizeRules, judge_quality, judge_size
from policy.safety import SafetyRules, judge_safety
from policy.signals.ai_agents import AiAgentsRules, judge_ai_agents
from policy.signals.ai_txt import judge_ai_txt
from policy.signals.aipref import judge_content_usage
from policy.signals.c2pa import C2paRules, judge_c2pa
from policy.signals.content_signal import judge_content_signal
from policy.signals.embedded import XmpRules, judge_xmp
from policy.signals.registry import RegistryRules, judge_registry
from policy.signals.robots import RobotsRules, judge_robots
from policy.signals.rsl import judge_rsl
from policy.signals.tdmrep import TdmrepRules, judge_tdmrep
from policy.signals.trust_txt import judge_trust_txt
from policy.signals.x_robots import XRobotsRules, judge_x_robots
from policy.text import TextRules, judge_text
from policy.verdict import Decision, Judgement, Verdict, combine

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RULESET_VERSION = 1
_ROBOTS_BYTES = 500 * 1024  # RFC 9309, section 2.5: at least so much must be read
DEFAULT_PATH = Path(__file__).with_name("policy.default.toml")


@dataclass(frozen=True, slots=True)
class TombstoneRules:
    """What a removal keeps away for good. suppression: near (perceptual hash and embedding too) | exact.

    `pdq_max_distance`: bits in which the hash of a copy may differ, in whatever orientation, that is denied.
    `min_cosine`: from which on the embedding of a picture has it held until a person has looked.
    """

    suppression: Literal["near", "exact"]
    pdq_max_distance: int
    min_cosine: float

    def __post_init__(self) -> None:
        within("pdq_max_distance", self.pdq_max_distance, 0, 47)
        if not 0.5 <= self.min_cosine <= 1.0:
            raise ValueError(f"min_cosine must lie in 0.5 to 1, is {self.min_cosine:g}")


@dataclass(frozen=True, slots=True)
class ModelRules:
    """What becomes of a model that has seen what an approved removal takes away (docs/removal.md, Models).

    `on_exposure`: of a diffusion model that was fed it, `on_exposure_clip`: of a CLIP; `on_indirect`: of one that only
    stands on a model that was.
    """

    on_exposure: Literal["replay", "withdraw", "approximate"]
    on_exposure_clip: Literal["replay", "withdraw"]
    on_indirect: Literal["name", "rebuild", "withdraw"]


@dataclass(frozen=True, slots=True)
class EvidenceAges:
    """For how many days an observation carries a permission, a mechanism. What lies in the bytes does not age."""

    robots: int
    ai_agents: int
    content_usage: int
    content_signal: int
    rsl: int
    tdmrep: int
    x_robots: int
    ai_txt: int
    trust_txt: int
    licence: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            days(field.name, getattr(self, field.name))


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What may be used, for which purpose, under whose names; see policy.default.toml key by key.

    `text_body` is the file's text as it stood: the ledger keeps it under `digest`.
    """

    version: int
    purpose: Literal["commercial", "research"]
    product_tokens: tuple[str, ...]
    mechanisms: tuple[str, ...]
    defer_days: int
    bank_min_origins: int
    four_eyes_over: int
    own_regime_days: int
    robots: RobotsRules
    ai_agents: AiAgentsRules
    tdmrep: TdmrepRules
    x_robots: XRobotsRules
    xmp: XmpRules
    c2pa: C2paRules
    registry: RegistryRules
    licence: LicenceRules
    faces: FacesRules
    size: SizeRules
    quality: QualityRules
    safety: SafetyRules
    duplicate: DuplicateRules
    text: TextRules
    tombstone: TombstoneRules
    models: ModelRules
    max_evidence_age_days: EvidenceAges
    digest: str = ""
    text_body: str = ""

    def __post_init__(self) -> None:
        if self.version != RULESET_VERSION:
            raise ValueError(f"version is {self.version}; this build of Custody reads version {RULESET_VERSION}")
        if not self.product_tokens or not all(_TOKEN.match(token) for token in self.product_tokens):
            raise ValueError('product_tokens must name at least one token of letters, digits, "-", "_" and "."')
        if not self.mechanisms or len(set(self.mechanisms)) < len(self.mechanisms):
            raise ValueError("mechanisms must name at least one mechanism, and each only once")
        for name in self.mechanisms:
            if name not in KNOWN:
                raise ValueError(f"mechanisms names {name!r}, which is not known{_closest(name, KNOWN)}")
        days("defer_days", self.defer_days)
        within("bank_min_origins", self.bank_min_origins, 1)
        within("four_eyes_over", self.four_eyes_over, 0)
        days("own_regime_days", self.own_regime_days)
        within("robots.max_bytes", self.robots.max_bytes, _ROBOTS_BYTES, 64 * 2**20)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a ruleset file. Raises ConfigurationError naming file, key and the closest known key."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(
                f"the ruleset cannot be read ({error.strerror})",
                where=str(path),
                remedy="`custody init` writes one that explains each key",
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigurationError("the ruleset is not UTF-8 text", where=str(path)) from error
        return cls.parse(text, where=str(path))

    @classmethod
    def parse(cls, text: str, *, where: str = "policy.toml") -> Self:
        """A ruleset from the text of its file; `where` names the file in messages."""
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"not TOML: {error}", where=where) from error
        except ValueError as error:  # Python reads no number of more than 4,300 digits
            raise ConfigurationError("a number has too many digits, or a date does not exist", where=where) from error
        ages = _section(EvidenceAges, _table(content, "max_evidence_age_days", where), "max_evidence_age_days", where)
        shared: dict[str, Any] = {k: content[k] for k in ("purpose", "product_tokens") if k in content}
        return _section(
            cls,
            content,
            "",
            where,
            given={"digest": digest_of(content), "text_body": text},
            sections={
                "robots": {**shared, "max_age_days": ages.robots},
                "x_robots": {**shared, "max_age_days": ages.x_robots},
                "licence": {**shared, "max_age_days": ages.licence},
            },
        )

    @classmethod
    def default(cls) -> Self:
        """The packaged strict ruleset."""
        return cls.parse(cls.default_text(), where=DEFAULT_PATH.name)

    @staticmethod
    def default_text() -> str:
        """The packaged strict ruleset's file, with its comments: what `custody init` writes."""
        return DEFAULT_PATH.read_text(encoding="utf-8")

    def for_agent(self, token: str) -> Ruleset:
        """The same ruleset asked in another product token's name (its digest stays: it is for inspection)."""
        robots = dataclasses.replace(self.robots, product_tokens=(token,))
        x_robots = dataclasses.replace(self.x_robots, product_tokens=(token,))
        return dataclasses.replace(self, robots=robots, x_robots=x_robots)

    def with_mechanisms(self, mechanisms: Iterable[str]) -> Ruleset:
        """The same ruleset judging other mechanisms (its digest stays: it is for inspection)."""
        return dataclasses.replace(self, mechanisms=tuple(mechanisms))

    @property
    def defer_for(self) -> timedelta:
        """How long the pixels of a deferred sample are kept."""
        return timedelta(days=self.defer_days)

    @property
    def ages(self) -> EvidenceAges:
        """max_evidence_age_days, for short."""
        return self.max_evidence_age_days

    @property
    def origin_documents(self) -> tuple[str, ...]:
        """The documents to be asked of every origin, by their names in evidence.ORIGIN_DOCUMENTS.

        robots.txt is always among them: it is asked before a URL is contacted, and others stand in its lines. RSL has
        no place of its own: its documents are asked for where somebody declares them.
        """
        return tuple(n for n in ORIGIN_DOCUMENTS if n == "robots" or (n in self.mechanisms and n != "rsl"))

    def rule_version(self, mechanism: str) -> int:
        """The version of a mechanism's rule; 0 where it is not built."""
        return RULES[mechanism].version if mechanism in RULES else 0

    def decide(self, evidence: Evidence, now: datetime) -> tuple[Judgement, ...]:
        """One judgement a mechanism, in the ruleset's order. Pure: equal evidence, ruleset and time, equal answer."""
        return tuple(judge(self, name, evidence, now) for name in self.mechanisms)

    def verdict(self, judgements: Iterable[Judgement]) -> Verdict:
        """The judgements of one sample, combined."""
        return combine(judged.verdict for judged in judgements)

    def decisions(self, subject: str, evidence: Evidence, evidence_id: str, now: datetime) -> tuple[Decision, ...]:
        """`decide`, as it goes on record: about `subject` (a pair key), under this ruleset's digest."""
        return tuple(
            Decision(
                subject=subject,
                rule=judged.mechanism,
                rule_version=self.rule_version(judged.mechanism),
                verdict=judged.verdict,
                reason=judged.reason,
                where=judged.where,
                evidence_id=evidence_id,
                ruleset_digest=self.digest,
                decided_at=now,
            )
            for judged in self.decide(evidence, now)
        )


# ── the mechanisms ─────────────────────────────────────────────────────────────────────────────────────────────────


class Rule(NamedTuple):
    """A mechanism's judge, its version, which rises when the same evidence may be judged otherwise, and its reading.

    `reads`: all of the ruleset that the judge reads, by attribute; where none of it was edited, it says the same.
    """

    version: int
    judge: Callable[[Ruleset, Evidence, datetime], Judgement]
    reads: tuple[str, ...]


def _judge_tombstone(evidence: Evidence) -> Judgement:
    if evidence.tombstoned is None:
        return not_observed("tombstone", "the tombstones were not asked")
    if evidence.tombstoned:
        return judgement("tombstone", Verdict.DENY, "tombstoned", f"removal {evidence.tombstoned}")
    if (like := evidence.removed_likeness) is not None:
        if like.method == "pdq":
            where = f"pdq, {round((1 - like.likeness) * 256)} of 256 bits away"
            return judgement("tombstone", Verdict.DENY, "tombstoned-copy", f"removal {like.removal}", where)
        # Pictures of a series lie as close as crops do: a person decides (custody removal release).
        return judgement("tombstone", Verdict.DEFER, "near-tombstoned", f"{like.method}, {like.likeness:.3f}")
    return judgement("tombstone", None, "not-tombstoned")


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "robots": Rule(2, lambda r, e, now: judge_robots(e, r.robots, now), ("robots",)),
        "ai_agents": Rule(
            1,
            lambda r, e, now: judge_ai_agents(e, r.ai_agents, r.robots, r.ages.ai_agents, now),
            ("ai_agents", "robots", "ages.ai_agents"),
        ),
        "content_usage": Rule(
            1,
            lambda r, e, now: judge_content_usage(e, r.robots, r.ages.content_usage, now),
            ("robots", "ages.content_usage"),
        ),
        "content_signal": Rule(
            1,
            lambda r, e, now: judge_content_signal(e, r.robots, r.ages.content_signal, now),
            ("robots", "ages.content_signal"),
        ),
        "rsl": Rule(1, lambda r, e, now: judge_rsl(e, r.robots, r.ages.rsl, now), ("robots", "ages.rsl")),
        "tdmrep": Rule(
            1,
            lambda r, e, now: judge_tdmrep(e, r.tdmrep, r.robots, r.ages.tdmrep, now),
            ("tdmrep", "robots", "ages.tdmrep"),
        ),
        "x_robots": Rule(2, lambda r, e, now: judge_x_robots(e, r.x_robots, now), ("x_robots",)),
        "ai_txt": Rule(1, lambda r, e, now: judge_ai_txt(e, r.robots, r.ages.ai_txt, now), ("robots", "ages.ai_txt")),
        "trust_txt": Rule(
            1, lambda r, e, now: judge_trust_txt(e, r.robots, r.ages.trust_txt, now), ("robots", "ages.trust_txt")
        ),
        "xmp": Rule(1, lambda r, e, _: judge_xmp(e, r.xmp), ("xmp",)),
        "c2pa": Rule(1, lambda r, e, _: judge_c2pa(e, r.c2pa), ("c2pa",)),
        "registry": Rule(2, lambda r, e, now: judge_registry(e, r.registry, now), ("registry",)),
        "licence": Rule(3, lambda r, e, now: judge_licence(e, r.licence, now), ("licence",)),
        "faces": Rule(1, lambda r, e, _: judge_faces(e, r.faces), ("faces",)),
        "size": Rule(1, lambda r, e, _: judge_size(e, r.size), ("size",)),
        "quality": Rule(1, lambda r, e, _: judge_quality(e, r.quality), ("quality",)),
        "safety": Rule(1, lambda r, e, _: judge_safety(e, r.safety), ("safety",)),
        "duplicate": Rule(1, lambda r, e, _: judge_duplicate(e, r.duplicate), ("duplicate",)),
        "text": Rule(3, lambda r, e, _: judge_text(e, r.text), ("text",)),
        "tombstone": Rule(2, lambda _, e, __: _judge_tombstone(e), ("tombstone",)),
    }
)
KNOWN = frozenset(RULES)


def judge(rules: Ruleset, mechanism: str, evidence: Evidence, now: datetime) -> Judgement:
    """What one mechanism makes of the evidence, grants considered."""
    return under_grants(RULES[mechanism].judge(rules, evidence, now), evidence, now)


# ── reading the file ───────────────────────────────────────────────────────────────────────────────────────────────

T = TypeVar("T", bound="DataclassInstance")
_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\Z")


def digest_of(content: Mapping[str, object]) -> str:
    """blake2b-16 of the canonical JSON of the parsed file, in hex: comments and order do not count."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def _closest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(names)}"


def _table(content: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = content.get(key)
    if value is None:
        raise ConfigurationError(f"the section [{key}] is missing", where=where, remedy=_REMEDY)
    if not isinstance(value, dict):
        raise ConfigurationError(f"{key} must be a section, is {_said(value)}", where=where)
    return value


_REMEDY = "policy.default.toml, which `custody init` writes, has and explains every key"


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    """Evaluated once: the licence table alone has a class in it dozens of times, and that was most of a reading."""
    return get_type_hints(cls)


def _section(
    cls: type[T],
    content: Mapping[str, Any],
    name: str,
    where: str,
    *,
    given: Mapping[str, Any] = MappingProxyType({}),
    sections: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> T:
    """A dataclass from a TOML table: every field a key, no other key. `given` fields come from elsewhere.

    `sections`: what each section below is given.
    """
    hints = _hints(cls)
    given = {k: _value(hints[k], v, k, where) for k, v in given.items() if k in hints}
    known = [field.name for field in dataclasses.fields(cls) if field.name not in given]
    prefix = f"{name}." if name else ""
    for key in content:
        if key not in known:
            raise ConfigurationError(f"unknown key {prefix + key!r}{_closest(key, known)}", where=where)
    values = {}
    for key in known:
        if key not in content:
            raise ConfigurationError(f"the key {prefix + key!r} is missing", where=where, remedy=_REMEDY)
        if dataclasses.is_dataclass(hints[key]):
            section = _table({key: content[key]}, key, where)
            values[key] = _section(hints[key], section, prefix + key, where, given=sections.get(key, {}))
        else:
            values[key] = _value(hints[key], content[key], prefix + key, where)
    try:
        return cls(**values, **given)
    except ValueError as error:
        raise ConfigurationError(str(error), where=f"{where} [{name}]" if name else where) from error


_WORDS: Mapping[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _value(hint: Any, value: Any, key: str, where: str) -> Any:
    """The value of a key as its type wants it; raises ConfigurationError where it is of another."""
    if isinstance(value, tuple):  # read already
        return value
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is Literal:
        if value in arguments and isinstance(value, str):
            return value
        wanted = " or ".join(repr(a) for a in arguments)
    elif kind is tuple:
        if isinstance(value, list):
            return tuple(_value(arguments[0], item, key, where) for item in value)
        wanted = "a list"
    elif kind is Mapping:
        if isinstance(value, dict):
            return MappingProxyType({k: _item(arguments[1], v, f"{key}.{k}", where) for k, v in value.items()})
        wanted = "a section"
    else:
        if type(value) is hint or (hint is float and type(value) is int):
            return hint(value)
        wanted = _WORDS[hint]
    raise ConfigurationError(f"{key!r} must be {wanted}, is {_said(value)}", where=where)


def _item(hint: Any, value: Any, key: str, where: str) -> Any:
    if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
        return _value(hint, value, key, where)
    if not isinstance(value, dict):
        raise ConfigurationError(f"{key!r} must be a table, is {_said(value)}", where=where)
    return _section(hint, value, key, where)


def _said(value: object) -> str:
    return repr(value) if len(repr(value)) <= 60 else f"a {type(value).__name__}"
