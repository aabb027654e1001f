"""Downloads weights from the Hub: one revision, safetensors only, hashes checked. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from trainables.artifacts import file_sha256
from trainables.errors import ConfigError, DataError
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.files.checkpoints import checkpoint_folder, commit_of
from trainables.models.files.weights import fetched_revision, how_to_get, remember_fetched


def fetch(name: str, spec: EncoderSpec, *, revision: str | None) -> Path:
    """Downloads an encoder that the Hub has as safetensors, and returns its folder in the Hub's cache.

    Where no revision is pinned, this one is what trials use from now on.

    Without `revision`: the pinned one, else the one that was fetched before.
    """
    if spec.files or spec.parts:
        steps = how_to_get(name, spec)
        text = f"; {'; '.join(steps)}" if steps else "; it is here already"
        raise ConfigError(f"{name}: is not on the Hub as safetensors{text}")
    repository, wanted = spec.repository or name, revision or spec.revision or fetched_revision(name)
    if wanted is None:
        raise ConfigError(
            f"{name}: no revision is pinned; add --revision with a commit of {spec.page}, "
            "which trials then use unless encoder.revision names another"
        )
    commit = commit_of(repository, wanted)
    folder = checkpoint_folder(repository, commit)
    for file in sorted(folder.glob("*.safetensors")):
        check_blob(file)
        if spec.sha256 and commit == spec.revision and file.name.startswith("open_clip"):
            check_hash(file, spec.sha256)
    if not spec.is_pinned:
        remember_fetched(name, folder, commit)
    return folder


def check_blob(file: Path) -> None:
    """Compares a file of the Hub's cache with its name there, which for large files is their SHA-256."""
    blob = file.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        check_hash(file, blob.name)


def check_hash(file: Path, sha256: str) -> None:
    """Compares a file with its SHA-256."""
    if file_sha256(file) != sha256:
        raise DataError(f"{file}: its SHA-256 is not {sha256}; delete {file.resolve()} and fetch it again")
