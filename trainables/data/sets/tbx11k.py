"""TBX11K (Liu et al. 2020): healthy, sick and tuberculosis, by published lists."""

from __future__ import annotations

from collections.abc import Iterator

from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.folder import SetFolder
from trainables.errors import DataError

LISTS = {"TBX11K_train.txt": "train", "TBX11K_val.txt": "test"}
"""Published list → split. The labels of the published test images are withheld, so val is the test split."""


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each line of the lists, such as `tb/tb0005.png`. The reader draws val from train."""
    for name, split in LISTS.items():
        text = folder.read_text(f"lists/{name}")
        if text is None:
            raise DataError(f"tbx11k: no lists/{name} in {folder.base}; expected: {TBX11K.layout}")
        for number, line in enumerate(text.splitlines(), start=1):
            if path := line.strip():
                yield Row(
                    path=f"imgs/{path}",
                    label=path.partition("/")[0].lower(),
                    place=f"{name} line {number}",
                    split=split,
                )


TBX11K = SetDescription(
    name="tbx11k",
    title="TBX11K",
    rows=rows,
    labels={"health": "Normal", "sick": "sick", "tb": "Tuberculosis"},
    folders=("TBX11K",),
    contains=("imgs", "lists"),
    has_patients=False,
    words="tuberculosis",
    layout="TBX11K/imgs/{health,sick,tb}/*.png, TBX11K/lists/{TBX11K_train,TBX11K_val}.txt",
    size="8,400 labelled images of 512 px: 6,600 in the list train, 1,800 in the list val",
    licence="sources disagree (CC BY 4.0 or CC BY-NC-SA 2.0); see the page of the data set",
    url="https://mmcheng.net/tb/",
    citation="Liu et al. 2020, doi 10.1109/CVPR42600.2020.00272",
    notes=("the published val split is the test split here, because the published test has no labels",),
    traps=(
        "Images of imgs/test have no labels and are not read.",
        "imgs/extra and the lists all_* contain Montgomery and Shenzhen. They are not read.",
        "Class Tuberculosis includes latent tuberculosis.",
        "Class sick is ill with another disease. Images without a box are healthy or sick.",
        "No patient ids are published. Val is drawn by image.",
    ),
)
