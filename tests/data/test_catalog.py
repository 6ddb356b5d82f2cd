import json

import numpy as np
import pytest
import rasterio
from affine import Affine

from tuban.data.catalog import catalogue, verify
from tuban.data.dataset import Dataset, dataset, datasets, open_folder
from tuban.data.dataset_stats import lines, stats
from tuban.errors import SceneError, UsageError

GRID = Affine(1e-4, 0, 10, 0, -1e-4, 50)


def write(path, values, transform=GRID, crs="EPSG:4326"):
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    profile = {"driver": "GTiff", "dtype": values.dtype, "count": count, "height": height, "width": width}
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as target:
        target.write(values)


@pytest.fixture
def oscd(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "oscd"
    for city in ("nantes", "北京 1"):
        for name in ("before", "after"):
            write(root / city / f"{name}.tif", rng.integers(1, 3000, (10, 20, 30), dtype=np.uint16))
        label = np.zeros((1, 20, 30), np.uint8)
        label[0, :3, :10] = 1
        write(root / city / "change.tif", label)
        (root / city / "scene.json").write_text(json.dumps({"before": "2016-01-01", "after": "2018-02-03"}))
    return root


def test_an_intact_folder_verifies(oscd):
    result = verify(open_folder(oscd))
    assert result.ok
    assert (result.items, result.files, result.faults) == (2, 6, ())
    assert json.dumps(result.summary())


def test_stats_count_what_was_written(oscd):
    result = stats(open_folder(oscd))
    assert result["pixels"] == 1200
    assert result["labels"]["change"] == {
        "unchanged": {"pixels": 1140, "share": 0.95},
        "urban change": {"pixels": 60, "share": 0.05},
    }
    first = result["items"][0]
    assert first["item"] == "nantes"
    assert first["bounds"] == pytest.approx([10, 49.998, 10.003, 50])
    assert first["dates"] == {"before": "2016-01-01", "after": "2018-02-03"}
    assert first["changed"] == 0.05
    assert result["classes"]["change"] == {
        "unchanged": {"pixels": 1140, "share": 0.95},
        "changed": {"pixels": 60, "share": 0.05},
    }
    assert result["split"] == {"train": 2, "validation": 0, "test": 0}
    assert "    changed: 60 pixels, 5.00%" in lines(result)


def lose_after(city):
    (city / "after.tif").unlink()


def truncate(city):
    path = city / "before.tif"
    path.write_bytes(path.read_bytes()[:4000])


def other_size(city):
    write(city / "after.tif", np.ones((10, 20, 31), np.uint16))


def other_grid(city):
    write(city / "after.tif", np.ones((10, 20, 30), np.uint16), transform=GRID @ Affine.translation(1, 0))


def too_few_bands(city):
    write(city / "after.tif", np.ones((4, 20, 30), np.uint16))


def other_type(city):
    write(city / "after.tif", np.ones((10, 20, 30), np.float32))


def strange_label(city):
    write(city / "change.tif", np.full((1, 20, 30), 255, np.uint8))


def no_dates(city):
    (city / "scene.json").unlink()


def swapped_dates(city):
    (city / "scene.json").write_text(json.dumps({"before": "2018-02-03", "after": "2016-01-01"}))


def broken_dates(city):
    (city / "scene.json").write_text("{")


@pytest.mark.parametrize(
    ("harm", "role", "said"),
    [
        (lose_after, "after", "missing"),
        (truncate, "before", "cannot read"),
        (other_size, "after", "31x20 pixels, before has 30x20"),
        (other_grid, "after", "grid of before"),
        (too_few_bands, "after", "4 bands instead of 10"),
        (other_type, "after", "float32 instead of uint16"),
        (strange_label, "change", "accepted are 0, 1"),
        (no_dates, "dates", "no dates"),
        (swapped_dates, "dates", "not earlier"),
        (broken_dates, "dates", "unreadable"),
    ],
)
def test_each_kind_of_damage_is_named_once(oscd, harm, role, said):
    harm(oscd / "nantes")
    result = verify(open_folder(oscd))
    assert not result.ok
    (fault,) = result.faults
    assert (fault.item, fault.role) == ("nantes", role)
    assert said in fault.problem
    assert fault.remedy


def test_an_empty_folder_is_not_intact(tmp_path):
    result = verify(open_folder(tmp_path, "oscd"))
    assert not result.ok
    assert "{item}/before.tif" in result.faults[0].remedy


def test_images_that_belong_to_no_item_are_noted(oscd):
    write(oscd / "spare.tif", np.ones((10, 20, 30), np.uint16))
    result = verify(open_folder(oscd))
    assert result.ok
    assert result.notes == ("1 images belong to no item: spare.tif",)


def test_a_folder_is_recognised_by_its_name_or_its_files(oscd):
    assert open_folder(oscd).dataset.id == "oscd"
    other = oscd.rename(oscd.parent / "cities of mine")
    assert open_folder(other).dataset.id == "oscd"  # nothing else is laid out so
    with pytest.raises(SceneError, match="not recognised, by its name or by its files"):
        open_folder(other / "nantes")
    assert open_folder(other / "nantes", "oscd").path == other / "nantes"
    with pytest.raises(SceneError, match="is no folder"):
        open_folder(oscd / "nowhere")
    with pytest.raises(UsageError, match=r"unknown data set 'oscf'.*oscd"):
        open_folder(other, "oscf")


def test_a_folder_that_may_be_several_data_sets_is_asked_about(tmp_path):
    for name in ("A", "B", "label"):
        write(tmp_path / "mine" / name / "1.tif", np.ones((3, 8, 8), np.uint8))
    write(tmp_path / "mine" / "train" / "A" / "1.png", np.ones((3, 8, 8), np.uint8))
    with pytest.raises(SceneError, match=r"may be fotbcd, levir.*dataset\.yaml"):
        open_folder(tmp_path / "mine")


def test_every_shipped_data_set_is_described_with_a_licence():
    assert [entry["id"] for entry in catalogue()] == sorted(entry["id"] for entry in catalogue())
    assert all(known.licence and known.citation and known.notes for known in datasets())
    folders = [folder for known in datasets() for folder in known.folders]
    assert len(folders) == len(set(folders))


def test_a_role_that_does_not_exist_is_refused():
    entry = dataset("oscd").model_dump()
    entry["layouts"][0]["roles"][2]["same_size_as"] = "landcover"
    with pytest.raises(ValueError, match="unknown role 'landcover'"):
        Dataset.model_validate(entry)


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("landsat_cn", "landsat_cn"), ("naip_nd", "naip_nd"), ("loveda_samples", "loveda"), ("fotbcd", "fotbcd"),
        ("sztaki", "sztaki"), ("levir_samples", "levir"), ("whu_samples", "whu"),
        ("s2_fields_belgium", "s2_fields_belgium"),
    ],
)  # fmt: skip
def test_real_folders_are_intact(data_root, folder, name):
    found = open_folder(data_root / folder)
    assert found.dataset.id == name
    result = verify(found)
    assert result.faults == ()
    assert result.items > 0
