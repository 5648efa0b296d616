"""How easily a permission can be taken back, and that whatever is not known counts as easier."""

import itertools
import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.errors import IntegrityError
from policy.licence_words import NO_KNOWN_COPYRIGHT, PUBLIC_DOMAIN
from policy.provenance import ClassRange, DatasetManifest
from policy.revocability import REVOCABLE_FROM, Revocability, class_ranges, classes_of, of_licence, revocability
from policy.ruleset import Ruleset

MANIFEST = DatasetManifest("d", "0" * 64, 5, 64, "training", "r", "s", None, "2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC0-1.0", Revocability.DEDICATED),
        ("CC-PDM-1.0", Revocability.DEDICATED),
        (PUBLIC_DOMAIN, Revocability.DEDICATED),
        ("CC-BY-4.0", Revocability.LICENSED),
        ("CC-BY-SA-3.0-DE", Revocability.LICENSED),
        ("CC-BY-NC-2.0", Revocability.LICENSED),
        ("GFDL-1.2-or-later", Revocability.LICENSED),
        ("GFDL-1.1-only", Revocability.UNRESERVED),
        ("MIT", Revocability.UNRESERVED),
        (NO_KNOWN_COPYRIGHT, Revocability.UNRESERVED),
        ("LicenseRef-pexels", Revocability.UNRESERVED),
        ("cc0", Revocability.UNRESERVED),
        ("", Revocability.UNRESERVED),
        (None, Revocability.UNRESERVED),
        ("CC0-1.0 AND CC-BY-4.0", Revocability.LICENSED),
        ("CC0-1.0 AND LicenseRef-scancode-unsplash", Revocability.UNRESERVED),
    ],
)
def test_a_licence_gives_the_class_of_what_its_text_says_of_its_end(licence, expected):
    """A dedication, a licence that cannot be withdrawn, or one that does not say; of several the weakest."""
    assert of_licence(licence) == expected
    assert revocability(licence, granted=False, face=False) == expected


@pytest.mark.parametrize("licence", ["CC0-1.0", "CC-BY-4.0", None])
@pytest.mark.parametrize(("granted", "face"), [(True, False), (False, True), (False, None), (True, None)])
def test_a_grant_or_a_face_goes_before_any_licence(licence, granted, face):
    """What a grant alone allows may end with it; so may a picture with a face, or one that nobody looked at."""
    assert revocability(licence, granted=granted, face=face) == Revocability.CONSENTED


def test_every_licence_that_the_packaged_ruleset_allows_has_a_class():
    """None of the table's licences counts as consented by itself, and only free ones as not revocable."""
    licences = Ruleset.default().licence.table
    classes = {spdx: of_licence(spdx) for spdx in licences}
    assert Revocability.CONSENTED not in classes.values()
    permanent = {spdx for spdx, each in classes.items() if each < REVOCABLE_FROM}
    assert {spdx for spdx in licences if spdx.startswith("CC")} <= permanent
    assert "LicenseRef-rightsstatements-NoC-NC" not in permanent


@given(st.lists(st.sampled_from(list(Revocability)), max_size=40))
def test_ranges_say_of_every_slot_its_class(classes):
    """Ranges follow one another from the first slot to the last, and no two neighbours are of one class."""
    ranges = class_ranges(classes)
    assert [r.revocability for r in ranges for _ in range(r.start, r.stop)] == classes
    assert [r.start for r in ranges] == [0, *(r.stop for r in ranges)][: len(ranges)]
    assert all(a.revocability != b.revocability for a, b in itertools.pairwise(ranges))


def test_a_manifest_keeps_its_classes_and_an_old_one_has_none():
    """Written and read they are the same; a dataset that was sealed without is easiest to take back, all of it."""
    manifest = replace(MANIFEST, classes=(ClassRange(0, 0, 2), ClassRange(3, 2, 5)))
    assert DatasetManifest.from_json(manifest.to_json()) == manifest
    assert classes_of(manifest) == manifest.classes
    old = {name: value for name, value in asdict(MANIFEST).items() if name != "classes"}
    assert DatasetManifest.from_json(json.dumps({"version": 1, **old})) == MANIFEST
    assert classes_of(MANIFEST) == (ClassRange(3, 0, 5),)


@pytest.mark.parametrize(
    "classes",
    [
        [],
        [[0, 0, 4]],
        [[0, 0, 6]],
        [[0, 1, 5]],
        [[0, 0, 3], [1, 2, 5]],
        [[0, 0, 3], [1, 3, 3], [1, 3, 5]],
        [[4, 0, 5]],
        [[0, 0]],
        [[0, "0", 5]],
        7,
    ],
)
def test_classes_that_do_not_cover_the_slots_are_refused(classes):
    """A gap, an overlap, an empty range, an unknown class: IntegrityError that names the file."""
    if isinstance(classes, list):
        classes = [dict(zip(("revocability", "start", "stop"), each, strict=False)) for each in classes]
    text = json.dumps({"version": 1, **asdict(MANIFEST), "classes": classes})
    with pytest.raises(IntegrityError, match=r"dataset\.json"):
        DatasetManifest.from_json(text)
