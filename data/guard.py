"""The way out of a service: a proxy on this machine that lets requests through only to what the allow-list names.

GDAL follows redirects, and addresses inside files, by itself. Its requests are therefore sent through this proxy, which
sees each of them, resolves the name itself and connects to that very address, so that a name that changes its address
between check and use gains nothing. Of an encrypted connection it sees host and port; plain requests are checked whole.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hmac
import logging
import os
import re
import secrets
import select
import socket
import socketserver
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tuban.data.address import redacted
from tuban.errors import ForbiddenAddressError

if TYPE_CHECKING:
    from tuban.data.allow import AllowList

_log = logging.getLogger(__name__)
_HEAD_BYTES = 65536
_IDLE_S = 600  # the time-outs that matter are those of the client; this only clears away what it forgot
_AMAZON = re.compile(r"^(?:[a-z0-9.-]+\.)?s3(?:[.-][a-z0-9-]+)*\.amazonaws\.com(?:\.cn)?$")


class Guard:
    """A filtering HTTP proxy on the loopback interface, with a password of its own.

    Args:
        allow: what may be reached.

    Attributes:
        host: loopback address.
        port: chosen by the system.
        credentials: `user:password` of the proxy.
    """

    def __init__(self, allow: AllowList) -> None:
        self.credentials = f"tuban:{secrets.token_urlsafe(24)}"
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.allow, self._server.expected = (
            allow,
            "Basic " + base64.b64encode(self.credentials.encode()).decode(),
        )
        self.host, self.port = "127.0.0.1", self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="tuban-guard", daemon=True).start()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Address with the credentials, as urllib wants a proxy."""
        return f"http://{self.credentials}@{self.address}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


_guards: dict[tuple[int, AllowList], Guard] = {}
_lock = threading.Lock()


def guard_for(allow: AllowList) -> Guard:
    """Return this process's guard for an allow-list; it is started when first asked for and ends with the process."""
    with _lock:
        key = (os.getpid(), allow)  # a fork inherits the table, but not the thread
        if key not in _guards:
            for name in ("no_proxy", "NO_PROXY"):
                if os.environ.pop(name, None) is not None:
                    _log.warning("%s is ignored: a service reaches every host through its guard", name)
            _guards[key] = Guard(allow)
        return _guards[key]


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow: AllowList
    expected: str

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - signature of the base class
        _log.debug("guard: a connection ended early", exc_info=True)


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        client: socket.socket = self.request
        client.settimeout(_IDLE_S)
        head, rest = _head(client)
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3:
            return _answer(client, "400 Bad Request", "this is no HTTP request")
        fields = [line.partition(":") for line in lines[1:] if line]
        given = next((value.strip() for name, _, value in fields if name.casefold() == "proxy-authorization"), "")
        if not hmac.compare_digest(given.encode(), self.server.expected.encode()):
            extra = 'Proxy-Authenticate: Basic realm="tuban"\r\n'
            return _answer(client, "407 Proxy Authentication Required", "this proxy is private", extra)
        try:
            host, port, first = self._let_through(words[0], words[1], fields)
            upstream = self._connected(host, port)
        except ForbiddenAddressError as error:
            _log.warning("refused: %s", error)
            return _answer(client, "403 Forbidden", str(error))
        except OSError as error:
            return _answer(client, "502 Bad Gateway", redacted(str(error)))
        with upstream:
            if first:
                upstream.sendall(first + rest)
            else:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _relay(client, upstream)
        return None

    def _let_through(self, method: str, target: str, fields: list[tuple[str, str, str]]) -> tuple[str, int, bytes]:
        """Host, port and, for a plain request, its head as the server wants it; an error where it is not allowed."""
        allow = self.server.allow
        if method == "CONNECT":
            parts = urlsplit(f"//{target}")
            host, port = parts.hostname or "", parts.port or 443
            if not (allow.permits(host, port) or _is_store(allow, host, port)):
                raise ForbiddenAddressError(f"host {host}:{port} is not allowed")
            return host, port, b""
        parts = urlsplit(target)
        host, port = parts.hostname or "", parts.port or 80
        if not _is_store(allow, host, port):
            allow.check(target)
        path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        kept = [
            f"{n}:{v}"
            for n, _, v in fields
            if n.casefold() not in {"proxy-authorization", "proxy-connection", "connection"}
        ]
        return (
            host,
            port,
            "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""]).encode("latin-1"),
        )

    def _connected(self, host: str, port: int) -> socket.socket:
        problem: OSError = OSError(f"{host} cannot be resolved")
        exact = _is_store(self.server.allow, host, port)
        for family, ip in self.server.allow.addresses(host, port, named=exact):
            upstream = socket.socket(family, socket.SOCK_STREAM)
            try:
                upstream.settimeout(30)
                upstream.connect((ip, port))
            except OSError as error:
                upstream.close()
                problem = error
                continue
            upstream.settimeout(_IDLE_S)
            return upstream
        raise problem


@functools.lru_cache(maxsize=256)
def _is_store(allow: AllowList, host: str, port: int) -> bool:
    """Whether a host is the endpoint of a kind of store that the allow-list names; buckets are checked by address."""
    kinds = allow.stores()
    endpoint = urlsplit(
        f"//{os.environ.get('AWS_S3_ENDPOINT', '').partition('://')[2] or os.environ.get('AWS_S3_ENDPOINT', '')}"
    )
    if "s3" in kinds and endpoint.hostname:
        own = endpoint.hostname.casefold()
        return port == (endpoint.port or port) and (host == own or host.endswith(f".{own}"))
    if "s3" in kinds and _AMAZON.match(host):
        return True
    if "gs" in kinds and host == "storage.googleapis.com":
        return True
    return "az" in kinds and host == f"{os.environ.get('AZURE_STORAGE_ACCOUNT', '')}.blob.core.windows.net"


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = client.recv(8192)
        if not chunk or len(data) > _HEAD_BYTES:
            return b"", b""
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _answer(client: socket.socket, status: str, text: str, extra: str = "") -> None:
    body = text.encode()
    fields = f"{extra}Content-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with contextlib.suppress(OSError):
        client.sendall(f"HTTP/1.1 {status}\r\n{fields}".encode("latin-1") + body)


def _relay(client: socket.socket, upstream: socket.socket) -> None:
    """Pass bytes both ways until the server is done or either side is gone."""
    other = {client: upstream, upstream: client}
    while True:
        ready, _, _ = select.select([client, upstream], [], [], _IDLE_S)
        if not ready:
            return
        for one in ready:
            try:
                data = one.recv(65536)
                if not data:
                    return
                other[one].sendall(data)
            except OSError:
                # A reset has to reach the client as one: an orderly end could pass for a complete answer.
                with contextlib.suppress(OSError):
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                return
