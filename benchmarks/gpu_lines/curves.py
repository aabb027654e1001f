"""Trainings that must run alike: on the CPU and on the GPU, however they are cut, and in bfloat16."""

from __future__ import annotations

import torch
from random_encoders import Model

from gpu_lines.row import Row, Settings
from gpu_lines.training import Curve, Recipe, tf32, train

CPU = torch.device("cpu")
CURVE = 1e-4
"""Largest relative deviation of a loss: rounding of float32, a few steps on."""
COSINE, LOSS_IN_BFLOAT16 = 0.99, 0.02


def cpu_and_gpu(settings: Settings, row: Row) -> None:
    """Trains on the CPU at once, and on the device in micro-batches of several sizes."""
    vit_model: Model = settings.choose("vit-b-32-cut", small="tiny")
    vit = Recipe(
        vit_model,
        pairs=settings.choose(80, small=12),
        steps=settings.choose(10, quick=5, small=3),
    )
    lite0_model: Model = settings.choose("lite0", small="lite0-small")
    lite0 = Recipe(  # its ReLUs have kinks: with ten times this rate, rounding alone exceeds the bound
        lite0_model, vit.pairs, vit.steps, learning_rate=1e-3
    )
    sizes = settings.choose((7, 64, None), quick=(7, None), small=(7, None))
    for name, recipe in {"vit": vit, "lite0": lite0}.items():
        if name == "lite0" and settings.is_quick:
            row.skip("lite0", "left out by --quick")
            continue
        expected = train(recipe, CPU, None)
        row.note(**{f"{name}_losses": expected.losses})
        row.require(f"{name}_loss_moves", moved(expected), at_least=10 * CURVE)
        with tf32(False):
            for size in sizes:
                curve = train(recipe, settings.device, size)
                cut = f"{name}_m_{size or 'all'}"
                row.require(cut, curve.largest_deviation(expected), at_most=CURVE)
                row.require(f"{cut}_gradient", curve.gradient_difference(expected), at_most=CURVE)
        if settings.on_gpu:
            with tf32(True):
                deviation = train(recipe, settings.device, None).largest_deviation(expected)
                row.note(**{f"{name}_in_tf32": deviation})
        else:
            row.skip(f"{name}_in_tf32", "a CPU has no TF32")


def bfloat16(settings: Settings, row: Row) -> None:
    """Trains with the product's optimiser twice, the frozen weights in float32 and in bfloat16."""
    model: Model = settings.choose("vit-b-32", small="tiny")
    recipe = Recipe(
        model,
        pairs=settings.choose(64, small=16),
        steps=settings.choose(100, quick=20, small=12),
        batches=4,
        captions=32,
        optimiser="adamw",
        learning_rate=2e-4,
    )
    size = settings.choose(None, small=8)
    with tf32(False):
        exact, near = (
            train(recipe, settings.device, size, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
        )
    cosine = torch.cosine_similarity(near.first_gradient, exact.first_gradient, dim=0)
    row.note(first_loss=exact.losses[0], last_loss=exact.losses[-1])
    row.require("gradient_cosine", float(cosine), at_least=COSINE)
    row.require("loss_deviation", near.largest_deviation(exact), at_most=LOSS_IN_BFLOAT16)
    row.require("loss_moves", moved(exact), at_least=LOSS_IN_BFLOAT16)


def moved(curve: Curve) -> float:
    """Returns how far losses are apart, as a share of the first. Where nothing moves, nothing is compared."""
    return (max(curve.losses) - min(curve.losses)) / curve.losses[0]
