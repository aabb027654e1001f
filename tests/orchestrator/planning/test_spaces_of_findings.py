"""The shipped spaces with several findings per image, planned on small files in the sets' true form."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.planning.plan import make_plan
from orchestrator.search.space_file import load_space
from trainables.data.sets import chexpert, nih14
from trainables.data.sets.mimic_cxr import STEM

SPACES = Path(__file__).resolve().parents[3] / "search_spaces"
GUIDE = {"openai/clip-vit-base-patch32", "medclip-vit", "chexzero", "biovil", "gloria", "lite0-minilm"}
NAMES = ("No Finding", *chexpert.FINDINGS)
REPORT = "FINAL REPORT\n FINDINGS: The heart of patient {} is large. ___\n IMPRESSION: Cardiomegaly.\n"


def write_images(root: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, size=(32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)


def write_tables(root: Path, tables: dict[str, list[str]]) -> None:
    for name, lines in tables.items():
        text = "\n".join(lines).encode()
        (root / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)


def values(i: int) -> str:
    """Returns the labels of the i-th image as columns: one finding, an uncertain one, and blanks."""
    present, uncertain = NAMES[i % len(NAMES)], NAMES[(i + 3) % len(NAMES)]
    row = {present: "1.0"} if present == "No Finding" else {uncertain: "-1.0", present: "1.0"}
    return ",".join(row.get(name, "") for name in NAMES)


def write_nih14(root: Path) -> None:
    labels = ("No Finding", *nih14.FINDINGS, "Edema|Mass")
    names = [f"{i:08}_000.png" for i in range(96)]
    table = [
        f"{name},{labels[i % len(labels)]},0,{i},05{i % 10},{'MF'[i % 2]},{('PA', 'AP')[i % 2]},9,9,1,1"
        for i, name in enumerate(names)
    ]
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    write_images(root, [f"images_001/images/{name}" for name in names])
    lists = {"train_val_list.txt": names[:72], "test_list.txt": names[72:]}
    write_tables(root, {"Data_Entry_2017.csv": [header, *table], **lists})


def write_chexpert(root: Path) -> None:
    lines: dict[str, list[str]] = {"train": [], "valid": []}
    for i in range(96):
        split = "train" if i < 72 else "valid"
        lines[split].append(
            f"CheXpert-v1.0-small/{split}/patient{i:05}/study1/view1_frontal.jpg,Female,68,Frontal,AP,{values(i)}"
        )
    header = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *NAMES])
    paths = [line.partition(",")[0] for split in lines.values() for line in split]
    write_images(root, paths)
    folder = root / "CheXpert-v1.0-small"
    write_tables(folder, {f"{split}.csv": [header, *rows] for split, rows in lines.items()})


def write_mimic_cxr(root: Path) -> None:
    splits, metadata, labels, images = [], [], [], []
    for i in range(96):
        subject, study, dicom = f"1{i:07}", f"5{i:07}", f"{i:08x}-0a"
        folder = f"files/p{subject[:2]}/p{subject}/s{study}"
        images.append(f"{folder}/{dicom}.jpg")
        split = "train" if i < 48 else ("validate", "test")[i // 72]
        splits.append(f"{dicom},{study},{subject},{split}")
        metadata.append(f"{dicom},{subject},{study},CHEST,{('PA', 'AP')[i % 2]},2000,2500,21800101,1")
        labels.append(f"{subject},{study},{values(i)}")
    write_images(root, images)
    for i, image in enumerate(images):
        (root / Path(image).parent).with_suffix(".txt").write_text(REPORT.format(i))
    tables = {
        "split": ["dicom_id,study_id,subject_id,split", *splits],
        "metadata": [
            "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,"
            "StudyDate,StudyTime",
            *metadata,
        ],
        "chexpert": [",".join(["subject_id", "study_id", *NAMES]), *labels],
    }
    write_tables(root, {f"{STEM}-{name}.csv.gz": lines for name, lines in tables.items()})


@pytest.mark.parametrize(
    ("name", "write", "trials"),
    [("nih14", write_nih14, 33), ("chexpert", write_chexpert, 42), ("mimic_cxr", write_mimic_cxr, 36)],
)
def test_a_shipped_space_can_be_planned(
    name: str, write: Callable[[Path], None], trials: int, tmp_path: Path, home: Path
) -> None:
    write(tmp_path / "set")
    few = "probe.shots=[1]"  # the sets have at least 16 images of each finding
    space = load_space(SPACES / f"{name}.yaml", [f"data.root={tmp_path / 'set'}", few])
    planned = make_plan(space)
    assert (planned.num_trials, planned.num_baselines) == (trials, 10)
    missing = {line.partition(":")[0] for line in planned.missing_weights}
    assert GUIDE - {"lite0-minilm"} <= missing
    methods = {(t.config.encoder.name, t.config.adapt.method.partition("+")[0]) for t in space.named_trials()}
    assert {(encoder, method) for encoder in GUIDE for method in ("none", "lora")} <= methods
    assert not any("words made" in note for note in planned.notes)
    assert not home.exists(), "a plan writes nothing"


def test_uncertain_and_blank_labels_are_read_as_the_spaces_say() -> None:
    trials = load_space(SPACES / "chexpert.yaml").named_trials()
    assert {trial.config.data.blank for trial in trials} == {"zeros"}
    assert {trial.config.data.uncertain for trial in trials} == {
        (("Atelectasis", "ones"), ("Edema", "ones")), "ignore", "ones", "zeros",
    }  # fmt: skip


def test_reports_are_the_captions_of_mimic_cxr() -> None:
    adapted = [t for t in load_space(SPACES / "mimic_cxr.yaml").named_trials() if t.config.reads_captions]
    captions = {trial.name: trial.config.data.captions for trial in adapted}
    assert {name for name, kind in captions.items() if kind != "report"} == {
        "CLIP ViT-B/32, LoRA, captions of findings"
    }
