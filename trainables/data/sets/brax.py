"""BRAX (Reis et al. 2022): radiographs from São Paulo with CheXpert's 14 labels."""

from __future__ import annotations

from collections.abc import Iterator

from trainables.data.records import NO_FINDING
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.folder import SetFolder
from trainables.data.tables import Columns
from trainables.data.views import view_of

TABLE = "master_spreadsheet_update.csv"
FINDINGS = (
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    "Support Devices",
)
MAX_ASPECT = 10
"""Longer side by shorter side. Twelve images are strips of 19:1 and more; all others are below 9:1."""
COLUMNS = Columns(
    {name: () for name in ("PngPath", "PatientID", "ViewPosition", NO_FINDING, *FINDINGS)},
    {name: () for name in ("DicomPath", "PatientSex", "PatientAge", "Rows", "Columns")},
)


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each image. The DICOM files are read if there is no folder of PNG files."""
    table = folder.read_table((TABLE,), COLUMNS)
    is_png = (folder.base / "images").is_dir() or not table.has("DicomPath")
    for line, values in table.rows:
        if _is_strip(values.get("Rows"), values.get("Columns")):
            folder.leave_out(f"images whose longer side is over {MAX_ASPECT} times the shorter one")
            continue
        if folder.config.frontal_only and view_of(values["ViewPosition"]) is None:
            folder.leave_out("images whose view is not known (--set data.frontal_only=false reads them)")
            continue
        yield Row(
            path=values["PngPath" if is_png else "DicomPath"],
            labels={name: values[name] for name in (*FINDINGS, NO_FINDING)},
            place=f"{table.path.name} line {line}",
            patient=values["PatientID"],
            view=values["ViewPosition"],
            sex=values.get("PatientSex"),
            age=values.get("PatientAge"),
        )


def _is_strip(height: str | None, width: str | None) -> bool:
    try:
        sides = sorted((float(height or 0), float(width or 0)))
    except ValueError:
        return False
    return sides[0] > 0 and sides[1] > MAX_ASPECT * sides[0]


BRAX = SetDescription(
    name="brax",
    title="BRAX: Brazilian labelled chest X-rays",
    rows=rows,
    task="multilabel",
    words="chest_findings",
    findings={name: name for name in FINDINGS},
    folders=("brax", "1.1.0", "brax/1.1.0", "physionet.org/files/brax/1.1.0"),
    contains=(TABLE,),
    may_lack_files=True,
    layout=f"{TABLE}, images/…/*.png or Anonymized_DICOMs/…",
    size="40,967 images of 19,351 patients; no splits",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    url="https://physionet.org/content/brax/1.1.0/",
    citation="Reis et al. 2022, doi 10.1038/s41597-022-01608-8",
    traps=(
        "Labels are of reports, found by a labeller: 1, 0, -1 (uncertain) and blank (not named).",
        "A quarter of the images has no view. They are left out, unless data.frontal_only is false.",
        "Ages are in groups of five years; '85 or more' is read as 85.",
        "Twelve images are thin strips. They are left out.",
        "DICOM files have no suffix. They are read if there is no folder images.",
    ),
)
