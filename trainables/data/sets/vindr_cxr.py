"""VinDr-CXR (Nguyen et al. 2022): each train image was read by three radiologists; their majority is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from trainables.data.identifiers import text_key
from trainables.data.records import NO_FINDING
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.folder import SetFolder
from trainables.data.tables import Columns
from trainables.errors import DataError

KAGGLE = "train.csv"
TRAIN, TEST = "annotations/image_labels_train.csv", "annotations/image_labels_test.csv"
BOXES: dict[str, str] = {
    "Aortic enlargement": "Aortic Enlargement",
    "Atelectasis": "Atelectasis",
    "Calcification": "Calcification",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "ILD": "ILD",
    "Infiltration": "Infiltration",
    "Lung Opacity": "Lung Opacity",
    "Nodule/Mass": "Nodule/Mass",
    "Other lesion": "Other Lesion",
    "Pleural effusion": "Pleural Effusion",
    "Pleural thickening": "Pleural Thickening",
    "Pneumothorax": "Pneumothorax",
    "Pulmonary fibrosis": "Fibrosis",
}
"""Label → finding, of the table of boxes on Kaggle. The files of PhysioNet have further labels."""
FINDINGS = {
    **BOXES,
    "Clavicle fracture": "Clavicle Fracture",
    "Edema": "Edema",
    "Emphysema": "Emphysema",
    "Enlarged PA": "Enlarged PA",
    "Lung cavity": "Lung Cavity",
    "Lung cyst": "Lung Cyst",
    "Mediastinal shift": "Mediastinal Shift",
    "Rib fracture": "Rib Fracture",
    "COPD": "COPD",
    "Lung tumor": "Lung Tumor",
    "Pneumonia": "Pneumonia",
    "Tuberculosis": "Tuberculosis",
    "Other diseases": "Other Disease",
}
_LABELS = {**dict.fromkeys((*FINDINGS, NO_FINDING), ()), "Other diseases": ("Other disease",)}
"""Label → other names of its column. Test says `Other disease` where train says `Other diseases`."""


@dataclass
class _Readings:
    """What the radiologists said about one image: who read it, and who gave it each label."""

    place: str
    readers: set[str] = field(default_factory=set[str])
    given: dict[str, set[str]] = field(default_factory=dict[str, set[str]])

    def add(self, reader: str, *labels: str) -> None:
        self.readers.add(reader)
        for label in labels:
            self.given.setdefault(label, set()).add(reader)

    def majority(self, labels: Iterable[str]) -> dict[str, int]:
        """Returns label → 1 or 0 as most readers say, or -1 if as many say one as the other."""
        votes = {name: 2 * len(self.given.get(name, ())) - len(self.readers) for name in labels}
        return {name: -1 if vote == 0 else int(vote > 0) for name, vote in votes.items()}


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each image, from the table of Kaggle or from the two of PhysioNet."""
    if not (folder.base / TRAIN).exists():
        yield from _train(folder, _kaggle(folder), (*BOXES, NO_FINDING), split=None)
        return
    if not (folder.base / TEST).exists():
        raise DataError(f"vindr_cxr: no {TEST} in {folder.base}; expected: {VINDR_CXR.layout}")
    yield from _train(folder, _physionet(folder, TRAIN), _LABELS, split="train")
    for image, reading in _physionet(folder, TEST).items():
        yield Row(f"test/{image}", labels=reading.majority(_LABELS), place=reading.place, split="test")


def _train(
    folder: SetFolder, readings: Mapping[str, _Readings], labels: Iterable[str], *, split: str | None
) -> Iterator[Row]:
    numbers = Counter(len(each.readers) for each in readings.values())
    counts = [f"{count:,} images have {number}" for number, count in sorted(numbers.items())]
    folder.notes.append(
        f"labels are the majority of the readers of an image, and uncertain at a tie; {' and '.join(counts)} "
        "readers"
    )
    for image, reading in readings.items():
        yield Row(f"train/{image}", labels=reading.majority(labels), place=reading.place, split=split)


def _kaggle(folder: SetFolder) -> dict[str, _Readings]:
    """Returns the readings of the table of boxes: one row per image, reader and box."""
    table = folder.read_table((KAGGLE,), Columns({"image_id": (), "class_name": (), "rad_id": ()}, {}))
    labels = {text_key(label): label for label in (*BOXES, NO_FINDING)}
    found: dict[str, _Readings] = {}
    for line, values in table.rows:
        place = f"{table.path.name} line {line}"
        label = labels.get(text_key(values["class_name"]))
        if label is None:
            raise DataError(
                f"{place}: class_name {values['class_name']!r} is none of {', '.join(labels.values())}"
            )
        found.setdefault(values["image_id"], _Readings(place)).add(values["rad_id"], label)
    return found


def _physionet(folder: SetFolder, name: str) -> dict[str, _Readings]:
    """Returns the readings of a table of labels: one row per image and reader, one column per label.

    The test table has one row per image, because its readers found a consensus.
    """
    table = folder.read_table((name,), Columns({"image_id": ()}, {"rad_id": (), **_LABELS}))
    if missing := [label for label in _LABELS if not table.has(label)]:
        raise DataError(f"{table.path}: no column {', '.join(map(repr, missing))}; download the file again")
    found: dict[str, _Readings] = {}
    for line, values in table.rows:
        place = f"{table.path.name} line {line}"
        reading = found.setdefault(values["image_id"], _Readings(place))
        reader = values.get("rad_id") or "consensus"
        if reader in reading.readers:
            raise DataError(f"{place}: reader {reader!r} has another row for the image of {reading.place}")
        for label in _LABELS:
            if values[label] not in ("0", "1", "0.0", "1.0"):
                raise DataError(f"{place}: {label} is {values[label]!r}, not 0 or 1")
        reading.add(reader, *(label for label in _LABELS if values[label].startswith("1")))
    return found


VINDR_CXR = SetDescription(
    name="vindr_cxr",
    title="VinDr-CXR: read by radiologists in Hanoi",
    rows=rows,
    task="multilabel",
    words="chest_findings",
    findings=FINDINGS,
    may_lack_findings=True,
    folders=(
        *("vinbigdata-chest-xray-abnormalities-detection", "vindr-cxr", "1.0.0", "vindr-cxr/1.0.0"),
        "physionet.org/files/vindr-cxr/1.0.0",
    ),
    contains=("train",),
    may_lack_files=True,
    has_patients=False,
    has_patient_ids_in_headers=False,
    layout=f"Kaggle: {KAGGLE}, train/*.dicom; PhysioNet: {TRAIN}, {TEST}, {{train,test}}/*.dicom",
    size="15,000 train images, each read by 3 radiologists; on PhysioNet also 3,000 test images, read by "
    "consensus of 5; 14 findings on Kaggle, 27 on PhysioNet",
    licence="PhysioNet Credentialed Health Data License 1.5.0; on Kaggle the rules of the challenge",
    url="https://physionet.org/content/vindr-cxr/1.0.0/",
    citation="Nguyen et al. 2022, doi 10.1038/s41597-022-01498-w",
    traps=(
        "The tables of train have a row per reader, or per reader and box. Readers disagree; most decide.",
        "The test images of Kaggle have no labels and are not read; splits are drawn.",
        "Train says 'Other diseases', test 'Other disease'.",
        "No patient ids are published, so splits are by image.",
        "Many images are MONOCHROME1, with 12 to 16 bits; the decoder handles them.",
    ),
)
