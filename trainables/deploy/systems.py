"""The systems that a model holds: each maps features of images to raw probabilities [N, K]."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from trainables.config import Task
from trainables.deploy.facts import COPY_AGAIN, SystemFacts
from trainables.deploy.tasks import TASKS
from trainables.errors import DataError
from trainables.scoring.logistic import LinearClassifier
from trainables.scoring.task_systems import SYSTEMS

FeaturesOf = Mapping[str, np.ndarray]
"""Name → features of N images: `pooled` [N, P] and `joint` [N, D], or a baseline's `scores` [N, K]."""
ZERO_SHOT_FILE = "zero_shot.safetensors"


class System(Protocol):
    """A way of scoring images."""

    def scores(self, features: FeaturesOf) -> np.ndarray:
        """Returns raw probabilities float64 [N, K]."""
        ...


@dataclass(frozen=True)
class Probe:
    """A linear classifier, refitted on train and val."""

    features: str
    classifier: LinearClassifier

    def scores(self, features: FeaturesOf) -> np.ndarray:
        """Returns raw probabilities float64 [N, K]."""
        return self.classifier.scores(features[self.features])


@dataclass(frozen=True)
class ZeroShot:
    """The mean embedding of the prompts of each class [K, D], perhaps those of contraries, and the scale."""

    task: Task
    of_class: np.ndarray
    contrary: np.ndarray | None
    logit_scale: float

    def scores(self, features: FeaturesOf) -> np.ndarray:
        """Returns raw probabilities float64 [N, K]."""
        contrary = None if self.contrary is None else list(self.contrary[:, None])
        return SYSTEMS[self.task].zero_shot(
            features["joint"], list(self.of_class[:, None]), contrary, self.logit_scale
        )


@dataclass(frozen=True)
class Baseline:
    """An image classifier, which scores images without features."""

    def scores(self, features: FeaturesOf) -> np.ndarray:
        """Returns raw probabilities float64 [N, K]."""
        return features["scores"]


def write_systems(systems: Mapping[str, System], classes: Sequence[str], folder: Path) -> None:
    """Writes `probe_<features>.safetensors` for each probe, and `zero_shot.safetensors` for all prompts.

    Both also name the classes, so that their order cannot differ from that in `model.json`.
    """
    named = {"classes": json.dumps(list(classes))}
    prompts: dict[str, np.ndarray] = {}
    for name, system in systems.items():
        if isinstance(system, Probe):
            classifier = system.classifier
            tensors = {"weights": np.ascontiguousarray(classifier.weights), "bias": classifier.bias}
            save_file(tensors, folder / f"{name}.safetensors", named | {"features": system.features})
        elif isinstance(system, ZeroShot):
            prompts[f"{name}.of_class"] = system.of_class
            if system.contrary is not None:
                prompts[f"{name}.contrary"] = system.contrary
            prompts[f"{name}.logit_scale"] = np.array(system.logit_scale)
    if prompts:
        save_file(prompts, folder / ZERO_SHOT_FILE, named)


def read_system(folder: Path, name: str, facts: SystemFacts, *, task: Task, classes: Sequence[str]) -> System:
    """Returns one system of a model folder."""
    if facts.kind == "baseline":
        return Baseline()
    file = ZERO_SHOT_FILE if facts.kind == "zero_shot" else f"{name}.safetensors"
    with safe_open(folder / file, framework="np") as stored:
        if (named := json.loads((stored.metadata() or {}).get("classes", "[]"))) != list(classes):
            raise DataError(
                f"{folder / file}: has the classes {', '.join(named)}, and the model has "
                f"{', '.join(classes)}; {COPY_AGAIN}"
            )
        if facts.kind == "probe":
            assert facts.features is not None, "a probe reads features"
            kind = TASKS[task].classifier
            return Probe(facts.features, kind(stored.get_tensor("weights"), stored.get_tensor("bias")))
        has_contrary = f"{name}.contrary" in stored.keys()  # noqa: SIM118 (not a mapping)
        return ZeroShot(
            task,
            stored.get_tensor(f"{name}.of_class"),
            stored.get_tensor(f"{name}.contrary") if has_contrary else None,
            float(stored.get_tensor(f"{name}.logit_scale")),
        )
