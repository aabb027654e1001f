"""The trainable `baseline`: fine-tunes an image classifier end to end, and scores it like `adapt`."""

from __future__ import annotations

import shutil
import time

import torch

from trainables.config import Split, TrialConfig
from trainables.context import Metrics, RunContext
from trainables.deploy.leave_model import leave_classifier
from trainables.losses.collectives import Group
from trainables.scoring.controls import control_scores
from trainables.scoring.judge_val import judge
from trainables.scoring.metric_names import NUM_TRAINABLE, SECONDS, baseline_system
from trainables.scoring.predictions import FILE, Scores, image_ids_of, write_predictions
from trainables.training.classifier_loop import Fitting, best_epoch
from trainables.training.loop import training_metrics


def baseline(config: TrialConfig, context: RunContext) -> Metrics:
    """Trains the classifier of `config.baseline`, and returns val metrics with intervals. Collective.

    Writes to `workdir/results`: the predictions of the classifier and the controls on val and test, without
    labels, the confusion matrices, and the model.
    """
    began = time.perf_counter()
    config = config.model_copy(update={"adapt": config.adapt.model_copy(update={"method": "baseline"})})
    group = Group.current(torch.device(context.device))
    fitting = group.together(lambda: Fitting(config, context) if context.rank == 0 else None)
    epochs = fitting.epochs() if fitting else iter(())
    while True:
        epoch = group.together(lambda: next(epochs, None))
        if not group.maximum(int(epoch is not None))[0]:
            break
        context.report(*epoch or ({}, None))
    if fitting is None:
        return {}
    dataset, system = fitting.dataset, baseline_system(config.baseline.from_scratch)
    predictions: dict[tuple[Split, str], Scores] = {
        (split, system): Scores(image_ids_of(dataset, split), fitting.scores(dataset.indices(split)))
        for split in ("val", "test")
    }
    predictions |= control_scores(dataset, fitting.images)
    folder = context.workdir / "results"
    shutil.rmtree(folder, ignore_errors=True)
    write_predictions(folder / FILE, predictions, dataset.task)
    metrics = {
        **training_metrics(fitting.state.epochs),
        **judge(predictions, dataset, folder),
        "train/best_epoch": fitting.state.epochs[best_epoch(fitting.state.epochs, system)]["train/epoch"],
        NUM_TRAINABLE: float(fitting.num_trainable),
        SECONDS: time.perf_counter() - began,
    }
    leave_classifier(folder, fitting, config, predictions, metrics)
    return metrics
