"""The COVID-19 Radiography Database (Chowdhury et al. 2020, Rahman et al. 2021)."""

from __future__ import annotations

from trainables.data.sets.description import Files, SetDescription

COVID_RADIOGRAPHY = SetDescription(
    name="covid_radiography",
    title="COVID-19 Radiography Database",
    rows=Files(
        r"(?P<label>COVID|Lung_Opacity|Normal|Viral Pneumonia)/(?:images/)?(?P<name>[^/]+)",
        mask=r"\g<label>/masks/\g<name>",
    ),
    labels={
        "COVID": "COVID-19",
        "Lung_Opacity": "Lung Opacity",
        "Normal": "Normal",
        "Viral Pneumonia": "Viral Pneumonia",
    },
    folders=("COVID-19_Radiography_Dataset", "COVID-19 Radiography Database"),
    contains=("COVID", "Normal", "Viral Pneumonia"),
    has_patients=False,
    words="pneumonia",
    layout="COVID-19_Radiography_Dataset/{COVID,Lung_Opacity,Normal,Viral Pneumonia}/{images,masks}/*.png",
    size="21,165 images: COVID 3,616, Lung_Opacity 6,012, Normal 10,192, Viral Pneumonia 1,345; no splits",
    licence="stated on the page of the data set",
    url="https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database",
    citation="Chowdhury et al. 2020, doi 10.1109/ACCESS.2020.3010287; "
    "Rahman et al. 2021, doi 10.1016/j.compbiomed.2021.104319",
    notes=("the classes come from different collections, so a model can learn the collection",),
    traps=(
        "Lung opacity and most normal images are RSNA's (NIH). Viral pneumonia and the other normal images "
        "are children's (Kermany). COVID-19 comes from several collections.",
        "Each folder of images stands beside a folder of masks. Only the former are images.",
        "No splits and no patient ids are published. Splits are drawn by image.",
    ),
)
