"""ONE trial: the only place where Ray Tune or Ray Train meets a trainable.

A trial of one worker runs inside the Tune process, which is reused from trial to trial. A trial of several
workers is a Ray Train run that the Tune process only watches. Either way the driver gets back one record,
failures included: an exception that crossed Tune would lose its cause.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import gc
import json
import math
import platform
import random
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from orchestrator.cluster.placement import PLACES, place_key
from orchestrator.storage.attempt_lock import taken_over
from orchestrator.storage.trial_files import TrialFiles
from orchestrator.worker.failures import (
    WorkerDied,
    explain,
    forget_words,
    leave_last_words,
    read_warnings,
    warn,
)
from orchestrator.worker.trial_spec import TrialRecord, TrialSpec
from trainables import resolve
from trainables.artifacts import file_sha256
from trainables.context import Metrics
from trainables.errors import DataError

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

import fcntl
import shutil
import tempfile

# Imports inside functions: the driver imports this module, and needs neither torch nor Ray Train.


def run_trial(config: dict[str, str]) -> dict[str, str]:
    """The Tune function: runs `config["order"]` and returns the record as Tune's last result."""
    placed, began = TrialSpec.from_json(config["order"]), time.perf_counter()
    order = placed.at_home()
    workdir, files = Path(order.workdir), order.files()
    try:
        forget_words(workdir, "*")
        done = _over_workers(order, placed) if order.num_workers > 1 else _in_this_process(order, files)
        record = TrialRecord(time.perf_counter() - began, **done)
    except Exception as error:
        if order.num_workers > 1:
            files.fetch_failures(order.attempt)
        cause, message = explain(error, workdir)
        if cause == "crash" and order.device == "cuda" and order.num_workers == 1:
            leave_last_words(order, files, 0, cause, message)
            raise  # ends this process: a broken CUDA context would fail every trial that comes here
        record = TrialRecord(time.perf_counter() - began, cause=cause, message=message)
    finally:
        _free_memory()
    warn(workdir, files.warnings)
    return {"record": json.dumps(asdict(replace(record, warnings=record.warnings or read_warnings(workdir))))}


def _in_this_process(order: TrialSpec, files: TrialFiles) -> Done:
    from ray import tune

    _start_afresh(order)
    device = "cuda:0" if order.device == "cuda" else "cpu"
    with _taken_up(order, files) as (checkpoint, damages):
        warn(Path(order.workdir), damages)
        context = TuneContext(order, device=device, send=tune.report, files=files, resume_from=checkpoint)
        return _done(resolve(order.trainable)(order.trial, context), files)


@contextmanager
def _taken_up(order: TrialSpec, files: TrialFiles) -> Generator[tuple[Path | None, list[str]]]:
    """Holds the trial's folder on this node, with all that the trial needs; yields as `taken_over` does."""
    with taken_over(
        Path(order.workdir), order.attempt, find=lambda: files.fetch_checkpoint(order.attempt)
    ) as (checkpoint, damages):
        _say_where(order)
        if order.storage is not None:
            Path(order.store).mkdir(parents=True, exist_ok=True)
            files.fetch_inputs(order.inputs)
            check_inputs(order)
        said = "goes on from an earlier checkpoint, as the newest is damaged"
        yield checkpoint, [f"{said}: {damage}" for damage in damages]


def check_inputs(order: TrialSpec) -> None:
    """Compares this node's data and weights with those that the sweep was started on.

    Raises:
        DataError: others lie at the same place here, or none; says how the right ones get here.
    """
    from orchestrator.planning.checks import COPY, how_to_mend
    from orchestrator.planning.identity import by_name, identify

    config = order.trial
    here, node = identify(config), platform.node()
    others = "others on this node than where the sweep runs from"
    if here.data != order.data_fingerprint:
        raise DataError(f"{node}: the data in data.root are {others}; {COPY}")
    wanted = by_name(config, order.model_fingerprint, order.captioner_fingerprint)
    for name, now in by_name(config, here.model, here.captioner).items():
        if now != wanted[name]:
            what = others if now else "not on this node"
            mend = how_to_mend(config, name, is_here=now is not None)
            raise DataError(f"{node}: the weights of {name} are {what}; {mend}")


class Done(TypedDict):
    """What comes of a trial that ends well, as of a `TrialRecord`."""

    metrics: dict[str, float]
    results: dict[str, str]
    warnings: list[str]


def _done(metrics: Metrics, files: TrialFiles) -> Done:
    """Puts the results away; the driver takes a trial for finished once it has them."""
    files.upload_results()
    files.delete_checkpoints()
    warn(files.workdir, files.warnings)
    return Done(
        metrics=finite(metrics), results=hash_results(files.workdir), warnings=read_warnings(files.workdir)
    )


def _over_workers(order: TrialSpec, placed: TrialSpec) -> Done:
    """Starts one process per worker and returns what rank 0 returned; `placed` is for any node."""
    from ray.train import TrainingFailedError

    with attempt_scratch(Path(order.scratch), f"{order.trial_key}-{order.attempt}") as scratch:
        try:
            done: Any = _trainer(order, placed, scratch).fit().return_value
        except TrainingFailedError as error:
            raise WorkerDied(str(error)) from error
    return done


def _trainer(order: TrialSpec, placed: TrialSpec, scratch: Path) -> TorchTrainer:
    """Returns Ray Train, told what to start, and to repeat nothing by itself."""
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from orchestrator.worker.process_group import FileTorchConfig

    per_worker = {"CPU": max(1, order.cpus_per_trial // order.num_workers)}
    is_gpu = order.device == "cuda"
    backend = "nccl" if is_gpu else "gloo"
    return TorchTrainer(
        run_as_worker,
        train_loop_config={"order": placed.to_json()},
        torch_config=TorchConfig(backend=backend)
        if order.spans_nodes
        else FileTorchConfig(backend=backend, path=str(scratch / "group")),
        scaling_config=ScalingConfig(
            num_workers=order.num_workers,
            use_gpu=is_gpu,
            resources_per_worker=per_worker | ({"GPU": 1} if is_gpu else {}),
        ),
        run_config=RunConfig(
            name=scratch.name,
            storage_path=str(scratch),
            callbacks=[TuneReportCallback()],
            # Controller failures are repeated for ever by default, also those that no repetition mends.
            failure_config=FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=1
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def run_as_worker(config: dict[str, str]) -> Done | None:
    """The Train function, on every rank: runs the trainable; leaves the cause of a failure in the workdir."""
    import ray.train
    import ray.train.torch
    from torch import distributed

    from trainables.losses.collectives import PeerFailed

    order = TrialSpec.from_json(config["order"]).at_home()
    place, files = ray.train.get_context(), order.files()
    _start_afresh(order)
    workdir, rank = Path(order.workdir), place.get_world_rank()
    if order.storage is not None:  # left on this node, where `run_trial` need not be
        forget_words(workdir, rank)
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
        leave_last_words(order, files, rank, *explain(error, workdir))
        raise


@dataclass
class TuneContext:
    """A `RunContext` whose reports go to Ray. One class for Tune and Train: they differ in `send` alone."""

    order: TrialSpec
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
            self.files.upload_checkpoints()
        self.num_reports += 1
        values = finite(metrics)
        result: dict[str, Any] = {
            "epoch": int(values.get("train/epoch", self.num_reports)),
            "metrics": json.dumps(values),
        }
        if self.order.is_compared and self.order.objective in values:
            result["score"] = values[self.order.objective]
        self.send(result)

    def fetch(self, folder: Path) -> None:
        """Fetches a finished folder of the store from the sweep's storage, if it is there and not here."""
        self.files.fetch(folder)

    def keep(self, folder: Path) -> None:
        """Copies a finished folder of the store into the sweep's storage."""
        if self.rank == 0:
            self.files.keep(folder)


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns plain floats; what could not be computed is absent."""
    values = {key: float(value) for key, value in metrics.items()}
    return {key: value for key, value in values.items() if math.isfinite(value)}


def hash_results(workdir: Path) -> dict[str, str]:
    """Returns the files under `workdir/results`, relative to the workdir, with their SHA-256."""
    files = sorted(path for path in (workdir / "results").rglob("*") if path.is_file())
    return {path.relative_to(workdir).as_posix(): file_sha256(path) for path in files}


def _start_afresh(order: TrialSpec) -> None:
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


def _say_where(order: TrialSpec) -> None:
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


IN_USE = "in-use.lock"
"""In each such folder: held by the process that works there, and dropped by the kernel with it."""


@contextmanager
def attempt_scratch(scratch: Path, name: str) -> Generator[Path]:
    """Yields a new folder below `scratch`, and deletes it; also those of attempts that were killed."""
    scratch.mkdir(parents=True, exist_ok=True)
    delete_abandoned(scratch)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))
    aside = folder / f".{IN_USE}"
    try:
        with aside.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            aside.rename(folder / IN_USE)  # nobody ever sees it without its holder
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def delete_abandoned(scratch: Path) -> None:
    """Deletes the folders whose attempt has ended; what holds no lock of ours is not touched."""
    for lock in scratch.glob(f"*/{IN_USE}"):
        try:
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # in use, gone in the meantime, or another user's
            continue
