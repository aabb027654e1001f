"""Reads the user's images from the table `data.manifest`, which has one row per image."""

from __future__ import annotations

from collections.abc import Iterator

from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.folder import SetFolder
from trainables.data.tables import Columns

COLUMNS = Columns(
    required={
        "path": ("file", "filename", "filepath", "image", "image_path", "image_file", "image_index", "img"),
        "label": ("class", "class_name", "diagnosis", "target", "category", "finding"),
    },
    optional={
        "patient_id": ("patient", "patientid", "subject", "subject_id", "pid"),
        "split": ("set", "subset", "partition", "fold_name"),
        "view": ("view_position", "projection"),
        "sex": ("gender", "patient_sex", "patient_gender"),
        "age": ("patient_age",),
        "source": ("origin", "site", "hospital"),
        "report": ("report_text",),
        "mask": ("mask_path", "lung_mask"),
    },
)


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each line of the table `data.manifest`."""
    table = folder.read_table((folder.config.manifest,), COLUMNS)
    if table.unread:
        folder.details.append(f"{table.path.name}: columns that are not read: {', '.join(table.unread)}")
    for line, values in table.rows:
        place = f"{table.path.name} line {line}"
        yield Row(
            path=values["path"],
            label=values["label"],
            place=place,
            patient=values.get("patient_id"),
            split=values.get("split"),
            **{name: values.get(name) for name in ("view", "sex", "age", "source", "report", "mask")},
        )


MANIFEST = SetDescription(
    name="manifest",
    title="Your images, listed in a table",
    rows=rows,
    has_patients=None,
    layout="images and a table with the columns path and label; optional: patient_id, split, view, sex, age, "
    "source, report, mask",
    traps=("Without the column patient_id, patients are read from DICOM headers.",),
)
