"""`tuban data stats`: what is in a data set's folder: sizes, class balance, dates, extents, splits."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.warp import transform_bounds

from tuban.data.catalog import histogram, read_dates
from tuban.data.classes import classes
from tuban.data.pictures import UNKNOWN, change_of, open_file, unified_table
from tuban.data.place import IGNORE
from tuban.data.splits import authors_split

if TYPE_CHECKING:
    from collections.abc import Mapping

    import rasterio

    from tuban.data.dataset import DatasetFolder
    from tuban.data.layout import Item, Role


def stats(folder: DatasetFolder) -> dict[str, Any]:
    """Return what is in a data set's folder, JSON-ready.

    Returns:
        `items`: for each its name, group, size, roles, dates, `bounds` (west, south, east, north in degrees, where
        georeferenced), `gsd_m` and `changed`, the share of the pixels with a known label that changed. `pixels`: of
        all items. `labels`: role to value's name to pixels and share. `classes`: role to unified class (of `change`
        to changed, unchanged, unknown) to the same: what class weights are made of. `split`: names in each part.

    Raises:
        SceneError: a file cannot be read.
    """
    layout = folder.layout
    items: list[dict[str, Any]] = []
    counts: dict[str, Counter[int]] = {role.role: Counter() for role in layout.roles if not role.is_image}
    for item in folder.items():
        entry = _entry(folder, item)
        for name, total in counts.items():
            path = item.file(name)
            if path is not None:
                role = layout.role(name)
                with open_file(path) as source:
                    own = histogram(source, role)
                total.update(own)
                if name == "change":
                    entry["changed"] = _changed(role, own)
        items.append(entry)
    return {
        "dataset": folder.dataset.id,
        "layout": layout.id,
        "folder": str(folder.path),
        "items": items,
        "pixels": sum(entry.get("pixels", 0) for entry in items),
        "labels": {name: _balance(_names(layout.role(name), total), total) for name, total in counts.items()},
        "classes": {name: _unified(layout.role(name), total) for name, total in counts.items()},
        "split": {part: len(names) for part, names in authors_split(folder).items()} if layout.split else None,
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return what a person should read of `stats`."""
    items = found["items"]
    groups = len({entry["group"] for entry in items})
    said = [f"{found['dataset']} ({found['layout']}): {len(items)} items in {groups} groups, {found['pixels']} pixels"]
    placed = [entry["bounds"] for entry in items if entry.get("bounds")]
    if placed:
        west, south, east, north = (
            pick(v) for pick, v in zip((min, min, max, max), zip(*placed, strict=True), strict=True)
        )
        said.append(
            f"  georeferenced: {len(placed)}; longitude {west:.4f} to {east:.4f}, latitude {south:.4f} to {north:.4f}"
        )
    else:
        said.append("  no georeference")
    if found["split"]:
        said.append("  authors' split: " + ", ".join(f"{part} {count}" for part, count in found["split"].items()))
    for title, tables in (("as labelled", found["labels"]), ("as tuban's classes", found["classes"])):
        for role, table in tables.items():
            said.append(f"  {role}, {title}:")
            said += [f"    {name}: {row['pixels']} pixels, {row['share']:.2%}" for name, row in table.items()]
    return said


def _entry(folder: DatasetFolder, item: Item) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "item": item.name,
        "group": folder.layout.group_of(item.name),
        "roles": [role.role for role in folder.layout.roles if role.role in item.files],
    }
    path = next(next(iter(files.values())) for files in item.files.values())
    with open_file(item.file(folder.layout.first.role) or path) as source:
        entry |= {"height": source.height, "width": source.width, "pixels": source.height * source.width}
        entry["bounds"] = _lonlat(source)
    dates = folder.layout.dates
    entry["dates"] = read_dates(folder.path / dates.format(**item.fields)) if dates else None
    return entry


def _lonlat(source: rasterio.DatasetReader) -> list[float] | None:
    if source.crs is None:
        return None
    return [round(value, 6) for value in transform_bounds(source.crs, "EPSG:4326", *source.bounds)]


def _names(role: Role, counts: Counter[int]) -> dict[int, str]:
    known = role.values or {}
    return {value: known.get(value, "undescribed colour" if value == UNKNOWN else str(value)) for value in counts}


def _unified(role: Role, counts: Counter[int]) -> dict[str, dict[str, float]]:
    values = np.array(list(counts), dtype=np.int32)
    total: Counter[int] = Counter()
    if role.role == "change":
        names = {0: "unchanged", 1: "changed", IGNORE: "unknown"}
        unified = change_of(values, role)
    else:
        names = {value: entry.name for value, entry in classes().items()}
        table = unified_table(role)
        known = (values >= 0) & (values < 256) & ~np.isin(values, role.unknown)
        unified = np.where(known, table[np.where(known, values, 0)], 0)
    for value, number in zip(unified.tolist(), counts.values(), strict=True):
        total[value] += number
    return _balance(names, total)


def _changed(role: Role, counts: Counter[int]) -> float | None:
    table = _unified(role, counts)
    changed, unchanged = (table.get(name, {"pixels": 0})["pixels"] for name in ("changed", "unchanged"))
    return round(changed / (changed + unchanged), 6) if changed + unchanged else None


def _balance(names: Mapping[int, str], counts: Counter[int]) -> dict[str, dict[str, float]]:
    total = sum(counts.values())
    return {
        names[value]: {"pixels": number, "share": round(number / total, 6)} for value, number in sorted(counts.items())
    }
