"""The Lightning module: one optimiser step, the weight average that is kept, and what validation measures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import lightning as L  # noqa: N812 (the library's documented alias)
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tuban.errors import TubanError
from tuban.models.network import build
from tuban.training.augment import augment
from tuban.training.predictions import predict
from tuban.training.schedule import factor
from tuban.training.validation import Validation

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tuban.data.place import Place
    from tuban.models.spec import Logits, NetworkSpec
    from tuban.training.objective import Objective
    from tuban.training.settings import TrainSettings


class DivergedError(TubanError, ArithmeticError):
    """The loss is no longer a number."""


class TrainingModule(L.LightningModule):
    """Trains a network on batches of `CropDataset`; every random number is a function of the seed and the step."""

    def __init__(self, spec: NetworkSpec, settings: TrainSettings, objective: Objective) -> None:
        """Build the network; `spec` and `objective` carry the statistics of the training places."""
        super().__init__()
        self.settings, self.objective = settings, objective
        self.network = build(spec, initialise=settings.model.initialise).to(memory_format=torch.channels_last)
        self.average = _average(self.network, settings.optim.ema) if settings.optim.ema else None
        self.measures = Validation(spec)

    @property
    def kept(self) -> nn.Module:
        """The network that is measured and shipped: the average of the weights, where there is one."""
        return self.network if self.average is None else self.average.module

    def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        """Augment the batch and return the sum of the losses."""
        # Layers that draw numbers, such as dropout, must draw the same ones in a run that goes on.
        torch.manual_seed(hash((self.settings.seed, int(batch["index"][0]))) % 2**63)
        with torch.autocast(self.device.type, enabled=False):
            seen = augment(batch, self.network.spec.bands, self.settings.augment, self.settings.seed)
        logits = self.network(seen["before"], seen.get("after"))
        terms = self.objective.terms(logits, seen)
        if weight := self._consistency_weight():
            terms["consistency"] = weight * self.objective.consistency(logits, self._taught(batch), batch)
        loss = torch.stack(list(terms.values())).sum()
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if self.trainer.global_step % every == 0 and not bool(loss.isfinite()):
            step = self.trainer.global_step
            raise DivergedError(
                f"the loss is {float(loss.detach())} at step {step}; lower optim.lr, or use optim.precision=32-true"
            )
        self.log_dict({"loss": loss, **{f"loss/{name}": term for name, term in terms.items()}})
        return loss

    def _consistency_weight(self) -> float:
        """Return the weight of the teacher, which grows from 0 as the teacher learns."""
        loss = self.settings.loss
        if not loss.consistency or self.average is None:
            return 0.0
        grown = self.trainer.global_step / max(1.0, loss.ramp * self.settings.optim.steps)
        return loss.consistency * math.exp(-5 * (1 - min(1.0, grown)) ** 2)

    def _taught(self, batch: dict[str, Tensor]) -> Logits:
        with torch.no_grad():
            self.kept.eval()
            logits: Logits = self.kept(batch["before"], batch.get("after"))
        return logits

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then take the new weights into the average."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.network)

    def on_fit_start(self) -> None:
        """Spare the processor what it does slowly."""
        if self.device.type == "cpu" and self.settings.optim.precision == "bf16-mixed":
            depthwise_in_float32(self.network)

    def on_train_epoch_start(self) -> None:
        """Keep the statistics of normalisation layers where that is asked for."""
        if self.settings.optim.freeze_norm:
            for layer in self.network.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 (torch has no public name for all)
                    layer.eval()

    def on_train_batch_start(self, *_args: Any) -> None:
        """Keep the step that loggers write right: in a run that goes on, Lightning 2.6 counts one too many."""
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.trainer.global_step  # noqa: SLF001

    def on_validation_epoch_start(self) -> None:
        """Measure with the statistics of training, not of the place."""
        self.kept.eval()

    def validation_step(self, place: Place, _index: int) -> None:
        """Predict one place and count it."""
        self.measures.add(predict(self.kept, place), place)

    def on_validation_epoch_end(self) -> None:
        """Log what was measured over all places, of all processes together."""
        self.log_dict(self.measures.compute())
        self.measures.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was last measured beside the weights."""
        measured = self.trainer.callback_metrics.items()
        checkpoint["validation"] = {n: float(v) for n, v in measured if n.startswith(("change/", "landcover/"))}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Begin with the first batch of the next steps: Lightning 2.6 would take one more for those that are done."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        progress["current"] = dict.fromkeys(progress["current"], 0)
        progress["is_last_batch"] = False

    def configure_optimizers(self) -> Any:
        """AdamW with a slower encoder, and a learning rate by step."""
        optim = self.settings.optim
        encoder = list(self.network.encoder.parameters())
        seen = {id(parameter) for parameter in encoder}
        rest = [parameter for parameter in self.network.parameters() if id(parameter) not in seen]
        groups = [{"params": encoder, "lr": optim.encoder_lr}, {"params": rest, "lr": optim.lr}]
        optimizer = torch.optim.AdamW(groups, weight_decay=optim.weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: factor(optim.schedule, step, optim.steps, optim.warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def depthwise_in_float32(network: nn.Module) -> None:
    """Let depthwise convolutions compute in float32: in bfloat16 their gradients take a CPU 5 to 7 times as long."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels:
            layer.forward = _in_float32(layer)  # type: ignore[assignment,method-assign]


def _in_float32(layer: nn.Conv2d) -> Callable[[Tensor], Tensor]:
    usual = type(layer).forward

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return usual(layer, x.float())

    return forward


class Decay:
    """Exponential average of weights; torch's own function cannot be sent to another process."""

    def __init__(self, decay: float) -> None:
        """Keep the decay, 0–1."""
        self.decay = decay

    def __call__(self, averaged: Any, current: Any, count: Any) -> None:
        """Move `averaged` towards `current`."""
        get_ema_multi_avg_fn(self.decay)(averaged, current, count)  # type: ignore[no-untyped-call]


def _average(network: nn.Module, decay: float) -> AveragedModel:
    average = AveragedModel(network, multi_avg_fn=Decay(decay), use_buffers=True)
    return average.requires_grad_(requires_grad=False)
