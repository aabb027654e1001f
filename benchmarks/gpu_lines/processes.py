"""What needs other processes: two trials that share a GPU, and a process group under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from clip_step import Batch, RowsOfBatch
from measure import resident_mib
from random_encoders import Model, build_encoder

from gpu_lines.row import Row, Settings
from gpu_lines.training import Curve, Recipe, train
from trainables.config import LossConfig
from trainables.launch import LOOPBACK, Place, process_group
from trainables.losses.batch_plan import BatchPlan
from trainables.losses.global_batch import global_batch_step
from trainables.training.micro_batch import choose_cut, cost_of, memory_budget

BENCHMARKS = Path(__file__).resolve().parents[1]
SCRIPT = BENCHMARKS / "gpu_check.py"
SHARE = 0.5
PLANNED_SHARE = 0.9
"""Of its half that a trial plans with, weights included, as `orchestrator.cluster.fit` does."""
EXACT = 1e-10
SHORT = Recipe("tiny", pairs=12, steps=3)


def two_at_once(settings: Settings, row: Row) -> None:
    """Runs a training alone, then two of them at once, and adds up what they get through."""
    seconds = settings.choose(8.0, quick=4.0, small=0.5)
    with ExitStack() as stack:
        both = [stack.enter_context(Neighbour(settings)) for _ in range(2)]
        for neighbour in both:
            neighbour.answer()  # it is ready
        alone = both[0].go(seconds)
        for neighbour in both:
            neighbour.ask(seconds)
        together = [neighbour.answer() for neighbour in both]
    row.note(alone=alone, together=together)
    total = sum(one["images_per_second"] for one in together)
    row.require("both_end", len(together), equals=2)
    if settings.on_gpu:
        row.require("largest_share_of_memory", max(one["share"] for one in together), at_most=SHARE)
        row.require("total_over_alone", total / alone["images_per_second"], at_least=1.0)
    else:
        row.note(total_over_alone=total / alone["images_per_second"])
        row.skip("bounds", "two processes share no GPU here")


class Neighbour:
    """A process that trains for as long as it is told, and answers with what it got through."""

    def __init__(self, settings: Settings) -> None:
        options = ["--small"] * settings.is_small + ["--quick"] * settings.is_quick
        command = [
            sys.executable,
            str(SCRIPT),
            "--child",
            "neighbour",
            "--device",
            settings.device.type,
            *options,
        ]
        self.process = subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Neighbour:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process, which waits for its next line."""
        self.process.kill()
        self.process.communicate()

    def ask(self, seconds: float) -> None:
        """Lets it train."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Returns its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a neighbour ended with status {self.process.wait()}; its message is above")
        return json.loads(line)

    def go(self, seconds: float) -> dict[str, Any]:
        """Lets it train, and returns what it got through."""
        self.ask(seconds)
        return self.answer()


def be_neighbour(settings: Settings) -> None:
    """Is such a process, until its input ends. It plans with half of the memory."""
    model: Model = settings.choose("vit-b-32", small="tiny")
    encoder, parameters = build_encoder(model, dropout=0.1, seed=0, device=settings.device)
    pairs = settings.choose(512, quick=256, small=16)
    batch = Batch.random(encoder, pairs=pairs, captions=16, tokens=16, seed=0)
    rows, plan = RowsOfBatch(encoder, batch, seed=0), BatchPlan(batch.text_of_pair, batch.text_of_pair)
    weights = [*encoder.parameters(), *encoder.buffers()]
    total_gb = memory_gb(settings)
    held_gb = sum(weight.nbytes for weight in weights) / 2**30
    cut = choose_cut(
        memory_budget(settings.device, budget_gb=total_gb * SHARE * PLANNED_SHARE - held_gb, num_sharing=2),
        cost_of(rows.encode_images, plan.image_share, True, weights),
        cost_of(rows.encode_texts, plan.text_share, True, weights),
    )

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        global_batch_step(
            rows, plan, LossConfig(kind="clip"),
            log_logit_scale=encoder.log_logit_scale, parameters=parameters,
            micro_batch_size=cut.micro_batch_size, kept_graphs=cut.kept_graphs,
        )  # fmt: skip

    step()
    say({"cut": [cut.micro_batch_size, cut.kept_graphs]})
    for line in sys.stdin:
        began, images = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < float(line):
            step()  # its loss is read, so it waits for the GPU
            images += pairs
        say({"images_per_second": images / elapsed, "share": taken_gb(settings) / total_gb})


def memory_gb(settings: Settings) -> float:
    """Returns the memory of the GPU; of a CPU, what keeps the planned share small."""
    if settings.on_gpu:
        return torch.cuda.get_device_properties(settings.device).total_memory / 2**30
    return 1.0


def taken_gb(settings: Settings) -> float:
    """Returns the most that this process has taken so far."""
    if settings.on_gpu:
        return torch.cuda.max_memory_reserved(settings.device) / 2**30
    return resident_mib("VmHWM") / 1024


def process_groups(settings: Settings, row: Row) -> None:
    """Trains under torchrun, a rank for each GPU or two on a CPU, and calls the collectives themselves."""
    ranks = torch.cuda.device_count() if settings.on_gpu else 2
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)),
        *(str(SCRIPT), "--child", "rank", "--device", settings.device.type),
    ]
    done = subprocess.run(
        command, env=environment(), stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    row.note(ranks=ranks, backend=found["backend"])
    for name, is_right in found["collectives"].items():
        row.require(name, is_right, equals=True)
    alone = train(SHORT, settings.device, 7, dtype=torch.float64)
    together = Curve(found["losses"], alone.first_gradient)
    row.require("loss_deviation", together.largest_deviation(alone), at_most=EXACT)


def be_rank(settings: Settings) -> None:
    """Is one rank of torchrun's."""
    place = Place.from_environment()
    kind = "cuda" if settings.on_gpu else "cpu"
    device = torch.device(place.device(kind))
    with process_group(str(device)):
        collectives = called(device, place.rank, place.world_size)
        curve = train(SHORT, device, 7, dtype=torch.float64, rank=place.rank, world_size=place.world_size)
        if place.rank == 0:
            say({"backend": dist.get_backend(), "collectives": collectives, "losses": curve.losses})


def called(device: torch.device, rank: int, ranks: int) -> dict[str, bool]:
    """Returns whether the collectives of a step are right; a step with one rank does not call them."""
    largest = torch.tensor([rank, -rank], device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    total = torch.tensor([rank + 0.5], dtype=torch.float64, device=device)
    dist.all_reduce(total, dist.ReduceOp.SUM)
    own = torch.full((2, 3), float(rank), device=device)
    gathered = own.new_empty(ranks, 2, 3)
    dist.all_gather(list(gathered.unbind()), own)
    expected = torch.arange(ranks, dtype=own.dtype, device=device)
    return {
        "all_reduce_int64_max": largest.tolist() == [ranks - 1, 0],
        "all_reduce_float64_sum": total.item() == sum(number + 0.5 for number in range(ranks)),
        "all_gather": bool((gathered == expected[:, None, None]).all()),
    }


def environment() -> dict[str, str]:
    """Returns what a process needs to find this project, and to be reached from this machine alone."""
    paths: Sequence[str] = (str(BENCHMARKS), str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", ""))
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return os.environ | LOOPBACK | threads | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def say(values: dict[str, Any]) -> None:
    """Prints a line of JSON for the process that waits for it."""
    print(json.dumps(values), flush=True)
