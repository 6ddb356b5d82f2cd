"""What a PostGIS table is (geometry column, SRID, key, fields), and the queries that read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuban.errors import VectorError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuban.data.crs_guess import Bounds

_SHOWN = 20  # tables named in an error
_INTEGERS = {"smallint", "integer", "bigint"}
_AS_IS = {*_INTEGERS, "real", "double precision", "boolean", "text", "character varying", "character"}
_AREAL = {"POLYGON", "MULTIPOLYGON", "GEOMETRY", "GEOMETRYCOLLECTION", "CURVEPOLYGON", "MULTISURFACE"}


@dataclass(frozen=True)
class Table:
    """One table or view with a geometry column.

    Attributes:
        schema, relation: its name.
        geometry: its geometry column.
        srid: of the geometry; 0 where it has none.
        fields: other columns and their types, as PostgreSQL names them.
        key: SQL that gives each row a lasting integer; None for a view, whose rows are ordered by `order`.
        order: SQL by which rows are ordered.
    """

    schema: str
    relation: str
    geometry: str
    srid: int
    fields: dict[str, str]
    key: str | None
    order: str

    @property
    def name(self) -> str:
        """`schema.table`."""
        return f"{self.schema}.{self.relation}"

    @property
    def _source(self) -> str:
        return f"{_quoted(self.schema)}.{_quoted(self.relation)}"

    def select(self, columns: Sequence[str], bbox: Bounds | None) -> tuple[bytes, list[Any]]:
        """Return the query for key, whether the geometry had arcs, its WKB, and `columns`; and its parameters."""
        shape = _quoted(self.geometry)
        straight = f"CASE WHEN ST_HasArc({shape}) THEN ST_CurveToLine({shape}) ELSE {shape} END"
        listed = [self.key or "0", f"ST_HasArc({shape})", f"ST_AsBinary({straight}, 'NDR')", *map(self._field, columns)]
        query = f"SELECT {', '.join(listed)} FROM {self._source}"  # noqa: S608 - names are quoted, values parameters
        parameters: list[Any] = []
        if bbox is not None:
            query += f" WHERE {shape} && ST_MakeEnvelope(%s, %s, %s, %s, {self.srid})"
            parameters = list(bbox)
        return f"{query} ORDER BY {self.order}".encode(), parameters

    def summary(self, connection: Any, columns: Sequence[str]) -> tuple[int, Bounds, set[int], str]:
        """Return the number of features, their bounds (NaN: none), their SRIDs and a digest of the content."""
        shape = _quoted(self.geometry)
        content = ", ".join([f"ST_AsEWKB({shape})", *(_quoted(name) for name in columns)])
        # A sum of hashes does not depend on the order of the rows, which a database is free to change.
        query = f"""
            SELECT n, ST_XMin(e), ST_YMin(e), ST_XMax(e), ST_YMax(e), low, high, digest FROM (
                SELECT count(*) AS n, ST_Extent({shape})::geometry AS e,
                       min(ST_SRID({shape})) AS low, max(ST_SRID({shape})) AS high,
                       sum(('x' || left(md5(ROW({content})::text), 15))::bit(60)::bigint::numeric) AS digest
                FROM {self._source}
            ) AS whole"""  # noqa: S608 - names are quoted
        row = connection.execute(query.encode(), []).fetchone()
        west, south, east, north = (float("nan") if value is None else float(value) for value in row[1:5])
        srids = {int(value) for value in row[5:7] if value}
        return int(row[0]), (west, south, east, north), srids, f"{int(row[7] or 0):x}"

    def crs_text(self, connection: Any) -> str | None:
        """Return the CRS that the SRID stands for, or None for SRID 0."""
        if not self.srid:
            return None
        query = "SELECT auth_name, auth_srid, srtext FROM spatial_ref_sys WHERE srid = %s"
        row = connection.execute(query, [self.srid]).fetchone()
        if row is None:
            return f"EPSG:{self.srid}"
        return f"{row[0]}:{row[1]}" if row[0] == "EPSG" else str(row[2])

    def _field(self, name: str) -> str:
        kind, quoted = self.fields[name], _quoted(name)
        if kind.partition("(")[0] in _AS_IS:
            return quoted
        # Dates may be `infinity`, which Python's cannot; whatever else there is (enum, json, uuid) is shown as text.
        return f"{quoted}::float8" if kind.startswith("numeric") else f"{quoted}::text"


def find_table(connection: Any, layer: str, address: str, *, id_field: str | None = None) -> Table:
    """Return the table that `layer` names.

    Raises:
        VectorError: no PostGIS, no such table, no, several or no areal geometry columns, a view without `id_field`.
    """
    if connection.execute("SELECT to_regtype('geometry')").fetchone()[0] is None:
        raise VectorError(
            f"{address}: no PostGIS in the database or on the search_path; CREATE EXTENSION postgis, or name "
            "another database"
        )
    # Not the view geometry_columns: it leaves out tables of which only some columns may be read, which is how a
    # careful office keeps personal fields away from tuban.
    listed = connection.execute(
        """SELECT n.nspname, c.relname, a.attname, postgis_typmod_srid(a.atttypmod), postgis_typmod_type(a.atttypmod)
           FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
           JOIN pg_namespace AS n ON n.oid = c.relnamespace
           WHERE a.atttypid = to_regtype('geometry') AND NOT a.attisdropped AND c.relkind IN ('r', 'v', 'm', 'f', 'p')
             AND has_column_privilege(c.oid, a.attnum, 'SELECT') ORDER BY 1, 2, 3"""
    ).fetchall()
    found = [row for row in listed if layer in {row[1], f"{row[0]}.{row[1]}", f"{row[0]}.{row[1]}.{row[2]}"}]
    if not found:
        raise VectorError(_absent(connection, layer, address, listed))
    if len(found) > 1:
        names = ", ".join(f"{row[0]}.{row[1]}.{row[2]}" for row in found)
        raise VectorError(f"{address}: {layer!r} may be any of {names}; name one of them")
    schema, relation, geometry, srid, kind = found[0]
    if kind.upper().removesuffix("M").removesuffix("Z") not in _AREAL:
        raise VectorError(f"{address} table {schema}.{relation}: column {geometry} holds {kind}; a plan needs polygons")
    fields = _fields(connection, schema, relation)
    key, order = _key(connection, schema, relation, fields)
    if key is None:
        if id_field is None or id_field not in fields:
            raise VectorError(
                f"{address} view {schema}.{relation}: its rows have no key; name the field that identifies them with "
                f"id_field (it has {', '.join(fields) or 'none'})"
            )
        order = _quoted(id_field)
    return Table(schema, relation, geometry, int(srid), fields, key, order)


def _absent(connection: Any, layer: str, address: str, listed: list[Any]) -> str:
    """Say why a name is none of the tables with geometry."""
    query = """SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p')
                 AND %s::text IN (c.relname, n.nspname || '.' || c.relname)"""
    if connection.execute(query, [layer]).fetchone()[0]:
        return f"{address} table {layer}: has no geometry column, or this user may not read it; a plan needs polygons"
    names = [f"{row[0]}.{row[1]}" for row in listed]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{address}: no table {layer!r}; it has {', '.join(names[:_SHOWN]) or 'no table with geometry'}{more}"


def _fields(connection: Any, schema: str, relation: str) -> dict[str, str]:
    query = """SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute AS a
               JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
    rows = connection.execute(query, [schema, relation]).fetchall()
    spatial = {"geometry", "geography", "raster", "bytea"}
    return {name: kind for name, kind in rows if kind.rpartition(".")[2] not in spatial}


def _key(connection: Any, schema: str, relation: str, fields: dict[str, str]) -> tuple[str | None, str]:
    """Return SQL for a lasting integer of each row, and for their order."""
    query = """SELECT a.attname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid
               JOIN pg_namespace AS n ON n.oid = c.relnamespace
               JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
               WHERE i.indisprimary AND n.nspname = %s AND c.relname = %s"""
    names = [row[0] for row in connection.execute(query, [schema, relation]).fetchall()]
    if len(names) == 1 and fields.get(names[0]) in _INTEGERS:
        return _quoted(names[0]), _quoted(names[0])
    kind = connection.execute(
        "SELECT c.relkind FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relname = %s", [schema, relation],
    ).fetchone()[0]  # fmt: skip
    if kind in {"r", "m", b"r", b"m"}:
        # The row's place: block and line. It lasts as long as nobody rewrites the row, so for the run.
        place = "(((ctid::text)::point)[0]::bigint * 65536 + ((ctid::text)::point)[1]::bigint)"
        return place, "ctid"
    return None, ""


def _quoted(name: str) -> str:
    """Return a name as SQL; a percent sign would be taken for a parameter."""
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'
