from __future__ import annotations

import geopandas as gpd
import pytest
from check_factory import ALL, CRS, PATCH, box, geod_area

from tuban.errors import VectorError
from tuban.postprocess.change_input import read_changes


def test_read_changes_completes_what_is_missing(tmp_path):
    path = tmp_path / "变化 图斑.shp"
    shapes = [PATCH, box(200, 0, 300, 100)]
    gpd.GeoDataFrame({"from_class": ["耕地", None], "to_class": ["building", "9"]}, geometry=shapes, crs=CRS).to_file(
        path, encoding="GBK"
    )
    notes: list[str] = []
    (frame,) = read_changes(path, notes=notes)
    assert list(frame["from_class"]) == ["cropland", "ignore"]
    assert list(frame["to_class"]) == ["building", "building"]
    assert frame["area_m2"].iloc[0] == pytest.approx(geod_area(PATCH), abs=0.01)
    assert frame["change_id"].is_unique
    assert list(next(read_changes(path))["change_id"]) == list(frame["change_id"])
    assert sum("change_id" in note or "confidence" in note for note in notes) == 2
    assert not any(str(tmp_path) in note for note in notes)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"to_class": ["building"]}, "no column from_class; it has to_class"),
        ({"from_class": ["cropland"], "to_class": ["palace"]}, "column to_class: unknown land-cover class 'palace'"),
        ({"from_class": ["cropland"], "to_class": [None]}, "an empty to_class"),
    ],
)
def test_read_changes_refuses(tmp_path, columns, message):
    path = tmp_path / "a.gpkg"
    gpd.GeoDataFrame(columns, geometry=[PATCH], crs=CRS).to_file(path)
    with pytest.raises(VectorError, match=message):
        list(read_changes(path))


def test_read_changes_refuses_repeated_ids(tmp_path):
    path = tmp_path / "a.gpkg"
    gpd.GeoDataFrame(
        {"change_id": ["a", "a"], "from_class": "cropland", "to_class": "building"}, geometry=[PATCH, ALL], crs=CRS
    ).to_file(path)
    with pytest.raises(VectorError, match="'a' stands twice"):
        list(read_changes(path))
