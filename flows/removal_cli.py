"""`custody removal …`: requests for removal at the prompt."""

from __future__ import annotations

import dataclasses
import sys
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from flows.commands import Commands, common, open_home, progress_bar
from flows.terminal import answer, counted, escape, print_json, print_table, say
from policy.errors import InputError

if TYPE_CHECKING:
    from flows.stages.removing.scanning import ScanReport


@click.group(cls=Commands)
def removal() -> None:
    """Requests for removal, from arrival to being carried through."""


_NAMINGS = ("url", "domain", "sha256", "key", "picture", "person", "creator", "credit", "licensor", "text")


@removal.command("add")
@common
@click.option("--url", default=None, help="An image's or a page's URL.")
@click.option("--domain", default=None, help="All that came from a host and its subdomains.")
@click.option("--sha256", default=None, help="The digest of the picture's original bytes.")
@click.option("--key", default=None, help="A sample key.")
@click.option("--picture", default=None, metavar="FILE", help="A picture: its copies are found, too.")
@click.option("--person", default=None, metavar="FILE", help="A photo of a person: pictures of them are proposed.")
@click.option("--creator", default=None, metavar="TEXT", help="Who made the pictures.")
@click.option("--credit", default=None, metavar="TEXT", help="The credit line that they carry.")
@click.option("--licensor", default=None, metavar="TEXT", help="Who granted the licence, or a consent.")
@click.option("--text", default=None, metavar="TEXT", help="The alt text or caption.")
@click.option("--csv", "csv_file", default=None, type=click.Path(path_type=Path), help="Many requests, a row each.")
@click.option(
    "--kind",
    type=click.Choice(["erasure", "objection", "access", "attribution"]),
    default="erasure",
    show_default=True,
    help="What is asked: to erase, not to use, what is held, another credit line.",
)
@click.option(
    "--regime",
    type=click.Choice(["gdpr", "ccpa", "own"]),
    default="gdpr",
    show_default=True,
    help="Sets the day it is due.",
)
@click.option("--due", default=None, type=click.DateTime(["%Y-%m-%d"]), help="That day, with --regime own.")
@click.option("--requester", default=None, metavar="TEXT", help='Who asks; "-" reads it where no other user sees it.')
@click.option("--requester-file", default=None, type=click.Path(path_type=Path), help="Who asks, in a file.")
@click.option("--by", default="", help="Who files it.")
@click.option("--threshold", default=None, type=float, help="With --person: how far a face may be.")
@click.option("--face", default=None, type=int, help="With --person: which face of the photo, from the left.")
def removal_add(
    home_path: Path,
    as_json: bool,
    csv_file: Path | None,
    kind: str,
    regime: str,
    due: datetime | None,
    requester: str | None,
    requester_file: Path | None,
    by: str,
    threshold: float | None,
    face: int | None,
    **naming: str | None,
) -> None:
    """File a request; what it matches exactly is held (kept out of new use) until it is decided.

    Name exactly one thing. What is only like it is proposed, to be reviewed. What names a whole site, or very much, is
    held once it is proven whose it is (`custody removal prove`). Who asks is kept encrypted, and can be forgotten.
    """
    from flows.removal_prompt import read_requester
    from flows.stages.removing import requests as stage

    given = [(name, value) for name in _NAMINGS if (value := naming.get(name))]
    if len(given) + (csv_file is not None) != 1:
        gave = [f"--{name}" for name, _ in given] + ["--csv"] * (csv_file is not None)
        raise InputError(
            f"it takes exactly one of {', '.join(f'--{name}' for name in _NAMINGS)}, --csv",
            where="custody removal add",
            remedy=f"You gave {' and '.join(gave) or 'none'}; file one request for each",
        )
    if csv_file is not None:
        _file_csv(home_path, csv_file, as_json, by=by)
        return
    [(name, value)] = given
    asked_by = read_requester(requester, requester_file)
    filed = stage.add(
        open_home(home_path),
        name,
        value,
        kind=kind,
        regime=regime,
        due_on=due.date() if due is not None else None,
        requester=asked_by,
        by=by,
        threshold=threshold,
        face=face,
    )
    _print_removal(filed, as_json)


def _file_csv(home_path: Path, path: Path, as_json: bool, *, by: str) -> None:
    from flows.stages.removing.intake_csv import file_csv

    filed = file_csv(open_home(home_path), path, by=by)
    if as_json:
        print_json(filed)
        return
    print_table(
        ("row", "removal", "state", "due", "held"), [(f.row, f.id, f.state, f.due_at.date(), f.held) for f in filed]
    )
    say(f"{counted(len(filed), 'request')} filed")


@removal.command("list")
@common
def removal_list(home_path: Path, as_json: bool) -> None:
    """All requests: those that somebody waits for by the day they are due, then the closed ones."""
    from flows.stages.removing import requests as stage

    listed = stage.list_removals(open_home(home_path))
    if as_json:
        print_json(listed)
        return
    print_table(
        ("removal", "kind", "state", "received", "due", "days left", "matches", "needs"),
        [
            (
                *(r.id, r.kind, r.state, r.received_at.date(), r.due_at.date()),
                "" if r.days_left is None else f"{r.days_left} OVERDUE" if r.days_left < 0 else r.days_left,
                _taken(r),
                ", ".join(r.needs),
            )
            for r in listed
        ],
    )
    if late := [r.id for r in listed if r.days_left is not None and r.days_left < 0]:
        say(f"{counted(len(late), 'request')} overdue: {', '.join(late)}")


@removal.command("show")
@common
@click.argument("removal_id")
@click.option("--for-requester", is_flag=True, help="What may be told to whoever asked, and nothing else.")
def removal_show(home_path: Path, as_json: bool, removal_id: str, for_requester: bool) -> None:
    """One request: what it matched and what was done."""
    from flows.stages.removing import requests as stage

    if for_requester:
        from flows.stages.removing import answering

        _print_told(answering.for_requester(open_home(home_path), removal_id), as_json)
        return
    _print_removal(stage.show(open_home(home_path), removal_id), as_json)


@removal.command("prove")
@common
@click.argument("removal_id")
@click.option("--domain", default=None, help="Whose control is to be proven; by default the one that is named.")
@click.option("--check", "is_check", is_flag=True, help="Look whether the token is published.")
@click.option("--method", type=click.Choice(["well-known", "dns"]), default=None, help="Look there alone.")
@click.option("--by", default="", help="Vouch for whoever asks, in your name.")
@click.option("--reason", default="", help="How you know that it is theirs.")
def removal_prove(
    home_path: Path,
    as_json: bool,
    removal_id: str,
    domain: str | None,
    is_check: bool,
    method: str | None,
    by: str,
    reason: str,
) -> None:
    """Have whoever asks prove that they control what they name: a token at the site itself, or in its DNS.

    Without --check it says what is to be published where. An operator who knows better vouches with --by and --reason,
    which is recorded as such. Exit 1: it was looked for and is not there.
    """
    from flows.stages.removing import proving as stage

    home = open_home(home_path)
    if by:
        proving = stage.vouch(home, removal_id, by=by, reason=reason)
    elif is_check:
        proving = stage.check(home, removal_id, domain=domain, methods=(method,) if method else stage.METHODS)
    else:
        proving = stage.instructions(home, removal_id, domain=domain)
    if as_json:
        print_json(proving)
    elif by:
        answer(f"{removal_id}: vouched for")
    elif is_check:
        for look in proving.looks:
            answer(f"  {look.method}: {look.outcome}" + (f" ({look.detail})" if look.detail else ""))
        answer(f"{removal_id}: control of {proving.domain} is {'proven' if _is_found(proving) else 'not proven'}")
    else:
        answer(f"Publish this token, on a line of its own, at {proving.url}")
        if proving.dns_name:
            answer(f"or as a TXT record of {proving.dns_name}:")
        answer(proving.token)
        say(f"  then: custody removal prove {removal_id} --check")
    if is_check and not _is_found(proving):
        raise SystemExit(1)


def _is_found(proving: Any) -> bool:
    return any(look.outcome == "proven" for look in proving.looks)


@removal.command("review")
@common
@click.argument("removal_id")
@click.option("--by", default="", help="Who reviews.")
@click.option("--accept", multiple=True, metavar="KEY", help="Take this match; may be given several times.")
@click.option("--reject", multiple=True, metavar="KEY", help="Leave this match, with a --reason.")
@click.option("--accept-all", is_flag=True, help="Take whatever nobody has answered for yet.")
@click.option("--reason", default="", help="Why, for all that is answered so.")
@click.option("--sheet", default=None, type=click.Path(path_type=Path), help="Draw the pictures, .html or .png.")
def removal_review(
    home_path: Path,
    as_json: bool,
    removal_id: str,
    by: str,
    accept: tuple[str, ...],
    reject: tuple[str, ...],
    accept_all: bool,
    reason: str,
    sheet: Path | None,
) -> None:
    """Go through what a request matches and may mean, and accept or reject each.

    Without --accept or --reject each is shown at the prompt. Equal bytes are answered for as one. Only what is accepted
    is taken out; what is rejected is released from the hold. With --json and no answer: what there is to answer for.
    """
    from flows.removal_prompt import Answers, ask_each, require_terminal
    from flows.stages.removing import reviewing as stage

    home = open_home(home_path)
    if sheet is not None:
        drawn = stage.sheet(home, removal_id, sheet)
        answer(f"{counted(drawn, 'picture')} drawn. Delete {sheet} after the review")
        return
    answers: Answers = {key: ("reject", reason) for key in reject}
    if contradicted := set(accept) & set(reject):
        raise InputError("accepted and rejected at once", where=min(contradicted))
    answers |= {key: ("approve", reason) for key in accept}
    items = stage.items(home, removal_id)
    if accept_all:
        answers |= {i.group: ("approve", reason) for i in items if i.is_open and i.group not in answers}
    if not answers and as_json:
        print_json(items)
        return
    if not answers and not accept_all:
        require_terminal()
        draw = f"custody removal review {removal_id} --sheet FILE.html"
        answers = ask_each(items, input, sheet=draw)
    _print_removal(stage.review(home, removal_id, answers, by=by), as_json)


@removal.command("approve")
@common
@click.argument("removal_ids", nargs=-1, required=True)
@click.option("--by", required=True, help="Who approves.")
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--with-near", is_flag=True, help="Take in all near duplicates that are proposed.")
@click.option("--near", multiple=True, metavar="SHA256", help="Take in this one of them; may be given several times.")
@click.option(
    "--credit-line", default="", metavar="TEXT", help="Of a request about attribution: who is to be credited."
)
def removal_approve(
    home_path: Path,
    as_json: bool,
    removal_ids: tuple[str, ...],
    by: str,
    reason: str,
    with_near: bool,
    near: tuple[str, ...],
    credit_line: str,
) -> None:
    """Approve: the tombstones are in force when this command returns.

    What takes two people is in force when the second, another one, has approved as well. An objection reserves what it
    matches from new use; a request about attribution sets the credit line; neither takes anything out.

    Equal bytes go with what the request names. What only shows the same (`custody removal show`) stays, unless
    --with-near or --near takes it in. Several in one go cost little more than one.
    """
    from flows.stages.removing import approving as stage

    if len(removal_ids) > 1 and (with_near or near or credit_line):
        raise InputError(
            "--with-near, --near and --credit-line are about one request",
            where="custody removal approve",
            remedy="Approve that one by itself",
        )
    home = open_home(home_path)
    if len(removal_ids) > 1:
        approved = stage.approve_all(home, *removal_ids, by=by, reason=reason)
        if as_json:
            print_json(approved)
            return
        for one in approved:
            _print_removal(one, as_json)
        return
    [removal_id] = removal_ids
    only = stage.approve(
        home, removal_id, by=by, reason=reason, with_near=with_near, near=near, credit_line=credit_line
    )
    _print_removal(only, as_json)


@removal.command("reject")
@common
@click.argument("removal_id")
@click.option("--by", required=True, help="Who rejects.")
@click.option("--reason", required=True, help="Why: a rejection carries a reason.")
def removal_reject(home_path: Path, as_json: bool, removal_id: str, by: str, reason: str) -> None:
    """Reject: the hold ends."""
    from flows.stages.removing import requests as stage

    _print_removal(stage.reject(open_home(home_path), removal_id, by=by, reason=reason), as_json)


@removal.command("lift")
@common
@click.argument("removal_id")
@click.option("--by", required=True, help="Who records it.")
@click.option("--reason", required=True, help="How whoever objected took it back.")
def removal_lift(home_path: Path, as_json: bool, removal_id: str, by: str, reason: str) -> None:
    """Take back a granted objection: what it kept out of new use is judged by all else again."""
    from flows.stages.removing import requests as stage

    _print_removal(stage.lift(open_home(home_path), removal_id, by=by, reason=reason), as_json)


@removal.command("extend")
@common
@click.argument("removal_id")
@click.option("--by", required=True, help="Who extends it.")
@click.option("--reason", required=True, help="Why; whoever asked is to be told.")
def removal_extend(home_path: Path, as_json: bool, removal_id: str, by: str, reason: str) -> None:
    """Extend the time for an answer, once and before it is over: GDPR by two months, CCPA by 45 days."""
    from flows.stages.removing import requests as stage

    _print_removal(stage.extend(open_home(home_path), removal_id, by=by, reason=reason), as_json)


@removal.command("answer")
@common
@click.argument("removal_id")
@click.option("--by", default="", help="Who gives the answer: closes a request that asked what is held.")
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Write the text here, for its owner alone.")
def removal_answer(home_path: Path, as_json: bool, removal_id: str, by: str, out: Path | None) -> None:
    """What is held of what a request names exactly, or of what was proven, to be given to whoever asked."""
    from flows.stages.removing import answering
    from policy.durable import write_durably

    told = answering.answer(open_home(home_path), removal_id, by=by)
    if out is None:
        _print_told(told, as_json)
        return
    try:
        write_durably(out, f"{told.text}\n".encode(), mode=0o600)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(out)) from error
    say(f"written to {out}")


@removal.command("forget")
@common
@click.argument("removal_id")
@click.option("--by", required=True, help="Who orders it.")
@click.option("--reason", default="", help="Why.")
def removal_forget(home_path: Path, as_json: bool, removal_id: str, by: str, reason: str) -> None:
    """Forget who asked: the encrypted identity is erased, whatever becomes of the request."""
    from flows.stages.removing import requests as stage

    _print_removal(stage.forget(open_home(home_path), removal_id, by=by, reason=reason), as_json)


@removal.command("held")
@common
def removal_held(home_path: Path, as_json: bool) -> None:
    """Pictures that are kept out since they are like a removed one, until somebody has looked at them.

    Nothing of them is kept but where they hang. One that is another picture is let in by `custody removal release`; one
    that is a copy is removed as any other: `custody removal add --sha256`.
    """
    from flows.stages.removing import suppressing as stage

    held = stage.held(open_home(home_path))
    if as_json:
        print_json(held)
        return
    print_table(
        ("content", "likeness", "picture", "page"),
        [(h.content_sha256, f"{h.likeness:.3f}", " ".join(h.image_urls), " ".join(h.page_urls)) for h in held],
    )
    say(f"{counted(len(held), 'picture')} held")


@removal.command("release")
@common
@click.argument("sha256")
@click.option("--by", required=True, help="Who has looked.")
@click.option("--reason", required=True, help="Why it is another picture.")
def removal_release(home_path: Path, as_json: bool, sha256: str, by: str, reason: str) -> None:
    """Let in a picture that is like a removed one: it is another.

    The next `custody decide` lets it in, or, if no pixels of it are kept, the next crawl of its page.
    """
    from flows.stages.removing import suppressing as stage

    released = stage.release(open_home(home_path), sha256, by=by, reason=reason)
    if as_json:
        print_json(released)
    else:
        answer(f"Released {released.content_sha256}: the next custody decide lets it in")
        say("  if no pixels of it are kept, the next crawl of its page")


@removal.command("apply")
@common
@click.argument("removal_ids", nargs=-1, required=True)
@click.option("--despite-models", is_flag=True, help="Also where a model was to forget it first, and did not.")
def removal_apply(home_path: Path, as_json: bool, removal_ids: tuple[str, ...], despite_models: bool) -> None:
    """Carry approved requests through: shards resealed without the samples, kept pixels deleted, the ledger erased.

    Several in one go cost little more than one. Exit 1: something of what was removed is still found somewhere.
    """
    from flows.stages.removing.applying import apply

    bar = progress_bar(as_json)
    applied = apply(open_home(home_path), *removal_ids, progress=bar, despite_models=despite_models)
    if as_json and len(applied) > 1:
        print_json(applied)
    else:
        for one in applied:
            _print_removal(one, as_json)
    if left := [one.id for one in applied if one.scan == "hits"]:
        say(f"custody: of {', '.join(left)} something is still here: custody removal receipt says what and where")
        sys.exit(1)


@removal.command("scan")
@common
@click.argument("removal_ids", nargs=-1)
@click.option(
    "--needle", "values", multiple=True, metavar="VALUE", help="Look for this too; others may see it in `ps`."
)
@click.option("--needle-file", type=click.File(encoding="utf-8"), help="Look for each line of a file; - is the input.")
@click.option(
    "--allow-unread", multiple=True, metavar="PLACE", help="A place that need not be readable, as it is told."
)
@click.option("--workers", type=click.IntRange(0), default=0, help="Processes; 0: as many as there are cores.")
def removal_scan(
    home_path: Path,
    as_json: bool,
    removal_ids: tuple[str, ...],
    values: tuple[str, ...],
    needle_file: IO[str] | None,
    allow_unread: tuple[str, ...],
    workers: int,
) -> None:
    """Read everything under the home, and say where anything of what requests name still is.

    Before `apply` it shows what there is to be removed; what it names is erased then, so that afterwards only values
    that you give can be looked for: URLs, digests, texts. Exit 1: something was found, or could not be read.
    """
    from flows.stages.removing import scanning

    home = open_home(home_path)
    try:
        lines = [line.strip() for line in needle_file or () if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", where="--needle-file", remedy="Save it as UTF-8") from error
    needles = scanning.needles_of(home, removal_ids, (*values, *lines))
    report = scanning.scan_home(home, needles, workers=workers, progress=progress_bar(as_json))
    if as_json:
        print_json(report)
    else:
        _print_scan(report)
    if not report.is_clean(allowing=allow_unread):
        raise SystemExit(1)


def _print_scan(report: ScanReport) -> None:
    looked = [(kind, report.needles.get(kind, 0), report.too_common.get(kind, 0), report.shared.get(kind, 0))
              for kind in sorted({*report.needles, *report.too_common, *report.shared})]  # fmt: skip
    print_table(("kind", "forms looked for", "too common", "shared with what stays"), looked)
    if report.hits:
        print_table(("where", "kind", "count"), [(hit.where, hit.kind, hit.count) for hit in report.hits])
    if report.unread:
        print_table(("not read", "why"), [(one.where, one.why) for one in report.unread])
    read = f"{counted(report.files, 'file')}, {report.bytes:,} bytes, {counted(report.pictures, 'picture')}"
    answer(f"{read} in {report.seconds:.1f} s: {counted(len(report.hits), 'hit')}, {len(report.unread)} not read")
    if report.alike:
        say(f"  {counted(report.alike, 'picture')} as near to one that stays as to one that is removed: look at them")


@removal.command("models")
@common
@click.argument("removal_ids", nargs=-1, required=True)
@click.option("--rebuild", is_flag=True, help="What `custody removal replay --rebuild` would do.")
def removal_models(home_path: Path, as_json: bool, removal_ids: tuple[str, ...], rebuild: bool) -> None:
    """Which models saw what these requests name, what becomes of them, and what that costs; changes nothing."""
    from flows.stages.removing.models import plan_models

    planned = plan_models(open_home(home_path), *removal_ids, rebuild=rebuild)
    if as_json:
        print_json(planned)
        return
    print_table(
        ("run", "becomes", "saw it", "never", "again", "seconds"),
        [
            (
                *(r.run, f"{r.action}: {r.becomes}" if r.becomes else r.action, len(r.exposed), len(r.never)),
                *(f"{r.steps:,} steps" if r.becomes else "", "" if r.estimated_s is None else f"{r.estimated_s:,.0f}"),
            )
            for r in planned.runs
        ],
        title="Runs that saw it",
    )
    cost = (
        "" if planned.estimated_s is None else f", about {planned.estimated_s:,.0f} s by the pace they were trained at"
    )
    answer(
        f"{counted(planned.steps, 'step')} to train again{cost}; {counted(len(planned.never_seen), 'run')} never saw it"
    )
    for run in planned.runs:
        if run.action == "rebuild":
            say(f"  {run.becomes} will be REBUILT: {counted(run.captions, 'caption')} chosen anew, and a new dataset")
        elif run.becomes and run.through:
            say(f"  {run.becomes} will be INDIRECT, through {run.through}")
    for line in planned.advice:
        say(f"  {line}")


@removal.command("replay")
@common
@click.argument("removal_ids", nargs=-1, required=True)
@click.option("--offline", is_flag=True, help="Ask nobody again what may still be used: what has grown too old is out.")
@click.option("--exact", is_flag=True, help="Replay where policy.toml says approximate; what only approximates goes.")
@click.option(
    "--rebuild", is_flag=True, help="What stands on captions of a model that saw it: caption, seal, train anew."
)
def removal_replay(
    home_path: Path, as_json: bool, removal_ids: tuple[str, ...], offline: bool, exact: bool, rebuild: bool
) -> None:
    """Do with the models that saw it what policy.toml says: replay, rebuild, withdraw or approximate; the old ones go.

    All removals in force go into one replay. Killed at any moment, it goes on when it is run again.
    """
    from flows.stages.removing.models import serve_models
    from flows.stages.removing.receipts import issue_again

    home = open_home(home_path)
    bar = progress_bar(as_json)
    served = serve_models(home, *removal_ids, exact=exact, rebuild=rebuild, offline=offline, progress=bar)
    issue_again(home, removal_ids)
    if as_json:
        print_json(served)
        return
    for run in served.runs:
        became = f" -> {run.becomes}: {run.tier.upper()}" if run.becomes else f" {run.tier.upper()}" if run.tier else ""
        path = f", through {run.through}" if run.through and run.tier != "exact" else ""
        answer(f"  {run.run}: {run.action}{became}{path}; {counted(run.withdrawn, 'checkpoint')} withdrawn")
    answer(
        f"{counted(len(served.never_seen), 'run')} never saw it; list of withdrawn models no. {served.withdrawal_list}"
    )
    if served.notices:
        say(f"  {counted(served.notices, 'notice')} to recipients of exports lie in notices/: send them")


@removal.command("receipt")
@common
@click.argument("removal_ids", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="A folder that copies are put into as well.")
def removal_receipt(home_path: Path, as_json: bool, removal_ids: tuple[str, ...], out: Path | None) -> None:
    """The receipt of a request that was carried through: signed, as JSON and as a page. A new one if more was done."""
    from flows.stages.removing import receipts as stage

    home = open_home(home_path)
    issued = stage.issue(home, removal_ids)
    if out is not None:
        stage.copy_to(home, issued, out)
    if as_json:
        print_json(issued[0] if len(issued) == 1 else issued)
        return
    for one in issued:
        answer(f"Receipt {one.number} of {one.removal}: {home.path / one.path}")
        answer(f"  sha256 {one.sha256}, scan: {one.scan}")
        say(f"  {'new' if one.new else 'nothing has changed since'}; to read: {home.path / one.page}")


@removal.command("key")
@common
def removal_key(home_path: Path, as_json: bool) -> None:
    """The public key that receipts are checked with: publish it where it is yours."""
    home = open_home(home_path)
    public, key_id = home.keys.public_key.hex(), home.keys.key_id("signing")
    if as_json:
        print_json({"algorithm": "Ed25519", "public_key": public, "key_id": key_id})
        return
    answer(public)


@removal.command("verify")
@common
@click.argument("receipt", type=click.Path(path_type=Path))
@click.option("--public-key", default="", metavar="HEX|FILE", help="The operator's, from wherever it is published.")
@click.option("--dataset", type=click.Path(path_type=Path), default=None, help="The folder of the dataset it names.")
@click.option("--run", type=click.Path(path_type=Path), default=None, help="The folder of a run whose models it names.")
@click.option("--ledger", type=click.Path(path_type=Path), default=None, help="The auditors' copy, audit.duckdb.")
@click.option("--anchors", default="", metavar="PLACE", help="Where anchors were published.")
def removal_verify(
    home_path: Path,
    as_json: bool,
    receipt: Path,
    public_key: str,
    dataset: Path | None,
    run: Path | None,
    ledger: Path | None,
    anchors: str,
) -> None:
    """Check a receipt, without a home and with nothing but public material; an altered field is named.

    Without --public-key it is held against the key that stands in it: that shows that nothing was altered since it was
    signed, not who signed it.
    """
    from flows.stages.removing import checking as stage

    checked = stage.check(receipt, public_key=public_key, dataset=dataset, run=run, ledger=ledger, anchors=anchors)
    if as_json:
        failures = [{"what": f.what, "where": f.field} for f in checked.failures]
        print_json({**dataclasses.asdict(checked), "failures": failures})
    else:
        for failure in checked.failures:
            answer(f"FAILED  {escape(failure.field)}: {escape(failure.what)}")
        if checked.ok:
            answer(f"Receipt {checked.number} of {escape(checked.removal)} holds ({', '.join(checked.checked)}).")
            if not checked.trusted_key:
                say(f"  Signed with {checked.public_key}: see that this is the operator's key, or give --public-key")
    sys.exit(0 if checked.ok else 1)


def _print_told(told: Any, as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    for line in told.text.split("\n"):
        answer(escape(line))


def _taken(shown: Any) -> int:
    """The matches that are taken out as things stand."""
    return sum(match.state in ("matched", "approved") for match in shown.matches)


@removal.command("drill")
@common
@click.option("--samples", type=click.IntRange(1, 1000), default=3, show_default=True, help="How many are removed.")
@click.option("--seed", type=int, default=None, help="Picks them: the same ones again.")
@click.option("--keep", type=click.Path(path_type=Path), default=None, help="A new directory that the copy stays in.")
@click.option("--models", is_flag=True, help="Serve the models as well; else what that would take is reckoned.")
def removal_drill(
    home_path: Path, as_json: bool, samples: int, seed: int | None, keep: Path | None, models: bool
) -> None:
    """Go the whole way of a removal in a copy of the home: times and leftovers. To be done every quarter."""
    from flows.stages.removing import drill as stage

    home = open_home(home_path)
    bar = progress_bar(as_json)
    done = stage.drill(home, samples=samples, seed=seed, keep=keep, models=models, progress=bar)
    if as_json:
        print_json({**dataclasses.asdict(done), "passed": done.passed})
    else:
        print_table(("part", "seconds"), [(part.name, f"{part.seconds:,.1f}") for part in done.parts])
        answer(f"{counted(done.samples, 'sample')} (--seed {done.seed}): {done.hits} hits, {done.left} left by tokens")
        answer(f"  {counted(done.checkpoints, 'checkpoint')} had seen them; in time: {'yes' if done.in_time else 'NO'}")
        for failure in done.failures:
            answer(f"FAILED  {escape(failure)}")
        if done.unread:
            say(f"  {counted(done.unread, 'place')} could not be read: custody removal scan tells which")
    sys.exit(0 if done.passed else 1)


def _print_removal(shown: Any, as_json: bool) -> None:
    if as_json:
        print_json(shown)
        return
    matches, slots = counted(_taken(shown), "match", "matches"), counted(len(shown.slots), "slot")
    answer(f"Removal {shown.id}: {shown.state}, due {shown.due_at:%Y-%m-%d}")
    answer(f"  {matches}, {slots} in sealed datasets")
    for near in shown.proposals:
        shows = counted(near.occurrences, "occurrence")
        answer(f"  near: {near.content_sha256} ({near.method or 'stands for it'}, distance {near.distance:g}, {shows})")
    for line in shown.advice:
        say(f"  {line}")
