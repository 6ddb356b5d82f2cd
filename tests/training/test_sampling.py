from pathlib import Path

import numpy as np
import torch

from tuban.data.place import IGNORE
from tuban.training.sampling import CropDataset
from tuban.training.settings import DataSettings


def settings(**changes: object) -> DataSettings:
    values = {"root": Path(), "bands": ("B02", "B03", "B04", "B08"), "classes": (1, 7, 18), "crop": 32} | changes
    return DataSettings.model_validate(values)


def test_a_sample_depends_on_its_index_alone(city):
    one, two = (CropDataset([city], settings(), 8, seed=3) for _ in range(2))
    for index in (5, 0):
        for name, value in one[index].items():
            assert torch.equal(value.nan_to_num(-1), two[index][name].nan_to_num(-1)), name


def test_dates_and_labels_turn_together(city):
    """What changed is brighter after by 0.3: it must be so wherever the label says changed."""
    data = CropDataset([city], settings(foreground=1.0, coarse=0.0), 40, seed=0)
    for index in range(40):
        sample = data[index]
        difference = (sample["after"] - sample["before"]).mean(0)
        assert (difference[sample["change"] == 1] > 0.2).all()
        assert (difference[sample["change"] == 0].abs() < 0.1).all()


def test_foreground_crops_hold_change(city):
    data = CropDataset([city], settings(foreground=1.0, coarse=0.0), 20, seed=0)
    assert all((data[index]["change"] == 1).any() for index in range(20))


def test_unlabelled_places_give_no_change_labels(city_factory):
    data = CropDataset([city_factory(labelled=False)], settings(foreground=1.0), 5, seed=0)
    assert all((data[index]["change"] == IGNORE).all() for index in range(5))


def test_coarse_crops_average(city_factory):
    data = CropDataset([city_factory(height=128, width=128)], settings(coarse=1.0, crop=32, foreground=0.0), 10, seed=0)
    for index in range(10):
        sample = data[index]
        assert sample["before"].shape == (4, 32, 32)
        spread = np.nanstd(sample["before"].numpy())
        # Independent pixels between 0.05 and 0.3: averages of four spread half as far, or of nine a third.
        assert any(abs(spread - 0.25 / 12**0.5 / side) < 0.004 for side in (2, 3)), spread


def test_a_place_smaller_than_the_crop_is_padded_with_unknown(city_factory):
    data = CropDataset([city_factory(height=20, width=24)], settings(foreground=0.0, coarse=0.0), 3, seed=0)
    sample = data[0]
    assert sample["change"].shape == (32, 32)
    assert int((sample["change"] == IGNORE).sum()) >= 32 * 32 - 20 * 24
    assert sample["before"].isnan().any()
