"""What an encoder says of every image by prompts and by probes; the same at every epoch and at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from trainables.config import Split, TrialConfig
from trainables.context import Metrics
from trainables.data.text import PromptFamily, class_prompts
from trainables.embeddings import EmbeddingTable
from trainables.materials import Materials
from trainables.metrics import point_metrics
from trainables.predictions import Scores
from trainables.probe import ProbePath, probe_embeddings
from trainables.zero_shot import zero_shot_scores

PROMPT_FAMILIES: tuple[PromptFamily, ...] = ("training", "unseen")


@dataclass
class Verdicts:
    """Class probabilities per (split, system), and the probes behind some of them."""

    predictions: dict[tuple[Split, str], Scores] = field(default_factory=dict)
    probes: dict[str, ProbePath] = field(default_factory=dict)


def score_everything(
    materials: Materials, table: EmbeddingTable, config: TrialConfig, splits: tuple[Split, ...]
) -> Verdicts:
    """Scores the images of these splits by zero-shot prompts and by linear probes, chosen on val.

    On val a probe is the one fitted on train alone; on test it is refitted on train and val.
    """
    verdicts = Verdicts()
    for family in PROMPT_FAMILIES:
        prompts = [
            materials.embed_texts(p).cpu().numpy()
            for p in class_prompts(materials.dataset.classes, family).values()
        ]
        scale = float(materials.encoder.log_logit_scale.detach().exp())
        for split, image_ids, rows in rows_of(materials, table, splits):
            scores = zero_shot_scores(table.joint[rows], prompts, logit_scale=scale)
            verdicts.predictions[split, f"zero_shot_{family}"] = Scores(image_ids, scores)
    verdicts.probes = cast("dict[str, ProbePath]", probe_embeddings(table, materials.dataset, config.probe))
    for features, path in verdicts.probes.items():
        for split, image_ids, rows in rows_of(materials, table, splits):
            embeddings = table.pooled if features == "pooled" else table.joint
            scores = path.val_scores if split == "val" else path.scores(embeddings[rows])
            verdicts.predictions[split, f"probe_{features}"] = Scores(image_ids, scores)
    return verdicts


def rows_of(
    materials: Materials, table: EmbeddingTable, splits: tuple[Split, ...]
) -> Iterator[tuple[Split, np.ndarray, np.ndarray]]:
    """Yields each split with its image ids and their rows in the table."""
    for split in splits:
        image_ids = np.array(
            [materials.dataset.records[i].image_id for i in materials.dataset.indices(split)]
        )
        yield split, image_ids, table.rows_of(image_ids)


def validation_metrics(materials: Materials, config: TrialConfig) -> Metrics:
    """Returns point metrics on val of every system, from embeddings computed now."""
    dataset = materials.dataset
    indices = dataset.indices("train", "val")
    features = materials.embed_images(indices)
    table = EmbeddingTable(
        image_ids=np.array([dataset.records[i].image_id for i in indices]),
        pooled=features.pooled.numpy(),
        joint=features.joint.numpy(),
    )
    cheap = config.model_copy(update={"probe": config.probe.model_copy(update={"features": ("joint",)})})
    verdicts = score_everything(materials, table, cheap, ("val",))
    classes = dataset.class_indices(dataset.indices("val"))
    return {
        f"val/{system}/{metric}": value
        for (_, system), scores in verdicts.predictions.items()
        for metric, value in point_metrics(scores.scores, classes).items()
    }
