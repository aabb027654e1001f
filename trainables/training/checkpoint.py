"""Checkpoints on disk: tensors as safetensors, other values as JSON, and no pickles.

A checkpoint does not depend on the number of workers or on the micro-batch, so a run can resume on other
hardware.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.artifacts import atomic_directory, verify
from trainables.errors import DataError

PARAMETERS, MOMENTS, PROGRESS = "parameters.safetensors", "moments.safetensors", "progress.json"
NUM_KEPT = 2
"""The number of checkpoints to keep. A run resumes from the older one if the newest is damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """All values that a run needs to resume exactly.

    Args:
        parameters: parameters by name.
        moments: tensors of the optimiser by `kind/name`.
        progress: `step`, and other plain values that the owner stores.
        trains: identity of what is trained and of its settings; a run with another identity cannot resume.
    """

    parameters: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    progress: Mapping[str, Any]
    trains: str


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes `folder/step-NNNNNNNN` atomically, keeps one earlier checkpoint, and returns the new path.

    If the process is killed at any moment, every checkpoint on disk is complete.
    """
    place = folder / f"step-{checkpoint.progress['step']:08d}"
    for unfinished in folder.glob(".step-*"):  # remains of a killed process
        shutil.rmtree(unfinished)
    with atomic_directory(place) as aside:
        save_file(_on_host(checkpoint.parameters), aside / PARAMETERS)
        save_file(_on_host(checkpoint.moments), aside / MOMENTS)
        (aside / PROGRESS).write_text(json.dumps({"trains": checkpoint.trains, **checkpoint.progress}))
    others = [other for other in newest_first(folder) if other != place]
    for other in others[NUM_KEPT - 1 :]:
        shutil.rmtree(other)
    return place


def newest_first(folder: Path) -> list[Path]:
    """Returns all checkpoints in a folder, intact or damaged, the latest first."""
    return sorted(folder.glob("step-*"), key=lambda place: -int(place.name.removeprefix("step-")))


def latest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Returns the latest intact checkpoint in a folder, and the problems of later checkpoints.

    Returns (None, []) if no checkpoint was ever saved. Every file is compared with its hash.

    Raises:
        DataError: all checkpoints are damaged. A silent new start would hide the loss of work.
    """
    damages: list[str] = []
    for place in newest_first(folder):
        try:
            verify(place)
        except DataError as error:
            damages.append(str(error))
        else:
            return place, damages
    if damages:
        raise DataError(f"no sound checkpoint is left: {'; '.join(damages)}")
    return None, []


def read_checkpoint(place: Path, expected: Mapping[str, Tensor], *, trains: str) -> Checkpoint:
    """Returns a checkpoint on the host, after checking that it contains the parameters `expected`."""
    verify(place)
    stored = load_file(place / PARAMETERS)
    for name in sorted(stored.keys() | expected.keys()):
        there, here = (tuple(side[name].shape) if name in side else "absent" for side in (stored, expected))
        if there != here:
            raise DataError(
                f"{place}: parameter {name!r} is {there} in the checkpoint and {here} in this run, so the "
                "checkpoint belongs to another configuration; delete the folder to start again"
            )
    progress = json.loads((place / PROGRESS).read_text())
    if (trained := progress.pop("trains", None)) != trains:
        raise DataError(
            f"{place} belongs to adapter {trained}, but this run trains adapter {trains}: data, encoder, "
            "seed or another setting differs; restore the earlier settings, or start again"
        )
    return Checkpoint(stored, load_file(place / MOMENTS), progress, trained)


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
