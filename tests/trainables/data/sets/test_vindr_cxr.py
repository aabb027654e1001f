"""VinDr-CXR: three readers for each train image, in the tables of Kaggle and of PhysioNet."""

import pytest
from dicom_files import write_dicom

from trainables.data.sets.vindr_cxr import BOXES, FINDINGS, TEST, TRAIN
from trainables.errors import DataError

BASE = "physionet.org/files/vindr-cxr/1.0.0"


def image_id(number):
    return f"{number:032x}"


def write_dicoms(root, folder, ids, pixels, *, offset=0, **tags):
    for number, each in enumerate(ids, start=offset):
        path = root / folder / f"{each}.dicom"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dicom(path, pixels(number), PatientID=each, **tags)


def boxes(image, *readings):
    """Lines of train.csv: for each reader, the findings; each has a box."""
    lines = []
    for reader, findings in zip(("R8", "R9", "R10", "R11"), readings, strict=False):
        for finding in findings:
            lines.append(f"{image},{finding},0,{reader},691,1375,1653,1831")
        lines += [] if findings else [f"{image},No finding,14,{reader},,,,"]
    return lines


@pytest.fixture
def kaggle(tmp_path, pixels):
    """Writes 30 images, every second with cardiomegaly, and further readings; returns the root."""

    def write(*others, lines=()):
        readings = [[["Cardiomegaly"]] * 3 if i % 2 else [[]] * 3 for i in range(30)] + list(others)
        table = ["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"]
        for i, reading in enumerate(readings):
            table += boxes(image_id(i), *reading)
        root = tmp_path / "vinbigdata-chest-xray-abnormalities-detection"
        write_dicoms(root, "train", map(image_id, range(len(readings))), pixels)
        (root / "train.csv").write_text("\n".join([*table, *lines]))
        return tmp_path

    return write


def test_the_majority_of_the_readers_decides_whatever_the_number_of_boxes(kaggle, read):
    root = kaggle(
        [["Pleural effusion", "Pleural effusion", "ILD"], ["Pleural effusion"], []],
        [["Nodule/Mass"] * 5, [], []],
        [["Pneumothorax"], ["Other lesion"], []],
    )
    dataset = read("vindr_cxr", root)
    assert dataset.findings == tuple(BOXES.values())
    labels = {record.image_id[-8:-6]: record.labels for record in dataset.records}
    present = {number: {n for n, v in of.items() if v == 1} for number, of in labels.items()}
    assert present["00"] == {"No Finding"}
    assert present["01"] == {"Cardiomegaly"}
    assert present["1e"] == {"Pleural Effusion"}
    assert present["1f"] == {"No Finding"}
    assert present["20"] == set()  # two of three saw something, but not the same
    assert -1 not in {value for of in labels.values() for value in of.values()}
    assert any("33 images have 3 readers" in note for note in dataset.notes)
    assert not dataset.has_patients


def test_a_tie_of_the_readers_is_unknown(kaggle, read):
    root = kaggle([["Pneumothorax"], []], [["ILD"], ["ILD"], [], []])
    labels = {record.image_id[-8:-6]: record.labels for record in read("vindr_cxr", root).records}
    assert (labels["1e"]["Pneumothorax"], labels["1e"]["No Finding"], labels["1e"]["ILD"]) == (-1, -1, 0)
    assert (labels["1f"]["ILD"], labels["1f"]["No Finding"]) == (-1, -1)


def test_an_unknown_name_of_a_finding_is_refused_with_its_row(kaggle, read):
    root = kaggle(lines=[f"{image_id(0)},Cardiomegalia,3,R1,1,2,3,4"])
    with pytest.raises(DataError, match=r"train\.csv line 92: class_name 'Cardiomegalia' is none of Aortic"):
        read("vindr_cxr", root)


@pytest.fixture
def physionet(tmp_path, pixels):
    """Writes 30 train images of three readers, and 6 test images of a consensus; returns the root."""

    def write(*, num_readers=3, other="Other disease", change=str):
        columns = [name for name in FINDINGS if name != "Other diseases"]
        train = [",".join(["image_id", "rad_id", *columns, "Other diseases", "No finding"])]
        test = [",".join(["image_id", *columns, other, "No finding"])]
        for i in range(36):
            ill = i % 2
            values = ["1" if ill and name == "Tuberculosis" else "0" for name in columns]
            last = [*values, str(ill), str(1 - ill)]
            if i >= 30:
                test.append(",".join([image_id(i), *last]))
                continue
            train += [",".join([image_id(i), f"R{k}", *last]) for k in range(num_readers)]
        root = tmp_path / BASE
        write_dicoms(root, "train", map(image_id, range(30)), pixels)
        write_dicoms(root, "test", map(image_id, range(30, 36)), pixels, offset=30)
        (root / "annotations").mkdir()
        (root / TRAIN).write_text(change("\n".join(train)))
        (root / TEST).write_text("\n".join(test))
        return tmp_path

    return write


def test_physionet_has_27_findings_and_a_test_split_by_consensus(physionet, read):
    dataset = read("vindr_cxr", physionet())
    assert dataset.findings == tuple(FINDINGS.values())
    assert len(dataset.findings) == 27
    assert len(dataset.indices("test")) == 6
    assert len(dataset.indices("train", "val")) == 30
    record = next(
        record for record in dataset.records if record.split == "test" and record.labels["Tuberculosis"]
    )
    assert {n for n, v in record.labels.items() if v == 1} == {"Tuberculosis", "Other Disease"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",R1,", ",R0,", 1), r"line 3: reader 'R0' has another row .* line 2"),
        (lambda text: text.replace("R1,0", "R1,2", 1), r"line 3: Aortic enlargement is '2', not 0 or 1"),
        (lambda text: text.replace("COPD", "CPD", 1), "no column 'COPD'"),
    ],
)
def test_damaged_tables_of_physionet_are_refused(physionet, read, change, message):
    with pytest.raises(DataError, match=message):
        read("vindr_cxr", physionet(change=change))


def test_physionet_without_its_test_table_is_refused(physionet, read):
    root = physionet()
    (root / BASE / TEST).unlink()
    with pytest.raises(DataError, match=r"no annotations/image_labels_test\.csv"):
        read("vindr_cxr", root)
