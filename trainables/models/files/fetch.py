"""Downloads weights of one revision from the Hub: only safetensors, with a check of the hashes."""

from __future__ import annotations

import re
from pathlib import Path

from trainables.artifacts import file_sha256
from trainables.errors import ConfigError, DataError
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.files.checkpoints import checkpoint_folder, commit_of
from trainables.models.files.weights import fetched_revision, how_to_get, remember_fetched


def fetch(name: str, spec: EncoderSpec, *, revision: str | None) -> Path:
    """Downloads the safetensors of an encoder, and returns their folder in the Hub's cache.

    If no revision is pinned, trials use the downloaded revision from now on. The default of `revision` is the
    pinned revision, or else the one that was fetched before.
    """
    if spec.files or spec.parts:
        steps = how_to_get(name, spec)
        text = f"; {'; '.join(steps)}" if steps else "; it is already on this machine"
        raise ConfigError(f"{name}: the Hub has no safetensors of this encoder{text}")
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
    """Checks a file in the Hub's cache: the name of a large file must be its SHA-256."""
    blob = file.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        check_hash(file, blob.name)


def check_hash(file: Path, sha256: str) -> None:
    """Raises DataError if a file does not have this SHA-256."""
    if file_sha256(file) != sha256:
        raise DataError(f"{file}: its SHA-256 is not {sha256}; delete {file.resolve()} and fetch it again")
