"""Weights that come, or are exchanged, while a driver runs: its trials stand on those of its first look."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.driver.controller import Controller
from orchestrator.driver.executor import Executor
from orchestrator.driver.observer import SweepObserver
from orchestrator.driver.signals import StopRequest
from orchestrator.driver.sweep import open_controller
from orchestrator.driver.sweep_options import SweepOptions, share_machine
from orchestrator.planning.pinned_weights import PinnedWeights
from orchestrator.results.arms import finished_arms
from orchestrator.search.space_file import read_space
from orchestrator.storage.events import SweepStarted
from orchestrator.storage.ledger import Ledger, TrialState
from orchestrator.worker.trial_spec import TrialRecord, TrialSpec
from trainables.artifacts import atomic_directory
from trainables.config import from_flat
from trainables.errors import DataError, WeightsUnavailable
from trainables.models.catalogue.registry import ENCODERS
from trainables.models.files.weights import needed_parts, part_folder

SPACE = read_space(
    {
        "name": "seeds",
        "arms": [{"name": "adapted"}],
        "repeat": {"seed": [0, 1, 2]},
        "fixed": {
            "encoder.name": "gloria",
            "data.phantom.num_train": 12,
            "data.phantom.num_val": 6,
            "data.phantom.num_test": 6,
        },
    }
)
"""One frozen trial, then an arm of three."""


def convert(content: str) -> None:
    """Puts GLoRIA's parts there, as far as they are looked at before they are loaded."""
    for part in needed_parts(ENCODERS["gloria"]):
        with atomic_directory(part_folder("gloria", part)) as aside:
            (aside / "model.safetensors").write_text(content)


class ConvertsMeanwhile(SweepObserver):
    """Converts the weights once the first seed of the arm has missed them."""

    def on_trial_failed(self, trial: TrialState) -> None:
        if trial.name == "adapted":
            convert("here")


@contextmanager
def driver(
    folder: Path, observer: SweepObserver | None = None, *, resumes: bool = False
) -> Iterator[Controller]:
    options = SweepOptions(resumes=resumes, retry_failed=True)
    with Ledger(folder) as ledger:
        controller = open_controller(SPACE, options, ledger, observer or SweepObserver(), folder=folder)
        if not resumes:
            controller.record(SweepStarted(name="s", space=SPACE.to_dict(), objective=SPACE.objective))
        yield controller


def next_trial(controller: Controller) -> TrialSpec | None:
    options = SweepOptions()
    executor = Executor(controller, SPACE, options, StopRequest())
    return controller.next_trial(executor.template(share_machine(SPACE, options)))


def run_all(controller: Controller) -> list[str]:
    """Lets every trial that is placed finish; returns their names."""
    names = []
    while (spec := next_trial(controller)) is not None:
        names.append(controller.state.trials[spec.trial_key].name)
        controller.ended(spec.trial_key, TrialRecord(1.0, {SPACE.objective: 0.5}))
    return names


def test_weights_that_come_while_a_driver_runs_are_for_the_next_one(home: Path, tmp_path: Path):
    with driver(tmp_path, ConvertsMeanwhile()) as controller:
        assert run_all(controller) == []
        trials = controller.state.trials.values()
        assert [trial.status for trial in trials] == ["unavailable"] * 4
        assert [trial.inputs[-1].model for trial in trials] == [None] * 4
    with driver(tmp_path, resumes=True) as controller:
        assert run_all(controller) == ["frozen encoder", *["adapted"] * 3]
        _, arm = finished_arms(controller.state)
        assert [trial.attempts for trial in arm] == [2, 2, 2]
    with driver(tmp_path, resumes=True) as controller:
        assert run_all(controller) == []
        assert len(controller.state.trials) == 4


def test_weights_that_are_exchanged_while_a_driver_runs_fail_its_trials_till_they_are_back(
    home: Path, tmp_path: Path
):
    convert("one")
    with driver(tmp_path) as controller:
        first = next_trial(controller)
        convert("another")
        controller.ended(first.trial_key, TrialRecord(1.0, {SPACE.objective: 0.5}))
        assert run_all(controller) == []
        _, *others = controller.state.trials.values()
        assert [(trial.cause, trial.inputs[-1].model) for trial in others] == [("user_error", None)] * 3
        assert "gloria: its weights changed during the sweep" in others[0].message
    refused = pytest.raises(DataError, match=r"the weights of gloria .* Undo the change")
    with refused, driver(tmp_path, resumes=True):
        pass
    convert("one")
    with driver(tmp_path, resumes=True) as controller:
        assert run_all(controller) == ["adapted"] * 3
        models = {trial.inputs[-1].model for trial in controller.state.trials.values()}
        assert models == {first.model_fingerprint}


def test_a_retry_is_refused_what_its_first_attempt_did_not_have(home: Path, tmp_path: Path):
    convert("one")
    with driver(tmp_path) as controller:
        first = next_trial(controller)
        controller.failed(first.trial_key, "process_died", "killed")
        convert("another")
        assert run_all(controller) == []
        trial = controller.state.trials[first.trial_key]
        assert [each.model for each in trial.inputs] == [first.model_fingerprint, None]
        assert (trial.status, trial.cause) == ("failed", "user_error")


def test_what_is_not_here_says_how_it_is_had(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = "flaviagiammarino/pubmed-clip-vit-base-patch32"
    with pytest.raises(WeightsUnavailable, match=rf"models fetch {name} --revision COMMIT.*--retry-failed"):
        PinnedWeights().check(from_flat({"encoder.name": name, "encoder.revision": "1" * 40}))


def test_a_captioner_is_looked_at_once_too(tmp_path: Path):
    config = from_flat({"data.captions": "blip_label", "captioner.name": str(tmp_path)})
    weights, looks = tmp_path / "model.safetensors", [PinnedWeights(), PinnedWeights()]
    found = [looks[0].identify(config)]
    weights.write_text("one")
    looks[1].identify(config)
    assert looks[0].identify(config) == found[0]
    with pytest.raises(
        WeightsUnavailable, match=rf"{tmp_path}: its weights were not on this .*--retry-failed"
    ):
        looks[0].check(config)
    looks[1].check(config)
    weights.write_text("another")
    with pytest.raises(DataError, match=rf"{tmp_path}: its weights changed"):
        looks[1].check(config)
    looks[0].check(config.model_copy(update={"data": from_flat({}).data}))  # which reads no captions


@pytest.mark.parametrize("name", ["not mounted", "a/b/c", "~/blip"])
def test_a_captioners_folder_that_is_gone_is_no_mishap_of_the_whole_sweep(tmp_path: Path, name: str):
    gone = {"data.captions": "blip_label", "captioner.name": str(tmp_path / name) if " " in name else name}
    config, look = from_flat(gone), PinnedWeights()
    assert look.identify(config).captioner is None
    with pytest.raises(WeightsUnavailable, match="its weights were not on this machine"):
        look.check(config)


def test_a_captioners_folder_that_goes_later_is_for_its_trials_to_say(tmp_path: Path):
    folder = tmp_path / "blip"
    folder.mkdir()
    (folder / "model.safetensors").write_text("one")
    config, look = from_flat({"data.captions": "blip_label", "captioner.name": str(folder)}), PinnedWeights()
    look.check(config)
    folder.rename(tmp_path / "elsewhere")
    look.check(config)
