from pathlib import Path

import numpy as np
import pytest
import rasterio

from tuban.errors import PairError
from tuban.models.bundle import resolve
from tuban.training import robustness as module
from tuban.training.labelled import labelled_items
from tuban.training.perturbation import CURVES, Perturbation, perturbed_files
from tuban.training.robustness import Alarms, alarms, met, robustness


@pytest.fixture
def place(place_factory, tmp_path):
    folder = tmp_path / "oscd" / "here"
    place_factory(folder, 0)
    return folder


def item(place):
    (found,) = labelled_items(place.parent)
    return found


def perturbed(place, tmp_path, kind, amount):
    here = item(place)
    out = perturbed_files(here.folder, here.item, tmp_path, Perturbation(kind, amount))[""]
    with rasterio.open(place / "after.tif") as before, rasterio.open(out) as after:
        assert before.descriptions == after.descriptions
        assert before.transform == after.transform
        return before.read().astype(float), after.read().astype(float), before.descriptions


def test_gain_and_offset_are_exact(place, tmp_path):
    raw, made, _ = perturbed(place, tmp_path, "offset", 1000)
    assert np.array_equal(made, raw + 1000)
    raw, made, _ = perturbed(place, tmp_path, "gain", 0.8)
    assert np.abs(made - 0.8 * raw).max() <= 0.5


def test_haze_is_worst_in_the_blue_and_season_takes_infrared_from_vegetation(place, tmp_path):
    raw, made, names = perturbed(place, tmp_path, "haze", 0.05)
    added = (made - raw)[:, raw.max(axis=0) < 3000].mean(axis=1)
    assert added[names.index("B02")] > added[names.index("B04")] > added[names.index("B12")] > 0
    raw, made, names = perturbed(place, tmp_path, "season", 0.5)
    red, infrared = raw[names.index("B04")], raw[names.index("B08")]
    green = (infrared - red) / (infrared + red) > 0.3
    bare = infrared < red
    lost = made[names.index("B08")] / infrared
    assert lost[green].max() < 0.95
    assert np.array_equal(made[names.index("B08")][bare], infrared[bare])


def test_a_shift_moves_by_what_it_says(place, tmp_path):
    """Smooth ground moved by 2.236 px along (2 columns, 1 row) is the ground two columns and one row away."""
    side = 96
    y, x = np.mgrid[:side, :side]
    with rasterio.open(place / "after.tif", "r+") as target:
        target.write(np.stack([3000 + 800 * np.sin(x / 9) + 500 * np.cos(y / 7)] * target.count).astype(np.uint16))
    raw, made, _ = perturbed(place, tmp_path, "shift", np.sqrt(5))
    inner = (slice(None), slice(8, -8), slice(8, -8))
    assert np.abs(made[inner] - np.roll(raw, (1, 2), axis=(1, 2))[inner]).max() < 2
    assert (made[:, 0] == 0).all()  # what came from beyond the edge is nodata
    half = perturbed(place, tmp_path, "shift", 0.5)[1]
    assert 0 < np.abs(half - raw)[inner].mean() < np.abs(made - raw)[inner].mean()


def test_strips_of_a_large_image_have_no_seam(place, tmp_path, monkeypatch):
    whole = perturbed(place, tmp_path, "shift", 0.7)[1]
    monkeypatch.setattr("tuban.training.perturbation._STRIP", 17)
    assert np.abs(perturbed(place, tmp_path, "shift", 0.7)[1] - whole).max() <= 1


def test_the_target_amounts_are_on_the_curves():
    assert set(module.TARGETS) <= set(CURVES)


def test_false_alarms_are_counted_against_the_unperturbed_run(monkeypatch):
    """The bookkeeping, with runs of known areas: the second place is refused when shifted."""
    areas = {("a", None): Alarms(100, 50, 80, 1000), ("b", None): Alarms(900, 10, 20, 2000)}

    def run(_bundle, item, _settings):
        if item.image.name == "unmoved":
            return areas[item.name, None]
        if item.name == "b":
            raise PairError("moved too far")
        return Alarms(108, 40, 80, 1000)

    class Known:
        def __init__(self, name, image="unmoved"):
            self.name, self.image, self.folder, self.item = name, Path(image), None, None

        def with_after(self, _files):
            return Known(self.name, "moved")

    monkeypatch.setattr(module, "alarms", run)
    monkeypatch.setattr(module, "perturbed_files", lambda *_: {})
    made = robustness(resolve("s2-change"), [Known("a"), Known("b")], perturbations=[Perturbation("shift", 0.5)])
    point = made["points"][0]
    assert point["added"] == pytest.approx(0.08)
    assert list(point["refused"]) == ["b"]
    assert point["base_false_alarm_m2"] == 100  # of the place that was not refused
    assert (point["recall"], point["base_recall"]) == (0.5, 0.625)
    assert made["targets"] == [{"kind": "shift", "amount": 0.5, "most": 0.1, "added": 0.08, "met": True}]
    assert not met({"added": 0.11})
    assert met({"added": None})  # every place refused


def test_an_uncorrected_offset_through_the_real_pair_reading(place):
    bundle = resolve("s2-change")
    made = robustness(bundle, [item(place)], perturbations=[Perturbation("offset", 1000.0)])
    point = made["points"][0]
    assert point["places"] == 1
    if not point["refused"]:
        base = alarms(bundle, item(place), None)
        assert point["base_false_alarm_m2"] == pytest.approx(base.false_m2, abs=0.1)
        assert base.changed_m2 == pytest.approx(16 * 20 * 100, rel=0.02)
