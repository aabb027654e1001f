"""Real DICOM objects with known means; they are never part of the project."""

import csv

import numpy as np
import pytest
from pydicom import dcmread

from trainables.data.formats.decode import DecodedImage, decode
from trainables.data.formats.dicom.facts import dicom_facts

TOLERANCE, LOSSY_TOLERANCE = 1.5, 3.0  # the README of the set


@pytest.fixture(scope="module")
def expected(dicom_mini_root):
    with (dicom_mini_root / "expected.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def outcome(path) -> tuple[str, DecodedImage | str]:
    try:
        decoded = decode(path)
    except ValueError as error:
        return "refuse", str(error)
    return "warn" if decoded.warnings else "read", decoded


def test_every_object_is_read_warned_of_or_refused(dicom_mini_root, expected):
    actions = {row["file"]: outcome(dicom_mini_root / row["file"])[0] for row in expected}
    assert actions == {row["file"]: row["action"] for row in expected}
    assert len(actions) == 20


def test_every_mean_is_right(dicom_mini_root, expected):
    wrong = {}
    for row in expected:
        if row["action"] == "refuse":
            continue
        is_lossy = "JPEG" in row["syntax"] and "Lossless" not in row["syntax"]
        image = decode(dicom_mini_root / row["file"])
        mean = float(image.pixels.mean())
        if abs(mean - float(row["mean"])) > (LOSSY_TOLERANCE if is_lossy else TOLERANCE):
            wrong[row["file"]] = mean
        assert (image.greys == "VOI LUT") == (row["voi"] == "VOI LUT")
    assert not wrong


REASONS = {
    "CT_small.dcm": "CT",
    "nih_labelled_ct_8bit_rle.dcm": "CT",
    "cr_mono2_12bit_2frames.dcm": "2 frames",
    "SC_rgb_jpeg_dcmtk.dcm": "colour",
    "rtplan.dcm": "RTPLAN",
    "test-SR.dcm": "SR",
    "DICOMDIR": "holds no image",
    "MR_truncated.dcm": "MR",
    "truncated_jpeg.dcm": "is cut",
    "RG2_JPLY_fixed.dcm": "hip, not chest",
    "CR-ModalitySequenceLUT.dcm": "does not name the body part",
    "vlut_04.dcm": "modality OT",
}


def test_every_reason_is_named(dicom_mini_root):
    for name, reason in REASONS.items():
        _, found = outcome(dicom_mini_root / name)
        assert reason in (found if isinstance(found, str) else " ".join(found.warnings)), name


def test_the_same_pixels_with_the_other_polarity_are_the_negative(dicom_mini_root):
    plain = decode(dicom_mini_root / "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm")
    inverted = decode(dicom_mini_root / "Fake_MONOHR1.dcm")
    np.testing.assert_array_equal(inverted.pixels, 255 - plain.pixels)


def test_no_patient_id_leaves_the_reader(dicom_mini_root, expected):
    for row in expected:
        path = dicom_mini_root / row["file"]
        patient = dcmread(path, force=True, stop_before_pixels=True).get("PatientID")
        if not patient or len(str(patient)) < 3:
            continue
        assert str(patient) not in repr(dicom_facts(path, key=b"key"))
        assert str(patient) not in repr(outcome(path))
