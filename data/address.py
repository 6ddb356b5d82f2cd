"""What an image's address leads to: local files, hosts, stores; and the same address without its secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, urljoin, urlsplit
from urllib.request import url2pathname

Kind = Literal["local", "http", "store", "unknown"]

# Stores that GDAL reads under a prefix of its own, by the scheme that people write.
STORES = {"s3": "vsis3", "gs": "vsigs", "az": "vsiaz", "abfs": "vsiadls", "abfss": "vsiadls", "oss": "vsioss"}
_STORE_PATH = re.compile(r"^/(vsi(?:s3|gs|az|adls|oss|swift|hdfs|webhdfs))(?:_streaming)?/(.*)$", re.DOTALL)
_ARCHIVE = re.compile(r"^/vsi(?:zip|tar|gzip|7z|rar)/(.*)$", re.DOTALL)
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:(?!\\)")  # a drive letter is one letter, and no scheme
_USER = re.compile(r"(://|%3A%2F%2F)[^/?#\s\"'<>@]*(@|%40)", re.IGNORECASE)
# A value in a query, without the punctuation of the sentence it stands in.
_VALUE = r"[^&;\s\"'<>#]*?(?=[:.,)]*(?:[&;\s\"'<>#]|$))"
# In a query (plain, percent-encoded or escaped for XML): a name that says "secret", or those of a signature's parts.
_NAMED = re.compile(
    r"(?P<name>(?:[?&;]|%3F|%26)(?:[\w.-]*(?:sig|signature|token|secret|passw(?:or)?d|pwd|credentials?|key|keyid|auth|jwt|"
    r"session|policy)|x-(?:amz|goog|ms|oss)-[\w-]+|code|sv|se|sp|st|skoid|sktid))(?P<is>=|%3D)" + _VALUE,
    re.IGNORECASE,
)
# A value in a query that looks like a key, whatever its name: long, and no path.
_LONG = re.compile(r"(?P<name>[?&;][\w.-]+)(?P<is>=)[A-Za-z0-9+_=%~-]{24,}")
# Connection strings and headers.
_WORDS = re.compile(
    r"(?P<name>\b(?:(?:password|passwd|pwd|secret)(?= *=)|authorization(?= *:)))(?P<is> *[=:] *)"
    r"(?:(?:basic|bearer) )?[^&;\s\"'<>#]+",
    re.IGNORECASE,
)
# What may stand beside an image under its name and a suffix, and changes what is read: metadata, mask, overviews.
SIBLINGS = (".aux.xml", ".msk", ".ovr")
HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class Address:
    """One place that an address leads to.

    Attributes:
        kind: `local`, `http` (`where` is the URL), `store` (`where` is `s3://bucket/key`), or `unknown`.
        where: path or URL, secrets included.
    """

    kind: Kind
    where: str


def gdal_path(uri: str) -> str:
    """Return an address as GDAL reads it window by window.

    Example:
        >>> gdal_path("https://example.org/a.tif"), gdal_path("s3://images/a.tif"), gdal_path("file:///data/a.tif")
        ('/vsicurl/https://example.org/a.tif', '/vsis3/images/a.tif', '/data/a.tif')
    """
    scheme, mark, rest = uri.partition("://")
    scheme = scheme.casefold()
    if mark and scheme in {"http", "https", "ftp"}:
        return f"/vsicurl/{uri}"
    if mark and scheme in STORES:
        return f"/{STORES[scheme]}/{rest}"
    if scheme == "file" and mark:
        return url2pathname(urlsplit(uri).path)
    return uri


def address(uri: str) -> Address:
    """Say what an image's address leads to in the end, through archives and other wrappers.

    Args:
        uri: what a user gave: a path, a URL, `/vsi…`.

    Example:
        >>> address("/vsizip//vsicurl/https://example.org/a.zip/a.tif")
        Address(kind='http', where='https://example.org/a.zip/a.tif')
        >>> address("WMS:https://example.org").kind
        'unknown'
    """
    path = gdal_path(uri)
    if path.startswith("/vsicurl"):
        return _web(path)
    store = _STORE_PATH.match(path)
    if store:
        scheme = next((name for name, prefix in STORES.items() if prefix == store[1]), store[1])
        return Address("store", f"{scheme}://{store[2]}")
    archive = _ARCHIVE.match(path)
    if archive:
        inner = archive[1]
        if inner.startswith("{"):
            inner = inner[1:].replace("}", "", 1)
        if inner.startswith("vsi"):  # GDAL takes one slash for two between its prefixes
            inner = f"/{inner}"
        return address(inner)
    if path.startswith("/vsisubfile/"):
        _, comma, inner = path.partition(",")
        return address(inner) if comma else Address("unknown", uri)
    if path.startswith(("/vsi", "<")) or "://" in path or _SCHEME.match(path):
        return Address("unknown", uri)
    return Address("local", path)


def _web(path: str) -> Address:
    """What `/vsicurl/…`, `/vsicurl_streaming/…` or `/vsicurl?…&url=…` leads to."""
    match = re.match(r"^/vsicurl(?:_streaming)?/(.*)$", path, re.DOTALL)
    if match:
        url = match[1]
    else:
        given = parse_qs(path.partition("?")[2]).get("url", [])
        url = given[0] if len(given) == 1 else ""
    web = url.casefold().startswith(("http://", "https://"))
    return Address("http", url) if web else Address("unknown", path)


def is_remote(uri: str) -> bool:
    """Tell whether an address is read over a network.

    Example:
        >>> is_remote("/vsicurl/https://example.org/a.tif"), is_remote("/data/a.tif")
        (True, False)
    """
    return address(uri).kind in {"http", "store"} or "/vsicurl" in uri or "://" in uri


def joined(base: str, href: str) -> str:
    """Return a link as seen from the document at `base`, both URLs or local paths; made so that GDAL can open it.

    A link relative to a signed document does not inherit its signature, as with any URL.
    """
    if "://" in href or href.startswith("/vsi"):
        return gdal_path(href)
    place = address(base)
    if place.kind in {"http", "store"}:
        if place.kind == "store":  # urljoin knows no store, and treats it as a path
            scheme, _, rest = place.where.partition("://")
            return gdal_path(f"{scheme}:" + urljoin(f"//{rest}", href))
        return gdal_path(urljoin(place.where, href))
    return href


def redacted(text: str) -> str:
    """Return an address, or any message with addresses in it, without the secrets.

    Left out are users and passwords, the values of names that say token, key, signature and the like, in queries and
    in connection strings, and long values in queries that look like keys.

    Example:
        >>> redacted("cannot open /vsicurl/https://me:pw@example.org/a.tif?sig=abc&band=3")
        'cannot open /vsicurl/https://***@example.org/a.tif?sig=***&band=3'
    """
    text = _USER.sub(rf"\g<1>{HIDDEN}\g<2>", text)
    for pattern in (_NAMED, _LONG, _WORDS):
        text = pattern.sub(rf"\g<name>\g<is>{HIDDEN}", text)
    return text
