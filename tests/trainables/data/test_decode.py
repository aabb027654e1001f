import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from trainables.data.decode import decode_grey

RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))


def saved(image: Image.Image, path, **options):
    image.save(path, **options)
    return path


def with_alpha(mode):
    image = Image.fromarray(RAMP).convert(mode)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 64, 24))
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_grey_colour_and_palette_images_decode_to_the_same_grey(tmp_path, mode):
    decoded = decode_grey(saved(Image.fromarray(RAMP).convert(mode), tmp_path / "film.png"))
    assert decoded.dtype == np.uint8
    np.testing.assert_allclose(decoded.astype(int), RAMP, atol=1)  # luma weights round


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_are_black(tmp_path, mode):
    decoded = decode_grey(saved(with_alpha(mode), tmp_path / "film.png"))
    assert not decoded[:24].any()
    np.testing.assert_allclose(decoded[24:].astype(int), RAMP[24:], atol=1)


def test_transparent_palette_entry_is_black(tmp_path):
    image = Image.fromarray(
        np.repeat([[0, 1, 2, 3]], 16, axis=0).repeat(4, axis=1).astype(np.uint8), mode="P"
    )
    image.putpalette([200] * 3 + [90] * 3 + [50] * 3 + [10] * 3)
    decoded = decode_grey(saved(image, tmp_path / "film.png", transparency=0))
    assert decoded[0, ::4].tolist() == [0, 90, 50, 10]


@pytest.mark.parametrize(("low", "high"), [(0, 65535), (1000, 5095)])
def test_sixteen_bit_greys_are_windowed_not_saturated(tmp_path, low, high):
    deep = (low + RAMP.astype(np.float64) / 255 * (high - low)).astype(np.uint16)
    decoded = decode_grey(saved(Image.fromarray(deep), tmp_path / "film.png"))
    np.testing.assert_allclose(decoded.astype(int), RAMP, atol=1)


def test_flat_sixteen_bit_image_is_black(tmp_path):
    flat = Image.fromarray(np.full((32, 32), 700, dtype=np.uint16))
    assert not decode_grey(saved(flat, tmp_path / "film.png")).any()


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
        (b"hello, this is text and no image", "not a PNG or JPEG"),
        (b"GIF89a" + bytes(64), "not a PNG or JPEG"),
        (png_bytes()[:-400], "cannot be decoded"),
        (png_bytes().replace(b"IDAT", b"IDAT\xff\xff", 1), "cannot be decoded"),
        (bomb(8_000, 8_000), "too many pixels"),
        (bomb(50_000, 50_000), "too many pixels"),
        (bomb(1, 1), "1 × 1 is not a radiograph"),
        (bomb(4_000, 20), "not a radiograph"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # the cache turns it into the error
def test_unusable_image_is_refused_with_the_reason(tmp_path, content, message):
    path = tmp_path / "film.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        decode_grey(path)


def test_pillows_own_guards_stay_up():
    assert Image.MAX_IMAGE_PIXELS is not None
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
