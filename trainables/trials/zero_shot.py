"""The trainable `zero_shot`: classifies images by the prompts of each class, and scores the result on val."""

from __future__ import annotations

from trainables.config import TrialConfig
from trainables.context import Metrics, RunContext
from trainables.scoring.judge_val import judge
from trainables.scoring.predictions import FILE, write_predictions
from trainables.training.embed_images import embed_all
from trainables.training.loop import train_adapter
from trainables.training.trial_setup import set_up_trial
from trainables.training.validate import score_everything


def zero_shot(config: TrialConfig, context: RunContext) -> Metrics:
    """Scores images with every family of prompts. Trains the adapter first if it is missing.

    Returns metrics on val with intervals. Writes the predictions on val and test to
    `results/predictions.parquet`. Collective; rank 0 scores.
    """
    setup = set_up_trial(config, context)
    train_adapter(setup, config, context)
    if context.rank > 0:
        return {}
    without_probe = config.model_copy(update={"probe": config.probe.model_copy(update={"features": ()})})
    predictions = score_everything(
        setup, embed_all(setup, context), without_probe, ("val", "test")
    ).predictions
    folder = context.workdir / "results"
    write_predictions(folder / FILE, predictions, setup.dataset.task)
    return judge(predictions, setup.dataset, folder)
