"""How fast a step is beside its peers, and what a whole fine-tune makes of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from clip_step import CONTENDERS, Batch, DropoutSwitch, Step
from measure import seconds_of
from random_encoders import Model, build_encoder, write_checkpoint
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpu_lines.memory import phantom
from gpu_lines.row import Row, Settings
from gpu_lines.training import tf32
from trainables.config import from_flat
from trainables.context import LocalContext
from trainables.losses.collectives import free_memory, is_out_of_memory
from trainables.models.adapters.precision import store_frozen_in_bfloat16
from trainables.training.step_timing import time_step
from trainables.trials.finetune import finetune

SLOWER, FASTER, BUSY = 1.05, 3.0, 0.80
PEERS = ("plain", "gradient_caching", "open_clip", "ours")
SAME_GRADIENT = 1e-4
"""Largest difference of a gradient from gradient caching's, as a share of the largest number: float32."""


def steps(settings: Settings, row: Row) -> None:
    """Times the same batch with every contender, and ours in TF32 and bfloat16 too."""
    model: Model = settings.choose("vit-b-32", small="tiny")
    encoder, parameters = build_encoder(model, dropout=0.1, seed=0, device=settings.device)
    pairs, size = settings.choose(1024, small=16), settings.choose(128, small=8)
    batch = Batch.random(encoder, pairs=pairs, captions=pairs, tokens=24, seed=0)
    step = Step(encoder, parameters, batch, size, kept_graphs=1, seed=0)
    dropout = DropoutSwitch(encoder)
    compare_gradients(step, dropout, row)
    seconds: dict[str, float] = {}
    with tf32(False):
        for name in settings.choose(PEERS, quick=("gradient_caching", "ours")):
            dropout.turn_to(CONTENDERS[name].dropout)
            timed(name, partial(CONTENDERS[name].take, step), settings, row, seconds)
    dropout.turn_to("counter")
    ours = partial(CONTENDERS["ours"].take, step)
    if settings.on_gpu:
        with tf32(True):
            timed("ours_tf32", ours, settings, row, seconds)
    else:
        row.skip("ours_tf32", "a CPU has no TF32")
    store_frozen_in_bfloat16(encoder)
    timed("ours_bfloat16", ours, settings, row, seconds)
    row.note(seconds=seconds, images_per_second={name: pairs / value for name, value in seconds.items()})
    over_caching, speedup = (
        seconds["ours"] / seconds["gradient_caching"],
        seconds["ours"] / seconds["ours_bfloat16"],
    )
    busy = kernel_seconds(ours, settings) / seconds["ours_bfloat16"]
    if settings.on_gpu:
        row.require("ours_over_gradient_caching", over_caching, at_most=SLOWER)
        row.require("bfloat16_speedup", speedup, at_least=FASTER)
        row.require("busy_share", busy, at_least=BUSY)
    else:
        row.note(ours_over_gradient_caching=over_caching, bfloat16_speedup=speedup, operators_share=busy)
        row.skip("bounds on time", "they are a GPU's")


def compare_gradients(step: Step, dropout: DropoutSwitch, row: Row) -> None:
    """Requires that ours and gradient caching compute the same, without dropout, whose masks differ."""
    dropout.turn_to("none")
    gradients: list[torch.Tensor] = []
    with tf32(False):
        for name in ("gradient_caching", "ours"):
            clear(step)
            CONTENDERS[name].take(step)
            parts = [parameter.grad.flatten() for parameter in step.parameters if parameter.grad is not None]
            gradients.append(torch.cat(parts))
    difference = (gradients[1] - gradients[0]).abs().max() / gradients[0].abs().max()
    row.require("gradient_difference", float(difference), at_most=SAME_GRADIENT)


def timed(
    name: str, take: Callable[[], object], settings: Settings, row: Row, seconds: dict[str, float]
) -> None:
    """Adds the median time of a step; one that does not fit is skipped, for its memory is another line's."""
    warm_up, rounds = settings.choose((2, 5), quick=(1, 2), small=(1, 2))
    taken: list[float] = []
    try:
        taken += [seconds_of(take, settings.device) for _ in range(warm_up + rounds)]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        row.skip(name, f"does not fit: {error}".partition("\n")[0])
    else:
        seconds[name] = statistics.median(taken[warm_up:])
    free_memory()


def clear(step: Step) -> None:
    """Forgets the gradients of an earlier step."""
    for parameter in step.parameters:
        parameter.grad = None


def kernel_seconds(take: Callable[[], object], settings: Settings) -> float:
    """Returns the seconds in which a GPU runs kernels and copies of a step, or a CPU its operators."""
    kind, activity = DeviceType.CPU, ProfilerActivity.CPU
    if settings.on_gpu:
        kind, activity = DeviceType.CUDA, ProfilerActivity.CUDA
    with profile(activities=[activity]) as profiler:
        seconds_of(take, settings.device)
    events: Any = profiler.events()
    spans = [event for event in events if event.device_type == kind and not event.is_user_annotation]
    if settings.on_gpu:
        return sum(event.time_range.elapsed_us() for event in spans) / 1e6
    return sum(event.self_cpu_time_total for event in spans) / 1e6


def fine_tune(settings: Settings, row: Row) -> None:
    """Fine-tunes on phantoms, activations cached or not, and compares with the bare step."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "encoder").mkdir()
        model: Model = settings.choose("vit-b-32", small="tiny")
        write_checkpoint(model, folder / "encoder")
        images = settings.choose(512, small=16)
        shared = phantom(images) | {
            "data.augmentation": "light",
            "data.num_views": 2,
            "encoder.name": str(folder / "encoder"),
            "lora.num_blocks": settings.choose(3, small=1),
            "lora.towers": "both",
            "global_batch_size": images // 2,
            "num_epochs": 3,
            "execution.evaluate_every_epochs": 0,
        }
        found: dict[str, float] = {}
        for dropout in (0.0, 0.1):
            for cache, gigabytes in {"cached": 8.0, "live": 0.0}.items():
                changed = {"lora.dropout": dropout, "execution.cache_budget_gb": gigabytes}
                case = f"{cache}_dropout_{dropout:g}"
                found[case] = images_per_second(shared | changed, images, folder / case, settings)
            step = time_step(
                from_flat(shared | {"lora.dropout": dropout}),
                device=str(settings.device),
                num_threads=torch.get_num_threads(),
                store=folder / "store",
            )
            found[f"step_dropout_{dropout:g}"] = 1 / step.seconds_per_pair
    row.note(images_per_second=found)
    row.require(
        "all_finite", all(math.isfinite(value) and value > 0 for value in found.values()), equals=True
    )


def images_per_second(flat: dict[str, Any], images: int, folder: Path, settings: Settings) -> float:
    """Returns the speed of a fine-tune after its first epoch, in which caches fill and libraries warm up."""
    (folder / "work").mkdir(parents=True)
    context = LocalContext(folder / "work", folder / "store", device=str(settings.device))
    finetune(from_flat(flat), context)
    speeds = [epoch["perf/images_per_second"] for epoch in context.reported]  # each over all epochs so far
    ends = [(number + 1) * images / speed for number, speed in enumerate(speeds)]
    return (len(ends) - 1) * images / (ends[-1] - ends[0])
