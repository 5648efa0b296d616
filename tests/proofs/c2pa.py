"""Every byte of two signed pictures edited in three ways: no edit of a C2PA "no" permits or silences it.

    make prove PROOF=c2pa

One picture says notAllowed, another allowed by a signer who is trusted. Each position is flipped, deleted, and made the
file's end; the result is read and judged as the crawler does. A "no" must stay a deny or a defer wherever it is hit. A
trusted "allowed" may stay one only while the library still finds every signed byte as it was. The test suite does the
same at fewer positions (tests/policy/test_fail_closed.py). Interrupted, the proof goes on; .proofs/c2pa can be deleted.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from policy.durable import write_durably
from policy.signals.c2pa import C2paRules, judge_c2pa, read_c2pa
from policy.signals.embedded import read_embedded
from policy.verdict import Verdict
from tests.builders import ROOT
from tests.policy.test_c2pa import BARE, GENERATIVE_YES, TRAINING_NO, make_signer, signed

FOLDER = ROOT / ".proofs" / "c2pa"
RESULTS = ROOT / "docs" / "proofs.md"
LENIENT = C2paRules("defer")  # what is unreadable waits: so that a deny can only be the "no" itself
STEP = 500


def edits(body: bytes, at: int) -> Iterator[tuple[str, bytes]]:
    """The three edits of a position."""
    yield "flipped", body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :]
    yield "deleted", body[:at] + body[at + 1 :]
    yield "cut off", body[:at]


def judge(body: bytes, anchors: str) -> Verdict | None:
    """As a crawl reads a picture and a decide judges it."""
    seen = replace(BARE, embedded=read_embedded(body), c2pa=read_c2pa(body, anchors))
    return judge_c2pa(seen, LENIENT).verdict


def main() -> int:
    """Run what is left of the proof; 1 where an edit permitted or silenced a no."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    signer = make_signer()
    began, counts, failures = time.monotonic(), Counter[str](), []
    for name, data in (("no", TRAINING_NO), ("trusted yes", GENERATIVE_YES)):
        body = signed(signer, data)
        assert judge(body, signer.root) is (Verdict.DENY if name == "no" else Verdict.ALLOW)
        state = FOLDER / f"{name.replace(' ', '-')}.json"
        done, before = json.loads(state.read_text()) if state.is_file() else (0, {})
        counts.update(before)
        for at in range(done, len(body)):
            for edit, changed in edits(body, at):
                verdict = judge(changed, signer.root)
                counts[f"{name}, {verdict.value if verdict else 'unset'}"] += 1
                if name == "no" and verdict not in (Verdict.DENY, Verdict.DEFER):
                    failures.append(f"{edit} at {at} of {len(body)}: {verdict}")
            if at % STEP == STEP - 1:
                ours = {what: count for what, count in counts.items() if what.startswith(name)}
                write_durably(state, json.dumps([at + 1, ours]).encode())
        state.unlink(missing_ok=True)
    found = "; ".join(f"{what}: {count:,}" for what, count in sorted(counts.items()))
    text = (
        f"\n## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: c2pa\n{sum(counts.values()):,} edits at every byte, "
        f"{time.monotonic() - began:.0f} s. {found}. A no that an edit permitted or silenced: {len(failures)}.\n"
    )
    sys.stdout.write(text + "".join(f"{line}\n" for line in failures[:20]))
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(text + "".join(f"* {line}\n" for line in failures[:20]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
