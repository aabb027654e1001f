"""The RSNA Pneumonia Detection Challenge 2018: three classes, one per image."""

from __future__ import annotations

from collections.abc import Iterator

from trainables.data.problems import refuse
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.folder import SetFolder
from trainables.data.sets.repeated_rows import join_rows
from trainables.data.tables import Columns

CLASSES, TARGETS = "stage_2_detailed_class_info.csv", "stage_2_train_labels.csv"
OPACITY = "Lung Opacity"


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each image; the tables have one row per box.

    Raises:
        DataError: an image has two classes, or the tables contradict each other.
    """
    classes = folder.read_table((CLASSES,), Columns({"patientId": (), "class": ()}, {}))
    targets = folder.read_table((TARGETS,), Columns({"patientId": (), "Target": ()}, {}))
    by_image = join_rows(classes, image="patientId", column="class")
    target_of = join_rows(targets, image="patientId", column="Target")
    problems = [
        f"{row.place}: {image!r} is not in {CLASSES}"
        for image, row in target_of.items()
        if image not in by_image
    ]
    for image, row in by_image.items():
        expected = "1" if OPACITY in row.values else "0"
        if len(row.values) > 1:
            problems.append(f"{row.place}: {image!r} has the classes {' and '.join(sorted(row.values))}")
        elif (of_boxes := target_of.get(image)) is None:
            problems.append(f"{row.place}: {image!r} is not in {TARGETS}")
        elif of_boxes.values != {expected}:
            problems.append(
                f"{of_boxes.place}: Target {' and '.join(sorted(of_boxes.values))} contradicts the class "
                f"{next(iter(row.values))!r} on {row.place}"
            )
    refuse(problems, about=f"contradictory rows in {folder.base}")
    for image, row in by_image.items():
        yield Row(path=image, label=next(iter(row.values)), place=row.place)


RSNA = SetDescription(
    name="rsna",
    title="RSNA Pneumonia Detection Challenge 2018",
    rows=rows,
    labels={name: name for name in ("Normal", "No Lung Opacity / Not Normal", OPACITY)},
    folders=("rsna-pneumonia-detection-challenge",),
    contains=(CLASSES, TARGETS),
    finds_by_name=True,
    has_patients=False,
    has_patient_ids_in_headers=False,
    words="pneumonia",
    layout=f"{CLASSES}, {TARGETS}, stage_2_train_images/*.dcm",
    size="26,684 labelled images: Normal 8,851, No Lung Opacity / Not Normal 11,821, Lung Opacity 6,012; "
    "no splits",
    licence="the rules of the challenge, on its page",
    url="https://www.kaggle.com/c/rsna-pneumonia-detection-challenge",
    citation="Shih et al. 2019, doi 10.1148/ryai.2019180041",
    traps=(
        "Both tables have several rows for an image with several boxes.",
        "Target 0 does not mean normal: 11,821 of these images are abnormal without a lung opacity.",
        "The images are NIH's, and shared with ChestX-ray14, SIIM-ACR and many COVID-19 collections.",
        "patientId names an image. The patients of NIH are not published with it.",
        "stage_2_test_images have no labels and are not read.",
    ),
)
