"""One fine-tune, cut in different ways into workers and micro-batches: how far do the loss curves come apart?

    python benchmarks/invariance.py --output invariance.json

Ten steps of AdamW on LoRA in both towers of the tiny CLIP (random weights), with adapter dropout, repeated
captions, classes as positives, a learned logit scale, and epochs whose last batch is uneven. Every deviation
is from the first factorisation, one worker with the whole batch in one forward: of the loss curve the largest
relative one, of the first step's gradient the largest as a share of the largest gradient. Workers are gloo
processes of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from clip_step import Batch, RowsOfBatch
from measure import provenance, write
from random_encoders import build_encoder, lora_config

from trainables.losses.batch_plan import BatchPlan
from trainables.losses.global_batch import global_batch_step
from trainables.training.optim import TrainState

FACTORISATIONS: list[tuple[int, int | None]] = [
    (1, None), (1, 1), (1, 3), (1, 7), (2, None), (2, 3), (4, None), (4, 3),
]  # fmt: skip
"""Workers, micro-batch (none = the whole share). The first is what the others are compared with."""
PAIRS, CAPTIONS, CLASSES, BATCH = 37, 20, 3, 16  # epochs of 16, 16 and 5 pairs
BOUNDS = {
    "float32": {"curve": 1e-4, "first_loss": 1e-6, "first_gradient": 1e-6},
    "float64": {"curve": 1e-10, "first_loss": 1e-12, "first_gradient": 1e-12},
}
"""What the design allows; the curve's in float64 is this benchmark's own."""
MEASURES = ("curve", "first_loss", "first_gradient")
Curve = dict[str, Any]


def fine_tune(
    workers: int, micro_batch_size: int | None, *, dtype: torch.dtype, arguments: argparse.Namespace
) -> Curve:
    """Returns the losses of a fine-tune, and the gradient of its first step. Collective."""
    seed = arguments.seed
    config = lora_config(dropout=arguments.dropout, seed=seed)
    learned = config.loss.model_copy(update={"kind": "multi_positive", "learn_logit_scale": True})
    config = config.model_copy(update={"loss": learned})
    encoder, parameters = build_encoder("tiny", dropout=arguments.dropout, seed=seed)
    encoder.to(dtype).dtype = dtype
    encoder.log_logit_scale.requires_grad_(True)
    names = {f"adapter.{i}": parameter for i, parameter in enumerate(parameters)}
    state = TrainState.create(
        {**names, "log_logit_scale": encoder.log_logit_scale},
        config,
        total_steps=arguments.steps,
        log_logit_scale=encoder.log_logit_scale,
    )
    everything = Batch.random(encoder, pairs=PAIRS, captions=CAPTIONS, tokens=8, seed=seed)
    losses: list[float] = []
    first_gradient: list[float] = []
    for step, (batch, classes) in enumerate(batches(everything, arguments)):
        result = global_batch_step(
            RowsOfBatch(encoder, batch, seed, step),
            BatchPlan(batch.text_of_pair, classes, rank=_rank(), world_size=workers),
            config.loss,
            log_logit_scale=encoder.log_logit_scale,
            parameters=parameters,
            micro_batch_size=micro_batch_size,
        )
        losses.append(result.loss)
        if step == 0:
            gradients = [p.grad.flatten() for p in state.parameters.values() if p.grad is not None]
            first_gradient = torch.cat(gradients).tolist()
        state.apply_gradients()
    return {"losses": losses, "first_gradient": first_gradient}


def batches(everything: Batch, arguments: argparse.Namespace) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Yields one global batch a step and its classes: slices of one permutation an epoch."""
    order = torch.empty(0, dtype=torch.int64)
    random = torch.Generator().manual_seed(arguments.seed)
    for _ in range(arguments.steps):
        if not len(order):
            order = torch.randperm(len(everything), generator=random)
        rows, order = order[:BATCH], order[BATCH:]
        captions = everything.text_of_pair[rows].tolist()
        first = list(dict.fromkeys(captions))  # distinct ones, in the order in which they occur
        text_of_pair = torch.tensor([first.index(caption) for caption in captions])
        batch = Batch(everything.images[rows], everything.token_ids[first], text_of_pair)
        yield batch, everything.text_of_pair[rows] % CLASSES


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def work(rank: int, folder: Path, arguments: argparse.Namespace) -> None:
    """Is one gloo process: takes part in every factorisation that has room for it."""
    torch.set_num_threads(1)
    curves: list[Curve] = []
    for workers in dict.fromkeys(workers for workers, _ in FACTORISATIONS):
        if rank >= workers:
            continue
        if workers > 1:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder}/rendezvous-{workers}",
                rank=rank,
                world_size=workers,
                timeout=timedelta(seconds=600),
            )
        for precision in BOUNDS:
            for _, micro_batch_size in (f for f in FACTORISATIONS if f[0] == workers):
                dtype = getattr(torch, precision)
                curve = fine_tune(workers, micro_batch_size, dtype=dtype, arguments=arguments)
                place = {"workers": workers, "micro_batch_size": micro_batch_size, "precision": precision}
                curves.append(place | curve)
        if workers > 1:
            dist.destroy_process_group()
    if rank == 0:
        (folder / "curves.json").write_text(json.dumps(curves))


def curves_of_all(argv: list[str]) -> list[Curve]:
    """Runs every factorisation in as many processes as the largest one needs."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, *argv, "--rank", str(rank), "--folder", folder], env=environment
            )
            for rank in range(max(workers for workers, _ in FACTORISATIONS))
        ]
        if any([process.wait() for process in processes]):
            raise SystemExit("a worker failed; its own message is above")
        return json.loads((Path(folder) / "curves.json").read_text())


def deviations(curves: list[Curve]) -> list[dict[str, Any]]:
    """Returns a row a factorisation: its deviations from the first one, in both precisions."""
    rows: list[dict[str, Any]] = []
    for workers, micro_batch_size in FACTORISATIONS:
        row: dict[str, Any] = {"workers": workers, "micro_batch_size": micro_batch_size}
        for precision, bounds in BOUNDS.items():
            of_precision = [curve for curve in curves if curve["precision"] == precision]
            first = of_precision[0]
            (this,) = (
                c
                for c in of_precision
                if (c["workers"], c["micro_batch_size"]) == (workers, micro_batch_size)
            )
            apart = dict(zip(MEASURES, _apart(this, first), strict=True))
            row[precision] = apart | {"within_bounds": all(apart[key] <= bounds[key] for key in MEASURES)}
        rows.append(row)
    return rows


def _apart(curve: Curve, first: Curve) -> tuple[float, float, float]:
    pairs = zip(curve["losses"], first["losses"], strict=True)
    losses = [abs(loss / expected - 1) for loss, expected in pairs]
    gradient, expected = (torch.tensor(c["first_gradient"], dtype=torch.float64) for c in (curve, first))
    return max(losses), losses[0], float((gradient - expected).abs().max() / expected.abs().max())


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the deviations and, in the last line, what they are bounded by."""
    keys = [(precision, key) for precision in BOUNDS for key in MEASURES]
    print(f"{'workers':>7} {'m':>5}" + "".join(f"{f'{p} {k}':>24}" for p, k in keys))
    for row in rows:
        cells = "".join(f"{row[precision][key]:>24.1e}" for precision, key in keys)
        print(f"{row['workers']:>7} {row['micro_batch_size'] or 'share':>5}{cells}")
    print(f"{'bound':>13}" + "".join(f"{BOUNDS[precision][key]:>24.0e}" for precision, key in keys))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        work(arguments.rank, arguments.folder, arguments)
        return
    curves = curves_of_all(sys.argv[1:])
    rows = deviations(curves)
    print_table(rows)
    for curve in curves:
        del curve["first_gradient"]
    settings = {key: getattr(arguments, key) for key in ("steps", "dropout", "seed")}
    settings |= {"pairs": PAIRS, "captions": CAPTIONS, "classes": CLASSES, "batch": BATCH, "threads": 1}
    result = {"settings": settings, "bounds": BOUNDS, "rows": rows, "curves": curves}
    write(provenance(__file__, sys.argv[1:], ["torch", "transformers", "peft"]) | result, arguments.output)
    if not all(row[precision]["within_bounds"] for row in rows for precision in BOUNDS):
        raise SystemExit("a factorisation is out of bounds")


if __name__ == "__main__":
    main()
