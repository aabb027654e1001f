"""Chooses the device and the precision for the hardware of this machine."""

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

# Imports inside functions: torch takes seconds to load, and checks do not need it.

BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
WORTH_IT = 1.2
"""The minimum speedup for bfloat16 on a CPU. Having the instructions is not enough: on one Xeon with them, a
linear layer of ViT-B/32 took 1.6 times as long as in float32 (docs/log.md)."""
FIRST_CAPABILITY = 8.0
"""The first CUDA compute capability whose tensor cores multiply bfloat16 (Ampere)."""
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
    """Returns the precision for `auto` on this machine: bfloat16 if it is faster on this hardware."""
    if device == "cuda":
        slowest = min(find_gpus().capabilities, default=0.0)  # a trial may get any GPU
        return "bfloat16" if slowest >= FIRST_CAPABILITY else "float32"
    is_faster = _cpu_multiplies_bfloat16() and bfloat16_speedup() >= WORTH_IT
    return "bfloat16" if is_faster else "float32"


def bfloat16_speedup(*, rounds: int = 7) -> float:
    """Returns the time in float32 / time in bfloat16 of a ViT-B/32 linear layer on one CPU thread.

    The layer gets 8 images. The two precisions alternate, and the fastest run of each counts, because other
    processes can only make a run slower.
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
    fastest = {name: min(values[1:]) for name, values in seconds.items()}  # the first run is a warm-up
    return fastest["float32"] / fastest["bfloat16"]


@cache
def device_kind(device: str) -> Literal["cpu", "cuda"]:
    """Returns the kind of device selected by `execution.device` on this machine."""
    return "cuda" if device == "cuda" or (device == "auto" and usable_gpus() > 0) else "cpu"


def settle_precision(config: TrialConfig) -> TrialConfig:
    """Returns the trial with precision `auto` resolved for this machine; precision identifies a trial."""
    if config.encoder.precision != "auto":
        return config
    is_frozen = config.adapt.method != "full"
    precision = faster_precision(device_kind(config.execution.device)) if is_frozen else "float32"
    encoder = config.encoder.model_copy(update={"precision": precision})
    return config.model_copy(update={"encoder": encoder})


def _cpu_multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Returns whether the CPU has bfloat16 instructions; False on systems other than Linux."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not BFLOAT16_INSTRUCTIONS.isdisjoint(flags)


@dataclass(frozen=True)
class Gpus:
    """The GPUs that torch can use. `trouble` is the reason why torch cannot use an installed driver."""

    capabilities: tuple[float, ...] = ()
    memory_gb: tuple[float, ...] = ()
    trouble: str = ""


@cache
def find_gpus() -> Gpus:
    """Returns the GPUs that torch can use. A separate process asks torch, as a broken driver may hang it."""
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
    """Returns the number of GPUs that this process can use with this build of torch and this driver."""
    return len(find_gpus().memory_gb)


def gpu_memory_gb() -> float | None:
    """Returns the GiB of the smallest GPU, because a trial may get any GPU; None without a GPU."""
    return min(find_gpus().memory_gb, default=None)


def _driver_is_there() -> bool:
    """Returns whether CUDA's driver library can be loaded; without it torch need not be asked."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _torch_has_cuda() -> bool:
    """Returns whether torch is built for CUDA, from its version file: importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = (Path(spec.origin).parent / "version.py").read_text()
    return re.search(r"^cuda.*=\s*None\s*$", version, re.MULTILINE) is None
