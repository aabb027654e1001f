"""Scores images by prompts and by probes, in the same way at every epoch and at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trainables.config import Features, PromptFamily, Split, TrialConfig, ZeroShotConfig
from trainables.context import Metrics
from trainables.data.text import Prompts, prompts_of
from trainables.scoring.embedding_store import EmbeddingTable
from trainables.scoring.linear_probe import ProbePath
from trainables.scoring.metric_names import metric_key, zero_shot_name
from trainables.scoring.predictions import Scores, image_ids_of
from trainables.scoring.probes import probe_embeddings, probe_predictions
from trainables.scoring.task_systems import SYSTEMS
from trainables.scoring.tasks import TASKS
from trainables.training.trial_setup import TrialSetup


class EmbeddedPrompts(NamedTuple):
    """The prompts of one family, and their embeddings: one array [n_k, D] for each class."""

    texts: Prompts
    of_class: list[np.ndarray]
    contrary: list[np.ndarray] | None


@dataclass
class Verdicts:
    """The class probabilities per (split, system), the fitted probes, and the prompts of each family."""

    predictions: dict[tuple[Split, str], Scores]
    probes: dict[Features, ProbePath]
    prompts: dict[PromptFamily, EmbeddedPrompts]


def score_everything(
    setup: TrialSetup, table: EmbeddingTable, config: TrialConfig, splits: tuple[Split, ...]
) -> Verdicts:
    """Returns zero-shot and probe scores for the images of these splits; the probes are selected on val."""
    probes = probe_embeddings(table, setup.dataset, config.probe)
    prompts = embed_prompts(setup, config.zero_shot)
    by_prompts = zero_shot_predictions(setup, table, splits, prompts)
    by_probes = probe_predictions(probes, table, setup.dataset, splits)
    return Verdicts(by_prompts | by_probes, probes, prompts)


def embed_prompts(setup: TrialSetup, asked: ZeroShotConfig) -> dict[PromptFamily, EmbeddedPrompts]:
    """Returns the embeddings of the prompts of each family."""

    def embed(prompts: dict[str, list[str]]) -> list[np.ndarray]:
        return [setup.embed_texts(of_class).cpu().numpy() for of_class in prompts.values()]

    found: dict[PromptFamily, EmbeddedPrompts] = {}
    for family in asked.prompts:
        texts = prompts_of(setup.dataset, family, published_by=asked.published_by)
        contrary = None if texts.contrary is None else embed(texts.contrary)
        found[family] = EmbeddedPrompts(texts, embed(texts.of_class), contrary)
    return found


def zero_shot_predictions(
    setup: TrialSetup,
    table: EmbeddingTable,
    splits: tuple[Split, ...],
    asked: Mapping[PromptFamily, EmbeddedPrompts],
) -> dict[tuple[Split, str], Scores]:
    """Returns the zero-shot scores of these splits, by family of prompts."""
    dataset, scale = setup.dataset, float(setup.encoder.log_logit_scale.detach().exp())
    ask = SYSTEMS[dataset.task].zero_shot
    predictions: dict[tuple[Split, str], Scores] = {}
    for family, prompts in asked.items():
        for split in splits:
            ids = image_ids_of(dataset, split)
            scores = ask(table.joint[table.rows_of(ids)], prompts.of_class, prompts.contrary, scale)
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
