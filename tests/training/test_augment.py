import dataclasses

import numpy as np
import pytest
import torch

from tuban.training.atmosphere import BANDS as SKY
from tuban.training.atmosphere import clear_sky, drawn, with_error
from tuban.training.augment import OFFSET, SENSORS, augment
from tuban.training.settings import AugmentSettings

BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
NOTHING = dict.fromkeys(AugmentSettings.model_fields, 0.0)


def batch(count: int = 8) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    images = {name: torch.rand(count, 6, 32, 32) for name in ("before", "after")}
    labels = {f"landcover_{date}": torch.randint(0, 3, (count, 32, 32)) for date in ("before", "after")}
    weights = {f"weight_{date}": torch.rand(count, 32, 32) for date in ("before", "after")}
    change = {"change": (torch.rand(count, 32, 32) > 0.9).float(), "index": torch.arange(count)}
    return {**images, **labels, **weights, **change}


def augmented(given: dict[str, torch.Tensor], seed: int = 0, **settings: float) -> dict[str, torch.Tensor]:
    return augment(given, BANDS, AugmentSettings(**(NOTHING | settings)), seed)


EVERYTHING = dict.fromkeys(AugmentSettings.model_fields, 0.3) | {"noise": 0.05}
STRONG = dict.fromkeys(AugmentSettings.model_fields, 0.9) | {"noise": 0.1, "haze": 0.5, "date_haze": 0.5}


def test_nothing_asked_nothing_done():
    given = batch()
    got = augmented(given)
    for name, value in given.items():
        assert torch.equal(got[name], value), name


def test_what_a_crop_gets_depends_on_its_index_alone():
    """Not on the batch it is in, nor on what was drawn before: several processes and a continued run give the same."""
    given = batch()
    whole = augmented(given, **EVERYTHING)
    torch.manual_seed(99)
    part = augmented({name: value[3:5] for name, value in given.items()}, **EVERYTHING)
    for name, value in part.items():
        torch.testing.assert_close(value, whole[name][3:5], rtol=0, atol=0, equal_nan=True)
    other = augmented(given, seed=1, **EVERYTHING)
    assert not torch.equal(other["before"].nan_to_num(-1), whole["before"].nan_to_num(-1))


# Those of crops are in test_composing.py; a shift and an error of correction are nothing without their shares.
ELSEWHERE = {"swap_dates", "paste", "cutmix", "pseudo_change", "surface_error", "shift_probability", "shift"}


@pytest.mark.parametrize("name", sorted(set(AugmentSettings.model_fields) - ELSEWHERE))
def test_each_setting_does_something_alone(name):
    given = batch(16)
    got = augmented(given, **{name: STRONG[name]})
    assert any(not torch.equal(got[date].nan_to_num(-1), given[date]) for date in ("before", "after"))


@pytest.mark.parametrize("name", ["date_gain", "date_haze", "season", "offset", "same_date"])
def test_what_differs_between_dates_leaves_before_alone(name):
    given = batch()
    assert torch.equal(augmented(given, **{name: STRONG[name]})["before"], given["before"])


def test_invalid_pixels_stay_invalid():
    given = batch()
    given["before"][:, :, :4] = torch.nan
    assert augmented(given, **EVERYTHING)["before"][:, :, :4].isnan().all()


def test_one_date_is_enough():
    given = batch()
    single = {name: given[name] for name in ("before", "landcover_before", "weight_before", "index")}
    got = augmented(single, **EVERYTHING)
    assert set(got) == set(single)
    assert not torch.equal(got["before"].nan_to_num(-1), single["before"])


def test_same_date_has_no_change_and_keeps_unknown():
    given = batch()
    given["change"][:, 0] = 255
    got = augmented(given, same_date=1.0)
    assert torch.equal(got["after"], given["before"])
    assert (got["change"][:, 1:] == 0).all()
    assert (got["change"][:, 0] == 255).all()
    assert torch.equal(got["landcover_after"], given["landcover_before"])


def test_dropped_bands_are_the_same_on_both_dates():
    got = augmented(batch(64), drop_bands=1.0)
    gone = got["before"].isnan().all(dim=(2, 3))
    assert torch.equal(gone, got["after"].isnan().all(dim=(2, 3)))
    assert not gone.all(1).any()
    four = torch.tensor([band not in SENSORS[1] for band in BANDS])
    assert (gone == four).all(1).any()  # the four-band sensor occurs


def test_shift_is_subpixel():
    ramp = torch.arange(32.0).expand(16, 6, 32, 32).clone()
    given = batch(16) | {"after": ramp}
    got = augmented(given, shift=0.5, shift_probability=1.0)["after"]
    moved = (got - ramp)[:, :, 4:-4, 4:-4]
    assert float(moved.abs().max()) <= 0.5 + 1e-3
    assert float(moved.abs().max()) > 0.05
    assert float(moved.std(dim=(1, 2, 3)).max()) < 1e-3  # one shift for a whole image


def test_season_moves_vegetation_only():
    given = batch()
    given["after"][:, 2], given["after"][:, 3] = 0.2, 0.2  # NDVI 0 ...
    given["after"][:, 2, :8], given["after"][:, 3, :8] = 0.05, 0.4  # ... and fields
    got = augmented(given, season=0.5)["after"]
    assert torch.equal(got[:, :, 8:], given["after"][:, :, 8:])
    ratio = (got / given["after"])[:, :, :8]
    # Infrared and red move against each other.
    assert ((ratio[:, 3] - 1) * (ratio[:, 2] - 1) < 0).all()


def test_a_forgotten_offset_is_that_of_the_processing():
    given = batch(32)
    moved = (augmented(given, offset=0.5)["after"] - given["after"]).mean(dim=(1, 2, 3))
    assert 6 <= int((moved > 0.05).sum()) <= 26
    assert all(float(value) == pytest.approx(OFFSET, abs=1e-6) or float(value) == 0 for value in moved)


def test_the_atmosphere_is_removed_as_it_is_added():
    rng = np.random.default_rng(0)
    surface = rng.uniform(0, 0.6, (len(SKY), 5, 5))
    sky = drawn(rng, tuple(SKY))
    np.testing.assert_allclose(sky.removed(sky.added(surface)), surface, atol=1e-12)
    # The forward equation of 6S, written out.
    expected = sky.gas * (sky.path + sky.transmittance * surface[:, 0, 0] / (1 - sky.albedo * surface[:, 0, 0]))
    np.testing.assert_allclose(sky.added(surface)[:, 0, 0], expected)


def test_the_sky_is_as_published():
    """Rayleigh optical depth at sea level (Bodhaine et al. 1999: 0.0975 at 550 nm, 0.36 at 400 nm), and its colours."""
    names = ("B02", "B03", "B04", "B08", "B11")
    clear = clear_sky(names, aerosol=0.0, sun=1.0)
    depth = clear.path * 4 / 1.5  # straight down, the phase function is 1.5
    wavelength = np.array([SKY[name][0] for name in names])
    np.testing.assert_allclose(
        depth, 0.0975 * (wavelength / 0.55) ** -4.08, rtol=0.06
    )  # the power law is an approximation
    hazy = clear_sky(names, aerosol=0.3, sun=0.7)
    assert (np.diff(hazy.path) < 0).all()
    assert (hazy.path > clear_sky(names, aerosol=0.1, sun=0.7).path).all()
    assert 0.06 < hazy.path[0] < 0.15  # what dark water shows in the blue at the top of the atmosphere


def test_a_correction_errs_about_as_much_as_asked():
    rng = np.random.default_rng(0)
    sky = clear_sky(("B02", "B04", "B08"), aerosol=0.1, sun=0.7)
    taken = np.array([with_error(sky, rng, 0.1).path for _ in range(2000)]) / sky.path
    assert abs(taken.mean() - 1) < 0.01
    assert taken.std() == pytest.approx((0.1**2 + 0.05**2) ** 0.5, rel=0.1)
    assert dataclasses.astuple(with_error(sky, rng, 0.0))[2] is not None


def test_surface_reflectance_is_darker_in_the_blue_and_the_same_for_both_dates_without_error():
    given = batch()
    given["before"] = (
        0.05 + 0.1 * given["before"]
    )  # over bright ground, what the air takes away outweighs its own light
    given["after"] = given["before"].clone()
    got = augmented(given, surface=1.0)
    assert torch.equal(got["before"], got["after"])
    lost = (given["before"] - got["before"]).mean(dim=(0, 2, 3))
    assert lost[0] > lost[2] > lost[4]
    erring = augmented(given, surface=1.0, surface_error=0.1)
    assert not torch.equal(erring["before"], erring["after"])
