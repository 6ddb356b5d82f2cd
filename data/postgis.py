"""Plan layers in a PostGIS database, streamed by a server-side cursor.

The password never comes from the plan: libpq takes it from PGPASSWORD, PGPASSFILE (~/.pgpass) or a service file.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import shapely

from tuban.data.crs_guess import Bounds, checked_crs
from tuban.data.geometry_repair import RepairCounts, decode_wkb, repair, split_at_antimeridian
from tuban.data.postgis_table import Table, find_table
from tuban.data.vector import VectorSettings
from tuban.errors import MissingExtraError, VectorError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyproj import CRS

logger = logging.getLogger(__name__)

_SCHEMES = ("postgresql://", "postgres://")
_SECRETS = ("password", "sslpassword", "passfile")
_CONNECT_SECONDS = 10


def is_database(path: str) -> bool:
    """Say whether a path is the address of a PostgreSQL database.

    Example:
        >>> is_database("postgresql://gis@db.example/land"), is_database("plan.gpkg")
        (True, False)
    """
    return path.startswith(_SCHEMES)


@dataclass(frozen=True)
class DatabaseLayer:
    """One PostGIS table or view, opened and checked; `batches` gives its polygons.

    Attributes:
        address: of the database, without anything secret.
        conninfo: as libpq takes it; kept out of every message and record.
        table: what of the database is read.
        digest: of the content that was there when it was opened: equal content, equal digest, in whatever order.
    """

    address: str
    table: Table
    crs: CRS
    columns: tuple[str, ...]
    dropped: tuple[str, ...]
    features: int
    bounds: Bounds
    digest: str
    conninfo: str = field(repr=False)
    notes: tuple[str, ...] = ()
    settings: VectorSettings = field(default_factory=VectorSettings)

    @property
    def name(self) -> str:
        """Name of the database."""
        return f"PostGIS {self.address.rsplit('/', 1)[-1]}"

    @property
    def layer(self) -> str:
        """Name of the table."""
        return self.table.name

    def batches(
        self, *, bbox: Bounds | None = None, columns: Sequence[str] | None = None, counts: RepairCounts | None = None
    ) -> Iterator[gpd.GeoDataFrame]:
        """Yield GeoDataFrames of at most `batch_size` valid polygons, indexed by primary key or place in the table.

        All batches of one call show the table as it was when the call began.

        Args:
            bbox: (min_x, min_y, max_x, max_y) in the layer's CRS; None reads everything.
            columns: fields to read, absent ones ignored; None reads all. Personal fields are never asked for.
            counts: repairs are added to it.

        Raises:
            VectorError: the database went away, or no longer gives the table.
        """
        counts = RepairCounts() if counts is None else counts
        wanted = [name for name in self.columns if columns is None or name in columns]
        query, parameters = self.table.select(wanted, bbox)
        rows = _rows(self.conninfo, self.address, query, parameters, self.settings.batch_size)
        running = itertools.count()
        for batch in rows:
            keys, bent, wkb, *values = zip(*batch, strict=True)
            counts.curved += sum(1 for arc in bent if arc)
            ids = np.array([next(running) for _ in keys] if self.table.key is None else keys)
            blobs = np.array([None if blob is None else bytes(blob) for blob in wkb], dtype=object)
            geometry = repair(decode_wkb(blobs, counts, ids), counts, ids)
            if self.crs.is_geographic:
                geometry = split_at_antimeridian(geometry, counts, ids)
            data = {name: list(column) for name, column in zip(wanted, values, strict=True)}
            frame = gpd.GeoDataFrame(data, geometry=geometry, crs=self.crs, index=ids)
            yield frame[~shapely.is_missing(geometry)]


def open_table(
    path: str, layer: str | None, *, settings: VectorSettings | None = None, id_field: str | None = None
) -> DatabaseLayer:
    """Open a table of a PostGIS database and check its geometry, CRS and extent.

    Args:
        path: `postgresql://user@host:port/database?sslmode=require`; whatever libpq takes, without a password.
        layer: `table`, `schema.table` or `schema.table.geometry_column`, spelt as in the database.
        settings: how it is read.
        id_field: names the features of a view, which has no key of its own.

    Raises:
        MissingExtraError: psycopg is not installed.
        VectorError: a password stands in `path`; the server is not reached or refuses; no PostGIS in the database; no
            such table, no or several geometry columns, SRID 0 and nothing is to be guessed, no features.
    """
    settings = settings or VectorSettings()
    address = _address(path)
    if layer is None:
        raise VectorError(f"{address}: name the table with layer: schema.table")
    with _session(path, address) as connection:
        table = find_table(connection, layer, address, id_field=id_field)
        where = f"{address} table {table.name}"
        unwanted = {name.upper() for name in settings.drop_fields}
        kept = tuple(name for name in table.fields if name.upper() not in unwanted)
        dropped = tuple(name for name in table.fields if name.upper() in unwanted)
        features, bounds, srids, digest = table.summary(connection, kept)
        if len(srids) > 1:
            mixed = ", ".join(map(str, sorted(srids)))
            raise VectorError(f"{where}: mixes the SRIDs {mixed}; ST_Transform them to one, or give a view of each")
        # A column without a type of its own (of a view, say) has the SRID of what is in it.
        table = replace(table, srid=next(iter(srids), table.srid))
        declared = table.crs_text(connection)
    if not features:
        raise VectorError(f"{where}: has no features; fill it, or take it out of the plan")
    crs, notes = checked_crs(
        declared, bounds, where, guess=settings.guess_crs, central_meridian=settings.central_meridian,
        empty=not np.isfinite(bounds).all(), remedy="SELECT UpdateGeometrySRID(…) sets it, or set guess_crs=true",
    )  # fmt: skip
    if dropped:
        notes.append(f"{where}: personal fields not loaded: {', '.join(dropped)}")
    notes.append(f"{where}: {features} features, content {digest}; a database changes, the run keeps no copy of it")
    return DatabaseLayer(
        address=address, table=table, crs=crs, columns=kept, dropped=dropped, features=features, bounds=bounds,
        digest=digest, conninfo=path, notes=tuple(notes), settings=settings,
    )  # fmt: skip


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise MissingExtraError("plans in PostGIS need psycopg; run: pip install 'tuban[postgis]'") from error
    return psycopg


def _address(path: str) -> str:
    """Return user, host, port and database of an address; one that holds a secret is refused without repeating it."""
    psycopg = _psycopg()
    try:
        parts = psycopg.conninfo.conninfo_to_dict(path)
    except psycopg.ProgrammingError as error:
        raise VectorError(
            "the address of a PostGIS database is not understood; give postgresql://user@host:5432/database"
        ) from error
    found = [key for key in _SECRETS if key in parts]
    if found:
        raise VectorError(
            f"the address of a PostGIS database holds {found[0]}; take it out of the plan and give it by PGPASSWORD, "
            "PGPASSFILE or a service file"
        )
    user = f"{parts['user']}@" if parts.get("user") else ""
    host = str(
        parts.get("host") or parts.get("hostaddr") or (f"service={parts['service']}" if "service" in parts else "")
    )
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"postgresql://{user}{host}{port}/{parts.get('dbname') or parts.get('user') or ''}"


@contextlib.contextmanager
def _session(conninfo: str, address: str) -> Iterator[Any]:
    """Open a read-only session that sees one state of the database; its errors become one line without secrets."""
    psycopg = _psycopg()
    options = {} if "connect_timeout" in conninfo else {"connect_timeout": _CONNECT_SECONDS}
    try:
        connection = psycopg.connect(conninfo, **options)
    except psycopg.OperationalError as error:
        why = " ".join(str(error).split())
        raise VectorError(
            f"{address}: cannot connect ({why}); check host, port, database and user; the password is taken from "
            "PGPASSWORD, PGPASSFILE or a service file"
        ) from error
    with contextlib.closing(connection):
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        try:
            yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise VectorError(f"{address}: {error.diag.message_primary}; GRANT SELECT on it to this user") from error
        except psycopg.Error as error:
            why = error.diag.message_primary or " ".join(str(error).split())
            raise VectorError(f"{address}: the database gave up ({why}); check it and run again") from error


def _rows(
    conninfo: str, address: str, query: Any, parameters: Sequence[Any], size: int
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of a query in lists of at most `size`; the server keeps the rest."""
    with _session(conninfo, address) as connection, connection.cursor(name="tuban", binary=True) as cursor:
        cursor.itersize = size
        cursor.execute(query, parameters)
        while rows := cursor.fetchmany(size):
            yield rows
