"""Reads the tensors of a TorchScript archive, the format of OpenAI's CLIP, without running its code.

`torch.load(weights_only=True)` refuses these archives, and `torch.jit.load` runs their code. The index of an
archive is a pickle. The reader below accepts only the few names for tensors and lists, replaces every
scripted class with an empty object, and calls nothing else.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

INDEX, MARK = "data.pkl", "constants.pkl"  # an archive of torch.save has only the first
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")


def is_torchscript(path: Path) -> bool:
    """Returns whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(f"/{MARK}") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Returns a scripted module's parameters and buffers by name."""
    with zipfile.ZipFile(path) as archive:
        index = next(name for name in archive.namelist() if name.endswith(f"/{INDEX}"))
        root = _Index(archive, index.removesuffix(INDEX)).load()
    return dict(_tensors(root, ""))


class _Module:
    """A placeholder for an object of a scripted class, with its attributes."""


class _Index(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(folder + INDEX)))
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        if module.partition(".")[0] == "__torch__":
            return _Module
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and name in LISTS:
            return list
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return _untagged
        raise pickle.UnpicklingError(f"its index names {module}.{name}")

    def persistent_load(self, pid: Any, /) -> Tensor:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"its index has a {kind} where a storage belongs")
        if key not in self._storages:
            # The archive checks the CRC of the data. A bytearray is writable, as torch requires.
            content = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            self._storages[key] = (
                torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            )
        return self._storages[key]


def _rebuild(storage: Tensor, offset: int, size: Any, stride: Any, *ignored: Any) -> Tensor:
    del ignored  # requires_grad and hooks
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _untagged(value: Any, tag: str) -> Any:
    del tag
    return value


def _tensors(module: Any, prefix: str) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            found.append((prefix + name, value))
        elif isinstance(value, _Module):
            found += _tensors(value, f"{prefix}{name}.")
    return found
