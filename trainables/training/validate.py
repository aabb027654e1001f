"""Scores images by prompts and by probes, in the same way at every epoch and at the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.config import Features, Split, TrialConfig, ZeroShotConfig
from trainables.context import Metrics
from trainables.data.text import prompts_of
from trainables.scoring.embedding_store import EmbeddingTable
from trainables.scoring.linear_probe import ProbePath
from trainables.scoring.metric_names import metric_key, zero_shot_name
from trainables.scoring.predictions import Scores, image_ids_of
from trainables.scoring.probes import probe_embeddings, probe_predictions
from trainables.scoring.task_systems import SYSTEMS
from trainables.scoring.tasks import TASKS
from trainables.training.trial_setup import TrialSetup


@dataclass
class Verdicts:
    """The class probabilities per (split, system), and the fitted probes."""

    predictions: dict[tuple[Split, str], Scores]
    probes: dict[Features, ProbePath]


def score_everything(
    setup: TrialSetup, table: EmbeddingTable, config: TrialConfig, splits: tuple[Split, ...]
) -> Verdicts:
    """Returns zero-shot and probe scores for the images of these splits; the probes are selected on val."""
    probes = probe_embeddings(table, setup.dataset, config.probe)
    by_prompts = zero_shot_predictions(setup, table, splits, config.zero_shot)
    return Verdicts(by_prompts | probe_predictions(probes, table, setup.dataset, splits), probes)


def zero_shot_predictions(
    setup: TrialSetup,
    table: EmbeddingTable,
    splits: tuple[Split, ...],
    asked: ZeroShotConfig,
) -> dict[tuple[Split, str], Scores]:
    """Returns the zero-shot scores of these splits, by family of prompts."""
    dataset, scale = setup.dataset, float(setup.encoder.log_logit_scale.detach().exp())
    ask = SYSTEMS[dataset.task].zero_shot
    predictions: dict[tuple[Split, str], Scores] = {}

    def embed(prompts: dict[str, list[str]]) -> list[np.ndarray]:
        return [setup.embed_texts(of_class).cpu().numpy() for of_class in prompts.values()]

    for family in asked.prompts:
        texts = prompts_of(dataset, family, published_by=asked.published_by)
        prompts = embed(texts.of_class)
        contrary = None if texts.contrary is None else embed(texts.contrary)
        for split in splits:
            ids = image_ids_of(dataset, split)
            scores = ask(table.joint[table.rows_of(ids)], prompts, contrary, scale)
            predictions[split, zero_shot_name(family)] = Scores(ids, scores)
    return predictions


def validation_metrics(setup: TrialSetup, config: TrialConfig) -> Metrics:
    """Returns metrics on val of every system without intervals, from embeddings computed anew."""
    dataset = setup.dataset
    table = setup.embedding_table(dataset.indices("train", "val"))
    verdicts = score_everything(setup, table, config, ("val",))
    targets, point_metrics = dataset.targets(dataset.indices("val")), TASKS[dataset.task].point_metrics
    return {
        metric_key("val", system, metric): value
        for (_, system), scores in verdicts.predictions.items()
        for metric, value in point_metrics(scores.scores, targets).items()
    }
