import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from tuban.data import painting
from tuban.data.drawing import Season, demo_settings
from tuban.data.painting import bare_spectra, built_up_spectra, coverage, load_chip, ndvi, paint
from tuban.errors import MissingExtraError

GRID = Affine(10, 0, 1000, 0, -10, 5000)


@pytest.fixture(scope="module")
def chip():
    return load_chip().values


def test_the_chip_is_a_real_image_of_four_bands(chip):
    assert chip.shape == (4, 300, 300)
    assert chip.min() > 0
    # Vegetation is brighter in the infrared than in red; a chip with swapped bands would fail here.
    assert np.median(chip[3]) > np.median(chip[2])


def test_spectra_are_pixels_of_the_chip_and_tell_roofs_from_fields(chip):
    drawing = demo_settings()
    built, bare = built_up_spectra(chip, drawing.built_up), bare_spectra(chip, drawing.bare_field)
    pixels = {tuple(pixel) for pixel in chip.reshape(4, -1).T.tolist()}
    assert len(built) > 50
    assert all(tuple(spectrum) in pixels for spectrum in built.astype(int).tolist())
    assert built[:, 0].mean() > 1.3 * bare[:, 0].mean()


@settings(max_examples=30, deadline=None)
@given(
    left=st.floats(5, 60),
    top=st.floats(5, 60),
    width=st.floats(10, 120),
    height=st.floats(10, 120),
)
def test_coverage_agrees_with_exact_intersections(left, top, width, height):
    shape = shapely.box(1000 + left, 5000 - top - height, 1000 + left + width, 5000 - top)
    rows, cols = np.mgrid[0:20, 0:20]
    pixels = shapely.box(1000 + 10 * cols, 5000 - 10 * (rows + 1), 1000 + 10 * (cols + 1), 5000 - 10 * rows)
    exact = shapely.area(shapely.intersection(pixels, shape)) / 100
    found = coverage(shape, GRID, 20, 20)
    # Two sides of a rectangle may cross one pixel: each costs at most one row or column of sample points.
    assert np.abs(found - exact).max() <= 2 / painting.SUBSAMPLES + 1e-9
    assert found.sum() == pytest.approx(exact.sum(), rel=0.15)


def test_coverage_outside_is_zero():
    assert coverage(shapely.box(0, 0, 10, 10), GRID, 20, 20).sum() == 0


def test_ndvi_of_nothing_is_zero():
    assert ndvi(np.zeros((4, 2, 2), np.uint16)).tolist() == [[0, 0], [0, 0]]


def test_without_season_only_the_sites_and_decoys_change(chip):
    drawing = demo_settings()
    still = Season(gain=(1, 1, 1, 1), offset=(0, 0, 0, 0), noise=0, shift_px=(0, 0), blur_px=0)
    drawing = drawing.model_copy(update={"season": still})
    changed = (paint(chip, drawing) != chip).any(axis=0)
    drawn = np.zeros(chip.shape[1:])
    for site in drawing.sites:
        drawn += coverage(site.polygon(drawing.grid), drawing.grid.transform, *drawn.shape)
    without_decoys = drawing.model_copy(update={"decoys": ()})
    only_sites = (paint(chip, without_decoys) != chip).any(axis=0)
    assert not (only_sites & (drawn == 0)).any()
    assert only_sites[drawn > 0.5].mean() > 0.99
    assert changed.sum() > only_sites.sum()


def test_the_drawn_displacement_is_what_was_done(chip):
    drawing = demo_settings().model_copy(update={"sites": (), "decoys": ()})
    after = paint(chip, drawing)[2].astype(float)
    before = chip[2].astype(float)
    # Independent oracle: the shift theorem. The phase of the cross spectrum is linear in the displacement.
    window = np.outer(np.hanning(300), np.hanning(300))
    cross = np.fft.fft2((after - after.mean()) * window) * np.conj(np.fft.fft2((before - before.mean()) * window))
    across = -np.angle(cross[0, 1:12]) * 300 / (2 * np.pi * np.arange(1, 12))
    down = -np.angle(cross[1:12, 0]) * 300 / (2 * np.pi * np.arange(1, 12))
    assert np.median(across) == pytest.approx(0.4, abs=0.1)
    assert np.median(down) == pytest.approx(-0.3, abs=0.1)


def test_without_spyndex_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(painting, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"tuban\[demo\]"):
        load_chip()
