"""Embeds every image once per encoder and adapter, and saves the embeddings in the embedding store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainables.config import TrialConfig
from trainables.context import RunContext
from trainables.scoring.embedding_store import EmbeddingTable, store_embeddings
from trainables.training.loop import train_adapter
from trainables.training.trial_setup import TrialSetup, set_up_trial


def embed_all(setup: TrialSetup, context: RunContext) -> EmbeddingTable:
    """Returns the embeddings of all images, including test images, from the store if possible. No labels."""
    everything = np.arange(len(setup.dataset.records))
    context.fetch(setup.embeddings_folder)
    table = store_embeddings(
        setup.embeddings_folder,
        lambda: setup.embedding_table(everything),
        about={"encoder": setup.encoder.fingerprint},
    )
    context.keep(setup.embeddings_folder)
    return table


def embedding_folder(config: TrialConfig, context: RunContext) -> Path:
    """Returns the folder with the embeddings of a configuration; computes missing embeddings."""
    setup = set_up_trial(config, context)
    train_adapter(setup, config, context)
    embed_all(setup, context)
    return setup.embeddings_folder
