"""COVID-QU-Ex (Tahir et al. 2021), or a data set in the same folders, with or without patients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from trainables.data.identifiers import split_named, text_key
from trainables.data.problems import refuse
from trainables.data.sets.description import Files, Row, SetDescription
from trainables.data.sets.folder import SetFolder
from trainables.data.tables import Columns

METADATA = "metadata.csv"
LUNGS, INFECTIONS = "Lung Segmentation Data", "Infection Segmentation Data"
LABELS = {"COVID-19": "COVID-19", "COVID": "COVID-19", "Non-COVID": "Non-COVID", "Normal": "Normal"}
FILES = Files(
    r"(?P<split>train|val|test)/(?P<label>COVID-19|COVID|Non-COVID|Normal)/images/(?P<name>[^/]+)",
    mask=r"\g<split>/\g<label>/lung masks/\g<name>",
    infection_mask=r"\g<split>/\g<label>/infection masks/\g<name>",
)


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each image, with patient and source from `metadata.csv` if it is there."""
    found = [replace(row, infection_mask=_infection_mask(row, folder)) for row in FILES(folder)]
    yield from _with_patients(found, folder) if (folder.base / METADATA).exists() else found


def _infection_mask(row: Row, folder: SetFolder) -> str | None:
    """Returns the infection mask of an image, beside it or in the other part of the release."""
    path = PurePosixPath(row.path)
    beside = f"{path.parent.parent}/infection masks/{path.name}"
    if beside in folder:
        return beside
    masks = folder.cached("infection masks", _other_part)
    return masks.get((LABELS.get(row.label or ""), path.name))


def _other_part(folder: SetFolder) -> dict[tuple[str | None, str], str]:
    """Returns (class, file name) → absolute path of a mask in the part with infection masks."""
    return {
        (LABELS.get(path.parts[-3]), path.name): str(path)
        for path in sorted(folder.root.glob(f"{INFECTIONS}/**/infection masks/*"))
        if path.is_file()
    }


def _with_patients(rows: list[Row], folder: SetFolder) -> Iterator[Row]:
    """Yields the rows with what the table says. Raises DataError if the table contradicts the folders."""
    table = folder.read_table(
        (METADATA,),
        Columns(
            {"path": (), "split": (), "label": (), "patient": ()}, {"group": (), "source": (), "view": ()}
        ),
    )
    listed = {values["path"]: (line, values) for line, values in table.rows}
    problems: list[str] = []
    described: list[Row] = []
    for row in rows:
        line, values = listed.pop(row.path, (0, {}))
        if not values:
            problems.append(f"{row.path}: not in column 'path'")
            continue
        place = f"{METADATA} line {line}"
        if split_named(values["split"]) != split_named(row.split or ""):
            problems.append(
                f"{place}: column 'split' says {values['split']!r}, the folder says {row.split!r}"
            )
        if _class_of(values["label"]) != _class_of(row.label or ""):
            problems.append(f"{place}: column 'label' says {values['label']!r}, the folder is {row.label!r}")
        # Similar images of several patients have the same group.
        patient = values.get("group") or values["patient"]
        described.append(
            replace(row, place=place, patient=patient, source=values.get("source"), view=values.get("view"))
        )
    problems += [f"{METADATA} line {line}: no file {path!r}" for path, (line, _) in listed.items()]
    refuse(problems, about=f"unusable rows of {folder.base / METADATA}")
    yield from described


def _class_of(label: str) -> str | None:
    return {text_key(name): of for name, of in LABELS.items()}.get(text_key(label))


COVID_QU_EX = SetDescription(
    name="covid_qu_ex",
    title="COVID-QU-Ex",
    rows=rows,
    labels=LABELS,
    folders=(LUNGS,),
    contains=("Train", "Val", "Test"),
    has_patients=False,
    words="covid_qu_ex",
    layout=f"{LUNGS}/{LUNGS}/{{Train,Val,Test}}/{{COVID-19,Non-COVID,Normal}}/{{images,lung masks}}/*.png, "
    f"with {INFECTIONS}/… beside it; optional: {METADATA} with the columns path, split, label, patient",
    size="33,920 images: COVID-19 11,956, Non-COVID 11,263, Normal 10,701; given splits",
    licence="stated on the page of the data set",
    url="https://www.kaggle.com/datasets/anasmohammedtahir/covidqu",
    citation="Tahir et al. 2021, doi 10.1016/j.compbiomed.2021.105002",
    traps=(
        "The folders are doubled, and names contain blanks.",
        "The part with infection masks repeats images of the part with lung masks. Only the latter is read.",
        "The classes come from different collections, so a model can learn the collection.",
        "No patient ids are published, so leaks between the splits cannot be ruled out.",
    ),
)
