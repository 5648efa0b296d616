"""A receipt speaks for itself: what was altered is named, and what cannot be true is not believed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.errors import InputError
from policy.inclusion import MerkleTree, root_by_path
from policy.keys import KeyRing
from policy.provenance import Generation, ShardManifest, canonical_json, merkle_root
from policy.receipts import Receipt, altered, digests_of, inconsistent, malformed, sign_receipt

KEYS = KeyRing(b"t" * 32, b"e" * 32, b"s" * 32)
OTHER = KeyRing(b"t" * 32, b"e" * 32, b"o" * 32)


def shard(number: int, live: int, sha: str) -> ShardManifest:
    return ShardManifest(f"shard-{number:06d}.tar", sha * 64, 10_240, "ab" * 32, number * 4, 4, live)


def proven(shards: tuple[ShardManifest, ...], number: int) -> dict[str, Any]:
    tree = MerkleTree(canonical_json(asdict(each)).encode() for each in shards)
    return {**asdict(shards[number]), "audit_path": list(tree.path(number))}


def a_body() -> dict[str, Any]:
    """What a receipt says of one sample that was in the second of three shards, and fed to one of two checkpoints."""
    old = tuple(shard(n, 4, "1") for n in range(3))
    new = (old[0], shard(1, 3, "2"), old[2])
    checkpoint = {
        **{"run": "run-1", "state": "exact", "dataset_root": "cd" * 32, "record_sha256": None, "through": ""},
        **{"replaced_by": None, "since": None},
    }
    return {
        "receipt": {
            **{"removal": "removal-1", "number": 1, "issued_at": "2026-11-29T12:00:00+00:00"},
            **{"code_version": "1.0", "replaces": None},
        },
        "request": {
            **{"kind": "erasure", "regime": "gdpr", "named_kind": "image_url", "named": "k1:aa", "approvers": 1},
            **{"received_at": "2026-11-02T10:00:00+00:00", "due_at": "2026-12-02T23:59:59+00:00"},
            **{"decided_at": "2026-11-03T10:00:00+00:00", "applied_at": "2026-11-29T11:59:00+00:00"},
        },
        "matches": {
            "count": 2,
            "methods": [{"method": "image_url", "count": 2, "lowest_score": 1.0}],
            "listed": [{"method": "image_url", "score": 1.0, "url": "k1:aa", "content": "k1:bb", "sample": None}],
        },
        "in_force": {
            **{"since": "2026-11-03T10:00:00+00:00", "epoch": 3, "key_id": "k1", "tokens_sha256": "12" * 32},
            "tokens": [{"kind": "slot", "count": 1}, {"kind": "url", "count": 1}],
        },
        "datasets": [
            {
                **{"dataset": "apples", "root": "cd" * 32, "slots": 12, "emptied": [5], "already_empty": []},
                "generations": [
                    {
                        "before": {"generation": 0, "root": Generation.root_of(old), "shards": 3},
                        "after": {"generation": 1, "root": Generation.root_of(new), "shards": 3},
                        "shards": [{"number": 1, "emptied": [5], "before": proven(old, 1), "after": proven(new, 1)}],
                    }
                ],
            }
        ],
        "rows": [{"table": "slot", "rows": 1, "erased_at": "2026-11-29T11:59:00+00:00"}],
        "steps": [
            {
                **{"part": "bytes", "action": "pixels-deleted", "subject": "pixels", "before": None},
                **{"after": {"pictures": 1}, "done_at": "2026-11-29T11:59:00+00:00"},
            }
        ],
        "checkpoints": [
            {"checkpoint": "run-1/1", "step": 1, "tier": "never seen", "times_fed": 0, "became": "stays", **checkpoint},
            {"checkpoint": "run-1/2", "step": 2, "tier": "direct", "times_fed": 2, "became": "open", **checkpoint},
        ],
        "scan": {"outcome": "clean", "detail": "", "hits": 0, "report": {"files": 3}},
        "not_reached": [{"what": "backups", "detail": "", "until": "2027-02-01T00:00:00+00:00"}],
        "ledger": {"seq": 90, "chain": "34" * 32, "anchor": None, "erased_up_to": 80},
    }


RECEIPT = sign_receipt(a_body(), KEYS)


def read(changed: Any) -> Receipt:
    return Receipt.read(json.dumps(changed).encode())


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all leaves; an empty list or object is one."""
    below = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for name, each in below:
        yield from leaves(each, (*path, name))
    if not below:
        yield path


def with_leaf(document: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    changed = copy.deepcopy(document)
    at = changed
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = change(at[path[-1]])
    return changed


DOCUMENT = json.loads(RECEIPT.to_text())
BODY_LEAVES = sorted(leaves(DOCUMENT["body"], ("body",)), key=str)


def test_a_receipt_that_nobody_touched_verifies_with_the_public_key_alone() -> None:
    """Read back from its text, whatever its layout, it is as it was signed, well-formed and consistent."""
    for text in (RECEIPT.to_text(), json.dumps(DOCUMENT, indent=2)):
        receipt = Receipt.read(text.encode())
        assert receipt == RECEIPT
        assert altered(receipt) == altered(receipt, KEYS.public_key) == ()
        assert malformed(receipt.body) == inconsistent(receipt.body) == ()
        assert receipt.to_text() == RECEIPT.to_text()


@given(path=st.sampled_from(BODY_LEAVES), value=st.one_of(st.none(), st.text(), st.integers(), st.booleans()))
@settings(max_examples=150, deadline=None)
def test_whatever_leaf_is_changed_its_field_is_named(path: tuple[Any, ...], value: Any) -> None:
    """One changed value anywhere in the body is found, and nothing but the field that holds it is named."""
    changed = with_leaf(DOCUMENT, path, lambda old: value if value != old or type(value) is not type(old) else [old])
    section, field = path[1], path[2]
    expected = f"{section}[{field}]" if isinstance(field, int) else f"{section}.{field}"
    for key in (None, KEYS.public_key):
        assert expected in {problem.field for problem in altered(read(changed), key)}
        named = {problem.field for problem in altered(read(changed), key)}
        assert named - {"signature"} == {expected}


@given(field=st.sampled_from(sorted(RECEIPT.digests)))
@settings(max_examples=30, deadline=None)
def test_an_altered_digest_is_named_as_such(field: str) -> None:
    """Where only the digest of a field was altered, the digest is named, not the field."""
    changed = with_leaf(DOCUMENT, ("digests", field), lambda old: "0" * 64)
    assert {problem.field for problem in altered(read(changed))} == {f"digests.{field}"}


def test_fields_that_were_added_or_left_out_are_named() -> None:
    """A section without one of its fields, a list with one item more: both are named."""
    body = copy.deepcopy(DOCUMENT)
    del body["body"]["request"]["due_at"]
    body["body"]["rows"].append({"table": "caption", "rows": 9, "erased_at": "2026-11-29T11:59:00+00:00"})
    found = {p.field: p.what for p in altered(read(body))}
    assert found == {"request.due_at": "it is missing", "rows[1]": "it was added"}
    assert {p.field for p in malformed(body["body"])} == {"request.due_at"}


def test_a_receipt_of_somebody_else_is_told_from_the_operators() -> None:
    """Altered and signed anew under another key it holds by itself, and not against the published key."""
    forged = sign_receipt({**a_body(), "rows": []}, OTHER)
    assert altered(forged) == ()
    assert [p.field for p in altered(forged, KEYS.public_key)] == ["key.public_key"]
    own_digests = {**DOCUMENT, "body": dict(forged.body), "digests": digests_of(forged.body)}
    assert {p.field for p in altered(read(own_digests))} == {"signature"}
    loud = {**DOCUMENT, "signature": DOCUMENT["signature"].upper()}
    assert [p.field for p in altered(read(loud))] == ["signature"]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"format": "custody-receipt"}', '{"format": "another", "version": 1}', '"\\ud800"',
        '{"format": "custody-receipt", "format": "custody-receipt"}', "NaN", "[" * 100_000,
        canonical_json({**DOCUMENT, "version": 2}), canonical_json({**DOCUMENT, "version": True}),
        canonical_json({**DOCUMENT, "body": []}), canonical_json({**DOCUMENT, "more": 1}),
        canonical_json({k: v for k, v in DOCUMENT.items() if k != "signature"}),
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_what_is_no_receipt_is_refused(text: str) -> None:
    """Bad input is one error that says what it is not, never a traceback."""
    with pytest.raises(InputError):
        Receipt.read(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("request", "due_at"), "2026-12-05T23:59:59+00:00", "request.due_at"),
        (("request", "decided_at"), "2026-10-01T00:00:00+00:00", "request.decided_at"),
        (("request", "approvers"), 0, "request.approvers"),
        (("receipt", "number"), 2, "receipt.replaces"),
        (("matches", "count"), 3, "matches.count"),
        (("datasets", 0, "emptied"), [6], "datasets[0].emptied"),
        (("datasets", 0, "emptied"), [5, 5], "datasets[0].emptied"),
        (("datasets", 0, "generations", 0, "after", "root"), "0" * 64, "datasets[0].generations[0].shards[0].after"),
        (("datasets", 0, "generations", 0, "after", "generation"), 0, "datasets[0].generations[0].after"),
        (("datasets", 0, "generations", 0, "shards", 0, "after", "live"), 4, "datasets[0].generations[0].shards[0]"),
        (("datasets", 0, "generations", 0, "shards", 0, "before", "sha256"), "0" * 64, "datasets[0].generations[0]"),
        (("datasets", 0, "generations", 0, "shards", 0, "number"), 0, "datasets[0].generations[0].shards[0].before"),
        (("checkpoints", 0, "times_fed"), 1, "checkpoints[0].tier"),
        (("checkpoints", 1, "times_fed"), 0, "checkpoints[1].times_fed"),
        (("scan", "hits"), 1, "scan.outcome"),
        (("ledger", "erased_up_to"), 91, "ledger.seq"),
    ],
)
def test_what_cannot_be_true_is_named_whoever_signed_it(path: tuple[Any, ...], value: Any, named: str) -> None:
    """An operator's own false arithmetic is found: roots, counts, deadlines, claims."""
    receipt = sign_receipt(with_leaf(a_body(), path, lambda old: value), KEYS)
    assert altered(receipt, KEYS.public_key) == ()
    assert any(problem.field.startswith(named) for problem in inconsistent(receipt.body))


@given(leaves=st.lists(st.binary(max_size=4), min_size=1, max_size=40), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_path_leads_from_its_leaf_to_the_root_and_from_no_other(leaves: list[bytes], data: st.DataObject) -> None:
    """RFC 6962's audit paths: of every leaf of a tree of any size, and of that leaf at that place alone."""
    tree, at = MerkleTree(leaves), data.draw(st.integers(0, len(leaves) - 1))
    path = tree.path(at)
    assert tree.root == merkle_root(leaves) == root_by_path(leaves[at], at, len(leaves), path)
    assert root_by_path(leaves[at] + b"x", at, len(leaves), path) != tree.root
    for wrong in (path[:-1], (*path, "00" * 32)):
        if wrong != path:
            with pytest.raises(ValueError, match="the path is too"):
                root_by_path(leaves[at], at, len(leaves), wrong)
