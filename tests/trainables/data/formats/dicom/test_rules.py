import numpy as np
import pytest
from dicom_files import PATIENT, RAMP, write_dicom
from pydicom import dcmread
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage

from trainables.data.formats.decode import decode

SMALL = RAMP.astype(np.uint8)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Modality": "CT"}, r"says CT \(computed tomography\), not a radiograph"),
        ({"Modality": "MR"}, "magnetic resonance"),
        ({"Modality": "MG"}, "mammography"),
        ({"Modality": "US"}, "ultrasound"),
        ({"Modality": None, "SOPClassUID": CTImageStorage}, "says CT"),
        ({"NumberOfFrames": 2}, "has 2 frames"),
        ({"NumberOfFrames": 0}, "has 0 frames"),
        (
            {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0},
            "colour image",
        ),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL"}, r"colour image \(YBR_FULL\)"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour image"),
        ({"PhotometricInterpretation": None}, "does not say whether large values are bright or dark"),
        ({"Rows": 60_000, "Columns": 60_000}, "too many pixels"),
        ({"Rows": 3, "Columns": 3}, "not a radiograph"),
        ({"Rows": 2_000, "Columns": 20}, "not a radiograph"),
        ({"Rows": None}, "does not give the size"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "has 32 bits per pixel"),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "has 1 bits per pixel"),
        ({"BitsAllocated": None}, "unknown number of bits"),
        ({"BitsStored": 24}, "24 bits stored in 16"),
        ({"HighBit": 16}, "below bit 16 of 16"),
        ({"RescaleSlope": 0, "RescaleIntercept": 5}, "Rescale Slope is 0"),
    ],
)
def test_what_is_no_grey_radiograph_is_refused_by_name(tmp_path, tags, message):
    with pytest.raises(ValueError, match=message):
        decode(write_dicom(tmp_path / "a.dcm", **tags))


def without_pixels(path, keyword="PixelData"):
    dataset = dcmread(path)
    del dataset[keyword]
    return dataset


def test_objects_without_pixels_are_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", Modality="SR")
    without_pixels(path).save_as(path)
    with pytest.raises(ValueError, match=r"holds no image \(its header says SR\)"):
        decode(path)


def test_empty_pixels_are_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm")
    dataset = dcmread(path)
    dataset.PixelData = b""
    dataset.save_as(path)
    with pytest.raises(ValueError, match="Pixel Data is empty"):
        decode(path)


@pytest.mark.parametrize(
    ("keyword", "dtype"), [("FloatPixelData", np.float32), ("DoubleFloatPixelData", np.float64)]
)
def test_pixels_with_decimals_are_refused(tmp_path, keyword, dtype):
    path = write_dicom(tmp_path / "a.dcm")
    dataset = without_pixels(path)
    setattr(dataset, keyword, RAMP.astype(dtype).tobytes())
    dataset.save_as(path)
    with pytest.raises(ValueError, match="pixels with decimals"):
        decode(path)


@pytest.mark.parametrize("body", ["CHEST", "chest", "CHEST_PA", "Thorax", "TORAX", "W033TÓRAX_PA", "LUNG"])
def test_chest_radiographs_are_read_without_a_warning(tmp_path, body):
    assert decode(write_dicom(tmp_path / "a.dcm", BodyPartExamined=body)).warnings == ()


def test_a_secondary_capture_may_be_a_chest_radiograph(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", SMALL, SOPClassUID=SecondaryCaptureImageStorage, Modality="CR")
    assert decode(path).warnings == ()


def test_a_description_may_name_the_chest(tmp_path):
    tags = {"BodyPartExamined": None, "StudyDescription": "RX TORAX 2 PROYECCIONES"}
    assert decode(write_dicom(tmp_path / "a.dcm", **tags)).warnings == ()


@pytest.mark.parametrize(
    ("tags", "warning"),
    [
        ({"BodyPartExamined": "HIP"}, "its header says hip, not chest"),
        ({"BodyPartExamined": "HIP", "StudyDescription": "CHEST"}, "its header says hip, not chest"),
        ({"BodyPartExamined": "THORACIC SPINE"}, "its header says thoracic spine, not chest"),
        ({"BodyPartExamined": None}, "its header does not name the body part"),
        ({"Modality": "OT"}, "its header says modality OT, not a radiograph (CR or DX)"),
        (
            {"Modality": None, "SOPClassUID": SecondaryCaptureImageStorage},
            "its header names no modality, not a radiograph (CR or DX)",
        ),
        (
            {"PresentationIntentType": "FOR PROCESSING"},
            "its header says 'for processing': these are raw values, not the image for a reader",
        ),
    ],
)
def test_what_is_perhaps_no_chest_radiograph_is_read_with_a_warning(tmp_path, tags, warning):
    assert decode(write_dicom(tmp_path / "a.dcm", **tags)).warnings == (warning,)


def test_messages_show_no_control_characters_of_the_header(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", BodyPartExamined="HIP\x1b[31m\n" + "x" * 99)
    (warning,) = decode(path).warnings
    assert warning.isprintable()
    assert len(warning) < 80


def test_messages_do_not_name_the_patient(tmp_path):
    for tags in ({"Modality": "CT"}, {"NumberOfFrames": 2}, {"BitsStored": 24}):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            decode(write_dicom(tmp_path / "a.dcm", **tags))
        assert PATIENT not in str(caught.value)
    assert PATIENT not in repr(decode(write_dicom(tmp_path / "b.dcm", BodyPartExamined="HIP")))
