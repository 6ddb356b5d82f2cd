"""Networks of members against the mean of what each member says, worked out by hand."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy import ndimage

from tuban.errors import ModelError, UsageError
from tuban.inference.backends import open_backend
from tuban.models.ensemble import TRUNCATE, Ensemble, Smoothing, assembled, joined
from tuban.models.export import export_bundle
from tuban.models.network import ChangeNet, NetworkSpec, build
from tuban.models.reach import receptive_reach
from tuban.models.rebuild import rebuild
from tuban.models.run import read_run
from tuban.training.train import save_weights

if TYPE_CHECKING:
    from pathlib import Path

    from tuban.models.bundle import Bundle

SMOOTH = 1.0
SPEC = NetworkSpec(("B02", "B03", "B04"), (1, 18), (0.1,) * 3, (0.05,) * 3, depth=2, width=(16, 8), stem=4)
FACTS = {
    "gsd_m": (8.0, 32.0), "required_bands": ("B02",), "change_to_classes": (18,), "metrics": {}, "training": {},
    "calibration": {"slope": 1.5, "intercept": -0.5},
}  # fmt: skip
pytestmark = [
    # torch deprecates the tracing exporter, and parts it calls itself; docs/models.md says why it is used.
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two runs of other weights and other statistics of the input."""
    folders = []
    for seed in range(2):
        torch.manual_seed(seed)
        spec = dataclasses.replace(SPEC, mean=(0.1 + 0.1 * seed,) * 3, std=(0.05 + 0.05 * seed,) * 3)
        folders.append(tmp_path_factory.mktemp(f"seed-{seed}"))
        save_weights(ChangeNet(spec), folders[-1])
    return folders


@pytest.fixture(scope="module")
def bundle(runs, tmp_path_factory) -> Bundle:
    out = tmp_path_factory.mktemp("pair")
    return export_bundle(runs, out, name="pair", version="1", facts=FACTS | {"smooth": SMOOTH})


@pytest.fixture(scope="module")
def dates() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    images = [rng.random((2, 3, 40, 56), dtype=np.float32) * 0.5 for _ in range(2)]
    images[0][0, :, :6, :6] = np.nan
    return images


def expected(runs: list[Path], dates: list[np.ndarray]) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        made = [read_run(run).half().float()(*map(torch.from_numpy, dates)) for run in runs]
    mean = [np.mean([np.asarray(one[part]) for one in made], axis=0) for part in range(3)]
    change = [ndimage.gaussian_filter(image, SMOOTH, mode="nearest", truncate=TRUNCATE) for image in mean[2]]
    covers = [np.exp(cover) / np.exp(cover).sum(axis=1, keepdims=True) for cover in mean[:2]]
    return {
        "landcover_before": covers[0],
        "landcover_after": covers[1],
        "change": 1 / (1 + np.exp(-(1.5 * np.stack(change) - 0.5))),
        "landcover_before_class": covers[0].argmax(axis=1),
    }


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.2, 2.5])
@pytest.mark.parametrize("shape", [(9, 31), (3, 2)])
def test_smoothing_is_scipys(sigma, shape):
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    wanted = [ndimage.gaussian_filter(one, sigma, mode="nearest", truncate=TRUNCATE) for one in image]
    np.testing.assert_allclose(Smoothing(sigma)(torch.from_numpy(image)), wanted, atol=1e-6)


def test_nothing_fades_at_the_border():
    np.testing.assert_allclose(Smoothing(2.0)(torch.full((1, 12, 12), -3.0)), -3.0, rtol=1e-6)


@pytest.mark.parametrize("backend", ["onnx", "openvino", "torch"])
def test_every_backend_gives_the_mean_of_the_members(bundle, runs, dates, backend):
    wanted = expected(runs, dates)
    got = open_backend(backend, bundle).run(dict(zip(("before", "after"), dates, strict=True)), list(wanted))
    for name, value in wanted.items():
        if name.endswith("_class"):
            assert (got[name] != value).mean() < 1e-3
        else:
            # OpenVINO may compute in another precision inside; the other two are the same numbers.
            np.testing.assert_allclose(got[name], value, atol=1e-2 if backend == "openvino" else 1e-4)


def test_a_bundle_of_members_says_so(bundle):
    assert (bundle.network["members"], bundle.network["smooth"]) == (2, SMOOTH)
    np.testing.assert_allclose(bundle.mean, 0.15)
    item = json.loads((bundle.path / "mlm.json").read_text())
    assert item["properties"]["mlm:architecture"].startswith("mean of 2 networks: siamese U-Net")
    with safe_open(bundle.weights_path, "np") as stored:
        names = set(stored.keys())
    assert {name.split(".")[1] for name in names} == {"0", "1"}
    assert all(name.startswith("members.") for name in names)


def test_smoothing_is_part_of_the_reach(bundle, runs):
    alone = receptive_reach(read_run(runs[0]))
    assert alone is not None
    assert bundle.receptive_reach == alone + 3
    assert bundle.halo == bundle.reach >= alone + 3


def test_the_land_cover_of_members_is_shipped(runs, dates, tmp_path):
    made = export_bundle(runs, tmp_path, name="half", version="1", facts=FACTS | {"task": "landcover"})
    wanted = expected(runs, dates)["landcover_before"]
    for backend in ("onnx", "torch"):
        got = open_backend(backend, made).run({"image": dates[0]}, ["landcover"])
        np.testing.assert_allclose(got["landcover"], wanted, atol=1e-3)


def test_a_network_alone_stays_as_it_was_and_may_be_smoothed(runs, dates, tmp_path):
    plain = export_bundle(runs[:1], tmp_path / "plain", name="one", version="1", facts=FACTS)
    assert not {"members", "smooth"} & set(plain.network)
    smooth = export_bundle(runs[:1], tmp_path / "smooth", name="one", version="1", facts=FACTS | {"smooth": SMOOTH})
    with torch.inference_mode():
        made = rebuild(smooth)(*map(torch.from_numpy, dates))
    np.testing.assert_allclose(made[2], expected(runs[:1], dates)["change"], atol=1e-4)


def test_runs_of_earlier_versions_are_read(runs, tmp_path):
    stored = json.loads((runs[0] / "spec.json").read_text())
    old = {name: value for name, value in stored.items() if name not in {"members", "smooth"}}
    (tmp_path / "spec.json").write_text(json.dumps(old))
    (tmp_path / "weights.safetensors").write_bytes((runs[0] / "weights.safetensors").read_bytes())
    assert read_run(tmp_path).spec == read_run(runs[0]).spec


@pytest.mark.parametrize("changes", [{"classes": (1, 7)}, {"bands": ("B02", "B03", "B08")}, {"task": "landcover"}])
def test_members_that_do_not_fit_are_refused(changes):
    with pytest.raises(ModelError, match=f"0 and 1 differ in {next(iter(changes))}"):
        Ensemble([build(SPEC), build(dataclasses.replace(SPEC, **changes))])


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UsageError, match="give at least one member"):
        dataclasses.replace(SPEC, members=0)
    with pytest.raises(UsageError, match="for the logits of change"):
        dataclasses.replace(SPEC, task="landcover", smooth=1.0)
    with pytest.raises(UsageError, match="trained one by one"):
        build(dataclasses.replace(SPEC, members=2))


def test_a_spec_is_built_again():
    two = assembled(dataclasses.replace(SPEC, members=2, smooth=1.5))
    assert isinstance(two, Ensemble)
    assert (two.spec.members, two.spec.smooth, len(two.members)) == (2, 1.5, 2)
    alone = build(SPEC)
    assert joined([alone]) is alone
