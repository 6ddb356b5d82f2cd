"""Objects in S3 and Google stores, asked for what GDAL does not tell; under the variables that GDAL reads."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any

from tuban.data.address import redacted
from tuban.data.guard import Guard, guard_for
from tuban.errors import ReadError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tuban.data.remote import RemoteSettings

SCHEMES = ("s3://", "gs://")
_NOT_THERE = re.compile(r"not found|does not exist|404|403|access denied", re.IGNORECASE)


@contextlib.contextmanager
def opened_store(uri: str, settings: RemoteSettings) -> Iterator[tuple[Any, str]]:
    """The store of an `s3://` or `gs://` address and the object's key in it, under the variables that GDAL reads."""
    import pyarrow.fs

    scheme, _, key = uri.partition("://")
    allow = settings.allowed()
    try:
        if scheme == "gs":
            yield pyarrow.fs.GcsFileSystem(anonymous=os.environ.get("GS_NO_SIGN_REQUEST") == "YES"), key
            return
        guard = guard_for(allow) if allow is not None else None
        yield pyarrow.fs.S3FileSystem(**_s3_options(settings, guard)), key
    except OSError as error:
        text = redacted(" ".join(str(error).split()))
        kind = RefusedError if _NOT_THERE.search(text) else ReadError
        raise kind(f"{redacted(uri)}: cannot be read ({text}); check bucket, key and credentials") from error


def _s3_options(settings: RemoteSettings, guard: Guard | None) -> dict[str, Any]:
    environ = os.environ
    options: dict[str, Any] = {
        "request_timeout": settings.timeout_s,
        "connect_timeout": settings.connect_timeout_s,
        "anonymous": environ.get("AWS_NO_SIGN_REQUEST", "NO").upper() in {"YES", "TRUE", "1"},
        "region": environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        "scheme": "http" if environ.get("AWS_HTTPS", "YES").upper() in {"NO", "FALSE", "0"} else "https",
    }
    if environ.get("AWS_S3_ENDPOINT"):
        options["endpoint_override"] = environ["AWS_S3_ENDPOINT"]
    if guard is not None:
        user, _, password = guard.credentials.partition(":")
        options["proxy_options"] = {
            "scheme": "http", "host": guard.host, "port": guard.port, "username": user, "password": password,
        }  # fmt: skip
    return options


def store_facts(uri: str, settings: RemoteSettings) -> dict[str, Any]:
    """Return size in bytes, ETag and time of the last change of an object.

    Raises:
        ReadError: it is not there, or the store does not answer.
    """
    with opened_store(uri, settings) as (store, key):
        info = store.get_file_info(key)
        if not info.is_file:
            raise RefusedError(f"{redacted(uri)}: no such object; check bucket, key and credentials")
        with store.open_input_file(key) as stream:
            known = {str(name).casefold(): _word(value) for name, value in (stream.metadata() or {}).items()}
        return {"size": info.size, "etag": known.get("etag"), "last_modified": info.mtime.isoformat()}


def _word(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
