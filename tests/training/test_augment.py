import torch

from tuban.training.augment import SENSORS, augment
from tuban.training.settings import AugmentSettings

BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
NOTHING = dict.fromkeys(
    ("gain", "band_gain", "haze", "date_gain", "noise", "shift", "shift_probability", "drop_bands", "same_date"), 0.0
)


def batch(count: int = 8) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    images = {name: torch.rand(count, 6, 32, 32) for name in ("before", "after")}
    labels = {f"landcover_{date}": torch.randint(0, 3, (count, 32, 32)) for date in ("before", "after")}
    weights = {f"weight_{date}": torch.rand(count, 32, 32) for date in ("before", "after")}
    return {**images, **labels, **weights, "change": (torch.rand(count, 32, 32) > 0.9).float()}


def test_nothing_asked_nothing_done():
    given = batch()
    got = augment(given, BANDS, AugmentSettings(**NOTHING))
    for name, value in given.items():
        assert torch.equal(got[name], value), name


def test_invalid_pixels_stay_invalid():
    given = batch()
    given["before"][:, :, :4] = torch.nan
    assert augment(given, BANDS, AugmentSettings())["before"][:, :, :4].isnan().all()


def test_same_date_has_no_change_and_keeps_unknown():
    given = batch()
    given["change"][:, 0] = 255
    got = augment(given, BANDS, AugmentSettings(**{**NOTHING, "same_date": 1.0}))
    assert torch.equal(got["after"], given["before"])
    assert (got["change"][:, 1:] == 0).all()
    assert (got["change"][:, 0] == 255).all()
    assert torch.equal(got["landcover_after"], given["landcover_before"])


def test_dropped_bands_are_the_same_on_both_dates():
    got = augment(batch(64), BANDS, AugmentSettings(**{**NOTHING, "drop_bands": 1.0}))
    gone = got["before"].isnan().all(dim=(2, 3))
    assert torch.equal(gone, got["after"].isnan().all(dim=(2, 3)))
    four = torch.tensor([band not in SENSORS[1] for band in BANDS])
    assert (gone == four).all(1).any()  # the four-band sensor occurs


def test_shift_is_subpixel():
    ramp = torch.arange(32.0).expand(16, 6, 32, 32).clone()
    given = batch(16) | {"after": ramp}
    got = augment(given, BANDS, AugmentSettings(**{**NOTHING, "shift": 0.5, "shift_probability": 1.0}))["after"]
    moved = (got - ramp)[:, :, 4:-4, 4:-4]
    assert float(moved.abs().max()) <= 0.5 + 1e-3
    assert float(moved.abs().max()) > 0.05
    assert float(moved.std(dim=(1, 2, 3)).max()) < 1e-3  # one shift for a whole image
