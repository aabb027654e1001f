import io
import struct
import subprocess
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from dicom_files import lookup_table, write_dicom
from PIL import Image, ImageFile
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from trainables.data.formats.decode import FileDecoder, decode, decode_grey
from trainables.data.records import ImageRecord
from trainables.errors import DataError


def bomb(width, height) -> bytes:
    """A PNG whose header promises width × height pixels, in a few hundred bytes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def png_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"hello, this is text and no image", "not a PNG, JPEG, TIFF or DICOM image"),
        (b"GIF89a" + bytes(64), "not a PNG, JPEG, TIFF or DICOM image"),
        (png_bytes()[:-400], "cannot be decoded"),
        (png_bytes().replace(b"IDAT", b"IDAT\xff\xff", 1), "cannot be decoded"),
        (bomb(8_000, 8_000), "too many pixels"),
        (bomb(50_000, 50_000), "too many pixels"),
        (bomb(1, 1), "1 × 1 is not a radiograph"),
        (bomb(4_000, 20), "not a radiograph"),
    ],
)
def test_unusable_image_is_refused_with_the_reason(tmp_path, content, message):
    path = tmp_path / "film.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        decode_grey(path)


@pytest.mark.parametrize(("dtype", "is_blank"), [("uint8", True), ("uint16", True), ("uint8", False)])
def test_a_blank_image_gives_a_warning(tmp_path, dtype, is_blank):
    pixels = np.full((32, 32), 7, dtype)
    pixels[0, 0] += not is_blank
    Image.fromarray(pixels).save(tmp_path / "film.png")
    assert decode(tmp_path / "film.png").warnings == (("every pixel is equal",) if is_blank else ())


def test_pillows_own_guards_stay_up():
    assert Image.MAX_IMAGE_PIXELS is not None
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_decoder_names_file_and_row(tmp_path):
    path = tmp_path / "film.png"
    path.write_bytes(png_bytes())
    record = ImageRecord("images/film.png", "p1", "train", {}, path=path)
    decoder = FileDecoder({"images/film.png": "manifest.csv line 7"})
    np.testing.assert_array_equal(decoder(record), decode_grey(path))
    assert decoder.image(record).warnings == ()
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"images/film.png \(manifest.csv line 7\): the file is empty"):
        decoder(record)
    with pytest.raises(DataError, match=r"^images/film.png: the file is empty"):
        FileDecoder({})(record)


def test_a_png_needs_no_library_of_other_formats(tmp_path):
    path = tmp_path / "film.png"
    path.write_bytes(png_bytes())
    script = (
        "import sys; from pathlib import Path; from trainables.data.formats.decode import decode_grey\n"
        f"decode_grey(Path({str(path)!r}))\n"
        "print(*{'pydicom', 'tifffile', 'imagecodecs', 'torch'} & sys.modules.keys())"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == ""


def test_a_missing_package_is_named_with_the_command(tmp_path, monkeypatch):
    path = tmp_path / "film.png"
    path.write_bytes(imagecodecs.png_encode(np.zeros((32, 32, 3), dtype=np.uint16)))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ValueError, match=r"imagecodecs is missing.*-m pip install imagecodecs"):
        decode_grey(path)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns a file with some bytes changed, and half of the time cut."""
    broken = bytearray(content)
    for place in rng.integers(0, len(broken), rng.integers(1, 12)):
        broken[place] = rng.integers(256)
    return bytes(broken[: rng.integers(1, len(broken))] if rng.random() < 0.5 else broken)


def fuzzed_files(folder) -> dict[str, bytes]:
    """One file of every kind that has its own decoder."""
    noise = np.random.default_rng(0).integers(0, 4096, (48, 64), dtype=np.uint16)
    small, colours = (noise >> 4).astype(np.uint8), np.stack([noise] * 3, axis=-1)
    tifffile.imwrite(folder / "deep.tif", noise, compression="zlib")
    Image.fromarray(small).save(folder / "small.tif", compression="tiff_lzw")
    Image.fromarray(small).save(folder / "small.jpg")
    write_dicom(folder / "plain.dcm", noise, VOILUTSequence=[lookup_table(noise[0], first=9, bits=12)])
    write_dicom(folder / "deflated.dcm", noise, syntax=DeflatedExplicitVRLittleEndian)
    frames = {
        JPEGBaseline8Bit: imagecodecs.jpeg8_encode(small),
        JPEGLosslessSV1: imagecodecs.jpeg8_encode(noise, lossless=True, bitspersample=12),
        JPEGLSLossless: imagecodecs.jpegls_encode(noise),
        JPEG2000Lossless: imagecodecs.jpeg2k_encode(noise, level=0, codecformat="J2K"),
        HTJ2KLossless: imagecodecs.htj2k_encode(noise),
    }
    for syntax, frame in frames.items():
        write_dicom(folder / f"{syntax.keyword}.dcm", noise, syntax=syntax, compressed=frame)
    run_length = dcmread(folder / "plain.dcm")
    run_length.compress(RLELossless)
    run_length.save_as(folder / "rle.dcm")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {"small.png": png_bytes(), "deep.png": imagecodecs.png_encode(colours)}


def test_hostile_bytes_raise_nothing_but_value_errors(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "good").mkdir()
    files = fuzzed_files(tmp_path / "good")
    num_decoded = 0
    for name, content in files.items():
        assert decode_grey_of(tmp_path / name, content) is not None
        num_decoded += sum(
            decode_grey_of(tmp_path / name, damaged(content, rng)) is not None for _ in range(60)
        )
    assert 0 < num_decoded < 60 * len(files)  # pixels may change and still be pixels


def decode_grey_of(path, content: bytes) -> np.ndarray | None:
    path.write_bytes(content)
    try:
        grey = decode_grey(path)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - every other error fails the test
        return None
    assert grey.dtype == np.uint8
    assert grey.ndim == 2
    return grey
