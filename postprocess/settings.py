"""Settings of `tuban detect`, composed of those of the parts it runs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

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
