"""Settings of the commands, composed of those of the parts they run."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tuban.data.pair import PairSettings
from tuban.data.vector import VectorSettings
from tuban.inference.settings import InferenceSettings
from tuban.postprocess.changes import ChangeSettings
from tuban.postprocess.check import CheckSettings
from tuban.postprocess.report import ReportSettings


class DetectSettings(BaseModel):
    """Everything `tuban detect` can be told beyond its options; filled by `configs/detect.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pair: PairSettings = PairSettings()
    inference: InferenceSettings = InferenceSettings()
    changes: ChangeSettings = ChangeSettings()
    check: CheckSettings = CheckSettings()
    vector: VectorSettings = VectorSettings()
    report: ReportSettings = ReportSettings()


class VectorCheckSettings(BaseModel):
    """Everything `tuban check` can be told beyond its options; filled by `configs/check.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    check: CheckSettings = CheckSettings()
    vector: VectorSettings = VectorSettings()
    report: ReportSettings = ReportSettings()
    image_accuracy_m: float = Field(5.0, ge=0, description="positional accuracy of the outlines given, metres")
