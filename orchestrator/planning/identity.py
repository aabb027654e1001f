"""Identifies a trial by its settings, its data, its words and its initial weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from trainables.artifacts import fingerprint
from trainables.config import TrialConfig, arm_key, trial_key
from trainables.data.datasets import load_dataset, with_masks
from trainables.models.catalogue.captioners import known_captioner
from trainables.models.catalogue.registry import has_known_weights, model_fingerprint


class Identity(NamedTuple):
    """The keys of a trial and of its arm, and the fingerprints of the inputs in these keys."""

    trial_key: str
    arm_key: str
    data: str
    model: str | None  # None: the weights are not on this machine, and any weights may be added
    captioner: str | None = None  # also None if the trial has no captioner
    words: str | None = None  # None: the trial reads no words


class Weights(NamedTuple):
    """Fingerprints of the initial weights of a trial; see `Identity`."""

    named: str  # of the model, for the keys; set even if the weights are not on this machine
    model: str | None
    captioner: str | None


def find_weights(config: TrialConfig) -> Weights:
    """Returns the fingerprints of the weights that are on this machine now."""
    captioner = known_captioner(config.captioner) if config.needs_captioner else None
    return Weights(*find_model(config), captioner)


def by_name(config: TrialConfig, model: str | None, captioner: str | None) -> dict[str, str | None]:
    """Returns the fingerprints of a trial's weights by the name of the model or captioner."""
    return {config.model_name: model} | ({config.captioner.name: captioner} if config.needs_captioner else {})


def find_model(config: TrialConfig) -> tuple[str, str | None]:
    """Returns the fields `named` and `model` of `Weights`."""
    named = model_fingerprint(config)
    return named, named if has_known_weights(config) else None


def weights_of(config: TrialConfig) -> str:
    """Returns a fingerprint that is equal for all trials with the same model and captioner."""
    return fingerprint(config.model_to_load, config.captioner if config.needs_captioner else None)


def identify(config: TrialConfig, find: Callable[[TrialConfig], Weights] = find_weights) -> Identity:
    """Returns the identity of a configuration, with the current data and the weights that `find` returns."""
    read, weights = config.data_to_read, find(config)
    dataset = load_dataset(read)
    data, images = (with_masks(of, read) for of in (dataset.fingerprint, dataset.content_fingerprint))
    words = dataset.words.fingerprint if config.reads_words else None
    others = weights.named, weights.captioner, words
    return Identity(
        trial_key(config, data, *others),
        arm_key(config, images, *others),
        data,
        weights.model,
        weights.captioner,
        words,
    )
