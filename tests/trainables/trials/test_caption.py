"""Captions: BLIP on a narrow checkpoint made here, masks, templates, and what they are worth."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from narrow_blip import WORDS, save_narrow_blip
from PIL import Image

from trainables.artifacts import file_sha256, verify
from trainables.config import CaptionerConfig, TrialConfig, from_flat, science
from trainables.context import LocalContext
from trainables.data.datasets import load_dataset
from trainables.data.records import Dataset
from trainables.data.text import captions_for, every_sentence, with_labels
from trainables.errors import WeightsUnavailable
from trainables.models.catalogue.captioners import captioner_fingerprint, may_be_fetched, missing_captioner
from trainables.models.convert import convert_file
from trainables.models.encoders.blip import Captioner
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.training.descriptions import describe_by_masks, with_descriptions
from trainables.training.trial_setup import adapter_key
from trainables.trials.adapt import adapt
from trainables.trials.caption import caption, duplicate_fraction, shortcut, usefulness

SMALL = {
    "data.phantom.num_train": 24,
    "data.phantom.num_val": 12,
    "data.phantom.num_test": 12,
    "data.captions": "blip_label",
    "encoder.image_size": 32,
    "global_batch_size": 8,
    "captioner.max_new_tokens": 6,
}


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_narrow_blip(tmp_path_factory.mktemp("blip"))


def small(blip: Path | str, **changes: object) -> TrialConfig:
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return from_flat(SMALL | {"captioner.name": str(blip)} | changed)


@pytest.mark.kernels
def test_a_caption_is_blip_s_sentence_with_the_class_for_train_alone(tmp_path: Path, blip: Path) -> None:
    config = small(blip)
    context = LocalContext(workdir=tmp_path, store=tmp_path / "store")
    metrics = caption(config, context)
    folder = Path(json.loads((tmp_path / "captions.json").read_text())["folder"])
    verify(folder)
    rows = pq.read_table(folder / "captions.parquet").to_pylist()
    dataset = load_dataset(config.data)
    assert [row["image_id"] for row in rows] == [
        record.image_id for record in dataset.records if record.split != "test"
    ]
    patterns = [words.pattern.lower() for words in dataset.words.classes.values()]
    for row in rows:
        assert set(row["description"].split()) <= set(WORDS)
        assert not any(pattern in row["description"].lower() for pattern in patterns)
        assert (row["caption"] is not None) == (row["split"] == "train")
    of_train = [row for row in rows if row["split"] == "train"]
    names = [dataset.classes[k] for k in dataset.class_indices(dataset.indices("train"))]
    assert [row["caption"] for row in of_train] == [
        with_labels(row["description"], [dataset.words.of(name)])
        for row, name in zip(of_train, names, strict=True)
    ]
    assert len({row["description"] for row in rows}) > 1
    assert metrics["train/captions/names_class_fraction"] == 1.0
    assert metrics["train/captions/described_fraction"] == 1.0
    assert 0 < metrics["train/captions/distinct_fraction"] <= 1
    assert 0 <= metrics["val/caption_words/accuracy"] <= 1
    before = [path.stat().st_mtime_ns for path in (tmp_path / "store" / "descriptions").rglob("*.parquet")]
    assert caption(config, context) == metrics  # from the store
    assert before == [
        path.stat().st_mtime_ns for path in (tmp_path / "store" / "descriptions").rglob("*.parquet")
    ]


def test_no_caption_is_made_for_val_or_test(tmp_path: Path, blip: Path) -> None:
    config = small(blip)
    context = LocalContext(workdir=tmp_path, store=tmp_path / "store")
    opened = load_dataset(config.data, with_test_labels=True)
    dataset = with_descriptions(opened, config, context)
    for split in ("val", "test"):
        for kind in ("class_template", "template", "finding", "mask_finding", "blip_label"):
            with pytest.raises(
                ValueError, match=f"in split '{split}', and its caption would reveal its label"
            ):
                captions_for(dataset, dataset.indices(split), kind=kind, seed=0, epoch=0)
    assert not {dataset.records[i].image_id for i in dataset.indices("test")} & dataset.descriptions.keys()


def test_descriptions_know_no_label(tmp_path: Path, blip: Path) -> None:
    shuffled = small(blip, data__permute_labels=True)
    one, other = (
        with_descriptions(load_dataset(config.data), config, LocalContext(tmp_path, tmp_path / str(number)))
        for number, config in enumerate((small(blip), shuffled))
    )
    assert one.descriptions == other.descriptions


@pytest.mark.kernels
def test_an_image_is_described_alike_alone_and_among_others(blip: Path) -> None:
    captioner = Captioner(CaptionerConfig(name=str(blip), max_new_tokens=8), "cpu")
    assert captioner.preprocessing.size == 32
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32)).astype(np.uint8)
    together = list(captioner.describe(images))
    assert together == [next(captioner.describe(image[None])) for image in images]
    assert len(set(together)) > 1
    assert max(len(sentence.split()) for sentence in together) <= 8


def test_a_longer_answer_or_other_weights_are_other_descriptions(blip: Path, tmp_path: Path) -> None:
    one = CaptionerConfig(name=str(blip))
    assert captioner_fingerprint(one) == captioner_fingerprint(one.model_copy())
    assert captioner_fingerprint(one) != captioner_fingerprint(one.model_copy(update={"max_new_tokens": 5}))


def test_missing_weights_make_a_trial_unavailable(tmp_path: Path) -> None:
    context = LocalContext(workdir=tmp_path, store=tmp_path / "store")
    config = small("Salesforce/blip-image-captioning-base")
    with pytest.raises(WeightsUnavailable, match=r"captioner\.name.*hf download .*models convert"):
        adapt(config, context)
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    (folder / "config.json").write_text("{}")
    convert = rf"models convert {folder}/pytorch_model\.bin --to {folder}$"
    with pytest.raises(
        WeightsUnavailable, match=rf"captioner\.name={folder}: .*pickles are not read; .*{convert}"
    ):
        caption(small(folder), context)
    assert missing_captioner(CaptionerConfig(name=str(folder))) is not None
    (folder / "another.safetensors").write_bytes(b"of another library")
    with pytest.raises(WeightsUnavailable, match=r"no safetensors of transformers, and pickles are not read"):
        caption(small(folder), context)


@pytest.mark.slow
def test_a_pickled_checkpoint_that_was_converted_says_the_same(tmp_path: Path, blip: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(blip, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model = Captioner(CaptionerConfig(name=str(blip)), "cpu").model
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    convert_file(folder / "pytorch_model.bin", folder, trusted=file_sha256(folder / "pytorch_model.bin"))
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32)).astype(np.uint8)
    one, other = (
        list(Captioner(CaptionerConfig(name=str(name), max_new_tokens=8), "cpu").describe(images))
        for name in (blip, folder)
    )
    assert one == other


def test_whether_a_captioner_is_here_is_known_without_a_network(blip: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket", None)  # would be a crash
    ours, tested, unknown = (CaptionerConfig(name=n) for n in (str(blip), CaptionerConfig().name, "own/er"))
    assert missing_captioner(ours) is None
    assert "models convert" in str(missing_captioner(tested))
    assert [may_be_fetched(config) for config in (ours, tested, unknown)] == [False, False, True]


@pytest.mark.parametrize(
    ("changed", "readers"),
    [
        ("findings", {"finding", "template", "class_template", "class_prompt"}),  # also the training prompts
        ("pattern", {"template"}),
        ("template", {"class_template"}),
        ("unseen", set()),
    ],
)
def test_the_words_that_training_reads_are_part_of_an_adapter(changed: str, readers: set[str]) -> None:
    encoder = cast("DualEncoder", SimpleNamespace(fingerprint="of an encoder"))
    dataset = load_dataset(from_flat(SMALL).data)
    normal = dataset.words.of("Normal")
    other = ("Another sentence.",) if changed in ("findings", "unseen") else "another sentence"
    words = {**dataset.words.classes, "Normal": normal.model_copy(update={changed: other})}
    edited = replace(dataset, words=replace(dataset.words, classes=words))
    kinds = {kind: {"data.captions": kind} for kind in ("finding", "template", "class_template")}
    kinds["class_prompt"] = {"loss.kind": "class_prompt"}
    configs = {kind: from_flat(SMALL | fields) for kind, fields in kinds.items()}
    assert readers == {
        kind
        for kind, config in configs.items()
        if adapter_key(config, dataset, encoder) != adapter_key(config, edited, encoder)
    }


def test_captions_are_part_of_an_adapter_and_of_nothing_frozen(tmp_path: Path, blip: Path) -> None:
    context = LocalContext(workdir=tmp_path, store=tmp_path / "store")
    encoder = cast("DualEncoder", SimpleNamespace(fingerprint="of an encoder"))
    keys = set()
    for kind in ("blip_label", "finding", "template"):
        config = small(blip, data__captions=kind)
        dataset = with_descriptions(load_dataset(config.data), config, context)
        keys.add(adapter_key(config, dataset, encoder))
    described = replace(dataset, descriptions={r.image_id: "a film" for r in dataset.records})
    keys.add(adapter_key(small(blip), described, encoder))
    assert len(keys) == 4
    assert "captioner" in science(small(blip))
    assert "captioner" not in science(small(blip, data__captions="finding"))
    assert "captioner" not in science(small(blip, adapt__method="none"))
    assert "captions" not in science(small(blip, loss__kind="class_prompt"))["data"]


def masked(root: Path) -> TrialConfig:
    """COVID-QU-Ex in small, as it is unpacked: infection masks in the other half, of one class."""
    lungs = np.zeros((64, 64), np.uint8)
    lungs[8:56, 6:28] = lungs[8:56, 36:58] = 255
    rng = np.random.default_rng(0)
    for split, count in (("Train", 6), ("Val", 4), ("Test", 3)):
        for name in ("COVID-19", "Non-COVID", "Normal"):
            for number in range(count):
                file = f"{name}-{split}-{number}.png"
                place = root / "Lung Segmentation Data" / "Lung Segmentation Data" / split / name
                other = root / "Infection Segmentation Data" / "Infection Segmentation Data" / split / name
                infection = np.zeros((64, 64), np.uint8)
                if name == "COVID-19":
                    infection[40:56, 6:28] = 255  # the lower zone of the right lung, on the image's left
                for folder, pixels in (
                    (place / "images", rng.integers(0, 256, (64, 64)).astype(np.uint8)),
                    (place / "lung masks", lungs),
                    (other / "infection masks", infection),
                ):
                    folder.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(folder / file)
    return from_flat(
        {"data.dataset": "covid_qu_ex", "data.root": str(root), "data.captions": "mask_finding"}
        | {"global_batch_size": 6}
    )


def test_what_a_mask_shows_becomes_the_caption_and_other_images_keep_findings(tmp_path: Path) -> None:
    config = masked(tmp_path / "data")
    plain = load_dataset(config.data)
    dataset = replace(plain, descriptions=describe_by_masks(plain))
    sentence = (
        "Opacities in the right lung, mostly in the lower zones, covering up to a quarter of the lung fields."
    )
    assert set(dataset.descriptions.values()) == {sentence}
    described = {r.split for r in dataset.records if r.image_id in dataset.descriptions}
    assert described == {"train", "val"}
    permuted = load_dataset(config.data.model_copy(update={"permute_labels": True}))
    assert describe_by_masks(permuted) == {}  # they would tell the true labels
    assert not any(r.infection_mask_path for r in dataset.records if r.split == "test")
    train = dataset.indices("train")
    captions = captions_for(dataset, train, kind="mask_finding", seed=0, epoch=0)
    for text, k in zip(captions, dataset.class_indices(train), strict=True):
        name = dataset.classes[k]
        assert text == sentence if name == "COVID-19" else text in dataset.words.of(name).findings
    assert usefulness(dataset, captions)["train/captions/described_fraction"] == pytest.approx(1 / 3)
    found = shortcut(dataset)
    assert found["val/caption_words/accuracy"] >= 2 / 3  # that there is a mask gives one class away
    metrics = caption(config, LocalContext(workdir=tmp_path, store=tmp_path / "store"))
    assert metrics["val/caption_words/accuracy"] == found["val/caption_words/accuracy"]


def test_a_repeated_caption_is_counted_once_for_each_pair_that_carries_it() -> None:
    config = from_flat(SMALL | {"data.captions": "class_template"})
    dataset = load_dataset(config.data)
    assert duplicate_fraction(dataset, config) > 0.9  # three captions, batches of eight
    captions = captions_for(dataset, dataset.indices("train"), kind="class_template", seed=0, epoch=0)
    assert usefulness(dataset, captions)["train/captions/distinct_fraction"] == 3 / 24
    assert shortcut(dataset) == {}
    assert every_sentence(dataset, kind="class_template") == list(dict.fromkeys(captions))


@pytest.mark.kernels
def test_words_that_tell_the_class_are_found_out(dataset_of_words: Dataset) -> None:
    found = shortcut(dataset_of_words)
    assert found["val/caption_words/accuracy"] == 1.0


@pytest.mark.kernels
def test_words_that_tell_the_findings_are_found_out() -> None:
    dataset = load_dataset(from_flat(SMALL | {"data.dataset": "phantom_findings"}).data)
    shown = dataset.indices("train", "val")
    said = {
        dataset.records[i].image_id: " ".join(f"word{k}" for k in np.flatnonzero(labels == 1))
        for i, labels in zip(shown, dataset.label_matrix(shown), strict=True)
    }
    found = shortcut(replace(dataset, descriptions=said))
    assert found["val/caption_words/macro_auroc"] == 1.0
    assert "val/caption_words/accuracy" not in found


@pytest.fixture
def dataset_of_words() -> Dataset:
    dataset = load_dataset(from_flat(SMALL).data)
    shown = dataset.indices("train", "val")
    said = {
        dataset.records[i].image_id: f"a film of {'abc'[k]}"
        for i, k in zip(shown, dataset.class_indices(shown), strict=True)
    }
    return replace(dataset, descriptions=said)
