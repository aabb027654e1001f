"""What a trial is called by: what it reads, and nothing that it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.planning.identity import Identity, identify
from trainables.config import from_flat
from trainables.data import datasets
from trainables.data.words import choose
from trainables.data.words.shipped import read_shipped
from trainables.data.words.words_file import to_yaml

CLASSES = ("COVID-19", "Non-COVID", "Normal")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """COVID-QU-Ex in small: one film of each class and split, the first class with masks."""
    films = tmp_path / "films"
    for number, split in enumerate(("Train", "Val", "Test")):
        for k, name in enumerate(CLASSES):
            for kind in ("images", "lung masks", "infection masks") if k == 0 else ("images",):
                path = films / split / name / kind / f"{name}-{number}.png"
                path.parent.mkdir(parents=True)
                Image.fromarray(np.full((8, 8), 10 * number + k, np.uint8)).save(path)
    return films


def identity_of(root: Path, **fields: object) -> Identity:
    """As another process would find it."""
    for read in (datasets._read, datasets._load, datasets._masks):
        read.cache_clear()
    named = {key.replace("__", "."): value for key, value in fields.items()}
    return identify(from_flat({"data.dataset": "covid_qu_ex", "data.root": str(root)} | named))


@pytest.mark.parametrize("kind", ["lung masks", "infection masks"])
def test_masks_are_part_of_a_trial_whose_captions_are_made_of_them(root: Path, kind: str) -> None:
    readers = {"data__captions": "mask_finding"}
    others = {
        "findings": {},
        "frozen": {"adapt__method": "none"} | readers,
        "no captions": {"loss__kind": "class_prompt"} | readers,
        "permuted": {"data__permute_labels": True} | readers,
    }
    reading, before = identity_of(root, **readers), {n: identity_of(root, **f) for n, f in others.items()}
    mask = root / "Train" / "COVID-19" / kind / "COVID-19-0.png"
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(mask)
    now = identity_of(root, **readers)
    assert now.trial_key != reading.trial_key
    assert now.arm_key != reading.arm_key
    assert now.data != reading.data
    assert {n: identity_of(root, **f) for n, f in others.items()} == before


def test_a_trial_that_reads_no_masks_stands_on_its_images_alone(root: Path) -> None:
    images = identity_of(root).data
    assert identity_of(root, adapt__method="none", data__captions="mask_finding").data == images
    assert identity_of(root, data__captions="mask_finding").data != images
    for mask in root.glob("*/COVID-19/infection masks/*"):
        mask.unlink()
    assert identity_of(root, data__captions="mask_finding").data == images


def test_words_are_part_of_a_trial_that_reads_them_by_their_content(root: Path, tmp_path: Path) -> None:
    own, copy = tmp_path / "own.yaml", tmp_path / "copy.yaml"
    words = read_shipped("covid_qu_ex")
    own.write_text(to_yaml(words.classes, words.sources))
    copy.write_bytes(own.read_bytes())
    readers = {
        "adapted": {},
        "frozen": {"adapt__method": "none"},
        "class prompts": {"loss__kind": "class_prompt", "zero_shot__prompts": []},
    }
    others = {
        "classifier": {"adapt__method": "baseline"},
        "probe": {"adapt__method": "none", "zero_shot__prompts": []},
        "class vectors": {"loss__kind": "cross_entropy", "zero_shot__prompts": []},
    }

    def look(path: Path | None) -> dict[str, Identity]:
        choose._read.cache_clear()
        every = readers | others
        return {name: identity_of(root, data__prompts=path, **fields) for name, fields in every.items()}

    shipped = look(None)
    assert look(own) == look(copy) == shipped
    own.write_text(own.read_text().replace("The lungs are clear.", "Both lungs are dark with air."))
    now = look(own)
    for name in readers:
        for part in ("trial_key", "arm_key", "words"):
            assert getattr(now[name], part) != getattr(shipped[name], part), (name, part)
        assert now[name].data == shipped[name].data
    assert {name: now[name] for name in others} == {name: shipped[name] for name in others}
    assert {now[name].words for name in others} == {None}


def captioner(folder: Path, content: bytes | None) -> str:
    """Puts a captioner there, as far as one is looked at before it is loaded; None = a pickle only."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    if content is not None:
        (folder / "model.safetensors").write_bytes(content)
    return str(folder)


def test_a_captioner_is_part_of_a_trial_whose_captions_it_writes(tmp_path: Path) -> None:
    folder = tmp_path / "blip"
    asked = {"data.captions": "blip_label", "captioner.name": captioner(folder, None)}
    others = [{"adapt.method": "none"}, {"loss.kind": "class_prompt"}, {"data.captions": "finding"}]

    def look() -> tuple[Identity, list[Identity]]:
        return identify(from_flat(asked)), [identify(from_flat(asked | other)) for other in others]

    (absent, aside), looks = look(), []
    assert absent.captioner is None
    for content in (b"one", b"other", b"one"):
        captioner(folder, content)
        found, beside = look()
        assert beside == aside  # which no captioner says anything to
        looks.append(found)
    one, other, again = looks
    assert one == again
    for part in ("trial_key", "arm_key", "captioner"):
        assert len({getattr(each, part) for each in (absent, one, other)}) == 3


def test_a_captioner_of_which_nothing_is_here_is_not_asked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ({}, {"captioner.name": "own/er"}):
        assert identify(from_flat({"data.captions": "blip_label", **name})).captioner is None
