"""What every command at the prompt shares: its options, its home, its progress bar, and how groups are listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flows.terminal import Bar

if TYPE_CHECKING:
    from flows.home import Home

_Command = TypeVar("_Command", bound=Callable[..., Any])


def common(command: _Command) -> _Command:
    """--home and --json, which every command takes."""
    json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
    home_option = click.option(
        "--home",
        "home_path",
        type=click.Path(path_type=Path),
        envvar="CUSTODY_HOME",
        default=Path("."),
        show_default=True,
        help="The home to work in (or CUSTODY_HOME).",
    )
    return home_option(json_option(command))


def open_home(path: Path) -> Home:
    from flows.home import Home

    return Home.open(path)


class Commands(click.Group):
    """Commands in the order of the work, each with its whole first sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_sentence(command)) for name, command in self.commands.items()])


class Bars:
    """One bar after the other, named by the stage's note before the first colon."""

    def __init__(self) -> None:
        self._bars: dict[str, Bar] = {}

    def __call__(self, done: int, total: int, note: str = "") -> None:
        name, _, rest = note.partition(": ")
        self._bars.setdefault(name, Bar(name))(done, total, rest)


def progress_bar(as_json: bool) -> Callable[..., None]:
    from flows.terminal import silent

    return silent if as_json else Bars()


def _first_sentence(command: click.Command) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")
