"""What a trial is, and what it stands on: its science, the data that it reads, the weights it starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from trainables.artifacts import fingerprint
from trainables.config import TrialConfig, arm_key, trial_key
from trainables.data.datasets import load_dataset, with_masks
from trainables.models.catalogue.captioners import known_captioner
from trainables.models.catalogue.registry import has_known_weights, model_fingerprint


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
    captioner = known_captioner(config.captioner) if config.needs_captioner else None
    return Weights(*find_model(config), captioner)


def by_name(config: TrialConfig, model: str | None, captioner: str | None) -> dict[str, str | None]:
    """Returns fingerprints of the weights that a trial starts from, by what its configuration calls them."""
    return {config.model_name: model} | ({config.captioner.name: captioner} if config.needs_captioner else {})


def find_model(config: TrialConfig) -> tuple[str, str | None]:
    """Returns of a model what `Weights` says of it."""
    named = model_fingerprint(config)
    return named, named if has_known_weights(config) else None


def weights_of(config: TrialConfig) -> str:
    """Returns what names the weights that a trial starts from: a model's, and a captioner's if it has one."""
    return fingerprint(config.model_to_load, config.captioner if config.needs_captioner else None)


def identify(config: TrialConfig, find: Callable[[TrialConfig], Weights] = find_weights) -> Identity:
    """Returns what a configuration is on the data that are here now, and on the weights that `find` tells.

    Raises:
        ConfigError, DataError: see `load_dataset`.
        WeightsUnavailable: see `model_fingerprint`.
    """
    read, weights = config.data_to_read, find(config)
    dataset = load_dataset(read)
    data, images = (with_masks(of, read) for of in (dataset.fingerprint, dataset.content_fingerprint))
    starts_from = weights.named, weights.captioner
    return Identity(
        trial_key(config, data, *starts_from),
        arm_key(config, images, *starts_from),
        data,
        weights.model,
        weights.captioner,
    )
