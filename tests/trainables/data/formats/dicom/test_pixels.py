"""The stored values: bits, signs, byte orders, transfer syntaxes. The picture is always the same ramp."""

import struct

import imagecodecs
import numpy as np
import pytest
from dicom_files import RAMP, write_dicom
from pydicom import dcmread
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from trainables.data.formats.decode import decode_grey

GREY = np.rint(RAMP / RAMP.max() * 255).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 4096, (48, 64), dtype=np.uint16)
SIGNED = (RAMP.astype(np.int16) - 2048).astype(np.int16)


def run_lengths(sizes: list[int]) -> bytes:
    """A frame with one segment of zeros for each size."""
    segments = [imagecodecs.packbits_encode(bytes(size)) for size in sizes]
    starts = [64 + sum(map(len, segments[:i])) for i in range(len(segments))]
    header = struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments)))
    return header + b"".join(segments)


NATIVE = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
]


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.name)
@pytest.mark.parametrize("pixels", [RAMP, SIGNED, (RAMP >> 4).astype(np.uint8)], ids=lambda a: a.dtype.name)
def test_uncompressed_pixels(tmp_path, syntax, pixels):
    decoded = decode_grey(write_dicom(tmp_path / "a.dcm", pixels, syntax=syntax))
    expected = pixels if pixels.dtype == np.uint8 else GREY
    np.testing.assert_array_equal(decoded, expected)


def j2k(pixels, **options):
    return imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="J2K", **options)


@pytest.mark.parametrize(
    ("syntax", "frame", "tolerance"),
    [
        (JPEGLossless, imagecodecs.jpeg8_encode(NOISE, lossless=True, bitspersample=12, predictor=6), 0),
        (JPEGLosslessSV1, imagecodecs.jpeg8_encode(NOISE, lossless=True, bitspersample=12, predictor=1), 0),
        (JPEGExtended12Bit, imagecodecs.jpeg8_encode(NOISE, level=100, bitspersample=12), 1),
        (JPEGLSLossless, imagecodecs.jpegls_encode(NOISE), 0),
        (JPEG2000Lossless, j2k(NOISE), 0),
        (HTJ2KLossless, imagecodecs.htj2k_encode(NOISE), 0),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_compressed_pixels(tmp_path, syntax, frame, tolerance):
    decoded = decode_grey(
        write_dicom(
            tmp_path / "a.dcm", NOISE, syntax=syntax, compressed=frame, WindowCenter=2048, WindowWidth=4097
        )
    )
    np.testing.assert_allclose(decoded.astype(int), np.rint((NOISE + 0.5) / 4096 * 255), atol=tolerance)


def test_jpeg_baseline(tmp_path):
    pixels = (RAMP >> 4).astype(np.uint8)
    frame = imagecodecs.jpeg8_encode(pixels, level=100)
    decoded = decode_grey(write_dicom(tmp_path / "a.dcm", pixels, syntax=JPEGBaseline8Bit, compressed=frame))
    np.testing.assert_allclose(decoded.astype(int), pixels, atol=2)


@pytest.mark.parametrize("pixels", [NOISE, SIGNED, (RAMP >> 4).astype(np.uint8)], ids=lambda a: a.dtype.name)
def test_run_length_encoding_equals_uncompressed(tmp_path, pixels):
    path = write_dicom(tmp_path / "plain.dcm", pixels)
    dataset = dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(decode_grey(tmp_path / "rle.dcm"), decode_grey(path))


@pytest.mark.parametrize("is_signed", [False, True])
def test_jpeg_2000_whose_sign_contradicts_the_header(tmp_path, is_signed):
    """Writers compress signed values as unsigned ones of the same bits, and the other way round."""
    header, frame = (SIGNED, RAMP.astype(np.uint16)) if is_signed else (RAMP, SIGNED)
    twelve_bits = header.view(np.uint16) & 0xFFF
    frame = twelve_bits if is_signed else np.where(RAMP >= 2048, RAMP.astype(np.int32) - 4096, RAMP)
    path = write_dicom(
        tmp_path / "a.dcm",
        header,
        syntax=JPEG2000Lossless,
        compressed=j2k(frame.astype(np.uint16 if is_signed else np.int16)),
        BitsStored=12,
        HighBit=11,
    )
    np.testing.assert_array_equal(decode_grey(path), GREY)


def test_unused_bits_and_overlays_in_them_are_dropped(tmp_path):
    rubbish = np.random.default_rng(0).integers(0, 16, RAMP.shape, dtype=np.uint16) << 12
    np.testing.assert_array_equal(decode_grey(write_dicom(tmp_path / "a.dcm", RAMP | rubbish)), GREY)
    signed = ((SIGNED.view(np.uint16) & 0xFFF) | rubbish).view(np.int16)
    path = write_dicom(tmp_path / "b.dcm", signed, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(decode_grey(path), GREY)


def test_values_in_the_upper_bits(tmp_path):
    """Before 2000, twelve bits could lie at the upper end, with an overlay below them."""
    path = write_dicom(tmp_path / "a.dcm", (RAMP << 4) | np.uint16(9), HighBit=15)
    np.testing.assert_array_equal(decode_grey(path), GREY)


def test_sixteen_bits_stored(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP * np.uint16(16), BitsStored=16)
    np.testing.assert_array_equal(decode_grey(path), GREY)


def test_missing_bits_stored_are_those_allocated(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, HighBit=None, PixelRepresentation=None)
    dataset = dcmread(path)
    del dataset.BitsStored
    dataset.save_as(path)
    np.testing.assert_array_equal(decode_grey(path), GREY)


def test_file_without_preamble_and_file_meta(tmp_path):
    for syntax, is_implicit, is_little_endian in [
        (ImplicitVRLittleEndian, True, True),
        (ExplicitVRLittleEndian, False, True),
        (ExplicitVRBigEndian, False, False),
    ]:
        dataset = dcmread(write_dicom(tmp_path / "whole.dcm", syntax=syntax))
        dataset.file_meta.clear()
        dataset.preamble = None
        dataset.save_as(tmp_path / "bare", implicit_vr=is_implicit, little_endian=is_little_endian)
        assert b"DICM" not in (tmp_path / "bare").read_bytes()
        np.testing.assert_array_equal(decode_grey(tmp_path / "bare"), GREY)


@pytest.mark.parametrize(
    ("syntax", "frame", "message"),
    [
        (JPEGLossless, imagecodecs.jpeg8_encode(NOISE, lossless=True, bitspersample=12)[:-400], "cut"),
        (JPEG2000, j2k(NOISE)[:-400], "cut"),
        (JPEG2000, j2k(NOISE)[:-400] + b"\xff\xd9", "cannot be decompressed"),
        (JPEG2000, j2k(NOISE.repeat(2, 0)), "header says 64 × 48, but its pixels are 64 × 96"),
        (HTJ2K, imagecodecs.htj2k_encode(NOISE)[:-400], "cut"),
        (HTJ2K, imagecodecs.htj2k_encode(NOISE)[:-400] + b"\xff\xd9", "cannot be decompressed"),
        (HTJ2K, b"no image\xff\xd9", "no JPEG 2000 image"),
        (JPEGLSLossless, imagecodecs.jpegls_encode(NOISE[:40]), "cannot be decompressed"),
        (JPEGBaseline8Bit, b"\xff\xd8 rubbish \xff\xd9", "cannot be decompressed"),
        (RLELossless, b"rubbish", "cut"),
        (RLELossless, run_lengths([48 * 64, 48 * 64 - 128]), "cut: 2,944 of 3,072 bytes in a segment"),
        (RLELossless, run_lengths([48 * 64 - 128, 48 * 64]), "cut: 2,944 of 3,072 bytes in a segment"),
        (RLELossless, run_lengths([48 * 64]), "says 2 bytes per pixel, but its pixels have 1"),
        (RLELossless, run_lengths([10**6, 10**6]), "cannot be decompressed"),
        (MPEG2MPML, b"film", "compressed as MPEG2 .* which cannot be decoded"),
    ],
)
def test_damaged_compression_is_refused(tmp_path, syntax, frame, message):
    path = write_dicom(tmp_path / "a.dcm", NOISE, syntax=syntax, compressed=frame)
    with pytest.raises(ValueError, match=message):
        decode_grey(path)


def test_more_pixels_than_the_header_says_are_refused(tmp_path):
    """Such as several frames without a number of frames."""
    path = write_dicom(tmp_path / "a.dcm", RAMP.repeat(2, axis=0), Rows=48)
    with pytest.raises(ValueError, match="says 6,144 bytes of pixels, but it has 12,288"):
        decode_grey(path)


def test_cut_files_are_refused(tmp_path):
    content = write_dicom(tmp_path / "a.dcm").read_bytes()
    (tmp_path / "pixels.dcm").write_bytes(content[:-1000])
    with pytest.raises(ValueError, match="its pixels are cut: 5,144 of 6,144 bytes"):
        decode_grey(tmp_path / "pixels.dcm")
    (tmp_path / "header.dcm").write_bytes(content[:600])
    with pytest.raises(ValueError, match=r"holds no image .* or the file is cut"):
        decode_grey(tmp_path / "header.dcm")
    frame = imagecodecs.jpegls_encode(NOISE)
    content = write_dicom(tmp_path / "b.dcm", NOISE, syntax=JPEGLSLossless, compressed=frame).read_bytes()
    (tmp_path / "compressed.dcm").write_bytes(content[:-1000])
    with pytest.raises(ValueError, match="the DICOM file is cut"):
        decode_grey(tmp_path / "compressed.dcm")


def test_deflated_bomb_is_refused_before_it_expands(tmp_path, monkeypatch):
    from trainables.data.formats.dicom import file

    monkeypatch.setattr(file, "MAX_INFLATED_BYTES", 4000)
    path = write_dicom(tmp_path / "a.dcm", syntax=DeflatedExplicitVRLittleEndian)
    with pytest.raises(ValueError, match="expands to more than 4,000 bytes"):
        decode_grey(path)
