"""The TB Chest Radiography Database of Rahman et al. 2020, which joins several public sets."""

from __future__ import annotations

from trainables.data.sets.description import Files, SetDescription

TB_RAHMAN = SetDescription(
    name="tb_rahman",
    title="TB Chest Radiography Database, Rahman et al.",
    rows=Files(r"(?P<label>Normal|Tuberculosis)/(?P<name>[^/]+)"),
    labels={"Normal": "Normal", "Tuberculosis": "Tuberculosis"},
    folders=("TB_Chest_Radiography_Database",),
    contains=("Normal", "Tuberculosis"),
    has_patients=False,
    words="tuberculosis",
    layout="TB_Chest_Radiography_Database/{Normal,Tuberculosis}/Tuberculosis-1.png",
    size="4,200 images: Normal 3,500, Tuberculosis 700; no splits",
    licence="stated on the page of the data set",
    url="https://www.kaggle.com/datasets/tawsifurrahman/tuberculosis-tb-chest-xray-dataset",
    citation="Rahman et al. 2020, doi 10.1109/ACCESS.2020.3031384",
    notes=("the classes come from different collections, so a model can learn the collection",),
    traps=(
        "It contains Montgomery, Shenzhen, Belarus and RSNA (NIH) images. A model trained on it must not be "
        "tested on those.",
        "No patient ids are published. Splits are drawn by image.",
    ),
)
