from typing import Any

import pytest

from orchestrator.search.constraints import Breach, Limit, breaches
from orchestrator.search.space_file import read_space
from trainables.errors import ConfigError

WEIGHTS, ACCURACY = "perf/num_trainable_parameters", "val/zero_shot_training/accuracy"


@pytest.mark.parametrize(
    ("limit", "value", "excess"),
    [
        (Limit(at_most=500), 500, 0),
        (Limit(at_most=500), 750, 0.5),
        (Limit(at_least=0.5), 0.5, 0),
        (Limit(at_least=0.5), 0.4, 0.2),
        (Limit(at_most=0), 3, 3),
        (Limit(at_most=2, at_least=1), 0.5, 0.5),
    ],
)
def test_excess_is_a_share_of_the_limit(limit: Limit, value: float, excess: float):
    assert limit.excess(value) == pytest.approx(excess)


def test_what_was_not_measured_does_not_hold():
    limits = {WEIGHTS: Limit(at_most=500_000), ACCURACY: Limit(at_least=0.5)}
    assert breaches(limits, {WEIGHTS: 5e5, ACCURACY: 0.5}) == ()
    assert [str(each) for each in breaches(limits, {WEIGHTS: 1.2e6})] == [
        f"{WEIGHTS} is 1,200,000, but must be at most 500,000",
        f"{ACCURACY} was not measured, but must be at least 0.5",
    ]
    assert breaches(limits, {WEIGHTS: 1, ACCURACY: 0.1}) == (Breach(ACCURACY, Limit(at_least=0.5), 0.1),)


@pytest.mark.parametrize(
    ("key", "entry", "words"),
    [
        ("test/probe_joint/accuracy", {"at_least": 0.5}, "must be measured on val"),
        ("train/loss", {"at_most": 1}, "must be measured on val"),
        ("val/probe_joit/accuracy", {"at_least": 0.5}, "did you mean 'probe_joint'?"),
        ("val/probe_joint/acuracy", {"at_least": 0.5}, "did you mean 'accuracy'?"),
        ("val/probe_pooled/accuracy", {"at_least": 0.5}, "probe.features is ['joint']"),
        ("perf/num_parameters", {"at_most": 1}, "did you mean 'perf/num_trainable_parameters'?"),
        (WEIGHTS, {"atmost": 1}, "did you mean 'at_most'?"),
        (WEIGHTS, {"at_most": "many"}, "must be a number"),
        (WEIGHTS, {"at_most": True}, "must be a number"),
        (WEIGHTS, {"at_most": float("inf")}, "must be a finite number"),
        (WEIGHTS, {}, "write {at_most: NUMBER}"),
        (WEIGHTS, 500, "write {at_most: NUMBER}"),
        (WEIGHTS, {"at_most": 1, "at_least": 2}, "no value can be at most 1 and at least 2; swap"),
    ],
)
def test_what_no_trial_could_be_held_to_is_refused(key: str, entry: Any, words: str):
    with pytest.raises(ConfigError) as caught:
        read_space({"fixed": {"probe.features": ["joint"]}, "constraints": {key: entry}})
    message = str(caught.value)
    assert message.startswith(f"constraints.{key}")
    assert words in message
