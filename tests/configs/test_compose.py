"""Every shipped configuration composes, validates, and says the same as the schema it fills."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

import tuban.configs
from tuban.configs.compose import composed, settings
from tuban.data.cloud_mask import CloudSettings
from tuban.data.drawing import demo_settings
from tuban.data.pair import PairSettings
from tuban.data.scene import SceneSettings
from tuban.data.vector import VectorSettings
from tuban.errors import UsageError
from tuban.inference.settings import InferenceSettings
from tuban.postprocess.changes import ChangeSettings
from tuban.postprocess.landcover import LandcoverSettings
from tuban.postprocess.plan_qa import PlanQASettings
from tuban.postprocess.report import ReportSettings
from tuban.postprocess.rules import load_pack, pack_names
from tuban.postprocess.settings import DetectSettings
from tuban.postprocess.vector_check import VectorCheckSettings
from tuban.postprocess.vectorize import VectorizeSettings

FOLDER = Path(tuban.configs.__file__).parent
SCHEMAS = {
    "detect": DetectSettings,
    "check": VectorCheckSettings,
    "landcover": LandcoverSettings,
    "pair": PairSettings,
    "scene": SceneSettings,
    "clouds": CloudSettings,
    "inference": InferenceSettings,
    "changes": ChangeSettings,
    "vectorize": VectorizeSettings,
    "vector": VectorSettings,
    "report": ReportSettings,
    "plan_qa": PlanQASettings,
}
# Tables that are read by the modules named, not composed by Hydra.
TABLES = {
    "baseline_classes",
    "classes",
    "cloud_masks",
    "crosswalks",
    "demo",
    "legend",
    "notes.zh",
    "plan",
    "rule_words",
    "sensors",
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_shipped_config_is_what_the_schema_says(name):
    """Equal defaults, and every field can be overridden: a field that the file lacks could not."""
    assert settings(name, SCHEMAS[name]) == SCHEMAS[name]()
    assert composed(name) == _everything(SCHEMAS[name]())


def _everything(model):
    """Return the fields as JSON, with those that are kept out of what a journal hashes."""
    tree = model.model_dump(mode="json")
    for name in type(model).model_fields:
        value = getattr(model, name)
        tree[name] = _everything(value) if isinstance(value, BaseModel) else tree.get(name, value)
    return tree


def test_training_config_composes_with_each_experiment():
    schema = pytest.importorskip("tuban.training.settings")
    experiments = sorted(path.stem for path in (FOLDER / "experiment").glob("*.yaml"))
    assert experiments
    for overrides in ([], *([f"experiment={name}"] for name in experiments)):
        assert schema.TrainSettings.model_validate(composed("train", [*overrides, "data.root=/somewhere"]))


def test_every_top_level_file_is_covered_here():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*SCHEMAS, *TABLES, "train"}


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yaml")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_shipped_file_is_a_mapping(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_tables_validate():
    assert demo_settings().sites
    for name in pack_names():
        assert load_pack(name).rules


def test_overrides_reach_nested_fields():
    overrides = ["pair.registration.windows=9", "changes.mmu_m2.road=50", "report.chips.percentiles=[2,98]"]
    chosen = settings("detect", DetectSettings, overrides)
    assert chosen.pair.registration.windows == 9
    assert chosen.changes.mmu_m2["road"] == 50
    assert chosen.changes.mmu_m2["building"] == 200
    assert chosen.report.chips.percentiles == (2, 98)


WRONG = [
    ("no_such_field=1", "no_such_field"),
    ("pair.registration.no_such=1", "no_such"),
    ("+pair.extra=1", "pair.extra = 1"),
    ("inference.batch=0", "inference.batch = 0"),
    ("inference.batch=many", "inference.batch = 'many'"),
    ("inference.batch=???", "batch"),
    ("report.max_cards=[1", "report.max_cards"),
    ("just words", "just words"),
    ("=1", "=1"),
    ("vector=1", "vector"),
    ("vector=no_such_group", "no_such_group"),
]


@pytest.mark.parametrize(("override", "says"), WRONG)
def test_wrong_overrides_are_usage_errors_in_one_line(override, says):
    with pytest.raises(UsageError) as caught:
        settings("detect", DetectSettings, [override])
    assert caught.value.exit_code == 2
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_composition_does_not_leak_into_the_next():
    assert settings("detect", DetectSettings, ["inference.batch=7"]).inference.batch == 7
    assert settings("detect", DetectSettings).inference.batch == 1
