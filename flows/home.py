"""A home: the directory that holds one chain of custody, and the paths within it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from curation.storage import Location, parse_location
from flows import settings as settings_module
from flows.settings import Settings
from flows.terminal import say
from policy.copies import RESTORING, begin_copy, require_current
from policy.durable import write_durably
from policy.errors import BusyError, ConfigurationError, HomeError, InputError
from policy.grants import Grants
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.ruleset import Ruleset
from policy.suppression import Suppression
from policy.tombstones import Tombstones

if TYPE_CHECKING:
    from curation.remote import RemoteDatasets
    from curation.shard_files import Dataset
    from policy.registries import Registries

# How long a command waits for another one that holds the ledger; it says so after the first seconds.
LEDGER_WAIT_S = 60.0
QUIET_WAIT_S = 2.0


def utc_now() -> datetime:
    """The one clock of the command line."""
    return datetime.now(UTC)


_LOST = "Restore it from its backup; an empty folder and `custody init` make a new home"


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
            raise InputError("is a file, not a directory", where=str(path), remedy="Name a directory for the new home")
        if home.ledger_path.exists():
            raise InputError(
                "is a home already", where=str(path), remedy="Nothing was changed; name another with --home DIR"
            )
        text, policy = settings_text or settings_module.DEFAULT_TEXT, policy_text or Ruleset.default_text()
        settings_module.parse(text)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the directory cannot be made ({error.strerror})", where=str(path)) from error
        for file, body in ((home.settings_path, text), (home.policy_path, policy)):
            if not file.exists():
                write_durably(file, body.encode())
        keys = KeyRing.load(home.keys_path) if home.keys_path.exists() else KeyRing.create(home.keys_path)
        Ledger.create(home.ledger_path, keys, utc_now())
        return home

    @classmethod
    def open(cls, path: Path, *, to_restore: bool = False) -> Home:
        """Open an existing home. `to_restore`: also one that is a backup from before some removals.

        Raises:
            HomeError: there is none at this path, or it must be restored before it is used.
        """
        home = cls(path)
        missing = [file.name for file in (home.settings_path, home.ledger_path) if not file.is_file()]
        if len(missing) == 1:
            raise HomeError("is no whole home: this file is missing", where=str(path / missing[0]), remedy=_LOST)
        if missing:
            raise HomeError(
                "is not a home (no custody.toml and ledger.duckdb in it)",
                where=str(path.absolute()) if path == Path() else str(path),
                remedy="Make one with `custody init --home DIR`, or name yours with --home or CUSTODY_HOME",
            )
        if not to_restore:
            home.require_current()
        return home

    def require_current(self) -> None:
        """HomeError when this is a restored backup: removals that were filed since must be applied again first."""
        if (copy := self.copy_path) is not None or (self.path / RESTORING).exists():
            require_current(self.path, self.tombstones_path, copy or self.tombstones_path)

    @property
    def copy_path(self) -> Path | None:
        """The copy, outside, of what may never come back; a relative path is the home's. None: none is kept."""
        named = self.settings.removals.suppression_copy
        return self.path / named if named else None

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
    def registries_path(self) -> Path:
        return self.path / "registries"

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
    def declared_path(self) -> Path:
        """Documents that were asked for because somebody declared them."""
        return self.path / "cache" / "declared"

    @property
    def silences_path(self) -> Path:
        """Requests for documents that nobody answered while an older copy counts."""
        return self.path / "cache" / "silences"

    @cached_property
    def datasets_path(self) -> Path:
        """Where datasets lie on local disk; of those in a bucket there is nothing here."""
        place = self._store
        return (place.local if place is not None else None) or self.path / "datasets"

    @cached_property
    def remote_datasets(self) -> RemoteDatasets | None:
        """Where datasets lie, if that is a bucket."""
        place, seal = self._store, self.settings.seal
        if place is None or place.local is not None:
            return None
        from curation.remote import RemoteDatasets  # NumPy, which most commands do without

        return RemoteDatasets(
            place.url, spool=self.path / "spool", cache=self.shards_path, cache_bytes=seal.cache_bytes,
            endpoint=seal.store_endpoint,
        )  # fmt: skip

    def dataset(self, name: str) -> Dataset:
        """A dataset for the functions of curation/shards.py; it need not be there yet."""
        remote = self.remote_datasets
        return self.datasets_path / name if remote is None else remote.files(name)

    def dataset_names(self) -> tuple[str, ...]:
        """Every dataset that lies where datasets do, finished or not, sorted."""
        remote = self.remote_datasets
        if remote is not None:
            return remote.names()
        return tuple(sorted(p.parent.name for p in self.datasets_path.glob("*/dataset.json")))

    def dataset_where(self, name: str) -> str:
        """How a dataset's place is written down: relative to the home if it is in it, else in full."""
        if (remote := self.remote_datasets) is not None:
            return f"{remote.url}/{name}"
        directory = self.datasets_path / name
        return str(directory.relative_to(self.path) if directory.is_relative_to(self.path) else directory)

    @property
    def datasets_where(self) -> str:
        """The place of all of them, for messages."""
        remote = self.remote_datasets
        return str(self.datasets_path) if remote is None else remote.url

    @property
    def tokens_path(self) -> Path:
        """Captions as text encoders give them. In the cache: a removal deletes it whole."""
        return self.path / "cache" / "tokens"

    @property
    def shards_path(self) -> Path:
        """Shards of a bucket that were fetched. In the cache: a removal deletes it whole."""
        return self.path / "cache" / "shards"

    @property
    def vectors_path(self) -> Path:
        """Embeddings by content, for near duplicates. Beside the cache: a removal overwrites those it concerns."""
        return self.path / "vectors"

    @property
    def runs_path(self) -> Path:
        return self.path / "runs"

    @property
    def samples_path(self) -> Path:
        return self.path / "samples"

    @property
    def withdrawn_path(self) -> Path:
        """The signed list of models that were withdrawn."""
        return self.path / "withdrawn.json"

    @property
    def notices_path(self) -> Path:
        """What recipients of exports are to be told."""
        return self.path / "notices"

    @property
    def receipts_path(self) -> Path:
        """What was done for removals, signed: without personal data."""
        return self.path / "receipts"

    @cached_property
    def settings(self) -> Settings:
        return settings_module.load(self.settings_path)

    @cached_property
    def ruleset(self) -> Ruleset:
        return Ruleset.load(self.policy_path)

    @cached_property
    def keys(self) -> KeyRing:
        return KeyRing.load(self.keys_path)

    @property
    def product(self) -> str:
        """The name the crawler goes by: in its User-Agent, and where origins speak to it.

        Raises:
            ConfigurationError: policy.toml reads the origins' answers for other names than the one that asks.
        """
        product = self.settings.crawl.product
        if product.lower() not in (token.lower() for token in self.ruleset.robots.product_tokens):
            raise ConfigurationError(
                f"crawl.product is {product!r}, which is not among the product_tokens of policy.toml",
                where=str(self.settings_path),
                remedy="Use the same name in both, or what sites say to your crawler is not heard",
            )
        return product

    @cached_property
    def _store(self) -> Location | None:
        """What seal.store names; None when it is empty.

        Raises:
            ConfigurationError: it is neither empty nor an absolute file:// or s3:// URL.
        """
        store = self.settings.seal.store
        if not store:
            return None
        try:
            place = parse_location(store)
        except InputError as error:
            where = str(self.settings_path)
            raise ConfigurationError(
                f"seal.store: {error.where} {error.what}", where=where, remedy=error.remedy
            ) from error
        if place.local is not None and not place.local.is_absolute():
            remedy = "Write file:///absolute/path or s3://bucket/prefix, or leave it empty"
            raise ConfigurationError(f"seal.store is {store!r}, no URL", where=str(self.settings_path), remedy=remedy)
        return place

    @contextmanager
    def ledger(self, *, readonly: bool = False, wait_s: float | None = None) -> Iterator[Ledger]:
        """The ledger, held for as long as the block runs: keep it short.

        Raises:
            BusyError: another process still holds it after `wait_s` seconds (default: LEDGER_WAIT_S).
            StorageError: it is to be written, and the copy outside cannot be begun.
        """
        with self._open_ledger(readonly, LEDGER_WAIT_S if wait_s is None else wait_s) as ledger:
            if not readonly and (copy := self.copy_path) is not None:
                begin_copy(self.tombstones_path, copy, self.keys)
            yield ledger

    def tombstones(self, ledger: Ledger | None = None) -> Tombstones:
        """The tombstones in force now, read anew from their file each time and held against the ledger.

        `ledger`: the one that the caller has open, if any.

        Raises:
            IntegrityError: the file is lost, damaged or an old copy: nothing may be let in by it.
        """
        if ledger is None:
            # Read under the lock: an approval puts its file in force before the ledger follows.
            with self.ledger(readonly=True) as opened:
                return self.tombstones(opened)
        tombstones = Tombstones.load(self.tombstones_path, keys=self.keys)
        tombstones.check_against(ledger)
        return tombstones

    def suppression(self, ledger: Ledger | None = None) -> Suppression:
        """By what removed pictures are recognised that come back, read anew each time and held against the ledger.

        `ledger`: the one that the caller has open, if any.

        Raises:
            IntegrityError: the file is lost, damaged or an old copy: nothing may be let in by it.
        """
        if ledger is None:
            with self.ledger(readonly=True) as opened:
                return self.suppression(opened)
        suppression = Suppression.load(self.tombstones_path, keys=self.keys)
        suppression.check_against(ledger)
        return suppression

    def registries(self, ledger: Ledger | None = None) -> Registries:
        """The imported lists that count now. `ledger`: the one that the caller has open, if any.

        Raises:
            IntegrityError: the file of one is lost or damaged: nothing may be let in without it.
        """
        from policy.registries import Registries, imported_lists  # NumPy, which most commands do without

        if ledger is None:
            # Opened under the lock: an import deletes the file that it replaces.
            with self.ledger(readonly=True) as opened:
                return self.registries(opened)
        distance = self.ruleset.registry.pdq_max_distance
        return Registries.load(self.registries_path, imported_lists(ledger), pdq_max_distance=distance)

    def grants(self, ledger: Ledger | None = None) -> Grants:
        """The grants on record, ended ones included. `ledger`: the one that the caller has open, if any."""
        if ledger is None:
            with self.ledger(readonly=True) as opened:
                return self.grants(opened)
        return Grants.of(ledger)

    def _open_ledger(self, readonly: bool, wait_s: float) -> Ledger:
        quiet_s = min(wait_s, QUIET_WAIT_S)
        try:
            return Ledger.open(self.ledger_path, keys=self.keys, readonly=readonly, wait_s=quiet_s)
        except BusyError as error:
            if wait_s <= quiet_s:
                raise
            say(f"waiting for the ledger: {error.what}")
        return Ledger.open(self.ledger_path, keys=self.keys, readonly=readonly, wait_s=wait_s - quiet_s)
