"""The main trial on the real default encoder, at a size that takes seconds."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from float64 import SAME, trials_in_float64

from trainables.artifacts import about
from trainables.config import TrialConfig, from_flat
from trainables.context import LocalContext, Metrics
from trainables.data.words.shipped import read_shipped
from trainables.data.words.words_file import to_yaml
from trainables.errors import TrainingDiverged
from trainables.scoring.metric_names import ADAPTER_REUSED
from trainables.scoring.predictions import read_predictions
from trainables.training import loop
from trainables.training.frozen_activations import Activations
from trainables.training.loop import STEPS_FILE
from trainables.training.trial_setup import set_up_trial
from trainables.trials.adapt import adapt
from trainables.trials.finetune import finetune

pytestmark = pytest.mark.kernels

SMALL = {
    "data.dataset": "phantom",
    "data.phantom.num_train": 46,  # batches of 8: five full ones and a tail of 6
    "data.phantom.num_val": 24,
    "data.phantom.num_test": 24,
    "data.num_views": 2,
    "encoder.image_size": 32,
    "lora.dropout": 0.1,
    "global_batch_size": 8,
    "num_epochs": 2,
    "optim.learning_rate": 2e-3,
}


@pytest.fixture
def untrained(new_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store without adapters, for trials in float64."""
    trials_in_float64(monkeypatch)
    return new_store


def small(**changes: object) -> TrialConfig:
    return from_flat(SMALL | {key.replace("__", "."): value for key, value in changes.items()})


def run(config: TrialConfig, folder: Path, store: Path, **fields: object) -> tuple[Metrics, LocalContext]:
    folder.mkdir(exist_ok=True, parents=True)
    context = replace(LocalContext(workdir=folder, store=store), **fields)
    return finetune(config, context), context


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / STEPS_FILE).read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def test_a_trial_leaves_everything_a_reviewer_asks_for(tmp_path: Path, store: Path) -> None:
    context = LocalContext(workdir=tmp_path, store=store)
    metrics = adapt(small(), context)
    results = tmp_path / "results"
    predictions = read_predictions(results / "predictions.parquet")
    systems = {system for _, system in predictions}
    assert systems == {"zero_shot_training", "zero_shot_unseen", "probe_joint", "probe_pooled"}
    assert {split for split, _ in predictions} == {"val", "test"}
    assert metrics["val/probe_joint/accuracy_low"] <= metrics["val/probe_joint/accuracy"]
    assert (results / "adapter" / "adapter_model.safetensors").is_file()
    assert about(results / "adapter")["classes"] == ["COVID-19", "Non-COVID", "Normal"]
    assert [reported["train/epoch"] for reported in context.reported] == [1, 2]
    assert "val/probe_joint/macro_auroc" in context.reported[0]  # the objective, at every epoch alike


def test_own_words_share_an_adapter_of_equal_training_words_but_not_its_zero_shot_scores(
    tmp_path: Path, store: Path
) -> None:
    first = LocalContext(workdir=tmp_path / "first", store=store)
    adapt(small(), first)
    assert "val/zero_shot_unseen/nll" in first.reported[0]
    words = read_shipped("covid_qu_ex")
    own = {
        name: of.model_copy(update={"unseen": (f"Case {k}.",), "published": {"Lab": (f"Film {k}.",)}})
        for k, (name, of) in enumerate(words.classes.items())
    }
    path = tmp_path / "own.yaml"
    path.write_text(to_yaml(own, {}))
    families = ["training", "unseen", "published"]
    second = LocalContext(workdir=tmp_path / "second", store=store)
    metrics = adapt(small(data__prompts=path, zero_shot__prompts=families), second)
    assert metrics[ADAPTER_REUSED] == 1.0
    assert not [key for key in second.reported[0] if "/zero_shot_" in key]  # they are of the first prompts
    assert "val/probe_joint/nll" in second.reported[0]
    predictions = read_predictions(tmp_path / "second" / "results" / "predictions.parquet")
    assert {("val", "zero_shot_published"), ("test", "zero_shot_published")} <= predictions.keys()


def test_the_frozen_row_carries_the_controls_and_trains_nothing(tmp_path: Path, store: Path) -> None:
    metrics = adapt(small(adapt__method="none"), LocalContext(workdir=tmp_path, store=store))
    assert metrics["perf/num_trainable_parameters"] == 0
    assert {
        "val/control_prior/accuracy",
        "val/control_thumbnail/accuracy",
        "val/control_border/accuracy",
    } <= set(metrics)
    assert not (tmp_path / "results" / "adapter").exists()


def test_a_trial_whose_embeddings_are_in_the_store_says_so(tmp_path: Path) -> None:
    config = small(adapt__method="none", encoder__image_size=64)
    first, again = (
        adapt(config, LocalContext(workdir=tmp_path / name, store=tmp_path / "store")) for name in ("a", "b")
    )
    assert "perf/embeddings_reused" not in first
    assert again["perf/embeddings_reused"] == 1.0
    assert again["val/probe_joint/nll"] == first["val/probe_joint/nll"]


def test_losses_do_not_depend_on_the_micro_batch(tmp_path: Path, untrained: Path) -> None:
    run(small(), tmp_path / "whole", untrained)
    shutil.rmtree(untrained / "adapters")
    run(small(execution__micro_batch_size=3), tmp_path / "cut", untrained)
    of_whole, of_cut = losses(tmp_path / "whole"), losses(tmp_path / "cut")
    assert len(of_whole) == 12
    np.testing.assert_allclose(list(of_cut.values()), list(of_whole.values()), rtol=SAME)
    assert of_whole[11] < of_whole[0]


def test_a_resumed_run_repeats_the_losses(tmp_path: Path, untrained: Path) -> None:
    run(small(), tmp_path / "clean", untrained)
    shutil.rmtree(untrained / "adapters")
    interrupted = tmp_path / "interrupted"
    interrupted.mkdir()

    class Killed(Exception):
        pass

    class KilledAfterOneEpoch(LocalContext):
        def report(self, metrics: Metrics, checkpoint: Path | None = None) -> None:
            self.checkpoint = checkpoint
            raise Killed

    context = KilledAfterOneEpoch(workdir=interrupted, store=untrained)
    with pytest.raises(Killed):
        finetune(small(), context)
    with (interrupted / STEPS_FILE).open("a") as file:
        file.write('{"step": 6, "loss": 9.0}\n{"step"')  # a later epoch's, which the kill cut short
    _, context = run(small(), interrupted, untrained, resume_from=context.checkpoint)
    assert len((interrupted / STEPS_FILE).read_text().splitlines()) == 12
    assert losses(interrupted) == pytest.approx(losses(tmp_path / "clean"), rel=SAME)
    assert [reported["train/epoch"] for reported in context.reported] == [1, 2]  # its curve is whole
    (adapter,) = (untrained / "adapters").iterdir()
    assert [epoch["train/epoch"] for epoch in about(adapter)["epochs"]] == [1, 2]


def test_a_learning_rate_of_one_is_refused_by_the_step_at_which_training_diverged(
    tmp_path: Path, store: Path
) -> None:
    message = r"diverged at step \d of 12: the embeddings collapsed.*lower optim\.learning_rate \(1\)"
    with pytest.raises(TrainingDiverged, match=message):
        run(small(optim__learning_rate=1.0), tmp_path, store)


def test_a_trained_adapter_is_not_trained_again(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = run(small(seed=5), tmp_path / "a", store)
    monkeypatch.setattr(loop, "run_epochs", lambda *_: pytest.fail("trained again"))
    again, context = run(small(seed=5, probe__l2=1.0), tmp_path / "b", store)
    assert [reported["train/epoch"] for reported in context.reported] == [1, 2]  # its curve is shown again
    assert again == {**first, "perf/adapter_reused": 1.0}


def test_only_adapters_projection_and_scale_move(tmp_path: Path, store: Path) -> None:
    config = small(seed=6)
    context = LocalContext(workdir=tmp_path, store=store)
    setup = set_up_trial(config, context)
    before = {name: p.detach().clone() for name, p in setup.encoder.named_parameters()}
    loop.train_adapter(setup, config, context)
    moved = {name for name, p in setup.encoder.named_parameters() if not p.equal(before[name])}
    assert moved == set(setup.adaptation.parameters)


def test_stored_activations_equal_computed_ones(tmp_path: Path, untrained: Path) -> None:
    setup = set_up_trial(small(), LocalContext(workdir=tmp_path, store=untrained))
    stored: Activations = setup.activations
    live = set_up_trial(
        small(execution__cache_budget_gb=0), LocalContext(workdir=tmp_path, store=untrained)
    ).activations
    assert stored.is_cached
    assert not live.is_cached
    indices, views = setup.dataset.indices("train")[:6], np.array([0, 1, 0, 1, 1, 0])
    # Of values around 10 in float64: convolutions round differently in batches of another size.
    np.testing.assert_allclose(stored.batch(indices, views), live.batch(indices, views), rtol=0, atol=1e-12)
    assert not np.allclose(stored.batch(indices, views), stored.clean(indices))
