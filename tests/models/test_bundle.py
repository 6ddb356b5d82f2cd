from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256

import pytest
from pydantic import ValidationError

from tuban.errors import ModelError, UsageError
from tuban.models import bundle as bundles
from tuban.models.bundle import Bundle, BundleSpec, choose, installed, resolve
from tuban.models.mlm import build_mlm, write_mlm

FACTS = {
    "architecture": "siamese",
    "created": datetime(2026, 1, 2, tzinfo=UTC),
    "framework_version": "2.14",
    "parameters": 5,
}


def spec(**changes):
    values = {
        "name": "s2-test",
        "version": "1.0",
        "bands": ("B03", "B04", "B08"),
        "required_bands": ("B03", "B04"),
        "gsd_m": (8, 35),
        "mean": (0.1, 0.2, 0.3),
        "std": (0.1, 0.1, 0.1),
        "classes": (1, 4, 18),
        "change_to_classes": (18,),
        "tile": 512,
        "halo": 32,
        "stride": 16,
        "threshold": 0.4,
        "metrics": {"f1": 0.5},
    }
    return BundleSpec.model_validate(values | changes)


def make(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(b"onnx of " + folder.name.encode())
    (folder / "model.safetensors").write_bytes(b"weights of " + folder.name.encode())
    return write_mlm(spec(**changes), folder, **FACTS)


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A folder of bundles that is searched instead of the shipped ones."""
    monkeypatch.setattr(bundles, "files", lambda _: tmp_path / "shipped")
    monkeypatch.setenv("TUBAN_MODELS", str(tmp_path / "zoo"))
    (tmp_path / "zoo").mkdir()
    return tmp_path / "zoo"


def test_what_is_written_is_what_is_loaded(tmp_path):
    loaded = make(tmp_path / "m")
    assert loaded == Bundle.load(tmp_path / "m")
    assert loaded.model_dump(include=set(BundleSpec.model_fields)) == spec().model_dump()
    assert loaded.weights_sha256 == sha256(b"weights of m").hexdigest()
    assert loaded.onnx_sha256 == sha256(b"onnx of m").hexdigest()
    assert loaded.model_id == f"s2-test@1.0+{loaded.weights_sha256[:12]}"
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["mlm.json", "model.onnx", "model.safetensors"]


def test_the_same_export_gives_the_same_bytes(tmp_path):
    make(tmp_path / "m")
    first = (tmp_path / "m" / "mlm.json").read_bytes()
    make(tmp_path / "m")
    assert (tmp_path / "m" / "mlm.json").read_bytes() == first


def test_other_tools_read_the_item(tmp_path):
    pystac = pytest.importorskip("pystac", reason="comes with the development tools")
    mlm = pytest.importorskip("pystac.extensions.mlm", reason="pystac-ext-mlm is an optional reader")
    make(tmp_path / "m")
    item = pystac.Item.from_file(str(tmp_path / "m" / "mlm.json"))
    extension = mlm.MLMExtension.ext(item)
    assert extension.mlm_name == "s2-test"
    assert list(extension.input[1].bands) == ["B03", "B04", "B08"]
    assert extension.input[0].input.shape == [-1, 3, 512, 512]
    assert [output.name for output in extension.output] == ["landcover_before", "landcover_after", "change"]
    assert item.assets["model.onnx"].roles == ["mlm:model"]


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_damaged_or_missing_weights_are_refused(tmp_path, name):
    make(tmp_path / "m")
    path = tmp_path / "m" / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelError, match=rf"{name} is damaged"):
        Bundle.load(tmp_path / "m")
    path.unlink()
    with pytest.raises(ModelError, match=name):
        Bundle.load(tmp_path / "m")


def edit(folder, change):
    path = folder / "mlm.json"
    item = json.loads(path.read_text(encoding="utf-8"))
    change(item)
    path.write_text(json.dumps(item), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda item: item["properties"].pop("tuban:threshold"), "tuban:threshold"),
        (lambda item: item["properties"].update({"tuban:threshold": 1.5}), "tuban:threshold"),
        (lambda item: item["properties"].update({"tuban:colour": 1}), "tuban:colour"),
        (lambda item: item["properties"].update({"tuban:mean": [1.0]}), "one number for each"),
        (lambda item: item["assets"].pop("model.onnx"), r"model\.onnx is not listed"),
        (lambda item: item["assets"]["model.onnx"].pop("file:checksum"), "no SHA-256"),
        (lambda item: item.pop("assets"), "no STAC item"),
    ],
)
def test_an_incomplete_manifest_names_what_is_wrong(tmp_path, change, match):
    make(tmp_path / "m")
    edit(tmp_path / "m", change)
    with pytest.raises(ModelError, match=match) as caught:
        Bundle.load(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_bundle_says_so(tmp_path):
    with pytest.raises(ModelError, match=r"no model bundle"):
        Bundle.load(tmp_path)
    (tmp_path / "mlm.json").write_bytes(b"\xff{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        Bundle.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"required_bands": ("B99",)}, "not among bands"),
        ({"classes": (1, 4, 99)}, "not unified classes"),
        ({"change_to_classes": (7,)}, "not among classes"),
        ({"gsd_m": (30, 10)}, "smallest, largest"),
        ({"halo": 33}, "multiples of stride"),
        ({"halo": 256}, "larger than twice the halo"),
        ({"std": (0.1, 0.0, 0.1)}, "greater than 0"),
        ({"mean": (0.1, float("nan"), 0.1)}, "finite"),
        ({"bands": ("B03", "B03", "B08")}, "repeat"),
    ],
)
def test_a_declaration_that_cannot_hold_is_refused(changes, match):
    with pytest.raises(ValidationError, match=match):
        spec(**changes)


def test_an_export_without_time_zone_or_graph_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"model\.onnx"):
        build_mlm(spec(), tmp_path, **FACTS)
    with pytest.raises(ModelError, match="time zone"):
        build_mlm(spec(), tmp_path, **FACTS | {"created": datetime(2026, 1, 2)})  # noqa: DTZ001


def test_a_measurement_that_is_no_number_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"a graph")
    with pytest.raises(ModelError, match="NaN or infinite"):
        write_mlm(spec(metrics={"auc": float("nan")}), tmp_path, **FACTS)
    assert not (tmp_path / "mlm.json").exists()


def test_installed_finds_bundles_and_folders_of_bundles(zoo, monkeypatch):
    make(zoo / "b", name="b")
    make(zoo / "a", name="a")
    assert [found.name for found in installed()] == ["a", "b"]
    monkeypatch.setenv("TUBAN_MODELS", str(zoo / "b"))
    assert [found.name for found in installed()] == ["b"]
    monkeypatch.setenv("TUBAN_MODELS", str(zoo / "nowhere"))
    with pytest.raises(ModelError, match="nowhere"):
        installed()


def test_a_users_bundle_stands_before_the_shipped_one_of_the_same_name(zoo):
    make(zoo.parent / "shipped" / "zoo" / "s2-test", version="1.0")
    make(zoo / "mine", version="2.0")
    assert [found.version for found in installed()] == ["2.0"]


def test_choose_takes_the_most_bands_then_the_narrowest_range(zoo):
    make(zoo / "wide", name="wide", gsd_m=(1, 100))
    make(zoo / "narrow", name="narrow")
    rgb = {"bands": ("B03",), "required_bands": ("B03",), "mean": (0.1,), "std": (0.1,)}
    make(zoo / "one", name="one", gsd_m=(9, 11), **rgb)
    assert choose(("B02", "B03", "B04", "B08"), 10).name == "narrow"
    assert choose(("B03", "B04", "B08"), 60).name == "wide"
    assert choose(("B03",), 10).name == "one"


def test_choose_names_the_nearest_and_what_is_missing(zoo):
    make(zoo / "far", name="far", gsd_m=(0.1, 0.5))
    make(zoo / "near", name="near")
    with pytest.raises(UsageError, match=r"nearest is near, but the scene lacks B04 and its pixels are 60 m.*to 35 m"):
        choose(("B03",), 60)
    with pytest.raises(UsageError, match="nearest is far"):
        choose(("B03", "B04"), 0.7)


def test_without_any_bundle_choose_says_how_to_get_one(zoo):
    with pytest.raises(UsageError, match="TUBAN_MODELS"):
        choose(("B03",), 10)


def test_resolve_takes_a_folder_or_a_name(zoo):
    made = make(zoo / "m", name="m")
    assert resolve("m") == made
    assert resolve(zoo / "m") == made
    with pytest.raises(UsageError, match="installed: m"):
        resolve("n")


def test_gsd_of_a_geographic_grid_may_be_a_fraction_off(tmp_path):
    made = make(tmp_path / "m", gsd_m=(10, 10))
    assert made.misfit(made.bands, 9.95) == ""
    assert "8 m" in made.misfit(made.bands, 8)
