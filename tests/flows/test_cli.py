"""The command line as a person and a script meet it: help, streams, exit codes, and a light start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from flows.cli import _explained, cli
from flows.home import Home
from flows.settings import DEFAULT_TEXT
from flows.steps import StepFailedError, _discreet
from flows.terminal import counted, escape, plain, print_json, print_table
from tests.builders import replaced

WORK = ("init", "demo", "crawl", "decide", "caption", "seal", "train", "sample", "why", "trace", "audit")


@pytest.fixture
def home(tmp_path: Path, fresh_home: Callable[..., Home]) -> Home:
    """An empty home."""
    return fresh_home(tmp_path / "home")


def run(*arguments: str | Path) -> Result:
    """A command in this process, through the console script's own door."""
    return CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="custody")


def custody(*arguments: str | Path) -> subprocess.Popen[str]:
    """The console script as a process of its own, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *(str(a) for a in arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Unbuffered, Python drops the rest of a write that a reader's leaving cut short, and tells nobody.
        env={k: v for k, v in os.environ.items() if k not in ("CUSTODY_HOME", "PYTHONUNBUFFERED")},
    )


# ── help ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_help_lists_the_commands_in_the_order_of_the_work_and_cuts_nothing_off() -> None:
    """Who types `custody --help` reads whole sentences, beginning with what comes first."""
    shown = run("--help").stdout
    places = [shown.index(f"\n  {name} ") for name in WORK]
    assert places == sorted(places)
    for command in ((), ("removal",), ("inspect",), ("policy",)):
        assert "..." not in run(*command, "--help").stdout.replace("[ARGS]...", "")


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += _commands(command, (*path, name))
        else:
            found.append(((*path, name), command))
    return found


def test_every_command_takes_home_and_json_and_explains_every_option() -> None:
    """--home and --json are everywhere, and no visible option is without a word."""
    for path, command in _commands(cli):
        options = {p.name: p for p in command.params if isinstance(p, click.Option)}
        assert {"home_path", "as_json"} <= options.keys(), path
        assert command.help, path
        for option in options.values():
            assert option.help or option.hidden, (path, option.name)


@pytest.mark.parametrize(
    "arguments", [("bogus",), ("why",), ("removal", "bogus"), ("train",), ("sample", "x", "--step", "y")]
)
def test_wrong_use_is_exit_2_on_standard_error(arguments: tuple[str, ...]) -> None:
    """Unknown commands, missing arguments and wrong types are told on standard error, with the way to the help."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: custody" in result.stderr


# ── streams ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "command",
    [
        ("decide",),
        ("verify",),
        ("compact",),
        ("removal", "list"),
        ("removal", "add", "--domain", "example.org"),
        ("audit",),
        ("audit", "origins"),
        ("sql", "SELECT 1 AS a, 2 AS a, 'nan'::DOUBLE AS b, TIMESTAMP '2026-01-02 03:04:05' AS c, '\u00e9\u202e' AS d"),
        ("policy", "check"),
        ("why", "https://example.org/"),
        ("trace", "https://example.org/"),
    ],
)
def test_json_is_one_document_and_all_of_standard_output(home: Home, command: tuple[str, ...]) -> None:
    """With --json standard output is one JSON document by the strictest reading, and standard error is still."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    result = run(*command, "--home", home.path, "--json")
    assert result.exit_code == (1 if command[0] in ("why", "trace") else 0), result.stderr
    assert result.stdout.count("\n") == 1
    said = json.loads(result.stdout, parse_constant=refuse)
    assert result.stderr == ""
    if command[0] == "sql":
        assert said == [{"a": 1, "a_1": 2, "b": None, "c": "2026-01-02T03:04:05Z", "d": "\u00e9\u202e"}]


def test_answers_go_to_standard_output_and_hints_to_standard_error(home: Home) -> None:
    """What was asked for can be piped; progress and what to do next stay at the prompt."""
    verified = run("verify", "--home", home.path)
    assert verified.stdout == "Everything verifies.\n"
    assert "verify" in verified.stderr
    added = run("removal", "add", "--domain", "example.org", "--home", home.path)
    assert added.stdout.startswith("Removal removal-")
    assert "0 matches, 0 slots in sealed datasets" in added.stdout
    counted_rows = run("sql", "SELECT 1 AS one", "--home", home.path)
    assert "one" in counted_rows.stdout
    assert counted_rows.stderr == "1 row\n"


def test_a_reader_that_leaves_ends_the_command_in_silence(home: Home) -> None:
    """`custody … | head -1`: no message, no traceback, as table, as rows and as JSON."""
    wide = "SELECT range AS n, repeat('x', 200) AS x FROM range(1000)"
    for extra in ([], ["--json"]):
        with custody("sql", wide, "--home", home.path, *extra) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(10)
            process.stdout.close()
            assert process.stderr.read() == ""
        assert process.returncode == 0


def test_ctrl_c_is_one_line(home: Home) -> None:
    """An interrupted crawl says how to go on, exit 130, and the crawl is there to be gone on with."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        home.settings_path.write_text(
            replaced(DEFAULT_TEXT, {"allow_addresses = []": f'allow_addresses = ["{address}"]'})
        )
        with custody("crawl", f"http://{address}/", "--home", home.path) as process:
            listener.settimeout(60)
            connection, _ = listener.accept()  # it has asked, and will wait for the answer
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
            connection.close()
    assert (process.returncode, out) == (130, ""), err
    assert err.splitlines()[-1].startswith("custody: interrupted. Run the same command again")
    assert "Traceback" not in err
    assert len(list(home.crawls_path.glob("*/plan.json"))) == 1


def test_an_interrupt_in_a_query_is_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    """DuckDB makes an error of its own of it, which ends as any other Ctrl-C; another error stays what it is."""
    with pytest.raises(SystemExit) as ended, _explained():
        _raised(RuntimeError("Query interrupted"), KeyboardInterrupt())
    assert ended.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("custody: interrupted.")
    with pytest.raises(RuntimeError, match="another one"), _explained():
        raise RuntimeError("another one")
    with pytest.raises(StepFailedError):
        _discreet(lambda: _raised(RuntimeError("another one"), ValueError()))()
    with pytest.raises(KeyboardInterrupt):
        _discreet(lambda: _raised(RuntimeError("Query interrupted"), KeyboardInterrupt()))()


def _raised(error: Exception, cause: BaseException) -> None:
    raise error from cause


def test_the_home_is_found_by_option_environment_and_folder(home: Home) -> None:
    """--home wins over CUSTODY_HOME, which wins over the current directory; an empty folder says what it lacks."""
    nowhere = home.path.parent / "nowhere"
    nowhere.mkdir()
    command = [sys.executable, "-m", "flows.cli", "removal", "list", "--json"]
    environment = {k: v for k, v in os.environ.items() if k != "CUSTODY_HOME"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])

    def status(*extra: str, **env: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [*command, *extra], cwd=nowhere, env=environment | env, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    code, out, err = status()
    assert (code, out) == (2, "")
    assert err == (
        f"custody: {nowhere}: is not a home (no custody.toml and ledger.duckdb in it). Make one with "
        "`custody init --home DIR`, or name yours with --home or CUSTODY_HOME\n"
    )
    assert status(CUSTODY_HOME=str(home.path))[:2] == (0, "[]\n")
    assert status("--home", str(home.path), CUSTODY_HOME=str(nowhere))[:2] == (0, "[]\n")
    assert list(nowhere.iterdir()) == []


# ── a light start ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "command", [("why", "https://example.org/"), ("audit", "origins"), ("sql", "SELECT 1"), ("removal", "list")]
)
def test_questions_do_not_wait_for_models(home: Home, command: tuple[str, ...]) -> None:
    """Who asks the ledger does not import torch, onnxruntime, Prefect or the trainer."""
    heavy = ("torch", "open_clip", "transformers", "onnxruntime", "prefect", "scipy", "training")
    script = (
        "import sys\nfrom flows.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command, "--home", str(home.path), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == "[]"


# ── what is printed ────────────────────────────────────────────────────────────────────────────────────────────────


def test_text_is_escaped_for_the_terminal_and_letters_stay() -> None:
    """Control, format, private and unassigned characters are shown as escapes; every script's letters are not."""
    assert escape("a\x1b[2J\u202e\u2066\x9b\x00\ue000\n\u2028b") == (
        "a\\u001b[2J\\u202e\\u2066\\u009b\\u0000\\ue000\\u000a\\u2028b"
    )
    kept = "naïve 赤いりんご яблоко 🍎 [bold]x[/]"
    assert escape(kept) == kept


def test_a_long_answer_is_shown_in_part_and_says_so(home: Home) -> None:
    """A thousand rows are drawn; that there are more, and where, is told."""
    result = run("sql", "SELECT range AS n FROM range(1500)", "--home", home.path)
    assert result.stderr == "1,500 rows, of which 1,000 are shown (--json has all)\n"
    assert " 999 " in result.stdout
    assert " 1000 " not in result.stdout


def test_numbers_come_with_their_noun() -> None:
    """One is one."""
    assert counted(2, "match", "matches") == "2 matches"
    assert [counted(n, "row") for n in (0, 1, 2, 1234)] == ["0 rows", "1 row", "2 rows", "1,234 rows"]


def test_values_become_json_that_every_reader_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """Times in ISO 8601, bytes in hex, no NaN, and half a surrogate pair as an escape."""
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert plain((moment, moment.replace(tzinfo=None), b"\xff", float("inf"), {1: None}, Path("x"))) == [
        "2026-01-02T03:04:05+00:00",
        "2026-01-02T03:04:05Z",
        "ff",
        None,
        {"1": None},
        "x",
    ]
    print_json({"a": "\ud800 é"})
    assert capsys.readouterr().out == '{"a": "\\ud800 \\u00e9"}\n'


def test_tables_show_text_as_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No markup is read out of a cell or a heading, times end at the second, and wide rows become blocks."""
    monkeypatch.setenv("COLUMNS", "80")
    row = ("[red]x[/]", datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), None, 0.5)
    print_table(("[a]", "b", "c", "d"), [row])
    shown = capsys.readouterr().out
    assert "[red]x[/]" in shown
    assert "[a]" in shown
    assert "2026-01-02 03:04:05 " in shown
    assert "None" not in shown
    print_table(tuple(f"column {n}" for n in range(12)), [("\x1b",) * 12])
    assert "column 11            \\u001b\n" in capsys.readouterr().out
