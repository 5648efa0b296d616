"""A home: the directory that holds one chain of custody, and the paths within it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from flows import settings as settings_module
from flows.settings import Settings
from policy.errors import HomeError, InputError
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.removals import Tombstones
from policy.ruleset import Ruleset


def utc_now() -> datetime:
    """The one clock of the command line."""
    return datetime.now(UTC)


def write_atomic(path: Path, data: bytes) -> None:
    """Write so that the file is either whole or as before: temporary name, fsync, rename, fsync of the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Home:
    """An opened home. Settings, ruleset and keys are read once, on first use."""

    path: Path

    @classmethod
    def create(cls, path: Path, *, settings_text: str | None = None, policy_text: str | None = None) -> Home:
        """Make a new home: custody.toml, policy.toml, keys and an empty ledger. What exists is never overwritten.

        Raises:
            InputError: the path is a file, or holds a home already.
        """
        home = cls(path)
        if path.exists() and not path.is_dir():
            raise InputError("is a file, not a directory", where=str(path))
        if home.ledger_path.exists():
            raise InputError("is a home already", where=str(path), remedy="Nothing was changed")
        text, policy = settings_text or settings_module.DEFAULT_TEXT, policy_text or Ruleset.default_text()
        settings_module.parse(text)
        path.mkdir(parents=True, exist_ok=True)
        for file, body in ((home.settings_path, text), (home.policy_path, policy)):
            if not file.exists():
                write_atomic(file, body.encode())
        keys = KeyRing.load(home.keys_path) if home.keys_path.exists() else KeyRing.create(home.keys_path)
        Ledger.create(home.ledger_path, keys, utc_now())
        return home

    @classmethod
    def open(cls, path: Path) -> Home:
        """Open an existing home.

        Raises:
            HomeError: there is none at this path.
        """
        home = cls(path)
        if not home.ledger_path.is_file() or not home.settings_path.is_file():
            raise HomeError(
                "is not a home (no custody.toml and ledger.duckdb in it)",
                where=str(path),
                remedy="Make one with `custody init --home DIR`, or name yours with --home or CUSTODY_HOME",
            )
        return home

    @property
    def settings_path(self) -> Path:
        return self.path / "custody.toml"

    @property
    def policy_path(self) -> Path:
        return self.path / "policy.toml"

    @property
    def keys_path(self) -> Path:
        return self.path / "keys"

    @property
    def ledger_path(self) -> Path:
        return self.path / "ledger.duckdb"

    @property
    def snapshot_path(self) -> Path:
        return self.path / "audit.duckdb"

    @property
    def tombstones_path(self) -> Path:
        return self.path / "tombstones"

    @property
    def pixels_path(self) -> Path:
        return self.path / "pixels"

    @property
    def crawls_path(self) -> Path:
        return self.path / "crawls"

    @property
    def origins_path(self) -> Path:
        return self.path / "cache" / "origins"

    @property
    def datasets_path(self) -> Path:
        return self.path / "datasets"

    @property
    def runs_path(self) -> Path:
        return self.path / "runs"

    @property
    def samples_path(self) -> Path:
        return self.path / "samples"

    @cached_property
    def settings(self) -> Settings:
        return settings_module.load(self.settings_path)

    @cached_property
    def ruleset(self) -> Ruleset:
        return Ruleset.load(self.policy_path)

    @cached_property
    def keys(self) -> KeyRing:
        return KeyRing.load(self.keys_path)

    @contextmanager
    def ledger(self, *, readonly: bool = False, wait_s: float = 60.0) -> Iterator[Ledger]:
        """The ledger, held for as long as the block runs: keep it short."""
        with Ledger.open(self.ledger_path, keys=self.keys, readonly=readonly, wait_s=wait_s) as ledger:
            yield ledger

    def tombstones(self) -> Tombstones:
        """The tombstones in force now, read anew from their file each time."""
        return Tombstones.load(self.tombstones_path, keys=self.keys)
