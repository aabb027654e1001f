"""Leaves a model folder at the end of a trial. A failure here never fails the trial."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainables.config import TrialConfig
from trainables.context import Metrics
from trainables.deploy.engine import ADAPTER, CLASSIFIER, ClassifierEngine, EncoderEngine
from trainables.deploy.facts import SystemFacts
from trainables.deploy.model_folder import ModelParts, write_model
from trainables.deploy.reference import fit_reference
from trainables.deploy.systems import Baseline, Probe, System, ZeroShot
from trainables.models.catalogue.classifiers import ARCHITECTURES, classifier_fingerprint
from trainables.models.catalogue.registry import find_encoder, known_revision
from trainables.scoring.embedding_store import EmbeddingTable
from trainables.scoring.metric_names import baseline_system, probe_name, zero_shot_name
from trainables.scoring.predictions import Predictions, image_ids_of
from trainables.scoring.zero_shot import class_embeddings
from trainables.training.classifier_loop import Fitting
from trainables.training.trial_setup import TrialSetup
from trainables.training.validate import Verdicts

logger = logging.getLogger(__name__)
MODEL, PROBLEM = "model", "no-model.txt"


def leave_model(
    results: Path,
    setup: TrialSetup,
    config: TrialConfig,
    verdicts: Verdicts,
    table: EmbeddingTable,
    metrics: Metrics,
) -> None:
    """Writes `results/model` with the probes and the prompts of a trial. Few-shot probes are left out."""
    _try(
        results, lambda: write_model(results / MODEL, encoder_parts(setup, config, verdicts, table), metrics)
    )


def leave_classifier(
    results: Path, fitting: Fitting, config: TrialConfig, predictions: Predictions, metrics: Metrics
) -> None:
    """Writes `results/model` with the weights of a fine-tuned classifier."""
    _try(
        results, lambda: write_model(results / MODEL, classifier_parts(fitting, config, predictions), metrics)
    )


def encoder_parts(
    setup: TrialSetup, config: TrialConfig, verdicts: Verdicts, table: EmbeddingTable
) -> ModelParts:
    """Returns what the model of a dual encoder needs."""
    dataset, spec = setup.dataset, find_encoder(config.encoder)
    scale = float(setup.encoder.log_logit_scale.detach().exp())
    systems: dict[str, tuple[System, SystemFacts]] = {}
    for features, path in verdicts.probes.items():
        probe = Probe(features, path.classifier)
        systems[probe_name(features)] = probe, SystemFacts(kind="probe", features=features)
    for family, prompts in verdicts.prompts.items():
        contrary = None if prompts.contrary is None else class_embeddings(prompts.contrary)
        system = ZeroShot(dataset.task, class_embeddings(prompts.of_class), contrary, scale)
        said, against = prompts.texts.of_class, prompts.texts.contrary
        facts = SystemFacts(kind="zero_shot", prompts=said, contrary=against)
        systems[zero_shot_name(family)] = system, facts
    rows = {split: table.rows_of(image_ids_of(dataset, split)) for split in ("train", "val")}
    return ModelParts(
        config=config,
        dataset=dataset,
        engine=EncoderEngine(setup.encoder),
        systems=systems,
        val_scores={name: verdicts.predictions["val", name].scores for name in systems},
        weights={
            "name": config.encoder.name,
            "revision": known_revision(config.encoder, spec),
            "licence": spec.licence,
            "hashes": dict(spec.files) or ({"sha256": spec.sha256} if spec.sha256 else {}),
            "precision": str(setup.encoder.dtype).removeprefix("torch."),
        },
        fingerprint=setup.encoder.fingerprint,
        trained={setup.adapter_folder: ADAPTER} if setup.adapter_folder else {},
        reference=fit_reference(np.asarray(table.joint[rows["train"]]), table.joint[rows["val"]]),
    )


def classifier_parts(fitting: Fitting, config: TrialConfig, predictions: Predictions) -> ModelParts:
    """Returns what the model of a fine-tuned classifier needs."""
    name = baseline_system(config.baseline.from_scratch)
    architecture = config.baseline.architecture
    return ModelParts(
        config=config,
        dataset=fitting.dataset,
        engine=ClassifierEngine(fitting.model, fitting.preprocessing, fitting.dataset.task),
        systems={name: (Baseline(), SystemFacts(kind="baseline"))},
        val_scores={name: predictions["val", name].scores},
        weights={
            "name": architecture,
            "revision": None if config.baseline.from_scratch else ARCHITECTURES[architecture].file,
            "licence": "BSD-3-Clause (torchvision)",
            "hashes": {},
            "precision": "float32",
        },
        fingerprint=classifier_fingerprint(config.baseline),
        trained={fitting.folder / "model.safetensors": CLASSIFIER},
        reference=None,
    )


def _try(results: Path, leave: Callable[[], None]) -> None:
    """Calls `leave`. After an error the trial has its scores but no model, and a file says why."""
    try:
        leave()
    except Exception as error:
        logger.warning("the trial leaves no model: %s", error, exc_info=True)
        (results / PROBLEM).write_text(f"{type(error).__name__}: {error}\n")
