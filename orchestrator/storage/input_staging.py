"""Copies data, words and local weights to other machines: one upload to a storage, one download per node."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from orchestrator.storage.store import Storage, at_once
from trainables import places
from trainables.artifacts import build_once, file_sha256, fingerprint
from trainables.config import TrialConfig
from trainables.data.datasets import files_of
from trainables.models.files.checkpoints import local_places

BLOBS = "blobs"
"""Folder of the storage with files, each named by its SHA-256."""
INPUTS = "inputs"
"""Folder with the manifests of inputs in the storage, and with the fetched inputs in a node's store."""
FILES = "files"
"""Folder with the files of a fetched input. The manifest is outside, because the fingerprint of weights
covers every file in their folder."""


def upload_inputs(storage: Storage, configs: Iterable[TrialConfig]) -> dict[str, str]:
    """Uploads the data, the words files and the local weights of trials that the storage lacks.

    Returns:
        Each path in a configuration (`data.root`, `data.prompts`, a checkpoint's folder …) → the
        fingerprint of its files.
    """
    wanted: dict[str, dict[str, Path]] = {}
    for config in configs:
        for data in (config.data, *([config.data.trained_on] if config.adapts_elsewhere else ())):
            if files := files_of(data):
                wanted.setdefault(str(data.root), {}).update(files)
            for file in (data.prompts, data.exclude):
                if file is not None:
                    wanted[str(file)] = {file.name: places.found(file)}
        models = [] if config.is_baseline else [config.encoder.name]
        if config.needs_captioner:
            models.append(config.captioner.name)
        for model in models:
            for name, paths in local_places(model).items():
                wanted[name] = {path.name: path for path in paths}
    return {name: _upload(storage, files) for name, files in wanted.items()}


def fetch_inputs(storage: Storage, inputs: Mapping[str, str], store: Path) -> None:
    """Fetches the inputs that this machine lacks. If several processes want an input, one fetches it.

    Args:
        storage: where the inputs are.
        inputs: path → fingerprint, from `upload_inputs`.
        store: the store of this machine.
    """
    for name, key in inputs.items():
        if places.found(name).exists():
            continue
        folder = build_once(store / INPUTS / key, partial(_fetch, storage, key)) / FILES
        place = folder / Path(name).name
        places.bring(name, place if place.is_file() else folder)


def _upload(storage: Storage, files: Mapping[str, Path]) -> str:
    hashes = {name: file_sha256(path) for name, path in sorted(files.items())}
    key = fingerprint("inputs", hashes)
    if not storage.exists(f"{INPUTS}/{key}.json"):
        known = set(storage.names(BLOBS))
        blobs = {sha256: files[name] for name, sha256 in hashes.items() if sha256 not in known}
        at_once(lambda sha256: storage.put_file(blobs[sha256], f"{BLOBS}/{sha256}", sha256=sha256), blobs)
        storage.put_bytes(f"{INPUTS}/{key}.json", json.dumps({"files": hashes}, indent=1).encode())
    return key


def _fetch(storage: Storage, key: str, folder: Path) -> None:
    hashes = storage.read_manifest(f"{INPUTS}/{key}.json")
    wanted = {name: (f"{BLOBS}/{sha256}", sha256) for name, sha256 in hashes.items()}
    storage.get_files(wanted, folder / FILES)
