"""The quarantined process in which `convert` opens a foreign pickle. No module imports this one.

The process has no network if the kernel allows this, and limits on memory, time and output. torch's unpickler
accepts only tensors. Settings in a training checkpoint are replaced by objects without a function.
"""

from __future__ import annotations

import ctypes
import json
import re
import resource
import sys
from pathlib import Path
from typing import Any

# Imports inside functions: limits on memory and time are set before torch loads.

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
CPU_SECONDS = 900
SETTINGS = re.compile(
    r"(omegaconf|yacs|pytorch_lightning|lightning|argparse|typing|pathlib|enum)\."
    r"|numpy\.(dtype|ndarray|_?core\.multiarray\.(scalar|_reconstruct))$"
    r"|collections\.(defaultdict|deque)$"
    r"|builtins\.(dict|list|tuple|str|int|float|bool|object)$"
)
"""Names of classes that a training checkpoint may contain. They are replaced, never imported."""
REFUSED = 3


class Setting:
    """A placeholder for a value of a class that is not imported."""

    def __new__(cls, *values: Any) -> Setting:
        """Accepts any arguments."""
        del values
        return object.__new__(cls)

    def __init__(self, *values: Any) -> None:
        """Keeps nothing."""

    def __setstate__(self, state: Any) -> None:
        """Keeps nothing."""


def main() -> int:
    """Reads the pickle argv[1], writes its tensors to argv[2], and prints a summary as JSON."""
    source, target, memory_bytes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    has_network = not leave_network()
    limit(memory_bytes, source.stat().st_size)
    try:
        tensors = read_tensors(source)
    except Exception as error:  # an unpickler raises many errors on hostile bytes
        print(json.dumps({"refused": _reason(error)}))
        return REFUSED
    from safetensors.torch import save_file

    save_file(tensors, target, metadata={"format": "pt"})
    print(json.dumps({"num_tensors": len(tensors), "had_network": has_network}))
    return 0


def leave_network() -> bool:
    """Moves this process into a network namespace without interfaces; returns whether it succeeded."""
    libc: Any = ctypes.CDLL(None, use_errno=True)
    return any(libc.unshare(flags) == 0 for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET))


def limit(memory_bytes: int, file_bytes: int) -> None:
    """Limits memory, time and written bytes."""
    written = 2 * file_bytes + 2**20
    for kind, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, written),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def read_tensors(source: Path) -> dict[str, Any]:
    """Returns the tensors of a checkpoint by name, in separate memory.

    Raises:
        ValueError: the checkpoint contains no tensors.
        pickle.UnpicklingError: the checkpoint contains more than tensors and settings.
    """
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    try:
        foreign = get_unsafe_globals_in_checkpoint(str(source))
    except ValueError:  # the format before torch 1.6, from which only tensors are read
        foreign = []
    refused = sorted(name for name in foreign if not SETTINGS.match(name))
    if refused:
        raise ValueError(f"the pickle would run code or create objects: {', '.join(refused)}")
    # One class per name, because torch distinguishes classes by identity.
    stand_ins: Any = [(type("Setting", (Setting,), {}), name) for name in foreign]
    with safe_globals(stand_ins):
        content = torch.load(source, map_location="cpu", weights_only=True)
    tensors = {
        name: tensor.detach().clone().contiguous()
        for name, tensor in _state_dict(content).items()
        if isinstance(tensor, torch.Tensor)
    }
    if not tensors:
        raise ValueError("the file contains no tensors by name")
    return tensors


def _state_dict(content: Any) -> dict[str, Any]:
    for key in ("state_dict", "model_state_dict", "model"):  # the format of training checkpoints
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return content[key]
    return content if isinstance(content, dict) else {}


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError) or "alloc" in str(error).lower():
        return "the process needs more memory than allowed"
    if named := re.search(r"GLOBAL (\S+) (?:was not|whose)", str(error)):
        return f"the pickle would run code or create objects: {named[1]}"
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
