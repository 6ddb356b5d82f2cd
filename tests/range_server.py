"""A real HTTP/1.1 server on the loopback interface, with byte ranges, that can be told to fail in the usual ways.

Nothing is mocked: clients speak to it over sockets. It runs in a process of its own, because rasterio holds Python's
lock during some requests, and so that it can really be killed.
Faults are put on a path and may end after some requests.
"""

from __future__ import annotations

import copy
import email.utils
import hashlib
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

Fault = Literal["status", "stall", "truncate", "reset", "redirect", "drip"]


@dataclass
class Trouble:
    """What goes wrong on a path.

    Attributes:
        kind: `status` answers with `value`; `stall` sends headers and then nothing; `truncate` ends the body early;
            `reset` resets the connection within the body; `redirect` sends to `value`; `drip` sends a byte a second.
        value: status or address.
        times: requests it lasts for.
        after: requests that are answered properly before.
        methods: HTTP methods that are concerned.
    """

    kind: Fault
    value: Any = None
    times: float = float("inf")
    after: int = 0
    methods: tuple[str, ...] = ("GET", "HEAD")


@dataclass
class Seen:
    """One request: method, path with query, range asked for, body bytes sent, and all headers."""

    method: str
    path: str
    range: str | None
    sent: int = 0
    headers: dict[str, str] = field(default_factory=dict)


class RangeServer:
    """Serves a folder on 127.0.0.1 from a process of its own; a context manager.

    Args:
        root: folder that is served.
        port: to listen on; 0 = any.
    """

    def __init__(self, root: Path, port: int = 0) -> None:
        self.root = Path(root)
        command = [sys.executable, "-S", __file__, str(root), str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._process.stdout.readline())
        self.url, self._prefix = f"http://127.0.0.1:{self.port}", ""

    def part(self, name: str) -> Self:
        """Return the same server as seen by one test: a folder of its own, made here, and what concerns it."""
        part = copy.copy(self)
        part.root, part.url, part._prefix = self.root / name, f"{self.url}/{name}", f"{self._prefix}/{name}"
        part.root.mkdir()
        return part

    def trouble(self, path: str, kind: Fault, value: Any = None, **more: Any) -> None:
        """Put a fault on a path such as `/a.tif`; `more` are the other fields of `Trouble`."""
        self._ask("trouble", path=self._prefix + path, kind=kind, value=value, **more)

    def left(self, path: str) -> float:
        """How many more requests the fault on a path lasts for."""
        return float(self._ask("left", path=self._prefix + path))

    @property
    def seen(self) -> list[Seen]:
        """The requests so far."""
        seen = [Seen(**request) for request in self._ask("seen")]
        return [replace(s, path=s.path.removeprefix(self._prefix)) for s in seen if s.path.startswith(self._prefix)]

    def forget(self) -> None:
        """Clear the record of requests."""
        self._ask("forget")

    @property
    def sent(self) -> int:
        """Body bytes sent so far."""
        return sum(request.sent for request in self.seen)

    def kill(self) -> None:
        """Die at once, as by power loss: nothing is finished or said."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def _ask(self, command: str, **arguments: Any) -> Any:
        self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, root: Path, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.root, self.troubles, self.seen = root.resolve(), {}, []

    def obey(self, command: str, path: str = "", **arguments: Any) -> Any:
        """Do what the other process says."""
        if command == "trouble":
            self.troubles[path] = Trouble(**arguments)
        elif command == "forget":
            self.seen.clear()
        elif command == "left":
            return self.troubles[path].times
        return [asdict(seen) for seen in list(self.seen)] if command == "seen" else None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away in the middle here: that is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - signature of the base class
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        owner = self.server
        path = unquote(urlsplit(self.path).path)
        seen = Seen(self.command, self.path, self.headers.get("Range"), headers=dict(self.headers))
        owner.seen.append(seen)
        fault = self._fault(path)
        if fault is not None and fault.kind == "redirect":
            return self._plain(302, b"", {"Location": str(fault.value)})
        if fault is not None and fault.kind == "status":
            return self._plain(int(fault.value), b"as you asked")
        file = (owner.root / path.lstrip("/")).resolve()
        if not file.is_file() or not file.is_relative_to(owner.root):
            return self._plain(404, b"not found")
        data, stat = file.read_bytes(), file.stat()
        start, stop, status = 0, len(data), 200
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", seen.range or "")
        if match:
            start, stop, status = int(match[1]), min(len(data), int(match[2] or len(data)) + 1), 206
            if start >= len(data):
                return self._plain(416, b"")
        self.send_response(status)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", email.utils.formatdate(stat.st_mtime, usegmt=True))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:16]}"')
        if match:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.end_headers()
        if body:
            self._send(data[start:stop], fault, seen)
        return None

    def _send(self, data: bytes, fault: Trouble | None, seen: Seen) -> None:
        kind = fault.kind if fault is not None else ""
        if kind == "stall":
            time.sleep(60)
            self.close_connection = True
        elif kind == "drip":
            for position in range(len(data)):
                self.wfile.write(data[position : position + 1])
                seen.sent += 1
                time.sleep(1)
        elif kind in {"truncate", "reset"}:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            seen.sent += len(data) // 2
            self.close_connection = True
            if kind == "reset":
                time.sleep(0.05)  # the half has to arrive before the reset does
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.wfile.write(data)
            seen.sent += len(data)

    def _plain(self, status: int, text: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _fault(self, path: str) -> Trouble | None:
        fault = self.server.troubles.get(path)
        if fault is None or self.command not in fault.methods:
            return None
        if fault.after > 0:
            fault.after -= 1
            return None
        if fault.times <= 0:
            return None
        fault.times -= 1
        return fault


def _main() -> None:
    server = _Server(Path(sys.argv[1]), int(sys.argv[2]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(server.obey(**json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
