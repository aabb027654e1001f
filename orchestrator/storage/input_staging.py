"""Data and local weights for machines that lack them: put into the storage once, fetched once a node."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from orchestrator.storage.store import Storage
from trainables import places
from trainables.artifacts import build_once, file_sha256, fingerprint
from trainables.config import TrialConfig
from trainables.data.datasets import files_of
from trainables.models.files.checkpoints import local_places

BLOBS, INPUTS = "blobs", "inputs"
"""In the storage: files by their SHA-256, each once; and what a folder consists of."""
FILES = "files"
"""Below the fetched folder, whose manifest is none of them: weights are known by all their files."""


def offer(storage: Storage, configs: Iterable[TrialConfig]) -> dict[str, str]:
    """Puts the folders that trials read into the storage, unless they are there.

    Returns:
        What a configuration names (`data.root`, a checkpoint's folder) → its fingerprint.

    Raises:
        StorageError: the storage does not take them.
    """
    wanted: dict[str, dict[str, Path]] = {}
    for config in configs:
        if files := files_of(config.data):
            wanted.setdefault(str(config.data.root), {}).update(files)
        models = [] if config.is_baseline else [config.encoder.name]
        if config.needs_captioner:
            models.append(config.captioner.name)
        for model in models:
            for name, paths in local_places(model).items():
                wanted[name] = {path.name: path for path in paths}
    return {name: _put(storage, files) for name, files in wanted.items()}


def bring(storage: Storage, inputs: Mapping[str, str], store: Path) -> None:
    """Fetches what this machine lacks of a trial's inputs; processes that want the same wait for the first.

    Raises:
        StorageError: the storage does not answer.
        DataError: a file is damaged there.
    """
    for name, key in inputs.items():
        if places.found(name).exists():
            continue
        folder = build_once(store / INPUTS / key, partial(_fetch, storage, key)) / FILES
        place = folder / Path(name).name
        places.bring(name, place if place.is_file() else folder)


def _put(storage: Storage, files: Mapping[str, Path]) -> str:
    hashes = {name: file_sha256(path) for name, path in sorted(files.items())}
    key = fingerprint("inputs", hashes)
    if not storage.exists(f"{INPUTS}/{key}.json"):
        there = set(storage.names(BLOBS))
        blobs = {sha256: files[name] for name, sha256 in hashes.items() if sha256 not in there}
        storage.put_files({f"{BLOBS}/{sha256}": path for sha256, path in blobs.items()})
        storage.put_bytes(f"{INPUTS}/{key}.json", json.dumps({"files": hashes}, indent=1).encode())
    return key


def _fetch(storage: Storage, key: str, folder: Path) -> None:
    hashes = storage.read_manifest(f"{INPUTS}/{key}.json")
    wanted = {name: (f"{BLOBS}/{sha256}", sha256) for name, sha256 in hashes.items()}
    storage.get_files(wanted, folder / FILES)
