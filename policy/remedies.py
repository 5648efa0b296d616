"""What would change a verdict: for every reason that keeps a sample out, who could do what.

`custody why` says it beside the reason. The longest beginning of a code that is listed here speaks for it.
"""

from __future__ import annotations

from collections.abc import Mapping

_SOURCE = "the source takes it back, and the next recheck sees that"
_RIGHTS = "a grant of the rights holder covers it (custody grant add)"
_OPERATOR = "a grant of the site's operator covers it (custody grant add)"
_AGAIN = "it is observed again: custody look, custody crawl --retry unobserved, custody recheck, or its page anew"
_CAPTIONED = "custody caption finds a caption that is sure enough"

_MENDED = "the site mends what cannot be read, and the next recheck sees that"
_ANSWERS = "the site answers again"
_WHOLE = "the source puts a file that can be read in its place"

# Beginning of a code -> what would change it; several ways are joined by "or".
REMEDIES: Mapping[str, tuple[str, ...]] = {
    "": (_SOURCE, _RIGHTS),
    "not-observed": (_AGAIN,),
    "not-asked": ("policy.toml names the mechanism again",),
    "evidence-stale": (_AGAIN,),
    "evidence-incomplete": (_AGAIN,),
    "fetch-failed": ("the picture can be fetched at a later crawl",),
    "mechanism-not-built": ("a version that reads it, or policy.toml without the mechanism",),
    "robots-": (_SOURCE, _OPERATOR),
    "robots-forbidden": ("the site shows its robots.txt", "robots.forbidden_status of policy.toml is changed"),
    "robots-unreachable": ("the site answers for its robots.txt again",),
    "robots-unreadable": ("the site answers with a robots.txt that can be read",),
    "robots-bad-encoding": ("the site answers with a robots.txt that can be read",),
    "robots-too-large": ("the site's robots.txt becomes shorter", "robots.max_bytes of policy.toml is raised"),
    "ai-agents-": (_SOURCE, _RIGHTS, "ai_agents.honour of policy.toml is changed"),
    "tdmrep-": (_SOURCE, _RIGHTS),
    "tdmrep-invalid": ("the site mends its tdmrep.json",),
    "tdmrep-unreachable": ("the site answers again",),
    "tdmrep-forbidden": ("the site shows its tdmrep.json",),
    "content-usage-unreadable": (_MENDED,),
    "content-signal-damaged": (_MENDED,),
    "ai-txt-unreachable": (_ANSWERS,),
    "ai-txt-unreadable": (_MENDED,),
    "ai-txt-bad-encoding": (_MENDED,),
    "ai-txt-too-large": (_MENDED,),
    "trust-txt-unreachable": (_ANSWERS,),
    "trust-txt-unreadable": (_MENDED,),
    "trust-txt-bad-encoding": (_MENDED,),
    "trust-txt-too-large": (_MENDED,),
    "tdmrep-unreadable": (_MENDED,),
    "tdmrep-damaged": (_MENDED,),
    "tdmrep-too-large": (_MENDED,),
    "rsl-missing": ("the licence document that is declared is put in its place",),
    "rsl-unreadable": (_MENDED,),
    "rsl-unreachable": (_ANSWERS,),
    "rsl-too-large": (_MENDED,),
    "x-robots-damaged": (_MENDED,),
    "xmp-damaged": (_WHOLE, "xmp.damaged of policy.toml is changed"),
    "xmp-unknown-value": (_WHOLE,),
    "c2pa-unreadable": (_WHOLE, "c2pa.damaged of policy.toml is changed"),
    "c2pa-changed": (_WHOLE, "c2pa.damaged of policy.toml is changed"),
    "c2pa-remote": ("the manifest is put into the file", "c2pa.damaged of policy.toml is changed"),
    "c2pa-unknown-word": (_WHOLE,),
    "licence-unreadable": (_MENDED,),
    "rsl-": ("the licence document permits training freely", _RIGHTS),
    "x-robots-": (_SOURCE, _RIGHTS),
    "x-robots-noindex": (_SOURCE, _RIGHTS, "x_robots.index_family of policy.toml is changed"),
    "x-robots-noimageindex": (_SOURCE, _RIGHTS, "x_robots.index_family of policy.toml is changed"),
    "x-robots-none": (_SOURCE, _RIGHTS, "x_robots.index_family of policy.toml is changed"),
    "xmp-": (_RIGHTS, "the source puts a file without the reservation in its place"),
    "c2pa-": (_RIGHTS, "the source puts a file without the reservation in its place"),
    "registry-": ("the list's next edition leaves it out (custody policy import)",),
    "registry-missing": ("the list is imported (custody policy import)",),
    "registry-overdue": ("a newer edition of the list is imported (custody policy import)",),
    "licence-": (
        "the source states another licence, and the next recheck sees that",
        _RIGHTS,
        "purpose or licence.table of policy.toml is changed",
    ),
    "licence-unknown": ("the source states a licence, and the next recheck sees that", _RIGHTS),
    "licence-share-alike": (_RIGHTS, "policy.toml undertakes share-alike (licence.share_alike)"),
    "licence-reserved": (_RIGHTS,),
    "licence-no-derivatives": (_RIGHTS, "faces.mode of policy.toml is changed, and the page crawled again"),
    "licence-conflict": ("a person looks: a grant of the rights holder settles it (custody grant add)",),
    "face-": ("a grant of the depicted person covers it (custody grant add)", "faces.mode of policy.toml is changed"),
    "too-": ("the bounds under [size] of policy.toml are changed",),
    **dict.fromkeys(
        ("too-plain", "too-flat", "too-blurred", "screenshot"),
        ("the bounds under [quality] of policy.toml are changed",),
    ),
    "nsfw": ("safety.max_nsfw of policy.toml is changed",),
    "nsfw-unsure": ("safety.defer_nsfw of policy.toml is changed",),
    "duplicate": ("the picture that stands for it goes, and custody look is run", "duplicate.near is changed"),
    "duplicate-reserved": (_RIGHTS, "the other picture's source puts a file without the reservation in its place"),
    "caption-": (_CAPTIONED, "the page gets an alt text"),
    **dict.fromkeys(
        (
            *("text-file-name", "text-boilerplate", "text-keywords", "text-too-long", "text-language"),
            *("text-disagrees", "text-read-off"),
        ),
        (_CAPTIONED, "the page gets another alt text", "the keys under [text] of policy.toml are changed"),
    ),
    "text-": ("the page gets another alt text", "the keys under [text] of policy.toml are changed"),
    "tombstoned": ("nothing: a removal is final",),
    "tombstoned-copy": ("somebody finds it to be another picture (custody removal release)",),
    "near-tombstoned": (
        "somebody has looked and finds it to be another picture (custody removal release), and it is crawled again",
    ),
    "objected": ("whoever objected takes it back (custody removal lift)",),
    "objection-lifted": (_SOURCE,),
    "removal-held": ("the removal request is decided (custody removal approve, or reject)",),
}


def what_would_change(code: str) -> str:
    """In words, what would change the verdict of a reason: "when A, or when B"."""
    beginnings = (code[:end] for end in range(len(code), -1, -1))
    ways = next(REMEDIES[beginning] for beginning in beginnings if beginning in REMEDIES)
    return ", or ".join(ways)
