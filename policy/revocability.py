"""How easily a sample's permission can be taken back, by what is known when it is sealed.

Four classes, in order; slots are laid out by them, so that a class is a range of ordinals, and a training may feed
last what is most likely to be asked out of it again (training/curriculum.py). A class is no verdict and no promise:
a removal reaches every sample, and whatever is not known for sure counts as easier to take back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from enum import IntEnum
from functools import lru_cache
from itertools import groupby
from typing import Final

from policy.licence_words import PUBLIC_DOMAIN, US_GOVERNMENT, creative_commons
from policy.provenance import ClassRange, DatasetManifest


class Revocability(IntEnum):
    """The classes, from what can hardly be taken back to what may end by itself."""

    DEDICATED = 0  # in the public domain or dedicated to it, and no face
    LICENSED = 1  # under a licence that cannot be withdrawn, and no face
    UNRESERVED = 2  # by the absence of a reservation, or on terms that do not say how long: reserved tomorrow
    CONSENTED = 3  # by a grant or consent, which can end; or a face, blurred ones too, or nobody looked for one

    @property
    def words(self) -> str:
        """The class in a reader's words."""
        return _WORDS[self]


_WORDS: Final = {
    Revocability.DEDICATED: "in the public domain",
    Revocability.LICENSED: "under a licence that stays",
    Revocability.UNRESERVED: "until somebody reserves it",
    Revocability.CONSENTED: "by a consent, or with a face",
}

# The first class whose permission is likely to end while a model lives.
REVOCABLE_FROM: Final = Revocability.UNRESERVED

# CC0 1.0 section 2 and PDDL 1.0 section 3.1 waive for good; the marks and statutes say that nothing is left to waive.
# Not here: "no known copyright restrictions", which an institution corrects when it learns more.
_DEDICATED: Final = frozenset(
    {"CC0-1.0", "CC-PDM-1.0", "CC-PDDC", "PDDL-1.0", "Unlicense", PUBLIC_DOMAIN, US_GOVERNMENT}
)
# Beside Creative Commons' six kinds (4.0 section 2(a)(1): "irrevocable"; before, section 7(b): new terms "will not
# serve to withdraw this License"): what says of itself that it is perpetual, unlimited in duration or irrevocable.
_LASTING: Final = frozenset(
    {"Apache-2.0", "ODbL-1.0", "ODC-By-1.0", "OGL-UK-1.0", "OGL-UK-2.0", "OGL-UK-3.0"}
    | {f"{name}-{how}" for name in ("GPL-3.0", "AGPL-3.0", "LGPL-3.0") for how in ("only", "or-later")}
    | {f"GFDL-{version}-{how}" for version in ("1.2", "1.3") for how in ("only", "or-later")}
)


@lru_cache(maxsize=4_096)
def of_licence(licence: str | None) -> Revocability:
    """The class that a licence alone gives: an SPDX id, several with " AND ", None where none is known.

    Of licences that hold together, that of the one that is easiest to take back.
    """
    if not licence:
        return Revocability.UNRESERVED
    if " AND " in licence:
        return max(of_licence(part) for part in licence.split(" AND "))
    if licence in _DEDICATED:
        return Revocability.DEDICATED
    if licence in _LASTING or creative_commons(licence) is not None:
        return Revocability.LICENSED
    return Revocability.UNRESERVED


def revocability(licence: str | None, *, granted: bool, face: bool | None) -> Revocability:
    """The class of one permission.

    licence: what the licence rule allowed it under. granted: some rule allowed it by a grant alone. face: whether
    there is one, blurred or not, in the picture as it was found; None: nobody looked.
    """
    if granted or face is not False:
        return Revocability.CONSENTED
    return of_licence(licence)


def class_ranges(classes: Iterable[int]) -> tuple[ClassRange, ...]:
    """The ranges of equal classes, given the class of every slot in order."""
    ranges: list[ClassRange] = []
    start = 0
    for each, same in groupby(classes):
        stop = start + sum(1 for _ in same)
        ranges.append(ClassRange(int(each), start, stop))
        start = stop
    return tuple(ranges)


def classes_json(ranges: Sequence[ClassRange]) -> str:
    """What the ledger's `dataset.classes_json` holds: [class, start, stop] of every range."""
    return json.dumps([astuple(each) for each in ranges])


def classes_from_json(text: str | None) -> tuple[ClassRange, ...] | None:
    """The ranges out of the ledger; None for a dataset that was sealed before slots had classes."""
    return None if text is None else tuple(ClassRange(*each) for each in json.loads(text))


def classes_of(manifest: DatasetManifest) -> tuple[ClassRange, ...]:
    """A dataset's ranges; one that was sealed without classes is all of the class that is easiest to take back."""
    if manifest.classes is None:
        return (ClassRange(Revocability.CONSENTED, 0, manifest.slots),)
    return manifest.classes
