"""The state of a training: AdamW with warm-up and cosine decay, the steps taken, and the reported epochs.

Every rank applies the same summed gradient to the same parameters, so the ranks never exchange parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from trainables.config import OptimConfig, TrialConfig
from trainables.models.catalogue.registry import default_learning_rate
from trainables.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

MAX_LOG_LOGIT_SCALE = math.log(100)


def lr_at(step: int, *, learning_rate: float, total_steps: int, warmup_fraction: float) -> float:
    """Returns the learning rate of a step (from 0): linear up to `learning_rate`, then cosine down to 0."""
    warmup_steps = round(warmup_fraction * total_steps)
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class TrainState:
    """The trainable parameters by name, their optimiser, and the losses of the steps taken.

    Every checkpoint contains `losses` (one per step) and `epochs` (their metrics), so that a resumed run has
    the whole curve.

    Args:
        parameters: parameters by a stable name, in the same order on every rank.
        config: weight decay, warm-up, clipping, and the peak learning rate, which must be set.
        total_steps: optimiser steps of the whole run.
        log_logit_scale: limited to ln 100, for stability (CLIP §2.5).
        trains: identity of what is trained and how; a checkpoint with another identity is refused.
        buffers: tensors that the optimiser does not change but a checkpoint must contain, by other names.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        config: OptimConfig,
        *,
        total_steps: int,
        log_logit_scale: nn.Parameter | None = None,
        trains: str = "",
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        if config.learning_rate is None:
            raise ValueError("optim.learning_rate is not resolved; use TrainState.create")
        self.parameters = dict(parameters)
        self.config = config
        self.peak_learning_rate = config.learning_rate
        self.total_steps = total_steps
        self.log_logit_scale = log_logit_scale
        self.trains = trains
        self.buffers = dict(buffers or {})
        self.step = 0
        self.losses: list[float] = []
        self.epochs: list[dict[str, float]] = []
        self.optimizer = torch.optim.AdamW(self._parameter_groups(), lr=self.peak_learning_rate)

    @classmethod
    def create(
        cls,
        parameters: Mapping[str, nn.Parameter],
        config: TrialConfig,
        *,
        total_steps: int,
        log_logit_scale: nn.Parameter | None = None,
        trains: str = "",
        buffers: Mapping[str, Tensor] | None = None,
    ) -> TrainState:
        """Builds the state of a trial. The default learning rate is that of the encoder's family."""
        optim = config.optim
        if optim.learning_rate is None:
            optim = optim.model_copy(update={"learning_rate": default_learning_rate(config)})
        return cls(
            parameters,
            optim,
            total_steps=total_steps,
            log_logit_scale=log_logit_scale,
            trains=trains,
            buffers=buffers,
        )

    @property
    def learning_rate(self) -> float:
        """Returns the learning rate of the next step."""
        return lr_at(
            self.step,
            learning_rate=self.peak_learning_rate,
            total_steps=self.total_steps,
            warmup_fraction=self.config.warmup_fraction,
        )

    def apply_gradients(self) -> float:
        """Clips the gradients, takes a step and clears them; returns the total norm before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        max_norm = math.inf if self.config.max_grad_norm is None else self.config.max_grad_norm
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.log_logit_scale is not None:
            with torch.no_grad():
                self.log_logit_scale.clamp_(max=MAX_LOG_LOGIT_SCALE)
        self.step += 1
        return float(norm)

    def save(self, folder: Path, *, rank: int = 0) -> Path | None:
        """Writes a checkpoint into `folder` and returns its path; other ranks than 0 return None."""
        if rank != 0:
            return None
        moments = {
            f"{kind}/{name}": moment
            for name, parameter in self.parameters.items()
            for kind, moment in self.optimizer.state.get(parameter, {}).items()
        }
        progress = {"step": self.step, "losses": self.losses, "epochs": self.epochs}
        tensors = {**self.parameters, **self.buffers}
        return write_checkpoint(folder, Checkpoint(tensors, moments, progress, self.trains))

    def restore(self, place: Path) -> None:
        """Restores a checkpoint, or changes nothing if any part does not fit."""
        tensors = {**self.parameters, **self.buffers}
        checkpoint = read_checkpoint(place, tensors, trains=self.trains)
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(checkpoint.parameters[name])
        self.optimizer.state.clear()
        for key, moment in checkpoint.moments.items():
            kind, _, name = key.partition("/")
            parameter = self.parameters[name]
            # AdamW counts its steps on the host, also for parameters on a GPU.
            self.optimizer.state[parameter][kind] = moment if kind == "step" else moment.to(parameter.device)
        self.step = checkpoint.progress["step"]
        self.losses, self.epochs = checkpoint.progress["losses"], checkpoint.progress["epochs"]

    def _parameter_groups(self) -> list[dict[str, object]]:
        """Returns parameter groups; gains, biases and the logit scale have no weight decay (CLIP §2.5)."""
        matrices = [parameter for parameter in self.parameters.values() if parameter.ndim >= 2]
        others = [parameter for parameter in self.parameters.values() if parameter.ndim < 2]
        groups: list[dict[str, object]] = [
            {"params": matrices, "weight_decay": self.config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]
