"""Finding the mask that belongs to an image, by the names that products really have."""

from __future__ import annotations

import pytest

from tuban.data.mask_files import mask_band, sibling_mask

LANDSAT = "LC09_L2SP_119038_20230704_20230706_02_T1"
PLANET = "20230704_021557_88_2449_3B"


@pytest.mark.parametrize(
    ("image", "mask", "kind"),
    [
        ("R10m/T50RPV_20230704T024529_B04_10m.jp2", "R20m/T50RPV_20230704T024529_SCL_20m.jp2", "scl"),
        ("R10m/T50RPV_20230704T024529_TCI_10m.jp2", "R20m/T50RPV_20230704T024529_SCL_20m.jp2", "scl"),
        ("T50RPV_20230704T024529_B8A_20m.jp2", "T50RPV_20230704T024529_SCL_20m.jp2", "scl"),
        ("before.tif", "before_SCL.tif", "scl"),
        ("前 时相.tif", "前 时相_scl_20m.TIF", "scl"),
        (f"{LANDSAT}_SR_B4.TIF", f"{LANDSAT}_QA_PIXEL.TIF", "qa_pixel"),
        (f"{LANDSAT}.tif", f"{LANDSAT}_QA_PIXEL.TIF", "qa_pixel"),
        ("LC08_L1TP_119038_20230704_20230706_02_T1_B4.TIF", "LC08_L1TP_119038_20230704_20230706_02_T1_QA_PIXEL.TIF",
         "qa_pixel"),
        (f"{PLANET}_AnalyticMS_SR_8b_harmonized_clip.tif", f"{PLANET}_udm2_clip.tif", "udm2"),
        (f"{PLANET}_AnalyticMS_SR_8b.tif", f"{PLANET}_udm2.tif", "udm2"),
        (f"{PLANET}_AnalyticMS.tif", f"{PLANET}_udm2.tif", "udm2"),
        ("composite.tif", "composite_udm2.tif", "udm2"),
        ("after.tif", "after_cloudmask.tif", "binary"),
    ],
)  # fmt: skip
def test_naming_conventions(tmp_path, image, mask, kind):
    for name in (image, mask, "another_scene_SCL.tif", "other_QA_PIXEL.TIF"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = sibling_mask(str(tmp_path / image))
    assert found is not None
    assert (tmp_path / mask).samefile(found.path)
    assert (found.kind, found.band) == (kind, None)
    assert (tmp_path / mask).name in found.found


def test_a_mask_of_another_date_and_the_image_itself_do_not_count(tmp_path):
    for name in ("T50RPV_20230704T024529_B04_10m.jp2", "T50RPV_20230714T024529_SCL_20m.jp2", "x_SCL.tif"):
        (tmp_path / name).touch()
    assert sibling_mask(str(tmp_path / "T50RPV_20230704T024529_B04_10m.jp2")) is None
    assert sibling_mask(str(tmp_path / "x_SCL.tif")) is None
    assert sibling_mask("https://example.org/before.tif") is None


def test_a_mask_that_needs_several_bands_is_no_band():
    assert mask_band(["B02", None, "SCL"]) == (2, "scl")
    assert mask_band(["B02", "udm2"]) is None
