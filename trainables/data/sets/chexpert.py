"""CheXpert (Irvin et al. 2019): 13 findings with uncertain and blank labels, several studies per patient."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from trainables.data.problems import refuse
from trainables.data.records import NO_FINDING
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.findings import SUPPORT_DEVICES, shared_labels
from trainables.data.sets.folder import SetFolder
from trainables.data.tables import Columns

TRAIN, VALID, TEST = "train.csv", "valid.csv", ("test_labels.csv", "test.csv")
FINDINGS = (
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    SUPPORT_DEVICES,
)
LABELS: Mapping[str, tuple[str, ...]] = dict.fromkeys([NO_FINDING, *FINDINGS], ())
FACTS = {"sex": ("Sex",), "age": ("Age",), "plane": ("Frontal/Lateral",), "projection": ("AP/PA",)}
COLUMNS = Columns({"path": ("Path",), **LABELS}, FACTS)
COLUMNS_OF_TEST = Columns({"path": ("Path",)}, {**LABELS, **FACTS})
_IMAGE = re.compile(r"(?P<patient>patient\d+)/study\d+/view\d+_(?P<plane>[a-z]+)\.\w+$", re.IGNORECASE)


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each line of the tables.

    The published valid is the test split, because the published test has no labels. If the labels of test,
    which were released later, are in the folder, valid is val and test is test.
    """
    released = next((name for name in TEST if name in folder), None)
    if released is None:
        folder.notes.append(
            "the published valid split is the test split, and val is drawn from train by patient"
        )
        yield from _rows(folder, TRAIN, COLUMNS, split="train")
        yield from _rows(folder, VALID, COLUMNS, split="test")
        return
    folder.notes.append("the published valid split is val, and the released test split is test")
    yield from _rows(folder, TRAIN, COLUMNS, split="train")
    yield from _rows(folder, VALID, COLUMNS, split="val")
    yield from _rows(folder, released, COLUMNS_OF_TEST, split="test")


def _rows(folder: SetFolder, name: str, columns: Columns, *, split: str) -> Iterator[Row]:
    table, files = folder.read_table((name,), columns), folder.cached("chexpert", _files)
    labels_of = shared_labels(tuple(LABELS))
    for line, values in table.rows:
        image = _IMAGE.search(values["path"])
        age = values.get("age")
        yield Row(
            path=files.get(image[0].casefold(), values["path"]) if image else values["path"],
            labels=labels_of(values),
            place=f"{table.path.name} line {line}",
            patient=image["patient"].casefold() if image else None,
            split=split,
            view=_view(values, image["plane"] if image else ""),
            sex=values.get("sex"),
            age=None if age in ("0", "0.0") else age,
        )


def _view(values: Mapping[str, str], plane: str) -> str:
    """Returns the view. A frontal image whose projection is LL or RL counts as lateral."""
    plane = values.get("plane") or plane
    return plane if plane.casefold() == "lateral" else values.get("projection") or plane


def _files(folder: SetFolder) -> dict[str, str]:
    """Returns each image by PATIENT/STUDY/VIEW, because tables and releases differ in the folders above.

    Raises:
        DataError: two files are one image, such as in the full and in the small release.
    """
    files: dict[str, str] = {}
    problems: list[str] = []
    for path in folder.images:
        if (image := _IMAGE.search(path)) and (other := files.setdefault(image[0].casefold(), path)) != path:
            problems.append(f"{other} and {path} are one image")
    refuse(problems, about=f"images with two files in {folder.base}; move one release away")
    return files


CHEXPERT = SetDescription(
    name="chexpert",
    title="CheXpert",
    rows=rows,
    task="multilabel",
    words="chest_findings",
    findings={name: name for name in FINDINGS},
    folders=("CheXpert-v1.0-small", "CheXpert-v1.0", "CheXpert"),
    contains=(TRAIN, VALID),
    may_lack_files=True,
    layout=f"{TRAIN}, {VALID}, train/patient00001/study1/view1_frontal.jpg; optional: {TEST[0]}, test/…",
    size="223,414 images of 64,540 patients in train, 234 images in valid; 13 findings",
    licence="Stanford University Dataset Research Use Agreement",
    url="https://stanfordmlgroup.github.io/competitions/chexpert/",
    citation="Irvin et al. 2019, doi 10.1609/aaai.v33i01.3301590",
    traps=(
        "The published valid is the test split, unless the labels of test are there as test_labels.csv.",
        "Labels are 1, 0, -1 (uncertain) or blank. See data.uncertain and data.blank.",
        "Blank does not mean negative, except in an image with No Finding.",
        "A program read the labels of train from reports. Radiologists made those of valid.",
        "Paths repeat the folder of the release. Images are found by patient, study and view.",
        "32,387 images of train are laterals. Frontal images whose projection is LL or RL count as laterals.",
        "A patient has several studies. Patients are read from paths.",
        "Age 0 is not known.",
    ),
)
