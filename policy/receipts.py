"""Receipts: what was done for a removal, in a file that anybody can check with nothing but public material.

::

    {"format": "custody-receipt", "version": 1,
     "body": {"receipt": …, "request": …, "matches": …, "in_force": …, "datasets": …, "rows": …, "steps": …,
              "checkpoints": …, "scan": …, "not_reached": …, "ledger": …, "key": …},
     "digests": {"request.kind": "…", "datasets[0]": "…", …},
     "signature": "…"}

`digests`: sha256 of the canonical JSON of every field of every section (of every item, where a section is a list, and
of "{}" or "[]" for one that is empty). Signed (Ed25519, RFC 8032) is the canonical JSON of format, version and digests:
so a field that was altered can be named, whatever it holds. Nothing in a receipt is personal: what matched stands there
as keyed tokens, who decided as a number.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from policy.errors import CustodyError, InputError
from policy.inclusion import root_by_path
from policy.keys import KeyRing
from policy.provenance import canonical_json
from policy.removals import due_at

RECEIPT_FORMAT: Final = "custody-receipt"
RECEIPT_VERSION: Final = 1
MAX_RECEIPT_BYTES: Final = 256 << 20
SECTIONS: Final = (
    *("receipt", "request", "matches", "in_force", "datasets", "rows", "steps", "checkpoints", "scan", "not_reached"),
    *("ledger", "key"),
)
NEVER_SEEN: Final = "never seen"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and in which field ("request.due_at", "datasets[0].generations[1]")."""

    field: str
    what: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt as it was read: its parts are of the right kind, and nothing else is known of them."""

    body: Mapping[str, Any]
    digests: Mapping[str, Any]
    signature: str

    @classmethod
    def read(cls, data: bytes, *, where: str = "receipt") -> Self:
        """Parse a receipt. Raises `InputError`: not one, or of a newer version."""
        if len(data) > MAX_RECEIPT_BYTES:
            raise InputError(f"is larger than a receipt may be ({MAX_RECEIPT_BYTES >> 20} MiB)", where=where)
        try:
            found = json.loads(data, object_pairs_hook=_once, parse_constant=_no_number)
            canonical_json(found).encode()
        except (ValueError, RecursionError) as error:
            raise InputError(f"not a receipt: no JSON that can be read ({error})", where=where) from error
        if not isinstance(found, dict) or found.get("format") != RECEIPT_FORMAT:
            raise InputError(f'not a receipt: no "format": "{RECEIPT_FORMAT}"', where=where)
        version = found.get("version")
        if type(version) is not int or version < 1:
            raise InputError("not a receipt: it has no version", where=where)
        if version > RECEIPT_VERSION:
            raise InputError("written by a newer version", where=where, remedy="Update Custody")
        parts = {"format", "version", "body", "digests", "signature"}
        if set(found) != parts:
            raise InputError(f"not a receipt: it has {', '.join(sorted(set(found) ^ parts))} or not", where=where)
        body, digests, signature = found["body"], found["digests"], found["signature"]
        if not isinstance(body, dict) or not isinstance(digests, dict) or not isinstance(signature, str):
            raise InputError("not a receipt: body and digests are objects, the signature is a text", where=where)
        return cls(body, digests, signature)

    @property
    def sha256(self) -> str:
        """Of the file that `write_receipt` makes of it."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()

    def to_text(self) -> str:
        """The file: canonical JSON and a line feed."""
        parts = {"body": self.body, "digests": self.digests, "signature": self.signature}
        return canonical_json({"format": RECEIPT_FORMAT, "version": RECEIPT_VERSION, **parts}) + "\n"


def sign_receipt(body: Mapping[str, Any], keys: KeyRing) -> Receipt:
    """A receipt of this body under the operator's key, which is put into it (section `key`)."""
    named = {"algorithm": "Ed25519", "public_key": keys.public_key.hex(), "key_id": keys.key_id("signing")}
    whole = {**body, "key": named}
    if wrong := malformed(whole):
        raise ValueError(f"not a receipt's body: {wrong[0].field}: {wrong[0].what}")
    digests = digests_of(whole)
    return Receipt(whole, digests, keys.sign(_signed(digests)).hex())


def digests_of(body: Mapping[str, Any]) -> dict[str, str]:
    """Field -> sha256 of its canonical JSON, for every field that can be named by itself."""
    found: dict[str, str] = {}
    for section, value in body.items():
        fields = dict(_fields(section, value)) or {section: value}
        found |= {field: hashlib.sha256(canonical_json(each).encode()).hexdigest() for field, each in fields.items()}
    return found


def altered(receipt: Receipt, public_key: bytes | None = None) -> tuple[Problem, ...]:
    """Which fields are not as they were signed; empty: all are.

    `public_key`: the operator's, from wherever it is published. Without it a receipt speaks for itself only: somebody
    who writes a whole new one under a key of his own is not found out.
    """
    found = digests_of(receipt.body)
    problems = [
        Problem(field, _changed(field, found, receipt.digests))
        for field in sorted(found.keys() | receipt.digests.keys())
        if found.get(field) != receipt.digests.get(field)
    ]
    key = receipt.body.get("key")
    named = key.get("public_key") if isinstance(key, dict) else None
    if public_key is not None and named != public_key.hex():
        problems.append(Problem("key.public_key", "it is not the key that it is to be checked with"))
    with_key = public_key.hex() if public_key is not None else named
    if _verifies(with_key, receipt.signature, receipt.digests):
        return _each_once(problems)
    if problems and _verifies(with_key, receipt.signature, found):
        return tuple(Problem(f"digests.{p.field}", "the digest was altered, what it covers was not") for p in problems)
    if not problems:
        problems.append(Problem("signature", "it is not one of these digests under this key"))
    return _each_once(problems)


def malformed(body: Mapping[str, Any]) -> tuple[Problem, ...]:
    """What of a body is not of the kind that version 1 defines."""
    return tuple(_misfits("", body, _BODY))


def inconsistent(body: Mapping[str, Any]) -> tuple[Problem, ...]:
    """What cannot be true of a well-formed body, whoever signed it: times, roots, counts, claims."""
    return tuple(
        [
            *_check_times(body),
            *_check_matches(body),
            *_check_datasets(body["datasets"]),
            *_check_checkpoints(body["checkpoints"]),
            *_check_scan(body["scan"]),
            *_check_ledger(body["ledger"]),
        ]
    )


# ── what is signed ─────────────────────────────────────────────────────────────────────────────────────────────────


def _signed(digests: Mapping[str, Any]) -> bytes:
    return canonical_json({"format": RECEIPT_FORMAT, "version": RECEIPT_VERSION, "digests": digests}).encode()


def _verifies(public_key: object, signature: str, digests: Mapping[str, Any]) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(str(public_key)))
        key.verify(bytes.fromhex(signature), _signed(digests))
    except (InvalidSignature, ValueError):
        return False
    # A signature in other letters is the same number, and not the one that was written.
    return signature == signature.lower() and len(signature) == 128


def _fields(section: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        yield from ((f"{section}.{name}", each) for name, each in value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield from ((f"{section}[{number}]", each) for number, each in enumerate(value))
    else:
        yield section, value


def _changed(field: str, found: Mapping[str, object], signed: Mapping[str, object]) -> str:
    if field not in found:
        return "it is missing"
    return "it was added" if field not in signed else "it was altered"


def _each_once(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    return tuple({problem.field: problem for problem in reversed(problems)}.values())[::-1]


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object names a field twice")
    return found


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


# ── of what kind ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Maybe:
    """What may be null."""

    kind: Any


_TEXT, _COUNT, _FLAG, _NUMBER, _ANY = "text", "count", "flag", "number", "any"
_HEX = "sha256"
_TIME = "time"
_SHARD: Final = {
    "path": _TEXT,
    "sha256": _HEX,
    "size_bytes": _COUNT,
    "index_sha256": _HEX,
    "first_ordinal": _COUNT,
    "slots": _COUNT,
    "live": _COUNT,
    "audit_path": [_HEX],
}
_GENERATION: Final = {"generation": _COUNT, "root": _HEX, "shards": _COUNT}
_BODY: Final[Mapping[str, Any]] = {
    "receipt": {
        "removal": _TEXT,
        "number": _COUNT,
        "issued_at": _TIME,
        "code_version": _TEXT,
        "replaces": _Maybe(_HEX),
    },
    "request": {
        "kind": _TEXT,
        "regime": _TEXT,
        "named_kind": _TEXT,
        "named": _Maybe(_TEXT),
        "received_at": _TIME,
        "due_at": _TIME,
        "decided_at": _TIME,
        "applied_at": _TIME,
        "approvers": _COUNT,
    },
    "matches": {
        "count": _COUNT,
        "methods": [{"method": _TEXT, "count": _COUNT, "lowest_score": _NUMBER}],
        "listed": [
            {
                "method": _TEXT,
                "score": _NUMBER,
                "url": _Maybe(_TEXT),
                "content": _Maybe(_TEXT),
                "sample": _Maybe(_TEXT),
            }
        ],
    },
    "in_force": {
        "since": _TIME,
        "epoch": _COUNT,
        "key_id": _Maybe(_TEXT),
        "tokens": [{"kind": _TEXT, "count": _COUNT}],
        "tokens_sha256": _HEX,
    },
    "datasets": [
        {
            "dataset": _TEXT,
            "root": _HEX,
            "slots": _COUNT,
            "emptied": [_COUNT],
            "already_empty": [_COUNT],
            "generations": [
                {
                    "before": _GENERATION,
                    "after": _GENERATION,
                    "shards": [{"number": _COUNT, "emptied": [_COUNT], "before": _SHARD, "after": _SHARD}],
                }
            ],
        }
    ],
    "rows": [{"table": _TEXT, "rows": _COUNT, "erased_at": _TIME}],
    "steps": [
        {"part": _TEXT, "action": _TEXT, "subject": _TEXT, "before": _ANY, "after": _ANY, "done_at": _TIME},
    ],
    "checkpoints": [
        {
            "checkpoint": _TEXT,
            "run": _TEXT,
            "step": _COUNT,
            "state": _TEXT,
            "dataset_root": _Maybe(_HEX),
            "record_sha256": _Maybe(_HEX),
            "tier": _TEXT,
            "times_fed": _COUNT,
            "through": _TEXT,
            "became": _TEXT,
            "replaced_by": _Maybe(_TEXT),
            "since": _Maybe(_TIME),
        }
    ],
    "scan": {"outcome": _TEXT, "detail": _TEXT, "hits": _Maybe(_COUNT), "report": _ANY},
    "not_reached": [{"what": _TEXT, "detail": _TEXT, "until": _Maybe(_TIME)}],
    "ledger": {
        "seq": _COUNT,
        "chain": _HEX,
        "anchor": _Maybe({"seq": _COUNT, "chain": _HEX, "anchored_at": _TIME, "covers_erasure": _FLAG}),
        "erased_up_to": _COUNT,
    },
    "key": {"algorithm": _TEXT, "public_key": _HEX, "key_id": _TEXT},
}


def _misfits(field: str, value: object, kind: Any) -> Iterator[Problem]:
    """Where a value is not of a kind: a name above, [kind] for a list of such, or name -> kind for an object."""
    if isinstance(kind, _Maybe):
        if value is not None:
            yield from _misfits(field, value, kind.kind)
    elif isinstance(kind, Mapping):
        if not isinstance(value, Mapping):
            yield Problem(field or "body", "it is no object")
            return
        for name in sorted(kind.keys() ^ value.keys()):
            yield Problem(f"{field}.{name}".lstrip("."), "it is missing" if name in kind else "there is no such field")
        for name in kind.keys() & value.keys():
            yield from _misfits(f"{field}.{name}".lstrip("."), value[name], kind[name])
    elif isinstance(kind, list):
        if not isinstance(value, list | tuple):
            yield Problem(field, "it is no list")
            return
        for number, each in enumerate(value):
            yield from _misfits(f"{field}[{number}]", each, kind[0])
    elif not _KINDS[kind](value):
        yield Problem(field, f"it is no {kind}")


def _is_time(value: object) -> bool:
    return isinstance(value, str) and _time(value) is not None


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


_DIGITS: Final = frozenset("0123456789abcdef")
_KINDS: Final[Mapping[str, Callable[[object], bool]]] = {
    _TEXT: lambda value: isinstance(value, str),
    _COUNT: lambda value: type(value) is int and value >= 0,
    _FLAG: lambda value: isinstance(value, bool),
    _NUMBER: lambda value: type(value) in (int, float),
    _ANY: lambda value: True,
    _HEX: lambda value: isinstance(value, str) and len(value) == 64 and set(value) <= _DIGITS,
    _TIME: _is_time,
}


# ── what cannot be true ────────────────────────────────────────────────────────────────────────────────────────────


def _check_times(body: Mapping[str, Any]) -> Iterator[Problem]:
    request = body["request"]
    names = ("received_at", "decided_at", "applied_at")
    moments = [(f"request.{name}", datetime.fromisoformat(request[name])) for name in names]
    moments.append(("receipt.issued_at", datetime.fromisoformat(body["receipt"]["issued_at"])))
    for (_, before), (field, moment) in itertools.pairwise(moments):
        if moment < before:
            yield Problem(field, "it lies before what came before it")
    due = [by for extended in (False, True) if (by := _due(moments[0][1], request["regime"], extended)) is not None]
    if due and datetime.fromisoformat(request["due_at"]) not in due:
        yield Problem("request.due_at", f"by {request['regime']} it is {due[0].isoformat()}")
    if not request["approvers"]:
        yield Problem("request.approvers", "nobody approved")
    if not body["receipt"]["number"]:
        yield Problem("receipt.number", "receipts are counted from 1")
    if (body["receipt"]["number"] > 1) != (body["receipt"]["replaces"] is not None):
        yield Problem("receipt.replaces", "every receipt but the first names the one that it replaces")


def _due(received_at: datetime, regime: str, extended: bool) -> datetime | None:
    try:
        return due_at(received_at, regime, extended=extended)
    except CustodyError:
        return None  # a regime of the operator's own: nobody outside knows its days
    except (ValueError, OverflowError):
        return datetime.max.replace(tzinfo=UTC)  # a day that no calendar has: whatever it says, it is not due then


def _check_matches(body: Mapping[str, Any]) -> Iterator[Problem]:
    matches = body["matches"]
    if sum(each["count"] for each in matches["methods"]) != matches["count"]:
        yield Problem("matches.count", "it is not the sum of the methods' counts")
    if len(matches["listed"]) > matches["count"]:
        yield Problem("matches.listed", "more are listed than matched")
    emptied = sum(len(each["emptied"]) for each in body["datasets"])
    slots = sum(each["count"] for each in body["in_force"]["tokens"] if each["kind"] == "slot")
    if slots != emptied:
        yield Problem("in_force.tokens", f"{slots} slots are kept out, where {emptied} were emptied")


def _check_datasets(datasets: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    for number, dataset in enumerate(datasets):
        where, emptied = f"datasets[{number}]", dataset["emptied"]
        if len(set(emptied)) != len(emptied) or max(emptied, default=0) >= dataset["slots"]:
            yield Problem(f"{where}.emptied", "a slot stands there twice, or is none of the dataset's")
        left = [*dataset["already_empty"]]
        for at, change in enumerate(dataset["generations"]):
            left += [ordinal for shard in change["shards"] for ordinal in shard["emptied"]]
            yield from _check_change(f"{where}.generations[{at}]", change)
        if sorted(left) != sorted(emptied):
            yield Problem(f"{where}.emptied", "these are not the slots that the shards lost")


def _check_change(field: str, change: Mapping[str, Any]) -> Iterator[Problem]:
    before, after = change["before"], change["after"]
    if after["generation"] <= before["generation"] or after["shards"] != before["shards"]:
        yield Problem(f"{field}.after", "it does not follow the generation before it")
    for each, shard in enumerate(change["shards"]):
        where, old, new = f"{field}.shards[{each}]", shard["before"], shard["after"]
        for name, side, whole in (("before", old, before), ("after", new, after)):
            leaf = canonical_json({k: v for k, v in side.items() if k != "audit_path"}).encode()
            try:
                root = root_by_path(leaf, shard["number"], whole["shards"], side["audit_path"])
            except ValueError as error:
                yield Problem(f"{where}.{name}.audit_path", str(error))
                continue
            if root != whole["root"]:
                yield Problem(f"{where}.{name}", "the generation's root does not cover it")
        here = range(old["first_ordinal"], old["first_ordinal"] + old["slots"])
        if (new["first_ordinal"], new["slots"]) != (old["first_ordinal"], old["slots"]):
            yield Problem(f"{where}.after", "it has other slots than before")
        elif any(ordinal not in here for ordinal in shard["emptied"]):
            yield Problem(f"{where}.emptied", "a slot that is none of the shard's")
        elif old["live"] - new["live"] < len(shard["emptied"]):
            yield Problem(f"{where}.after", f"{old['live'] - new['live']} slots were emptied: fewer than are named")
        elif old["sha256"] == new["sha256"]:
            yield Problem(f"{where}.after", "its bytes are those of before")


def _check_checkpoints(checkpoints: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    for number, each in enumerate(checkpoints):
        field = f"checkpoints[{number}]"
        if each["tier"] == NEVER_SEEN and (each["times_fed"] or each["through"]):
            yield Problem(f"{field}.tier", "what was fed is not never seen")
        if each["tier"] == "direct" and not each["times_fed"]:
            yield Problem(f"{field}.times_fed", "what was seen directly was fed")


def _check_scan(scan: Mapping[str, Any]) -> Iterator[Problem]:
    hits = scan["hits"]
    if (scan["outcome"] == "clean" and hits != 0) or (hits and scan["outcome"] != "hits"):
        yield Problem("scan.outcome", f"it was {scan['outcome']}, with {hits} hits")


def _check_ledger(ledger: Mapping[str, Any]) -> Iterator[Problem]:
    if ledger["erased_up_to"] > ledger["seq"]:
        yield Problem("ledger.seq", "what was erased lies behind it")
    anchor = ledger["anchor"]
    if anchor is not None and anchor["covers_erasure"] != (anchor["seq"] >= ledger["erased_up_to"]):
        yield Problem("ledger.anchor", "whether it covers the erasure is not what the positions say")
