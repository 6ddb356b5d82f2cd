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
from tuban.inference.windows import plan_windows
from tuban.inference.writer import RasterSpec, RasterWriter

GRID = (CRS.from_epsg(4326), Affine(1e-4, 0, 116, 0, -1e-4, 40))
SPECS = [RasterSpec("change", 255, "change"), RasterSpec("landcover_after", 0, "cover", {1: (1, 2, 3)})]


def fill(writer, plan, rng):
    wholes = {spec.name: rng.integers(0, 256, (plan.height, plan.width), dtype=np.uint8) for spec in SPECS}
    # In any order: tasks of a cluster, or a run taken up again, do not come row by row.
    for window in sorted(plan, key=lambda w: -w.index):
        place = slice(window.row, window.row + window.height), slice(window.col, window.col + window.width)
        writer.write(window, {name: whole[place] for name, whole in wholes.items()})
    return wholes


def test_what_is_written_in_any_order_is_what_is_read(tmp_path):
    plan = plan_windows(130, 70, tile=48, halo=0, stride=16)
    with RasterWriter(tmp_path, plan, *GRID, SPECS) as writer:
        wholes = fill(writer, plan, np.random.default_rng(1))
        assert not list(tmp_path.glob("*.tif"))
        paths = writer.finish()
    for name, whole in wholes.items():
        with rasterio.open(paths[name]) as dataset:
            np.testing.assert_array_equal(dataset.read(1), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["change.tif", "landcover_after.tif"]


def test_a_window_missing_or_twice_is_an_error_and_leaves_nothing(tmp_path):
    plan = plan_windows(64, 64, tile=32, halo=0, stride=16)
    blank = {spec.name: np.zeros((32, 32), np.uint8) for spec in SPECS}
    with RasterWriter(tmp_path, plan, *GRID, SPECS) as writer:
        for index in (0, 1, 3):
            writer.write(plan.window(index), blank)
        with pytest.raises(ValueError, match="written before"):
            writer.write(plan.window(1), blank)
        with pytest.raises(OutputError, match="1 of 4 windows were never written, the first at row 32, column 0"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []


# A limit on file size stands in for a full disk: the same write calls fail, for root too.
FULL = """
import resource, sys, pathlib
import numpy as np
from affine import Affine
from rasterio.crs import CRS
from tuban.errors import OutputError
from tuban.inference.windows import plan_windows
from tuban.inference.writer import RasterSpec, RasterWriter

folder, limit = pathlib.Path(sys.argv[1]), int(sys.argv[2])
plan = plan_windows(1500, 1500, tile=256, halo=0, stride=16)
rng = np.random.default_rng(0)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with RasterWriter(folder, plan, CRS.from_epsg(32650), Affine.scale(10, -10), [RasterSpec("change", 255, "c")]) as w:
        for window in plan:
            w.write(window, {"change": rng.integers(0, 255, (window.height, window.width), dtype=np.uint8)})
        w.finish()
except OutputError as error:
    assert "\\n" not in str(error), error
    sys.stdout.write(f"refused: {error}")
"""


# Noise of 1500 x 1500 px takes 2.26 MB: the first three fail while streaming or closing. With overviews the COG takes
# 2.96 MB, more than the working file, so the last three fail in the copy, the last in its final kilobytes.
@pytest.mark.parametrize("limit", [0, 20_000, 1_500_000, 2_350_000, 2_900_000, 2_960_000])
def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path, limit):
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
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_a_read_only_folder_is_an_output_error(tmp_path):
    tmp_path.chmod(0o500)
    plan = plan_windows(16, 16, tile=16, halo=0, stride=16)
    with pytest.raises(OutputError, match="permissions"), RasterWriter(tmp_path, plan, *GRID, SPECS):
        pass


def test_damage_between_writing_and_renaming_is_noticed(tmp_path, monkeypatch):
    """What is read back is compared with what was written: here the copy silently loses a row."""
    plan = plan_windows(40, 40, tile=48, halo=0, stride=16)
    real = rasterio.shutil.copy

    def lossy(source, target, **options):
        with rasterio.open(source, "r+") as dataset:
            dataset.write(np.full((1, 40), 255, np.uint8), 1, window=rasterio.windows.Window(0, 0, 40, 1))
        real(source, target, **options)

    monkeypatch.setattr(rasterio.shutil, "copy", lossy)
    with RasterWriter(tmp_path, plan, *GRID, SPECS[:1]) as writer:
        writer.write(plan.window(0), {"change": np.zeros((40, 40), np.uint8)})
        with pytest.raises(OutputError, match="1560 valid pixels of the 1600"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []
