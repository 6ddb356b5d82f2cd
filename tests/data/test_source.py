"""Damaged files: what cannot be read is an error that says where, never zeros; what is sound stays readable."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

from tuban.data.scene import Scene, SceneSettings
from tuban.errors import ReadError, SceneError

BLOCK = 128
GOOD = Window(0, 0, 64, 64)
QUICK = SceneSettings(probe_window=64)
STRIPED = {"tiled": None, "blockxsize": None, "blockysize": None}


def block_at(path, row, col, band=1):
    """Offset and size of a block of a GeoTIFF, as GDAL says."""
    with rasterio.open(path) as dataset:
        place = f"{col // BLOCK}_{row // BLOCK}"
        offset = dataset.get_tag_item(f"BLOCK_OFFSET_{place}", "TIFF", bidx=band)
        size = dataset.get_tag_item(f"BLOCK_SIZE_{place}", "TIFF", bidx=band)
        return int(offset), int(size)


def overwrite(path, offset, size, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(noise)


@pytest.mark.parametrize("codec", ["deflate", "lzw", "zstd", "lerc"])
def test_a_corrupt_block_is_named_and_the_rest_stays_readable(tmp_path, write_image, codec):
    values = write_image(tmp_path / "a.tif", compress=codec)
    offset, size = block_at(tmp_path / "a.tif", 256, 128)
    overwrite(tmp_path / "a.tif", offset, size)
    with Scene.open(tmp_path / "a.tif", settings=QUICK) as scene:
        for _ in range(2):
            with pytest.raises(ReadError, match=r"cannot be read at bands 1, 3, columns 150-160, rows 300-310 \(.+\)"):
                scene.read(Window(150, 300, 10, 10), ("B02", "B04"))
            got, valid = scene.read(GOOD, ("B02",))
            assert valid.all()
            assert np.array_equal(got[0], values[0, :64, :64])


def test_the_error_carries_what_a_program_needs(tmp_path, write_image):
    write_image(tmp_path / "a.tif")
    overwrite(tmp_path / "a.tif", *block_at(tmp_path / "a.tif", 256, 128))
    with Scene.open(tmp_path / "a.tif", settings=QUICK) as scene, pytest.raises(ReadError) as caught:
        scene.read(Window(100, 300, 40, 20), scene.names)
    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert (error.path, error.bands, error.window) == (str(tmp_path / "a.tif"), (1, 2, 3), (300, 100, 20, 40))
    assert error.detail in str(error)
    assert str(error).endswith("copy it again")
    assert error.exit_code == 1


def test_jpeg_that_decoders_mend_silently(tmp_path, write_image):
    """Without strictness GDAL fills what is lost with grey or zeros and only warns."""
    write_image(tmp_path / "a.jpg", driver="JPEG", compress=None, **STRIPED)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    with rasterio.open(tmp_path / "a.jpg") as dataset:
        assert dataset.read().shape == (3, 512, 512)  # so GDAL goes on
    with pytest.raises(ReadError, match="cannot be read at bands 1, 2, 3"):
        Scene.open(tmp_path / "a.jpg")


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_jpeg_inside_a_tiff(tmp_path, write_image, interleave):
    write_image(tmp_path / "a.tif", compress="jpeg", interleave=interleave)
    offset, size = block_at(tmp_path / "a.tif", 256, 128)
    with (tmp_path / "a.tif").open("r+b") as file:
        file.seek(offset + size // 2)
        file.write(b"\xff\xd9" + bytes(size - size // 2 - 2))  # an end of image in the middle
    with Scene.open(tmp_path / "a.tif", settings=QUICK) as scene:
        with pytest.raises(ReadError, match=r"columns 128-256, rows 256-384"):
            scene.read(Window(128, 256, 128, 128), scene.names)
        assert scene.read(GOOD, scene.names)[1].all()


def test_png_cut_short_is_no_image_of_zeros(tmp_path, write_image):
    write_image(tmp_path / "a.png", driver="PNG", compress=None, **STRIPED)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) * 6 // 10])
    with rasterio.open(tmp_path / "a.png") as dataset:
        assert dataset.read().shape == (3, 512, 512)  # so GDAL gives what happened to be in memory
    with pytest.raises(ReadError, match="cut short"):
        Scene.open(tmp_path / "a.png")


def test_jp2_cut_short(tmp_path, write_image):
    write_image(tmp_path / "a.jp2", driver="JP2OpenJPEG", compress=None, tiled=None, blockxsize=128, blockysize=128,
                quality=100, reversible="yes")  # fmt: skip
    data = (tmp_path / "a.jp2").read_bytes()
    (tmp_path / "a.jp2").write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(ReadError, match=r"a\.jp2: cannot be read at bands 1, 2, 3"):
        Scene.open(tmp_path / "a.jp2")


def test_every_way_of_cutting_a_tiff_short_is_an_error(tmp_path, write_image):
    values = write_image(tmp_path / "whole.tif", size=256)
    data = (tmp_path / "whole.tif").read_bytes()

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, len(data) - 1))
    def cut(length):
        (tmp_path / "cut.tif").write_bytes(data[:length])
        try:
            with Scene.open(tmp_path / "cut.tif") as scene:
                got, valid = scene.read(Window(0, 0, 256, 256), scene.names)
        except SceneError:
            return
        assert valid.all()  # only what lies behind the last block may be missing
        assert np.array_equal(got, values)

    cut()


def test_sparse_tiles_are_legal_nodata(tmp_path, write_image):
    write_image(tmp_path / "a.tif", nodata=0)
    with rasterio.open(tmp_path / "a.tif") as source:
        profile = source.profile | {"sparse_ok": True}
        block = source.read(window=Window(0, 0, 128, 128))
    with rasterio.open(tmp_path / "sparse.tif", "w", **profile) as target:
        target.write(block, window=Window(0, 0, 128, 128))
    with Scene.open(tmp_path / "sparse.tif") as scene:
        _, valid = scene.read(Window(0, 0, 512, 512), scene.names)
    assert valid[:128, :128].all()
    assert valid.sum() == 128 * 128


def test_vrt_whose_source_is_gone(tmp_path, write_image):
    write_image(tmp_path / "a.tif")
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.vrt", driver="VRT")
    with Scene.open(tmp_path / "a.vrt") as scene:
        scene.close()
        (tmp_path / "a.tif").rename(tmp_path / "b.tif")
        with pytest.raises(ReadError, match=r"a\.vrt: cannot be read.*a\.tif"):
            scene.read(GOOD, scene.names)
        (tmp_path / "b.tif").rename(tmp_path / "a.tif")
        assert scene.read(GOOD, scene.names)[1].all()


def test_file_that_vanishes_or_shrinks_while_it_is_read(tmp_path, write_image):
    values = write_image(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    with Scene.open(tmp_path / "a.tif", settings=SceneSettings(probe_window=128)) as scene:  # caches the least
        os.truncate(tmp_path / "a.tif", len(data) // 3)
        with pytest.raises(ReadError, match="columns 256-512, rows 256-512"):
            scene.read(Window(256, 256, 256, 256), scene.names)
        (tmp_path / "a.tif").unlink()
        with pytest.raises(ReadError, match=r"gone.*check the address"):
            scene.read(GOOD, scene.names)
        (tmp_path / "a.tif").write_bytes(data)
        assert np.array_equal(scene.read(GOOD, scene.names)[0], values[:, :64, :64])


def test_a_damaged_corner_stops_a_run_unless_damage_is_tolerated(tmp_path, write_image):
    values = write_image(tmp_path / "a.tif")
    overwrite(tmp_path / "a.tif", *block_at(tmp_path / "a.tif", 0, 0))
    with pytest.raises(ReadError, match="columns 0-1, rows 0-1"):
        Scene.open(tmp_path / "a.tif")
    tolerant = SceneSettings(probe_window=128, tolerate_damage=True)
    with Scene.open(tmp_path / "a.tif", settings=tolerant) as scene:
        assert any(note.startswith("damaged: ") and "columns 0-1" in note for note in scene.notes)
        assert np.array_equal(scene.read(Window(200, 200, 50, 50), scene.names)[0], values[:, 200:250, 200:250])
        with pytest.raises(ReadError):
            scene.read(GOOD, scene.names)
    os.truncate(tmp_path / "a.tif", 20000)
    with pytest.raises(SceneError):
        Scene.open(tmp_path / "a.tif", settings=tolerant)
