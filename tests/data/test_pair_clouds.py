"""Pairs under clouds: which mask is used, what it hides, and that nothing hidden takes part in any measurement."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter

from tuban.data.cloud_mask import CloudSettings
from tuban.data.mask_files import MaskRef
from tuban.data.mask_kinds import mask_table
from tuban.data.pair import PairSettings, open_pair
from tuban.data.radiometry import RadiometrySettings
from tuban.data.registration import RegistrationSettings
from tuban.data.scene import Scene
from tuban.errors import PairError, SceneError, UsageError

UTM = Affine(10, 0, 500000, 0, -10, 4000000)
NAMES = ("B02", "B03", "B04")
SIDE = 160
CODE = mask_table().causes


def plain(**clouds):
    return PairSettings(
        registration=RegistrationSettings(enabled=False),
        radiometry=RadiometrySettings(enabled=False),
        clouds=CloudSettings(**({"dilate_m": 0} | clouds)),
    )


def landscape(seed=0, side=SIDE):
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.normal(size=(4, side, side)), (0, 2.5, 2.5))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    return np.clip(2000 + 300 * noise[:3] + 500 * noise[3], 50, None)


def write(path, image, *, names=NAMES, transform=UTM, dtype="uint16", **options):
    with rasterio.open(
        path, "w", driver="GTiff", count=len(image), height=image.shape[1], width=image.shape[2], dtype=dtype,
        crs="EPSG:32650", transform=transform, nodata=0, **options,
    ) as target:  # fmt: skip
        target.write(np.round(image).astype(dtype))
        target.descriptions = names
    return path


def scl(side=SIDE, **areas):
    """SCL 4 everywhere; keyword `v8` = (rows, columns) slices of class 8."""
    mask = np.full((1, side, side), 4)
    for name, area in areas.items():
        mask[(0, *area)] = int(name[1:])
    return mask


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "before.tif", landscape())
    write(tmp_path / "after.tif", landscape())
    return tmp_path


def read(pair):
    return pair.read(Window(0, 0, pair.width, pair.height), NAMES)


CLOUD = (slice(20, 50), slice(30, 90))
SHADE = (slice(60, 80), slice(30, 90))


def test_hidden_pixels_are_not_valid_and_the_cause_is_kept(folder):
    empty = landscape()
    empty[:, :, :40] = 0  # no data is no cloud
    write(folder / "before.tif", empty)
    write(folder / "after_SCL.tif", scl(v8=CLOUD, v3=SHADE), names=("SCL",))
    write(folder / "before_SCL.tif", scl(v10=SHADE), names=("SCL",))
    with open_pair(folder / "before.tif", folder / "after.tif", settings=plain()) as pair:
        got = pickle.loads(pickle.dumps(pair)).read(Window(0, 0, SIDE, SIDE), NAMES)  # noqa: S301
        unmasked = read(pair.unmasked())
        summary = pair.summary()
    truth = np.zeros((2, SIDE, SIDE), np.uint8)
    truth[(1, *CLOUD)], truth[(1, *SHADE)], truth[(0, *SHADE)] = CODE["cloud"], CODE["shadow"], CODE["cirrus"]
    truth[:, :, :40] = 0
    np.testing.assert_array_equal(got.causes, truth)
    np.testing.assert_array_equal(got.unseen, truth.any(axis=0))
    np.testing.assert_array_equal(got.valid, ~got.unseen & (np.arange(SIDE) >= 40))
    assert not got.after[:, got.unseen].any()
    assert unmasked.after[(slice(None), *CLOUD)][:, :, 10:].all()
    counted = summary["clouds"]["sampled"]
    assert counted["unseen_px"] == 30 * 50 + 20 * 50
    assert counted["by_cause"] == {"before": {"cirrus": 1000}, "after": {"cloud": 1500, "shadow": 1000}}
    assert summary["clouds"]["after"]["kind"] == "scl"
    assert summary["clouds"]["dilate_m"] == 0
    assert any("hidden" in note and "cloud" in note for note in summary["notes"])
    json.dumps(summary)


def test_dilation_is_in_metres(folder):
    write(folder / "after_SCL.tif", scl(v8=CLOUD), names=("SCL",))
    with open_pair(folder / "before.tif", folder / "after.tif", settings=plain(dilate_m=50)) as pair:
        hidden = read(pair).unseen
    assert hidden[15:55, 40:80].all()
    assert hidden[15, 60]
    assert not hidden[14, 60]
    assert not hidden[15, 25]  # corners are round


def test_a_band_of_the_image_goes_before_a_file_and_keeps_the_scale(folder):
    land = landscape() * 4
    stack = np.concatenate([land, np.full((1, SIDE, SIDE), 21824), land[:1]])
    stack[(3, *CLOUD)] = 22280
    names = ("SR_B2", "SR_B3", "SR_B4", "QA_PIXEL", "SR_B6")
    write(folder / "after.tif", stack, names=names)
    write(folder / "after_SCL.tif", scl(), names=("SCL",))
    with Scene.open(folder / "after.tif") as scene:
        assert scene.names == (*NAMES, "B11")
        assert scene.radiometry == "reflectance"
        assert scene.mask.kind == "qa_pixel"
    with open_pair(folder / "before.tif", folder / "after.tif", settings=plain()) as pair:
        got = read(pair)
        assert pair.summary()["clouds"]["after"]["found"] == "band 4 of the image"
    assert got.unseen.sum() == 30 * 60


def test_scene_json_goes_before_what_is_found(folder):
    write(folder / "after_SCL.tif", scl(v8=CLOUD), names=("SCL",))
    (folder / "masks").mkdir()
    write(folder / "masks" / "mine.tif", scl(v8=SHADE), names=("x",))
    sidecar = {"mask": {"after": "masks/mine.tif"}, "mask_kind": "scl"}
    (folder / "scene.json").write_text(json.dumps(sidecar), encoding="utf-8")
    with open_pair(folder / "before.tif", folder / "after.tif", settings=plain()) as pair:
        np.testing.assert_array_equal(np.argwhere(read(pair).unseen)[0], [60, 30])
        assert pair.before.mask is None
    (folder / "scene.json").write_text(json.dumps(sidecar | {"mask": "gone.tif"}), encoding="utf-8")
    with pytest.raises(SceneError, match="gone"):
        open_pair(folder / "before.tif", folder / "after.tif", settings=plain())


def test_a_given_mask_goes_before_everything(folder):
    write(folder / "after_SCL.tif", scl(v8=CLOUD), names=("SCL",))
    given = write(folder / "给定 cloudmask.tif", (scl(v8=SHADE) == 8).astype(int), names=("",))
    options = plain(mask_after=str(given), source="none", kind="binary")
    with open_pair(folder / "before.tif", folder / "after.tif", settings=options) as pair:
        hidden = read(pair).unseen
    assert hidden[SHADE].all()
    assert hidden.sum() == 20 * 60


def test_stac_asset(folder):
    write(folder / "after_scl.tif", scl(v9=CLOUD)[:, ::2, ::2], transform=UTM @ Affine.scale(2), names=("SCL",))
    assets = {
        "image": {"href": "./after.tif", "eo:bands": [{"name": name} for name in NAMES]},
        "scl": {"href": "./after_scl.tif", "roles": ["data"]},
    }
    item = {"type": "Feature", "stac_version": "1.0.0", "id": "x", "assets": assets,
            "properties": {"datetime": "2024-05-01T00:00:00Z", "platform": "sentinel-2a"}}  # fmt: skip
    (folder / "item.json").write_text(json.dumps(item), encoding="utf-8")
    with open_pair(folder / "before.tif", folder / "item.json", settings=plain()) as pair:
        assert read(pair).unseen.sum() == 30 * 60
        assert pair.summary()["clouds"]["after"]["found"] == "asset scl of the STAC item"


def test_sources_that_are_not_there(folder):
    files = (folder / "before.tif", folder / "after.tif")
    with open_pair(*files, settings=plain()) as pair:
        assert not read(pair).unseen.any()
        assert sum("no cloud mask was found" in note for note in pair.notes) == 2
        assert pair.summary()["clouds"]["sampled"] is None
    with open_pair(*files, settings=plain(source="none")) as pair:
        assert not any("cloud" in note for note in pair.notes)
    with pytest.raises(SceneError, match=r"mask_before.*csmask"):
        open_pair(*files, settings=plain(source="own"))
    with pytest.raises(UsageError, match="CsMask"):
        open_pair(*files, settings=plain(source="csmask"))


def test_a_predictor_is_asked_for_what_the_overlap_needs(folder):
    write(folder / "after.tif", landscape()[:, 40:, 50:], transform=UTM @ Affine.translation(50, 40))
    asked = {}

    def predict(scene, window, role):
        asked[role] = window
        grid = scene.grid.window(window)
        values = np.zeros((1, grid.height, grid.width))
        values[0, -1, -1] = 2
        path = write(folder / f"clouds_{role}.tif", values, transform=grid.transform, names=("csmask",))
        return MaskRef(str(path), "csmask", "predicted", notes=("guessed",))

    with open_pair(
        folder / "before.tif", folder / "after.tif", settings=plain(source="csmask"), clouds=predict
    ) as pair:
        got = read(pair)
        assert "after: guessed" in pair.notes
    assert asked["before"].col_off == 50 - 16
    assert asked["before"].row_off == 40 - 16
    assert got.causes[:, -1, -1].tolist() == [CODE["shadow"]] * 2
    assert got.unseen.sum() == 1


def cloudy_after(folder, share):
    """AFTER, moved by a pixel and darker by a known line, with a bright structured cloud over part of it."""
    image = np.roll(landscape(), 1, axis=2) * 0.8 + 150
    rows = slice(0, int(share * SIDE))
    cloud = np.roll(landscape(seed=5), 7, axis=2)[:, rows] * 3 + 3000
    image[:, rows] = cloud
    write(folder / "after.tif", image)
    return scl(v9=(rows, slice(None)))


def test_clouds_take_no_part_in_registration_and_radiometry(folder):
    mask = cloudy_after(folder, 0.45)
    options = PairSettings(radiometry=RadiometrySettings(refuse_below=-1), clouds=CloudSettings(dilate_m=20))
    with open_pair(folder / "before.tif", folder / "after.tif", settings=options) as pair:
        fooled = pair
    write(folder / "after_SCL.tif", mask, names=("SCL",))
    with open_pair(folder / "before.tif", folder / "after.tif", settings=options) as pair:
        assert pair.registration.action == "corrected"
        assert pair.registration.dx_px == pytest.approx(1, abs=0.1)
        assert pair.radiometry.gain == pytest.approx([1.25] * 3, rel=0.02)
        assert pair.radiometry.score > 0.98
    assert fooled.radiometry.score < 0.9 or abs(fooled.radiometry.gain[0] - 1.25) > 0.05


def test_the_mask_moves_with_the_image(folder):
    """AFTER stands 2 px to the right: so does its mask, and both are moved back."""
    image = np.roll(landscape(), 2, axis=2)
    write(folder / "after.tif", image)
    write(folder / "after_SCL.tif", scl(v8=(slice(20, 50), slice(32, 92))), names=("SCL",))
    options = PairSettings(clouds=CloudSettings(dilate_m=0))
    with open_pair(folder / "before.tif", folder / "after.tif", settings=options) as pair:
        assert pair.registration.correction == pytest.approx((2, 0), abs=0.15)
        hidden = read(pair).unseen
    assert hidden[CLOUD].mean() > 0.98
    assert abs(int(hidden.sum()) - 30 * 60) < 60


@pytest.mark.parametrize("seen", [0.0, 0.005])
def test_too_little_seen_is_refused(folder, seen):
    rows = slice(0, SIDE - int(seen * SIDE))
    write(folder / "after_SCL.tif", scl(v8=(rows, slice(None))), names=("SCL",))
    if seen == 0.005:
        write(folder / "after_SCL.tif", scl(v8=(slice(1, None), slice(None))), names=("SCL",))
    with pytest.raises(PairError, match=r"seen at both dates \(after cloud.*min_seen") as caught:
        open_pair(folder / "before.tif", folder / "after.tif", settings=plain())
    assert "\n" not in str(caught.value)
    with open_pair(folder / "before.tif", folder / "after.tif", settings=plain(min_seen=0)) as pair:
        assert read(pair).valid.sum() == (SIDE if seen else 0)


def test_a_large_overlap_is_sampled(tmp_path):
    side = 1400
    image = np.tile(landscape(), (1, 9, 9))[:, :side, :side]
    write(tmp_path / "before.tif", image, tiled=True)
    write(tmp_path / "after.tif", image, tiled=True)
    write(tmp_path / "after_SCL.tif", scl(side, v8=(slice(None), slice(0, 700))), names=("SCL",))
    with open_pair(tmp_path / "before.tif", tmp_path / "after.tif", settings=plain()) as pair:
        assert pair.sampled.seen_px + pair.sampled.unseen_px == (16 * 64) ** 2
        assert pair.sampled.share == pytest.approx(0.5, abs=0.02)
