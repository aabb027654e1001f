"""Checks which encoders can be used on this machine, without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainables.config import EncoderConfig
from trainables.errors import UserError, WeightsUnavailable
from trainables.models.catalogue.registry import ENCODERS
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.files.checkpoints import (
    checkpoint_folder,
    local_folder,
    openai_file,
    package_file,
    split_dual,
    split_open_clip,
)
from trainables.models.files.weights import fetched_revision, how_to_get, missing_parts
from trainables.places import found

# Imports inside functions: only checkpoints of the Hub need them.

Status = Literal["ready", "in cache", "unavailable"]


@dataclass(frozen=True)
class Availability:
    """Whether the weights of an encoder are on this machine. `steps` are commands to get missing weights."""

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
        return Availability("unavailable", "no revision is pinned or was fetched on this machine", steps)
    if cached_folder(spec.repository or name, revision) is not None:
        return Availability("in cache")
    return Availability("unavailable", "not in the Hub's cache on this machine", steps)


def availability_of(config: EncoderConfig) -> Availability:
    """Returns whether the encoder of a trial can be loaded without a network, registered or not."""
    name, revision, spec = config.name, config.revision, ENCODERS.get(config.name)
    if spec and (spec.files or spec.parts or revision in (None, spec.revision)):
        return availability(name, spec)
    try:
        repositories = [spec.repository or name] if spec else hub_repositories(name)
    except UserError as error:
        return Availability("unavailable", str(error).removeprefix(f"{name}: "))
    if name.startswith("dual:"):
        revision = None  # with two repositories the revision is ambiguous
    missing = [repository for repository in repositories if cached_folder(repository, revision) is None]
    if missing:
        option = f" --revision {revision}" if revision else ""
        commands = " and ".join(f"'hf download {repository}{option}'" for repository in missing)
        which = "" if missing == [name] else f"{' and '.join(missing)} "
        return Availability(
            "unavailable",
            f"{which}not in the Hub's cache on this machine",
            (f"with a network, run {commands}",),
        )
    return Availability("in cache" if repositories else "ready")


def hub_repositories(name: str) -> list[str]:
    """Returns the Hub repositories of an unregistered encoder; [] for a local encoder.

    Names of timm and tags of open_clip are looked up in timm and open_clip, which import torch.
    """
    if name.startswith("openai:"):
        openai_file(name)
        return []
    if name.startswith("dual:"):
        from trainables.models.catalogue.repositories import timm_repository

        image, text = split_dual(name)
        return [*_unless_local(image, timm_repository), *_unless_local(text)]
    if name.startswith("open_clip:"):
        architecture, tag = split_open_clip(name)
        if tag is None:
            return _unless_local(architecture)
        from trainables.models.catalogue.repositories import tag_repository

        return [] if found(tag).is_file() else [tag_repository(architecture, tag)]
    return _unless_local(name)


def _unless_local(name: str, repository: Callable[[str], str] = str) -> list[str]:
    """Returns the repository of a name, or [] if the name is a local folder with safetensors."""
    if local_folder(name) is None:
        return [repository(name)]
    checkpoint_folder(name)  # raises an error with instructions if the folder has no safetensors
    return []


def cached_folder(repository: str, revision: str | None) -> Path | None:
    """Returns the folder of a repository's safetensors in the Hub's cache, or None."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = huggingface_hub.snapshot_download(repository, revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, ValueError):
        return None
    return Path(folder) if any(Path(folder).glob("*.safetensors")) else None
