"""MIMIC-CXR-JPG (Johnson et al. 2019): labels and reports by study, and official splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trainables.config import DataConfig
from trainables.data.problems import refuse
from trainables.data.sets.chexpert import FINDINGS, LABELS
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.findings import shared_labels
from trainables.data.sets.folder import SetFolder
from trainables.data.tables import Columns
from trainables.data.values import is_missing
from trainables.errors import DataError

STEM = "mimic-cxr-2.0.0"
REPORTS = ("", "mimic-cxr-reports/")
"""Folders that may contain the folder `files` of the reports, which are another download."""


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each image of the table of splits, with the labels and the report of its study.

    Raises:
        DataError: an image is not in the table of metadata.
    """
    ids = {"dicom_id": (), "study_id": (), "subject_id": ()}
    splits = folder.read_table(_names("split"), Columns({**ids, "split": ()}, {}))
    metadata = folder.read_table(_names("metadata"), Columns({"dicom_id": (), "ViewPosition": ()}, {}))
    view_of = {values["dicom_id"]: values["ViewPosition"] for _, values in metadata.rows}
    refuse(
        [
            f"{splits.path.name} line {line}: the image is not in {metadata.path.name}"
            for line, values in splits.rows
            if values["dicom_id"] not in view_of
        ],
        about=f"contradictory tables in {folder.base}",
    )
    labels_of = _labels_by_study(folder)
    reports: dict[str, str | None] = {}
    for line, values in splits.rows:
        study = _study(values)
        path, view = f"{study}/{values['dicom_id']}", view_of[values["dicom_id"]]
        if not folder.has_image(path):
            folder.leave_out("rows without a file")
            continue
        if folder.config.frontal_only and is_missing(view):
            folder.leave_out("images whose view is not known (--set data.frontal_only=false reads them)")
            continue
        if study not in reports:
            reports[study] = _report(folder, study)
        yield Row(
            path=path,
            labels=labels_of.get((values["subject_id"], values["study_id"])),
            place=f"{splits.path.name} line {line}",
            patient=values["subject_id"],
            split=values["split"],
            view=view,
            report=reports[study],
        )


def _study(values: Mapping[str, str]) -> str:
    """Returns the folder of a study, such as `files/p10/p10000032/s50414267`."""
    subject, study = values["subject_id"], values["study_id"]
    return f"files/p{subject[:2]}/p{subject}/s{study}"


def _names(kind: str) -> tuple[str, str]:
    return f"{STEM}-{kind}.csv.gz", f"{STEM}-{kind}.csv"


def _labels_by_study(folder: SetFolder) -> dict[tuple[str, str], Mapping[str, str]]:
    """Returns the labels of each study, by subject_id and study_id.

    The table is `data.manifest` if it is set, else that of the CheXpert labeler, else that of NegBio.

    Raises:
        DataError: a study has two rows.
    """
    names = (*_names("chexpert"), *_names("negbio"))
    if folder.config.manifest != DataConfig.model_fields["manifest"].default:
        names = (folder.config.manifest,)
    columns = Columns({"subject_id": (), "study_id": (), **LABELS}, {})
    table, labels_of = folder.read_table(names, columns), shared_labels(tuple(LABELS))
    labels: dict[tuple[str, str], Mapping[str, str]] = {}
    for line, values in table.rows:
        key = values["subject_id"], values["study_id"]
        if key in labels:
            raise DataError(f"{table.path} line {line}: the study already has a row")
        labels[key] = labels_of(values)
    folder.notes.append(f"labels are by study, from {table.path.name}")
    return labels


def _report(folder: SetFolder, study: str) -> str | None:
    texts = (folder.read_text(f"{place}{study}.txt") for place in REPORTS)
    return next((text for text in texts if text is not None), None)


MIMIC_CXR = SetDescription(
    name="mimic_cxr",
    title="MIMIC-CXR-JPG",
    rows=rows,
    task="multilabel",
    words="chest_findings",
    findings={name: name for name in FINDINGS},
    layout=f"{STEM}-split.csv.gz, {STEM}-metadata.csv.gz, {STEM}-chexpert.csv.gz or {STEM}-negbio.csv.gz, "
    "files/p10/p10000032/s50414267/*.jpg; optional: reports files/p10/p10000032/s50414267.txt",
    size="377,110 images of 227,827 studies; 13 findings; official splits",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    url="https://physionet.org/content/mimic-cxr-jpg/2.0.0/",
    citation="Johnson et al. 2019, arXiv 1901.07042",
    traps=(
        "Labels and reports are by study. All images of a study have the same.",
        "The labels are those of the CheXpert labeler. --set data.manifest=FILE reads another table, such as "
        f"{STEM}-negbio.csv.gz.",
        "Labels are 1, 0, -1 (uncertain) or blank. See data.uncertain and data.blank.",
        "Images without a view are left out, unless data.frontal_only is false.",
        "Sex and age are not in these tables.",
        "Only persons with credentials may read the data. Do not publish reports or images.",
    ),
)
