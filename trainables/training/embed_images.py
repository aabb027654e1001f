"""Embeds every image once per encoder and adapter, into the embedding store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainables.config import TrialConfig
from trainables.context import RunContext
from trainables.scoring.embedding_store import EmbeddingTable, store_embeddings
from trainables.training.loop import train_adapter
from trainables.training.trial_setup import Materials, open_materials


def embed_all(materials: Materials, context: RunContext) -> EmbeddingTable:
    """Returns the embeddings of every image, from the store if they are there. Test images too; no labels."""
    everything = np.arange(len(materials.dataset.records))
    context.fetch(materials.embeddings_folder)
    table = store_embeddings(
        materials.embeddings_folder,
        lambda: materials.embedding_table(everything),
        about={"encoder": materials.encoder.fingerprint},
    )
    context.keep(materials.embeddings_folder)
    return table


def embedding_folder(config: TrialConfig, context: RunContext) -> Path:
    """Returns the folder of the embeddings of this config, made now if need be."""
    materials = open_materials(config, context)
    train_adapter(materials, config, context)
    embed_all(materials, context)
    return materials.embeddings_folder
