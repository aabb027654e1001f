"""Which encoders can be used on this machine now, without asking anyone. No torch, no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainables.errors import WeightsUnavailable
from trainables.models.checkpoints import package_file
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.weights import fetched_revision, how_to_get, missing_parts

Status = Literal["ready", "in cache", "unavailable"]


@dataclass(frozen=True)
class Availability:
    """Whether an encoder's weights are here. `reason` says what is missing, `steps` how to get it."""

    status: Status
    reason: str = ""
    steps: tuple[str, ...] = ()


def availability(name: str, spec: EncoderSpec) -> Availability:
    """Returns whether an encoder can be loaded without a network."""
    steps = tuple(how_to_get(name, spec))
    if spec.files:
        try:
            for file, md5 in spec.files.items():
                package_file(file, md5)
        except WeightsUnavailable as error:
            return Availability("unavailable", str(error), steps)
        return Availability("ready")
    if spec.parts:
        missing = missing_parts(name, spec)
        if not missing:
            return Availability("ready")
        return Availability("unavailable", f"{' and '.join(missing)} not on this machine", steps)
    revision = spec.revision or fetched_revision(name)
    if revision is None and not spec.is_pinned:
        return Availability("unavailable", "no revision of it is pinned, and none was fetched here", steps)
    if cached_folder(spec.repository or name, revision) is not None:
        return Availability("in cache")
    return Availability("unavailable", "not in the Hub's cache on this machine", steps)


def cached_folder(repository: str, revision: str | None) -> Path | None:
    """Returns the folder of the Hub's cache that holds a repository's safetensors, or None."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = huggingface_hub.snapshot_download(repository, revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, ValueError):
        return None
    return Path(folder) if any(Path(folder).glob("*.safetensors")) else None
