"""Classifiers fine-tuned end to end: ResNet-18 at a size that takes seconds, ViT-B/16 where it is slow."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from float64 import SAME, trials_in_float64
from torch.multiprocessing.spawn import spawn

from trainables.artifacts import about
from trainables.config import BaselineConfig, TrialConfig, from_flat, science
from trainables.context import LocalContext, Metrics
from trainables.data.datasets import load_dataset
from trainables.data.loader import global_batches
from trainables.errors import ConfigError, DataError, WeightsUnavailable
from trainables.launch import LOOPBACK, process_group
from trainables.losses.collectives import OutOfMemory
from trainables.models.catalogue.classifiers import (
    ARCHITECTURES,
    PUBLISHED,
    load_classifier,
    missing_classifier,
    resized_weights,
)
from trainables.models.torchvision_import import declare_missing_operators
from trainables.scoring.finding_metrics import point_finding_metrics
from trainables.scoring.predictions import read_predictions
from trainables.training.classifier_loop import Fitting, best_epoch, class_weights, is_over
from trainables.trials.adapt import adapt
from trainables.trials.baseline import baseline
from trainables.trials.finetune import finetune

pytestmark = pytest.mark.kernels

SYSTEM = "baseline_from_scratch"
SMALL = {
    "data.phantom.num_train": 32,
    "data.phantom.num_val": 48,
    "data.phantom.num_test": 24,
    "data.phantom.lesion_amplitude": 2.0,
    "data.num_views": 2,
    "adapt.method": "baseline",
    "baseline.from_scratch": True,
    "baseline.image_size": 32,
    "global_batch_size": 16,
    "num_epochs": 2,
}


def small(**changes: object) -> TrialConfig:
    return from_flat(SMALL | {key.replace("__", "."): value for key, value in changes.items()})


def steps(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "steps.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def fresh(folder: Path, store: Path) -> LocalContext:
    """A context that shares decoded images with other tests, and no trained weights."""
    (folder / "run").mkdir(parents=True)
    (folder / "store").mkdir()
    (store / "images").mkdir(exist_ok=True)
    (folder / "store" / "images").symlink_to(store / "images")
    return LocalContext(workdir=folder / "run", store=folder / "store")


def test_a_resumed_baseline_repeats_losses_and_predictions(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials_in_float64(monkeypatch)
    clean = fresh(tmp_path / "clean", store)
    expected = adapt(small(), clean)
    assert not any(key.startswith("test/") for key in expected)
    assert expected[f"val/{SYSTEM}/accuracy_low"] <= expected[f"val/{SYSTEM}/accuracy"]
    predictions = read_predictions(clean.workdir / "results" / "predictions.parquet")
    systems = {SYSTEM, "control_prior", "control_thumbnail", "control_border"}
    assert set(predictions) == {(split, system) for split in ("val", "test") for system in systems}
    assert systems == set(json.loads((clean.workdir / "results" / "confusion.json").read_text()))

    class Killed(Exception):
        pass

    class KilledAfterOneEpoch(LocalContext):
        def report(self, metrics: Metrics, checkpoint: Path | None = None) -> None:
            self.checkpoint = checkpoint
            raise Killed

    place = fresh(tmp_path / "killed", store)
    interrupted = KilledAfterOneEpoch(workdir=place.workdir, store=place.store)
    with pytest.raises(Killed):
        baseline(small(), interrupted)
    resumed = replace(place, resume_from=interrupted.checkpoint)
    found = baseline(small(), resumed)
    assert len(steps(clean.workdir)) == 4
    np.testing.assert_allclose(steps(resumed.workdir), steps(clean.workdir), rtol=SAME)
    assert [epoch["train/epoch"] for epoch in resumed.reported] == [1, 2]
    assert found[f"val/{SYSTEM}/nll"] == pytest.approx(expected[f"val/{SYSTEM}/nll"], rel=SAME)


@pytest.mark.slow
def test_a_baseline_learns_and_is_not_trained_twice(tmp_path: Path, store: Path) -> None:
    context = fresh(tmp_path, store)
    config = small(num_epochs=10, global_batch_size=32, data__phantom__num_train=240)
    metrics = adapt(config, context)
    assert metrics[f"val/{SYSTEM}/accuracy"] > metrics["val/control_prior/accuracy"] + 0.15
    assert metrics[f"val/{SYSTEM}/macro_auroc_low"] > 0.6
    assert metrics[f"val/{SYSTEM}/macro_auroc"] == max(
        epoch[f"val/{SYSTEM}/macro_auroc"] for epoch in context.reported
    )  # of the best epoch, not of the last
    (weights,) = (context.store / "baselines").glob("[!.]*")
    assert about(weights)["classes"] == ["COVID-19", "Non-COVID", "Normal"]
    again = LocalContext(workdir=tmp_path / "again", store=context.store)
    again.workdir.mkdir()
    repeated = baseline(config, again)
    assert repeated[f"val/{SYSTEM}/nll"] == pytest.approx(metrics[f"val/{SYSTEM}/nll"], rel=1e-6)
    assert repeated["perf/weights_reused"] == 1.0


@pytest.mark.slow
def test_it_stops_once_val_no_longer_gains(tmp_path: Path, store: Path) -> None:
    context = fresh(tmp_path, store)
    config = small(num_epochs=20, baseline__patience=1, optim__learning_rate=1e-6)  # learns next to nothing
    metrics = baseline(config, context)
    assert len(context.reported) < 20
    assert metrics["train/best_epoch"] == len(context.reported) - 1


def test_the_best_epoch_is_the_first_of_equals_and_ties_go_by_nll() -> None:
    def epochs(*values: tuple[float, float]) -> list[dict[str, float]]:
        return [{"val/b/macro_auroc": auroc, "val/b/nll": nll} for auroc, nll in values]

    assert best_epoch(epochs((0.7, 1.0), (0.8, 0.9), (0.8, 0.9), (0.6, 0.1)), "b") == 1
    assert best_epoch(epochs((0.8, 1.0), (0.8, 0.9)), "b") == 1
    assert is_over(epochs((0.8, 1.0), (0.7, 0.9), (0.7, 0.9)), "b", patience=2)
    assert not is_over(epochs((0.8, 1.0), (0.7, 0.9)), "b", patience=2)
    assert not is_over(epochs((0.8, 1.0), *[(0.1, 2.0)] * 50), "b", patience=None)


def test_class_weights_give_every_class_the_same_sum(xray3_root: Path) -> None:
    config = from_flat({"data.dataset": "covid_qu_ex", "data.root": str(xray3_root)})
    dataset = load_dataset(config.data)
    counts = np.bincount(dataset.class_indices(dataset.indices("train")))
    assert counts.min() < counts.max() / 2
    np.testing.assert_allclose(class_weights(config, dataset) * counts, counts.sum() / 3, rtol=1e-6)
    unweighted = from_flat({"baseline.class_weights": False})
    assert class_weights(unweighted, dataset).tolist() == [1, 1, 1]


def test_the_loss_is_torch_s_weighted_cross_entropy(tmp_path: Path, store: Path) -> None:
    config = small()
    fitting = Fitting(config, fresh(tmp_path, store))
    batch = next(global_batches(fitting.dataset, config))
    fitting.class_weights = torch.tensor([1.0, 5.0, 0.2])
    fitting.model.train()
    logits = fitting.model(fitting._pixels(batch.indices, batch.views))
    expected = torch.nn.CrossEntropyLoss(fitting.class_weights)(logits, torch.from_numpy(batch.classes))
    assert fitting.step(batch) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_a_baseline_learns_findings_by_a_binary_loss(tmp_path: Path, store: Path) -> None:
    config = small(data__dataset="phantom_findings", num_epochs=3)
    fitting = Fitting(config, fresh(tmp_path, store))
    batch = next(global_batches(fitting.dataset, config))
    labels = torch.from_numpy(fitting.dataset.targets(batch.indices))
    fitting.model.train()
    logits = fitting.model(fitting._pixels(batch.indices, batch.views))
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=fitting.class_weights, reduction="none")
    expected = loss(logits, (labels == 1).float())[labels >= 0].mean()
    assert fitting.step(batch) == pytest.approx(float(expected.detach()), rel=1e-5)
    epochs = [epoch for epoch, _ in fitting.epochs()]
    assert {f"val/{SYSTEM}/{metric}" for metric in ("macro_auroc", "macro_ap", "nll")} <= set(epochs[-1])
    scores = fitting.scores(fitting.dataset.indices("val"))
    assert scores.shape == (48, len(fitting.dataset.classes))
    assert np.ptp(scores.sum(axis=1)) > 0
    best = epochs[best_epoch(epochs, SYSTEM)][f"val/{SYSTEM}/macro_auroc"]
    found = point_finding_metrics(scores, fitting.dataset.targets(fitting.dataset.indices("val")))
    assert found["macro_auroc"] == pytest.approx(best)


class Small:
    """A model for which more than so many images are too many."""

    def __init__(self, model: torch.nn.Module, most: int) -> None:
        self.model, self.most = model, most

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > self.most:
            raise RuntimeError("GET was unable to find an engine to execute this computation")
        return self.model(pixels)

    def train(self) -> None:
        self.model.train()


def test_a_batch_that_does_not_fit_is_cut_where_it_may_be_and_counts_once(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials_in_float64(monkeypatch)
    may_be_cut = replace(ARCHITECTURES["resnet18"], is_cut=True)
    monkeypatch.setitem(ARCHITECTURES, "resnet18", may_be_cut)
    losses = []
    for name, most, size in (("expected", 16, 4), ("found", 6, 16)):
        config = small(execution__micro_batch_size=size)
        fitting = Fitting(config, fresh(tmp_path / name, store))
        fitting.model = Small(fitting.model, most)  # pyright: ignore[reportAttributeAccessIssue]
        losses.append([fitting.step(batch) for batch in global_batches(fitting.dataset, config)])
        assert fitting.rows_at_once == 4
    np.testing.assert_allclose(losses[1], losses[0], rtol=SAME)


def test_a_batch_that_batch_norm_needs_whole_is_refused_in_one_message(tmp_path: Path, store: Path) -> None:
    fitting = Fitting(small(), fresh(tmp_path, store))
    fitting.model = Small(fitting.model, 8)  # pyright: ignore[reportAttributeAccessIssue]
    batch = next(global_batches(fitting.dataset, fitting.config))
    with pytest.raises(OutOfMemory, match=r"16 at a time do not fit \(batch norm .* lower global_batch_size"):
        fitting.step(batch)


def test_weights_that_are_not_there_make_it_unavailable(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(WeightsUnavailable, match=r"curl .*resnet18-f37072fd.pth.*from_scratch=true"):
        adapt(small(baseline__from_scratch=False), fresh(tmp_path, store))
    file = tmp_path / "torch" / "hub" / "checkpoints" / ARCHITECTURES["resnet18"].file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not what its name says")
    with pytest.raises(DataError, match="SHA-256 begins with"):
        load_classifier(small(baseline__from_scratch=False).baseline, num_classes=3, seed=0)


@pytest.mark.parametrize("set_to", [{}, {"XDG_CACHE_HOME": "/cache"}, {"TORCH_HOME": "~/torch"}])
def test_weights_are_looked_for_where_torch_keeps_them(
    set_to: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", "/nobody")
    assert f" {torch.hub.get_dir()}/checkpoints/resnet18" in str(missing_classifier(BaselineConfig()))


def test_imagenet_weights_are_torchvision_s_own_and_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare_missing_operators()
    from torchvision import models

    tables = models.ResNet18_Weights, models.ViT_B_16_Weights
    assert [table.IMAGENET1K_V1.url for table in tables] == [
        f"{PUBLISHED}/{architecture.file}" for architecture in ARCHITECTURES.values()
    ]
    file = tmp_path / "hub" / "checkpoints" / "resnet18-pretend.pth"
    file.parent.mkdir(parents=True)
    torch.manual_seed(1)
    pretrained = models.resnet18()
    torch.save(pretrained.state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with file.open("rb") as content:
        import hashlib

        prefix = hashlib.file_digest(content, "sha256").hexdigest()[:8]
    renamed = file.rename(file.with_name(f"resnet18-{prefix}.pth"))
    known = replace(ARCHITECTURES["resnet18"], file=renamed.name)
    monkeypatch.setitem(ARCHITECTURES, "resnet18", known)
    model = load_classifier(from_flat({}).baseline, num_classes=3, seed=0)
    torch.testing.assert_close(
        model.get_parameter("layer4.1.conv2.weight"), pretrained.layer4[1].conv2.weight
    )
    assert model.get_parameter("fc.weight").shape == (3, 512)


def test_a_classifier_is_drawn_from_its_seed_alone() -> None:
    config = small().baseline
    one, same, other = (load_classifier(config, num_classes=3, seed=seed) for seed in (0, 0, 1))
    torch.testing.assert_close(one.get_parameter("fc.weight"), same.get_parameter("fc.weight"))
    assert not torch.equal(one.get_parameter("conv1.weight"), other.get_parameter("conv1.weight"))


def test_what_a_baseline_does_not_read_is_no_part_of_it() -> None:
    settings = science(small())
    assert not {"encoder", "lora", "loss", "probe", "zero_shot", "captioner"} & settings.keys()
    assert "captions" not in settings["data"]
    assert science(small(encoder__name="openai/clip-vit-base-patch32", probe__l2=1.0)) == settings
    assert science(small(baseline__image_size=64)) != settings
    assert "baseline" not in science(from_flat({}))


def test_a_baseline_has_no_encoder_to_fine_tune(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no dual encoder"):
        finetune(small(), LocalContext(workdir=tmp_path, store=tmp_path))


def test_patches_have_to_fill_the_image() -> None:
    with pytest.raises(ValueError, match=r"image_size=40: vit_b_16 .* use 32 or 48"):
        small(baseline__architecture="vit_b_16", baseline__image_size=40)


@pytest.mark.slow
def test_a_batch_of_vit_b_16_may_be_cut(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials_in_float64(monkeypatch)
    settings = {"baseline__architecture": "vit_b_16", "optim__learning_rate": 1e-5, "num_epochs": 1}
    losses = []
    for number, cut in enumerate((None, 5)):
        config = small(**settings, execution__micro_batch_size=cut)
        fitting = Fitting(config, fresh(tmp_path / str(number), store))
        losses.append([fitting.step(batch) for batch in global_batches(fitting.dataset, config)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=SAME)
    assert fitting.num_trainable == sum(p.numel() for p in fitting.state.parameters.values())


@pytest.mark.slow
def test_position_embeddings_are_interpolated_to_smaller_images() -> None:
    declare_missing_operators()
    from torchvision import models

    pretrained = models.vit_b_16().state_dict()
    config = small(baseline__architecture="vit_b_16", baseline__image_size=64).baseline
    resized = resized_weights(dict(pretrained), config)
    assert resized["encoder.pos_embedding"].shape == (1, 1 + 4 * 4, 768)
    torch.testing.assert_close(
        resized["encoder.pos_embedding"][:, 0], pretrained["encoder.pos_embedding"][:, 0]
    )
    assert (
        resized_weights(pretrained, from_flat({"baseline.architecture": "vit_b_16"}).baseline) is pretrained
    )


@pytest.mark.slow
def test_further_workers_wait_and_change_nothing(tmp_path: Path, store: Path) -> None:
    """Two processes as torchrun starts them: the first trains, both report every epoch."""
    alone = fresh(tmp_path / "alone", store)
    baseline(small(), alone)
    shared = fresh(tmp_path / "shared", store)
    meeting = f"file://{tmp_path}/meeting"
    spawn(_work, (str(shared.workdir), str(shared.store), meeting), nprocs=2)
    assert steps(shared.workdir) == pytest.approx(steps(alone.workdir), rel=1e-6)  # the same sums
    assert [(shared.workdir / f"rank-{rank}.txt").read_text() for rank in (0, 1)] == ["2", "2"]


def _work(rank: int, workdir: str, store: str, meeting: str) -> None:
    os.environ |= LOOPBACK
    with process_group("cpu", init_method=meeting, rank=rank, world_size=2):
        context = LocalContext(Path(workdir), Path(store), rank=rank, world_size=2)
        metrics = baseline(small(), context)
        assert bool(metrics) == (rank == 0)
        (Path(workdir) / f"rank-{rank}.txt").write_text(str(len(context.reported)))
