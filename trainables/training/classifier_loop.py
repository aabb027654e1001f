"""Fine-tunes image classifiers end to end, as baselines for dual encoders.

All weights of a ResNet-18 or ViT-B/16 train with cross-entropy, or with a binary cross-entropy for each
finding. The weights of the best epoch on val are kept, and training stops when val no longer improves. A
classifier trains in one process, because batch norm needs the whole batch: a batch divided over workers would
give another model. The other workers wait.

Data, order, views and splits are the same as in `finetune`, and results are computed as in `adapt`. The label
prior, a baseline without a model, is one of the controls (`audit`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.artifacts import about, build_once, fingerprint, is_whole
from trainables.config import TrialConfig, science
from trainables.context import RunContext
from trainables.data.cache import open_image_cache
from trainables.data.datasets import load_dataset
from trainables.data.loader import GlobalBatch, global_batches, steps_per_epoch
from trainables.data.records import Dataset
from trainables.data.transforms import augment
from trainables.errors import TrainingDiverged
from trainables.models.catalogue.classifiers import (
    ARCHITECTURES,
    classifier_fingerprint,
    classifier_learning_rate,
    classifier_preprocessing,
    graph_bytes,
    load_classifier,
)
from trainables.scoring.metric_names import NUM_TRAINABLE, WEIGHTS_REUSED, baseline_system, metric_key
from trainables.scoring.tasks import task_of
from trainables.training.classifier_task import CLASSIFIER_TASKS
from trainables.training.frozen_activations import CLEAN_VIEW
from trainables.training.loop import STEPS_FILE, record_steps
from trainables.training.micro_batch import in_pieces, memory_budget, with_less_at_once
from trainables.training.optim import TrainState

logger = logging.getLogger(__name__)
ROWS_AT_ONCE = 64
"""The number of images of a forward pass without a graph."""
VERSION = 1
"""Raise this number when the same configuration would train other weights."""


class Fitting:
    """The training of a classifier on rank 0, resumed if it was interrupted.

    Attributes:
        state: parameters, optimiser, statistics of batch norm, and the best weights.
        folder: folder of the trained weights in the store.
    """

    def __init__(self, config: TrialConfig, context: RunContext) -> None:
        if config.execution.num_threads:
            torch.set_num_threads(config.execution.num_threads)
        self.config, self.context = config, context
        self.device = torch.device(context.device)
        self.dataset = load_dataset(config.data)
        self.preprocessing = classifier_preprocessing(config.baseline)
        num_classes = len(self.dataset.classes)
        model = load_classifier(config.baseline, num_classes=num_classes, seed=config.seed)
        self.model = model.to(self.device)
        self.images = open_image_cache(self.dataset, self.preprocessing, context.store)
        self.best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.task = CLASSIFIER_TASKS[self.dataset.task]
        self.class_weights = torch.from_numpy(class_weights(config, self.dataset)).to(self.device)
        key = baseline_key(config, self.dataset)
        self.folder = context.store / "baselines" / key
        num_train = len(self.dataset.indices("train"))
        self.steps_per_epoch = steps_per_epoch(num_train, config.global_batch_size)
        self.state = TrainState.create(
            dict(model.named_parameters()),
            config,
            total_steps=config.num_epochs * self.steps_per_epoch,
            trains=key,
            buffers={f"buffers/{name}": buffer for name, buffer in model.named_buffers()}
            | {f"best/{name}": tensor for name, tensor in self.best.items()},
        )
        self.num_trainable = sum(parameter.numel() for parameter in model.parameters())
        self.rows_at_once = rows_at_once(config, self.device)

    def epochs(self) -> Iterator[tuple[dict[str, float], Path | None]]:
        """Yields the metrics and the checkpoint of each epoch; then loads the best weights into the model.

        If the weights are already in the store, nothing is trained: their epochs are reported again, marked
        as reused.
        """
        self.context.fetch(self.folder)
        if is_whole(self.folder):
            epochs: list[dict[str, float]] = about(self.folder)["epochs"]
            self.state.epochs = [epoch | {WEIGHTS_REUSED: 1.0} for epoch in epochs]
            self.best = load_file(self.folder / "model.safetensors", device=str(self.device))
            yield from ((epoch, None) for epoch in self.state.epochs)
        else:
            if self.context.resume_from:
                self.state.restore(self.context.resume_from)
                yield from ((epoch, None) for epoch in self.state.epochs)
            yield from self._train()
            self._keep()
        self.model.load_state_dict(self.best)

    def scores(self, indices: np.ndarray) -> np.ndarray:
        """Returns probabilities float64 [N, K] of these unaugmented images."""

        def classify(rows: np.ndarray) -> Tensor:
            logits = self.model(self._pixels(rows, np.full(len(rows), CLEAN_VIEW))).double()
            return self.task.probabilities(logits).cpu()

        self.model.eval()
        with torch.no_grad():
            return torch.cat(in_pieces(classify, indices, ROWS_AT_ONCE)).numpy()

    def step(self, batch: GlobalBatch) -> float:
        """Takes one optimiser step and returns the loss, a mean over images weighted by class.

        Raises:
            TrainingDiverged: the loss is not finite; no weight was changed.
            OutOfMemory: one image does not fit, or the batch does not fit and must not be divided.
        """
        architecture = self.config.baseline.architecture
        is_cut = ARCHITECTURES[architecture].is_cut
        loss, size = with_less_at_once(
            lambda num: self._accumulate(batch, num),
            self.rows_at_once or len(batch),
            smallest=1 if is_cut else len(batch),
            advice="" if is_cut else f" (batch norm of {architecture} needs all; lower global_batch_size)",
        )
        self.rows_at_once = size if is_cut else None
        if not np.isfinite(loss):
            raise TrainingDiverged(
                f"training diverged at step {batch.step + 1}: the loss is {loss}; lower optim.learning_rate "
                f"({self.state.peak_learning_rate:g})"
            )
        self.state.apply_gradients()
        return loss

    def _accumulate(self, batch: GlobalBatch, rows_at_once: int) -> float:
        """Returns the loss of a batch, and adds its gradient to the parameters."""
        self.model.train()
        self.state.optimizer.zero_grad()
        targets = torch.from_numpy(self.dataset.targets(batch.indices)).to(self.device)
        shares = self.task.shares(targets, self.class_weights)
        loss = 0.0
        for rows in torch.arange(len(batch)).split(rows_at_once):
            logits = self.model(self._pixels(batch.indices[rows.numpy()], batch.views[rows.numpy()]))
            rows = rows.to(self.device)
            part = self.task.loss(logits, targets[rows], shares[rows])
            part.backward()
            loss += float(part.detach())
        return loss

    def _train(self) -> Iterator[tuple[dict[str, float], Path | None]]:
        state, patience = self.state, self.config.baseline.patience
        system = baseline_system(self.config.baseline.from_scratch)
        if is_over(state.epochs, system, patience):  # the trial was interrupted after its last epoch
            return
        val = self.dataset.indices("val")
        targets = self.dataset.targets(val)
        seconds, num_images = 0.0, 0
        for batch in global_batches(self.dataset, self.config, start_step=state.step):
            began = time.perf_counter()
            state.losses.append(self.step(batch))
            num_images += len(batch)
            seconds += time.perf_counter() - began
            if state.step % self.steps_per_epoch:
                continue
            on_val = task_of(targets).point_metrics(self.scores(val), targets)
            metrics = {
                "train/epoch": float(batch.epoch + 1),
                "train/loss": float(np.mean(state.losses[-self.steps_per_epoch :])),
                "train/learning_rate": state.learning_rate,
                "perf/images_per_second": num_images / seconds,
                NUM_TRAINABLE: float(self.num_trainable),
                **{metric_key("val", system, name): value for name, value in on_val.items()},
            }
            state.epochs.append(metrics)
            if best_epoch(state.epochs, system) == len(state.epochs) - 1:
                for name, tensor in self.model.state_dict().items():
                    self.best[name].copy_(tensor)
            record_steps(self.context.workdir / STEPS_FILE, state.losses)
            yield metrics, state.save(self.context.workdir / "checkpoints")
            if is_over(state.epochs, system, patience):
                logger.info("stopped after epoch %d: val no longer improves", batch.epoch + 1)
                return

    def _keep(self) -> None:
        """Saves the best weights in the store, with all facts that predict and export need."""

        def build(aside: Path) -> dict[str, Any]:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in self.best.items()}
            save_file(tensors, aside / "model.safetensors")
            return {
                "classes": list(self.dataset.classes),
                "architecture": self.config.baseline.architecture,
                "preprocessing": self.preprocessing.model_dump(mode="json"),
                "epochs": self.state.epochs,
            }

        build_once(self.folder, build)
        self.context.keep(self.folder)

    def _pixels(self, indices: np.ndarray, views: np.ndarray) -> Tensor:
        """Returns normalised pixels float32 [B, 3, S, S] of these images in these views."""
        data, images = self.config.data, self.images.images(indices)
        seed = data.seed if data.num_views else self.config.seed  # as for cached activations
        for row, (index, view) in enumerate(zip(indices, views, strict=True)):
            images[row] = augment(images[row], seed=seed, view=int(view), image_index=int(index))
        pixels = torch.from_numpy(images).to(self.device)[:, None].float() / 255
        mean, std = (
            torch.tensor(values, device=self.device).view(-1, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        return (pixels - mean) / std


def rows_at_once(config: TrialConfig, device: torch.device) -> int | None:
    """Returns the number of images of a forward pass, or None if the batch must not be divided."""
    if not ARCHITECTURES[config.baseline.architecture].is_cut:
        return None
    budget = memory_budget(device, budget_gb=config.execution.memory_budget_gb, num_sharing=1)
    return config.execution.micro_batch_size or max(int(budget // graph_bytes(config.baseline)), 1)


def class_weights(config: TrialConfig, dataset: Dataset) -> np.ndarray:
    """Returns the weights of the classes, or of the positives of the findings, float32 [K].

    They are ones if `baseline.class_weights` is false.
    """
    num_classes = len(dataset.classes)
    if not config.baseline.class_weights:
        return np.ones(num_classes, np.float32)
    targets = dataset.targets(dataset.indices("train"))
    return CLASSIFIER_TASKS[dataset.task].weights(targets, num_classes).astype(np.float32)


def best_epoch(epochs: list[dict[str, float]], system: str) -> int:
    """Returns the number (from 0) of the epoch with the highest val macro_auroc; at a tie, the lowest nll."""

    def rank(epoch: dict[str, float]) -> tuple[float, float]:
        return epoch.get(metric_key("val", system, "macro_auroc"), 0.0), -epoch[
            metric_key("val", system, "nll")
        ]

    return max(range(len(epochs)), key=lambda i: rank(epochs[i]))


def is_over(epochs: list[dict[str, float]], system: str, patience: int | None) -> bool:
    """Returns whether the last `patience` epochs brought no improvement."""
    return bool(epochs) and patience is not None and len(epochs) - 1 - best_epoch(epochs, system) >= patience


def baseline_key(config: TrialConfig, dataset: Dataset) -> str:
    """Returns the key of the trained weights: a fingerprint of all inputs of the training."""
    default, weights = classifier_learning_rate(config.baseline), classifier_fingerprint(config.baseline)
    return fingerprint("baseline", VERSION, science(config), default, dataset.fingerprint, weights)
