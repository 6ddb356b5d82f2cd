"""The allow-list of a service: hosts, stores and folders that images may come from; the rest is refused."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tuban.data.address import STORES, Address, address, redacted
from tuban.errors import ForbiddenAddressError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_HOST = re.compile(r"^(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*$")
# Characters on which parsers of URLs disagree: none belongs into one unescaped.
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\^`{|}<>\"]")
_PORTS = {"http": 80, "https": 443}
# Where clouds answer with the machine's own credentials.
_METADATA = (ipaddress.ip_address("169.254.169.254"), ipaddress.ip_address("fd00:ec2::254"))


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry: a folder, or a scheme ("" = http and https), host, port (None = the scheme's own) and path prefix."""

    scheme: str
    host: str
    port: int | None
    prefix: str


class AllowList:
    """What a service may read.

    Args:
        lists: lists of entries; an address has to be named by each of the lists.

    Raises:
        UsageError: an entry is neither a host, a URL prefix nor an absolute folder.
    """

    def __init__(self, lists: Iterable[Iterable[str]]) -> None:
        self.text = tuple(tuple(entries) for entries in lists)
        self._lists = tuple(tuple(_entry(text) for text in entries) for entries in self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AllowList) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def check(self, uri: str, *, redirected_from: str = "") -> Address:
        """Return what an address leads to.

        Raises:
            ForbiddenAddressError: it is not allowed, or is in a form that cannot be checked; nothing was fetched.
        """
        place = address(uri)
        reason = self._refusal(place)
        if reason:
            shown = redacted(uri) if len(uri) < 1000 else f"{redacted(uri)[:80]}…"
            way = f"{redacted(redirected_from)} leads to " if redirected_from else ""
            raise ForbiddenAddressError(
                f"{way}{shown}: refused, {reason}; nothing was fetched. Ask the operator of this service to "
                "allow it (TUBAN_ALLOW, or `allow` in the settings)"
            )
        return place

    def _refusal(self, place: Address) -> str:
        if place.kind == "local":
            return "" if self._folder_allowed(place.where) else "this file is in no folder that is allowed"
        if place.kind == "store":
            if ".." in unquote(place.where).split("/") or _UNSAFE.search(place.where):
                return "the key holds characters that are not allowed"
            return "" if self._store_allowed(place.where) else "this bucket is not allowed"
        if place.kind == "http":
            return self._url_refusal(place.where)
        return "this form of address is not read by a service"

    def _url_refusal(self, url: str) -> str:
        if _UNSAFE.search(url):
            return "the address holds characters that are not allowed unescaped"
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS[parts.scheme.casefold()]
        except (ValueError, KeyError):
            return "this is no http(s) address"
        if parts.username is not None or "@" in parts.netloc:
            return "an address with a user in it is not read by a service"
        host = canonical_host(parts.hostname or "")
        path = unquote(parts.path)
        if not host or ".." in path.split("/"):
            return "its path holds '..'" if host else "it names no host"
        if not all(any(_url_matches(e, parts.scheme.casefold(), host, port, path) for e in li) for li in self._lists):
            return f"host {host} is not allowed" if not self._names_host(host) else "this path or port is not allowed"
        return ""

    def permits(self, host: str, port: int) -> bool:
        """Tell whether any address on a host and port is allowed: all that can be seen of an encrypted connection."""
        host = canonical_host(host)
        return bool(host) and all(
            any(e.host and _host_matches(e, host) and port in _ports(e) for e in entries) for entries in self._lists
        )

    def stores(self) -> frozenset[str]:
        """The kinds of store (`s3`, `gs`, `az` …) of which something is allowed."""
        kinds = [frozenset(e.scheme for e in entries if e.scheme in STORES) for entries in self._lists]
        return frozenset.intersection(*kinds) if kinds else frozenset()

    def addresses(self, host: str, port: int, *, named: bool = False) -> list[tuple[int, str]]:
        """Resolve an allowed host to the (family, address) pairs that may be connected to.

        A name may lead to a private or local address only where it is listed itself rather than by a wildcard, and to
        a link-local one (cloud metadata) only where that address is listed.

        Args:
            host: name or address.
            port: to connect to.
            named: the operator named this host elsewhere, as the endpoint of a store.

        Raises:
            ForbiddenAddressError: the name leads to no address that is allowed.
            OSError: the name cannot be resolved.
        """
        name = canonical_host(host)
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        ok = [
            (int(family), str(place[0]))
            for family, _, _, _, place in found
            if self._reachable(name, str(place[0]), named=named)
        ]
        if not ok:
            raise ForbiddenAddressError(
                f"host {name} leads to {found[0][4][0]}, an address inside a private network or of the machine itself: "
                "refused; list the host by its full name to allow it"
            )
        return ok

    def _reachable(self, name: str, ip: str, *, named: bool) -> bool:
        place = _unmapped(ipaddress.ip_address(ip.partition("%")[0]))
        if place.is_link_local or place in _METADATA or place.is_multicast or place.is_unspecified:
            return name == str(place)  # only where it was asked for, and so listed, as such
        if place.is_global or named:
            return True
        return all(any(entry.host == name for entry in entries) for entries in self._lists)

    def _names_host(self, host: str) -> bool:
        return all(any(e.host and _host_matches(e, host) for e in entries) for entries in self._lists)

    def _folder_allowed(self, path: str) -> bool:
        real = os.path.realpath(path)
        return "\x00" not in path and all(
            any(
                e.scheme == "file" and (real == e.prefix or real.startswith(e.prefix.rstrip(os.sep) + os.sep))
                for e in li
            )
            for li in self._lists
        )

    def _store_allowed(self, where: str) -> bool:
        scheme, _, key = where.partition("://")
        return all(any(e.scheme == scheme and key.startswith(e.prefix) for e in entries) for entries in self._lists)


def _entry(text: str) -> _Entry:
    """Parse one entry."""
    scheme, mark, rest = text.partition("://")
    scheme = scheme.casefold()
    if not mark and Path(text).is_absolute():
        return _Entry("file", "", None, os.path.realpath(text))
    if mark and scheme in STORES and rest.strip("/"):
        bucket, _, prefix = rest.partition("/")
        return _Entry(scheme, "", None, f"{bucket}/{prefix}")
    if not mark or scheme in _PORTS:
        parts = urlsplit(text if mark else f"//{text}")
        try:
            host, port = (parts.hostname or "").casefold(), parts.port
        except ValueError:
            host, port = "", None
        wild = host.startswith("*.")
        name = canonical_host(host[2:] if wild else host)
        if name and not parts.query and not parts.username and (mark or not parts.path):
            return _Entry(scheme if mark else "", f"*.{name}" if wild else name, port, unquote(parts.path) or "/")
    raise UsageError(
        f"allow: {text!r} is no host, URL prefix or absolute folder; write example.org, *.example.org, "
        "https://example.org/images/, s3://bucket/prefix/ or /data/images"
    )


def canonical_host(host: str) -> str:
    """Return a host in one form, "" where it is none: small letters, ASCII; every notation of an IP address as one.

    Example:
        >>> [canonical_host(h) for h in ("EXAMPLE.org.", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]")]
        ['example.org', '127.0.0.1', '127.0.0.1', '127.0.0.1']
    """
    host = unquote(host).strip().rstrip(".").casefold()
    if ":" in host:
        try:
            return str(_unmapped(ipaddress.ip_address(host.strip("[]").partition("%")[0])))
        except ValueError:
            return ""
    try:
        return socket.inet_ntoa(socket.inet_aton(host)) if re.match(r"^[0-9a-fx.]+$", host) else _ascii(host)
    except OSError:  # looks like a number and is none, such as "cafe.de"
        return _ascii(host)


def _ascii(host: str) -> str:
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        return ""
    return name if _HOST.match(name) else ""


def _unmapped(place: IPAddress) -> IPAddress:
    """The IPv4 address inside an IPv6 one: mapped, 6to4, NAT64."""
    if isinstance(place, ipaddress.IPv6Address):
        inner = place.ipv4_mapped or place.sixtofour
        if inner is None and place in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(place) & 0xFFFFFFFF)
        return inner or place
    return place


def _url_matches(entry: _Entry, scheme: str, host: str, port: int, path: str) -> bool:
    if not entry.host or entry.scheme not in {"", scheme} or not _host_matches(entry, host):
        return False
    if port != (entry.port or _PORTS[scheme]):
        return False
    prefix = entry.prefix
    return (path or "/").startswith(prefix) if prefix.endswith("/") else path == prefix or path.startswith(f"{prefix}/")


def _host_matches(entry: _Entry, host: str) -> bool:
    if entry.host.startswith("*."):
        return host.endswith(entry.host[1:]) and len(host) > len(entry.host) - 1
    return host == entry.host


def _ports(entry: _Entry) -> set[int]:
    if entry.port is not None:
        return {entry.port}
    return {_PORTS[entry.scheme]} if entry.scheme in _PORTS else set(_PORTS.values())
