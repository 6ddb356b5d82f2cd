"""The Lightning module: optimisation of `ChangeNet`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import lightning as L  # noqa: N812 (the library's documented alias)
import torch

from tuban.models.network import ChangeNet, Logits, NetworkSpec
from tuban.training.augment import augment
from tuban.training.losses import change_loss, landcover_loss

if TYPE_CHECKING:
    from torch import Tensor

    from tuban.training.settings import TrainSettings


class ChangeModule(L.LightningModule):
    """Trains change and land cover together."""

    def __init__(self, spec: NetworkSpec, settings: TrainSettings) -> None:
        """Build the network; `spec` carries the statistics of the training places."""
        super().__init__()
        self.settings = settings
        self.network = ChangeNet(spec, imagenet=settings.imagenet).to(memory_format=torch.channels_last)

    def forward(self, before: Tensor, after: Tensor) -> Logits:
        """Return logits for `(n, bands, h, w)` images."""
        logits: Logits = self.network(before, after)
        return logits

    def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        """Augment the batch and return the sum of the losses."""
        with torch.autocast(self.device.type, enabled=False):
            batch = augment(batch, self.network.spec.bands, self.settings.augment)
        logits = self(batch["before"], batch["after"])
        optim = self.settings.optim
        change = change_loss(logits.change, batch["change"], positive_weight=optim.positive_weight, dice=optim.dice)
        cover = landcover_loss(logits.landcover_before, batch["landcover_before"], batch["weight_before"])
        cover = cover + landcover_loss(logits.landcover_after, batch["landcover_after"], batch["weight_after"])
        loss: Tensor = change + optim.landcover * cover
        self.log_dict({"loss": loss, "change": change, "landcover": cover}, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with a slower encoder, linear warm-up and cosine decay by step."""
        optim = self.settings.optim
        encoder = list(self.network.encoder.parameters())
        seen = {id(parameter) for parameter in encoder}
        rest = [parameter for parameter in self.network.parameters() if id(parameter) not in seen]
        groups = [{"params": encoder, "lr": optim.encoder_lr}, {"params": rest, "lr": optim.lr}]
        optimizer = torch.optim.AdamW(groups, weight_decay=optim.weight_decay)
        warmup = max(1, int(optim.warmup * optim.steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, optim.steps - warmup)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
