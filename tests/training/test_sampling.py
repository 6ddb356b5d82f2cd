from pathlib import Path

import numpy as np
import pytest
import torch

from tuban.data.place import IGNORE
from tuban.training.sampling import CropDataset as Crops
from tuban.training.sampling import StepBatches
from tuban.training.settings import AugmentSettings, DataSettings


def settings(**changes: object) -> DataSettings:
    values = {"root": Path(), "bands": ("B02", "B03", "B04", "B08"), "classes": (1, 7, 18), "crop": 32} | changes
    return DataSettings.model_validate(values)


def CropDataset(places, data, length, seed, **changes):  # noqa: N802 (as the class), length: what is looked at
    augment = AugmentSettings(**{name: changes.pop(name) for name in set(changes) & set(AugmentSettings.model_fields)})
    crops = Crops(places, data, augment, seed=seed, **changes)
    return [crops[index] for index in range(length)]


def test_a_sample_depends_on_its_index_alone(city):
    one, two = (Crops([city], settings(), AugmentSettings(), seed=3) for _ in range(2))
    two[7]
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


def test_composed_crops_depend_on_their_index_alone_too(city_factory):
    places = [city_factory("a"), city_factory("b", seed=1)]
    shares = {"paste": 0.6, "cutmix": 0.6, "swap_dates": 0.5}
    first = CropDataset(places, settings(), 8, seed=3, **shares)
    again = CropDataset(places, settings(), 8, seed=3, **shares)
    other = CropDataset(places, settings(), 8, seed=4, **shares)
    for name in first[0]:
        assert all(
            torch.equal(a[name].nan_to_num(-1), b[name].nan_to_num(-1)) for a, b in zip(first, again, strict=True)
        )
    assert any(not torch.equal(a["change"], b["change"]) for a, b in zip(first, other, strict=True))


def test_land_cover_draws_one_date_and_rare_classes_as_often(city_factory):
    """A class of a hundredth of the pixels is in the middle of a fourth of the crops, not of a hundredth."""
    place = city_factory(height=160, width=160, labelled=False)
    place.landcover_before[:] = 0
    place.landcover_before[80:90, 80:90] = 1
    place.landcover_after[:] = 2
    samples = CropDataset([place], settings(foreground=1.0, coarse=0.0), 60, seed=0, task="landcover")
    assert set(samples[0]) == {"before", "landcover_before", "weight_before", "index"}
    rare = sum(bool((sample["landcover_before"] == 1).any()) for sample in samples)
    later = sum(bool((sample["landcover_before"] == 2).all()) for sample in samples)
    assert 15 <= later <= 45  # both dates are used
    assert rare >= 8


def test_heavier_places_are_drawn_more_often(city_factory):
    one, two = city_factory("one", labelled=False), city_factory("two", seed=1, labelled=False)
    two.before[:] = 9.0
    samples = CropDataset([one, two], settings(coarse=0.0), 120, seed=0, weights=[3.0, 1.0])
    assert sum(float(sample["before"].nan_to_num(0).max()) == 9 for sample in samples) == pytest.approx(30, abs=14)


def test_processes_share_the_crops_of_a_step():
    """Two processes see in each step what one with twice the batch sees, and no crop twice."""
    whole = list(StepBatches(5, 3, 8))
    parts = [list(StepBatches(5, 3, 4, rank=rank, world=2)) for rank in (0, 1)]
    assert whole == [a + b for a, b in zip(*parts, strict=True)]
    assert len({index for batch in whole for index in batch}) == 24
    assert list(StepBatches(0, 8, 8))[5:] == whole  # what goes on at step 5 goes on with its crops
