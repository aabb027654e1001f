"""PadChest (Bustos et al. 2020): labels are a Python list in text, of which 34 findings are made."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from trainables.data.records import NO_FINDING
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.folder import SetFolder
from trainables.data.tables import Columns
from trainables.data.values import is_missing
from trainables.errors import DataError

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
FINDINGS: dict[str, tuple[str, ...]] = {
    "Atelectasis": (
        *("atelectasis", "laminar atelectasis", "lobar atelectasis", "segmental atelectasis"),
        *("atelectasis basal", "round atelectasis", "total atelectasis"),
    ),
    "Cardiomegaly": ("cardiomegaly",),
    "Consolidation": ("consolidation", "air bronchogram"),
    "Edema": ("pulmonary edema",),
    "Emphysema": ("emphysema",),
    "Fibrosis": ("pulmonary fibrosis",),
    "Fracture": (
        *("fracture", "rib fracture", "callus rib fracture", "clavicle fracture", "humeral fracture"),
        "vertebral fracture",
    ),
    "Hernia": ("hiatal hernia",),
    "Infiltration": (
        *("infiltrates", "interstitial pattern", "ground glass pattern", "reticular interstitial pattern"),
        *("reticulonodular interstitial pattern", "miliary opacities", "alveolar pattern"),
        *("consolidation", "air bronchogram"),
    ),
    "Mass": ("mass", "pulmonary mass"),
    "Nodule": ("nodule", "multiple nodules"),
    "Pleural Effusion": (
        *("pleural effusion", "loculated pleural effusion", "loculated fissural effusion"),
        *("hydropneumothorax", "empyema"),
    ),
    "Pleural Thickening": (
        *("pleural thickening", "apical pleural thickening", "calcified pleural thickening"),
    ),
    "Pneumonia": ("pneumonia", "atypical pneumonia"),
    "Pneumothorax": ("pneumothorax", "hydropneumothorax"),
    "Tuberculosis": ("tuberculosis",),
    "Support Devices": (
        *("NSG tube", "endotracheal tube", "tracheostomy tube", "chest drain tube", "gastrostomy tube"),
        *("nephrostomy tube", "ventriculoperitoneal drain tube", "double J stent", "catheter"),
        *("central venous catheter", "central venous catheter via jugular vein"),
        *("central venous catheter via subclavian vein", "central venous catheter via umbilical vein"),
        *("reservoir central venous catheter", "electrical device", "pacemaker", "dual chamber device"),
        *("single chamber device", "dai"),
    ),
    "Air Trapping": ("air trapping", "hyperinflated lung"),
    "Aortic Atheromatosis": ("aortic atheromatosis",),
    "Aortic Elongation": (
        *("aortic elongation", "supra aortic elongation", "ascendent aortic elongation"),
        "descendent aortic elongation",
    ),
    "Bronchiectasis": ("bronchiectasis",),
    "COPD": ("COPD signs",),
    "Costophrenic Angle Blunting": ("costophrenic angle blunting",),
    "Fibrotic Band": ("fibrotic band",),
    "Flattened Diaphragm": ("flattened diaphragm",),
    "Granuloma": ("granuloma", "calcified granuloma"),
    "Heart Insufficiency": ("heart insufficiency",),
    "Hemidiaphragm Elevation": ("hemidiaphragm elevation",),
    "Hilar Enlargement": ("hilar enlargement", "vascular hilar enlargement"),
    "Kyphosis": ("kyphosis",),
    "Scoliosis": ("scoliosis",),
    "Tuberculosis Sequelae": ("tuberculosis sequelae",),
    "Vertebral Degenerative Changes": ("vertebral degenerative changes",),
    "Volume Loss": ("volume loss",),
}
"""Finding → labels of PadChest: those below it in PadChest's own tree, and lines, tubes and pacemakers."""
_NORMAL, _EXCLUDE = "normal", "exclude"
_ABOUT_THE_STUDY = {"unchanged", "suboptimal study"}
"""Labels that do not say what the image shows."""
BROKEN = frozenset(
    """
    216840111366964012819207061112010307142602253_04-014-084 216840111366964012989926673512011074122523403_00-163-058
    216840111366964012959786098432011033083840143_00-176-115 216840111366964012558082906712009327122220177_00-102-064
    216840111366964012339356563862009072111404053_00-043-192 216840111366964013076187734852011291090445391_00-196-188
    216840111366964012373310883942009117084022290_00-064-025 216840111366964012283393834152009033102258826_00-059-087
    216840111366964012373310883942009170084120009_00-097-074 216840111366964012819207061112010315104455352_04-024-184
    216840111366964012819207061112010306085429121_04-020-102 216840111366964012989926673512011083134050913_00-168-009
    216840111366964012373310883942009152114636712_00-102-045 216840111366964012819207061112010281134410801_00-129-131
    216840111366964012487858717522009280135853083_00-075-001 216840111366964012989926673512011151082430686_00-157-045
    216840111366964013686042548532013208193054515_02-026-007 216840111366964013590140476722013058110301622_02-056-111
    216840111366964013590140476722013043111952381_02-065-198 216840111366964013829543166512013353113303615_02-092-190
    216840111366964013962490064942014134093945580_01-178-104
    """.split()  # noqa: E501, SIM905
)
"""Images of the release that are missing or cannot be decoded, as listed by TorchXRayVision."""
_MAX_LIST = 10_000
"""Limit of a list of labels, in characters. The longest of the release has about 400."""

COLUMNS = Columns(
    {name: () for name in ("ImageID", "ImageDir", "PatientID", "Projection", "MethodLabel", "Labels")},
    {name: () for name in ("StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM")},
)


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each image that has labels about what it shows."""
    table = folder.read_table((TABLE, f"{TABLE}.gz"), COLUMNS)
    methods: Counter[str] = Counter()
    for line, values in table.rows:
        place = f"{table.path.name} line {line}"
        if values["ImageID"].rsplit(".", 1)[0] in BROKEN:
            folder.leave_out("images that are missing or damaged in the release")
            continue
        try:
            terms = labels_in(values["Labels"])
        except ValueError as error:
            raise DataError(f"{place}: Labels: {error}") from None
        if _EXCLUDE in terms:
            folder.leave_out(f"images with the label '{_EXCLUDE}'")
            continue
        if terms and terms <= _ABOUT_THE_STUDY:
            folder.leave_out("images whose labels do not say what they show, such as 'unchanged'")
            continue
        methods[values["MethodLabel"]] += bool(terms)
        yield Row(
            path=f"{values['ImageDir']}/{values['ImageID']}",
            labels=_findings(terms) if terms else None,
            place=place,
            patient=values["PatientID"],
            view=values["Projection"],
            sex=values.get("PatientSex_DICOM"),
            age=_age(values.get("PatientBirth"), values.get("StudyDate_DICOM")),
        )
    folder.notes.append(
        f"labels of {methods['Physician']:,} images by physicians, of {methods['RNN_model']:,} by a model "
        "that read the reports; these counts include views that are left out"
    )


@lru_cache(maxsize=100_000)
def labels_in(text: str) -> frozenset[str]:
    """Returns the labels in a list such as `['nodule', ' scar']`. A blank value has none.

    Raises:
        ValueError: the text is no list of texts.
    """
    if is_missing(text):
        return frozenset()
    try:
        found = ast.literal_eval(text) if len(text) <= _MAX_LIST else None  # reads literals, runs no code
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"{text[:60]!r} is no list such as ['nodule', 'pneumonia']")
    return frozenset(label for each in found if (label := " ".join(each.split())))


@lru_cache(maxsize=100_000)
def _findings(terms: frozenset[str]) -> dict[str, int]:
    """Returns the labels of an image: a finding that its report does not name counts as absent."""
    labels = {finding: int(not terms.isdisjoint(named)) for finding, named in FINDINGS.items()}
    return labels | {NO_FINDING: int(terms - _ABOUT_THE_STUDY == {_NORMAL})}


def _age(birth: str | None, date: str | None) -> str | None:
    """Returns the age in years, exact to one year, from a year of birth `1930.0` and a date `20140915`."""
    years = [re.match(r"(?:19|20)\d\d", text or "") for text in (birth, date)]
    born, taken = (int(year[0]) if year else None for year in years)
    return None if born is None or taken is None or taken < born else str(taken - born)


PADCHEST = SetDescription(
    name="padchest",
    title="PadChest: 160,000 radiographs from Alicante",
    rows=rows,
    task="multilabel",
    words="chest_findings",
    findings={name: name for name in FINDINGS},
    finds_by_name=True,
    may_lack_files=True,
    layout=f"{TABLE} or {TABLE}.gz, and the images in folders 0 to 54",
    size="160,861 images of 67,625 patients, of which 110,633 are PA or AP; no splits",
    licence="the research use agreement of BIMCV",
    url="https://bimcv.cipf.es/bimcv-projects/padchest/",
    citation="Bustos et al. 2020, doi 10.1016/j.media.2020.101797",
    notes=("34 findings are read of its 192 labels; findings that the report does not name are absent",),
    traps=(
        "Labels are Python lists in text, with stray blanks. They are read as literals, never run.",
        "Labels are of reports. A model gave 76 % of them, physicians the rest (MethodLabel).",
        "Images with the label 'exclude', or only 'unchanged' or 'suboptimal study', are left out.",
        "No Finding is the label 'normal' alone. Images with another label, such as scoliosis, lack it.",
        "Infiltration includes all interstitial and alveolar patterns, among them consolidation.",
        "View EXCLUDE, lateral views and views of the ribs (COSTAL) are not frontal.",
        "About 20 images are missing or damaged in the release. They are left out.",
        "Reports are Spanish words without endings. They are not read as captions.",
        "274 images are of children.",
    ),
)
