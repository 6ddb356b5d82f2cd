"""Reading places: a user's own folder, odd files against oracles written by hand, blocks, errors, real imagery."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.enums import ColorInterp

from tuban.data import places as module
from tuban.data.leakage import check_leakage
from tuban.data.place import IGNORE
from tuban.data.places import blocks, load_places, place_names
from tuban.data.splits import place_groups
from tuban.errors import PairError, SceneError, UsageError

RGB = ("B04", "B03", "B02")
UTM = Affine(10, 0, 500_000, 0, -10, 4_000_000)


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def tif(path, values, transform=UTM, **profile):
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    shape = {"count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32650", transform=transform, **shape, **profile) as target:
        target.write(values)


def noise(seed, *shape, top=200):
    coarse = np.random.default_rng(seed).integers(20, top, (*shape[:-2], shape[-2] // 2, shape[-1] // 2))
    return np.kron(coarse, np.ones((2, 2), int))


PAIRS = """
id: my_county
bands: [B04, B03, B02]
gsd_m: 0.5
roles:
  - {role: before, path: "A/{item}.*"}
  - {role: after, path: "B/{item}.*"}
  - {role: change, path: "label/{item}.png", unknown: [9]}
"""


@pytest.fixture
def pairs(tmp_path):
    """A folder of pairs as a user has it: names with a dot and in Chinese, suffixes mixed, a sidecar beside."""
    for seed, (name, suffix) in enumerate((("地块.1", "png"), ("2", "bmp"))):
        before = noise(seed, 3, 40, 60).astype(np.uint8)
        after = before.copy()
        after[:, 10:20, 10:30] = 250
        for folder, image in (("A", before), ("B", after)):
            png(tmp_path / folder / f"{name}.{suffix}", np.moveaxis(image, 0, -1))
        label = np.zeros((40, 60), np.uint8)
        label[10:20, 10:30] = 255
        label[0] = 9
        png(tmp_path / "label" / f"{name}.png", label)
    (tmp_path / "A" / "2.bmp.aux.xml").write_text("<PAMDataset/>", encoding="utf-8")
    (tmp_path / "dataset.yaml").write_text(PAIRS, encoding="utf-8")
    return tmp_path


def read(root, **options):
    return list(load_places(root, bands=options.pop("bands", RGB), classes=options.pop("classes", (1, 7)), **options))


def test_a_folder_of_pairs_with_a_small_yaml_is_read(pairs):
    assert place_names(pairs) == ["2", "地块.1"]
    second, first = read(pairs, bands=("B02", "B08", "B04"))
    assert (first.name, first.dataset, first.group, first.gsd_m) == ("地块.1", "my_county", "地块.1", 0.5)
    stored = noise(0, 3, 40, 60) / 255
    np.testing.assert_allclose(first.before[[0, 2]], stored[[2, 0]], atol=1e-6)  # B02 is the third band of the file
    assert np.isnan(first.before[1]).all()
    unchanged = first.change == 0
    np.testing.assert_allclose(first.after[[0, 2]][:, unchanged], first.before[[0, 2]][:, unchanged], atol=1e-4)
    assert [int((first.change == value).sum()) for value in (0, 1, IGNORE)] == [40 * 60 - 200 - 60, 200, 60]
    assert (first.landcover_before == IGNORE).all()
    assert (first.weight_before == 0).all()
    assert (first.footprint, second.name) == (None, "2")


def test_after_is_mapped_onto_the_radiometry_of_before(pairs):
    path = pairs / "B" / "2.bmp"
    darker = (np.asarray(Image.open(path)) * 0.5 + 20).round().astype(np.uint8)
    png(path, darker)
    place = read(pairs, names=["2"])[0]
    assert place.summary["radiometry"]["action"] == "normalised"
    unchanged = place.change == 0
    np.testing.assert_allclose(place.after[:, unchanged], place.before[:, unchanged], atol=2 / 255)


def test_a_place_may_be_read_by_name_and_an_unknown_one_is_said(pairs):
    assert [place.name for place in read(pairs, names=["2"])] == ["2"]
    with pytest.raises(UsageError, match=r"no place 3; there are: 2, 地块\.1"):
        load_places(pairs, bands=RGB, classes=(1,), names=["3"])


def test_what_is_missing_or_does_not_fit_is_named(pairs):
    (pairs / "B" / "2.bmp").unlink()
    with pytest.raises(SceneError, match=r"2 lacks after .*tuban data verify"):
        read(pairs, names=["2"])
    png(pairs / "B" / "2.png", np.zeros((40, 61, 3), np.uint8))
    with pytest.raises(SceneError, match=r"40 x 60.*40 x 61"):
        read(pairs, names=["2"])
    png(pairs / "label" / "地块.1.png", np.zeros((39, 60), np.uint8))
    with pytest.raises(SceneError, match="39 x 60 pixels do not cover 40 x 60"):
        read(pairs, names=["地块.1"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("bands: [B04, B03, B02]", "bands"),
        ('path: "A/{item}.*"', "path"),
        ("role: after", "role"),
        ("id: my_county", "id"),
    ],
)
def test_a_wrong_yaml_is_said_with_its_place(pairs, wrong, said):
    (pairs / "dataset.yaml").write_text(PAIRS.replace(wrong, wrong.split(":")[0] + ": {}"), encoding="utf-8")
    with pytest.raises(UsageError, match=rf"dataset\.yaml: .*{said}.*docs/datasets\.md"):
        place_names(pairs)


def test_two_files_of_one_role_are_refused(pairs):
    png(pairs / "A" / "2.png", np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(SceneError, match=r"2\.bmp and .*2\.png are both before|2\.png and .*2\.bmp are both before"):
        place_names(pairs)


@pytest.mark.parametrize("shape", [(80, 120), (41, 60)])
def test_a_label_larger_than_its_image_names_other_pixels_and_is_refused(pairs, shape):
    png(pairs / "label" / "2.png", np.zeros(shape, np.uint8))
    with pytest.raises(SceneError, match=rf"2\.png: {shape[0]} x {shape[1]} pixels, and .*2\.bmp has 40 x 60"):
        read(pairs, names=["2"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fields: {item: '(['}", r"dataset\.yaml: .*item: '\(\[' is no regular expression"),
        ("group: '(['", r"group: '\(\[' is no regular expression"),
        ("name: '{itme}'", r"'\{itme\}' names what no path has .*use \{item\}"),
        ("dates: '{x}/scene.json'", r"names what no path has"),
        ("name: '{item'", r"names what no path has"),
    ],
)
def test_an_expression_that_cannot_be_used_is_refused_where_it_stands(pairs, line, message):
    (pairs / "dataset.yaml").write_text(PAIRS + line, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        place_names(pairs)


def test_a_group_that_took_no_part_in_the_match_is_the_whole_match(pairs):
    (pairs / "dataset.yaml").write_text(PAIRS + "group: '^(z)?2'", encoding="utf-8")
    assert place_groups(pairs)["2"] == "2"


SCENES = """
id: scenes
bands: [B02, B03, B04, B08]
georeferenced: true
roles:
  - {role: image, path: "image/{item}.tif", scale: 0.001, nodata: 0}
  - {role: landcover, path: "mask/{item}.png", classes: {1: cropland, 2: 7, 3: building}, unknown: [200]}
"""


def test_single_scenes_of_16_bits_with_classes_of_ones_own(tmp_path):
    stored = noise(3, 4, 20, 30).astype(np.uint16) * 10
    stored[:, :2] = 0
    tif(tmp_path / "image" / "a.tif", stored)
    mask = np.repeat(np.array([0, 1, 2, 3, 200], np.uint8), 6)[None].repeat(20, axis=0)
    png(tmp_path / "mask" / "a.png", mask)
    (tmp_path / "dataset.yaml").write_text(SCENES, encoding="utf-8")
    (place,) = read(tmp_path, bands=("B04", "B08"), classes=(7, 1))
    np.testing.assert_allclose(place.before[:, 2:], stored[[2, 3], 2:] * 0.001, rtol=1e-6)
    assert np.isnan(place.before[:, :2]).all()
    assert place.after is None
    assert place.landcover_before[5, ::6].tolist() == [IGNORE, 1, 0, IGNORE, IGNORE]  # building was not asked for
    assert place.weight_before[5, ::6].tolist() == [0, 255, 255, 0, 0]
    assert (place.landcover_after == IGNORE).all()
    assert place.gsd_m == pytest.approx(10, rel=2e-3)
    west, south, east, north = place.footprint
    assert east - west == pytest.approx(300 / 91_000, rel=0.02)
    assert north - south == pytest.approx(200 / 111_000, rel=0.02)


def test_a_class_that_does_not_exist_is_refused(tmp_path):
    test_single_scenes_of_16_bits_with_classes_of_ones_own(tmp_path)
    (tmp_path / "dataset.yaml").write_text(SCENES.replace("building", "castle"), encoding="utf-8")
    with pytest.raises(UsageError, match="unknown land-cover class 'castle'"):
        read(tmp_path)


def test_a_near_infrared_band_that_the_file_calls_transparency_is_a_band(tmp_path):
    stored = noise(4, 4, 20, 20).astype(np.uint8)
    stored[3, :10] = 0
    tif(tmp_path / "image" / "a.tif", stored)
    with rasterio.open(tmp_path / "image" / "a.tif") as source:
        assert source.colorinterp[3] == ColorInterp.alpha  # what GDAL makes of four bands of 8 bits
    (tmp_path / "dataset.yaml").write_text(
        "id: x\nbands: [B04, B03, B02, B08]\nroles: [{role: image, path: 'image/{item}.tif'}]", encoding="utf-8"
    )
    (place,) = read(tmp_path, bands=("B08", "B04"))
    np.testing.assert_allclose(place.before, stored[[3, 0]] / 255, atol=1e-6)


PAIR = """
id: pairs
bands: [B04, B03, B02, B08]
georeferenced: true
roles:
  - {role: before, path: "{item}_1.tif"}
  - {role: after, path: "{item}_2.tif"}
  - {role: change, path: "{item}_change.tif"}
"""


def georeferenced(root, move=0, **options):
    big = noise(5, 4, 160, 160).astype(np.uint8)
    tif(root / "a_1.tif", big[:, :128, :128], **options)
    # AFTER begins 16 rows lower and 8 columns to the right, and is darker.
    after = (big[:, 16 : 16 + 128, 8 + move : 8 + move + 128] * 0.5 + 10).round().astype(np.uint8)
    tif(root / "a_2.tif", after, transform=UTM @ Affine.translation(8, 16), **options)
    label = np.arange(128 * 128).reshape(1, 128, 128) // 128 % 2  # every second row changed
    tif(root / "a_change.tif", label.astype(np.uint8))
    (root / "dataset.yaml").write_text(PAIR, encoding="utf-8")
    return big / 255


def test_a_georeferenced_pair_is_matched_and_its_label_cut_to_the_overlap(tmp_path):
    truth = georeferenced(tmp_path)
    (place,) = read(tmp_path, bands=("B08", "B04"))
    assert place.shape == (112, 120)
    np.testing.assert_allclose(place.before, truth[[3, 0], 16:128, 8:128], atol=1e-6)
    np.testing.assert_allclose(place.after, truth[[3, 0], 16:128, 8:128], atol=0.02)
    assert place.change[:4, 0].tolist() == [0, 1, 0, 1]  # row 16 of the label is its first
    assert place.summary["before"]["path"].endswith("a_1.tif")
    assert place.summary["radiometry"]["action"] == "normalised"


def test_each_date_of_a_georeferenced_pair_has_its_own_scale_and_nodata(tmp_path):
    """BEFORE in 8 bits, AFTER in 16: what one says of itself is not said of the other."""
    truth = georeferenced(tmp_path)
    with rasterio.open(tmp_path / "a_2.tif") as source:
        after = source.read().astype(np.uint16) * 40
    after[:, 20:24] = 65535
    tif(tmp_path / "a_2.tif", after, transform=UTM @ Affine.translation(8, 16))
    described = PAIR.replace('"{item}_2.tif"', '"{item}_2.tif", nodata: 65535')
    (tmp_path / "dataset.yaml").write_text(described, encoding="utf-8")
    (place,) = read(tmp_path, bands=("B08", "B04"))
    assert "refused" not in place.summary
    seen = np.isfinite(place.before[0])
    assert not seen[20:24].any()
    assert seen[:19].all()
    np.testing.assert_allclose(place.before[:, :19], truth[[3, 0], 16:35, 8:128], atol=1e-6)
    np.testing.assert_allclose(place.after[:, :19], truth[[3, 0], 16:35, 8:128], atol=0.02)


def test_a_pair_that_inference_would_refuse_is_read_as_published_and_says_so(tmp_path, caplog):
    georeferenced(tmp_path)
    tif(tmp_path / "a_2.tif", noise(99, 4, 128, 128).astype(np.uint8))
    (place,) = read(tmp_path)
    assert "a_2.tif" in place.summary["refused"]
    assert "/tuban-" not in place.summary["refused"]
    assert "as its authors publish it" in caplog.text
    tif(tmp_path / "a_2.tif", noise(9, 4, 64, 64).astype(np.uint8), transform=UTM @ Affine.translation(9000, 0))
    with pytest.raises(PairError, match="overlap"):
        read(tmp_path)


def test_colours_a_little_off_are_their_nearest_class_and_others_unknown(tmp_path):
    red, water, other = (255, 0, 0), (2, 3, 250), (120, 130, 125)
    png(tmp_path / "m" / "a.png", np.array([[red, water, other]], np.uint8))
    png(tmp_path / "i" / "a.png", np.full((1, 3, 3), 9, np.uint8))
    text = (
        "id: c\nbands: [B04, B03, B02]\nroles:\n  - {role: image, path: 'i/{item}.png'}\n"
        "  - {role: landcover, path: 'm/{item}.png', colors: {'#ff0000': 4, '#0000ff': 5}, color_tolerance: 10,\n"
        "     classes: {4: cropland, 5: water}}\n"
    )
    (tmp_path / "dataset.yaml").write_text(text, encoding="utf-8")
    assert read(tmp_path)[0].landcover_before.tolist() == [[0, 1, IGNORE]]


def test_a_label_with_a_palette_gives_its_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), mode=None).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 255] + [0] * 750)
    (tmp_path / "m").mkdir()
    image.save(tmp_path / "m" / "a.png")
    png(tmp_path / "i" / "a.png", np.full((2, 2, 3), 9, np.uint8))
    text = (
        "id: c\nbands: [B04, B03, B02]\nroles:\n  - {role: image, path: 'i/{item}.png'}\n"
        "  - {role: landcover, path: 'm/{item}.png', colors: {'#ffffff': 0, '#0000ff': 1}, classes: {1: water}}\n"
    )
    (tmp_path / "dataset.yaml").write_text(text, encoding="utf-8")
    assert read(tmp_path)[0].landcover_before.tolist() == [[IGNORE, 1], [1, IGNORE]]


def test_a_large_place_comes_in_blocks_of_one_group(pairs, monkeypatch):
    whole = read(pairs, names=["2"])[0]
    monkeypatch.setattr(module, "BLOCK", 24)
    parts = read(pairs, names=["2"])
    assert [part.name for part in parts] == [f"2-r{r}-c{c}" for r in (0, 20) for c in (0, 20, 40)]
    assert {part.group for part in parts} == {"2"}
    for field in ("before", "after", "change"):
        rows = [np.concatenate([getattr(p, field) for p in parts[i : i + 3]], axis=-1) for i in (0, 3)]
        np.testing.assert_allclose(np.concatenate(rows, axis=-2), getattr(whole, field), atol=1e-6)
    with pytest.raises(UsageError, match="one group"):
        check_leakage(parts[:1], parts[1:])


def test_blocks_cover_an_image_once_and_none_is_too_large():
    seen = np.zeros((5000, 4100), np.uint8)
    for window in blocks(*seen.shape):
        assert max(window.height, window.width) <= 2048
        seen[window.toslices()] += 1
    assert (seen == 1).all()
    assert len(list(blocks(2048, 2048))) == len(list(blocks(100, 40_000))) == 1


def test_the_authors_files_of_whu_are_one_image_in_blocks(tmp_path, monkeypatch):
    base = tmp_path / "whu" / "1. The two-period image data"
    image = noise(1, 3, 30, 50).astype(np.uint8)
    label = np.zeros((1, 30, 50), np.uint8)
    for folder, name, values in (
        ("before",) * 2 + (image,),
        ("after",) * 2 + (image,),
        ("change label", "change_label", label),
    ):
        tif(base / folder / f"{name}.tif", values)
    monkeypatch.setattr(module, "BLOCK", 30)
    assert [place.name for place in read(tmp_path / "whu")] == ["christchurch-r0-c0", "christchurch-r0-c25"]


@pytest.mark.data
def test_real_oscd_is_read_as_pairs_are(data_root):
    bands = ("B02", "B03", "B04", "B08")
    (place,) = load_places(data_root / "oscd", bands=bands, classes=(1, 4, 5, 6, 7, 12, 18), names=["bercy"])
    assert place.summary["registration"]["action"] == "corrected"
    assert (place.group, place.gsd_m) == ("paris", pytest.approx(10.5, abs=0.1))
    assert place.before.shape == (4, *place.shape)
    assert set(np.unique(place.change)) <= {0, 1, IGNORE}
    groups = place_groups(data_root / "oscd")
    assert [name for name, group in groups.items() if group == "paris"] == ["bercy", "paris", "saclay_e", "saclay_w"]


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "count", "labelled"),
    [
        ("fotbcd", 5, True), ("levir_samples", 4, True), ("whu_samples", 15, True), ("landsat_cn", 1, True),
        ("naip_nd", 1, False), ("loveda_samples", 2, False), ("s2_fields_belgium", 1, False),
    ],
)  # fmt: skip
def test_real_samples_are_read(data_root, folder, count, labelled):
    names = place_names(data_root / folder)
    assert len(names) == count
    found = list(load_places(data_root / folder, bands=RGB, classes=(1, 4, 7, 9), names=names[:2]))
    assert all(place.labelled == labelled for place in found)
    assert all(0 < np.nanmean(place.before) < 1 for place in found)
