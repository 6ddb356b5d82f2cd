"""Small pieces of remote files: texts, first bytes, headers; redirects are followed only where that is allowed."""

from __future__ import annotations

import time
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from tuban.data.address import SIBLINGS, address, joined, redacted
from tuban.data.guard import guard_for
from tuban.data.stores import SCHEMES, opened_store
from tuban.errors import ForbiddenAddressError, ReadError, RefusedError, SceneError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tuban.data.allow import AllowList
    from tuban.data.remote import RemoteSettings

_MAX_TEXT = 16 * 2**20  # a STAC item has some hundred kilobytes at most


def fetch_text(uri: str, settings: RemoteSettings) -> str:
    """Return the text of a remote document of at most 16 MB, such as a STAC item.

    Raises:
        ReadError: it cannot be fetched; retried as `settings` say.
        ForbiddenAddressError: it, or an address it redirects to, is not allowed.
        SceneError: it is too large or is no UTF-8 text.
    """
    place = address(uri)
    allow = settings.allowed()
    if allow is not None:
        allow.check(uri)
    if place.kind == "http":
        body = requested(place.where, settings, method="GET")[1]
    elif place.kind == "store" and place.where.startswith(SCHEMES):
        with opened_store(place.where, settings) as (store, key), store.open_input_stream(key) as stream:
            body = stream.read(_MAX_TEXT + 1)
    else:
        raise SceneError(f"{redacted(uri)}: cannot be read as text; give an http(s), s3 or gs address, or a local file")
    if len(body) > _MAX_TEXT:
        raise SceneError(f"{redacted(uri)}: has more than {_MAX_TEXT >> 20} MB; give a STAC item, not an image")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SceneError(f"{redacted(uri)}: is no UTF-8 text; give the JSON of a STAC item") from None


def fetch_beside(uri: str, name: str, settings: RemoteSettings) -> str | None:
    """Return the text of a document beside a remote file, None where there is none or it may not be read.

    Stores that do not list answer 403 for what is not there; a document that a service may not read is left out, too.

    Raises:
        ReadError: the server fails; whether there is such a document is then not known.
    """
    target = joined(uri, name)
    if address(target).kind not in {"http", "store"}:
        return None
    try:
        return fetch_text(target, settings)
    except (RefusedError, ForbiddenAddressError):
        return None


def siblings(uri: str, settings: RemoteSettings) -> tuple[str, ...]:
    """Return which of a mask, overviews and metadata stand beside a remote image, as suffixes to its name.

    A signed address has none: its signature is good for one file.

    Raises:
        ReadError: the server fails; whether there are any is then not known.
    """
    place = address(uri)
    if place.kind == "store" and place.where.startswith(SCHEMES):
        with opened_store(place.where, settings) as (store, key):
            found = store.get_file_info([key + suffix for suffix in SIBLINGS])
            return tuple(suffix for suffix, info in zip(SIBLINGS, found, strict=True) if info.is_file)
    if place.kind != "http" or "?" in place.where:
        return ()
    return tuple(suffix for suffix in SIBLINGS if _exists(place.where + suffix, settings))


def _exists(url: str, settings: RemoteSettings) -> bool:
    try:
        requested(url, settings, method="HEAD")
    except (RefusedError, ForbiddenAddressError):
        return False
    return True


def head_of(uri: str, settings: RemoteSettings, size: int = 4096) -> bytes | None:
    """Return the first bytes of a remote file, None where the store cannot be asked; follows no forbidden redirect."""
    place = address(uri)
    if place.kind == "http":
        return requested(place.where, settings, method="GET", limit=size)[1][:size]
    if place.kind == "store" and place.where.startswith(SCHEMES):
        with opened_store(place.where, settings) as (store, key), store.open_input_file(key) as stream:
            return bytes(stream.read(size))
    return None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only where the allow-list lets it."""

    def __init__(self, allow: AllowList | None) -> None:
        self._allow = allow

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if self._allow is not None:
            self._allow.check(newurl, redirected_from=req.full_url)
        elif not newurl.casefold().startswith(("http://", "https://")):
            raise ForbiddenAddressError(
                f"{redacted(req.full_url)} redirects to {redacted(newurl)}: only http(s) is read"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def requested(
    url: str, settings: RemoteSettings, *, method: str, limit: int | None = None
) -> tuple[Mapping[str, str], bytes]:
    """Headers (names in small letters) and body of one request, tried again where that may help."""
    allow = settings.allowed()
    handlers: list[Any] = [_Redirects(allow)]
    if allow is not None:
        proxy = guard_for(allow).url
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    opener = urllib.request.build_opener(*handlers)
    plain, user = _without_user(url)
    headers = {"User-Agent": "tuban", "Accept-Encoding": "identity", **user}
    if limit is not None:
        headers["Range"] = f"bytes=0-{limit - 1}"
    give_up, problem = time.monotonic() + settings.give_up_s, ""
    for attempt in range(settings.retries + 1):
        if attempt:
            time.sleep(settings.retry_delay_s * 2 ** (attempt - 1))
        request = urllib.request.Request(plain, method=method, headers=headers)  # noqa: S310 - http(s), see `address`
        try:
            with opener.open(request, timeout=min(settings.stall_s, settings.timeout_s)) as reply:
                body = _body(reply, limit or _MAX_TEXT + 1, settings) if method != "HEAD" else b""
                return {name.casefold(): value for name, value in reply.headers.items()}, body
        except urllib.error.HTTPError as error:
            error.close()
            problem = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code not in {408, 425, 429}:
                raise _failed(RefusedError, url, problem, attempt) from None
        except ForbiddenAddressError:
            raise
        except (urllib.error.URLError, OSError, ValueError) as error:
            problem = redacted(" ".join(str(getattr(error, "reason", error)).split())) or type(error).__name__
        if time.monotonic() > give_up:
            break
    raise _failed(ReadError, url, problem, attempt)


def _failed(kind: type[ReadError], url: str, problem: str, attempt: int) -> ReadError:
    tries = f" in {attempt + 1} attempts" if attempt else ""
    error = kind(f"{redacted(url)}: cannot be read{tries} ({problem}); {remedy(problem)}")
    error.path, error.detail = redacted(url), problem
    return error


def _body(reply: Any, most: int, settings: RemoteSettings) -> bytes:
    """At most `most` bytes of a reply; a body cut short and one that drips for ever are errors."""
    length = reply.headers.get("Content-Length")
    chunks, got, until = [], 0, time.monotonic() + settings.timeout_s
    while got < most:
        chunk = reply.read1(min(65536, most - got))
        if not chunk:
            break
        chunks.append(chunk)
        got += len(chunk)
        if time.monotonic() > until:
            raise TimeoutError(f"took more than {settings.timeout_s:g} s")
    if length is not None and length.isdigit() and got < min(int(length), most):
        raise OSError(f"the connection ended after {got} of {length} bytes")
    return b"".join(chunks)


def _without_user(url: str) -> tuple[str, dict[str, str]]:
    """The URL without user and password, and the header that carries them."""
    parts = urllib.parse.urlsplit(url)
    if "@" not in parts.netloc:
        return url, {}
    user, _, host = parts.netloc.rpartition("@")
    token = b64encode(urllib.parse.unquote(user).encode()).decode()
    return parts._replace(netloc=host).geturl(), {"Authorization": f"Basic {token}"}


def remedy(problem: str) -> str:
    """Return what to do about a problem that the network or a server reported."""
    words = problem.casefold()
    if any(said in words for said in ("404", "410", "not found", "does not exist", "is gone")):
        return "check the address; the file may have been moved"
    if any(said in words for said in ("401", "403", "denied", "signature", "credential")):
        return "check the credentials; a signed address may have expired"
    return "check the server and the network, then run again"
