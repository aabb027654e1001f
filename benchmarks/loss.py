"""The contrastive loss alone, forward and backward: our tiles against one dense matrix of logits.

    python benchmarks/loss.py --batch 16384 --captions 16384 64 --output loss.json

Memory is the high-water mark of the resident set above what inputs and libraries hold, in a fresh process
for each figure; on a GPU it is what tensors take. Time is processor time of all threads, or wall time on a
GPU, alternated between the contenders in one process; what
counts is the ratio within a round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import in_fresh_process, peak_mib, provenance, seconds_of, write
from torch import Tensor

from trainables.losses.batch_plan import BatchPlan
from trainables.losses.collectives import Group
from trainables.losses.contrastive import softmax_loss
from trainables.losses.positives import GroupPositives
from trainables.losses.tiles import GatheredBatch

LOGIT_SCALE = 1 / 0.07
SEED = 0


def dense(images: Tensor, texts: Tensor, text_of_pair: Tensor) -> tuple[Tensor, Tensor]:
    """One matmul, as in Hugging Face's CLIPModel: a row of text per pair, autograd does the rest."""
    images, texts = images.detach().requires_grad_(), texts.detach().requires_grad_()
    logits = LOGIT_SCALE * images @ texts[text_of_pair].T
    pair = torch.arange(len(images), device=images.device)
    loss = (F.cross_entropy(logits, pair) + F.cross_entropy(logits.T, pair)) / 2
    of_images, of_texts = torch.autograd.grad(loss, (images, texts))
    return of_images, of_texts


def tiled(images: Tensor, texts: Tensor, text_of_pair: Tensor) -> tuple[Tensor, Tensor]:
    """Ours: each distinct caption once, 512 × 512 logits at a time."""
    plan = BatchPlan(text_of_pair, text_of_pair)
    batch = GatheredBatch(
        images,
        texts,
        plan,
        range(len(images)),
        range(len(texts)),
        LOGIT_SCALE,
        logit_bias=None,
        tile_size=512,
    )
    positives = GroupPositives.shared_out(plan, pair_weight=1.0)
    gradients = softmax_loss(batch, Group.current(images.device), positives)
    return gradients.images, gradients.texts


CONTENDERS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "dense": dense,
    "tiled": tiled,
}


def inputs(batch: int, captions: int, arguments: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(SEED)
    images = F.normalize(torch.randn(batch, arguments.dimension), dim=1)
    texts = F.normalize(torch.randn(captions, arguments.dimension), dim=1)
    device = arguments.device
    return images.to(device), texts.to(device), (torch.arange(batch) % captions).to(device)


def memory(contender: str, batch: int, captions: int, arguments: argparse.Namespace) -> float:
    """Returns the extra MiB of one step; call in a fresh process."""
    CONTENDERS[contender](*inputs(64, 64, arguments))  # libraries take their workspace here
    tensors = inputs(batch, captions, arguments)
    return peak_mib(lambda: CONTENDERS[contender](*tensors), arguments.device)


def fresh_memory(contender: str, batch: int, captions: int, arguments: argparse.Namespace) -> float:
    options = {"--batch": batch, "--captions": captions, "--dimension": arguments.dimension}
    options |= {"--threads": arguments.threads, "--device": arguments.device, "--memory-of": contender}
    return in_fresh_process(__file__, [str(part) for option in options.items() for part in option])


def compare(batch: int, captions: int, arguments: argparse.Namespace) -> dict[str, object]:
    tensors = inputs(batch, captions, arguments)
    difference = max(
        float((ours - theirs).abs().max() / theirs.abs().max())
        for ours, theirs in zip(tiled(*tensors), dense(*tensors), strict=True)
    )
    rounds = [
        {name: seconds_of(partial(take, *tensors), arguments.device) for name, take in CONTENDERS.items()}
        for _ in range(arguments.rounds)
    ]
    row: dict[str, object] = {
        "batch": batch,
        "captions": captions,
        "max_relative_gradient_difference": difference,
    }
    for name in CONTENDERS:
        row[f"{name}_mib"] = round(fresh_memory(name, batch, captions, arguments), 1)
        row[f"{name}_seconds"] = round(statistics.median(r[name] for r in rounds), 4)
    ratios = sorted(r["tiled"] / r["dense"] for r in rounds)
    return row | {
        "time_ratio": round(statistics.median(ratios), 3),
        "time_ratios": [round(r, 3) for r in ratios],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--captions", type=int, nargs="+", help="distinct captions; default: all, and 64")
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--memory-of", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(memory(arguments.memory_of, arguments.batch[0], arguments.captions[0], arguments))
        return
    print(f"{'B':>6} {'U':>6} {'dense MiB':>10} {'tiled MiB':>10} {'dense s':>9} {'tiled s':>9} {'ratio':>6}")
    rows: list[dict[str, object]] = []
    for batch in arguments.batch:
        for captions in arguments.captions or [batch, 64]:
            row = compare(batch, captions, arguments)
            rows.append(row)
            print(
                f"{batch:>6} {captions:>6} {row['dense_mib']:>10} {row['tiled_mib']:>10} "
                f"{row['dense_seconds']:>9} {row['tiled_seconds']:>9} {row['time_ratio']:>6}",
                flush=True,
            )
    result = provenance(__file__, sys.argv[1:], ["torch"]) | {
        "threads": arguments.threads,
        "dimension": arguments.dimension,
        "seed": SEED,
        "rows": rows,
    }
    write(result, arguments.output)


if __name__ == "__main__":
    main()
