"""Memory of a step: it does not follow the batch, and too little of it ends no process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from clip_step import CONTENDERS, Batch, RowsOfBatch, Step
from measure import MIB, LiveTensors, limited_gpu, peak_of_tensors_mib
from random_encoders import Model, build_encoder, write_checkpoint

from gpu_lines.row import Row, Settings
from gpu_lines.training import tf32
from trainables.config import LossConfig, from_flat
from trainables.context import LocalContext
from trainables.data.loader import global_batches
from trainables.losses.batch_plan import BatchPlan
from trainables.losses.collectives import OutOfMemory
from trainables.losses.global_batch import StepResult, global_batch_step
from trainables.training.classifier_loop import Fitting
from trainables.training.trial_setup import TrialSetup, set_up_trial

GROWTH = 1.10
SAME_LOSS = 1e-6
CAP_MIB = 8 * 1024
CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


def any_batch(settings: Settings, row: Row) -> None:
    """Takes a step of ever larger batches, always in micro-batches of the same size."""
    model: Model = settings.choose("vit-b-32", small="tiny")
    size = settings.choose(64, small=32)
    encoder, parameters = build_encoder(model, dropout=0.1, seed=0, device=settings.device)
    sizes = settings.choose((128, 1024, 8192, 16_384), quick=(128, 8192), small=(64, 256))
    few = Batch.random(encoder, pairs=size, captions=size, tokens=16, seed=0)
    peaks: dict[int, float] = {}
    for pairs in (size, *sizes):  # the first one is a warm-up: libraries allocate their workspace
        step = Step(encoder, parameters, repeated(few, pairs), size, kept_graphs=1, seed=0)
        for parameter in parameters:
            parameter.grad = None
        with tf32(True):  # takes the same memory in a quarter of the time
            mib = peak_of_tensors_mib(lambda step=step: CONTENDERS["ours"].take(step), settings.device)
        peaks[pairs] = mib - embeddings_mib(pairs, encoder.joint_dim)
    row.note(micro_batch_size=size, mib={pairs: peaks[pairs] for pairs in sizes})
    measured = [peaks[pairs] for pairs in sizes]
    row.require("largest_over_smallest", max(measured) / min(measured), at_most=GROWTH)


def repeated(few: Batch, pairs: int) -> Batch:
    """Returns so many pairs made of the same images and tokens, each caption counted as another."""
    copies = -(-pairs // len(few))
    images, token_ids = few.images.repeat(copies, 1, 1), few.token_ids.repeat(copies, 1)
    return Batch(images[:pairs], token_ids[:pairs], torch.arange(pairs))


def embeddings_mib(pairs: int, dimension: int) -> float:
    """Returns what both towers' embeddings and their gradients take, which has to grow with the batch."""
    return 4 * pairs * dimension * 4 / MIB


def too_little(settings: Settings, row: Row) -> None:
    """Lets memory run out in a step, in an embedding and in a classifier, and looks what is left of them."""
    with TemporaryDirectory() as folder:
        a_step(settings, row)
        an_embedding(settings, row, Path(folder))
        a_classifier(settings, row, Path(folder))


def capped(settings: Settings, *, on_cpu: float) -> AbstractContextManager[Any]:
    """Limits memory meanwhile: of a GPU to what a small card has, of a CPU to so many MiB of tensors."""
    if settings.on_gpu:
        return limited_gpu(CAP_MIB, settings.device)
    return LiveTensors(on_cpu * MIB)


def a_step(settings: Settings, row: Row) -> None:
    """Compares a step that had to be cut, by a limit and by an error of cuBLAS, with one that was not."""
    model: Model = settings.choose("vit-b-32", small="tiny")
    encoder, parameters = build_encoder(model, dropout=0.1, seed=0, device=settings.device)
    pairs = settings.choose(512, quick=256, small=128)
    batch = Batch.random(encoder, pairs=pairs, captions=16, tokens=16, seed=0)

    def step(rows: RowsOfBatch, micro_batch_size: int | None) -> StepResult:
        for parameter in parameters:
            parameter.grad = None
        return global_batch_step(
            rows,
            BatchPlan(batch.text_of_pair, batch.text_of_pair),
            LossConfig(kind="clip"),
            log_logit_scale=encoder.log_logit_scale,
            parameters=parameters,
            micro_batch_size=micro_batch_size,
        )

    with tf32(False):
        expected = step(RowsOfBatch(encoder, batch, seed=0), settings.choose(32, small=8))
        with capped(settings, on_cpu=160):
            limited = step(RowsOfBatch(encoder, batch, seed=0), None)
        failing = step(FailsOnce(encoder, batch, seed=0), settings.choose(32, small=8))
    for name, result in {"limited": limited, "cublas": failing}.items():
        row.require(f"{name}_loss", abs(result.loss / expected.loss - 1), at_most=SAME_LOSS)
        row.require(f"{name}_micro_batch", result.micro_batch_size or pairs, at_most=pairs // 2)


class FailsOnce(RowsOfBatch):
    """Rows whose third encoding fails as cuBLAS does where its workspace does not fit."""

    calls = 0

    def encode_images(self, rows: range) -> torch.Tensor:
        """Returns joint embeddings, but the third time."""
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError(CUBLAS)
        return super().encode_images(rows)


def an_embedding(settings: Settings, row: Row, folder: Path) -> None:
    """Embeds images with a large encoder, whose usual 256 rows at a time do not fit."""
    model: Model = settings.choose("vit-l-14-336", small="tiny")
    (folder / "encoder").mkdir()
    write_checkpoint(model, folder / "encoder")
    images = settings.choose(256, small=16)
    config = from_flat(phantom(images) | {"encoder.name": str(folder / "encoder"), "lora.num_blocks": None})
    context = LocalContext(folder, folder / "store", device=str(settings.device))
    setup = set_up_trial(config, context)
    sizes = seen_sizes(setup)
    with capped(settings, on_cpu=4):
        embedded = setup.embed_images(setup.dataset.indices("train"))
    row.note(images_at_a_time=sizes)
    row.require("embedded_images", len(embedded.joint), equals=images)
    row.require("largest_piece", sizes[-1], at_most=images // 2)
    row.require("embedding_norm", float((embedded.joint.norm(dim=1) - 1).abs().max()), at_most=1e-3)


def seen_sizes(setup: TrialSetup) -> list[int]:
    """Returns a list that will hold the rows of every piece that is tried."""
    sizes: list[int] = []
    encode: Callable[..., Any] = setup.encoder.encode_image_suffix

    def seen(activations: torch.Tensor, cut: int) -> Any:
        sizes.append(len(activations))
        return encode(activations, cut)

    setup.encoder.encode_image_suffix = seen  # pyright: ignore[reportAttributeAccessIssue]
    return sizes


def a_classifier(settings: Settings, row: Row, folder: Path) -> None:
    """Trains ResNet-18 on a batch that batch norm needs whole; it fits, or one message says what to do."""
    pairs = settings.choose(1024, small=16)
    config = from_flat(
        phantom(pairs)
        | {
            "adapt.method": "baseline",
            "baseline.from_scratch": True,
            "baseline.image_size": settings.choose(224, small=32),
            "global_batch_size": pairs,
        }
    )
    fitting = Fitting(config, LocalContext(folder, folder / "store", device=str(settings.device)))
    batch = next(global_batches(fitting.dataset, config))
    with capped(settings, on_cpu=30):
        try:
            row.note(resnet18_loss=fitting.step(batch))
        except OutOfMemory as error:
            row.note(resnet18_refused=str(error))
            row.require("names_the_setting", "lower global_batch_size" in str(error), equals=True)
    smaller = config.model_copy(update={"global_batch_size": pairs // 8})
    with capped(settings, on_cpu=500):
        loss = fitting.step(next(global_batches(fitting.dataset, smaller)))
    row.require("next_loss_is_finite", bool(np.isfinite(loss)), equals=True)


def phantom(images: int) -> dict[str, Any]:
    """Returns the settings of a data set of so many train images."""
    return {
        "data.phantom.num_train": images,
        "data.phantom.num_val": 6,
        "data.phantom.num_test": 6,
        "data.augmentation": "none",
    }
