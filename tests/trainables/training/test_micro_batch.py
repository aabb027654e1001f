"""The cut is measured, fits its budget, and changes no result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from float64 import SAME, trials_in_float64

from trainables.config import TrialConfig, from_flat
from trainables.context import LocalContext
from trainables.data.loader import global_batches
from trainables.losses.collectives import OutOfMemory
from trainables.models.encoders.dual_encoder import ImageFeatures, Tokens
from trainables.models.encoders.saved_bytes import saved_bytes
from trainables.training.loop import STEPS_FILE
from trainables.training.micro_batch import Cut, TowerCost, choose_cut, in_pieces, memory_budget
from trainables.training.objective import BatchEncoder, Objective
from trainables.training.optim import TrainState
from trainables.training.trial_setup import set_up_trial
from trainables.trials.finetune import finetune

pytestmark = pytest.mark.kernels

SMALL = {
    "data.dataset": "phantom",
    "data.phantom.num_train": 46,
    "data.phantom.num_val": 12,
    "data.phantom.num_test": 12,
    "data.num_views": 1,
    "encoder.image_size": 32,
    "lora.dropout": 0.1,
    "lora.towers": "both",
    "global_batch_size": 24,
    "num_epochs": 2,
    "execution.evaluate_every_epochs": 0,
}


@pytest.fixture
def store(new_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store for trials in float64."""
    trials_in_float64(monkeypatch)
    return new_store


def small(**changes: object) -> TrialConfig:
    return from_flat(SMALL | {key.replace("__", "."): value for key, value in changes.items()})


@pytest.mark.parametrize(
    ("budget", "micro_batch_size", "expected"),
    [
        (100 * 10 + 20 * 5, None, Cut(None, 1)),  # all of it fits: the plain step
        (600, None, Cut(15, 4)),  # four graphs of 15 images, 10 bytes each
        (599, 7, Cut(7, 8)),  # eight of 7 images make 560, a ninth 630
        (1069, 7, Cut(7, 16)),  # 14 full ones, the tail of 2, and of the captions one of 35 bytes
        (9, None, Cut(1, 1)),  # nothing fits: the smallest, and out-of-memory will tell
        (1e9, 7, Cut(7, 15 + 3)),  # all kept, though in pieces
    ],
)
def test_graphs_fit_the_budget(budget: float, micro_batch_size: int | None, expected: Cut) -> None:
    towers = TowerCost(num_rows=100, bytes_per_row=10), TowerCost(num_rows=20, bytes_per_row=5)
    assert choose_cut(budget, *towers, micro_batch_size=micro_batch_size) == expected


def test_a_frozen_tower_holds_no_graph() -> None:
    frozen, trained = TowerCost(num_rows=100, bytes_per_row=0), TowerCost(num_rows=20, bytes_per_row=5)
    assert choose_cut(40, frozen, trained) == Cut(2, 4)


def test_saved_bytes_counts_each_storage_once_and_no_weight() -> None:
    weight = torch.randn(8, 8, requires_grad=True)
    inputs = torch.randn(5, 8)
    with saved_bytes([weight]) as total:
        hidden = (inputs @ weight).exp()  # saves the inputs and its own result
        hidden.sin().sum()  # saves that result again
    assert total == [2 * 5 * 8 * 4]


def test_a_configured_budget_counts_before_what_is_free() -> None:
    cpu = torch.device("cpu")
    assert memory_budget(cpu, budget_gb=0.5, num_sharing=4) == 2**29
    alone = memory_budget(cpu, budget_gb=None, num_sharing=1)
    assert 2**20 < alone < 2**50
    assert memory_budget(cpu, budget_gb=None, num_sharing=4) == pytest.approx(alone / 4, rel=0.2)


def test_a_small_budget_is_kept_and_the_result_is_the_same(tmp_path: Path, store: Path) -> None:
    whole = small()
    setup = set_up_trial(whole, LocalContext(tmp_path, store))
    objective = Objective(setup, whole, LocalContext(tmp_path, store))
    setup.encoder.train()
    batch = next(global_batches(setup.dataset, whole))
    assert objective.choose_cut(batch) == Cut(None, 1)
    pairs = BatchEncoder(setup, batch, objective.texts, whole.seed)
    weights = [*setup.encoder.parameters(), *setup.encoder.buffers()]
    with saved_bytes(weights) as everything:
        embedded = pairs.encode_images(range(24)), pairs.encode_texts(range(5))
    del embedded
    budget_gb = everything[0] / 2**30 / 3

    tight = small(execution__memory_budget_gb=budget_gb)
    objective = Objective(setup, tight, LocalContext(tmp_path, store))
    cut = objective.choose_cut(batch)
    assert cut.micro_batch_size is not None
    assert 1 <= cut.micro_batch_size * cut.kept_graphs < 24
    with saved_bytes(weights) as kept:  # images first, so all kept graphs are of theirs
        graphs = pairs.encode_images(range(cut.micro_batch_size * cut.kept_graphs))
    del graphs
    assert budget_gb * 2**30 / 2 < kept[0] <= budget_gb * 2**30
    parameters = list(objective.parameters.values())
    gradients = []
    for one in (Cut(None, 1), cut):
        objective.step(batch, micro_batch_size=one.micro_batch_size, kept_graphs=one.kept_graphs)
        gradients.append([p.grad.clone() for p in parameters if p.grad is not None])
        for parameter in parameters:
            parameter.grad = None
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=SAME)


def test_memory_that_runs_out_is_written_down_and_changes_no_loss(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run(name: str) -> tuple[list[float], list[dict[str, float]]]:
        folder = tmp_path / name
        folder.mkdir()
        shutil.rmtree(store / "adapters", ignore_errors=True)  # or it would not be trained again
        context = LocalContext(folder, store)
        finetune(small(), context)
        lines = (folder / STEPS_FILE).read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines], context.reported

    undisturbed, reported = run("undisturbed")
    assert reported[-1]["perf/micro_batch_size"] == 24  # the whole batch
    encode = BatchEncoder.encode_images

    def small_memory(self: BatchEncoder, rows: range) -> torch.Tensor:
        if len(rows) > 8 and self.batch.step >= 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, rows)

    monkeypatch.setattr(BatchEncoder, "encode_images", small_memory)
    disturbed, reported = run("disturbed")
    assert disturbed == pytest.approx(undisturbed, rel=SAME)
    assert reported[-1]["perf/micro_batch_size"] == 5  # the tail of 22, halved and again
    assert "changed Cut(micro_batch_size=None, kept_graphs=1) to Cut(micro_batch_size=5" in caplog.text


CUDNN = "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"


def test_images_are_embedded_in_smaller_pieces_once_memory_runs_out(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = set_up_trial(small(), LocalContext(tmp_path, store))
    images, words = np.arange(22), ["clear lungs", "an opacity", "an effusion"]
    expected = setup.embed_images(images), setup.embed_texts(words)
    encode_image, encode_text = setup.encoder.encode_image_suffix, setup.encoder.encode_text
    sizes: list[int] = []

    def few_images(activations: torch.Tensor, cut: int) -> ImageFeatures:
        sizes.append(len(activations))
        if len(activations) > 6:
            raise RuntimeError(CUDNN)
        return encode_image(activations, cut)

    def one_text(tokens: Tokens) -> torch.Tensor:
        if len(tokens.input_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode_text(tokens)

    monkeypatch.setattr(setup.encoder, "encode_image_suffix", few_images)
    monkeypatch.setattr(setup.encoder, "encode_text", one_text)
    found = setup.embed_images(images)
    assert sizes == [22, 11, 5, 5, 5, 5, 2]
    for one, other in ((found.joint, expected[0].joint), (setup.embed_texts(words), expected[1])):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)  # computed in float64, given in float32


def test_an_image_that_does_not_fit_says_so_and_other_errors_are_not_retried() -> None:
    def too_much(rows: np.ndarray) -> None:
        raise RuntimeError(CUDNN)

    def broken(rows: np.ndarray) -> None:
        raise RuntimeError(f"broken at {len(rows)}")

    with pytest.raises(OutOfMemory, match="1 at a time do not fit: cuDNN error"):
        in_pieces(too_much, np.arange(5), 4)
    with pytest.raises(RuntimeError, match="broken at 4"):
        in_pieces(broken, np.arange(5), 4)


def test_an_optimiser_that_does_not_fit_ends_the_trial_as_out_of_memory(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(self: TrainState) -> float:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(TrainState, "apply_gradients", no_room)
    (tmp_path / "run").mkdir()
    with pytest.raises(OutOfMemory, match="CUBLAS_STATUS_ALLOC_FAILED"):
        finetune(small(), LocalContext(tmp_path / "run", store))
