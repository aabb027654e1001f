"""The greys of DICOM files, each compared with the formula of the standard, pixel by pixel."""

import numpy as np
import pytest
from dicom_files import RAMP, lookup_table, write_dicom

from trainables.data.formats.decode import decode

X = RAMP.astype(np.float64)


def grey(fractions):
    return np.rint(255 * np.clip(fractions, 0, 1)).astype(np.uint8)


def linear(x, centre, width):
    return (x - (centre - 0.5)) / (width - 1) + 0.5


def check(path, fractions, choice, problems=()):
    decoded = decode(path)
    np.testing.assert_array_equal(decoded.pixels, grey(fractions))
    assert decoded.greys.startswith(choice)
    assert len(decoded.warnings) == len(problems)
    for warning, problem in zip(decoded.warnings, problems, strict=True):
        assert problem in warning


def test_without_a_window_the_greys_span_the_values(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP + np.uint16(32))
    check(path, X / X.max(), "smallest to largest")


def test_eight_bits_without_a_window_stay_as_they_are(tmp_path):
    pixels = (40 + RAMP / 64).astype(np.uint8)
    check(write_dicom(tmp_path / "a.dcm", pixels), pixels / 255, "8 bits as stored")
    inverted = write_dicom(tmp_path / "b.dcm", pixels, PhotometricInterpretation="MONOCHROME1")
    check(inverted, 1 - pixels / 255, "8 bits as stored")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (None, linear(X, 2000, 1500)),
        ("LINEAR", linear(X, 2000, 1500)),
        ("LINEAR_EXACT", (X - 2000) / 1500 + 0.5),
        ("SIGMOID", 1 / (1 + np.exp(-4 * (X - 2000) / 1500))),
    ],
)
def test_window_functions_follow_the_standard(tmp_path, function, expected):
    tags = {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": function}
    check(write_dicom(tmp_path / "a.dcm", **tags), expected, "window 2000/1500")


def test_unknown_window_function_is_told(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", WindowCenter=2000, WindowWidth=1500, VOILUTFunction="CUBIC")
    check(path, linear(X, 2000, 1500), "window 2000/1500 (LINEAR)", ["CUBIC is unknown"])


def test_sigmoid_does_not_overflow(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", WindowCenter=2000, WindowWidth=0.5, VOILUTFunction="SIGMOID")
    check(path, np.where(X < 2000, 0.0, 1.0), "window 2000/0.5 (SIGMOID)")


def test_first_of_two_windows_is_used(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", WindowCenter=[2000, 500], WindowWidth=[1500, 90])
    check(path, linear(X, 2000, 1500), "window 2000/1500")


@pytest.mark.parametrize("width", [0, 1, -5])
def test_window_without_slope_is_not_used_and_told(tmp_path, width):
    path = write_dicom(tmp_path / "a.dcm", WindowCenter=2000, WindowWidth=width)
    check(path, X / X.max(), "smallest to largest", ["not usable"])


@pytest.mark.parametrize(("centre", "width"), [("", ""), (None, 1500), (2000, None)])
def test_empty_window_is_no_window(tmp_path, centre, width):
    path = write_dicom(tmp_path / "a.dcm", WindowCenter=centre, WindowWidth=width)
    check(path, X / X.max(), "smallest to largest")


def test_window_beside_the_values_is_told(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", WindowCenter=30000, WindowWidth=100)
    check(path, 0 * X, "window 30000/100", ["every pixel is equal"])


def test_slope_and_intercept_come_before_the_window(tmp_path):
    signed = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    tags = {"RescaleSlope": 0.5, "RescaleIntercept": 1000, "WindowCenter": 900, "WindowWidth": 700}
    check(write_dicom(tmp_path / "a.dcm", signed, **tags), linear(0.5 * signed + 1000, 900, 700), "window")


def test_negative_slope_inverts(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RescaleSlope=-1, RescaleIntercept=4095)
    check(path, 1 - X / X.max(), "smallest to largest")


def test_monochrome1_is_inverted_once(tmp_path):
    tags = {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 2000, "WindowWidth": 1500}
    expected = 1 - np.clip(linear(X, 2000, 1500), 0, 1)
    check(write_dicom(tmp_path / "a.dcm", **tags), expected, "window")
    check(write_dicom(tmp_path / "b.dcm", PresentationLUTShape="INVERSE", **tags), expected, "window")


def test_voi_lookup_table_comes_before_the_window(tmp_path):
    curve = np.rint(1023 * np.linspace(0, 1, 3000) ** 2)
    tags = {"VOILUTSequence": [lookup_table(curve, first=500, bits=10)], "WindowCenter": 9, "WindowWidth": 9}
    expected = curve[np.clip(RAMP.astype(int) - 500, 0, 2999)] / 1023
    check(write_dicom(tmp_path / "a.dcm", **tags), expected, "VOI LUT")


def test_modality_lookup_table_replaces_the_slope(tmp_path):
    curve = np.rint(5000 * np.sqrt(np.linspace(0, 1, 4096)))
    tags = {"ModalityLUTSequence": [lookup_table(curve, first=0, bits=16)], "RescaleSlope": 7}
    path = write_dicom(tmp_path / "a.dcm", WindowCenter=2500, WindowWidth=3000, **tags)
    check(path, linear(curve[RAMP], 2500, 3000), "window 2500/3000")


def test_lookup_table_of_signed_pixels_begins_below_zero(tmp_path):
    signed = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    curve = np.linspace(0, 4095, 4096)
    tags = {"VOILUTSequence": [lookup_table(curve, first=-2048, bits=12)]}
    check(write_dicom(tmp_path / "a.dcm", signed, **tags), X / 4095, "VOI LUT")


def test_cut_lookup_table_is_refused(tmp_path):
    item = lookup_table(np.arange(100), first=0, bits=12)
    item.LUTDescriptor = [4096, 0, 12]
    with pytest.raises(ValueError, match="VOILUTSequence is cut: 100 of 4,096"):
        decode(write_dicom(tmp_path / "a.dcm", VOILUTSequence=[item]))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_count(tmp_path, photometric):
    pixels = RAMP + np.uint16(1)
    pixels[:8] = 0
    path = write_dicom(tmp_path / "a.dcm", pixels, PixelPaddingValue=0, PhotometricInterpretation=photometric)
    expected = X / X.max() if photometric == "MONOCHROME2" else 1 - X / X.max()
    expected[:8] = 0
    check(path, expected, "smallest to largest")


def test_range_of_padding_values(tmp_path):
    pixels = RAMP + np.uint16(100)
    pixels[:8, ::2], pixels[:8, 1::2] = 4, 40
    tags = {"PixelPaddingValue": 3, "PixelPaddingRangeLimit": 50}
    expected = X / X.max()
    expected[:8] = 0
    check(write_dicom(tmp_path / "a.dcm", np.minimum(pixels, 4195), BitsStored=16, **tags), expected, "small")


def test_flat_image_does_not_divide_by_zero(tmp_path):
    check(
        write_dicom(tmp_path / "a.dcm", np.full_like(RAMP, 700)),
        0 * X,
        "smallest to",
        ["every pixel is equal"],
    )
