"""One trainable on this machine without Ray: in this process, or in several that share each batch."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.local_ray import LOOPBACK
from orchestrator.resources import fit
from trainables import TRAINABLES, resolve
from trainables.artifacts import write_atomically
from trainables.config import TrialConfig
from trainables.context import LocalContext, Metrics
from trainables.errors import UserError

FAILED = 2


@dataclass
class PrintingContext(LocalContext):
    """Says on standard error how far it is; rank 0 only."""

    def report(self, metrics: Metrics, checkpoint: Path | None = None) -> None:
        """Keeps the metrics, and prints the epoch with what matters."""
        super().report(metrics, checkpoint)
        if self.rank == 0:
            shown = {key: value for key, value in metrics.items() if key.endswith(("loss", "macro_auroc"))}
            text = "  ".join(f"{key} {value:.4f}" for key, value in shown.items())
            print(f"epoch {metrics.get('train/epoch', len(self.reported)):.0f}  {text}", file=sys.stderr)


def run_locally(trainable: str, config: TrialConfig, *, workdir: Path, store: Path) -> Metrics:
    """Runs a trainable to its end and returns its metrics, which it also leaves in `workdir/metrics.json`.

    Raises:
        UserError: what the trainable refused, on whichever worker.
    """
    execution = config.execution
    share = fit(execution.num_workers, execution.device, num_trials=1)
    threads = execution.num_threads or max(1, share.cpus_per_trial // execution.num_workers)
    settings = execution.model_copy(update={"device": share.device, "num_threads": threads})
    config = config.model_copy(update={"execution": settings})
    workdir.mkdir(parents=True, exist_ok=True)
    if execution.num_workers == 1:
        _run(trainable, config, PrintingContext(workdir, store, _device(config, rank=0)))
    else:
        _spawn(trainable, config, workdir, store)
    return json.loads((workdir / "metrics.json").read_text())


def _run(trainable: str, config: TrialConfig, context: LocalContext) -> None:
    metrics = resolve(TRAINABLES[trainable])(config, context)
    if context.rank == 0:
        write_atomically(context.workdir / "metrics.json", json.dumps(dict(metrics), indent=1))


def _spawn(trainable: str, config: TrialConfig, workdir: Path, store: Path) -> None:
    from torch.multiprocessing.spawn import (  # typed in part
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
    import torch.distributed as distributed

    config = TrialConfig.model_validate_json(config_json)
    place: dict[str, Any] = {"rank": rank, "world_size": config.execution.num_workers}
    distributed.init_process_group(
        "nccl" if config.execution.device == "cuda" else "gloo",
        init_method=f"file://{meeting_point}/rendezvous",
        **place,
    )
    try:
        _run(
            trainable,
            config,
            PrintingContext(Path(workdir), Path(store), _device(config, rank=rank), **place),
        )
    except UserError as error:
        (Path(meeting_point) / f"refusal-{rank}").write_text(str(error))
        sys.exit(FAILED)  # the others, which may wait in a collective, are ended by the parent
    finally:
        distributed.destroy_process_group()


def _device(config: TrialConfig, *, rank: int) -> str:
    return f"cuda:{rank}" if config.execution.device == "cuda" else "cpu"
