"""Measures the constants of `docs/explanation/scaling.md`: bytes of a step, cost of a trial, rate of writing.

    python benchmarks/scaling.py bytes --output bytes.json
    python benchmarks/scaling.py ledger --output ledger.json
    python benchmarks/scaling.py mlflow --output mlflow.json
    python benchmarks/scaling.py head --output head.json

`bytes`: every collective of a step of the engine, counted in gloo processes, beside the formula. With
`--wire` also what crosses the loopback interface; run that where nothing else does: `unshare -rn`. `ledger`:
appends on disk, and replaying them. `mlflow`: batches of 20 metrics into SQLite. `head`: memory of the
processes that each trial of two workers has beside its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from measure import MIB, provenance, resident_mib, write
from torch import Tensor

from trainables.config import LossConfig
from trainables.losses.batch_plan import BatchPlan
from trainables.losses.global_batch import global_batch_step

SEED = 0
FLOAT = 4
CASES = [
    # pairs, distinct captions, embedding, parameters, processes
    (512, 512, 512, 100_000, 2),
    (512, 512, 512, 100_000, 4),
    (2048, 2048, 512, 100_000, 2),
    (2048, 6, 512, 100_000, 2),
    (512, 512, 512, 1_000_000, 2),
]
PAPER = [(1024, 1_000_000), (4096, 1_000_000), (32_768, 1_000_000), (32_768, 150_000_000)]
"""Pairs, parameters: an adapter's million, and all of ViT-B/32."""
METRICS_A_BATCH = 20
TRIAL_METRICS = {f"val/probe_joint/metric_{number}": 0.5 + number / 1000 for number in range(METRICS_A_BATCH)}


@dataclass(frozen=True)
class Traffic:
    """Payload of a step's collectives, and how many there are. `gathered` counts the rows of all ranks."""

    gathered: int
    reduced: int
    calls: int

    def wire(self, world_size: int) -> float:
        """Returns what a rank sends in a ring: (W-1)/W of what is gathered, 2 (W-1)/W of what is reduced."""
        return (world_size - 1) / world_size * (self.gathered + 2 * self.reduced)


def traffic(pairs: int, captions: int, dimension: int, parameters: int) -> Traffic:
    """Returns what one step of loss `clip` sends where B and U divide by the number of ranks, on paper.

    Gathered: both embeddings and one log-sum-exp an image. Reduced: two numbers a caption, the gradients of
    parameters and logit scale, the outcome of each phase, width and precision of embeddings, loss and hits.
    """
    gathered = FLOAT * (pairs * dimension + captions * dimension + pairs)
    phases, words = 11, 2
    reduced = FLOAT * (2 * captions + parameters + 1) + 8 * (phases + words) + 2 * 8
    return Traffic(gathered, reduced, calls=3 + 2 + 1 + phases + 1 + 1)


class Linear:
    """Two towers of one matrix each: as many parameters as wanted."""

    def __init__(self, pairs: int, captions: int, dimension: int, parameters: int) -> None:
        random = torch.Generator().manual_seed(SEED)
        width = parameters // (2 * dimension)
        self.rest = torch.zeros(parameters - 2 * width * dimension, requires_grad=True)
        self.images, self.texts = (torch.randn(n, width, generator=random) for n in (pairs, captions))
        self.towers = [torch.randn(width, dimension, generator=random).requires_grad_() for _ in range(2)]
        self.trains_images = self.trains_texts = True

    @property
    def parameters(self) -> list[Tensor]:
        """Exactly as many as asked for."""
        return [*self.towers, self.rest]

    def encode_images(self, rows: range) -> Tensor:
        """The rest of the parameters takes part, so that all have a gradient."""
        return F.normalize(self.images[rows.start : rows.stop] @ self.towers[0] + self.rest.sum(), dim=1)

    def encode_texts(self, rows: range) -> Tensor:
        """One matrix."""
        return F.normalize(self.texts[rows.start : rows.stop] @ self.towers[1], dim=1)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts calls and bytes of the two collectives that the engine uses."""
    counts: Counter[str] = Counter()
    gather, reduce = dist.all_gather, dist.all_reduce

    def all_gather(tensors: list[Tensor], tensor: Tensor, *rest: Any, **options: Any) -> Any:
        counts["calls"] += 1
        counts["gathered"] += sum(one.numel() * one.element_size() for one in tensors)
        return gather(tensors, tensor, *rest, **options)

    def all_reduce(tensor: Tensor, *rest: Any, **options: Any) -> Any:
        counts["calls"] += 1
        counts["reduced"] += tensor.numel() * tensor.element_size()
        return reduce(tensor, *rest, **options)

    dist.all_gather, dist.all_reduce = all_gather, all_reduce
    try:
        yield counts
    finally:
        dist.all_gather, dist.all_reduce = gather, reduce


def work(rank: int, folder: Path, case: Sequence[int]) -> None:
    """Is one gloo process: takes a step, counted, and some more, for the wire."""
    pairs, captions, dimension, parameters, world_size = case
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=300),
    )
    model = Linear(pairs, captions, dimension, parameters)
    log_logit_scale = torch.zeros(()).requires_grad_()
    plan = BatchPlan(torch.arange(pairs) % captions, torch.arange(pairs), rank=rank, world_size=world_size)

    def step() -> None:
        global_batch_step(
            model,
            plan,
            LossConfig(kind="clip"),
            log_logit_scale=log_logit_scale,
            parameters=model.parameters,
            micro_batch_size=None,
        )

    step()
    with counted() as counts:
        step()
    dist.barrier()
    before, steps = loopback_bytes(), 5
    dist.barrier()
    for _ in range(steps):
        step()
    dist.barrier()
    crossed = (loopback_bytes() - before) / steps / world_size
    if rank == 0:
        (folder / "counts.json").write_text(json.dumps(dict(counts) | {"loopback": crossed}))
    dist.barrier()
    dist.destroy_process_group()


def loopback_bytes() -> int:
    """Returns what the loopback interface of this network namespace has sent so far."""
    (line,) = (
        line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:")
    )
    return int(line.partition(":")[2].split()[8])


def count(case: Sequence[int]) -> dict[str, float]:
    """Returns what one step sends, counted by rank 0 of as many processes as the case says."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        inside = ["bytes", "--case", *map(str, case), "--folder", folder, "--rank"]
        processes = [
            subprocess.Popen([sys.executable, __file__, *inside, str(rank)], env=environment)
            for rank in range(case[-1])
        ]
        if any([process.wait() for process in processes]):
            raise SystemExit("a process failed; its own message is above")
        return json.loads((Path(folder) / "counts.json").read_text())


def of_bytes(options: argparse.Namespace) -> dict[str, Any]:
    """Returns counted and computed bytes of every case."""
    rows: list[dict[str, Any]] = []
    for case in CASES:
        paper, found = traffic(*case[:4]), count(case)
        row = dict(zip(("pairs", "captions", "dimension", "parameters", "processes"), case, strict=True))
        row |= {"counted": {name: found[name] for name in ("gathered", "reduced", "calls")}}
        row |= {"formula": {"gathered": paper.gathered, "reduced": paper.reduced, "calls": paper.calls}}
        row["ring_bytes_a_rank"] = round(paper.wire(case[-1]))
        if options.wire:
            row["loopback_bytes_a_rank"] = round(found["loopback"])
        rows.append(row)
    return {"rows": rows, "on_paper": on_paper()}


def on_paper() -> list[dict[str, Any]]:
    """Returns seconds on the wire for more processes than there are here: D = 512, all captions distinct."""
    rows: list[dict[str, Any]] = []
    for pairs, parameters in PAPER:
        for world_size in (8, 64, 1000):
            sent = traffic(pairs, pairs, 512, parameters).wire(world_size)
            seconds = {f"{gbit}_gbit": round(sent * 8 / gbit / 1e9, 4) for gbit in (1, 10, 100, 400)}
            row = {"pairs": pairs, "parameters": parameters, "processes": world_size}
            rows.append(row | {"mib_a_rank": round(sent / MIB, 2), "seconds_at": seconds})
    return rows


def of_ledger(options: argparse.Namespace) -> dict[str, Any]:
    """Returns appends a second, each on disk when it returns, and entries read a second."""
    from orchestrator.storage.events import TrialReported
    from orchestrator.storage.ledger import Ledger, LedgerReader

    with tempfile.TemporaryDirectory(dir=options.at) as folder:
        seconds: list[float] = []
        with Ledger(Path(folder)) as ledger:
            for number in range(options.count):
                began = time.perf_counter()
                ledger.append(
                    TrialReported(
                        trial_key="0123456789abcdef",
                        attempt=1,
                        epoch=number,
                        metrics=TRIAL_METRICS,
                    )
                )
                seconds.append(time.perf_counter() - began)
        size = sum(path.stat().st_size for path in (Path(folder) / "ledger").glob("*.jsonl"))
        began = time.perf_counter()
        num_entries = len(LedgerReader(Path(folder)).poll())
        reading = time.perf_counter() - began
    return rates(seconds) | {
        "bytes_an_entry": round(size / options.count),
        "entries_read_a_second": round(num_entries / reading),
    }


def of_mlflow(options: argparse.Namespace) -> dict[str, Any]:
    """Returns batches of metrics a second, one writer, into SQLite."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    with tempfile.TemporaryDirectory(dir=options.at) as folder:
        client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        run = client.create_run(client.create_experiment("scaling")).info.run_id
        seconds: list[float] = []
        for number in range(options.count // 10):
            metrics = [Metric(name, value, 0, number) for name, value in TRIAL_METRICS.items()]
            began = time.perf_counter()
            client.log_batch(run, metrics=metrics)
            seconds.append(time.perf_counter() - began)
    return rates(seconds) | {"metrics_a_batch": METRICS_A_BATCH}


def rates(seconds: Sequence[float]) -> dict[str, Any]:
    """Returns how many a second, by the median, and how long the slow ones take."""
    ordered = sorted(seconds)
    return {
        "count": len(seconds),
        "a_second": round(1 / statistics.median(seconds), 1),
        "a_second_on_average": round(len(seconds) / sum(seconds), 1),
        "ms_median": round(1000 * statistics.median(seconds), 3),
        "ms_p99": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 3),
    }


def of_head(options: argparse.Namespace) -> dict[str, Any]:
    """Returns MiB of every process of a sweep whose trials have two workers, by what it is."""
    import sweep

    largest: dict[str, float] = defaultdict(float)
    of_trial: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.3):
            found: Counter[str] = Counter()
            for name, mib in processes_below(os.getpid()):
                found[name] += mib
                largest[name] = max(largest[name], mib)
            of_trial.append(sum(mib for name, mib in found.items() if is_driver_of_trial(name)))

    watcher = threading.Thread(target=look)
    before = resident_mib("VmRSS")
    watcher.start()
    try:
        space = sweep.space_of(options.trials, at_once=1, num_rounds=2_000)
        sweep.run(space, "sweep_trainables:work", num_workers=2)
    finally:
        over.set()
        watcher.join()
    return {
        "largest_mib": {name: round(mib) for name, mib in sorted(largest.items())},
        "mib_a_concurrent_trial_of_two_workers": round(max(of_trial)),
        "driver_mib": {"before": round(before), "after": round(resident_mib("VmRSS"))},
    }


def is_driver_of_trial(name: str) -> bool:
    """Says whether a process stands beside a trial's workers, wherever these are."""
    of_all = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_AutoscalingCoordinatorActor")
    return name.startswith("ray::") and name not in of_all and name != "ray::RayTrainWorker"


def processes_below(pid: int) -> Iterator[tuple[str, float]]:
    """Yields name and private memory in MiB of every process under this one; shared pages count for none."""
    children: dict[int, list[int]] = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children[int(fields[1])].append(int(path.parent.name))
    waiting = [pid]
    while waiting:
        for child in children[waiting.pop()]:
            waiting.append(child)
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                rollup = Path(f"/proc/{child}/smaps_rollup").read_text()
            except OSError:
                continue
            private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
            yield name_of([part.decode(errors="replace") for part in command if part]), private * 1024 / MIB


def name_of(command: list[str]) -> str:
    """Returns what a process is, without places and numbers."""
    if not command:
        return "unknown"
    if command[0].startswith("ray::"):
        return re.split(r"[.(]", command[0])[0].strip()
    scripts = [Path(part).name for part in command[:4] if part.endswith((".py", "gcs_server", "raylet"))]
    return scripts[0] if scripts else Path(command[0]).name


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["bytes", "ledger", "mlflow", "head"])
    parser.add_argument("--wire", action="store_true", help="also what crosses the loopback interface")
    parser.add_argument("--count", type=int, default=2000, help="entries; a tenth as many batches")
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument(
        "--at", type=Path, help="folder whose disk is measured; none = that for temporary files"
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--case", type=int, nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.rank is not None:  # one of several processes
        work(options.rank, options.folder, options.case)
        return
    measured = {"bytes": of_bytes, "ledger": of_ledger, "mlflow": of_mlflow, "head": of_head}[options.what]
    result = provenance(__file__, arguments or sys.argv[1:], ["ray", "torch", "mlflow"])
    write(result | {"seed": SEED} | measured(options), options.output)


if __name__ == "__main__":
    main()
