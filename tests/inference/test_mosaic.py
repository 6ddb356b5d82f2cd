from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from tuban.errors import OutputError
from tuban.inference import mosaic
from tuban.inference.journal import Journal
from tuban.inference.mosaic import statistics, write_mosaic
from tuban.inference.parts import Tally, make_part
from tuban.inference.products import RasterSpec
from tuban.inference.windows import plan_windows

GRID = {"crs": CRS.from_epsg(4326), "transform": Affine(1e-4, 0, 116, 0, -1e-4, 40)}
SPECS = [RasterSpec("change", 255, "change"), RasterSpec("landcover_after", 0, "cover", {1: (1, 2, 3)})]


def fill(journal, plan, batch, rng, skip=()):
    wholes = {spec.name: rng.integers(0, 256, (plan.height, plan.width), dtype=np.uint8) for spec in SPECS}
    # In any order: tasks of a cluster, or a run taken up again, do not come row by row.
    for index in reversed(range(plan.groups(batch))):
        if index not in skip:
            windows = plan.group(index, batch)
            arrays = [
                {name: whole[w.row : w.row + w.height, w.col : w.col + w.width] for name, whole in wholes.items()}
                for w in windows
            ]
            journal.add(make_part(index, windows, arrays, SPECS, Tally(run=len(windows))))
    return wholes


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_parts_made_in_any_order_are_what_is_read(tmp_path, batch):
    plan = plan_windows(130, 170, tile=48, halo=0, stride=16)
    journal = Journal(tmp_path / "journal", {})
    wholes = fill(journal, plan, batch, np.random.default_rng(1))
    paths = write_mosaic(tmp_path / "out", plan, batch, journal.paths(), SPECS, journal.tally, **GRID)
    for name, whole in wholes.items():
        with rasterio.open(paths[name]) as dataset:
            np.testing.assert_array_equal(dataset.read(1), whole)
            assert dataset.crs == GRID["crs"]
            assert dataset.transform == GRID["transform"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["change.tif", "landcover_after.tif"]
    assert journal.tally.run == len(plan)


def test_bytes_depend_neither_on_threads_nor_on_making_wide_rasters_one_by_one(tmp_path, monkeypatch):
    plan = plan_windows(700, 1100, tile=256, halo=0, stride=16)
    journal = Journal(tmp_path / "journal", {})
    fill(journal, plan, 1, np.random.default_rng(3))
    made = []
    for place, (threads, wide) in enumerate(((1, 2000), (4, 2000), (4, 1000))):
        monkeypatch.setattr(mosaic, "_WIDE", wide)
        out = tmp_path / str(place)
        paths = write_mosaic(out, plan, 1, journal.paths(), SPECS, journal.tally, threads=threads, **GRID)
        made.append({name: path.read_bytes() for name, path in paths.items()})
    assert made[0] == made[1] == made[2]


def test_statistics_are_those_gdal_computes(tmp_path):
    plan = plan_windows(100, 90, tile=48, halo=0, stride=16)
    journal = Journal(tmp_path / "journal", {})
    whole = fill(journal, plan, 1, np.random.default_rng(2))["change"]
    path = write_mosaic(tmp_path, plan, 1, journal.paths(), SPECS, journal.tally, **GRID)["change"]
    valid = whole[whole != 255].astype(float)
    with rasterio.open(path) as dataset:
        tags = dataset.tags(1)
    assert float(tags["STATISTICS_MEAN"]) == pytest.approx(valid.mean(), rel=1e-12)
    assert float(tags["STATISTICS_STDDEV"]) == pytest.approx(valid.std(), rel=1e-12)
    assert (float(tags["STATISTICS_MINIMUM"]), float(tags["STATISTICS_MAXIMUM"])) == (valid.min(), valid.max())
    assert statistics([0] * 255 + [9], 255) == {}


def test_a_missing_part_is_an_error_and_leaves_nothing(tmp_path):
    plan = plan_windows(64, 64, tile=32, halo=0, stride=16)
    journal = Journal(tmp_path / "journal", {})
    fill(journal, plan, 1, np.random.default_rng(0), skip={2})
    with pytest.raises(OutputError, match="1 of 4 parts were never made, the first at row 32, column 0"):
        write_mosaic(tmp_path / "out", plan, 1, journal.paths(), SPECS, journal.tally, **GRID)
    assert not (tmp_path / "out").exists()


# A limit on file size stands in for a full disk: the same write calls fail, for root too.
FULL = """
import resource, sys, pathlib
import numpy as np
from affine import Affine
from rasterio.crs import CRS
from tuban.errors import OutputError
from tuban.inference import mosaic
from tuban.inference.journal import Journal
from tuban.inference.mosaic import write_mosaic
from tuban.inference.parts import Tally, make_part
from tuban.inference.products import RasterSpec
from tuban.inference.windows import plan_windows

folder, limit = pathlib.Path(sys.argv[1]), int(sys.argv[2])
plan = plan_windows(1500, 1500, tile=256, halo=0, stride=16)
rng = np.random.default_rng(0)
specs = [RasterSpec("change", 255, "c")]
journal = Journal(folder / "journal", {})
for index in range(len(plan)):
    w = plan.window(index)
    values = rng.integers(0, 255, (w.height, w.width), dtype=np.uint8)
    journal.add(make_part(index, [w], [{"change": values}], specs, Tally()))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_mosaic(folder, plan, 1, journal.paths(), specs, journal.tally, crs=CRS.from_epsg(32650),
                 transform=Affine.scale(10, -10))
except OutputError as error:
    assert "\\n" not in str(error), error
    sys.stdout.write(f"refused: {error}")
"""


# Noise of 1500 x 1500 px takes 2.26 MB, with overviews the COG takes 2.96 MB: the last fails in its final kilobytes.
@pytest.mark.parametrize("limit", [0, 20_000, 1_500_000, 2_350_000, 2_900_000, 2_960_000])
def test_a_full_disk_is_an_output_error_and_keeps_what_is_done(tmp_path, limit):
    script = textwrap.dedent(FULL)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(limit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: "), done.stdout + done.stderr
    assert "free space" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_a_read_only_folder_is_an_output_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permissions"):
        Journal(tmp_path / "journal", {})


def test_damage_between_making_and_renaming_is_noticed(tmp_path, monkeypatch):
    """What is read back is compared with what was made: here the copy silently loses a row."""
    plan = plan_windows(40, 40, tile=48, halo=0, stride=16)
    journal = Journal(tmp_path / "journal", {})
    zeros = {spec.name: np.zeros((40, 40), np.uint8) for spec in SPECS}
    journal.add(make_part(0, plan.group(0, 1), [zeros], SPECS, Tally()))
    real = rasterio.shutil.copy

    def lossy(source, target, **options):
        real(source, target, **options)
        with rasterio.open(target, "r+", IGNORE_COG_LAYOUT_BREAK=True) as dataset:
            dataset.write(np.full((1, 40), 255, np.uint8), 1, window=rasterio.windows.Window(0, 0, 40, 1))

    monkeypatch.setattr(rasterio.shutil, "copy", lossy)
    with pytest.raises(OutputError, match="1560 valid pixels of the 1600"):
        write_mosaic(tmp_path / "out", plan, 1, journal.paths(), SPECS, journal.tally, **GRID)
    assert list((tmp_path / "out").iterdir()) == []
