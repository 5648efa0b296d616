"""A reviewer at the prompt: each match is shown, and answered for with yes, no or not now."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.terminal import answer, counted, escape
from policy.errors import InputError

if TYPE_CHECKING:
    from flows.stages.removing.reviewing import Item
    from policy.removal_matches import Answer

MAX_REQUESTER_CHARS = 10_000
_SHOWN = 10  # occurrences of one match

Answers = dict[str, tuple["Answer", str]]


def ask_each(items: Sequence[Item], read: Callable[[str], str], *, sheet: str) -> Answers:
    """Show what nobody has answered for yet, one by one, and collect the answers; the rest is left open.

    `read`: puts a question and returns what was typed; EOFError ends it, and what was answered until then counts.
    `sheet`: the command that draws the pictures.
    """
    answers: Answers = {}
    waiting = [item for item in items if item.is_open]
    for number, item in enumerate(waiting, 1):
        answer(f"\n{number} of {len(waiting)}")
        for line in described(item, sheet=sheet):
            answer(line)
        try:
            said = _one_of(read, "Take it out? [y]es, [n]o, [s]kip, [q]uit: ", "ynsq")
            if said == "q":
                break
            if said == "y":
                answers[item.group] = ("approve", read("Why (may be empty): ").strip())
            elif said == "n":
                answers[item.group] = ("reject", _something(read, "Why not: "))
        except EOFError:
            break
    return answers


def described(item: Item, *, sheet: str = "") -> list[str]:
    """What a reviewer reads of a match."""
    lines = [f"  {item.group}: {item.state}, {item.method}, score {item.score:g}, {counted(item.samples, 'sample')}"]
    for place in item.occurrences[:_SHOWN]:
        words = f' "{escape(place.alt)}"' if place.alt else ""
        lines.append(f"    {escape(place.image_url or place.pair_key)} on {escape(place.page_url or '-')}{words}")
    if len(item.occurrences) > _SHOWN:
        lines.append(f"    and {len(item.occurrences) - _SHOWN} more")
    if item.alike:
        lines.append(f"    {counted(len(item.alike), 'content')} verified to show the same")
    if item.has_pixels and sheet:
        lines.append(f"    its picture: {sheet}")
    return lines


def require_terminal() -> None:
    """Raise InputError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise InputError(
            "there is nobody to ask: standard input is no terminal",
            where="custody removal review",
            remedy="Answer with --accept KEY, --reject KEY or --accept-all; --json lists the keys",
        )


def read_requester(text: str | None, file: Path | None) -> str | None:
    """Who asks, as it was given: in words, by "-" from standard input, or in a file. Raises InputError."""
    if text is not None and file is not None:
        raise InputError("give --requester or --requester-file", where="custody removal add")
    try:
        if file is not None:
            text = file.read_text("utf-8")
        elif text == "-":
            text = sys.stdin.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", where="--requester") from error
    if text is None:
        return None
    if not text.strip() or len(text) > MAX_REQUESTER_CHARS:
        raise InputError(f"nobody, or more than {MAX_REQUESTER_CHARS:,} characters", where="--requester")
    return text.strip()


def _one_of(read: Callable[[str], str], question: str, letters: str) -> str:
    while not (said := read(question).strip().lower()[:1]) or said not in letters:
        pass
    return said


def _something(read: Callable[[str], str], question: str) -> str:
    while not (said := read(question).strip()):
        pass
    return said
