"""The training loop of an adapter: exact global batches, one checkpoint per epoch, one adapter at the end."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import numpy as np
import torch

from trainables.artifacts import about, fingerprint, is_whole, write_atomically
from trainables.config import TrialConfig
from trainables.context import Metrics, RunContext
from trainables.data.loader import global_batches, steps_per_epoch
from trainables.data.text import training_prompts
from trainables.errors import DataError
from trainables.losses.collectives import Group
from trainables.losses.global_batch import StepResult
from trainables.models.adapters.adapter_files import load_adapter, save_adapter
from trainables.models.adapters.liveness import prove_alive
from trainables.scoring.metric_names import ADAPTER_REUSED, NUM_TRAINABLE, ZERO_SHOT, read_key
from trainables.training.divergence import DivergenceCheck
from trainables.training.micro_batch import Cut
from trainables.training.objective import Objective
from trainables.training.optim import TrainState
from trainables.training.trial_setup import TrialSetup
from trainables.training.validate import validation_metrics

logger = logging.getLogger(__name__)
STEPS_FILE = "steps.jsonl"


def train_adapter(setup: TrialSetup, config: TrialConfig, context: RunContext) -> Metrics:
    """Trains the adapter of `setup.encoder`, or loads it from the store. Collective."""
    folder = setup.adapter_folder
    if folder is None:
        return {}
    context.fetch(folder)
    if is_there(folder, context):
        return reuse_adapter(setup, folder, config, context)
    prove_adapters(setup)
    num_train = len(setup.training.dataset.indices("train"))
    objective = Objective(setup, config, context)
    state = TrainState.create(
        objective.parameters,
        config,
        total_steps=config.num_epochs * steps_per_epoch(num_train, config.global_batch_size),
        log_logit_scale=setup.encoder.log_logit_scale,
        trains=folder.name,
    )
    resume(state, context)
    run_epochs(setup, objective, state, config, context)
    if context.rank == 0:
        card = adapter_card(setup, config, state.epochs)
        save_adapter(setup.encoder, setup.adaptation, folder, about=card)
        context.keep(folder)
    return training_metrics(state.epochs)


def is_there(folder: Path, context: RunContext) -> bool:
    """Returns whether every rank finds the adapter; all ranks get the same answer. Collective."""
    missing = Group.current(torch.device(context.device)).maximum(int(not is_whole(folder)))
    return missing == [0]


def reuse_adapter(setup: TrialSetup, folder: Path, config: TrialConfig, context: RunContext) -> Metrics:
    """Loads an already trained adapter, and reports its epochs again, marked as reused.

    Zero-shot scores of the epochs are left out if they are scores of other prompts.
    """
    load_adapter(setup.encoder, folder)
    context.keep(folder)
    card = about(folder)
    epochs: list[dict[str, float]] = [epoch | {ADAPTER_REUSED: 1.0} for epoch in card["epochs"]]
    if card.get("judged_by", _prompts_key(setup, config)) != _prompts_key(setup, config):
        epochs = [{k: v for k, v in epoch.items() if read_key(k)[1] not in ZERO_SHOT} for epoch in epochs]
    for epoch in epochs:
        context.report(epoch)
    return training_metrics(epochs)


def resume(state: TrainState, context: RunContext) -> None:
    """Restores the latest checkpoint, if there is one, and reports its epochs again. Collective."""
    place, group = context.resume_from, Group.current(torch.device(context.device))
    group.together(lambda: state.restore(place) if place else None)
    last, first = group.maximum(state.step, -state.step)
    if last != -first:
        raise DataError(
            f"the ranks would resume from different steps, {-first} to {last}: every machine needs the same "
            "checkpoint, in a folder that they share"
        )
    if context.rank == 0:
        record_steps(context.workdir / STEPS_FILE, state.losses)
    for epoch in state.epochs:
        context.report(epoch)


def run_epochs(
    setup: TrialSetup, objective: Objective, state: TrainState, config: TrialConfig, context: RunContext
) -> None:
    """Takes all optimiser steps from `state.step` to the end, and reports the metrics of each epoch."""
    num_train = len(setup.training.dataset.indices("train"))
    per_epoch = steps_per_epoch(num_train, config.global_batch_size)
    group = Group.current(torch.device(context.device))
    cut: Cut | None = None
    largest_share = -(-min(config.global_batch_size, num_train) // context.world_size)
    floors, recalls = list[float](), list[float]()
    divergence = DivergenceCheck(state, config.global_batch_size)
    seconds, num_images = 0.0, 0
    for batch in global_batches(setup.training.dataset, config, start_step=state.step):
        began = time.perf_counter()
        setup.encoder.train()
        cut = cut or objective.choose_cut(batch)
        with divergence.of_step():
            result = objective.step(batch, micro_batch_size=cut.micro_batch_size, kept_graphs=cut.kept_graphs)
        cut = after(result, cut)
        group.together(state.apply_gradients)  # its moments may not fit, perhaps on one rank only
        state.losses.append(result.loss)
        divergence.check_collapse(result.spread)
        floors.append(result.floor)
        recalls.append(result.recall)
        num_images += len(batch)
        seconds += time.perf_counter() - began
        if state.step % per_epoch == 0:
            divergence.check_losses(state.losses[-per_epoch:])
            metrics: dict[str, float] = {
                "train/epoch": batch.epoch + 1,
                "train/loss": float(np.mean(state.losses[-per_epoch:])),
                "train/loss_floor": float(np.mean(floors[-per_epoch:])),
                "train/class_recall": float(np.mean(recalls[-per_epoch:])),
                "train/logit_scale": result.logit_scale,
                "train/learning_rate": state.learning_rate,
                "perf/images_per_second": num_images / seconds,
                "perf/micro_batch_size": cut.micro_batch_size or largest_share,
                "perf/kept_graphs": cut.kept_graphs,
                NUM_TRAINABLE: float(setup.adaptation.num_trainable),
            }
            if context.rank == 0:
                record_steps(context.workdir / STEPS_FILE, state.losses)
                if is_due(batch.epoch + 1, config):
                    metrics |= validation_metrics(setup, config)
            state.epochs.append(metrics)
            context.report(metrics, checkpoint=state.save(context.workdir / "checkpoints", rank=context.rank))


def after(result: StepResult, cut: Cut) -> Cut:
    """Returns the cut for the next step: the cut that fitted, if memory ran out."""
    fitted = Cut(result.micro_batch_size, result.kept_graphs)
    if fitted != cut:
        logger.warning("out of memory: changed %s to %s; the result is the same", cut, fitted)
    return fitted


def training_metrics(epochs: list[dict[str, float]]) -> Metrics:
    """Returns the training metrics of the last epoch, without val metrics, which are computed again later."""
    return {key: value for key, value in epochs[-1].items() if not key.startswith("val/")} if epochs else {}


def record_steps(path: Path, losses: list[float]) -> None:
    """Writes the loss of every step as JSON lines, all at once, so that no step is missing or repeated."""
    lines = (json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in enumerate(losses))
    write_atomically(path, "".join(lines))


def is_due(epoch: int, config: TrialConfig) -> bool:
    """Returns whether this epoch (from 1) is evaluated on val; `adapt` evaluates the last epoch."""
    every = config.execution.evaluate_every_epochs
    return every > 0 and epoch % every == 0 and epoch < config.num_epochs


def prove_adapters(setup: TrialSetup) -> None:
    """Checks that every targeted module changes the output and receives a gradient."""
    pixels = setup.images.images(setup.dataset.indices("train")[:2])
    tokens = setup.encoder.tokenize(["clear lungs", "patchy opacity in both lower zones"])
    prove_alive(setup.encoder, setup.adaptation, torch.from_numpy(np.array(pixels)), tokens)


def _prompts_key(setup: TrialSetup, config: TrialConfig) -> str:
    """Returns a key of the zero-shot prompts, which are no part of the key of an adapter."""
    return fingerprint(setup.dataset.words.fingerprint, config.zero_shot.published_by)


def adapter_card(setup: TrialSetup, config: TrialConfig, epochs: list[dict[str, float]]) -> dict[str, object]:
    """Returns the facts that predict and export need in addition to the encoder."""
    return {
        "classes": list(setup.dataset.classes),
        "prompts": training_prompts(setup.dataset),
        "judged_by": _prompts_key(setup, config),
        "epochs": epochs,
    }
