"""PNG and JPEG: every mode, orientation and depth."""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from trainables.data.formats.decode import decode, decode_grey

RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
DEEP = np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (48, 1))
DEEP_GREY = np.rint(DEEP / DEEP.max() * 255).astype(np.uint8)


def saved(image: Image.Image, path, **options):
    image.save(path, **options)
    return path


def with_alpha(mode):
    image = Image.fromarray(RAMP).convert(mode)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 64, 24))
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "CMYK"])
def test_grey_colour_and_palette_images_decode_to_the_same_grey(tmp_path, mode):
    suffix, options = (".jpg", {"quality": 100}) if mode == "CMYK" else (".png", {})
    decoded = decode_grey(saved(Image.fromarray(RAMP).convert(mode), tmp_path / f"film{suffix}", **options))
    assert decoded.dtype == np.uint8
    np.testing.assert_allclose(decoded.astype(int), RAMP, atol=1)  # luma weights round


def test_black_and_white_image(tmp_path):
    image = Image.fromarray(RAMP > 127)
    np.testing.assert_array_equal(decode_grey(saved(image, tmp_path / "film.png")), 255 * (RAMP > 127))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_are_seen_on_white(tmp_path, mode):
    decoded = decode_grey(saved(with_alpha(mode), tmp_path / "film.png"))
    assert (decoded[:24] == 255).all()
    np.testing.assert_allclose(decoded[24:].astype(int), RAMP[24:], atol=1)


def test_transparent_palette_entry_is_white(tmp_path):
    image = Image.fromarray(
        np.repeat([[0, 1, 2, 3]], 16, axis=0).repeat(4, axis=1).astype(np.uint8), mode="P"
    )
    image.putpalette([200] * 3 + [90] * 3 + [50] * 3 + [10] * 3)
    decoded = decode_grey(saved(image, tmp_path / "film.png", transparency=0))
    assert decoded[0, ::4].tolist() == [255, 90, 50, 10]


@pytest.mark.parametrize(("low", "high"), [(0, 65535), (1000, 5095)])
def test_sixteen_bit_greys_are_windowed_not_saturated(tmp_path, low, high):
    deep = (low + RAMP.astype(np.float64) / 255 * (high - low)).astype(np.uint16)
    decoded = decode_grey(saved(Image.fromarray(deep), tmp_path / "film.png"))
    np.testing.assert_allclose(decoded.astype(int), RAMP, atol=1)


def test_flat_sixteen_bit_image_is_black(tmp_path):
    flat = Image.fromarray(np.full((32, 32), 700, dtype=np.uint16))
    assert not decode_grey(saved(flat, tmp_path / "film.png")).any()


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4])
def test_sixteen_bits_in_several_channels_keep_all_bits(tmp_path, num_channels):
    colours = DEEP[..., None].repeat(3 if num_channels > 2 else 1, axis=-1)
    opaque = np.full((*DEEP.shape, 1 - num_channels % 2), 65535, dtype=np.uint16)
    path = tmp_path / "film.png"
    path.write_bytes(imagecodecs.png_encode(np.concatenate([colours, opaque], axis=-1)))
    decoded = decode(path)
    np.testing.assert_array_equal(decoded.pixels, DEEP_GREY)
    assert decoded.greys == "percentiles 0.5 to 99.5"


def test_transparent_pixels_of_a_deep_image_are_white_and_do_not_count(tmp_path):
    alpha = np.full_like(DEEP, 65535)
    colours, alpha[:8] = DEEP.copy(), 0
    colours[:8] = 65535
    path = tmp_path / "film.png"
    path.write_bytes(imagecodecs.png_encode(np.stack([colours, alpha], axis=-1)))
    decoded = decode_grey(path)
    assert (decoded[:8] == 255).all()
    np.testing.assert_array_equal(decoded[8:], DEEP_GREY[8:])


def test_transparent_value_of_a_deep_grey_image_is_white(tmp_path):
    path = saved(Image.fromarray(DEEP), tmp_path / "film.png", transparency=0)
    decoded = decode_grey(path)
    assert (decoded[:, 0] == 255).all()
    assert decoded[0, 1] == 0


ORIENTATIONS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.transpose(a), 2),
    8: np.rot90,
}
CORNER = np.zeros((40, 64), dtype=np.uint8)
CORNER[:20, :16], CORNER[:20, 16:], CORNER[20:] = 250, 120, 20


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    ("suffix", "deep"), [("png", False), ("png", True), ("jpg", False), ("tif", False), ("tif", True)]
)
def test_images_are_turned_upright(tmp_path, orientation, suffix, deep):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = CORNER.astype(np.uint16) * 16 if deep else CORNER
    path = saved(Image.fromarray(pixels), tmp_path / f"film.{suffix}", exif=exif)
    decoded, expected = decode_grey(path), ORIENTATIONS[orientation](CORNER)
    assert decoded.shape == expected.shape
    assert decoded.flags.c_contiguous
    if deep:
        expected = (expected.astype(float) - 20) / 230 * 255
    np.testing.assert_allclose(decoded.astype(int), expected, atol=12 if suffix == "jpg" else 1)


def test_a_damaged_orientation_tag_is_told(tmp_path):
    rubbish = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\xff"
    path = saved(Image.fromarray(RAMP), tmp_path / "film.jpg", exif=rubbish, quality=100)
    decoded = decode(path)
    np.testing.assert_allclose(decoded.pixels.astype(int), RAMP, atol=2)
    assert all("EXIF" in warning for warning in decoded.warnings)


def test_an_orientation_that_does_not_exist_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    np.testing.assert_array_equal(
        decode_grey(saved(Image.fromarray(RAMP), tmp_path / "film.png", exif=exif)), RAMP
    )


def test_deep_pixels_whose_header_lies_are_refused(tmp_path):
    content = imagecodecs.png_encode(np.stack([DEEP] * 3, axis=-1))
    header = struct.pack(">IIBBBBB", 64, 96, 16, 2, 0, 0, 0)
    path = tmp_path / "film.png"
    path.write_bytes(content[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + content[33:])
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode_grey(path)
