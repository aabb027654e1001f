"""Identifies a trial: by its settings, its data and the weights that it starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from trainables.artifacts import fingerprint
from trainables.config import TrialConfig, arm_key, trial_key
from trainables.data.datasets import load_dataset, with_masks
from trainables.models.catalogue.captioners import known_captioner
from trainables.models.catalogue.registry import has_known_weights, model_fingerprint


class Identity(NamedTuple):
    """The keys of a trial and of its arm, and the fingerprints that are in them."""

    trial_key: str
    arm_key: str
    data: str
    model: str | None  # None: the weights are not here; any that come may be used
    captioner: str | None = None  # also None if the trial has no captioner


class Weights(NamedTuple):
    """Fingerprints of the weights that a trial starts from; see `Identity`."""

    named: str  # of the model for the keys, also if its weights are not here
    model: str | None
    captioner: str | None


def find_weights(config: TrialConfig) -> Weights:
    """Returns the weights of a configuration that are here now."""
    captioner = known_captioner(config.captioner) if config.needs_captioner else None
    return Weights(*find_model(config), captioner)


def by_name(config: TrialConfig, model: str | None, captioner: str | None) -> dict[str, str | None]:
    """Returns the fingerprints of a trial's weights by the name of the model or captioner."""
    return {config.model_name: model} | ({config.captioner.name: captioner} if config.needs_captioner else {})


def find_model(config: TrialConfig) -> tuple[str, str | None]:
    """Returns `named` and `model` of `Weights`."""
    named = model_fingerprint(config)
    return named, named if has_known_weights(config) else None


def weights_of(config: TrialConfig) -> str:
    """Returns the same text for all trials that start from the same model and captioner."""
    return fingerprint(config.model_to_load, config.captioner if config.needs_captioner else None)


def identify(config: TrialConfig, find: Callable[[TrialConfig], Weights] = find_weights) -> Identity:
    """Returns the identity of a configuration, with the data that are here now and the weights of `find`."""
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
