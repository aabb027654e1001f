"""`model.json`: what a model is, what it was trained on, and how well its systems did on val."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from trainables.artifacts import file_sha256, hashes
from trainables.config import Config, Features, PreprocessingSpec, Task, TrialConfig
from trainables.errors import DataError

FILE = "model.json"
SCHEMA_VERSION = 1
COPY_AGAIN = "copy the whole folder again, or take the model of another trial"


class SystemFacts(Config):
    """A way of scoring images that the model holds.

    Attributes:
        kind: how it gets its scores.
        features: what a probe reads.
        prompts: class → sentences that a zero-shot system asks for.
        contrary: class → the sentences that it asks against, if there are any.
        metrics: its metrics on val, with the ends of 95 % intervals.
    """

    kind: Literal["probe", "zero_shot", "baseline"]
    features: Features | None = None
    prompts: dict[str, list[str]] | None = None
    contrary: dict[str, list[str]] | None = None
    metrics: Mapping[str, float] = Field(default_factory=dict[str, float])


class TrainingData(Config):
    """The data that the model was trained on: names, fingerprints and counts, but no path and no image id."""

    dataset: str
    fingerprint: str
    num_images: dict[str, int]  # split → images
    num_patients: dict[str, int] | None  # None: the data set has no patient ids
    num_positive: dict[str, dict[str, int]]  # train and val → class or finding → images
    notes: tuple[str, ...] = ()


class ModelFacts(Config):
    """The content of `model.json`.

    Attributes:
        trial: the settings of a trial that can change its result (`config.science`), without paths of data.
        weights: name, revision, licence and public hashes of the weights that the trial started from.
        fingerprint: of these weights, the architecture and the preprocessing.
        words: fingerprint of the words that captions and prompts were made of.
    """

    schema_version: Literal[1]
    task: Task
    classes: tuple[str, ...]
    trial: dict[str, Any]
    weights: dict[str, Any]
    fingerprint: str
    preprocessing: PreprocessingSpec
    words: str | None
    systems: dict[str, SystemFacts]
    default_system: str
    data: TrainingData
    limits: tuple[str, ...]

    @property
    def config(self) -> TrialConfig:
        """The settings of the trial; those that cannot change its result have their defaults."""
        return TrialConfig.model_validate(self.trial)


def read_facts(folder: Path) -> ModelFacts:
    """Returns the facts of a model, after a comparison of every file with the manifest.

    Raises:
        DataError: the folder holds no model, or a file is missing or has changed. The message names it.
    """
    if not (folder / FILE).is_file():
        raise DataError(
            f"{folder}: holds no model (no {FILE}); name a folder like SWEEP/trials/KEY/results/model"
        )
    for name, sha256 in hashes(folder).items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise DataError(f"{folder / name}: this file is missing or has changed; {COPY_AGAIN}")
    values = json.loads((folder / FILE).read_text())
    if (version := values.get("schema_version")) != SCHEMA_VERSION:
        raise DataError(
            f"{folder / FILE}: has schema version {version}, and this program reads {SCHEMA_VERSION}; "
            "install the version of this program that wrote the model"
        )
    try:
        return ModelFacts.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{folder / FILE}: not a model of this program ({error}); {COPY_AGAIN}") from error
