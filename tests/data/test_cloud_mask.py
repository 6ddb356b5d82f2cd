"""Masks on other grids and their dilation, against brute force."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.windows import Window

from tuban.data.cloud_mask import CloudMask, CloudSettings, dilate
from tuban.data.grid import Grid
from tuban.data.mask_files import MaskRef
from tuban.data.mask_kinds import mask_table
from tuban.errors import SceneError

UTM = CRS.from_epsg(32650)
T10 = Affine(10, 0, 500000, 0, -10, 4000000)
CODE = mask_table().causes
EXACT = CloudSettings(dilate_m=0)


def write_mask(path, values, *, transform=T10, crs=UTM, description=None):
    values = np.atleast_3d(values.T).T if values.ndim == 2 else values
    with rasterio.open(
        path, "w", driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2],
        dtype=values.dtype, crs=crs, transform=transform,
    ) as target:  # fmt: skip
        target.write(values)
        if description:
            target.set_band_description(1, description)
    return path


def blobs(height, width, seed=0, share=0.02):
    """SCL with scattered cloud, shadow, snow and land."""
    rng = np.random.default_rng(seed)
    scl = rng.choice([4, 5, 2, 7], size=(height, width))
    return np.where(rng.random(scl.shape) < share, rng.choice([3, 8, 9, 10, 11, 1], size=scl.shape), scl).astype(
        "uint8"
    )


def codes_of(scl, *, snow=False):
    table = {1: "defective", 3: "shadow", 8: "cloud", 9: "cloud", 10: "cirrus", 0: "unknown"} | (
        {11: "snow"} if snow else {}
    )
    out = np.zeros(scl.shape, dtype=np.uint8)
    for value, cause in table.items():
        out[scl == value] = CODE[cause]
    return out


def opened(path, options=EXACT, kind="scl"):
    return CloudMask.open(MaskRef(str(path), kind, "test"), options)


def test_twenty_metres_on_ten(tmp_path):
    scl = blobs(30, 40)
    path = write_mask(tmp_path / "m.tif", scl, transform=T10 @ Affine.scale(2))
    grid = Grid(UTM, T10 @ Affine.translation(7, 5), 40, 50)
    found = opened(path).read_on_grid(grid, spacing=(10, 10))
    np.testing.assert_array_equal(found, codes_of(scl).repeat(2, 0).repeat(2, 1)[5:45, 7:57])


def test_beyond_the_mask_nothing_is_known(tmp_path):
    path = write_mask(tmp_path / "m.tif", np.full((20, 20), 4, "uint8"))
    grid = Grid(UTM, T10 @ Affine.translation(-3, 15), 10, 10)
    found = opened(path).read_on_grid(grid, spacing=(10, 10))
    assert (found[:5, 3:] == 0).all()
    assert (found == CODE["unknown"]).sum() == 100 - 35
    only_clouds = CloudSettings(dilate_m=0, causes=("cloud",))
    assert not opened(path, only_clouds).read_on_grid(grid, spacing=(10, 10)).any()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3), st.sampled_from([4326, 32651, 4527]))
def test_another_crs_takes_the_nearest_pixel(tmp_path_factory, seed, epsg):
    scl = blobs(60, 60, seed)
    path = write_mask(tmp_path_factory.mktemp("crs") / "m.tif", scl, transform=T10 @ Affine.scale(2))
    back = Transformer.from_crs(epsg, UTM, always_xy=True)
    x, y = Transformer.from_crs(UTM, epsg, always_xy=True).transform(500600, 3999400)
    step = 9e-5 if epsg == 4326 else 9.7
    grid = Grid(CRS.from_epsg(epsg), Affine(step, 0, x - 20 * step, 0, -step, y + 20 * step), 40, 40)
    found = opened(path).read_on_grid(grid, spacing=(10, 10))
    cols, rows = np.meshgrid(np.arange(40) + 0.5, np.arange(40) + 0.5)
    easting, northing = back.transform(*(grid.transform @ (cols, rows)))
    row, col = np.floor((4000000 - northing) / 20).astype(int), np.floor((easting - 500000) / 20).astype(int)
    np.testing.assert_array_equal(found, codes_of(scl)[row, col])


def brute_dilation(codes, radius, spacing):
    """Every pair of pixels: the first growing cause, in the table's order, within the radius."""
    out = codes.copy()
    for row, col in np.argwhere(codes == 0):
        near = [
            codes[r, c]
            for r, c in np.argwhere(np.isin(codes, [CODE[name] for name in mask_table().growing]))
            if np.hypot((r - row) * spacing[0], (c - col) * spacing[1]) <= 1.005 * radius
        ]
        out[row, col] = min(near, default=0)
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 70), st.sampled_from([(10.0, 10.0), (10.0, 7.3), (30.0, 30.0)]))
def test_dilation_against_brute_force(seed, radius, spacing):
    codes = codes_of(blobs(18, 16, seed, 0.05), snow=True)
    np.testing.assert_array_equal(dilate(codes, radius, spacing), brute_dilation(codes, radius, spacing))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(-20, 90), st.integers(-20, 90), st.integers(1, 70), st.integers(1, 70), st.floats(-1, 1))
def test_a_window_is_a_crop_of_the_whole(tmp_path_factory, col, row, width, height, shift):
    path = tmp_path_factory.getbasetemp() / "whole_scl.tif"
    if not path.exists():
        write_mask(path, blobs(50, 50, share=0.004), transform=Affine(21, 0.5, 499990, 0.4, -19, 4000010))
    mask = opened(path, CloudSettings(dilate_m=35))
    whole = Grid(UTM, T10 @ Affine.translation(-20, -20), 180, 180)
    grid = Grid(UTM, T10, 100, 100)
    part = mask.read_on_grid(grid.window(Window(col, row, width, height)), spacing=(10, 10), shift=(shift, -shift))
    full = mask.read_on_grid(whole, spacing=(10, 10), shift=(shift, -shift))
    np.testing.assert_array_equal(part, full[row + 20 : row + 20 + height, col + 20 : col + 20 + width])


def test_a_fine_mask_is_read_in_pieces(tmp_path, monkeypatch):
    scl = blobs(400, 400)
    path = write_mask(tmp_path / "m.tif", scl, transform=Affine(1, 0, 500000, 0, -1, 4000000))
    grid = Grid(UTM, T10, 40, 40)
    whole = opened(path).read_on_grid(grid, spacing=(10, 10))
    monkeypatch.setattr("tuban.data.cloud_mask.MAX_SOURCE_PX", 2000)
    np.testing.assert_array_equal(opened(path).read_on_grid(grid, spacing=(10, 10)), whole)
    np.testing.assert_array_equal(whole, codes_of(scl)[5::10, 5::10])


def test_pickles_and_reads_a_band_of_a_float_image(tmp_path):
    stack = np.stack([np.full((20, 20), 0.2), blobs(20, 20).astype(float)]).astype("float32")
    stack[1, 3, 4] = np.nan
    path = write_mask(tmp_path / "stack.tif", stack)
    mask = CloudMask.open(MaskRef(str(path), "scl", "band 2 of the image", band=2), EXACT)
    found = pickle.loads(pickle.dumps(mask)).read_on_grid(Grid(UTM, T10, 20, 20), spacing=(10, 10))  # noqa: S301
    np.testing.assert_array_equal(found, codes_of(np.nan_to_num(stack[1]).astype("uint8")))
    assert found[3, 4] == CODE["unknown"]


@pytest.mark.parametrize(
    ("name", "description", "kind"),
    [("a_SCL_20m", None, "scl"), ("LC09_QA_PIXEL", None, "qa_pixel"), ("mask", "csmask", "csmask"),
     ("my-cloudmask", None, "binary")],
)  # fmt: skip
def test_kind_from_name_or_description(tmp_path, name, description, kind):
    path = write_mask(tmp_path / f"{name}.tif", np.zeros((4, 4), "uint8"), description=description)
    assert CloudMask.open(MaskRef(str(path), None, "option"), EXACT).kind == kind


@pytest.mark.parametrize(
    ("values", "kind", "match"),
    [
        (np.zeros((4, 4), "uint8"), None, "pair.clouds.kind"),
        (np.zeros((4, 4), "float32"), "scl", "integers"),
        (np.zeros((3, 4, 4), "uint8"), "udm2", "8 bands"),
        (np.full((4, 4), 21824, "uint16"), "scl", "21824"),
        (np.full((4, 4), -1, "int16"), "binary", "-1"),
    ],
)
def test_what_is_no_mask(tmp_path, values, kind, match):
    path = write_mask(tmp_path / "what.tif", values)
    with pytest.raises(SceneError, match=match) as caught:
        opened(path, kind=kind).read_on_grid(Grid(UTM, T10, 4, 4), spacing=(10, 10))
    assert "\n" not in str(caught.value)


def test_missing_and_unplaced_masks(tmp_path):
    with pytest.raises(SceneError, match="no such file"):
        opened(tmp_path / "gone_SCL.tif")
    path = write_mask(tmp_path / "nowhere.tif", np.zeros((4, 4), "uint8"), crs=None)
    with pytest.raises(SceneError, match="no CRS"):
        opened(path)
