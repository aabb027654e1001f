"""What the benchmarks share: time and memory on a CPU or a GPU, fresh processes, intervals, provenance."""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from math import comb
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainables.losses.collectives import is_out_of_memory

MIB = 2**20
CPU = torch.device("cpu")
PLACES = ("--output", "--plot", "--plot-from")
"""Options whose value is a place on this machine, which is nobody's business."""


def resident_mib(field: str) -> float:
    """Returns VmRSS (now) or VmHWM (high-water mark) of this process."""
    return _kilobytes("/proc/self/status", field) * 1024 / MIB


def kept_mib() -> float:
    """Returns VmRSS of this process without garbage, and without what its allocator keeps for later."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # of glibc
        trim(0)
    return resident_mib("VmRSS")


def available_mib(device: torch.device = CPU) -> float:
    """Returns what the machine, or the GPU, could still hand out."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / MIB
    return _kilobytes("/proc/meminfo", "MemAvailable") * 1024 / MIB


def seconds_of(step: Callable[[], object], device: torch.device = CPU) -> float:
    """Returns processor seconds of all threads; on a GPU, wall seconds until it has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        step()
        torch.cuda.synchronize(device)
        return time.perf_counter() - began
    began = time.process_time()
    step()
    return time.process_time() - began


def _kilobytes(path: str, field: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise OSError(f"{path} has no {field}: this benchmark needs Linux")


def peak_mib(step: Callable[[], object], device: torch.device = CPU) -> float:
    """Returns how far memory rises above its present use during a step.

    On a CPU this is the resident set; call it in a fresh process. On a GPU it is what tensors take. Whatever
    lives already, inputs on the host among it, is left out.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    before = resident_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    step()
    return resident_mib("VmHWM") - before


def peak_of_tensors_mib(step: Callable[[], object], device: torch.device = CPU) -> float:
    """Returns what the tensors made during a step take at their most: the same in every process.

    Whatever an operator allocates for itself is left out on a CPU, and counted on a GPU.
    """
    if device.type == "cuda":
        return peak_mib(step, device)
    with LiveTensors() as tensors:
        step()
    return tensors.peak / MIB


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the storages that operators make meanwhile, until they are freed. For a CPU.

    Args:
        most: bytes; an operator that makes more fails as torch's allocator does.
    """

    def __init__(self, most: float = math.inf) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.most = most
        self.sizes: dict[int, int] = {}  # by the address of a storage; 0 = it was there before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for given in tree_leaves((args, kwargs)):
            self._see(given, is_new=False)
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            self._see(made, is_new=True)
        self.peak = max(self.peak, self.live)
        if self.live > self.most:
            raise RuntimeError(f"can't allocate memory: tensors take more than {self.most / MIB:.0f} MiB")
        return result

    def _see(self, value: Any, *, is_new: bool) -> None:
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            if storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = size = storage.nbytes() if is_new else 0
                self.live += size
                weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, address: int) -> None:
        self.live -= self.sizes.pop(address)


@contextmanager
def limited_memory(mib: float, device: torch.device = CPU) -> Iterator[None]:
    """Lets this process take so much more than it has; beyond that, an allocation fails.

    Raises:
        MemoryError: it did fail, whatever the library calls it.
    """
    try:
        with limited_gpu(mib, device) if device.type == "cuda" else _limited_host(mib):
            yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise MemoryError(f"does not fit in {mib:.0f} MiB") from None
        raise


@contextmanager
def _limited_host(mib: float) -> Iterator[None]:
    taken = _kilobytes("/proc/self/status", "VmData") * 1024
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (taken + int(mib * MIB), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextmanager
def limited_gpu(mib: float, device: torch.device) -> Iterator[None]:
    """Lets this process take so much more of a GPU than it has; the library's own error tells."""
    gc.collect()
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved(device) + mib * MIB
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(allowed / total, 1.0), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def in_fresh_process(script: str, arguments: Sequence[str], **environment: str) -> Any:
    """Returns what a script prints on its last line, as JSON."""
    command = [sys.executable, script, *arguments]
    changed = os.environ | environment
    done = subprocess.run(command, env=changed, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Returns order statistics that enclose the median with at least 95 %, whatever the distribution.

    The k-th smallest and k-th largest of n miss it with probability 2 Σ_{i<k} C(n, i) / 2ⁿ. None: fewer than
    six values enclose it with less.
    """
    n = len(values)
    misses = (sum(comb(n, i) for i in range(k)) * 2 / 2**n for k in range(1, n // 2 + 1))
    k = sum(1 for _ in takewhile(lambda miss: miss <= 0.05, misses))
    ordered = sorted(values)
    return (ordered[k - 1], ordered[n - k]) if k else None


def ratio(values: Sequence[float]) -> dict[str, Any]:
    """Returns median and interval of the ratios of a contender to another, one a round."""
    interval = median_interval(values)
    return {
        "median": round(statistics.median(values), 3),
        "interval": None if interval is None else [round(end, 3) for end in interval],
        "rounds": [round(value, 4) for value in values],
    }


def provenance(script: str, argv: Sequence[str], packages: Sequence[str]) -> dict[str, Any]:
    """Returns command, machine, commit, date and versions of a result."""
    return {
        "benchmark": Path(script).stem,
        "command": " ".join(["python", f"benchmarks/{Path(script).name}", *_without_places(argv)]),
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
    }


def commit() -> str:
    """Returns the commit that is checked out, `-dirty` where tracked files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def machine() -> str:
    """Returns processor, number of cores and memory, and the GPUs."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    gib = _kilobytes("/proc/meminfo", "MemTotal") / MIB
    processor = models[0] if models else platform.machine()
    host = f"{os.cpu_count()} CPU cores ({processor}), {gib:.0f} GiB, {platform.machine()}"
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([host, *gpus])


def write(result: dict[str, Any], path: Path | None) -> None:
    """Writes a result as JSON, or prints it."""
    text = json.dumps(result, indent=1)
    if path:
        path.write_text(text + "\n")
    else:
        print(text)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _without_places(argv: Sequence[str]) -> list[str]:
    return [
        part
        for before, part in zip(("", *argv), argv, strict=False)
        if not part.startswith(PLACES) and before not in PLACES
    ]
