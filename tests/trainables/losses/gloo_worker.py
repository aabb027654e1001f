"""One gloo process of `test_gloo.py`: runs every case of its world size and writes what it saw as JSON.

python gloo_worker.py RANK WORLD_SIZE FOLDER
"""

from __future__ import annotations

import gc
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from contrastive_toys import Toy

from trainables.config import LossConfig
from trainables.losses import collectives, contrastive, towers
from trainables.losses.batch_plan import BatchPlan
from trainables.losses.collectives import Group
from trainables.losses.flat_gradients import FlatGradients
from trainables.losses.global_batch import StepResult, global_batch_step


def run_step(toy: Toy, case: dict[str, Any]) -> StepResult:
    loss = LossConfig(**case.get("loss", {}))
    shares = {
        name: tuple(range(*ends) for ends in case.get(name, ())) for name in ("image_shares", "text_shares")
    }
    plan = BatchPlan(
        toy.text_of_pair,
        toy.groups(loss.positives),
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        num_texts=len(toy.caption_inputs),
        labels=toy.labels,
        **shares,
    )
    return global_batch_step(
        toy,
        plan,
        loss,
        log_logit_scale=toy.log_logit_scale,
        logit_bias=toy.logit_bias,
        group_vectors=toy.group_vectors(loss.positives),
        parameters=toy.parameters,
        micro_batch_size=case.get("micro_batch_size", 3),
        tile_size=5,
    )


def one_step(case: dict[str, Any]) -> dict[str, Any]:
    toy = Toy.make(**case.get("toy", {}))
    result = run_step(toy, case)
    return {**vars(result), "gradients": toy.gradients().tolist()}


def curve(case: dict[str, Any]) -> dict[str, Any]:
    """Ten steps of gradient descent in float32, each on another batch."""
    toy, losses = Toy.make(**case["toy"]).to(torch.float32), []
    for step in range(10):
        other = Toy.make(**{**case["toy"], "seed": step}).to(torch.float32)
        toy.image_inputs, toy.caption_inputs = other.image_inputs, other.caption_inputs
        toy.text_of_pair, toy.classes = other.text_of_pair, other.classes
        losses.append(run_step(toy, case).loss)
        with torch.no_grad():
            for parameter in toy.learned:
                parameter -= 0.3 * (0 if parameter.grad is None else parameter.grad)
                parameter.grad = None
    return {"losses": losses}


def not_a_number(case: dict[str, Any]) -> dict[str, Any]:
    """Only one image of the last rank is not a number."""
    toy = Toy.make()
    toy.image_inputs[-1] = torch.nan
    return refused(toy, case)


def failing_rank(case: dict[str, Any]) -> dict[str, Any]:
    toy = Toy.make()
    if dist.get_rank() == 1:
        toy.encode_texts = lambda rows: 1 / 0
    return refused(toy, case)


def refused(toy: Toy, case: dict[str, Any]) -> dict[str, Any]:
    try:
        run_step(toy, case)
    except Exception as error:
        return {"error": type(error).__name__, "has_gradients": any(p.grad is not None for p in toy.learned)}
    return {"error": None}


def out_of_memory(case: dict[str, Any]) -> dict[str, Any]:
    """Memory runs out once, in one phase, on rank 1 alone."""
    toy = Toy.make(**case.get("toy", {}))
    place, name, on_call = {
        "image": (toy, "encode_images", 2),
        "text": (toy, "encode_texts", 1),
        "gather": (collectives.torch, "cat", 1),
        "normalisers": (contrastive, "NearestCaption", 1),
        "positives": (contrastive, "pull_to_positives", 1),
        "gradients": (contrastive, "add_products", 1),
        "replay": (towers, "check_repeated", 1),
    }[case["phase"]]
    works, calls = getattr(place, name), 0

    def fails_once(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == on_call and dist.get_rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return works(*args, **kwargs)

    setattr(place, name, fails_once)
    try:
        result = run_step(toy, case)
    finally:
        setattr(place, name, works)
    return {**vars(result), "calls": calls, "gradients": toy.gradients().tolist()}


def scaled_rank(case: dict[str, Any]) -> dict[str, Any]:
    """The mutation that the equality tests must catch: one rank's gradient counts one thousandth more."""
    works = FlatGradients.sum_over_ranks

    def scaled(self: FlatGradients, group: Group) -> bool:
        if dist.get_rank() == 1:
            for buffer in self._buffers:
                buffer.mul_(1.001)
        return works(self, group)

    FlatGradients.sum_over_ranks = scaled
    try:
        return one_step(case)
    finally:
        FlatGradients.sum_over_ranks = works


RUNS = {
    run.__name__: run for run in (one_step, curve, not_a_number, failing_rank, out_of_memory, scaled_rank)
}


def main(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    cases: dict[str, dict[str, Any]] = json.loads((folder / f"cases-{world_size}.json").read_text())
    seen: dict[str, Any] = {}
    gc.freeze()  # the engine collects garbage when memory runs out; it need not walk all of torch each time
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous-{world_size}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=200),
    )
    for name, case in cases.items():
        seen[name] = RUNS[case["run"]](case)
    dist.destroy_process_group()
    (folder / f"seen-{world_size}-{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    if (
        int(sys.argv[1]) < 2
    ):  # the first two processes are a group of two as well, without importing torch again
        main(int(sys.argv[1]), 2, Path(sys.argv[3]))
