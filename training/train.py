"""`tuban train`: fits one network and leaves its weights, settings and log in a folder."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

import lightning as L  # noqa: N812 (the library's documented alias)
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from tuban.data.oscd import city_folders, load_city
from tuban.errors import UsageError
from tuban.models.network import ChangeNet, NetworkSpec
from tuban.training.module import ChangeModule
from tuban.training.sampling import CropDataset

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tuban.data.place import Place
    from tuban.training.settings import TrainSettings

_log = logging.getLogger(__name__)


def load_places(settings: TrainSettings) -> tuple[list[Place], list[Place]]:
    """Return the cities to train on and those held out, by name.

    Raises:
        UsageError: a named place has no folder, or nothing is left to train on.
    """
    folders = {folder.name: folder for folder in city_folders(settings.data.root)}
    wanted = settings.data.places if settings.data.places is not None else tuple(folders)
    unknown = sorted({*wanted, *settings.data.holdout} - set(folders))
    if unknown:
        raise UsageError(f"{settings.data.root}: no place {', '.join(unknown)}; there are: {', '.join(folders)}")
    training = [name for name in wanted if name not in settings.data.holdout]
    if not training:
        raise UsageError("every place is held out; leave at least one to train on")
    read = {
        name: load_city(folders[name], settings.data.bands, settings.data.classes)
        for name in sorted({*training, *settings.data.holdout})
    }
    return [read[name] for name in training], [read[name] for name in settings.data.holdout]


def statistics(cities: Sequence[Place]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per band over the valid pixels of both dates, a million samples at most."""
    rng = np.random.default_rng(0)
    samples = []
    for city in cities:
        for image in (city.before, city.after):
            flat = image.reshape(image.shape[0], -1)
            flat = flat[:, np.isfinite(flat).all(axis=0)]
            samples.append(flat[:, rng.choice(flat.shape[1], min(flat.shape[1], 40_000), replace=False)])
    values = np.concatenate(samples, axis=1).astype(np.float64)
    return tuple(round(float(v), 6) for v in values.mean(axis=1)), tuple(round(float(v), 6) for v in values.std(axis=1))


def fit(settings: TrainSettings, cities: Sequence[Place]) -> ChangeNet:
    """Train on `cities` and return the averaged network in evaluation mode; writes nothing but the TensorBoard log."""
    L.seed_everything(settings.seed, workers=True, verbose=False)
    torch.set_num_threads(settings.threads)
    mean, std = statistics(cities)
    spec = NetworkSpec(settings.data.bands, settings.data.classes, mean, std)
    module = ChangeModule(spec, settings)
    optim = settings.optim
    crops = CropDataset(cities, settings.data, optim.steps * optim.batch, settings.seed)
    loader = DataLoader(crops, batch_size=optim.batch, num_workers=1, persistent_workers=True)
    trainer = L.Trainer(
        max_steps=optim.steps,
        max_epochs=1,
        accelerator=settings.accelerator,
        devices=1,
        precision=optim.precision,
        gradient_clip_val=optim.clip,
        callbacks=[EMAWeightAveraging(decay=optim.ema)] if optim.ema else [],
        logger=TensorBoardLogger(save_dir=str(settings.out), name="log", version=""),
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=min(20, optim.steps),
        enable_progress_bar=True,
    )
    trainer.fit(module, loader)
    return module.network.eval()


def train(settings: TrainSettings) -> dict[str, Any]:
    """Train, predict the held-out places, and write the run's folder.

    Returns:
        The summary that is also `train.json`: settings, places, seconds, crops per second.

    Raises:
        UsageError: a place is unknown.
    """
    training, holdout = load_places(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    network = fit(settings, training)
    seconds = time.perf_counter() - start
    save_weights(network, settings.out)
    for city in holdout:
        save_prediction(network, city, settings.out)
    summary = {
        "settings": settings.model_dump(mode="json"),
        "places": [city.name for city in training],
        "holdout": [city.name for city in holdout],
        "crops": settings.optim.steps * settings.optim.batch,
        "seconds": round(seconds, 1),
        "crops_per_second": round(settings.optim.steps * settings.optim.batch / seconds, 1),
        "torch": torch.__version__,
    }
    (settings.out / "train.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def save_weights(network: ChangeNet, folder: Path) -> None:
    """Write `weights.safetensors` and `spec.json`, from which `tuban.models.export` makes a bundle."""
    spec = network.spec
    fields = ("bands", "classes", "mean", "std", "encoder", "depth", "width", "stem")
    (folder / "spec.json").write_text(
        json.dumps({name: getattr(spec, name) for name in fields}, indent=2) + "\n", encoding="utf-8"
    )
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, str(folder / "weights.safetensors"))


@torch.inference_mode()
def predict(network: ChangeNet, city: Place) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return change logits float32 and the land-cover index uint8 of both dates, all `(h, w)`, of a small city."""
    height, width = city.change.shape
    stride = network.spec.stride
    margin = 4 * stride
    pad = ((0, 0), (margin, margin + -height % stride), (margin, margin + -width % stride))
    images = [torch.from_numpy(np.pad(image, pad, mode="reflect"))[None] for image in (city.before, city.after)]
    logits = network(*images)
    inside = (slice(margin, margin + height), slice(margin, margin + width))
    first, second = (out[0].argmax(0).numpy().astype(np.uint8)[inside] for out in logits[:2])
    return logits.change[0].float().numpy()[inside], first, second


def save_prediction(network: ChangeNet, city: Place, folder: Path) -> None:
    """Write `<city>.npz` with logits, labels and the difference baseline, for `tuban.training.crossval`."""
    change, first, second = predict(network, city)
    std = np.asarray(network.spec.std, dtype=np.float32).reshape(-1, 1, 1)
    difference = np.sqrt(np.square((city.after - city.before) / std).mean(axis=0))
    np.savez_compressed(
        folder / f"{city.name}.npz",
        logit=change.astype(np.float16),
        difference=difference.astype(np.float16),
        change=city.change,
        landcover=np.stack([first, second]),
        weak=np.stack([city.landcover_before, city.landcover_after]),
        confidence=np.stack([city.weight_before, city.weight_after]),
    )
