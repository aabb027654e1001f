"""What this machine's processors are good at, without importing torch."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Literal

from trainables.config import TrialConfig

BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
FIRST_CAPABILITY = 8.0
"""CUDA compute capability from which tensor cores multiply bfloat16 (Ampere)."""


@cache
def faster_precision(device: Literal["cpu", "cuda"]) -> Literal["float32", "bfloat16"]:
    """Returns what `encoder.precision: auto` means here: bfloat16 where the hardware multiplies it itself."""
    has_it = _gpu_multiplies_bfloat16() if device == "cuda" else _cpu_multiplies_bfloat16()
    return "bfloat16" if has_it else "float32"


def with_precision(config: TrialConfig, device: Literal["cpu", "cuda"]) -> TrialConfig:
    """Returns the trial with `auto` resolved for a kind of device: precision belongs to what a trial is."""
    if config.encoder.precision != "auto":
        return config
    encoder = config.encoder.model_copy(update={"precision": faster_precision(device)})
    return config.model_copy(update={"encoder": encoder})


def _cpu_multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Linux only; elsewhere no."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not BFLOAT16_INSTRUCTIONS.isdisjoint(flags)


def _gpu_multiplies_bfloat16() -> bool:
    """Asks the driver; the slowest GPU decides, as a trial may get any."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return min(float(line) for line in listed.split()) >= FIRST_CAPABILITY
    except (OSError, subprocess.SubprocessError, ValueError):
        return False
