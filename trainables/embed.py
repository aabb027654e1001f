"""Embeds every image once per encoder and adapter, into a content-addressed store."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from trainables.config import TrialConfig
from trainables.context import Metrics, RunContext
from trainables.embeddings import EmbeddingTable, store_embeddings
from trainables.finetune import train_adapter
from trainables.materials import Materials, open_materials


def embed(config: TrialConfig, context: RunContext) -> Metrics:
    """Embeds all splits with the config's encoder, adapted first where its adapter is not there yet."""
    materials = open_materials(config, context)
    train_adapter(materials, config, context)
    began = time.perf_counter()
    table = embed_all(materials, context)
    return {
        "perf/embed_seconds": time.perf_counter() - began,
        "perf/embedded_images": float(len(table.image_ids)),
    }


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
