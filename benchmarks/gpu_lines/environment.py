"""What the check runs on: versions, flags, GPUs, and the precision that `auto` chooses."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from measure import commit, machine

from gpu_lines.row import Row, Settings
from trainables.training.hardware import faster_precision, usable_gpus

PACKAGES = ("torch", "torchvision", "transformers", "peft", "open_clip_torch", "timm", "numpy", "pillow")


def environment(settings: Settings, row: Row) -> None:
    """Compares the GPUs that the product finds with torch's, and its precision with what they multiply."""
    row.note(
        commit=commit(),
        machine=machine(),
        versions={"python": platform.python_version(), "cuda": torch.version.cuda} | installed(),
        flags=flags(),
    )
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    row.note(
        gpus=[
            {"name": gpu.name, "capability": f"{gpu.major}.{gpu.minor}", "gib": gpu.total_memory / 2**30}
            for gpu in found
        ]
    )
    row.require("num_gpus", usable_gpus(), equals=len(found))
    precision = faster_precision("cuda" if settings.on_gpu else "cpu")
    if settings.on_gpu:
        multiplies_it = all(gpu.major >= 8 for gpu in found)
        row.require("precision", precision, equals="bfloat16" if multiplies_it else "float32")
        row.note(driver_free_gib=torch.cuda.mem_get_info(settings.device)[0] / 2**30)
    else:
        row.note(precision=precision)
        row.skip("precision", "no GPU decides it")


def installed() -> dict[str, str | None]:
    """Returns the versions of what a trial imports."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def flags() -> dict[str, Any]:
    """Returns the settings of torch that change numbers, speed or memory."""
    return {
        "cudnn.version": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "num_threads": torch.get_num_threads(),
        "allocator": os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF"),
    }
