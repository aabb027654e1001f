"""Open-i: XML files and the tables of Kaggle, index terms, reports, views."""

import pytest
from dicom_files import write_dicom

from trainables.data.sets.openi import FINDINGS, PROJECTIONS, REPORTS, labels_of
from trainables.errors import DataError


def xml(uid, images, majors, *, findings="The heart is large.", impression="Big x-XXXX.", head=""):
    texts = {"COMPARISON": "None.", "INDICATION": "", "FINDINGS": findings, "IMPRESSION": impression}
    abstract = "\n".join(
        f'<AbstractText Label="{name}">{text}</AbstractText>' for name, text in texts.items()
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?>{head}\n<eCitation><uId id="CXR{uid}"/>'
        f"<MedlineCitation><Article><Abstract>{abstract}</Abstract></Article></MedlineCitation>"
        f"<MeSH>{''.join(f'<major>{each}</major>' for each in majors)}<automatic>mass</automatic></MeSH>"
        + "".join(
            f'<parentImage id="{image}"><caption>PA and Lateral</caption></parentImage>' for image in images
        )
        + "</eCitation>"
    )


def names(i):
    """The names of two images of a study, as in the release: some repeat the number of the study."""
    stem = f"CXR{i}_{i}_IM-{i:04d}" if i % 2 else f"CXR{i}_IM-{i:04d}"
    return [f"{stem}-1001", f"{stem}-2001"]


def studies(count=24):
    return {
        f"ecgen-radiology/{i}.xml": xml(i, names(i), ["normal"] if i % 2 else ["Cardiomegaly/mild", "Nodule"])
        for i in range(count)
    }


def projections(count=24):
    """Kaggle's table. The first image of a study is frontal, except in study 3."""
    lines = ["uid,filename,projection"]
    for i in range(count):
        for image, view in zip(names(i), ("Frontal", "Lateral"), strict=True):
            stem = image.removeprefix("CXR").removeprefix(f"{i}_{i}_").removeprefix(f"{i}_")
            lines.append(f"{i},{i}_{stem}.dcm.png,{view}")
    return "\n".join(lines)


def test_reports_findings_and_frontal_images_are_read_from_xml(release, read):
    images = [f"NLMCXR_png/{name}.png" for i in range(24) for name in names(i)]
    root = release(images, studies() | {PROJECTIONS: projections()})
    dataset = read("openi", root)
    assert dataset.findings == tuple(FINDINGS)
    assert len(dataset.records) == 24
    assert {record.view for record in dataset.records} == {"FRONTAL"}
    assert len({record.patient_id for record in dataset.records}) == 24
    ill = next(record for record in dataset.records if "CXR2_" in record.image_id)
    assert {name for name, value in ill.labels.items() if value == 1} == {"Cardiomegaly", "Nodule"}
    assert ill.report_text == "COMPARISON: None.\nFINDINGS: The heart is large.\nIMPRESSION: Big x-XXXX."
    well = next(record for record in dataset.records if "CXR1_" in record.image_id)
    assert [name for name, value in well.labels.items() if value == 1] == ["No Finding"]


def test_png_images_without_views_are_refused_unless_all_views_are_asked_for(release, read):
    images = [f"NLMCXR_png/{name}.png" for i in range(24) for name in names(i)]
    root = release(images, studies())
    with pytest.raises(DataError, match=r"no file says which images are lateral.*data\.frontal_only=false"):
        read("openi", root)
    assert len(read("openi", root, frontal_only=False).records) == 48


def test_the_headers_of_dicom_files_name_the_view(release, read, pixels):
    root = release([], studies())
    for i in range(24):
        for k, name in enumerate(names(i)):
            stem = name.removeprefix("CXR")
            stem = stem.removeprefix(f"{i}_") if i % 2 else stem
            path = root / f"NLMCXR_dcm/{i}/{stem}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_dicom(path, pixels(2 * i + k), PatientID=str(i), ViewPosition=("PA", "LL")[k])
    dataset = read("openi", root)
    assert len(dataset.records) == 24
    assert {record.view for record in dataset.records} == {"PA"}
    assert len({record.patient_id for record in dataset.records}) == 24


def test_the_form_of_kaggle_has_the_same_labels_and_reports(release, read):
    lines = ["uid,MeSH,Problems,image,indication,comparison,findings,impression"]
    for i in range(24):
        terms = "normal,normal" if i % 2 else "Cardiomegaly/mild;Nodule,Cardiomegaly;Nodule"
        text = ",Large heart." if i == 2 else '"The heart, large.",Big x-XXXX.'
        lines.append(f"{i},{terms},Xray Chest PA and Lateral,,None.,{text}")
    table = projections()
    images = [f"images/images_normalized/{line.split(',')[1]}" for line in table.splitlines()[1:]]
    dataset = read("openi", release(images, {REPORTS: "\n".join(lines), PROJECTIONS: table}))
    assert len(dataset.records) == 24
    by_patient = {record.patient_id: record for record in dataset.records}
    assert {name for name, value in by_patient["2"].labels.items() if value == 1} == {
        "Cardiomegaly",
        "Nodule",
    }
    assert by_patient["2"].report_text == "COMPARISON: None.\nIMPRESSION: Large heart."
    assert by_patient["4"].report_text.endswith("FINDINGS: The heart, large.\nIMPRESSION: Big x-XXXX.")


@pytest.mark.parametrize(
    ("terms", "present"),
    [
        (("Opacity/lung/base/left",), {"Lung Opacity"}),
        (("Infiltrate/lung",), {"Infiltration", "Lung Opacity"}),
        (("Thickening/pleura/apex/bilateral",), {"Pleural Thickening"}),
        (("Thickening/bronchi",), set()),
        (("Thickening/bronchi", "Scoliosis/pleura"), set()),
        (("Cardiac Shadow/enlarged",), {"Cardiomegaly"}),
        (("Cardiac Shadow/obscured",), set()),
        (("Hydropneumothorax",), {"Pleural Effusion", "Pneumothorax"}),
        (("Subcutaneous Emphysema",), set()),
        (("normal", "Technical Quality of Image Unsatisfactory "), {"No Finding"}),
        (("Scoliosis",), set()),
        (("No Indexing",), None),
        ((), None),
    ],
)
def test_terms_name_findings_with_their_qualifiers(terms, present):
    labels = labels_of(terms)
    assert present == (None if labels is None else {name for name, value in labels.items() if value == 1})


def test_reports_without_index_or_image_are_counted(release, read):
    texts = studies() | {
        "ecgen-radiology/98.xml": xml(98, names(98), ["No Indexing"]),
        "ecgen-radiology/99.xml": xml(99, [], ["normal"]),
    }
    images = [f"{name}.png" for i in [*range(24), 98] for name in names(i)]
    dataset = read("openi", release(images, texts), frontal_only=False)
    assert "left out: 2 images without a label" in dataset.notes
    assert "1 reports have no image" in dataset.notes


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml(1, ["a"], ["normal"], head=BOMB, findings="&b;"), "declares a document type or entities"),
        ("<eCitation><uId id='CXR1'>", "is damaged"),
        ("<other/>", "has no uId"),
        (f"<eCitation>{' ' * 2**20}</eCitation>", "more than 1,048,576 characters"),
    ],
)
def test_hostile_and_damaged_xml_is_refused_by_name(release, read, text, message):
    root = release(["a.png"], {"ecgen-radiology/1.xml": text})
    with pytest.raises(DataError, match=rf"ecgen-radiology/1\.xml: {message}"):
        read("openi", root)


def test_a_folder_without_reports_and_one_without_projections_are_told(release, read):
    root = release(["a.png"])
    with pytest.raises(DataError, match=r"openi: no indiana_reports\.csv and no ecgen-radiology"):
        read("openi", root)
    (root / REPORTS).write_text("uid,MeSH\n1,normal\n")
    with pytest.raises(DataError, match=r"no indiana_projections\.csv beside indiana_reports\.csv"):
        read("openi", root)
