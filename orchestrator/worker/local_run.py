"""Runs one trainable on this machine without Ray, in one process or several."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from orchestrator.cluster.fit import fit
from trainables.config import TrialConfig
from trainables.context import Metrics
from trainables.errors import UserError
from trainables.launch import LOOPBACK, RecordingContext, process_group, run_recorded

FAILED = 2


def run_locally(trainable: str, config: TrialConfig, *, workdir: Path, store: Path) -> Metrics:
    """Runs a trainable, writes its metrics to `workdir/metrics.json`, and returns them.

    Raises:
        UserError: a worker raised a UserError.
    """
    execution = config.execution
    share = fit(execution.num_workers, execution.device, num_trials=1)
    threads = execution.num_threads or max(1, share.cpus_per_trial // execution.num_workers)
    settings = execution.model_copy(update={"device": share.device, "num_threads": threads})
    config = config.model_copy(update={"execution": settings})
    workdir.mkdir(parents=True, exist_ok=True)
    if execution.num_workers == 1:
        run_recorded(trainable, config, RecordingContext(workdir, store, _device(config, rank=0)))
    else:
        _spawn(trainable, config, workdir, store)
    return json.loads((workdir / "metrics.json").read_text())


def _spawn(trainable: str, config: TrialConfig, workdir: Path, store: Path) -> None:
    from torch.multiprocessing.spawn import (  # only partly typed
        ProcessExitedException,
        spawn,  # pyright: ignore[reportUnknownVariableType]
    )

    os.environ.update(LOOPBACK)
    with tempfile.TemporaryDirectory() as meeting_point:
        arguments = (trainable, config.model_dump_json(), str(workdir), str(store), meeting_point)
        try:
            nprocs = config.execution.num_workers
            spawn(_work, arguments, nprocs=nprocs)
        except ProcessExitedException:
            refusals = sorted(Path(meeting_point).glob("refusal-*"))
            if not refusals:
                raise
            raise UserError(refusals[0].read_text()) from None


def _work(rank: int, trainable: str, config_json: str, workdir: str, store: str, meeting_point: str) -> None:
    config = TrialConfig.model_validate_json(config_json)
    place: dict[str, Any] = {"rank": rank, "world_size": config.execution.num_workers}
    device = _device(config, rank=rank)
    context = RecordingContext(Path(workdir), Path(store), device, **place)
    try:
        with process_group(device, init_method=f"file://{meeting_point}/rendezvous", **place):
            run_recorded(trainable, config, context)
    except UserError as error:
        (Path(meeting_point) / f"refusal-{rank}").write_text(str(error))
        sys.exit(FAILED)  # the parent ends the others, which may wait in a collective


def _device(config: TrialConfig, *, rank: int) -> str:
    return f"cuda:{rank}" if config.execution.device == "cuda" else "cpu"
