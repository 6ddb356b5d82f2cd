"""A throw-away PostGIS: a real server on a unix socket in a temporary folder, gone when the tests are done.

`tests/conftest.py` gives it as the fixtures `postgis_server` (one a session) and `postgis` (a fresh, empty database a
test). Where the binaries, the extension or psycopg are absent the tests skip and say which. To have them on Debian:
`apt-get install postgresql postgresql-15-postgis-3`, and `pip install 'tuban[postgis]'`.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterator

INSPECTOR, PASSWORD = "inspector", "s3cret 口令@/:%"
_START_SECONDS = 60


@dataclass
class PostgisServer:
    """A running server. The superuser needs no password; `INSPECTOR` needs `PASSWORD`."""

    socket: Path
    made: list[str] = field(default_factory=list)

    def database(self) -> PostgisDatabase:
        """Create an empty database with PostGIS in it."""
        name = f"tuban_{len(self.made)}"
        self.made.append(name)
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE tuban_template")
        return PostgisDatabase(self, name)

    def connect(self, database: str) -> Any:
        """Return a psycopg connection of the superuser that commits every statement."""
        import psycopg

        return psycopg.connect(host=str(self.socket), user="postgres", dbname=database, autocommit=True)


@dataclass(frozen=True)
class PostgisDatabase:
    """One database; `url` is that of the superuser, `inspector_url` that of the role with a password (not in it)."""

    server: PostgisServer
    name: str

    @property
    def url(self) -> str:
        """Address of the database, as users write it."""
        return self._url("postgres")

    @property
    def inspector_url(self) -> str:
        """Address for the role that must give `PASSWORD`, by PGPASSWORD, PGPASSFILE or a service file."""
        return self._url(INSPECTOR)

    def _url(self, user: str) -> str:
        return f"postgresql://{user}@/{self.name}?host={quote(str(self.server.socket), safe='')}"

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as the superuser and return the rows of the last."""
        rows: list[tuple[Any, ...]] = []
        with self.server.connect(self.name) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows


def missing() -> str | None:
    """Return what keeps a server from being started, or None."""
    if importlib.util.find_spec("psycopg") is None:
        return "no psycopg; pip install 'tuban[postgis]'"
    programs = _programs()
    if programs is None:
        return "no PostgreSQL server; apt-get install postgresql postgresql-15-postgis-3"
    shared = subprocess.run([programs / "pg_config", "--sharedir"], capture_output=True, text=True, check=False)
    if not (Path(shared.stdout.strip()) / "extension" / "postgis.control").exists():
        return f"PostgreSQL in {programs} has no PostGIS; apt-get install postgresql-15-postgis-3"
    if os.geteuid() == 0 and not _has_user("postgres"):
        return "running as root, and there is no user postgres to run the server as"
    return None


@contextlib.contextmanager
def running_server() -> Iterator[PostgisServer]:
    """Start a server in a temporary folder, and stop and remove it afterwards.

    Call `missing` first.
    """
    programs = _programs()
    # A socket's path may have 107 bytes, which pytest's own folders exceed; and PostgreSQL refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="tuban-pg-"))
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    if os.geteuid() == 0:
        shutil.chown(folder, user)
    data, environment = folder / "data", {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        _check([programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"], user)
        hba = "local all postgres trust\nlocal all all scram-sha-256\n"
        (data / "pg_hba.conf").write_text(hba, encoding="ascii")
        quick = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "shared_buffers": "32MB",
                 "listen_addresses": "", "unix_socket_directories": str(folder)}  # fmt: skip
        options = [part for key, value in quick.items() for part in ("-c", f"{key}={value}")]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", data, *options], user=_as(user), stdout=log, stderr=log, env=environment
            )
        try:
            yield _ready(PostgisServer(folder), process)
        finally:
            process.send_signal(signal.SIGINT)  # "fast": ends sessions, then stops
            process.wait(timeout=_START_SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ready(server: PostgisServer, process: subprocess.Popen[bytes]) -> PostgisServer:
    """Wait for the server, then make the template of test databases and the role with a password."""
    import psycopg

    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            server.connect("postgres").close()
            break
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                log = (server.socket / "log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"PostgreSQL did not start: {log[-2000:]}") from None
            time.sleep(0.05)
    with server.connect("postgres") as connection:
        connection.execute("CREATE DATABASE tuban_template")
        connection.execute(f"CREATE ROLE {INSPECTOR} LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_read_all_data")
    with server.connect("tuban_template") as connection:
        connection.execute("CREATE EXTENSION postgis")
    return server


def _programs() -> Path | None:
    """Return the folder of the server's programs, the newest version first."""
    found = shutil.which("postgres")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]), reverse=True)
    candidates = ([Path(found).resolve()] if found else []) + installed
    return next((path.parent for path in candidates if (path.parent / "pg_config").exists()), None)


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _as(user: str) -> str | None:
    return user if os.geteuid() == 0 else None


def _check(command: list[Any], user: str) -> None:
    done = subprocess.run(command, user=_as(user), capture_output=True, text=True, check=False, cwd="/")
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")
