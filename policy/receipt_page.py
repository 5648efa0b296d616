"""A receipt as a page that a person reads: one HTML file that loads nothing, runs nothing and shows all as text."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from policy.receipts import NEVER_SEEN, Receipt

_STYLE = """
body{font:16px/1.5 Georgia,serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin:2rem 0 .4rem;border-bottom:1px solid #bbb}
table{border-collapse:collapse;width:100%;font-size:.85rem}
td,th{text-align:left;vertical-align:top;padding:.25rem .6rem;border-bottom:1px solid #ddd}
code,.hex{font-family:monospace;font-size:.8rem;word-break:break-all}.bad{color:#a00}
"""
_SCANS = {
    "clean": "Everything in the home was searched for what was removed, in all its forms: nothing was found.",
    "hits": "Everything in the home was searched for what was removed, and SOMETHING WAS FOUND: see below.",
    "incomplete": "Nothing was found, and not everything could be read: see the places below.",
    "values-gone": "A search by value was not possible any more. What can still be checked by keyed tokens (rows, kept "
    "pictures, sealed slots) was, and holds nothing.",
    "not-asked": "No search was made.",
}


def receipt_page(receipt: Receipt) -> str:
    """The page: everything from the receipt is escaped, nothing is loaded from anywhere, no script runs."""
    body = receipt.body
    about, request, matches, scan = body["receipt"], body["request"], body["matches"], body["scan"]
    title = f"Receipt {about['number']} for {about['removal']}"
    seen = [each for each in body["checkpoints"] if each["tier"] != NEVER_SEEN]
    parts = [
        f"<h1>{_text(title)}</h1>",
        _facts(
            ("Issued", _moment(about["issued_at"])),
            ("Replaces", about["replaces"] or "no earlier receipt"),
            ("Custody", about["code_version"]),
        ),
        "<h2>What was asked</h2>",
        _facts(
            ("Kind, regime", f"{request['kind']}, {request['regime']}"),
            ("Named", f"{request['named_kind']}, as a keyed token: {request['named'] or 'nothing that is kept'}"),
            ("Received", _moment(request["received_at"])),
            ("Due", _moment(request["due_at"])),
            ("Approved", f"{_moment(request['decided_at'])}, by {request['approvers']}"),
            ("Carried through", _moment(request["applied_at"])),
        ),
        "<h2>What matched</h2>",
        f"<p>{matches['count']} matches. Values are not kept; a token says the same to whoever holds the key.</p>",
        _table(
            ("how", "matches", "lowest score"),
            ([m["method"], m["count"], m["lowest_score"]] for m in matches["methods"]),
        ),
        _table(
            ("how", "score", "tokens"),
            (
                [m["method"], m["score"], " ".join(filter(None, (m["url"], m["content"], m["sample"])))]
                for m in matches["listed"]
            ),
        ),
        "<h2>In force</h2>",
        f"<p>Since {_text(_moment(body['in_force']['since']))}, epoch {body['in_force']['epoch']}: nothing new may use "
        "it, and it may not come back.</p>",
        _table(("kept out by", "number"), ([t["kind"], t["count"]] for t in body["in_force"]["tokens"])),
        "<h2>What was done</h2>",
        *(_dataset(dataset) for dataset in body["datasets"]),
        _table(
            ("rows erased in", "rows", "when"),
            ([r["table"], r["rows"], _moment(r["erased_at"])] for r in body["rows"]),
        ),
        _table(
            ("part", "what", "to", "result", "when"),
            (
                [s["part"], s["action"], s["subject"], _said(s["after"]), _moment(s["done_at"])]
                for s in body["steps"]
            ),
        ),
        "<h2>Models</h2>",
        f"<p>{len(body['checkpoints']) - len(seen)} checkpoints never saw it, by the arithmetic of their orders.</p>",
        _table(
            ("checkpoint", "step", "saw it", "through", "what became of it", "replaced by"),
            (
                [c["checkpoint"], c["step"], f"{c['tier']}, {c['times_fed']} times", c["through"], c["became"],
                 c["replaced_by"] or ""]
                for c in seen
            ),
        ),
        "<h2>What is left</h2>",
        _found(scan["outcome"]),
        f"<p>{_text(scan['detail'])}</p>",
        f"<pre class=hex>{_text(json.dumps(scan['report'], indent=1, ensure_ascii=False))}</pre>",
        "<h2>What was not reached</h2>",
        _table(
            ("what", "why", "until"),
            ([n["what"], n["detail"], _moment(n["until"]) if n["until"] else ""] for n in body["not_reached"]),
        ),
        "<h2>How to check this</h2>",
        "<p>The JSON file beside this page is the receipt; this page only shows it. With nothing but that file and the "
        "operator's public key: <code>custody removal verify RECEIPT --public-key HEX</code></p>",
        _facts(
            ("sha256 of the JSON file", receipt.sha256),
            ("Public key (Ed25519)", body["key"]["public_key"]),
            ("Signature", receipt.signature),
            ("Ledger", f"batch {body['ledger']['seq']}, chain {body['ledger']['chain']}"),
            ("Anchored", _anchor(body["ledger"]["anchor"])),
        ),
    ]  # fmt: skip
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><meta name="robots" content="noindex">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>"
    )
    return head + "\n".join(parts) + "</body></html>\n"


def _dataset(dataset: Mapping[str, Any]) -> str:
    told = [
        f"<p>Dataset {_text(dataset['dataset'])}, root <span class=hex>{_text(dataset['root'])}</span>: "
        f"{len(dataset['emptied'])} of {dataset['slots']} slots are empty now.</p>"
    ]
    for change in dataset["generations"]:
        before, after = change["before"], change["after"]
        told.append(
            _table(
                ("shard", f"generation {before['generation']}, sha256", f"generation {after['generation']}, sha256"),
                ([s["before"]["path"], s["before"]["sha256"], s["after"]["sha256"]] for s in change["shards"]),
            )
        )
        told.append(_facts(("Root before", before["root"]), ("Root after", after["root"])))
    return "".join(told)


def _found(outcome: str) -> str:
    return f'<p class="{"bad" if outcome == "hits" else ""}">{_text(_SCANS.get(outcome, outcome))}</p>'


def _anchor(anchor: Mapping[str, Any] | None) -> str:
    if anchor is None:
        return "the chain has not been published anywhere"
    covers = "" if anchor["covers_erasure"] else ", which is before the erasure"
    return f"batch {anchor['seq']}, {_moment(anchor['anchored_at'])}{covers}"


def _facts(*facts: tuple[str, object]) -> str:
    rows = "".join(f"<tr><th>{_text(name)}</th><td class=hex>{_text(value)}</td></tr>" for name, value in facts)
    return f"<table>{rows}</table>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    told = "".join("<tr>" + "".join(f"<td class=hex>{_text(v)}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{_text(c)}</th>' for c in columns)}</tr>{told}</table>" if told else ""


def _said(after: object) -> str:
    if not isinstance(after, Mapping):
        return ""
    return ", ".join(f"{name}: {value}" for name, value in after.items())


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"


def _text(value: object) -> str:
    return html.escape(str(value))
