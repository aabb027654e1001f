"""Runs one trial. Only here do Ray Tune and Ray Train call a trainable.

A trial with one worker runs in the Tune process, which is reused for other trials. A trial with several
workers is a Ray Train run, and the Tune process only waits for it. The driver always receives one
record, even if the trial fails, because an exception that passes through Tune would lose its cause.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import ctypes
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
    has_lost_peers,
    leave_last_words,
    read_warnings,
    warn,
)
from orchestrator.worker.scratch import attempt_scratch
from orchestrator.worker.trial_spec import TrialRecord, TrialSpec
from trainables import resolve
from trainables.artifacts import file_sha256
from trainables.context import Metrics
from trainables.errors import DataError

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

# Imports inside functions: the driver imports this module, but does not need torch or Ray Train.


def run_trial(config: dict[str, str]) -> dict[str, str]:
    """Runs the trial in `config["spec"]` as Tune's function; returns its record as Tune's last result."""
    placed, began = TrialSpec.from_json(config["spec"]), time.perf_counter()
    spec = placed.at_home()
    workdir, files = Path(spec.workdir), spec.files()
    try:
        forget_words(workdir, "*")
        done = _over_workers(spec, placed) if spec.num_workers > 1 else _in_this_process(spec, files)
        record = TrialRecord(time.perf_counter() - began, **done)
    except Exception as error:
        if spec.num_workers > 1:
            files.fetch_failures(spec.attempt)
        cause, message = explain(error, workdir)
        if cause == "crash" and spec.device == "cuda" and spec.num_workers == 1:
            leave_last_words(spec, files, 0, cause, message)
            raise  # ends this process: its broken CUDA context would fail every later trial
        record = TrialRecord(time.perf_counter() - began, cause=cause, message=message)
    finally:
        free_memory()
    warn(workdir, files.warnings)
    return {"record": json.dumps(asdict(replace(record, warnings=record.warnings or read_warnings(workdir))))}


def _in_this_process(spec: TrialSpec, files: TrialFiles) -> Done:
    from ray import tune

    _start_afresh(spec)
    device = "cuda:0" if spec.device == "cuda" else "cpu"
    with _taken_up(spec, files) as (checkpoint, damages):
        warn(Path(spec.workdir), damages)
        context = TuneContext(spec, device=device, send=tune.report, files=files, resume_from=checkpoint)
        return _done(resolve(spec.trainable)(spec.trial, context), files)


@contextmanager
def _taken_up(spec: TrialSpec, files: TrialFiles) -> Generator[tuple[Path | None, list[str]]]:
    """Locks the trial's folder on this node and fetches the trial's inputs.

    Yields:
        The checkpoint to resume from, and a description of each damaged checkpoint.
    """
    with taken_over(Path(spec.workdir), spec.attempt, find=lambda: files.fetch_checkpoint(spec.attempt)) as (
        checkpoint,
        damages,
    ):
        _register_node(spec)
        if spec.storage is None:
            check_words(spec)
        else:
            Path(spec.store).mkdir(parents=True, exist_ok=True)
            files.fetch_inputs(spec.inputs)
            check_inputs(spec)
        said = "resumes from an earlier checkpoint, because the newest is damaged"
        yield checkpoint, [f"{said}: {damage}" for damage in damages]


def check_inputs(spec: TrialSpec) -> None:
    """Compares this node's data and weights with those of the driver.

    Raises:
        DataError: data or weights differ or are missing on this node; says what to do.
    """
    from orchestrator.planning.checks import COPY, how_to_mend
    from orchestrator.planning.identity import by_name, identify

    config = spec.trial
    here, node = identify(config), platform.node()
    others = "different on this node than where the sweep was started"
    if here.data != spec.data_fingerprint:
        raise DataError(f"{node}: the data in data.root are {others}; {COPY}")
    check_words(spec)
    wanted = by_name(config, spec.model_fingerprint, spec.captioner_fingerprint)
    for name, now in by_name(config, here.model, here.captioner).items():
        if now != wanted[name]:
            what = others if now else "not on this node"
            mend = how_to_mend(config, name, is_here=now is not None)
            raise DataError(f"{node}: the weights of {name} are {what}; {mend}")


def check_words(spec: TrialSpec) -> None:
    """Compares the words of captions and prompts with those of the driver. They are easily edited meanwhile.

    Raises:
        DataError: the words have changed, or differ on this node.
    """
    from trainables.data.datasets import load_dataset

    if spec.words_fingerprint is None:
        return
    data = spec.trial.data
    if load_dataset(data).words.fingerprint != spec.words_fingerprint:
        raise DataError(
            f"{platform.node()}: the words in {data.prompts or 'trainables/data/words/'} differ from those "
            "at the start of the sweep; restore the file, or start a new sweep with another --name"
        )


class Done(TypedDict):
    """Fields of the `TrialRecord` of a finished trial."""

    metrics: dict[str, float]
    results: dict[str, str]
    warnings: list[str]


def _done(metrics: Metrics, files: TrialFiles) -> Done:
    """Copies the results to the storage, if there is one, and returns the record's fields."""
    files.upload_results()
    files.delete_checkpoints()
    warn(files.workdir, files.warnings)
    return Done(
        metrics=finite(metrics), results=hash_results(files.workdir), warnings=read_warnings(files.workdir)
    )


def _over_workers(spec: TrialSpec, placed: TrialSpec) -> Done:
    """Starts one process per worker; returns the result of rank 0. `placed` has no paths of this node."""
    from ray.train import TrainingFailedError

    with attempt_scratch(Path(spec.scratch), f"{spec.trial_key}-{spec.attempt}") as scratch:
        try:
            done: Any = _trainer(spec, placed, scratch).fit().return_value
        except TrainingFailedError as error:
            raise WorkerDied(str(error)) from error
    return done


def _trainer(spec: TrialSpec, placed: TrialSpec, scratch: Path) -> TorchTrainer:
    """Returns a Ray Train run with these workers, which never retries by itself."""
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from orchestrator.worker.process_group import FileTorchConfig

    per_worker = {"CPU": max(1, spec.cpus_per_trial // spec.num_workers)}
    is_gpu = spec.device == "cuda"
    backend = "nccl" if is_gpu else "gloo"
    return TorchTrainer(
        run_as_worker,
        train_loop_config={"spec": placed.to_json()},
        torch_config=TorchConfig(backend=backend)
        if spec.spans_nodes
        else FileTorchConfig(backend=backend, path=str(scratch / "group")),
        scaling_config=ScalingConfig(
            num_workers=spec.num_workers,
            use_gpu=is_gpu,
            resources_per_worker=per_worker | ({"GPU": 1} if is_gpu else {}),
        ),
        run_config=RunConfig(
            name=scratch.name,
            storage_path=str(scratch),
            callbacks=[TuneReportCallback()],
            # By default Train retries failures of its controller for ever.
            failure_config=FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=1
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def run_as_worker(config: dict[str, str]) -> Done | None:
    """Runs the trainable as Train's function on every rank. On failure, writes the cause to the workdir."""
    import ray.train
    import ray.train.torch
    from torch import distributed

    from trainables.losses.collectives import PeerFailed

    spec = TrialSpec.from_json(config["spec"]).at_home()
    place, files = ray.train.get_context(), spec.files()
    _start_afresh(spec)
    workdir, rank = Path(spec.workdir), place.get_world_rank()
    if spec.storage is not None:  # `run_trial` may be on another node
        forget_words(workdir, rank)
    try:
        with _taken_up(spec, files) as (checkpoint, damages):
            if rank == 0:
                warn(workdir, damages)
            distributed.barrier()  # no rank writes a checkpoint until all have found the newest
            context = TuneContext(
                spec,
                device=str(ray.train.torch.get_device()),
                send=ray.train.report,
                files=files,
                rank=rank,
                world_size=place.get_world_size(),
                resume_from=checkpoint,
            )
            metrics = resolve(spec.trainable)(spec.trial, context)
            return _done(metrics, files) if rank == 0 else None
    except PeerFailed:  # the failing rank writes the cause
        raise
    except Exception as error:
        if not has_lost_peers(error):  # otherwise this would hide why the other process ended
            leave_last_words(spec, files, rank, *explain(error, workdir))
        raise


@dataclass
class TuneContext:
    """A `RunContext` that reports to Ray. Only `send` differs between Tune and Train."""

    spec: TrialSpec
    device: str
    send: Callable[[dict[str, Any]], None]  # report function of Tune or Train; Train's is collective
    files: TrialFiles
    rank: int = 0
    world_size: int = 1
    resume_from: Path | None = None
    num_reports: int = 0

    def __post_init__(self) -> None:
        self.workdir.mkdir(parents=True, exist_ok=True)

    @property
    def workdir(self) -> Path:
        """Returns the private folder of this trial."""
        return Path(self.spec.workdir)

    @property
    def store(self) -> Path:
        """Returns the store, a folder that all trials share."""
        return Path(self.spec.store)

    def report(self, metrics: Metrics, checkpoint: Path | None = None) -> None:
        """Sends scalars to the driver; a scheduler may end the trial during this call. Collective."""
        del checkpoint  # the next attempt finds the checkpoint in the workdir
        if self.rank == 0:
            self.files.upload_checkpoints()
        self.num_reports += 1
        values = finite(metrics)
        result: dict[str, Any] = {
            "epoch": int(values.get("train/epoch", self.num_reports)),
            "metrics": json.dumps(values),
        }
        if self.spec.is_compared and self.spec.objective in values:
            result["score"] = values[self.spec.objective]
        self.send(result)

    def fetch(self, folder: Path) -> None:
        """Fetches a finished folder of the store from the sweep's storage, if this node lacks the folder."""
        self.files.fetch(folder)

    def keep(self, folder: Path) -> None:
        """Copies a finished folder of the store to the sweep's storage."""
        if self.rank == 0:
            self.files.keep(folder)


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the finite values as Python floats."""
    values = {key: float(value) for key, value in metrics.items()}
    return {key: value for key, value in values.items() if math.isfinite(value)}


def hash_results(workdir: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file in `workdir/results`; keys are paths relative to the workdir."""
    files = sorted(path for path in (workdir / "results").rglob("*") if path.is_file())
    return {path.relative_to(workdir).as_posix(): file_sha256(path) for path in files}


def _start_afresh(spec: TrialSpec) -> None:
    """Resets the state that an earlier trial may have changed in a reused process: seeds and threads."""
    import numpy as np
    import torch

    _keep_imports()
    seed = spec.config["seed"]
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(spec.num_threads)


@cache
def _keep_imports() -> None:
    """Excludes imported objects from garbage collection, which saves 0.1 s after every trial."""
    gc.freeze()


def _register_node(spec: TrialSpec) -> None:
    """Tells Ray's head node on which node an attempt runs, so that the driver notices a lost node."""
    import ray
    from ray.experimental.internal_kv import _internal_kv_put  # pyright: ignore[reportPrivateUsage]

    with suppress(Exception):  # an error here must not fail a trial
        here = ray.get_runtime_context()
        key = place_key(here.get_job_id(), spec.trial_key, spec.attempt)
        _internal_kv_put(key + here.get_node_id(), b"", namespace=PLACES)


def free_memory() -> None:
    """Returns the freed memory of a trial to the machine; glibc would keep gigabytes of it."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # of glibc
        trim(0)
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
