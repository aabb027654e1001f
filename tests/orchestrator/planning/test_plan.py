from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.cluster.resources import Machine
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.search.space_file import load_space, read_space
from trainables.errors import ClusterError, ConfigError, DataError
from trainables.models.catalogue import origins
from trainables.models.catalogue.registry import (
    ENCODERS,
    default_learning_rate,
    model_fingerprint,
    model_preprocessing,
)

SPACES = Path(__file__).resolve().parents[3] / "search_spaces"
SMALL = {"data.phantom.num_train": 60, "data.phantom.num_val": 30, "data.phantom.num_test": 30}


def plan(fixed: dict[str, Any] | None = None, **blocks: Any) -> Plan:
    return make_plan(read_space({"name": "small", "fixed": {**SMALL, **(fixed or {})}, **blocks}))


@pytest.mark.parametrize("name", ["demo", "lora", "phantom", "caption_batch_size"])
def test_spaces_that_need_no_files_can_be_planned(name: str, home: Path) -> None:
    planned = make_plan(load_space(SPACES / f"{name}.yaml"))
    assert planned.num_baselines >= 1
    assert not home.exists(), "a plan writes nothing"


def test_cross_validation_of_the_real_x_rays_can_be_planned(xray3_root: Path) -> None:
    planned = make_plan(load_space(SPACES / "xray3_cv.yaml", [f"data.root={xray3_root}"]))
    assert (planned.num_trials, planned.num_baselines) == (30, 20)
    assert "1,116" not in planned.data, "counts stand per split"


def test_pneumonia_mnist_can_be_planned(pneumoniamnist_root: Path) -> None:
    planned = make_plan(load_space(SPACES / "pneumonia_mnist.yaml", [f"data.root={pneumoniamnist_root}"]))
    assert (planned.num_trials, planned.num_baselines) == (12, 7)
    assert not planned.missing_weights


def test_tuberculosis_can_be_planned_for_each_of_its_sets(tmp_path: Path) -> None:
    write_noise(tmp_path / "s", [f"CXR_png/CHNCXR_{i:04d}_{i % 2}.png" for i in range(60)])
    write_noise(tmp_path / "m", [f"CXR_png/MCUCXR_{i:04d}_{i % 2}.png" for i in range(60)])
    for name, folder in (("shenzhen", "s"), ("montgomery", "m")):
        settings = [f"data.dataset={name}", f"data.root={tmp_path / folder}"]
        planned = make_plan(load_space(SPACES / "tuberculosis.yaml", settings))
        assert (planned.num_trials, planned.num_baselines) == (40, 25)
        missing = {line.partition(":")[0] for line in planned.missing_weights}
        assert {"chexzero", "medclip-vit"} <= missing


def write_noise(root: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, size=(32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)


@pytest.mark.slow
def test_the_whole_study_is_planned_in_seconds_and_says_what_is_not_here(
    xray3_root: Path, home: Path
) -> None:
    began = time.process_time()
    planned = make_plan(load_space(SPACES / "clip_covid.yaml", [f"data.root={xray3_root}"]))
    assert time.process_time() - began < 10
    assert (planned.num_trials, planned.num_baselines) == (128, 7)
    missing = {line.partition(":")[0] for line in planned.missing_weights}
    assert {"chexzero", "medclip-vit", "gloria", "biovil", "biomedclip"} <= missing
    assert "lite0-minilm" not in missing
    assert not home.exists()


def test_steps_are_counted_with_the_uneven_tail() -> None:
    (batches,) = plan({"global_batch_size": 16, "num_epochs": 5}).batches
    assert (batches.steps_per_epoch, batches.last_batch) == (4, 12)
    assert "= 20 steps" in str(batches)


def test_a_single_left_over_pair_joins_the_batch_before_it() -> None:
    (batches,) = plan({"global_batch_size": 59}).batches
    assert (batches.steps_per_epoch, batches.last_batch) == (1, 60)


def test_fingerprints_name_the_data_and_the_encoder() -> None:
    first = plan()
    assert plan({"data.seed": 1}).data_fingerprint != first.data_fingerprint
    assert plan({"encoder.image_size": 96}).encoder_fingerprint != first.encoder_fingerprint
    assert plan({"lora.rank": 4}).to_dict()["data_fingerprint"] == first.data_fingerprint


def test_an_encoder_whose_weights_are_not_here_is_planned_and_said_to_have_seen_the_data(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(origins.ALIASES, "phantom", "MIMIC-CXR")
    lines = dict(plan({"encoder.name": "medclip-vit", "lora.target_modules": "qv"}).lines())
    assert lines["not external"].startswith("medclip-vit on phantom: trained on MIMIC-CXR; its scores")
    assert "at 224 px" in lines["encoder"]
    missing, unless = lines["not here"].splitlines()
    assert missing.startswith("medclip-vit: model and vocabulary not on this machine; ")
    assert "models show medclip-vit'" in missing
    assert unless.startswith("until these weights are on this machine")
    assert "not here" not in dict(plan().lines())


def test_a_size_that_an_encoder_cannot_take_is_refused_before_anything_starts(home: Path) -> None:
    sized = {"encoder.name": "medclip-vit", "encoder.image_size": 100, "lora.target_modules": "qv"}
    with pytest.raises(ConfigError, match=r"image_size=100: the windows .* multiple of 224 pixels"):
        plan(sized)


def test_an_encoder_without_a_text_tower_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent = replace(ENCODERS["lite0-minilm"], has_text=False)
    monkeypatch.setitem(ENCODERS, "silent", silent)
    with pytest.raises(ConfigError, match=r"silent has no text tower, .*models list"):
        plan({"encoder.name": "silent", "adapt.method": "none"})


def test_test_labels_stay_closed() -> None:
    assert "(without test: COVID-19 30, Non-COVID 31, Normal 29)" in plan().data


@pytest.mark.parametrize(
    ("fixed", "error", "said"),
    [
        ({"data.dataset": "fantom"}, ConfigError, "did you mean 'phantom'?"),
        ({"data.dataset": "covid_qu_ex"}, DataError, "--set data.root=FOLDER"),
        ({"data.dataset": "covid_qu_ex", "data.root": "/nowhere"}, DataError, "does not exist"),
        ({"encoder.name": "lite-minilm"}, ConfigError, "did you mean 'lite0-minilm'?"),
        ({"lora.target_modules": "q_proj"}, ConfigError, "presets pointwise"),
        ({"lora.target_modules": "pointwise", "lora.num_blocks": 1}, ConfigError, "matches no module"),
        ({"lora.rank": 128}, ConfigError, "'image.blocks.5.0.conv_pw' of lite0-minilm is 672 × 112"),
        (
            {"lora.towers": "text", "lora.target_modules": "expand"},
            ConfigError,
            "preset of every chosen tower",
        ),
        ({"lora.towers": "text", "lora.num_blocks": 7}, ConfigError, "lite0-minilm has 6 text blocks"),
        (
            {"lora.towers": "text", "loss.kind": "cross_entropy", "adapt.method": "lora"},
            ConfigError,
            "reads no text",
        ),
        ({"execution.num_workers": 4000}, ClusterError, "--workers 4000"),
    ],
)
def test_what_cannot_run_is_refused(fixed: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        plan(fixed)


def test_every_choice_is_checked_and_not_just_the_default() -> None:
    parameters = {
        "lora.target_modules": {"choice": ["all", "pointwise"]},
        "lora.num_blocks": {"choice": [3, 1]},
    }
    with pytest.raises(ConfigError, match="matches no module in the upper 1 blocks"):
        plan(parameters=parameters)


def test_seeds_are_counted_after_the_search() -> None:
    baselines = [
        {"name": "frozen", "adapt.method": "none"},
        {"name": "projection", "adapt.method": "projection"},
    ]
    parameters = {"lora.rank": {"choice": [2, 4, 8, 16]}}
    planned = plan(parameters=parameters, baselines=baselines, search={"seeds": 3, "num_trials": 4})
    lines = dict(planned.lines())
    assert lines["trials"] == "4 + 2 baselines, then 3 arms and 1 baseline × 2 more seeds"
    assert planned.num_confirming == planned.to_dict()["num_confirming"] == 8
    planned = plan(parameters=parameters, search={"seeds": 2, "num_confirmed": 1, "num_trials": 4})
    assert dict(planned.lines())["trials"] == "4 + 1 baseline, then 1 arm × 1 more seed"


def test_a_second_objective_and_constraints_are_said_with_what_a_scheduler_looks_at() -> None:
    weights = "perf/num_trainable_parameters"
    blocks = {"also_minimise": weights, "constraints": {weights: {"at_most": 500_000}}}
    lines = dict(
        plan(parameters={"lora.rank": {"choice": [2, 4]}}, search={"scheduler": "asha"}, **blocks).lines()
    )
    assert lines["objective"].endswith(f"also minimised: {weights}. asha uses the first one only")
    assert lines["constraints"] == f"{weights}: at most 500,000"


def test_trials_that_differ_are_shown_with_their_range() -> None:
    arms = [{"name": "small", "global_batch_size": 20}, {"name": "all", "global_batch_size": 2000}]
    planned = plan(arms=arms, repeat={"seed": [0, 1]})
    lines = dict(planned.lines())
    assert lines["one trial"] == (
        "60 images / 20 = 3 steps an epoch × 10 epochs = 30 steps\n"
        "others: 20 to 2,000 a batch, 10 to 30 steps"
    )
    assert planned.num_trials == 4
    assert "nothing trains" in dict(plan({"adapt.method": "none"}).lines())["one trial"]


def test_baselines_of_any_kind_are_planned_without_their_weights() -> None:
    classifier = {"adapt.method": "baseline"}
    arms = [
        {"name": "LoRA"},
        {"name": "ResNet-18", **classifier, "baseline.image_size": 64},
        {"name": "ViT-B/16", **classifier, "baseline.architecture": "vit_b_16"},
    ]
    with_baselines, without = plan(arms=arms), plan(arms=arms[:1])
    assert with_baselines.memory.trial_gb > without.memory.trial_gb + 1  # ViT-B/16 with its moments
    assert with_baselines.disk.total > without.disk.total + 3 * 4 * 4 * 85_000_000
    lora, resnet, vit = (trial.config for trial in with_baselines.space.named_trials()[1:])
    assert model_preprocessing(resnet).size == 64
    assert len({model_fingerprint(config) for config in (lora, resnet, vit)}) == 3
    assert default_learning_rate(vit) < default_learning_rate(resnet) < default_learning_rate(lora)


def test_weights_of_baselines_and_captioners_that_are_not_here_are_said_with_what_gets_them(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    arms = [
        {"name": "ResNet-18", "adapt.method": "baseline"},
        {"name": "smaller", "adapt.method": "baseline", "baseline.image_size": 64},
        {"name": "random", "adapt.method": "baseline", "baseline.from_scratch": True},
        {"name": "BLIP", "data.captions": "blip_label"},
        {"name": "BLIP, unread", "data.captions": "blip_label", "loss.kind": "class_prompt"},
    ]
    resnet, blip = plan(arms=arms).missing_weights
    assert "ImageNet's weights are not at" in resnet
    assert "curl --create-dirs" in resnet
    assert "hf download Salesforce/blip-image-captioning-base --revision" in blip
    assert "models convert" in blip


def test_more_shots_than_patients_are_refused_before_anything_starts() -> None:
    with pytest.raises(DataError, match=r"probe.shots=30: .* only \d+ shots of class"):
        plan({"probe.shots": [1, 30]})


def test_a_plan_without_timing_says_so() -> None:
    assert dict(plan().lines())["time"] == "not timed: not asked for"


def test_the_memory_of_a_trial_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.planning.plan.this_machine", lambda: Machine(8, 0, memory_gb=4))
    lines = dict(plan(parameters={"lora.rank": {"choice": [2, 4, 8, 16]}}).lines())
    assert lines["at once"].endswith(", limited by the memory of a trial")
    assert [label for label, text in lines.items() if " GB" in text] == ["memory", "disk"]
