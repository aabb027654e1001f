"""Reads the user's images from the table `data.manifest`, which has one row per image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trainables.config import DataConfig
from trainables.data.identifiers import one_line
from trainables.data.records import NO_FINDING
from trainables.data.sets.classes import JOIN_BY_BAR, joins_others
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.findings import label_value
from trainables.data.sets.folder import SetFolder
from trainables.data.tables import Columns, Table
from trainables.data.values import is_missing
from trainables.errors import DataError

COLUMNS = Columns(
    required={
        "path": ("file", "filename", "filepath", "image", "image_path", "image_file", "image_index", "img"),
    },
    optional={
        "label": ("class", "class_name", "diagnosis", "target", "category", "finding"),
        "patient_id": ("patient", "patientid", "subject", "subject_id", "pid"),
        "split": ("set", "subset", "partition", "fold_name"),
        "view": ("view_position", "projection"),
        "sex": ("gender", "patient_sex", "patient_gender"),
        "age": ("patient_age",),
        "source": ("origin", "site", "hospital"),
        "report": ("report_text",),
        "mask": ("mask_path", "lung_mask"),
    },
    has_others=True,
)


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each line of the table `data.manifest`.

    Raises:
        DataError: there is no column of labels, of a finding or of reports.
    """
    table = folder.read_table((folder.config.manifest,), COLUMNS)
    findings = [] if table.has("label") else _finding_columns(table)
    is_labelled = table.has("label") or bool(findings)
    if not is_labelled and not table.has("report"):
        known = ", ".join([*table.columns.values(), *table.unread])
        raise DataError(
            f"{table.path}: no column 'label', and no column of a finding with the values 1, 0, -1 and blank "
            f"(columns: {known})"
        )
    if findings:
        folder.notes.append(f"findings: read from the columns {', '.join(findings)}")
    if unread := [column for column in table.unread if column not in findings]:
        folder.details.append(f"{table.path.name}: columns that are not read: {', '.join(unread)}")
    unknown = None if is_labelled else {NO_FINDING: None}  # reports alone: a data set for data.adapt_on
    joined = _joined(table, folder.config) if table.has("label") else {}
    for line, values in table.rows:
        yield Row(
            path=values["path"],
            label=values.get("label"),
            labels={name: values[name] for name in findings}
            or joined.get(values.get("label", ""))
            or unknown,
            place=f"{table.path.name} line {line}",
            patient=values.get("patient_id"),
            split=values.get("split"),
            **{name: values.get(name) for name in ("view", "sex", "age", "source", "report", "mask")},
        )


def _finding_columns(table: Table) -> list[str]:
    """Returns the columns, not read otherwise, whose values are only 1, 0, -1 and blank."""
    found: list[str] = []
    for column in table.unread:
        try:
            values = {label_value(text) for text in {values[column] for _, values in table.rows}}
        except ValueError:
            continue
        if values != {None}:
            found.append(column)
    return found


def _joined(table: Table, config: DataConfig) -> dict[str, Mapping[str, int]]:
    """Returns the labels of each text that joins findings by `|`; {} if every image has one class."""
    texts = {values["label"] for _, values in table.rows if not is_missing(values["label"])}
    if config.task == "multiclass" or (config.task == "auto" and not any("|" in text for text in texts)):
        return {}
    named = {text: {name for part in text.split("|") if (name := one_line(part))} for text in texts}
    findings = sorted(set[str]().union(*named.values()))
    for name in findings:
        if joins_others(name, findings):
            raise DataError(f"{table.path}: column 'label': {name!r} names several findings; {JOIN_BY_BAR}")
    return {text: {name: int(name in names) for name in findings} for text, names in named.items()}


MANIFEST = SetDescription(
    name="manifest",
    title="Your images, listed in a table",
    rows=rows,
    task=None,
    has_patients=None,
    layout="images and a table with the columns path and label, or path and a column of each finding; "
    "optional: patient_id, split, view, sex, age, source, report, mask",
    traps=(
        "Without the column patient_id, patients are read from DICOM headers.",
        "If any label joins findings by |, as in Edema|Mass, images may have several findings. Findings "
        "that a label does not name are absent.",
        "Without the column label, each other column of 1, 0, -1 (uncertain) and blank is a finding.",
    ),
)
