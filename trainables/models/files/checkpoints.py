"""Finds and reads pretrained weights: local files first, only safetensors. Imports no torch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from trainables.artifacts import file_sha256
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.files.weights import how_to_convert
from trainables.models.torchvision_import import declare_missing_operators
from trainables.places import found

# Imports inside functions: only checkpoints of the Hub need them, and they load torch.

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")  # pickles are never downloaded


def local_folder(name: str) -> Path | None:
    """Returns the local folder that a name refers to, or None."""
    folder = found(name)
    return folder if folder.is_dir() else None


def local_places(name: str) -> dict[str, list[Path]]:
    """Returns the local folders and files that an encoder's name refers to, with the files in each."""
    parts = [name]
    if name.startswith("dual:"):
        parts = list(split_dual(name))
    elif name.startswith("open_clip:"):
        parts = [part for part in split_open_clip(name) if part]
    elif name.startswith("openai:"):
        parts = [name.removeprefix("openai:")]
    places = {part: local_folder(part) or found(part) for part in parts}
    files = {
        part: [file for pattern in PATTERNS for file in place.glob(pattern)] if place.is_dir() else [place]
        for part, place in places.items()
    }
    return {part: sorted(paths) for part, paths in files.items() if paths and all(map(Path.is_file, paths))}


def split_dual(name: str) -> tuple[str, str]:
    """Returns IMAGE and TEXT from `dual:IMAGE+TEXT`."""
    image, _, text = name.removeprefix("dual:").partition("+")
    return image, text


def split_open_clip(name: str) -> tuple[str, str | None]:
    """Returns (ARCH, TAG) from `open_clip:ARCH@TAG`, or (FOLDER, None) from `open_clip:FOLDER`."""
    architecture, _, weights = name.removeprefix("open_clip:").partition("@")
    if not weights and not local_folder(architecture):
        raise ConfigError(
            f"encoder.name: '{name}' names no weights; write open_clip:{architecture}@TAG, "
            "or a safetensors file for TAG"
        )
    return architecture, weights or None


def openai_file(name: str) -> Path:
    """Returns FILE from `openai:FILE`."""
    path = found(name.removeprefix("openai:"))
    if not path.is_file():
        raise WeightsUnavailable(f"{path}: no such file")
    return path


def sha256_asked(revision: str | None) -> str | None:
    """Returns `encoder.revision` for a file of weights, which must be a SHA-256."""
    if revision is not None and not re.fullmatch("[0-9a-f]{64}", revision):
        raise ConfigError(
            f"encoder.revision='{revision}': the weights are a file, so the revision must be its SHA-256, "
            "64 hex digits (sha256sum FILE)"
        )
    return revision


def weights_identity(name: str, revision: str | None = None) -> list[str]:
    """Returns the identity of an encoder's weights: hashes of local files, a Hub commit, or a tag name."""
    if name.startswith("dual:"):
        return [part for half in split_dual(name) for part in weights_identity(half)]
    if name.startswith("openai:"):
        return [hash_of(openai_file(name))]
    if name.startswith("open_clip:"):
        architecture, weights = split_open_clip(name)
        if weights is None:
            return weights_identity(architecture)
        is_tag = not found(weights).is_file()
        return [architecture, *weights_identity(weights), *([revision] if revision and is_tag else [])]
    if folder := local_folder(name):
        files = sorted(path for pattern in PATTERNS for path in folder.glob(pattern))
        return [f"{path.name} {hash_of(path)}" for path in files]
    if found(name).is_file():
        return [hash_of(found(name))]
    return (
        [name, commit_of(name, revision)] if "/" in name else [name]
    )  # a name without an owner belongs to timm or open_clip


def package_folder(package: str) -> Path:
    """Returns the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise WeightsUnavailable(f"{package.replace('_', '-')} is not installed; get it with 'make setup'")
    return Path(spec.origin).parent


def package_file(name: str, md5: str) -> Path:
    """Returns a file of an installed package ("package/path/in/it"), after a check of its hash."""
    package, _, inner = name.partition("/")
    path = package_folder(package) / inner
    found = hash_of(path, "md5") if path.is_file() else "none"
    if found != md5:
        raise WeightsUnavailable(
            f"{path}: its MD5 is {found}, expected {md5}; reinstall {package.replace('_', '-')} with "
            "'make setup'"
        )
    return path


def commit_of(repository: str, revision: str | None) -> str:
    """Returns the commit of a Hub repository's revision: pinned, cached, or requested from the Hub."""
    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    import huggingface_hub

    with _or_unavailable(repository, revision):  # also if the name is a deleted folder and not a repository
        cached = huggingface_hub.try_to_load_from_cache(repository, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        return str(huggingface_hub.HfApi().model_info(repository, revision=revision).sha)


def checkpoint_json(name: str, file: str, *, revision: str | None = None) -> dict[str, Any] | None:
    """Returns a JSON file of a local folder or Hub repository, or None if it has no such file."""
    folder = local_folder(name)
    if folder is None:
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        with _or_unavailable(name, revision):
            try:
                folder = Path(
                    huggingface_hub.hf_hub_download(name, file, revision=commit_of(name, revision))
                ).parent
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                return None
    return json.loads((folder / file).read_text()) if (folder / file).is_file() else None


def checkpoint_folder(name: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """Returns a local, cached or downloaded folder with configuration, tokenizer and safetensors.

    Raises:
        WeightsUnavailable: the checkpoint is not on this machine and not reachable, or has no safetensors.
    """
    local = local_folder(name)
    folder = local or _snapshot(name, commit_of(name, revision), weights=weights)
    if weights and not any(folder.glob("*.safetensors")):
        raise WeightsUnavailable(
            f"{name}: no *.safetensors{'' if local else ' at this revision'}, and pickles are not read; "
            f"{how_to_convert(name, local, revision)}"
        )
    return folder


def _snapshot(repository: str, commit: str, *, weights: bool) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = [pattern for pattern in PATTERNS if weights or pattern != "*.safetensors"]
    needed = "*.safetensors" if weights else "config.json"
    try:
        cached = Path(huggingface_hub.snapshot_download(repository, revision=commit, local_files_only=True))
        if any(cached.glob(needed)):
            return cached
    except LocalEntryNotFoundError:
        pass
    with _or_unavailable(repository, commit):
        return Path(huggingface_hub.snapshot_download(repository, revision=commit, allow_patterns=patterns))


@contextmanager
def _or_unavailable(repository: str, revision: str | None) -> Iterator[None]:
    """Turns all errors of the Hub's client (offline, no route, unknown repository) into one message."""
    try:
        yield
    except WeightsUnavailable:
        raise
    except Exception as error:
        at, option = (f" at {revision}", f" --revision {revision}") if revision else ("", "")
        raise WeightsUnavailable(
            f"{repository}{at}: not a local folder, not in the Hugging Face cache and not reachable "
            f"({type(error).__name__}); with a network, run 'hf download {repository}{option}', "
            "then copy the folder here and give its path as encoder.name"
        ) from error


def from_checkpoint(model_class: Any, folder: Path, *, weights: bool = True) -> Any:
    """Builds a transformers model in float32 and eval mode; without `weights`, with random weights.

    Raises ConfigError if a tensor is missing or has another shape, so that no weight stays random.
    """
    import torch
    from safetensors import SafetensorError

    declare_missing_operators()  # transformers imports torchvision
    from transformers import AutoConfig

    with quiet_transformers():
        if not weights:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            build = getattr(model_class, "from_config", model_class)
            return build(config).float().eval()
        try:
            model, report = model_class.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
        except SafetensorError as error:
            raise WeightsUnavailable(
                f"{folder}: its safetensors are damaged ({error}); get them again"
            ) from error
        except OSError as error:  # safetensors with other names belong to another library
            raise WeightsUnavailable(
                f"{folder}: no safetensors of transformers, and pickles are not read "
                f"({str(error).partition(chr(10))[0]}); name a folder with model.safetensors"
            ) from error
    absent = [*sorted(report["missing_keys"]), *map(str, report["mismatched_keys"])]
    if absent:
        raise ConfigError(
            f"{folder}: {len(absent)} tensors are missing or of another shape (first: {absent[0]}); the "
            f"checkpoint does not fit {type(model).__name__}"
        )
    return model.eval()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hides the progress bars and load reports of transformers."""
    from transformers.utils import logging

    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()


def hash_of(path: Path, algorithm: str = "sha256") -> str:
    """Returns a file's SHA-256, cached until the file changes."""
    status = path.stat()
    return _hash_once(path, algorithm, status.st_size, status.st_mtime_ns)


@cache
def _hash_once(path: Path, algorithm: str, size: int, modified: int) -> str:
    del size, modified  # part of the cache key, so that a changed file is read again
    if algorithm == "sha256":
        return file_sha256(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
