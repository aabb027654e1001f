"""Checkpoints on disk: tensors as safetensors, the rest as JSON; nothing is pickled.

Nothing in one depends on the number of workers or on the micro-batch, so a run resumes on other hardware.
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
"""The newest, and the one before it: a run resumes from it if the newest is damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to resume exactly.

    Args:
        parameters: by name.
        moments: the optimiser's tensors by `kind/name`.
        progress: `step`, and what else the owner wants back as plain values.
        trains: names what is being trained and with which settings; another run cannot resume from it.
    """

    parameters: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    progress: Mapping[str, Any]
    trains: str


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes `folder/step-NNNNNNNN` in one step, keeps the one before it, and returns it.

    A kill at any moment leaves the earlier checkpoints or the new one too, whole.
    """
    place = folder / f"step-{checkpoint.progress['step']:08d}"
    for unfinished in folder.glob(".step-*"):  # what a kill left behind
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
    """Returns every checkpoint below a folder, sound or damaged, the latest first."""
    return sorted(folder.glob("step-*"), key=lambda place: -int(place.name.removeprefix("step-")))


def latest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Returns the latest sound checkpoint below a folder, and the problems of later ones.

    (None, []) where nothing was ever saved. Every file is compared with its hash.

    Raises:
        DataError: there are checkpoints and none is sound; starting over unasked would hide the loss.
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
    """Returns a checkpoint of the parameters `expected`, on the host."""
    verify(place)
    stored = load_file(place / PARAMETERS)
    for name in sorted(stored.keys() | expected.keys()):
        there, here = (tuple(side[name].shape) if name in side else "absent" for side in (stored, expected))
        if there != here:
            raise DataError(
                f"{place}: parameter {name!r} is {there} in the checkpoint and {here} in this run, so it "
                "belongs to another configuration; delete the folder to start anew"
            )
    progress = json.loads((place / PROGRESS).read_text())
    if (trained := progress.pop("trains", None)) != trains:
        raise DataError(
            f"{place} belongs to adapter {trained}, this run trains adapter {trains}: data, encoder, seed or "
            "another setting of the training differs; set them as they were, or start anew"
        )
    return Checkpoint(stored, load_file(place / MOMENTS), progress, trained)


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
