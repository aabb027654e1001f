"""Contrastive fine-tuning of a dual encoder: exact global batches, adapters only, a checkpoint per epoch."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.artifacts import about, is_whole
from trainables.config import TrialConfig
from trainables.context import Metrics, RunContext
from trainables.data.loader import GlobalBatch, global_batches, steps_per_epoch
from trainables.data.text import class_prompts
from trainables.losses.batch_plan import BatchPlan, distinct_captions
from trainables.losses.collectives import Group
from trainables.losses.global_batch import global_batch_step
from trainables.materials import Materials, open_materials
from trainables.models.lora import load_adapter, prove_alive, save_adapter, set_dropout_rows
from trainables.optim import TrainState
from trainables.validate import validation_metrics

STEPS_FILE = "steps.jsonl"


def finetune(config: TrialConfig, context: RunContext) -> Metrics:
    """Trains an adapter and returns its training metrics; one that exists already is not trained again.

    Collective: every rank calls it, with the same config.
    """
    return train_adapter(open_materials(config, context), config, context)


def train_adapter(materials: Materials, config: TrialConfig, context: RunContext) -> Metrics:
    """Leaves `materials.encoder` adapted, and the adapter in the store. Collective."""
    folder = materials.adapter_folder
    if folder is None:
        return {}
    if is_there(folder, context):
        return reuse_adapter(materials, folder, context)
    prove_adapters(materials)
    num_train = len(materials.dataset.indices("train"))
    state = TrainState.create(
        materials.adaptation.parameters,
        config,
        total_steps=config.num_epochs * steps_per_epoch(num_train, config.global_batch_size),
        log_logit_scale=materials.encoder.log_logit_scale,
    )
    if context.resume_from:
        state.restore(context.resume_from)
    epochs = run_epochs(materials, state, config, context)
    if context.rank == 0:
        save_adapter(materials.encoder, materials.adaptation, folder, about=adapter_card(materials, epochs))
    return training_metrics(epochs)


def is_there(folder: Path, context: RunContext) -> bool:
    """Says whether every rank finds the adapter: one decision, or some would wait for ever. Collective."""
    missing = Group.current(torch.device(context.device)).maximum(int(not is_whole(folder)))
    return missing == [0]


def reuse_adapter(materials: Materials, folder: Path, context: RunContext) -> Metrics:
    """Loads an adapter that was trained before, and reports its epochs again, marked."""
    load_adapter(materials.encoder, folder)
    epochs = [epoch | {"perf/adapter_reused": 1.0} for epoch in about(folder)["epochs"]]
    for epoch in epochs:
        context.report(epoch)
    return training_metrics(epochs)


def run_epochs(
    materials: Materials, state: TrainState, config: TrialConfig, context: RunContext
) -> list[dict[str, float]]:
    """Takes every optimiser step from `state.step` to the end; reports and returns each epoch's metrics."""
    per_epoch = steps_per_epoch(len(materials.dataset.indices("train")), config.global_batch_size)
    captions = CaptionEmbeddings(materials)
    micro_batch_size = config.execution.micro_batch_size
    epochs: list[dict[str, float]] = []
    losses: list[float] = []
    seconds, num_images = 0.0, 0
    for batch in global_batches(materials.dataset, config, start_step=state.step):
        began = time.perf_counter()
        materials.encoder.train()
        plan = plan_batch(batch, config, context)
        result = global_batch_step(
            BatchEncoder(materials, batch, captions, config.seed),
            plan,
            config.loss,
            log_logit_scale=materials.encoder.log_logit_scale,
            parameters=list(materials.adaptation.parameters.values()),
            micro_batch_size=micro_batch_size,
        )
        micro_batch_size = result.micro_batch_size
        state.apply_gradients()
        losses.append(result.loss)
        num_images += len(batch)
        seconds += time.perf_counter() - began
        if state.step % per_epoch == 0:
            metrics: dict[str, float] = {
                "train/epoch": batch.epoch + 1,
                "train/loss": float(np.mean(losses)),
                "train/loss_floor": result.floor,
                "train/class_recall": result.recall,
                "train/logit_scale": result.logit_scale,
                "train/learning_rate": state.learning_rate,
                "perf/images_per_second": num_images / seconds,
            }
            if context.rank == 0:
                record_steps(context.workdir / STEPS_FILE, losses, last_step=state.step)
                if is_due(batch.epoch + 1, config):
                    metrics |= validation_metrics(materials, config)
            losses = []
            epochs.append(metrics)
            context.report(metrics, checkpoint=state.save(context.workdir / "checkpoints", rank=context.rank))
    return epochs


def training_metrics(epochs: list[dict[str, float]]) -> Metrics:
    """Returns what the last epoch says of training; val is judged anew, with intervals."""
    return {key: value for key, value in epochs[-1].items() if not key.startswith("val/")} if epochs else {}


def record_steps(path: Path, losses: list[float], *, last_step: int) -> None:
    """Appends the loss of each step of an epoch, as JSON lines; a line repeated on resuming says the same."""
    first = last_step - len(losses)
    with path.open("a") as file:
        file.writelines(json.dumps({"step": first + i, "loss": loss}) + "\n" for i, loss in enumerate(losses))


def is_due(epoch: int, config: TrialConfig) -> bool:
    """Says whether this epoch (from 1) is evaluated on val; the last is evaluated by `adapt` anyway."""
    every = config.execution.evaluate_every_epochs
    return every > 0 and epoch % every == 0 and epoch < config.num_epochs


def plan_batch(batch: GlobalBatch, config: TrialConfig, context: RunContext) -> BatchPlan:
    """Returns which pairs share a caption and which are positives of each other; the same on every rank."""
    _, text_of_pair = distinct_captions(batch.captions)
    groups = torch.from_numpy(batch.classes) if config.loss.positives == "class" else text_of_pair
    return BatchPlan(text_of_pair, groups, rank=context.rank, world_size=context.world_size)


class CaptionEmbeddings:
    """Embeddings of captions under a frozen text tower: each distinct caption once per run."""

    def __init__(self, materials: Materials) -> None:
        self.materials = materials
        self.known: dict[str, Tensor] = {}

    def of(self, captions: list[str]) -> Tensor:
        """Returns [B, D], unit length."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self.known]
        if new:
            self.known |= dict(zip(new, self.materials.embed_texts(new), strict=True))
        return torch.stack([self.known[caption] for caption in captions])


@dataclass
class BatchEncoder:
    """One global batch as the engine sees it: rows in, embeddings out, the same on every call."""

    materials: Materials
    batch: GlobalBatch
    frozen_captions: CaptionEmbeddings
    seed: int

    def __post_init__(self) -> None:
        self.captions, _ = distinct_captions(self.batch.captions)
        self.first_pair = [self.batch.captions.index(caption) for caption in self.captions]

    @property
    def trains_images(self) -> bool:
        """Images are always on the adapted side, or nothing trains."""
        return self.materials.adaptation.adapts_image

    @property
    def trains_texts(self) -> bool:
        """False where the text tower and its projection are frozen."""
        return self.materials.adaptation.adapts_text

    def encode_images(self, rows: range) -> Tensor:
        """Returns joint embeddings [m, D] of these rows of the global batch."""
        set_dropout_rows(self.materials.encoder, seed=self.seed, step=self.batch.step, image_rows=rows)
        places = np.arange(rows.start, rows.stop)
        activations = self.materials.activations.batch(self.batch.indices[places], self.batch.views[places])
        return self.materials.encoder.encode_image_suffix(
            activations, self.materials.adaptation.image_cut
        ).joint

    def encode_texts(self, rows: range) -> Tensor:
        """Returns joint embeddings [m, D] of these distinct captions; a caption's row is its first pair's."""
        encoder, captions = self.materials.encoder, self.captions[rows.start : rows.stop]
        if not self.trains_texts:
            return self.frozen_captions.of(captions)
        first_pair = self.first_pair[rows.start : rows.stop]
        set_dropout_rows(encoder, seed=self.seed, step=self.batch.step, text_rows=first_pair)
        return encoder.encode_text(encoder.tokenize(captions))


def prove_adapters(materials: Materials) -> None:
    """Proves that every targeted module changes the output and receives a gradient, else fails."""
    pixels = materials.images.images(materials.dataset.indices("train")[:2])
    tokens = materials.encoder.tokenize(["clear lungs", "patchy opacity in both lower zones"])
    prove_alive(materials.encoder, materials.adaptation, torch.from_numpy(np.array(pixels)), tokens)


def adapter_card(materials: Materials, epochs: list[dict[str, float]]) -> dict[str, object]:
    """Returns what a later predict or export needs to know of an adapter beside its encoder."""
    classes = materials.dataset.classes
    return {"classes": list(classes), "prompts": class_prompts(classes, "training"), "epochs": epochs}
