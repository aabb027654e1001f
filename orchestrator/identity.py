"""What a trial is, and what it stands on: its science, the data that it reads, the weights it starts from."""

from __future__ import annotations

from typing import NamedTuple

from trainables.artifacts import fingerprint
from trainables.config import TrialConfig, arm_key, trial_key
from trainables.data.datasets import load_dataset, with_masks
from trainables.models.captioners import known_captioner
from trainables.models.registry import has_known_weights, model_fingerprint


class Identity(NamedTuple):
    """`trial_key` and `arm_key` name a trial, by fingerprints of its science, its data and its weights."""

    trial_key: str
    arm_key: str
    data: str
    model: str | None  # None: the weights are not here, and the keys say so; whichever come may be used
    captioner: str | None = None  # the same; None too where it has none


class Weights(NamedTuple):
    """Fingerprints of the weights that a trial starts from; see `Identity`."""

    named: str  # of the model, for the keys: of its weights, or of their absence
    model: str | None
    captioner: str | None


def find_weights(config: TrialConfig) -> Weights:
    """Returns which weights of a configuration are here now.

    Raises:
        WeightsUnavailable: see `model_fingerprint`.
    """
    named = model_fingerprint(config)
    model = named if has_known_weights(config) else None
    return Weights(named, model, known_captioner(config.captioner) if config.needs_captioner else None)


def weights_of(config: TrialConfig) -> str:
    """Returns what names the weights that a trial starts from: a model's, and a captioner's if it has one."""
    return fingerprint(config.model_to_load, config.captioner if config.needs_captioner else None)


def identify(config: TrialConfig) -> Identity:
    """Returns what a configuration is on the data and weights that are here now.

    Raises:
        ConfigError, DataError: see `load_dataset`.
        WeightsUnavailable: see `model_fingerprint`.
    """
    read, weights = config.data_to_read, find_weights(config)
    dataset = load_dataset(read)
    data, images = (with_masks(of, read) for of in (dataset.fingerprint, dataset.content_fingerprint))
    keys = (
        key(config, of, weights.named, weights.captioner) for key, of in ((trial_key, data), (arm_key, images))
    )
    return Identity(*keys, data, weights.model, weights.captioner)
