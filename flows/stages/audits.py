"""Audits: named questions and free SQL, read-only on the published snapshot."""

from __future__ import annotations

from collections.abc import Sequence

from flows.home import Home, utc_now
from policy import audit
from policy.audit import Audit
from policy.errors import InputError
from policy.snapshot import publish


def list_audits() -> Sequence[Audit]:
    """The named audits, each with the question it answers and its parameters."""
    return audit.list_audits()


def read_parameters(arguments: Sequence[str]) -> dict[str, str]:
    """key=value arguments.

    Raises:
        InputError: one is not of that form.
    """
    parameters = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise InputError(
                f"{argument!r} is not key=value", where="custody audit", remedy="`custody audit` lists what each takes"
            )
        parameters[key] = value
    return parameters


def run(home: Home, name: str, parameters: dict[str, str]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Run a named audit on a snapshot of the ledger as it is now."""
    _publish(home)
    return audit.run(home.snapshot_path, name, parameters)


def sql(home: Home, statement: str) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Free SQL on a snapshot of the ledger as it is now; it can neither write nor reach files."""
    _publish(home)
    return audit.sql(home.snapshot_path, statement)


def _publish(home: Home) -> None:
    with home.ledger(readonly=True) as ledger:
        publish(ledger, home.snapshot_path, now=utc_now())
