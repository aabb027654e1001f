"""Weights from the Hub: a pinned revision, safetensors only, held against its hashes. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from trainables.artifacts import file_sha256
from trainables.errors import ConfigError, DataError
from trainables.models.checkpoints import checkpoint_folder
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.weights import how_to_get


def fetch(name: str, spec: EncoderSpec, *, revision: str | None) -> Path:
    """Downloads an encoder that the Hub has as safetensors, and returns its folder in the Hub's cache.

    Raises:
        ConfigError: it does not come from there, or nobody has pinned or named a revision.
        WeightsUnavailable: no network, no such revision, or pickles only.
        DataError: a file is not what the Hub says it is.
    """
    if spec.files or spec.parts:
        steps = how_to_get(name, spec)
        text = f"; {'; '.join(steps)}" if steps else "; it is here already"
        raise ConfigError(f"{name}: is not on the Hub as safetensors{text}")
    commit = revision or spec.revision
    if commit is None:
        raise ConfigError(
            f"{name}: no revision is pinned; add --revision with a commit of {spec.page}, "
            "and give the same one as encoder.revision"
        )
    folder = checkpoint_folder(spec.repository or name, commit)
    for file in sorted(folder.glob("*.safetensors")):
        check_blob(file)
        if spec.sha256 and commit == spec.revision and file.name.startswith("open_clip"):
            check_hash(file, spec.sha256)
    return folder


def check_blob(file: Path) -> None:
    """Compares a file of the Hub's cache with its name there, which for large files is their SHA-256.

    Raises:
        DataError: it has changed.
    """
    blob = file.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        check_hash(file, blob.name)


def check_hash(file: Path, sha256: str) -> None:
    """Compares a file with its SHA-256.

    Raises:
        DataError: it is another one.
    """
    if file_sha256(file) != sha256:
        raise DataError(
            f"{file}: is not the file of SHA-256 {sha256}; delete {file.resolve()}, fetch it again"
        )
