"""Nine tiny files that other programs read wrongly; they are never part of the project."""

import numpy as np
import pytest
from PIL import Image

from trainables.data.formats.decode import decode_grey


def test_twelve_bits_span_the_greys_in_every_kind_of_png(odd_images_root):
    plain = decode_grey(odd_images_root / "l16_12bit.png")
    assert (plain.min(), plain.max()) == (0, 255)
    for name in ("rgb16_12bit.png", "la16_12bit.png"):
        np.testing.assert_array_equal(decode_grey(odd_images_root / name), plain)


def test_a_lead_marker_does_not_darken_the_film(odd_images_root):
    assert decode_grey(odd_images_root / "l16_outlier.png").mean() == pytest.approx(127, abs=2)


def test_a_film_that_lies_upside_down_is_turned(odd_images_root):
    stored = np.asarray(Image.open(odd_images_root / "exif3.jpg"))
    np.testing.assert_array_equal(decode_grey(odd_images_root / "exif3.jpg"), stored[::-1, ::-1])


def test_transparent_and_printed_pixels_are_seen_on_white(odd_images_root):
    for name in ("alpha.png", "cmyk.jpg"):
        with Image.open(odd_images_root / name) as image:
            rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        seen = np.asarray(Image.alpha_composite(white, rgba).convert("L"))
        np.testing.assert_allclose(decode_grey(odd_images_root / name).astype(int), seen, atol=1)


@pytest.mark.parametrize(("name", "reason"), [("lfs.png", "git lfs pull"), ("trunc.png", "truncated")])
def test_what_is_no_whole_image_is_refused(odd_images_root, name, reason):
    with pytest.raises(ValueError, match=reason):
        decode_grey(odd_images_root / name)
