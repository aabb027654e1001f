"""The SIIM-ACR Pneumothorax Segmentation challenge 2019, with one label per image."""

from __future__ import annotations

from collections.abc import Iterator

from trainables.data.problems import refuse
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.folder import SetFolder
from trainables.data.sets.repeated_rows import join_rows
from trainables.data.tables import Columns

TABLES = ("train-rle.csv", "stage_2_train.csv")
NO_MASK = "-1"
WITHOUT, WITH = "No pneumothorax", "Pneumothorax"


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each image; the table has one row per mask.

    Raises:
        DataError: an image has a mask and also the mark of an image without one.
    """
    table = folder.read_table(TABLES, Columns({"ImageId": (), "EncodedPixels": ()}, {}))
    by_image = join_rows(table, image="ImageId", column="EncodedPixels")
    problems = [
        f"{row.place}: {image!r} has a mask, and also {NO_MASK} for none"
        for image, row in by_image.items()
        if NO_MASK in row.values and len(row.values) > 1
    ]
    problems += [
        f"{row.place}: {image!r} has an empty mask" for image, row in by_image.items() if "" in row.values
    ]
    refuse(problems, about=f"contradictory rows of {table.path}")
    for image, row in by_image.items():
        yield Row(path=image, label=WITHOUT if NO_MASK in row.values else WITH, place=row.place)


SIIM = SetDescription(
    name="siim",
    title="SIIM-ACR Pneumothorax Segmentation 2019",
    rows=rows,
    labels={WITHOUT: WITHOUT, WITH: WITH},
    finds_by_name=True,
    has_patients=False,
    has_patient_ids_in_headers=False,
    words="pneumothorax",
    layout=f"{' or '.join(TABLES)}, dicom-images-train/STUDY/SERIES/IMAGE.dcm",
    size="12,047 labelled images, if the table has all 12,954 rows; no splits",
    licence="the rules of the challenge, on its page",
    url="https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation",
    citation="Society for Imaging Informatics in Medicine and American College of Radiology 2019",
    traps=(
        "An image with several masks has several rows.",
        'The name of the column of masks begins with a blank: " EncodedPixels".',
        "Images are in nested folders. They are found by their names.",
        "The images are NIH's, and shared with ChestX-ray14 and RSNA.",
        "stage_2_train.csv also lists the test images of stage 1. Images without a row are not read.",
    ),
)
