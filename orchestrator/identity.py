"""What a trial is, and what it stands on: its science, the data that it reads, the weights it starts from."""

from __future__ import annotations

from typing import NamedTuple

from trainables.config import TrialConfig, arm_key, trial_key
from trainables.data.datasets import load_dataset, with_masks
from trainables.models.registry import has_known_weights, model_fingerprint


class Identity(NamedTuple):
    """`trial_key` and `arm_key` name a trial, by fingerprints of its science, its data and its model."""

    trial_key: str
    arm_key: str
    data: str
    model: str | None  # None: the weights are not here, and the keys say so; whichever come may be used


def identify(config: TrialConfig) -> Identity:
    """Returns what a configuration is on the data and weights that are here now.

    Raises:
        ConfigError, DataError: see `load_dataset`.
        WeightsUnavailable: see `model_fingerprint`.
    """
    read = config.data_to_read
    dataset, model = load_dataset(read), model_fingerprint(config)
    data, images = (with_masks(of, read) for of in (dataset.fingerprint, dataset.content_fingerprint))
    stands_on = data, model if has_known_weights(config) else None
    return Identity(trial_key(config, data, model), arm_key(config, images, model), *stands_on)
