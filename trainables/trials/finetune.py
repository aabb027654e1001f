"""The trainable `finetune`: fine-tunes a dual encoder with a contrastive loss."""

from __future__ import annotations

from trainables.config import TrialConfig
from trainables.context import Metrics, RunContext
from trainables.training.loop import train_adapter
from trainables.training.trial_setup import set_up_trial


def finetune(config: TrialConfig, context: RunContext) -> Metrics:
    """Trains an adapter, and returns its training metrics. An existing adapter is not trained again.

    Collective: every rank must call it with the same configuration.
    """
    return train_adapter(set_up_trial(config, context), config, context)
