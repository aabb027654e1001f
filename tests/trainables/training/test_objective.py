"""Every loss kind trains through the product's own path, on the real default encoder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables.config import LossKind, TrialConfig, from_flat
from trainables.context import LocalContext
from trainables.data.loader import global_batches
from trainables.models.adapters.adapter_files import load_adapter
from trainables.training.loop import STEPS_FILE
from trainables.training.objective import Objective
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
    "global_batch_size": 16,
    "num_epochs": 4,
    "optim.learning_rate": 3e-3,
    "execution.evaluate_every_epochs": 0,
    "loss.logit_scale": 10.0,
}
KINDS: list[LossKind] = [
    "clip", "multi_positive", "soft_target", "siglip", "class_prompt", "cross_entropy",
]  # fmt: skip


def small(**changes: object) -> TrialConfig:
    return from_flat(SMALL | {key.replace("__", "."): value for key, value in changes.items()})


def context(folder: Path, store: Path) -> LocalContext:
    folder.mkdir(exist_ok=True, parents=True)
    return LocalContext(workdir=folder, store=store)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_loss_goes_down_towards_its_floor(kind: LossKind, tmp_path: Path, store: Path) -> None:
    settings: dict[str, Any] = {"loss__positives": "caption"} if kind == "soft_target" else {}
    if kind == "class_prompt":  # at 3e-3 all embeddings collapse into one
        settings["optim__learning_rate"] = 1e-3
    config = small(loss__kind=kind, **settings)
    reported = context(tmp_path, store)
    finetune(config, reported)
    losses = [json.loads(line)["loss"] for line in (tmp_path / STEPS_FILE).read_text().splitlines()]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.05
    assert all(epoch["train/loss"] > epoch["train/loss_floor"] >= 0 for epoch in reported.reported)


def objective_of(config: TrialConfig, folder: Path, store: Path) -> Objective:
    setup = set_up_trial(config, context(folder, store))
    return Objective(setup, config, context(folder, store))


def test_the_losses_own_parameters_train_too(tmp_path: Path, store: Path) -> None:
    for kind, name in (("siglip", "loss.logit_bias"), ("cross_entropy", "loss.class_vectors")):
        config = small(loss__kind=kind)
        objective = objective_of(config, tmp_path, store)
        objective.step(next(global_batches(objective.setup.dataset, config)), micro_batch_size=5)
        gradient = objective.parameters[name].grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    "kind", [kind if kind == "soft_target" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_every_kind_of_loss_goes_down_with_several_findings(
    kind: LossKind, tmp_path: Path, store: Path
) -> None:
    """The same batch again and again, so that only the steps change the loss."""
    config = small(data__dataset="phantom_findings", loss__kind=kind, lora__towers="both")
    objective = objective_of(config, tmp_path, store)
    batch = next(global_batches(objective.setup.dataset, config))
    optimizer = torch.optim.AdamW(objective.parameters.values(), lr=1e-3)
    losses: list[float] = []
    for _ in range(8):
        optimizer.zero_grad()
        result = objective.step(batch, micro_batch_size=5)
        assert result.loss > result.floor >= 0
        losses.append(result.loss)
        optimizer.step()
    assert losses[-1] < losses[0] - 0.02


@pytest.mark.parametrize("kind", ["class_prompt", "cross_entropy"])
def test_a_loss_over_findings_starts_near_the_entropy_of_their_frequencies(
    kind: LossKind, tmp_path: Path, store: Path
) -> None:
    config = small(data__dataset="phantom_findings", loss__kind=kind, global_batch_size=46)
    objective = objective_of(config, tmp_path, store)
    batch = next(global_batches(objective.setup.dataset, config))
    assert batch.labels is not None
    share = (batch.labels == 1).mean(0).clip(0.01, 0.99)
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share)).mean()
    assert objective.logit_bias is not None
    np.testing.assert_allclose(objective.logit_bias.detach().sigmoid().numpy(), share, atol=0.02)
    assert objective.step(batch, micro_batch_size=None).loss == pytest.approx(entropy, rel=0.5)


def test_class_losses_ask_for_every_class_whatever_is_in_the_batch(tmp_path: Path, store: Path) -> None:
    """No batch dependence: the loss of a batch is the mean over its images, taken alone."""
    config = small(loss__kind="class_prompt", lora__towers="both", lora__dropout=0.0)
    objective = objective_of(config, tmp_path, store)
    batch = next(global_batches(objective.setup.dataset, config))

    def part(places: np.ndarray):
        return type(batch)(
            batch.step, batch.epoch, batch.indices[places], batch.views[places],
            [batch.captions[i] for i in places], batch.classes[places],
        )  # fmt: skip

    whole = objective.step(batch, micro_batch_size=None).loss
    alone = [objective.step(part(np.array([i])), micro_batch_size=None).loss for i in range(len(batch))]
    assert whole == pytest.approx(np.mean(alone), rel=1e-5)  # sums of float32, 6e-8 a rounding


def test_soft_targets_compare_captions_as_they_were_before_training(tmp_path: Path, store: Path) -> None:
    config = small(loss__kind="soft_target", loss__positives="caption", lora__towers="both")
    objective = objective_of(config, tmp_path, store)
    assert objective.compared is not None
    before = {caption: vector.clone() for caption, vector in objective.compared.known.items()}
    for parameter in objective.setup.adaptation.parameters.values():
        torch.nn.init.normal_(parameter, std=0.05)
    batch = next(global_batches(objective.setup.dataset, config))
    assert set(batch.captions) <= before.keys()
    after = objective.compared.of(batch.captions)
    torch.testing.assert_close(after, torch.stack([before[caption] for caption in batch.captions]))


def test_full_fine_tuning_takes_the_same_step_and_is_found_again(tmp_path: Path, store: Path) -> None:
    config = small(
        adapt__method="full", adapt__towers="both", num_epochs=2, execution__micro_batch_size=5,
        optim__learning_rate=3e-4,  # ten times as much collapses the embeddings
    )  # fmt: skip
    reported = context(tmp_path / "run", store)
    finetune(config, reported)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / STEPS_FILE).read_text().splitlines()]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    again = context(tmp_path / "again", store)
    finetune(config, again)
    assert again.reported[-1]["perf/adapter_reused"] == 1
    trained, frozen = set_up_trial(config, again), set_up_trial(small(adapt__method="none"), again)
    assert trained.adapter_folder is not None
    load_adapter(trained.encoder, trained.adapter_folder)
    images = trained.dataset.indices("val")
    moved = (trained.embed_images(images).joint - frozen.embed_images(images).joint).abs().max()
    assert moved > 1e-3
