"""What identifies a trial: every field says so, and keys stay those of the sweeps that are there."""

from __future__ import annotations

from typing import Any

import pytest

from trainables.config import arm_key, from_flat, science, trial_key
from trainables.config.fields import FIELDS
from trainables.config.flat import flatten
from trainables.config.identity import READ_WHEN


def test_every_field_says_whether_it_identifies_a_trial() -> None:
    assert set(READ_WHEN) == set(FIELDS)


@pytest.mark.parametrize(
    ("changes", "unread"),
    [
        ({"adapt.method": "none"}, {"seed", "num_epochs", "loss.kind", "lora.rank", "data.num_views"}),
        ({"adapt.method": "baseline"}, {"encoder.name", "loss.kind", "probe.l2", "data.captions"}),
        ({"adapt.method": "projection"}, {"lora.rank", "adapt.towers", "baseline.patience"}),
        ({"adapt.method": "full"}, {"lora.rank", "probe.num_draws"}),
        ({"loss.kind": "class_prompt"}, {"data.captions", "loss.temperature", "loss.positives"}),
        ({}, {"data.root", "data.prompts", "execution.device", "captioner.name", "loss.temperature"}),
        (
            {"data.uncertain": "ones"},
            {"data.uncertain", "data.blank", "data.task"},
        ),  # the labels have a fingerprint
        ({"zero_shot.prompts": ["pair"]}, {"zero_shot.published_by"}),
    ],
)
def test_what_a_trial_does_not_read_is_no_part_of_it(changes: dict[str, Any], unread: set[str]) -> None:
    assert not unread & flatten(science(from_flat(changes))).keys()


def test_what_is_read_under_a_condition_is_part_of_a_trial_that_meets_it() -> None:
    read = flatten(
        science(from_flat({"adapt.method": "full", "probe.shots": [1], "data.captions": "blip_label"}))
    )
    assert {"adapt.towers", "probe.num_draws", "captioner.name", "data.captions"} <= read.keys()
    assert flatten(science(from_flat({"data.task": "multilabel"})))["data.task"] == "multilabel"
    published = flatten(science(from_flat({"zero_shot.prompts": ["published"]})))
    assert "zero_shot.published_by" in published


def test_keys_are_those_of_sweeps_that_are_there() -> None:
    """Written by the version before; another key would train every adapter again."""
    assert trial_key(from_flat({}), "data", "encoder") == "aeeb89c6ffa9868e"
    assert arm_key(from_flat({"adapt.method": "baseline"}), "data", "encoder") == "4115c90ae2191b4d"
