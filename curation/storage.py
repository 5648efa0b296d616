"""Places by URL: a path, file:// and s3://, and nothing else: what lies on the web goes through our own fetcher.

::

    lists/urls.parquet      a local path
    file:///data/lists      the same, as a URL
    s3://bucket/key         an object; the server's address, region and credentials come from fsspec's and boto's own
                            configuration (AWS_ENDPOINT_URL, AWS_PROFILE, ~/.aws/…), the address also from `endpoint`

s3:// needs the extra `s3` (s3fs, loaded on first use). Every call ends: 5 s to connect, 20 s without a byte, three
attempts.
"""

from __future__ import annotations

import base64
import errno
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from policy.errors import BusyError, ConfigurationError, CustodyError, InputError, StorageError

PROTOCOLS = ("file", "s3")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_CONNECT_S, _READ_S, _ATTEMPTS = 5, 20, 3
_RANGE_BYTES, _RANGES_AT_ONCE = 8 << 20, 4
_CREDENTIALS = "Credentials come from boto: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws"
_ENDPOINT = "Is it running, and is its address right (AWS_ENDPOINT_URL, or seal.store_endpoint in custody.toml)?"
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_AGAIN = "Run it again when that is mended: what was finished is kept"
_UNIMPLEMENTED = frozenset({"NotImplemented", "MethodNotAllowed", "501", "405"})


@dataclass(frozen=True, slots=True)
class Location:
    """A place that was named. `path`: of a local file, or the object's key (no slash in front)."""

    protocol: str
    bucket: str
    path: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.path}".rstrip("/") if self.protocol == "s3" else self.path

    @property
    def local(self) -> Path | None:
        """The path, if it is a local one."""
        return Path(self.path) if self.protocol == "file" else None


def parse_location(location: str | Path) -> Location:
    """What a path or URL names, without looking whether it is there.

    Raises:
        InputError: a protocol that is not in PROTOCOLS, or no such URL.
    """
    text = str(location)
    scheme = None if isinstance(location, Path) else _SCHEME.match(text)
    if scheme is None:
        if not text or "\0" in text:
            raise InputError("names no file", where=repr(text))
        return Location("file", "", text)
    protocol, rest = scheme[1].lower(), text[scheme.end() :]
    if protocol == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
            raise InputError("is no URL of a file on this machine", where=text, remedy="Write file:///absolute/path")
        return Location("file", "", unquote(parts.path))
    if protocol == "s3":
        bucket, _, key = rest.partition("/")
        if "@" in bucket:  # not shown: it may be a secret
            raise InputError("credentials do not belong in a URL", where="s3://…@…", remedy=_CREDENTIALS)
        if not _BUCKET.fullmatch(bucket):
            raise InputError(f"{bucket!r} names no bucket", where=text, remedy="Write s3://bucket/key")
        return Location("s3", bucket, key.lstrip("/"))
    web = "; what lies on the web is crawled, not opened" if protocol in ("http", "https") else ""
    allowed = " and ".join(f"{name}://" for name in PROTOCOLS)
    raise InputError(f"{protocol}:// is not opened here", where=text, remedy=f"Use a path, {allowed}{web}")


def open_input(location: str | Path, *, endpoint: str = "") -> BinaryIO:
    """A file or object for reading, seekable; the caller closes it.

    Raises:
        InputError: nothing there, no permission, a server that cannot be reached, a protocol that is not ours; what
            fails later, while reading, is an InputError as well for s3://, an OSError for a file.
        ConfigurationError: s3:// without the extra `s3`.
    """
    place = parse_location(location)
    if place.local is not None:
        return _open_local(place.local)
    with _as_input():
        return ObjectStore(f"s3://{place.bucket}", endpoint=endpoint).open(place.path)


def list_files(location: str | Path, pattern: str = "*", *, endpoint: str = "") -> tuple[str, ...]:
    """The files directly in a folder whose names match (fnmatch, case counts), sorted; hidden ones only if asked for.

    What comes back goes into `open_input`. Raises InputError as `open_input` does, and where there is no such folder.
    """
    place = parse_location(location)
    if place.local is not None:
        try:
            names = sorted(entry.name for entry in place.local.iterdir() if entry.is_file())
        except OSError as error:
            raise InputError(
                f"the folder cannot be read ({(error.strerror or '?').lower()})", where=str(place.local)
            ) from error
        return tuple(str(place.local / name) for name in names if _fits(name, pattern))
    with _as_input():
        store = ObjectStore(place.url, endpoint=endpoint)
        folders, sizes = store.list_folder()
        if not folders and not sizes:
            store.check_bucket()
            raise InputError("there is no such folder", where=place.url)
        return tuple(store.where(name) for name in sorted(sizes) if _fits(name, pattern))


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and (pattern.startswith(".") or not name.startswith("."))


def _open_local(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        reasons: dict[type[OSError], str] = {
            FileNotFoundError: "there is no such file",
            IsADirectoryError: "is a directory, not a file",
            PermissionError: "may not be read",
        }
        what = reasons.get(type(error), f"cannot be opened ({error.strerror or error})")
        raise InputError(what, where=str(path)) from error


@contextmanager
def _as_input() -> Iterator[None]:
    """What an operator named and cannot be had is bad input, whatever the reason."""
    try:
        yield
    except StorageError as error:
        raise InputError(error.what, where=error.where, remedy=error.remedy) from error


# ── s3:// ────────────────────────────────────────────────────────────────────────────────────────────────────────


class ObjectStore:
    """What lies below a URL s3://bucket[/prefix], by name relative to it. No call trusts an ETag, or a cached listing.

    Every method raises StorageError when the server refuses or cannot be reached, ConfigurationError without the
    extra `s3`. Safe across threads and forks.
    """

    def __init__(self, url: str, *, endpoint: str = "") -> None:
        place = parse_location(url)
        if place.protocol != "s3":
            raise InputError("is no s3:// URL", where=url)
        self.url, self.endpoint = place.url, endpoint
        self._bucket, self._prefix = place.bucket, place.path.rstrip("/")

    def below(self, name: str) -> ObjectStore:
        """The store whose names are relative to a folder of this one."""
        return ObjectStore(self.where(name), endpoint=self.endpoint)

    def where(self, name: str = "") -> str:
        """The URL of an object."""
        return f"{self.url}/{name}" if name else self.url

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, name: str) -> BinaryIO:
        """An object for reading, seekable, in blocks of 5 MB. One that changes meanwhile is an InputError."""
        where = self.where(name)
        with self._asking(name):
            try:
                file = self._fs().open(self._path(name), "rb", block_size=5 << 20)
            except FileNotFoundError as error:
                self.check_bucket()
                raise StorageError("there is no such object", where=where) from error
        return cast(BinaryIO, io.BufferedReader(_Explained(file, where), 1 << 20))

    def read(self, name: str) -> bytes:
        """A whole object; FileNotFoundError when there is none."""
        return cast(bytes, self._again(name, lambda: self._fs().cat_file(self._path(name), max_concurrency=1)))

    def fetch(self, name: str, path: Path) -> None:
        """A whole object into a file, by ranges, some at a time; FileNotFoundError when there is none.

        32 MiB of it are on their way at a time, however large it is; ranges that break off are asked for again, not
        what came before them. What came is for the caller to check.
        """
        found = self.head(name)
        if found is None:
            raise FileNotFoundError(self.where(name))
        try:
            with path.open("wb") as file:
                for first in range(0, found[0], _RANGE_BYTES * _RANGES_AT_ONCE):
                    last = min(found[0], first + _RANGE_BYTES * _RANGES_AT_ONCE)
                    for part in self._ranges(name, range(first, last, _RANGE_BYTES), last):
                        file.write(part)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            what = f"cannot write ({error.strerror})"
            raise StorageError(what, where=str(path), remedy="Free some space and run it again") from error

    def _ranges(self, name: str, starts: range, last: int) -> list[bytes]:
        """The bytes from each start to the next, asked for at once; those of the last one end at `last`."""
        ends = [*starts[1:], last]
        paths = [self._path(name)] * len(ends)
        options = {"batch_size": _RANGES_AT_ONCE, "on_error": "raise"}
        return cast("list[bytes]", self._again(name, lambda: self._fs().cat_ranges(paths, [*starts], ends, **options)))

    def head(self, name: str) -> tuple[int, str | None] | None:
        """An object's size, and the sha256 that `put_file` wrote beside it; None when there is none."""
        with self._asking(name):
            try:
                found = self._call("head_object", Key=self._key(name))
            except FileNotFoundError:
                return None
        return int(found["ContentLength"]), found.get("Metadata", {}).get("sha256")

    def list_folder(self) -> tuple[tuple[str, ...], dict[str, int]]:
        """The names of the folders directly below, and of the objects with their sizes."""
        folders: list[str] = []
        sizes: dict[str, int] = {}
        start = self._key("")
        for page in self._pages("list_objects_v2", ("ContinuationToken", "NextContinuationToken"), Delimiter="/"):
            folders += [str(found["Prefix"])[len(start) :].rstrip("/") for found in page.get("CommonPrefixes", [])]
            sizes |= {str(o["Key"])[len(start) :]: int(o["Size"]) for o in page.get("Contents", [])}
        sizes.pop("", None)  # what some tools leave to stand for a folder
        return tuple(folders), sizes

    def is_empty(self) -> bool:
        """Whether no object lies below. Some servers go on listing a folder for a while after its last object."""
        with self._asking(""):
            page = self._call("list_objects_v2", Prefix=self._key(""), MaxKeys=2)
        return all(str(found["Key"]) == self._key("") for found in page.get("Contents", []))

    def check_bucket(self) -> None:
        """Raises StorageError unless the bucket is there and may be used."""
        with self._asking(""):
            try:
                self._call("head_bucket")
            except FileNotFoundError as error:
                where = f"s3://{self._bucket}"
                raise StorageError("there is no such bucket", where=where, remedy="Make it first") from error

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def put_file(self, name: str, path: Path, sha256: str) -> None:
        """A file as an object, whole or not at all, unless it is there already: same size, same sha256 beside it.

        A body in one piece is sent with its sha256, which the server holds against what arrived; pieces of a larger
        one with a checksum each.
        """
        size = path.stat().st_size
        if self.head(name) == (size, sha256):
            return
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        with self._asking(name):
            self._fs().put_file(str(path), self._path(name), Metadata={"sha256": sha256}, ChecksumSHA256=checksum)
        if (stored := self.head(name)) != (size, sha256):
            what = f"the server keeps {stored} where {size} bytes were written"
            raise StorageError(what, where=self.where(name), remedy="Run it again")

    def create(self, name: str, data: bytes) -> None:
        """A new object, whole or not at all, and only if there is none of the name (or the same).

        Raises BusyError when another one is there. A server that knows no conditional writes is asked first.
        """
        request = {"Key": self._key(name), "Body": data}
        with self._asking(name):
            try:
                self._call("put_object", **request, IfNoneMatch="*")
                return
            except OSError as error:
                code = _code(error)
                if code not in ("PreconditionFailed", "412", "ConditionalRequestConflict", *_UNIMPLEMENTED):
                    raise
            if code in _UNIMPLEMENTED and self.head(name) is None:
                self._call("put_object", **request)
                return
        # It may be our own: an answer that was lost makes the client ask twice.
        if self.read(name) != data:
            raise BusyError("another one was written meanwhile", where=self.where(name), remedy="Look who writes there")

    def copy(self, source: str, target: str) -> None:
        """The server copies an object; FileNotFoundError when there is none."""
        with self._asking(source):
            self._fs().cp_file(self._path(source), self._path(target))

    def versions(self) -> list[Version]:
        """Every version of every object below, delete markers included; without versioning the objects as they are."""
        start, found = self._key(""), []
        turns = ("KeyMarker", "NextKeyMarker"), ("VersionIdMarker", "NextVersionIdMarker")
        try:
            for page in self._pages("list_object_versions", *turns):
                for kind in ("Versions", "DeleteMarkers"):
                    found += [
                        Version(str(v["Key"])[len(start) :], v["VersionId"], bool(v["IsLatest"]), kind != "Versions")
                        for v in page.get(kind, [])
                    ]
            return found
        except StorageError as error:
            if not _is_unimplemented(error):
                raise
        for page in self._pages("list_objects_v2", ("ContinuationToken", "NextContinuationToken")):
            found += [Version(str(o["Key"])[len(start) :], None, True, False) for o in page.get("Contents", [])]
        return found

    def size_of(self, version: Version) -> int:
        """How many bytes a version of an object has; FileNotFoundError when it is gone."""
        named = {} if version.id is None else {"VersionId": version.id}
        with self._asking(version.name):
            return int(self._call("head_object", Key=self._key(version.name), **named)["ContentLength"])

    def read_range(self, version: Version, start: int, end: int) -> bytes:
        """Some bytes of a version of an object, the newest or not; FileNotFoundError when it is gone."""
        path, named = self._path(version.name), {} if version.id is None else {"version_id": version.id}
        return cast(bytes, self._again(version.name, lambda: self._fs().cat_file(path, start=start, end=end, **named)))

    def lists_versions(self) -> bool:
        """Whether the server can say which versions it keeps; where it cannot, older ones cannot be found here."""
        try:
            with self._asking(""):
                self._call("list_object_versions", Prefix=self._key(""), MaxKeys=1)
        except StorageError as error:
            if not _is_unimplemented(error):
                raise
            return False
        return True

    def purge(self, doomed: Callable[[Version], bool]) -> int:
        """Takes away the versions that are meant, and every unfinished upload below; how many went.

        Looks again afterwards: StorageError when one is still there.
        """
        gone = self._delete([version for version in self.versions() if doomed(version)])
        self._abort_uploads()
        if left := [version for version in self.versions() if doomed(version)] if gone else []:
            what = f"{len(left)} versions are still there although they were deleted, {left[0].name} for one"
            remedy = "A retention rule or an object lock of the bucket may hold them: lift it and run it again"
            raise StorageError(what, where=self.url, remedy=remedy)
        return gone

    def uploads(self) -> list[tuple[str, str]]:
        """Unfinished uploads below: (key in the bucket, id)."""
        turns = ("KeyMarker", "NextKeyMarker"), ("UploadIdMarker", "NextUploadIdMarker")
        try:
            pages = list(self._pages("list_multipart_uploads", *turns))
        except StorageError as error:
            if not _is_unimplemented(error):
                raise
            return []
        return [(str(upload["Key"]), str(upload["UploadId"])) for page in pages for upload in page.get("Uploads", [])]

    # ── within ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _delete(self, versions: Iterable[Version]) -> int:
        count = 0
        for version in versions:
            named = {} if version.id is None else {"VersionId": version.id}
            with self._asking(version.name):
                self._call("delete_object", Key=self._key(version.name), **named)
            count += 1
        return count

    def _abort_uploads(self) -> None:
        for key, upload in self.uploads():
            with self._asking(""):
                try:
                    self._call("abort_multipart_upload", Key=key, UploadId=upload)
                except FileNotFoundError:
                    continue

    def _pages(self, method: str, *turns: tuple[str, str], **request: str) -> Iterator[Mapping[str, Any]]:
        """A listing below this store, page by page. `turns`: (what to send, where it stands in the page before)."""
        request["Prefix"] = self._key("")
        while True:
            with self._asking(""):
                try:
                    page = self._call(method, **request)
                except FileNotFoundError as error:
                    raise StorageError("there is no such bucket", where=f"s3://{self._bucket}") from error
            yield page
            if not page.get("IsTruncated"):
                return
            request |= {send: page[told] for send, told in turns if page.get(told)}

    def _call(self, method: str, **request: object) -> Mapping[str, Any]:
        return cast("Mapping[str, Any]", self._fs().call_s3(method, Bucket=self._bucket, **request))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _path(self, name: str) -> str:
        return f"{self._bucket}/{self._key(name)}"

    def _fs(self) -> Any:
        """s3fs, whose instances fsspec keeps by process, thread and options."""
        try:
            import fsspec
            import s3fs  # noqa: F401  # fsspec would say no more than that something is missing
        except ImportError as error:
            what = f"s3:// needs a package that is not installed ({error.name})"
            raise ConfigurationError(what, where=self.url, remedy="pip install 'image-custody[s3]'") from error
        retries = {"total_max_attempts": _ATTEMPTS, "mode": "standard"}
        fs = fsspec.filesystem(
            "s3",
            endpoint_url=self.endpoint or None,
            use_listings_cache=False,
            config_kwargs={"connect_timeout": _CONNECT_S, "read_timeout": _READ_S, "retries": retries},
        )
        fs.retries = 1  # botocore tries again already, and two loops within each other multiply
        return fs

    def _again(self, name: str, work: Callable[[], Any]) -> Any:
        """A transfer, begun again where the connection broke in its middle, which botocore does not do."""
        for left in reversed(range(_ATTEMPTS)):
            try:
                with self._asking(name):
                    return work()
            except StorageError as error:
                if not left or not _is_broken(error.__cause__):
                    raise
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """Failures in our words; that an object is not there is for the caller to judge."""
        try:
            yield
        except (FileNotFoundError, CustodyError):
            raise
        except Exception as error:
            if (told := _explain(error, self.where(name))) is None:
                raise
            raise told from error


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object. `id` None: the server knows no versions; `deleted`: it is a delete marker."""

    name: str
    id: str | None
    newest: bool
    deleted: bool


def _code(error: BaseException | None) -> str:
    """The code of an S3 error, "" when it is none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, Mapping):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def _is_unimplemented(error: BaseException) -> bool:
    return _code(error) in _UNIMPLEMENTED


def _is_broken(error: BaseException | None) -> bool:
    """Whether a body ended before its end."""
    from aiohttp import ClientPayloadError
    from botocore.exceptions import IncompleteReadError, ResponseStreamingError

    return isinstance(error, ClientPayloadError | IncompleteReadError | ResponseStreamingError | ConnectionResetError)


def _explain(error: Exception, where: str) -> StorageError | None:
    """A failure of s3fs, botocore or the network as what it means; None for what is none of theirs."""
    from aiohttp import ClientError
    from botocore import exceptions as boto
    from fsspec.exceptions import FSTimeoutError

    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.ProfileNotFound):
        return StorageError("no credentials are configured for it", where=where, remedy=_CREDENTIALS)
    if isinstance(error, PermissionError):
        return StorageError(f"the server refuses ({error})", where=where, remedy=_CREDENTIALS)
    if _is_broken(error):
        return StorageError(f"the connection breaks ({error})", where=where, remedy=_AGAIN)
    unreachable = boto.HTTPClientError | boto.ConnectionError | FSTimeoutError | ConnectionError | TimeoutError
    if isinstance(error, unreachable | ClientError):
        return StorageError(f"the server cannot be reached ({error})", where=where, remedy=_ENDPOINT)
    if isinstance(error, boto.BotoCoreError | boto.ClientError | OSError | ValueError):
        return StorageError(f"the server or its configuration fails ({error})", where=where, remedy=_AGAIN)
    return None


class _Explained(io.RawIOBase):
    """An s3fs file whose failures are InputErrors that name the object."""

    def __init__(self, file: Any, where: str) -> None:
        self._file, self._where = file, where

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except FileNotFoundError as error:
            raise InputError("the object was taken away while it was read", where=self._where) from error
        except Exception as error:
            if (told := _explain(error, self._where)) is None:
                raise
            raise InputError(told.what, where=told.where, remedy=told.remedy) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
