"""Bad input through the command line: one line, the right exit code, and nothing of an earlier run touched."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def out(earlier_run, tmp_path):
    """A folder with the results of an earlier run."""
    return shutil.copytree(earlier_run, tmp_path / "结果 folder")


# Each maker writes one bad AFTER image into a folder and returns its path.
def missing(small, folder):
    return folder / "gone.tif"


def not_a_raster(small, folder):
    path = folder / "after.tif"
    path.write_text("no image")
    return path


def truncated(small, folder):
    path = small.write_image(folder / "after.tif", small.pixels()[1])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    return path


def damaged_inside(small, folder):
    """The corners are whole; a tile in the middle is rubbish."""
    values = np.tile(small.pixels()[1], (1, 2, 2))
    path = small.write_image(folder / "after.tif", values, compress="deflate")
    with rasterio.open(path) as source:
        at = int(source.tags(1, ns="TIFF").get("BLOCK_OFFSET_1_1", 0)) or int(
            source.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1)
        )
    data = bytearray(path.read_bytes())
    data[at : at + 600] = bytes(600)
    path.write_bytes(data)
    return path


def without_crs(small, folder):
    return small.write_image(folder / "after.tif", small.pixels()[1], crs=None)


def elsewhere(small, folder):
    from affine import Affine

    far = small.TRANSFORM * Affine.translation(5000, 0)
    return small.write_image(folder / "after.tif", small.pixels()[1], transform=far)


def all_nodata(small, folder):
    return small.write_image(folder / "after.tif", np.zeros((2, 128, 128), np.uint16))


def all_nan(small, folder):
    return small.write_image(folder / "after.tif", np.full((2, 128, 128), np.nan, np.float32), nodata=None)


def all_infinite(small, folder):
    return small.write_image(folder / "after.tif", np.full((2, 128, 128), np.inf, np.float32), nodata=None)


def another_place(small, folder):
    """Nothing in common with BEFORE: noise."""
    noise = np.random.default_rng(1).integers(1, 10_000, (2, 128, 128)).astype(np.uint16)
    return small.write_image(folder / "after.tif", noise)


def other_bands(small, folder):
    return small.write_image(folder / "after.tif", small.pixels()[1], bands=("B11", "B12"))


IMAGES = [
    (missing, 1, "gone.tif: no such file"),
    (not_a_raster, 1, "not a raster"),
    (truncated, 1, "damaged"),
    (damaged_inside, 1, "damaged or cut short"),
    (without_crs, 1, "has no CRS"),
    (elsewhere, 1, "do not overlap"),
    (all_nodata, 1, "no valid pixel"),
    (all_nan, 1, "no valid pixel"),
    (all_infinite, 1, "no valid pixel"),
    (another_place, 1, "check that both show the same place"),
    (other_bands, 1, "no common band"),
]


@pytest.mark.parametrize(("make", "code", "says"), IMAGES, ids=lambda value: getattr(value, "__name__", None))
def test_bad_image_is_refused_and_an_earlier_run_stays(pair, small, out, tmp_path, make, code, says):
    was = small.contents(out)
    result = pair.detect(out, after=make(small, tmp_path))
    assert result.code == code, result.err
    assert says in result.error
    assert result.out == ""
    assert small.contents(out) == was
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(("make", "says"), [(missing, "no such file"), (without_crs, "no CRS")])
def test_a_refused_run_leaves_no_folder_behind(pair, small, tmp_path, make, says):
    result = pair.detect(tmp_path / "a" / "b", before=make(small, tmp_path))
    assert (result.code, says in result.error) == (1, True)
    assert not (tmp_path / "a").exists()


OPTIONS = [
    (("--date-before", "2025-01-01", "--date-after", "2024-01-01"), 1, "dates are reversed"),
    (("--date-before", "yesterday"), 2, "YYYY-MM-DD"),
    (("--model", "no-such-model"), 2, "no-such-model"),
    (("--rules", "atlantis"), 2, "atlantis"),
    (("--lang", "xx"), 2, "xx"),
    (("--backend", "abacus"), 2, "abacus"),
    (("pair.registration.window=9",), 2, "window"),
    (("inference.batch=0",), 2, "inference.batch = 0"),
    (("inference.batch=many",), 2, "many"),
    (("no equals sign",), 2, "no equals sign"),
    (("inference.tile=16",), 2, "tile"),
    (("--aoi", "gone.gpkg"), 1, "gone.gpkg"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), OPTIONS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else None)
def test_bad_option_is_refused(pair, small, out, arguments, code, says):
    was = small.contents(out)
    result = pair.detect(out, *arguments)
    assert result.code == code, result.err
    assert says in result.error
    assert small.contents(out) == was


def test_unknown_option_and_command_are_usage_errors(pair, out):
    assert pair.detect(out, "--colour", "red").code == 2
    assert pair.tuban("detekt").code == 2
    assert pair.tuban("detect").code == 2


def test_one_band_where_ten_are_needed_names_what_is_missing(pair, small, tmp_path, out):
    was = small.contents(out)
    images = [small.write_image(tmp_path / f"{n}.tif", v[:1], bands=("B04",)) for n, v in zip("ab", small.pixels(), strict=True)]
    result = pair.tuban("detect", *images, "--out", out)
    assert result.code == 2
    assert "s2-change" in result.error
    assert "lacks" in result.error
    assert small.contents(out) == was
