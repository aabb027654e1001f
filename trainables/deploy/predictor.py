"""Loads a model folder and predicts: `load_model(FOLDER).predict(images)`. Needs neither Ray nor MLflow."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from trainables.config.fields import did_you_mean
from trainables.data.formats.decode import decode
from trainables.data.formats.pictures import grey_of
from trainables.data.transforms import fit
from trainables.deploy.calibration import Calibration
from trainables.deploy.engine import Engine, load_engine
from trainables.deploy.facts import ModelFacts, read_facts
from trainables.deploy.golden import largest_difference
from trainables.deploy.model_folder import CALIBRATION_FILE, THRESHOLDS_FILE
from trainables.deploy.reference import Reference, read_reference
from trainables.deploy.systems import System, read_system
from trainables.deploy.tasks import TASKS
from trainables.deploy.thresholds import Thresholds
from trainables.errors import ConfigError, DataError

ImageLike: TypeAlias = str | os.PathLike[str] | np.ndarray | Image.Image
"""A PNG, JPEG, TIFF or DICOM file, grey pixels uint8 [H, W], or an image of Pillow."""
BATCH_SIZE = 32


@dataclass(frozen=True)
class Prediction:
    """What a model says about one image.

    Attributes:
        probabilities: class or finding → calibrated probability.
        raw_probabilities: class or finding → probability before calibration, as in the trial.
        present: the most probable class; or the findings at or above Youden's threshold.
        unlike_training: whether the image is unlike the training images; None if the model cannot say.
        distance: how far it is from them (Mahalanobis), or None.
    """

    probabilities: dict[str, float]
    raw_probabilities: dict[str, float]
    present: tuple[str, ...]
    unlike_training: bool | None
    distance: float | None

    @property
    def label(self) -> str:
        """The class, or the findings joined by `|`."""
        return "|".join(self.present)


@dataclass(frozen=True)
class Model:
    """A model in use. `load_model` makes it.

    Attributes:
        folder: where its files are.
        facts: what it is and what it was trained on.
    """

    folder: Path
    facts: ModelFacts
    engine: Engine
    systems: dict[str, System]
    calibrations: dict[str, Calibration]
    thresholds: dict[str, Thresholds]
    reference: Reference | None

    def predict(
        self, images: Iterable[ImageLike], *, system: str | None = None, batch_size: int = BATCH_SIZE
    ) -> list[Prediction]:
        """Returns a prediction for each image, in their order.

        Args:
            images: files, grey pixels uint8 [H, W] of any size, or images of Pillow.
            system: such as `probe_joint`; None = the system with the highest AUROC on val.
            batch_size: images of a forward pass.

        Raises:
            ConfigError: the model has no such system.
            DataError: an image cannot be used. The message names it.
        """
        if isinstance(images, str | os.PathLike | Image.Image):
            raise ConfigError("predict takes a list of images; write predict([image])")
        system = self.check_system(system)
        found: list[Prediction] = []
        for batch in _batches(images, batch_size):
            prepared = np.stack([*map(self.prepare, batch)])
            found += self.predict_prepared(prepared, system, pad_to=batch_size if found else None)
        return found

    def prepare(self, image: ImageLike) -> np.ndarray:
        """Returns one image as grey pixels uint8 [S, S], of the size that the model reads."""
        if isinstance(image, Image.Image):
            pixels = grey_of(image)[0]
        elif isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 2:
                raise DataError(
                    f"an image is {image.dtype} {list(image.shape)}; give grey pixels uint8 [H, W], "
                    "a file, or an image of Pillow"
                )
            pixels = image
        else:
            try:
                pixels = decode(Path(image)).pixels
            except (ValueError, OSError) as error:
                raise DataError(f"{os.fspath(image)}: {error}") from error
        return fit(pixels, self.engine.preprocessing)

    def predict_prepared(
        self, images: np.ndarray, system: str, *, pad_to: int | None = None
    ) -> list[Prediction]:
        """Returns predictions for images uint8 [B, S, S] from `prepare`.

        `pad_to` fills the batch up to this size with copies, which are not returned. Processors use other
        kernels for small batches, and a weakly regularised probe turned their rounding into 1e-4.
        """
        num_images, names = len(images), self.facts.classes
        if pad_to is not None and num_images < pad_to:
            images = np.concatenate([images, np.repeat(images[:1], pad_to - num_images, axis=0)])
        features = {name: values[:num_images] for name, values in self.engine.features(images).items()}
        raw = self.systems[system].scores(features)
        calibrated = self.calibrations[system].calibrate(raw)
        distances: list[float | None] = [None] * len(raw)
        limit = np.inf
        if self.reference is not None:
            distances, limit = self.reference.distances(features["joint"]).tolist(), self.reference.threshold
        present, thresholds = TASKS[self.facts.task].present, self.thresholds[system].youden
        return [
            Prediction(
                probabilities=dict(zip(names, p.tolist(), strict=True)),
                raw_probabilities=dict(zip(names, r.tolist(), strict=True)),
                present=present(p, {name: thresholds[name] for name in names}),
                unlike_training=None if d is None else d > limit,
                distance=d,
            )
            for p, r, d in zip(calibrated, raw, distances, strict=True)
        ]

    def check_system(self, name: str | None) -> str:
        """Returns the name of a system, or of the default one. Raises ConfigError for an unknown name."""
        if name is None:
            return self.facts.default_system
        if name not in self.systems:
            hint = did_you_mean(name, self.systems) or f" (it has {', '.join(self.systems)})"
            raise ConfigError(f"system '{name}': the model does not have it{hint}")
        return name

    def check(self) -> float:
        """Returns the largest difference between a score of a golden phantom here and the stored one."""
        return largest_difference(self.engine, self.systems, self.folder)


def load_model(folder: Path, *, device: str, store: Path | None) -> Model:
    """Loads a model folder. See `trainables.load_model`."""
    facts = read_facts(folder)
    calibrations: TypeAdapter[dict[str, Calibration]] = TypeAdapter(dict[str, Calibration])
    thresholds = TypeAdapter(dict[str, Thresholds])
    return Model(
        folder=folder,
        facts=facts,
        engine=load_engine(folder, facts, device=device, store=store),
        systems={
            name: read_system(folder, name, each, task=facts.task, classes=facts.classes)
            for name, each in facts.systems.items()
        },
        calibrations=calibrations.validate_python(_read_json(folder / CALIBRATION_FILE)),
        thresholds=thresholds.validate_python(_read_json(folder / THRESHOLDS_FILE)),
        reference=read_reference(folder),
    )


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def _batches(images: Iterable[ImageLike], size: int) -> Iterator[Sequence[ImageLike]]:
    batch: list[ImageLike] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
