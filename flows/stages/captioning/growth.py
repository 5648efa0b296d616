"""Since when a caption bank may have better texts than those that were chosen from before.

Of a measured threshold its calibration says so, which is made anew when the ledger has grown. A threshold that
custody.toml sets has none: what the bank could be made of when pictures were asked is then kept beside the model's
cached embeddings.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from flows.home import Home, utc_now
from flows.stages.captioning.bank import phrase_files
from flows.stages.captioning.calibration import GROWTH
from flows.stages.captioning.models import CaptionerChoice
from policy.durable import write_durably

FILE = "offered.json"

_TEXTS = "SELECT count(alt) FROM occurrence"


@dataclass(frozen=True, slots=True)
class Offered:
    """Texts in the ledger, and bytes of the phrase lists. `since`: when they had grown to that, UTC without a zone;
    None: from the first.
    """

    texts: int
    phrase_bytes: int
    since: str | None = None

    def has_grown_since(self, known: Offered) -> bool:
        """By a tenth, or by any change of a phrase list, which somebody has made on purpose."""
        return self.phrase_bytes != known.phrase_bytes or self.texts - known.texts >= GROWTH * max(known.texts, 1)


def grown_at(home: Home, choice: CaptionerChoice) -> datetime | None:
    """Since when there are so many more texts that what this model deferred before should be asked again; None: there
    are not. Asked before anything is, so that a run that is killed goes on with the same answer.
    """
    path, offered = choice.cache / FILE, _offered(home)
    known = _read(path)
    if known is None or offered.has_grown_since(known):
        since = None if known is None else utc_now().replace(tzinfo=None).isoformat()
        known = Offered(offered.texts, offered.phrase_bytes, since)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, orjson.dumps(asdict(known)))
    return None if known.since is None else datetime.fromisoformat(known.since)


def _offered(home: Home) -> Offered:
    with home.ledger(readonly=True) as ledger:
        ((texts,),) = ledger.query(_TEXTS)
    return Offered(int(texts), sum(path.stat().st_size for path in phrase_files(home) if path.is_file()))


def _read(path: Path) -> Offered | None:
    """What was offered when the model was asked last; None where that is not known."""
    try:
        said: dict[str, Any] = orjson.loads(path.read_bytes())
        return Offered(**said)
    except (OSError, ValueError, TypeError):
        return None
