"""Files that the operator names: a path, or any address fsspec understands (s3://bucket/key)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import fsspec

from policy.errors import InputError


@contextmanager
def opened(location: str) -> Iterator[BinaryIO]:
    """The bytes at a location, seekable; raises InputError where there are none to be had."""
    try:
        file = fsspec.open(location, "rb").open()
    except FileNotFoundError as error:
        raise InputError("no such file", where=location) from error
    except (OSError, ValueError, ImportError) as error:
        remedy = "s3:// needs the extra `s3`" if isinstance(error, ImportError) else ""
        raise InputError(f"cannot be opened: {error}", where=location, remedy=remedy) from error
    with file:
        yield cast(BinaryIO, file)
