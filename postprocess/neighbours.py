"""The run's own changes as a layer, so that rules can ask what else is new around one."""

from __future__ import annotations

import contextlib
import tempfile
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import pyogrio

from tuban.data.plan import PlanLayer
from tuban.data.vector import VectorLayer, open_layer
from tuban.errors import OutputError
from tuban.postprocess.rule_parts import CHANGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tuban.postprocess.rules import Rule, RulePack


def classes_asked_for(rules: tuple[Rule, ...], pack: RulePack) -> frozenset[str]:
    """Return the classes whose clusters some rules ask for; empty where none does."""
    clusters = [entry.cluster for rule in rules for entry in rule.severity_if if entry.cluster]
    return frozenset(name for cluster in clusters for name in pack.classes(cluster.to))


@contextlib.contextmanager
def with_neighbours(
    changes: Iterable[gpd.GeoDataFrame], classes: frozenset[str]
) -> Iterator[tuple[Iterable[gpd.GeoDataFrame], PlanLayer | None]]:
    """Give the changes again, and those of some classes as a layer that can be read by box.

    A stream of more than one frame is laid down in a temporary folder first, since a neighbour may come later in it:
    memory stays that of one frame.

    Args:
        changes: frames with `to_class` and polygons, all in one CRS.
        classes: the classes of the layer; none: the stream is passed on as it is.

    Raises:
        OutputError: the temporary folder cannot take them.
    """
    if not classes:
        yield changes, None
        return
    stream = iter(changes)
    first = next(stream, None)
    second = next(stream, None)
    if first is None or second is None:
        yield ([] if first is None else [first]), None if first is None else _layer(_chosen(first, classes))
        return
    with tempfile.TemporaryDirectory(prefix="tuban-changes-") as name:
        folder = Path(name)
        try:
            found = _lay_down(chain((first, second), stream), folder, classes)
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot hold the changes while they are judged ({error}); set TMPDIR to a folder with room"
            ) from error
        layer = _layer(open_layer(folder / "neighbours.gpkg")) if found else None
        yield (gpd.read_feather(path) for path in sorted(folder.glob("*.feather"))), layer


def _chosen(frame: gpd.GeoDataFrame, classes: frozenset[str]) -> gpd.GeoDataFrame:
    return frame.loc[frame["to_class"].isin(classes), ["to_class", frame.geometry.name]]


def _layer(source: VectorLayer | gpd.GeoDataFrame) -> PlanLayer:
    return PlanLayer(role=CHANGES, source=source, accuracy_m=0.0)


def _lay_down(frames: Iterable[gpd.GeoDataFrame], folder: Path, classes: frozenset[str]) -> int:
    found = 0
    for number, frame in enumerate(frames):
        frame.to_feather(folder / f"{number:08d}.feather")
        if len(chosen := _chosen(frame, classes)):
            pyogrio.write_dataframe(chosen, folder / "neighbours.gpkg", layer="neighbours", append=found > 0,
                                    geometry_type="Unknown")  # fmt: skip
            found += len(chosen)
    return found
