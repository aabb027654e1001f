from typing import get_args

import pytest

from trainables.config import Features, PromptFamily
from trainables.scoring.metric_names import (
    BASELINES,
    CONTROLS,
    METRICS,
    PROBES,
    TITLES,
    ZERO_SHOT,
    draw_name,
    few_shot_name,
    metric_key,
    own_key,
    probe_name,
    range_of,
    read_key,
    split_draw,
    title,
    zero_shot_name,
)


def test_every_kind_of_features_and_of_prompts_is_a_system_with_a_title():
    assert sorted(PROBES) == sorted(map(probe_name, get_args(Features)))
    assert sorted(ZERO_SHOT) == sorted(map(zero_shot_name, get_args(PromptFamily)))
    assert sorted(TITLES) == sorted((*PROBES, *ZERO_SHOT, *BASELINES, *CONTROLS))
    assert len({title(system) for system in TITLES}) == len(TITLES)


def test_a_key_is_read_as_it_was_made():
    for system in (*TITLES, few_shot_name(8, "joint")):
        for metric in METRICS:
            assert read_key(metric_key("val", system, metric)) == ("val", system, metric)
    assert read_key("perf/seconds") == ("perf", "seconds", "")


def test_a_key_names_the_own_system_of_a_baseline_alone():
    keys = ("val/zero_shot_unseen/ece", "perf/seconds", "train/loss")
    config = {"adapt.method": "baseline", "baseline.from_scratch": True}
    assert [own_key(key, config) for key in keys] == ["val/baseline_from_scratch/ece", *keys[1:]]
    assert [own_key(key, {"adapt.method": "lora"}) for key in keys] == list(keys)


def test_a_drawn_system_is_read_back_and_has_a_title():
    system = few_shot_name(8, "pooled")
    assert title(system) == "8-shot pooled"
    assert split_draw(draw_name(system, 3)) == (system, 3)
    assert split_draw(system) == (system, None)


@pytest.mark.parametrize(
    ("metric", "high"), [("macro_auroc", 1), ("ece", 1), ("brier", 2), ("nll", float("inf"))]
)
def test_a_metric_has_a_range(metric: str, high: float):
    assert range_of(metric) == (0, high)
