"""Checkpoints on disk: tensors as safetensors, the rest as JSON; nothing is pickled.

Nothing in one depends on the number of workers or on the micro-batch, so a run resumes on other hardware.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.artifacts import atomic_directory, verify
from trainables.errors import DataError

PARAMETERS, MOMENTS, PROGRESS = "parameters.safetensors", "moments.safetensors", "progress.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on: parameters by name, the optimiser's tensors by `kind/name`, counters."""

    parameters: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    progress: Mapping[str, int]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes `folder/step-NNNNNNNN` in one step, then removes earlier ones, and returns it.

    A kill at any moment leaves the earlier checkpoint or the new one, whole.
    """
    place = folder / f"step-{checkpoint.progress['step']:08d}"
    with atomic_directory(place) as aside:
        save_file(_on_host(checkpoint.parameters), aside / PARAMETERS)
        save_file(_on_host(checkpoint.moments), aside / MOMENTS)
        (aside / PROGRESS).write_text(json.dumps(dict(checkpoint.progress), indent=1, sort_keys=True))
    for earlier in folder.glob("step-*"):
        if earlier != place:
            shutil.rmtree(earlier)
    return place


def read_checkpoint(place: Path, expected: Mapping[str, Tensor]) -> Checkpoint:
    """Returns a checkpoint of the parameters `expected`, on the host.

    Raises:
        DataError: it is unfinished, damaged, or holds other parameters.
    """
    verify(place)
    stored = load_file(place / PARAMETERS)
    for name in sorted(stored.keys() | expected.keys()):
        there, here = (tuple(side[name].shape) if name in side else "absent" for side in (stored, expected))
        if there != here:
            raise DataError(
                f"{place}: parameter {name!r} is {there} in the checkpoint and {here} in this run, so it "
                "belongs to another configuration; delete the folder to start anew"
            )
    return Checkpoint(stored, load_file(place / MOMENTS), json.loads((place / PROGRESS).read_text()))


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
