"""Reads CLIP from a file whose tensors have OpenAI's names.

The shapes give the architecture. A safetensors file contains only data. A `.pt` may contain code, so only its
tensors are read, and only if its SHA-256 was published by OpenAI or is set by the user as `encoder.revision`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.files.checkpoints import hash_of
from trainables.models.files.torchscript_archive import is_torchscript, read_torchscript

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.

HEAD_WIDTH, GRID = 64, 32  # of every CLIP; pixels per position of the last feature map of a ResNet
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers stored as tensors
SHA256 = re.compile(r"[0-9a-f]{64}")


def read_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file, or of a `.pt` with a known hash.

    Raises:
        WeightsUnavailable: the file is missing or truncated, has another or an unknown hash, or is a pickle
            that contains more than tensors.
    """
    if not path.is_file():
        raise WeightsUnavailable(f"{path}: no such file")
    _check_hash(path, sha256)
    try:
        loaded = _load(path)
    except MemoryError:
        raise
    except Exception as error:  # each library has other errors for a damaged file
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise WeightsUnavailable(
            f"{path}: cannot be read as tensors, and code is never run ({reason}); get the file again"
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
        raise WeightsUnavailable(
            f"{path}: contains {type(loaded).__name__} instead of a mapping of names to tensors"
        )
    return {name: tensor for name, tensor in loaded.items() if name not in NOT_WEIGHTS}


def shapes_of(path: Path, sha256: str | None = None) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the tensors in a file, cached until the file changes; see `read_tensors`."""
    return _shapes(path, sha256, path.stat().st_mtime_ns if path.is_file() else 0)


@cache
def _shapes(path: Path, sha256: str | None, modified: int) -> dict[str, tuple[int, ...]]:
    del modified  # part of the cache key
    return {name: tuple(tensor.shape) for name, tensor in read_tensors(path, sha256).items()}


def openai_architecture(shapes: Mapping[str, Sequence[int]], path: Path) -> dict[str, Any]:
    """Returns the arguments of open_clip's `CLIP`."""
    try:
        width = shapes["ln_final.weight"][0]
        text = {
            "context_length": shapes["positional_embedding"][0],
            "vocab_size": shapes["token_embedding.weight"][0],
            "width": width,
            "heads": width // HEAD_WIDTH,
            "layers": _count(shapes, r"transformer\.resblocks\.(\d+)\."),
        }
        vision = _vision(shapes)
        embed_dim = shapes["text_projection"][1]
    except KeyError as error:
        raise ConfigError(
            f"{path}: no tensor '{error.args[0]}' (it has {', '.join(sorted(shapes)[:3])}, …); openai:FILE "
            "reads a state dict with OpenAI's names; for a folder of transformers give its path alone"
        ) from None
    return {"embed_dim": embed_dim, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}


def _vision(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    if "visual.proj" in shapes:
        width, _, patch, _ = shapes["visual.conv1.weight"]
        side = round((shapes["visual.positional_embedding"][0] - 1) ** 0.5)
        layers = _count(shapes, r"visual\.transformer\.resblocks\.(\d+)\.")
        return {
            "image_size": patch * side,
            "patch_size": patch,
            "width": width,
            "layers": layers,
            "head_width": HEAD_WIDTH,
        }
    side = round((shapes["visual.attnpool.positional_embedding"][0] - 1) ** 0.5)
    layers = [_count(shapes, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
    width = shapes["visual.layer1.0.conv1.weight"][0]
    return {"image_size": GRID * side, "width": width, "layers": layers, "head_width": HEAD_WIDTH}


def _count(shapes: Mapping[str, Sequence[int]], pattern: str) -> int:
    return len({found[1] for name in shapes if (found := re.match(pattern, name))})


def _check_hash(path: Path, wanted: str | None) -> None:
    if wanted is None and path.suffix == ".safetensors":
        return
    found = hash_of(path)
    if wanted is not None and found != wanted:
        raise WeightsUnavailable(f"{path}: its SHA-256 is {found}, expected {wanted}; download it again")
    if wanted is None and found not in published_hashes():
        raise WeightsUnavailable(
            f"{path}: a .pt can contain code, and its SHA-256 {found} is not one that OpenAI published (an "
            "incomplete download has another one too); if you trust its origin, set encoder.revision to "
            "that hash, or save its state dict as safetensors"
        )


def published_hashes() -> set[str]:
    """Returns the SHA-256 hashes of OpenAI's files, from the addresses in open_clip's table."""
    import open_clip

    known = [open_clip.get_pretrained_cfg(name, "openai") for name in open_clip.list_openai_models()]
    return {found[0] for entry in known if (found := SHA256.search(entry["url"]))}


def _load(path: Path) -> Any:
    """Returns the content of a file whose hash was checked.

    The file is read in this process, without the quarantine of `convert`, because its hash is trusted. Both
    readers of a `.pt` accept only tensors and their containers, so no code in the file can run.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if is_torchscript(path):
        return read_torchscript(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    return loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
