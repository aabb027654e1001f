"""The trainable `embed`: writes the embeddings of every image to the store."""

from __future__ import annotations

import time

from trainables.config import TrialConfig
from trainables.context import Metrics, RunContext
from trainables.training.embed_images import embed_all
from trainables.training.loop import train_adapter
from trainables.training.trial_setup import set_up_trial


def embed(config: TrialConfig, context: RunContext) -> Metrics:
    """Embeds all splits with the encoder of the configuration. Trains the adapter first if it is missing."""
    setup = set_up_trial(config, context)
    train_adapter(setup, config, context)
    began = time.perf_counter()
    table = embed_all(setup, context)
    return {
        "perf/embed_seconds": time.perf_counter() - began,
        "perf/embedded_images": float(len(table.image_ids)),
    }
