import geopandas as gpd
import pytest
import shapely

from tuban.errors import VectorError
from tuban.postprocess.layers import CHANGE_COLUMNS, FINDING_COLUMNS, write_layers
from tuban.postprocess.score import ScoreSettings, score

CRS = "EPSG:4547"
X, Y = 500_000, 3_300_000


def box(left, bottom, right, top):
    return shapely.box(X + left, Y + bottom, X + right, Y + top)


def frame(columns, shapes, **given):
    blank = {"str": "", "float": 0.0, "int": 0, "bool": False}
    values = {name: given.get(name, [blank[kind]] * len(shapes)) for name, kind in columns.items()}
    return gpd.GeoDataFrame(values, geometry=shapes, crs=CRS)


def write(path, shapes, statuses=None):
    ids = [f"c{number}" for number in range(len(shapes))]
    changes = frame(CHANGE_COLUMNS, shapes, change_id=ids)
    rows = [(key, status) for key, found in zip(ids, statuses or [[]] * len(ids), strict=True) for status in found]
    findings = [
        frame(
            FINDING_COLUMNS,
            [shapes[ids.index(key)] for key, _ in rows],
            change_id=[key for key, _ in rows],
            status=[status for _, status in rows],
        )
    ]
    write_layers(path, crs=CRS, changes=[changes], findings=findings)
    return path


@pytest.fixture
def sites():
    shapes = [box(0, 0, 100, 100), box(300, 0, 400, 100), box(600, 0, 620, 20)]
    return gpd.GeoDataFrame({"site_id": ["half", "less", "unseen"]}, geometry=shapes, crs=CRS)


CHANGES = [
    box(0, 0, 30, 100),  # 30 % of the first site, and
    box(30, 0, 50, 100),  # another 20 % of it: found by two polygons together
    box(300, 0, 400, 49),  # 49 % of the second: not found, but no false alarm either
    box(630, 0, 640, 20),  # within a pixel of the third, but its centre line is the limit: half of it counts
    box(900, 0, 1000, 100),  # nothing there
]


def test_counts_by_hand(tmp_path, sites):
    found = score(write(tmp_path / "f.gpkg", CHANGES), sites, planned=False)
    assert (found.sites, found.found, found.changes, found.false_alarms) == (3, 1, 5, 2)
    assert (found.inspections, found.wasted_inspections) == (5, 2)
    assert found.covered == {"half": 0.5, "less": 0.49, "unseen": 0.0}


def test_tolerance_decides_about_neighbours(tmp_path, sites):
    path = write(tmp_path / "f.gpkg", CHANGES)
    assert score(path, sites, planned=False, settings=ScoreSettings(tolerance_m=15)).false_alarms == 1


def test_with_a_plan_only_findings_to_look_into_are_visited(tmp_path, sites):
    statuses = [["suspected", "permitted"], ["permitted"], ["inconclusive"], [], ["suspected", "suspected"]]
    found = score(write(tmp_path / "f.gpkg", CHANGES, statuses), sites, planned=True)
    assert (found.inspections, found.wasted_inspections) == (3, 1)


def test_geographic_truth_gives_the_same_counts(tmp_path, sites):
    path = write(tmp_path / "f.gpkg", CHANGES)
    found = score(path, sites.to_crs("EPSG:4490"), planned=False, settings=ScoreSettings(found_share=0.48))
    assert (found.found, found.false_alarms) == (2, 2)
    assert found.covered["half"] == pytest.approx(0.5, abs=1e-3)


def test_no_change_finds_nothing(tmp_path, sites):
    path = tmp_path / "f.gpkg"
    write_layers(path, crs=CRS)
    found = score(path, sites, planned=True)
    assert (found.found, found.changes, found.inspections) == (0, 0, 0)


def test_truth_without_sites_is_refused(tmp_path, sites):
    with pytest.raises(VectorError, match="no site"):
        score(write(tmp_path / "f.gpkg", CHANGES), sites.iloc[:0], planned=False)
