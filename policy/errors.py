"""Everything Custody raises on purpose.

::

    CustodyError                  one message: what, where, what to do
    ├── ConfigurationError        custody.toml or policy.toml: unknown or missing key, wrong type or value   exit 2
    ├── HomeError                 not a home, or one written by a newer version                              exit 2
    ├── KeyFileError              a key file is missing, unreadable or not the one the ledger knows          exit 2
    ├── InputError                a seed, file, picture or name that cannot be used                          exit 2
    ├── StorageError              the disk is full or refuses to write                                       exit 2
    ├── BusyError                 another process holds the ledger                                           exit 2
    ├── IntegrityError            stored data are not what was recorded: shard, chain, checkpoint            exit 1
    └── RefusedError              policy says no: a tombstone, a missing contact, an unserved removal        exit 1
"""

from __future__ import annotations


class CustodyError(Exception):
    """A failure that is explained to its reader: what happened, where, and what to do about it."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.remedy}" if self.remedy else text


class ConfigurationError(CustodyError):
    """custody.toml or policy.toml cannot be used as it is."""


class HomeError(CustodyError):
    """The directory is no home, or one that a newer version wrote."""


class KeyFileError(CustodyError):
    """A key is missing or is not the one the ledger knows; nothing may answer "matches nothing" instead."""


class InputError(CustodyError):
    """A seed, file, picture or name given by the user cannot be used."""


class StorageError(CustodyError):
    """The disk is full or refuses to write; what was complete before stays complete."""


class BusyError(CustodyError):
    """Another process holds the ledger."""


class IntegrityError(CustodyError):
    """Stored data are not what was recorded."""

    exit_code = 1


class RefusedError(CustodyError):
    """Policy says no."""

    exit_code = 1


def is_interrupt(error: BaseException) -> bool:
    """Whether somebody pressed Ctrl-C: one that falls into a query comes out of DuckDB as a RuntimeError."""
    return isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)
