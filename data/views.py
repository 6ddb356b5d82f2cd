"""The images of one item of a data set on one grid: a pair through `tuban.data.pair`, anything else as it is stored."""

from __future__ import annotations

import json
import logging
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp

from tuban.data.grid import Grid
from tuban.data.measure import measure_radiometry
from tuban.data.pair import PairSettings, open_pair
from tuban.data.pictures import open_file, read_image, scale_of
from tuban.data.radiometry import Radiometry, RadiometrySettings
from tuban.data.registration import RegistrationSettings
from tuban.errors import PairError, SceneError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from rasterio.windows import Window

    from tuban.data.dataset import DatasetFolder
    from tuban.data.layout import Item, Role
    from tuban.data.matched import Pair

    Images = tuple[NDArray[np.float32], NDArray[np.float32] | None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Views:
    """The images of one item.

    Attributes:
        height: rows.
        width: columns.
        offset: row and column of the first image at which they begin; labels lie on the first image.
        read: given a window and band names, the two dates `(bands, h, w)` float32 with NaN where invalid; the second
            is None where there is one image.
        summary: how the dates were matched.
        gsd_m: pixel size in metres, None where unknown.
        grid: None without georeference.
    """

    height: int
    width: int
    offset: tuple[int, int]
    read: Callable[[Window, Sequence[str]], Images]
    summary: Mapping[str, Any] = field(default_factory=dict)
    gsd_m: float | None = None
    grid: Grid | None = None

    def footprint(self, window: Window) -> tuple[float, float, float, float] | None:
        """West, south, east, north of a window in degrees WGS 84, None without georeference."""
        return None if self.grid is None else self.grid.window(window).bounds_lonlat()


@contextmanager
def open_views(folder: DatasetFolder, item: Item, *, strict: bool = False) -> Iterator[Views]:
    """Open the images of an item.

    Args:
        folder: the data set.
        item: one of its items.
        strict: refuse a georeferenced pair that `tuban detect` would refuse; else it is taken as it is published.

    Raises:
        SceneError: an image is missing or cannot be read, or the dates differ in size.
        PairError: the two dates do not overlap, or with `strict` the pair is refused.
    """
    for role in folder.layout.roles:
        if role.is_image and role.role not in item.files:
            raise SceneError(
                f"{folder.path}: {item.name} lacks {role.role} ({role.path}); "
                f"`tuban data verify {folder.path}` lists all that is missing"
            )
    if folder.georeferenced and folder.layout.has("after"):
        with ExitStack() as stack:
            yield _matched(folder, item, stack, strict=strict)
    else:
        yield _stored(folder, item)


def _stored(folder: DatasetFolder, item: Item) -> Views:
    """Images without georeference, or one image: pixels as they lie; AFTER mapped onto BEFORE's radiometry."""
    layout = folder.layout
    first = layout.first
    sizes = {}
    for role in layout.roles:
        path = item.file(role.role) if role.is_image else None
        if path is not None:
            with open_file(path) as source:
                sizes[path] = (source.height, source.width)
                if role == first:
                    grid = Grid(source.crs, source.transform, *source.shape) if source.crs else None
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{path} {height} x {width}" for path, (height, width) in sizes.items())
        raise SceneError(f"{item.name}: the dates differ in size: {said}; without georeference they must be equal")
    height, width = next(iter(sizes.values()))

    def read(window: Window, names: Sequence[str]) -> Images:
        before = read_image(item.files[first.role], first, folder.bands, window, names)
        if not layout.has("after"):
            return before, None
        after = read_image(item.files["after"], layout.role("after"), folder.bands, window, names)
        lost = np.isnan(before).all(axis=0) | np.isnan(after).all(axis=0)
        before[:, lost] = after[:, lost] = np.nan
        return before, after

    gsd_m = grid.pixel_size_m() if grid else folder.dataset.gsd_m
    if not layout.has("after"):
        return Views(height, width, (0, 0), read, {}, gsd_m, grid)
    fitted = measure_radiometry(_dates(read), height, width, folder.bands, RadiometrySettings())
    summary = {"radiometry": {"bands": list(folder.bands), **fitted.summary()}}
    return Views(height, width, (0, 0), _normalised(read, fitted, folder.bands), summary, gsd_m, grid)


class _Dates(NamedTuple):
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    valid: NDArray[np.bool_]


def _dates(read: Callable[[Window, Sequence[str]], Images]) -> Callable[[Window, Sequence[str]], _Dates]:
    """The reader as `measure_radiometry` wants it."""

    def work(window: Window, names: Sequence[str]) -> _Dates:
        before, after = read(window, names)
        if after is None:
            raise TypeError("a single image has no second date")
        valid = np.asarray(np.isfinite(before).all(axis=0) & np.isfinite(after).all(axis=0))
        return _Dates(before, after, valid)

    return work


def _normalised(
    read: Callable[[Window, Sequence[str]], Images], fitted: Radiometry, have: Sequence[str]
) -> Callable[[Window, Sequence[str]], Images]:
    """The reader with AFTER mapped onto BEFORE's radiometry, where the two can be compared."""
    if fitted.action == "refused":
        return read

    def work(window: Window, names: Sequence[str]) -> Images:
        before, after = read(window, names)
        for layer, name in zip(after if after is not None else (), names, strict=False):
            if name in have:
                place = have.index(name)
                layer[:] = layer * np.float32(fitted.gain[place]) + np.float32(fitted.offset[place])
        return before, after

    return work


def _matched(folder: DatasetFolder, item: Item, stack: ExitStack, *, strict: bool) -> Views:
    """A georeferenced pair, matched as it is for inference."""
    paths = _described(folder, item, stack)
    refused = ""
    try:
        pair = open_pair(*paths)
    except PairError as error:
        refused = _of_files(str(error), paths, item)
        if strict:
            raise PairError(refused) from error
        # The authors drew their labels on the pair as it is, so it is taken as it is; what was wrong is recorded.
        unmeasured = PairSettings(
            registration=RegistrationSettings(enabled=False), radiometry=RadiometrySettings(enabled=False)
        )
        pair = open_pair(*paths, settings=unmeasured)
        _log.warning("%s: taken as its authors publish it, for as a pair it is refused: %s", item.name, refused)
    stack.enter_context(pair)
    origin = ~pair.before.transform @ (pair.transform.c, pair.transform.f)
    summary = _with_paths(pair.summary(), item)
    if refused:
        summary["refused"] = refused
    offset = (round(origin[1]), round(origin[0]))
    return Views(pair.height, pair.width, offset, _reader(pair), summary, pair.before.gsd_m, pair.grid)


def _reader(pair: Pair) -> Callable[[Window, Sequence[str]], Images]:
    def read(window: Window, names: Sequence[str]) -> Images:
        got = pair.read(window, names)
        before, after = got.before.copy(), got.after.copy()
        before[:, ~got.valid] = np.nan
        after[:, ~got.valid] = np.nan
        return before, after

    return read


def _described(folder: DatasetFolder, item: Item, stack: ExitStack) -> tuple[Path, Path]:
    """The two images; where no `scene.json` names their bands, as views on them that have one, from the YAML.

    Band names, scale and dates reach `Scene.open` in the one way that it knows.
    """
    paths = {name: path for name in ("before", "after") if (path := item.file(name)) is not None}
    own = _sidecar(paths["before"].parent)
    if "bands" in own:
        return paths["before"], paths["after"]
    if any(len(item.files[name]) > 1 for name in paths):
        raise SceneError(f"{item.name}: one file per band is read without georeference; give `georeferenced: false`")
    place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tuban-")))
    if folder.layout.dates:
        own |= _sidecar(folder.path / folder.layout.dates.format(**item.fields))
    views = {}
    for name, path in paths.items():
        # A folder for each date: what is stored may differ in scale and nodata.
        views[name] = place / name / f"{name}.vrt"
        views[name].parent.mkdir()
        facts = _view(path, views[name], folder.bands, folder.layout.role(name))
        facts |= {key: own[key] for key in ("before", "after", "scale", "nodata") if key in own}
        (views[name].parent / "scene.json").write_text(json.dumps(facts), encoding="utf-8")
    return views["before"], views["after"]


def _view(path: Path, view: Path, bands: Sequence[str], role: Role) -> dict[str, Any]:
    """Make a view on an image whose described bands are bands, and return what its `scene.json` is to say."""
    with open_file(path) as source:
        dtype, meaning = source.dtypes[0], list(source.colorinterp)
        if len(meaning) < len(bands):
            raise SceneError(f"{path}: has {len(meaning)} bands, {len(bands)} are described; correct `bands`")
        rasterio.shutil.copy(source, view, driver="VRT")
    # Four bands of 8 bits are often stored as if the fourth were transparency; what is described is a band.
    meaning[: len(bands)] = [ColorInterp.undefined] * len(bands)
    with rasterio.open(view, "r+") as written:
        written.colorinterp = meaning
    others = [f"other{i}" for i, kind in enumerate(meaning[len(bands) :]) if kind != ColorInterp.alpha]
    facts: dict[str, Any] = {"bands": [*bands, *others], "scale": scale_of(role, dtype)}
    return facts if role.nodata is None else facts | {"nodata": role.nodata}


def _sidecar(path: Path) -> dict[str, Any]:
    """What a `scene.json`, or the one in a folder, says; nothing where there is none."""
    path = path / "scene.json" if path.is_dir() else path
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise SceneError(f"{path}: cannot be read as JSON: {error}; correct or remove it") from error
    return found if isinstance(found, dict) else {}


def _of_files(text: str, paths: tuple[Path, Path], item: Item) -> str:
    """A message about the views, about the files instead."""
    for name, path in zip(("before", "after"), paths, strict=True):
        text = text.replace(str(path), str(item.file(name)))
    return text


def _with_paths(summary: dict[str, Any], item: Item) -> dict[str, Any]:
    """The record of the pair with the paths of the files, not of the views on them."""
    for name in ("before", "after"):
        summary[name] = {**summary[name], "path": str(item.file(name))}
    return summary
