"""ONE trial: the only place where Ray Tune or Ray Train meets a trainable.

A trial of one worker runs inside the Tune process, which is reused from trial to trial. A trial of several
workers is a Ray Train run that the Tune process only watches. Either way the driver gets back one record,
failures included: an exception that crossed Tune would lose its cause.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import errno
import gc
import json
import math
import os
import platform
import random
import re
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

from orchestrator.attempts import taken_over
from orchestrator.home import home
from orchestrator.measured import own_key
from orchestrator.placement import PLACES, Need, place_key
from orchestrator.storage import StorageError, open_storage
from orchestrator.trial_files import TrialFiles
from trainables import resolve
from trainables.artifacts import file_sha256, write_atomically
from trainables.config import TrialConfig, from_flat, trial_key
from trainables.context import Metrics
from trainables.errors import DataError, UserError, WeightsUnavailable

Cause = Literal[
    "user_error",
    "out_of_memory",
    "non_finite",
    "crash",
    "process_died",
    "killed_for_memory",
    "disk_full",
    "node_died",
    "storage_failed",
    "unavailable",
]
"""`out_of_memory`: one pair at a time did not fit. `killed_for_memory`: the machine ended the process.
`crash`: an exception that none foresaw. `process_died`: killed from outside, or crashed in native code."""
DEATHS: tuple[Cause, ...] = ("process_died", "killed_for_memory")
HEAD, SHARE_OF_HEAD = "node:__internal_head__", 0.0001
"""What a process reserves to stand on the head, which is never taken back as a spot node is."""
DRIVER_MEMORY_BYTES = 200 * 2**20
"""What the Tune process of a Train trial reserves: no core, or it would hold one that its workers need."""
WARNINGS = "warnings.json"
OUT_OF_MEMORY = re.compile("OutOfMemory|low on memory")
"""In what Ray says when its memory monitor ended a process."""


@dataclass(frozen=True)
class TrialOrder:
    """All that a process needs to run one trial, in plain values; travels as JSON.

    With a storage, `workdir` and `store` are relative to the home of whichever node the trial runs on.
    """

    trial_key: str
    attempt: int
    config: dict[str, Any]  # dotted keys
    trainable: str  # "module:function"
    objective: str
    workdir: str
    store: str
    scratch: str  # for Ray's own files
    device: Literal["cpu", "cuda"]
    num_workers: int
    cpus_per_trial: int
    gpus_per_trial: float
    memory_budget_gb: float | None = None
    storage: str | None = None  # URI of what nodes exchange files through
    inputs: dict[str, str] = field(default_factory=dict[str, str])  # place → fingerprint of what lies there
    times_killed_for_memory: int = 0  # each halves the budget, and so the micro-batch; never the global batch
    spans_nodes: bool = False  # its workers meet over the network of a cluster
    is_compared: bool = True  # a scheduler may stop it; an arm that is confirmed runs to its end

    def to_json(self) -> str:
        """Returns the order as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote."""
        return cls(**json.loads(text))

    def at_home(self) -> Self:
        """Returns the order with the folders of this node."""
        if self.storage is None:
            return self
        base, scratch = home(), Path(self.scratch)
        if not scratch.is_dir():  # the driver's, on another machine
            (scratch := base / "scratch").mkdir(exist_ok=True)
        return replace(
            self, workdir=str(base / self.workdir), store=str(base / self.store), scratch=str(scratch)
        )

    def files(self) -> TrialFiles:
        """Returns what moves the trial's files, for an order `at_home`."""
        if self.storage is None:
            return TrialFiles(Path(self.workdir), Path(self.workdir))
        return TrialFiles(home(), Path(self.workdir), open_storage(self.storage))

    @property
    def trial(self) -> TrialConfig:
        """The configuration, with this machine's memory where it names none."""
        own_size = self.config["execution.micro_batch_size"]  # where given, memory is the user's business
        budget = self.config["execution.memory_budget_gb"] or (None if own_size else self.memory_budget_gb)
        parts = 2**self.times_killed_for_memory
        execution = {
            "execution.micro_batch_size": own_size and max(1, own_size // parts),
            "execution.memory_budget_gb": budget and budget / parts,
        }
        return from_flat(self.config | execution)

    @property
    def need(self) -> Need:
        """What its workers take of nodes."""
        num = self.num_workers
        return Need(num, max(1, self.cpus_per_trial // num), self.gpus_per_trial / num)

    @property
    def num_threads(self) -> int:
        """Threads that one worker computes with."""
        return self.config["execution.num_threads"] or max(1, self.cpus_per_trial // self.num_workers)

    def resources(self) -> dict[str, float]:
        """Returns what Tune reserves for the trial's own process."""
        if self.num_workers > 1:  # it only watches, and Train's own processes stay beside it
            return {HEAD: SHARE_OF_HEAD, "memory": DRIVER_MEMORY_BYTES}
        return {"cpu": self.cpus_per_trial, "gpu": self.gpus_per_trial}


@dataclass(frozen=True)
class TrialRecord:
    """How a trial ended: `metrics` and `results`, or `cause` and `message`."""

    seconds: float
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    results: dict[str, str] = field(default_factory=dict[str, str])  # file relative to the workdir → SHA-256
    cause: Cause | None = None
    message: str | None = None
    warnings: list[str] = field(default_factory=list[str])  # what went wrong and was mended


def run_trial(config: dict[str, str]) -> dict[str, str]:
    """The Tune function: runs `config["order"]` and returns the record as Tune's last result."""
    placed, began = TrialOrder.from_json(config["order"]), time.perf_counter()
    order = placed.at_home()
    workdir, files = Path(order.workdir), order.files()
    try:
        _forget_words(workdir, "*")
        done = _over_workers(order, placed) if order.num_workers > 1 else _in_this_process(order, files)
        record = TrialRecord(time.perf_counter() - began, **done)
    except Exception as error:
        if order.num_workers > 1:
            files.bring_words(order.attempt)
        cause, message = explain(error, workdir)
        if cause == "crash" and order.device == "cuda" and order.num_workers == 1:
            _leave_last_words(order, files, 0, cause, message)
            raise  # ends this process: a broken CUDA context would fail every trial that comes here
        record = TrialRecord(time.perf_counter() - began, cause=cause, message=message)
    finally:
        _free_memory()
    warn(workdir, files.warnings)
    return {"record": json.dumps(asdict(replace(record, warnings=record.warnings or read_warnings(workdir))))}


def _in_this_process(order: TrialOrder, files: TrialFiles) -> Done:
    from ray import tune

    _start_afresh(order)
    device = "cuda:0" if order.device == "cuda" else "cpu"
    with _taken_up(order, files) as (checkpoint, damages):
        warn(Path(order.workdir), damages)
        context = TuneContext(order, device=device, send=tune.report, files=files, resume_from=checkpoint)
        return _done(resolve(order.trainable)(order.trial, context), files)


@contextmanager
def _taken_up(order: TrialOrder, files: TrialFiles) -> Generator[tuple[Path | None, list[str]]]:
    """Holds the trial's folder on this node, with all that the trial needs; yields as `taken_over` does."""
    with taken_over(
        Path(order.workdir), order.attempt, find=lambda: files.bring_checkpoint(order.attempt)
    ) as (checkpoint, damages):
        _say_where(order)
        if order.storage is not None:
            Path(order.store).mkdir(parents=True, exist_ok=True)
            files.bring_inputs(order.inputs)
            check_inputs(order)
        said = "goes on from an earlier checkpoint, as the newest is damaged"
        yield checkpoint, [f"{said}: {damage}" for damage in damages]


def check_inputs(order: TrialOrder) -> None:
    """Compares this node's data and weights with those that the sweep was started on.

    Raises:
        DataError: others lie at the same place here.
    """
    from trainables.data.datasets import load_dataset
    from trainables.models.registry import model_fingerprint

    trial = order.trial
    found = trial_key(trial, load_dataset(trial.data).fingerprint, model_fingerprint(trial))
    if found != order.trial_key:
        raise DataError(
            f"{platform.node()}: the data in data.root or the weights of {trial.encoder.name} are others on "
            "this node than where the sweep was started; copy them there, or remove the folder from this "
            "node and it is fetched"
        )


class Done(TypedDict):
    """What comes of a trial that ends well, as of a `TrialRecord`."""

    metrics: dict[str, float]
    results: dict[str, str]
    warnings: list[str]


def _done(metrics: Metrics, files: TrialFiles) -> Done:
    """Puts the results away; the driver takes a trial for finished once it has them."""
    files.keep_results()
    files.drop_checkpoints()
    warn(files.workdir, files.warnings)
    return Done(
        metrics=finite(metrics), results=hash_results(files.workdir), warnings=read_warnings(files.workdir)
    )


def _over_workers(order: TrialOrder, placed: TrialOrder) -> Done:
    """Starts one process per worker and returns what rank 0 returned; `placed` is for any node."""
    from ray.train import (
        CheckpointConfig,
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from orchestrator.process_group import FileTorchConfig

    per_worker = {"CPU": max(1, order.cpus_per_trial // order.num_workers)}
    is_gpu = order.device == "cuda"
    backend = "nccl" if is_gpu else "gloo"
    name = f"{order.trial_key}-{order.attempt}"
    trainer = TorchTrainer(
        run_as_worker,
        train_loop_config={"order": placed.to_json()},
        torch_config=TorchConfig(backend=backend)
        if order.spans_nodes
        else FileTorchConfig(backend=backend, path=f"{order.scratch}/{name}.group"),
        scaling_config=ScalingConfig(
            num_workers=order.num_workers,
            use_gpu=is_gpu,
            resources_per_worker=per_worker | ({"GPU": 1} if is_gpu else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=order.scratch,
            callbacks=[TuneReportCallback()],
            # Controller failures are repeated for ever by default, also those that no repetition mends.
            failure_config=FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=1
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        done: Any = trainer.fit().return_value
    except TrainingFailedError as error:
        raise WorkerDied(str(error)) from error
    return done


class WorkerDied(Exception):
    """Train lost a worker; if that had the time to say why, its last words count instead."""


def run_as_worker(config: dict[str, str]) -> Done | None:
    """The Train function, on every rank: runs the trainable; leaves the cause of a failure in the workdir."""
    import ray.train
    import ray.train.torch
    from torch import distributed

    from trainables.losses.collectives import PeerFailed

    order = TrialOrder.from_json(config["order"]).at_home()
    place, files = ray.train.get_context(), order.files()
    _start_afresh(order)
    workdir, rank = Path(order.workdir), place.get_world_rank()
    if order.storage is not None:  # left on this node, where `run_trial` need not be
        _forget_words(workdir, rank)
    try:
        with _taken_up(order, files) as (checkpoint, damages):
            if rank == 0:
                warn(workdir, damages)
            distributed.barrier()  # no rank writes a checkpoint before all have looked for the newest
            context = TuneContext(
                order,
                device=str(ray.train.torch.get_device()),
                send=ray.train.report,
                files=files,
                rank=rank,
                world_size=place.get_world_size(),
                resume_from=checkpoint,
            )
            metrics = resolve(order.trainable)(order.trial, context)
            return _done(metrics, files) if rank == 0 else None
    except PeerFailed:  # that rank says why
        raise
    except Exception as error:
        _leave_last_words(order, files, rank, *explain(error, workdir))
        raise


@dataclass
class TuneContext:
    """A `RunContext` whose reports go to Ray. One class for Tune and Train: they differ in `send` alone."""

    order: TrialOrder
    device: str
    send: Callable[[dict[str, Any]], None]  # Tune's or Train's report; Train's is collective
    files: TrialFiles
    rank: int = 0
    world_size: int = 1
    resume_from: Path | None = None
    num_reports: int = 0

    def __post_init__(self) -> None:
        self.workdir.mkdir(parents=True, exist_ok=True)

    @property
    def workdir(self) -> Path:
        """Private to this trial."""
        return Path(self.order.workdir)

    @property
    def store(self) -> Path:
        """Shared by all trials."""
        return Path(self.order.store)

    def report(self, metrics: Metrics, checkpoint: Path | None = None) -> None:
        """Hands scalars to the driver; a scheduler may end the trial here. Collective."""
        del checkpoint  # lies in the workdir, where the next attempt finds it
        if self.rank == 0:
            self.files.keep_checkpoints()
        self.num_reports += 1
        values = finite(metrics)
        result: dict[str, Any] = {
            "epoch": int(values.get("train/epoch", self.num_reports)),
            "metrics": json.dumps(values),
        }
        goal = own_key(self.order.objective, self.order.config)
        if self.order.is_compared and goal in values:
            result["score"] = values[goal]
        self.send(result)

    def fetch(self, folder: Path) -> None:
        """Fetches a finished folder of the store from the sweep's storage, if it is there and not here."""
        self.files.fetch(folder)

    def keep(self, folder: Path) -> None:
        """Copies a finished folder of the store into the sweep's storage."""
        if self.rank == 0:
            self.files.keep(folder)


def explain(error: BaseException, workdir: Path) -> tuple[Cause, str]:
    """Returns why a trial failed, in one message; the traceback of what none foresaw goes to `error.txt`."""
    if isinstance(error, WeightsUnavailable):
        return "unavailable", str(error)
    if isinstance(error, StorageError):
        return "storage_failed", str(error)
    if isinstance(error, UserError):
        return "user_error", str(error)
    if said := last_words(workdir):  # by a worker, before Train wrapped it
        return said
    from trainables.losses.collectives import is_out_of_memory
    from trainables.losses.global_batch import NonFiniteLoss

    if is_out_of_memory(error):
        return "out_of_memory", f"{_first_line(error)}; one pair at a time did not fit"
    if OUT_OF_MEMORY.search(str(error)):  # of a worker
        return "killed_for_memory", "a worker was killed, as the machine ran out of memory"
    if isinstance(error, WorkerDied):
        return "process_died", "a worker died: killed from outside, or crashed in native code (see ray.log)"
    if isinstance(error, NonFiniteLoss | FloatingPointError):
        return "non_finite", str(error)
    if os.strerror(errno.ENOSPC) in str(error):  # an OSError, or what a library made of one
        return "disk_full", f"{workdir}: {_first_line(error)}"
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "error.txt").write_text("".join(traceback.format_exception(error)))
    return "crash", f"{type(error).__name__}: {_first_line(error)} (traceback: {workdir / 'error.txt'})"


def last_words(workdir: Path) -> tuple[Cause, str] | None:
    """Returns why an attempt failed, if one of its processes had the time to say so."""
    for path in sorted(workdir.glob(_failure_file("*"))):
        cause, message = json.loads(path.read_text())
        return cause, message
    return None


def _leave_last_words(order: TrialOrder, files: TrialFiles, rank: int, cause: Cause, message: str) -> None:
    path = Path(order.workdir) / _failure_file(rank)
    write_atomically(path, json.dumps([cause, message]))
    files.keep_words(order.attempt, path)


def warn(workdir: Path, warnings: list[str]) -> None:
    """Leaves for the driver what went wrong and was mended."""
    said = read_warnings(workdir)
    if new := [text for text in warnings if text not in said]:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(workdir / WARNINGS, json.dumps(said + new))


def read_warnings(workdir: Path) -> list[str]:
    """Returns what `warn` left."""
    path = workdir / WARNINGS
    return json.loads(path.read_text()) if path.is_file() else []


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns plain floats; what could not be computed is absent."""
    values = {key: float(value) for key, value in metrics.items()}
    return {key: value for key, value in values.items() if math.isfinite(value)}


def hash_results(workdir: Path) -> dict[str, str]:
    """Returns the files under `workdir/results`, relative to the workdir, with their SHA-256."""
    files = sorted(path for path in (workdir / "results").rglob("*") if path.is_file())
    return {path.relative_to(workdir).as_posix(): file_sha256(path) for path in files}


def _start_afresh(order: TrialOrder) -> None:
    """Undoes what an earlier trial may have left in a reused process."""
    import numpy as np
    import torch

    _keep_imports()
    seed = order.config["seed"]
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(order.num_threads)


@cache
def _keep_imports() -> None:
    """Spares the collector what was imported: looking through it after every trial takes 0.1 s."""
    gc.freeze()


def _say_where(order: TrialOrder) -> None:
    """Leaves with Ray's head on which node a process of an attempt stands; the driver looks after nodes."""
    import ray
    from ray.experimental.internal_kv import _internal_kv_put  # pyright: ignore[reportPrivateUsage]

    with suppress(Exception):  # nothing a trial should fail for
        here = ray.get_runtime_context()
        key = place_key(here.get_job_id(), order.trial_key, order.attempt)
        _internal_kv_put(key + here.get_node_id(), b"", namespace=PLACES)


def _free_memory() -> None:
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _forget_words(workdir: Path, rank: int | str) -> None:
    """Deletes what an earlier attempt said."""
    for path in [*workdir.glob(_failure_file(rank)), *([workdir / WARNINGS] if rank in (0, "*") else [])]:
        path.unlink(missing_ok=True)


def _failure_file(rank: int | str) -> str:
    return f"failure-{rank}.json"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
