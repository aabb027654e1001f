"""The trainable `zero_shot`: classifies images by prompts of every class, judged on val."""

from __future__ import annotations

from trainables.config import TrialConfig
from trainables.context import Metrics, RunContext
from trainables.scoring.predictions import FILE, judge, write_predictions
from trainables.training.embed_images import embed_all
from trainables.training.loop import train_adapter
from trainables.training.trial_setup import set_up_trial
from trainables.training.validate import score_everything


def zero_shot(config: TrialConfig, context: RunContext) -> Metrics:
    """Scores images by every family of prompts; trains the adapter first if it is missing.

    Returns metrics on val with intervals; writes `results/predictions.parquet` of val and test. Collective;
    rank 0 judges.
    """
    setup = set_up_trial(config, context)
    train_adapter(setup, config, context)
    if context.rank > 0:
        return {}
    without_probe = config.model_copy(update={"probe": config.probe.model_copy(update={"features": ()})})
    predictions = score_everything(
        setup, embed_all(setup, context), without_probe, ("val", "test")
    ).predictions
    write_predictions(context.workdir / "results" / FILE, predictions)
    return judge(predictions, setup.dataset)
