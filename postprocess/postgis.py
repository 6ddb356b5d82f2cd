"""Findings and changes into PostGIS: one transaction, and a second export of a run replaces that run's rows only.

`--out postgresql://USER@HOST/DATABASE?schema=tuban`: the password comes from PGPASSWORD, PGPASSFILE or a service file
(one in the address works too) and is never shown. The schema holds the tables `runs`, `findings` and `changes`; the
latter two carry `run_id`, a spatial index and one on `run_id`.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import pyproj
import shapely

from tuban.errors import MissingExtraError, OutputError, UsageError
from tuban.postprocess.rows import multi

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import psycopg

    from tuban.postprocess.rows import Rows

logger = logging.getLogger(__name__)

SCHEMES = ("postgresql", "postgres")
_TYPES = {"str": "text", "float": "double precision", "int": "integer"}


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows go: the address for the server, the schema, and the address as it may be shown."""

    address: str
    schema: str
    shown: str


def parse_target(url: str) -> Target:
    """Take `?schema=` out of an address and the password out of what is shown.

    Raises:
        UsageError: it is no address of a PostgreSQL database.

    Example:
        >>> parse_target("postgresql://li:geheim@db/land?schema=s").shown
        'postgresql://li@db/land?schema=s'
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError("--out is no address; give postgresql://USER@HOST/DATABASE?schema=tuban") from error
    if parts.scheme not in SCHEMES:
        raise UsageError(f"--out {url!r} is no database; give postgresql://USER@HOST/DATABASE?schema=tuban")
    asked = parse_qsl(parts.query, keep_blank_values=True)
    schema = dict(asked).get("schema", "tuban")
    if not schema or "\0" in schema or len(schema.encode()) > 63:
        raise UsageError(f"schema {schema!r} is no name; give 1 to 63 bytes, such as ?schema=tuban")
    rest = [(key, value) for key, value in asked if key != "schema"]
    address = _joined(parts.scheme, parts.netloc, parts.path, urlencode(rest))
    user, at, host = parts.netloc.rpartition("@")
    bare = f"{user.partition(':')[0]}{at}{host}"
    open_ = [(key, value) for key, value in asked if key not in {"password", "sslpassword"}]
    return Target(address, schema, _joined(parts.scheme, bare, parts.path, urlencode(open_, safe="/")))


def _joined(scheme: str, place: str, path: str, query: str) -> str:
    """Return an address; urllib would drop the slashes before an empty host, which libpq needs."""
    return f"{scheme}://{place}{path}" + (f"?{query}" if query else "")


def write_postgis(target: Target, run_id: str, facts: Mapping[str, Any], layers: Mapping[str, Rows]) -> list[str]:
    """Write the layers of one run in one transaction.

    Args:
        target: where to.
        run_id: names the run; its earlier rows are replaced, those of other runs stay.
        facts: about the run and the export, kept as JSON in `runs`.
        layers: rows by table name.

    Returns:
        What had to be changed.

    Raises:
        MissingExtraError: psycopg is not installed.
        UsageError: PostGIS is not installed in the database, or the CRS has no code it knows.
        OutputError: the server cannot be reached, refuses, or fails; nothing of the export is left.
    """
    try:
        import psycopg
        from psycopg import sql
        from psycopg.types.json import Jsonb
    except ImportError as error:
        raise MissingExtraError("export to PostGIS needs psycopg; run: pip install 'tuban[postgis]'") from error
    notes: list[str] = []
    with _connected(target, psycopg) as connection:
        if connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'postgis'").fetchone() is None:
            raise UsageError(
                f"{target.shown}: the database has no PostGIS; have its owner run: CREATE EXTENSION postgis"
            )
        schema = sql.Identifier(target.schema)
        exists = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (target.schema,)).fetchone()
        if exists is None:  # CREATE ... IF NOT EXISTS would ask for the right to create even where nothing is to do
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        runs = sql.Identifier(target.schema, "runs")
        connection.execute(
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (run_id text PRIMARY KEY, exported timestamptz NOT NULL, facts jsonb)"
            ).format(runs)
        )
        # Two exports of one run at a time wait for each other here instead of doubling its rows.
        connection.execute(
            sql.SQL(
                "INSERT INTO {} VALUES (%s, now(), %s)"
                " ON CONFLICT (run_id) DO UPDATE SET exported = now(), facts = EXCLUDED.facts"
            ).format(runs),
            (run_id, Jsonb(dict(facts))),
        )
        for name, rows in layers.items():
            notes += _Table(connection, target.schema, name, rows).replace(run_id)
    logger.info("wrote run %s to %s", run_id, target.shown)
    return notes


@contextmanager
def _connected(target: Target, psycopg: Any) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection whose block is one transaction; failures name the address without its password."""
    try:
        with psycopg.connect(target.address, connect_timeout=15, application_name="tuban export") as connection:
            yield connection
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        for secret in filter(None, (urlsplit(target.address).password, *_secrets(target.address))):
            reason = reason.replace(unquote(secret), "***").replace(secret, "***")
        kind = "reach" if isinstance(error, psycopg.OperationalError) else "write"
        remedy = "check host, user and PGPASSWORD" if kind == "reach" else "check the rights of the user on the schema"
        raise OutputError(f"cannot {kind} {target.shown}: {reason}; {remedy}") from error


def _secrets(address: str) -> list[str]:
    return [value for key, value in parse_qsl(urlsplit(address).query) if key in {"password", "sslpassword"}]


class _Table:
    """One table of the schema, and the rows of a run on their way into it."""

    def __init__(self, connection: psycopg.Connection[Any], schema: str, name: str, rows: Rows) -> None:
        from psycopg import sql

        self.sql = sql
        self.connection, self.schema, self.name, self.rows = connection, schema, name, rows
        self.table = sql.Identifier(schema, name)

    def replace(self, run_id: str) -> list[str]:
        """Put the rows of a run in the place of its earlier ones."""
        sql = self.sql
        srid = self._prepare()
        self.connection.execute(sql.SQL("DELETE FROM {} WHERE run_id = %s").format(self.table), (run_id,))
        move = self._to_srid(srid)
        names = [field.name for field in self.rows.table.fields]
        columns = sql.SQL(", ").join(map(sql.Identifier, ("run_id", *names, "geom")))
        copy = sql.SQL("COPY {} ({}) FROM STDIN").format(self.table, columns)
        with self.connection.cursor().copy(copy) as stream:
            for batch in self.rows.batches():
                values = [batch.column(name).to_pylist() for name in names]
                for row in zip(*values, self._shapes(batch, srid, move), strict=True):
                    stream.write_row((run_id, *(_clean(value) for value in row)))
        self.connection.execute(sql.SQL("ANALYZE {}").format(self.table))
        return [f"{self.name}: moved from {self.rows.crs} to EPSG:{srid}, the CRS of the table"] if move else []

    def _prepare(self) -> int:
        """Make the table with its indexes, or add the columns it lacks; return the SRID of its geometries."""
        sql = self.sql
        found = self.connection.execute(
            "SELECT srid FROM geometry_columns WHERE f_table_schema = %s AND f_table_name = %s"
            " AND f_geometry_column = 'geom'",
            (self.schema, self.name),
        ).fetchone()
        srid = found[0] if found else _srid(self.rows.crs)
        if not found:
            self.connection.execute(
                sql.SQL(
                    "CREATE TABLE {} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run_id text NOT NULL"
                    " REFERENCES {} ON DELETE CASCADE, geom geometry(MultiPolygon, {}))"
                ).format(self.table, sql.Identifier(self.schema, "runs"), sql.Literal(srid))
            )
            self.connection.execute(sql.SQL("CREATE INDEX ON {} USING gist (geom)").format(self.table))
            self.connection.execute(sql.SQL("CREATE INDEX ON {} (run_id)").format(self.table))
        have = {
            row[0]
            for row in self.connection.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s",
                (self.schema, self.name),
            )
        }
        for field in self.rows.table.fields:
            if field.name in have:
                continue
            column = sql.Identifier(field.name)
            self.connection.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(self.table, column, sql.SQL(_TYPES[field.type]))
            )
            comment = sql.Literal(f"{field.zh} / {field.en}")
            self.connection.execute(sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(self.table, column, comment))
        return int(srid)

    def _to_srid(self, srid: int) -> pyproj.Transformer | None:
        own, wanted = pyproj.CRS.from_user_input(self.rows.crs), pyproj.CRS.from_epsg(srid)
        return None if own == wanted else pyproj.Transformer.from_crs(own, wanted, always_xy=True)

    def _shapes(self, batch: Any, srid: int, move: pyproj.Transformer | None) -> list[str | None]:
        if not self.rows.geometry:
            return [None] * batch.num_rows
        shapes: np.ndarray[Any, Any] = shapely.from_wkb(batch.column("geometry").to_numpy(zero_copy_only=False))
        if move is not None:
            shapes = shapely.transform(shapes, move.transform, interleaved=False)
        marked = shapely.set_srid(multi(shapes), srid)
        found: list[str | None] = shapely.to_wkb(marked, hex=True, include_srid=True).tolist()
        return found


def _srid(crs: str) -> int:
    code = pyproj.CRS.from_user_input(crs).to_epsg(min_confidence=100)
    if code is None:
        raise UsageError(
            f"{crs[:60]} has no EPSG code, so PostGIS has no name for it; reproject the findings, or export to gpkg"
        )
    return code


def _clean(value: Any) -> Any:
    """Return a value as PostgreSQL takes it: its text holds no NUL."""
    return value.replace("\0", "") if isinstance(value, str) else value
