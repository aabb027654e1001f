"""What a sweep over several nodes makes before its trials: of what, and once on a real cluster."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from narrow_blip import save_narrow_blip
from node_processes import Nodes
from sweep_process import run_driver

from orchestrator.driver import prefetch
from orchestrator.driver.prefetch import describe_and_embed, distinct_inputs
from orchestrator.driver.signals import Stopped, StopRequest
from orchestrator.search.space_file import read_space
from trainables import TRAINABLES
from trainables.artifacts import about
from trainables.config import TrialConfig
from trainables.errors import WeightsUnavailable


class Asked:
    """Stands in for `Pipelines`, which knows Ray."""

    def __init__(self, error: Exception | None = None, stops_after: int | None = None):
        self.error, self.said, self.stops_after = error, list[str](), stops_after
        self.say = self.said.append
        self.captioned, self.embedded = list[TrialConfig](), list[TrialConfig]()

    def caption(self, config: TrialConfig, store: Path) -> None:
        self.captioned.append(config)
        if self.error:
            raise self.error

    def embed(self, config: TrialConfig, store: Path) -> None:
        self.embedded.append(config)
        if self.error:
            raise self.error

    def is_stopping(self) -> bool:
        return len(self.captioned) + len(self.embedded) == self.stops_after

    def of(self, **parts: object) -> "Asked":
        describe_and_embed(read_space({"name": "toy"} | parts), self)
        return self


@pytest.fixture(autouse=True)
def nothing_here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_each_frozen_encoder_that_is_here_is_embedded_once_whatever_the_seed():
    arms = [{"name": "frozen", "adapt.method": "none"}, {"name": "adapted", "adapt.method": "lora"}]
    arms += [{"name": "not here", "encoder.name": "chexzero", "adapt.method": "none"}]
    arms += [{"name": "on the Hub", "encoder.name": "own/er", "adapt.method": "none"}]
    arms += [{"name": "larger", "encoder.image_size": 160, "adapt.method": "none"}]
    asked = Asked().of(arms=arms, repeat={"seed": [0, 1, 2]}, baselines=[])
    assert [config.encoder.image_size for config in asked.embedded] == [None, 160]
    assert {(config.encoder.name, config.adapt.method) for config in asked.embedded} == {
        ("lite0-minilm", "none")
    }
    assert asked.captioned == []


@pytest.fixture
def blip(tmp_path: Path) -> str:
    """As far as anybody looks who does not run it."""
    (tmp_path / "blip").mkdir()
    (tmp_path / "blip" / "model.safetensors").touch()
    return str(tmp_path / "blip")


def test_blip_describes_once_what_several_trials_are_trained_on(blip: str):
    parameters = {"lora.rank": {"choice": [2, 4]}, "data.captions": {"choice": ["template", "blip_label"]}}
    asked = Asked().of(parameters=parameters, fixed={"captioner.name": blip})
    assert [config.data.captions for config in asked.captioned] == ["blip_label"]
    assert len(asked.embedded) == 1  # the baseline
    not_here = Asked().of(parameters=parameters)
    assert (not_here.captioned, len(not_here.embedded)) == ([], 1)


def test_a_captioner_reaches_the_nodes_beside_a_frozen_trial_that_has_none(blip: str):
    fixed = {"data.captions": "blip_label", "captioner.name": blip}
    found = distinct_inputs(read_space({"name": "toy", "fixed": fixed}))
    assert [config.needs_captioner for config in found] == [False, True]


def test_what_fails_is_said_and_left_to_the_trials(blip: str):
    fixed = {"data.captions": "blip_label", "captioner.name": blip}
    asked = Asked(WeightsUnavailable("captioner.name: not here")).of(fixed=fixed)
    assert asked.said[0] == "captions of phantom will be computed by the trials: captioner.name: not here"
    assert len(asked.embedded) == 1
    assert "embeddings of phantom will be computed by the trials: RuntimeError, see ray.log" in (
        Asked(RuntimeError("a page of Ray's")).of(fixed=fixed).said
    )


@pytest.mark.parametrize("stops_after", [0, 1])
def test_stop_is_heard_before_the_next_thing_is_made(blip: str, stops_after: int):
    asked = Asked(stops_after=stops_after)
    with pytest.raises(Stopped):
        asked.of(fixed={"data.captions": "blip_label", "captioner.name": blip})
    assert len(asked.captioned) + len(asked.embedded) == stops_after


def test_what_stop_cut_off_is_not_left_to_trials_that_will_not_be(blip: str):
    asked = Asked(Stopped())
    with pytest.raises(Stopped):
        asked.of(fixed={"data.captions": "blip_label", "captioner.name": blip})
    assert (len(asked.captioned), asked.embedded, asked.said) == (1, [], [])


@pytest.mark.parametrize("is_stopping", [True, False])
def test_a_sweep_that_is_to_end_is_not_prepared_any_further(
    is_stopping: bool, monkeypatch: pytest.MonkeyPatch
):
    def decode_over_nodes(_: object, __: object, is_stopping: Callable[[], bool]) -> None:
        if is_stopping():
            raise Stopped

    said = list[str]()
    pipelines = SimpleNamespace(Pipelines=lambda need, say, is_stopping: SimpleNamespace(decode=is_stopping))
    monkeypatch.setitem(sys.modules, "orchestrator.driver.pipelines", pipelines)
    monkeypatch.setattr(prefetch, "prefetch", decode_over_nodes)
    monkeypatch.setattr(prefetch, "describe_and_embed", lambda *_: said.append("described"))
    controller = SimpleNamespace(settings=SimpleNamespace(mirror=None), say=said.append)
    nodes, stop = SimpleNamespace(is_spread=True), StopRequest()
    stop.is_asked_to_stop = is_stopping
    prefetch.begin_prefetch(None, controller, stop, cluster=nodes, need=None)()
    assert said == ([] if is_stopping else ["described"])


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.slow
def test_trials_on_nodes_that_share_the_store_find_all_of_it_there(tmp_path: Path):
    small = {
        f"data.phantom.num_{split}": number for split, number in {"train": 24, "val": 12, "test": 12}.items()
    }
    small |= {"encoder.image_size": 32, "global_batch_size": 12, "num_epochs": 1, "lora.num_blocks": 1}
    small |= {"data.captions": "blip_label", "captioner.name": str(save_narrow_blip(tmp_path / "blip"))}
    arms = [{"name": "adapted", "adapt.method": "lora", "lora.towers": "image", "lora.rank": 2}]
    home, nodes = tmp_path / "home", Nodes(tmp_path)
    try:
        for _ in range(2):
            nodes.tell("add", home)
        seen = run_driver(
            home,
            {"name": "whole", "fixed": small, "arms": arms},
            name="whole",
            trainable=TRAINABLES["adapt"],
            address=nodes.address,
            variables=nodes.variables,
        )
    finally:
        nodes.end()
    assert seen["exit_code"] == 0
    events = [event[1] for event in seen["events"] if event[0] in ("message", "placed")]
    begun = events.index("frozen encoder")
    made = [text for text in events if text.endswith("on all nodes")]
    assert [text.split()[0] for text in made] == ["decoding", "captioning", "embedding"]
    assert events.index(made[-1]) < begun
    assert not [text for text in events if "will be computed by the trials" in text]
    assert len(list((home / "store" / "descriptions").glob("*/manifest.json"))) == 1
    embedded = list((home / "store" / "embeddings").glob("*/manifest.json"))
    assert len(embedded) == 2  # frozen, and what the adapted trial made itself
    assert len({about(path.parent)["encoder"] for path in embedded}) == 1
