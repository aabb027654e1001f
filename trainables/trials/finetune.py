"""The trainable `finetune`: contrastive fine-tuning of a dual encoder."""

from __future__ import annotations

from trainables.config import TrialConfig
from trainables.context import Metrics, RunContext
from trainables.training.loop import train_adapter
from trainables.training.trial_setup import open_materials


def finetune(config: TrialConfig, context: RunContext) -> Metrics:
    """Trains an adapter and returns its training metrics; one that exists already is not trained again.

    Collective: every rank calls it, with the same config.
    """
    return train_adapter(open_materials(config, context), config, context)
