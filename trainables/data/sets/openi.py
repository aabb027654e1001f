"""Open-i, the chest X-rays of Indiana University: findings and reports, as XML files or as on Kaggle."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from trainables.data.identifiers import text_key
from trainables.data.records import NO_FINDING
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.folder import SetFolder
from trainables.data.tables import Columns
from trainables.data.values import is_missing
from trainables.errors import DataError

REPORTS, PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
XML = "ecgen-radiology"
SECTIONS = ("COMPARISON", "INDICATION", "FINDINGS", "IMPRESSION")
FINDINGS: dict[str, tuple[str, ...]] = {
    "Atelectasis": ("Pulmonary Atelectasis",),
    "Cardiomegaly": ("Cardiomegaly", "Cardiac Shadow/enlarged"),
    "Consolidation": ("Consolidation",),
    "Edema": ("Pulmonary Edema",),
    "Emphysema": ("Emphysema", "Pulmonary Emphysema", "Bullous Emphysema"),
    "Fibrosis": ("Pulmonary Fibrosis",),
    "Fracture": ("Fractures, Bone",),
    "Hernia": ("Hernia, Hiatal", "Hernia, Diaphragmatic"),
    "Infiltration": ("Infiltrate",),
    "Lung Opacity": ("Opacity", "Airspace Disease", "Infiltrate", "Consolidation"),
    "Mass": ("Mass",),
    "Nodule": ("Nodule",),
    "Pleural Effusion": ("Pleural Effusion", "Hydropneumothorax", "Hemopneumothorax", "Hemothorax"),
    "Pleural Thickening": ("Thickening/pleura",),
    "Pneumonia": ("Pneumonia",),
    "Pneumothorax": ("Pneumothorax", "Hydropneumothorax", "Hemopneumothorax"),
    "Support Devices": (
        *("Catheters, Indwelling", "Implanted Medical Device", "Medical Device", "Tube, Inserted"),
    ),
}
"""Finding → terms of the index, each with the qualifiers that it must have after `/`."""
_NORMAL = "normal"
_UNINDEXED = {"no indexing", "technical quality of image unsatisfactory"}
"""Terms that do not say what the image shows."""
MAX_XML_CHARS = 2**20
"""Limit of an XML file. The largest of the release has 9 kB."""


@dataclass(frozen=True)
class _Study:
    """A report: its terms and sections, and its images. One study per patient is published."""

    place: str
    uid: str
    terms: tuple[str, ...]
    sections: Mapping[str, str]
    images: tuple[str, ...]


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each image, with the report of its study and the view, if a file names it."""
    projections = _projections(folder)
    views = {_stem(image): view for images in projections.values() for image, view in images.items()}
    of_kaggle = (folder.base / REPORTS).exists()
    studies = _of_kaggle(folder, projections) if of_kaggle else _of_xml(folder)
    places = {_stem(path): path for path in sorted(folder.images, key=_may_have_view)}  # DICOM before PNG
    num_without_image = 0
    for study in studies:
        num_without_image += not study.images
        labels = labels_of(study.terms)
        report = "\n".join(f"{name}: {text}" for name in SECTIONS if (text := study.sections.get(name)))
        for image in study.images:
            path = places.get(_stem(image), image)
            view = views.get(_stem(image))
            if view is None and folder.config.frontal_only and not _may_have_view(path):
                raise DataError(
                    f"openi: no file says which images are lateral, such as {path!r}; about half are. Put "
                    f"{PROJECTIONS} of the Kaggle form into {folder.base}, or give the DICOM files, or read "
                    "all views: --set data.frontal_only=false"
                )
            yield Row(
                path, labels=labels, place=study.place, patient=study.uid, view=view, report=report or None
            )
    if num_without_image:
        folder.notes.append(f"{num_without_image:,} reports have no image")


def labels_of(terms: tuple[str, ...]) -> dict[str, int] | None:
    """Returns the labels of a study by its terms, such as `Opacity/lung/base/left`; None if it has no index.

    A finding that the index does not have is absent.
    """
    said = {frozenset(map(text_key, term.split("/"))) for term in terms}
    names = {text_key(term.partition("/")[0]) for term in terms}
    if names <= _UNINDEXED:
        return None
    labels = {finding: int(any(_has(said, names, term) for term in of)) for finding, of in FINDINGS.items()}
    return labels | {NO_FINDING: int(names - _UNINDEXED == {_NORMAL})}


def _has(said: set[frozenset[str]], names: set[str], term: str) -> bool:
    name, *qualifiers = map(text_key, term.split("/"))
    return name in names and any({name, *qualifiers} <= parts for parts in said)


def _of_xml(folder: SetFolder) -> Iterator[_Study]:
    """Yields the study of each XML file."""
    names = [name for name in folder.files if name.startswith(f"{XML}/") and name.lower().endswith(".xml")]
    if not names:
        raise DataError(f"openi: no {REPORTS} and no {XML}/*.xml in {folder.base}; expected: {OPENI.layout}")
    for name in names:
        root = _parse(folder, name)
        uid = root.find("uId")
        if uid is None or not uid.get("id"):
            raise DataError(f"{folder.base / name}: has no uId, so it is no report of Open-i")
        yield _Study(
            place=name,
            uid=uid.get("id", ""),
            terms=tuple(term for node in root.iterfind(".//MeSH/major") if (term := _text(node))),
            sections={node.get("Label", ""): _text(node) for node in root.iter("AbstractText")},
            images=tuple(node.get("id", "") for node in root.iter("parentImage")),
        )


def _text(node: ElementTree.Element) -> str:
    return " ".join((node.text or "").split())


def _parse(folder: SetFolder, name: str) -> ElementTree.Element:
    """Returns the root of an XML file. A file that declares entities is refused, because they can grow."""
    text = folder.read_text(name) or ""
    if len(text) > MAX_XML_CHARS:
        raise DataError(f"{folder.base / name}: more than {MAX_XML_CHARS:,} characters")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{folder.base / name}: declares a document type or entities, which are not read")
    try:
        return ElementTree.fromstring(text.encode())
    except ElementTree.ParseError as error:
        raise DataError(f"{folder.base / name}: is damaged ({error}); download it again") from error


def _of_kaggle(folder: SetFolder, projections: Mapping[str, Mapping[str, str]]) -> Iterator[_Study]:
    """Yields the study of each row of the table of reports."""
    sections = {name.lower(): () for name in SECTIONS}
    table = folder.read_table((REPORTS,), Columns({"uid": (), "MeSH": ()}, sections))
    for line, values in table.rows:
        yield _Study(
            place=f"{table.path.name} line {line}",
            uid=values["uid"],
            terms=tuple(term for each in values["MeSH"].split(";") if (term := each.strip())),
            sections={
                name: " ".join(text.split())
                for name in SECTIONS
                if not is_missing(text := values.get(name.lower(), ""))
            },
            images=tuple(projections.get(values["uid"], {})),
        )


def _projections(folder: SetFolder) -> dict[str, dict[str, str]]:
    """Returns uid → name of the image → `Frontal` or `Lateral`; {} without the table of Kaggle."""
    if not (folder.base / PROJECTIONS).exists():
        if (folder.base / REPORTS).exists():
            raise DataError(f"openi: no {PROJECTIONS} beside {REPORTS} in {folder.base}")
        return {}
    table = folder.read_table((PROJECTIONS,), Columns({"uid": (), "filename": (), "projection": ()}, {}))
    found: dict[str, dict[str, str]] = {}
    for _, values in table.rows:
        found.setdefault(values["uid"], {})[values["filename"]] = values["projection"]
    return found


def _stem(path: str) -> str:
    """Returns what the names of one image have in common.

    `CXR1_1_IM-0001-3001.png`, `1_IM-0001-3001.dcm` and `1_IM-0001-3001.dcm.png` are one image.
    """
    name = os.path.basename(path).lower()
    for suffix in (".png", ".jpg", ".dcm"):
        name = name.removesuffix(suffix)
    study, _, rest = name.removeprefix("cxr").partition("_")
    return f"{study}_{rest.removeprefix(f'{study}_')}"


def _may_have_view(path: str) -> bool:
    return not path.lower().endswith((".png", ".jpg"))


OPENI = SetDescription(
    name="openi",
    title="Open-i: Indiana University chest X-rays, with reports",
    rows=rows,
    task="multilabel",
    words="chest_findings",
    findings={name: name for name in FINDINGS},
    finds_by_name=True,
    may_lack_files=True,
    layout=f"XML: {XML}/*.xml and the images (PNG or DICOM); Kaggle: {REPORTS}, {PROJECTIONS}, images/*.png",
    size="7,470 images of 3,955 reports, half of them lateral; no splits",
    licence="CC BY-NC-ND 4.0",
    url="https://openi.nlm.nih.gov/faq",
    citation="Demner-Fushman et al. 2016, doi 10.1093/jamia/ocv080",
    notes=("labels are the main index terms (MeSH) of the reports; findings without a term are absent",),
    traps=(
        "The XML files do not name the views. The table of Kaggle or the DICOM headers do.",
        "104 reports have no image; 197 images have more than two in their report.",
        "Reports whose index says nothing of the image ('No Indexing') are left out.",
        "XXXX stands for words that were removed. 951 reports have the same text as another.",
        "FINDINGS is missing in 530 reports, IMPRESSION in 34, both in 28.",
        "Half of the DICOM files are MONOCHROME1; the decoder handles them.",
    ),
)
