"""How the model is run: the settings of the inference stage."""

from __future__ import annotations

from typing import Literal

import rasterio
from pydantic import BaseModel, ConfigDict, Field

from tuban.inference.backends import BackendName, Device, Precision  # noqa: TC001 (pydantic reads them)


class InferenceSettings(BaseModel):
    """How the model is run; filled by `configs/inference.yaml`.

    `tta` and `precision` change the results, and `halo` does where it is smaller than the model's reach; the others
    change nothing beyond floating-point noise.

    Attributes:
        backend: what runs the network; `auto` measures those installed and takes the fastest.
        device: where ONNX Runtime and torch run it.
        precision: `bf16` is faster where the processor has it, and said in the results.
        compile: torch only: compile the network first.
        tta: test-time augmentation: the mean over 4 mirror images, or over these and their quarter turns.
        tile: largest side in pixels fed to the network, halo included; None = the bundle's. Larger tiles waste less
            on halos and take more memory.
        halo: pixels around each window that are fed and discarded: None = the bundle's, `exact` = the reach of the
            network, so that tiles cannot be told from one another.
        batch: windows run at once.
        threads: threads of the network; 0 = every core this process may use.
        trial: for `auto`: take the trial of backends that this machine remembers, where there is one; `anew` measures
            again, however short the run, and remembers that.
        ahead: batches read ahead and batches waiting to be written, at most.
        cache_mb: memory for GDAL's block cache while pixels are read, in MB.
        keep_going: leave out what cannot be read instead of stopping; what was left out is listed.
        workers: Ray workers; 0 = this process alone. Where parts are made decides nothing, so this and `cluster` stand
            in no record of parameters; what was made on Ray is told by the run's history.
        cluster: address of a Ray cluster (`auto` for the one this machine belongs to); None starts one on this machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: BackendName = "auto"
    device: Device = "auto"
    precision: Precision = "f32"
    compile: bool = False
    tta: Literal["none", "flips", "d4"] = "none"
    tile: int | None = Field(default=None, ge=16, le=8192)
    halo: int | Literal["exact"] | None = None
    batch: int = Field(default=1, ge=1, le=256)
    threads: int = Field(default=0, ge=0, le=1024)
    trial: Literal["auto", "anew"] = "auto"
    ahead: int = Field(default=1, ge=1, le=64)
    cache_mb: int = Field(default=128, ge=16, le=65536)
    keep_going: bool = False
    workers: int = Field(default=0, ge=0, le=4096, exclude=True)
    cluster: str | None = Field(default=None, exclude=True)

    def deciding(self) -> dict[str, object]:
        """Return the settings on which a part of the results depends: those of a run that is gone on with."""
        # The batch decides which windows make one part. Threads, memory and workers may differ from run to run.
        names = {"backend", "device", "precision", "compile", "tta", "tile", "halo", "batch"}
        return self.model_dump(mode="json", include=names)

    def reading(self) -> rasterio.Env:
        """Return the environment in which pixels are read: with `cache_mb` of block cache, for the whole process."""
        return block_cache(self.cache_mb)


def block_cache(megabytes: int, **options: int) -> rasterio.Env:
    """Return an environment with so much block cache, and other options of GDAL's.

    rasterio takes the number for bytes, unlike GDAL's own option.
    """
    return rasterio.Env(GDAL_CACHEMAX=megabytes * 2**20, **options)
