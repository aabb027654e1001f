"""Chooses device and precision for this machine's hardware."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from trainables.config import TrialConfig

# Imports inside functions: torch takes seconds to load, and what only checks needs none of it.

BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
WORTH_IT = 1.2
"""How much faster bfloat16 has to be on a CPU. The instructions alone say little: on a Xeon that has them a
linear layer of ViT-B/32 took 1.6 times as long as in float32 (docs/log.md)."""
FIRST_CAPABILITY = 8.0
"""CUDA compute capability from which tensor cores multiply bfloat16 (Ampere)."""
ANSWER_SECONDS = 120
ASK_TORCH = """
import json, torch
found = []
try:
    for number in range(torch.cuda.device_count()):
        torch.ones(1, device=f"cuda:{number}").add(1).item()
        gpu = torch.cuda.get_device_properties(number)
        found.append([gpu.major + gpu.minor / 10, gpu.total_memory / 2**30])
except Exception as error:
    found = str(error)
print(json.dumps(found))
"""


@cache
def faster_precision(device: Literal["cpu", "cuda"]) -> Literal["float32", "bfloat16"]:
    """Returns the precision that `auto` stands for here: bfloat16 if the hardware multiplies it faster."""
    if device == "cuda":
        slowest = min(find_gpus().capabilities, default=0.0)  # a trial may get any of them
        return "bfloat16" if slowest >= FIRST_CAPABILITY else "float32"
    is_faster = _cpu_multiplies_bfloat16() and bfloat16_speedup() >= WORTH_IT
    return "bfloat16" if is_faster else "float32"


def bfloat16_speedup(*, rounds: int = 7) -> float:
    """Times a linear layer of ViT-B/32 (8 images) on one CPU thread and returns float32 / bfloat16.

    The two alternate, and the fastest of each counts: what disturbs a run only ever makes it slower.
    """
    import torch
    from torch.nn.functional import linear

    inputs, weight = torch.randn(400, 768), torch.randn(3072, 768)
    operands = {"float32": (inputs, weight), "bfloat16": (inputs.bfloat16(), weight.bfloat16())}
    seconds: dict[str, list[float]] = {name: [] for name in operands}
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(rounds + 1):
            for name, (left, right) in operands.items():
                began = time.perf_counter()
                linear(left, right)
                seconds[name].append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(num_threads)
    fastest = {name: min(values[1:]) for name, values in seconds.items()}  # the first one warms up
    return fastest["float32"] / fastest["bfloat16"]


@cache
def device_kind(device: str) -> Literal["cpu", "cuda"]:
    """Returns the kind of device that `execution.device` means on this machine."""
    return "cuda" if device == "cuda" or (device == "auto" and usable_gpus() > 0) else "cpu"


def settle_precision(config: TrialConfig) -> TrialConfig:
    """Returns the trial with `auto` resolved for this machine: precision belongs to what a trial is."""
    if config.encoder.precision != "auto":
        return config
    is_frozen = config.adapt.method != "full"
    precision = faster_precision(device_kind(config.execution.device)) if is_frozen else "float32"
    encoder = config.encoder.model_copy(update={"precision": precision})
    return config.model_copy(update={"encoder": encoder})


def _cpu_multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Linux only; elsewhere no."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not BFLOAT16_INSTRUCTIONS.isdisjoint(flags)


@dataclass(frozen=True)
class Gpus:
    """What torch can compute on. `trouble` says why it cannot use the GPUs of a driver that is there."""

    capabilities: tuple[float, ...] = ()
    memory_gb: tuple[float, ...] = ()
    trouble: str = ""


@cache
def find_gpus() -> Gpus:
    """Asks torch in a process of its own, which a broken driver may hang or crash; computes on each GPU."""
    if not (_torch_has_cuda() and _driver_is_there()):
        return Gpus()
    command = [sys.executable, "-c", ASK_TORCH]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True)
        found: list[tuple[float, float]] | str = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        found = f"torch did not answer within {ANSWER_SECONDS} seconds"
    except (subprocess.CalledProcessError, IndexError):
        found = "torch crashed"
    if isinstance(found, str):
        return Gpus(trouble=found.partition("\n")[0].partition(". ")[0])
    return Gpus(tuple(gpu[0] for gpu in found), tuple(gpu[1] for gpu in found))


def usable_gpus() -> int:
    """Returns how many GPUs this process may use, with this build of torch and this driver."""
    return len(find_gpus().memory_gb)


def gpu_memory_gb() -> float | None:
    """Returns the GiB of the smallest GPU, as a trial may get any; None where there is none."""
    return min(find_gpus().memory_gb, default=None)


def _driver_is_there() -> bool:
    """Returns whether CUDA's driver library can be loaded: without it there is nothing to ask torch."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _torch_has_cuda() -> bool:
    """Reads torch's version file: importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = (Path(spec.origin).parent / "version.py").read_text()
    return re.search(r"^cuda.*=\s*None\s*$", version, re.MULTILINE) is None
