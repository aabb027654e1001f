"""NIH ChestX-ray14 (Wang et al. 2017): 14 findings that were read from reports by a program."""

from __future__ import annotations

from collections.abc import Iterator

from trainables.data.identifiers import text_key
from trainables.data.problems import refuse
from trainables.data.records import NO_FINDING
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.folder import SetFolder
from trainables.data.tables import Columns
from trainables.data.values import is_missing
from trainables.errors import DataError

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
COLUMNS = Columns(
    required={"image": ("Image Index",), "labels": ("Finding Labels",), "patient": ("Patient ID",)},
    optional={
        "sex": ("Patient Gender", "Patient Sex"),
        "age": ("Patient Age",),
        "view": ("View Position",),
    },
)
FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
NONE_OF_THEM = dict.fromkeys([*FINDINGS, NO_FINDING], 0)


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each line of the table, with the official split if the lists are in the folder.

    Raises:
        DataError: only one of the lists is there, or both name an image.
    """
    table = folder.read_table(TABLES, COLUMNS)
    split_of, shared = _official_splits(folder), dict[str, dict[str, int] | None]()
    for line, values in table.rows:
        split = split_of.get(text_key(values["image"]))
        if split_of and split is None:
            if folder.has_image(values["image"], by_name=True):
                folder.leave_out("images in neither of the official lists")
            continue
        text = values["labels"]
        if text not in shared:
            shared[text] = _labels(text)
        yield Row(
            path=values["image"],
            labels=shared[text],
            place=f"{table.path.name} line {line}",
            patient=values["patient"],
            split=split,
            **{name: values.get(name) for name in ("view", "sex", "age")},
        )


def _labels(text: str) -> dict[str, int] | None:
    """Returns the labels that a text such as `Edema|Mass` names, or None for a blank text."""
    named = [part.strip() for part in text.split("|")]
    return None if is_missing(text) else NONE_OF_THEM | dict.fromkeys(named, 1)


def _official_splits(folder: SetFolder) -> dict[str, str]:
    """Returns the split of each image by comparable name; {} without the official lists."""
    texts = {split: folder.read_text(name) for split, name in LISTS.items()}
    missing = [LISTS[split] for split, text in texts.items() if text is None]
    if len(missing) == len(LISTS):
        folder.notes.append("the official lists of splits are not there, so splits are drawn by patient")
        return {}
    if missing:
        raise DataError(
            f"nih14: {missing[0]} is missing in {folder.base}, but the other list is there; add it, or move "
            "the other list away to draw splits"
        )
    split_of: dict[str, str] = {}
    problems: list[str] = []
    for split, text in texts.items():
        for name in filter(None, map(str.strip, (text or "").splitlines())):
            if split_of.setdefault(text_key(name), split) != split:
                problems.append(f"{name} is in both lists")
    refuse(problems, about=f"contradictory lists of splits in {folder.base}")
    return split_of


NIH14 = SetDescription(
    name="nih14",
    title="NIH ChestX-ray14",
    rows=rows,
    task="multilabel",
    words="chest_findings",
    findings={name: name.replace("_", " ") for name in FINDINGS},
    finds_by_name=True,
    may_lack_files=True,
    layout=f"{' or '.join(TABLES)}, images/*.png or images_001/images/*.png; optional: "
    f"{' and '.join(LISTS.values())}",
    size="112,120 images of 30,805 patients, 14 findings; official splits 86,524 / 25,596 (test)",
    licence="free to use; NIH asks for the link, the citation and an acknowledgement",
    url="https://nihcc.app.box.com/v/ChestXray-NIHCC",
    citation="Wang et al. 2017, doi 10.1109/CVPR.2017.369",
    traps=(
        "A program read the labels from reports, so some are wrong.",
        "There is no official val split. An eighth of the patients of train becomes val.",
        "Images of a patient are similar. The official split keeps patients apart.",
        "A finding that a row does not name counts as absent.",
        "The names of two columns have a comma without quotes. Columns are found by their names.",
        "RSNA, SIIM-ACR, ChestMNIST and many COVID-19 collections have copies of these images.",
        "The table of boxes says Infiltrate for Infiltration. It is not read.",
    ),
)
