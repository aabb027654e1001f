import numpy as np
import pytest
import tifffile
from PIL import Image

from trainables.data.formats.decode import decode, decode_grey

RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
DEEP = np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (48, 1))
DEEP_GREY = np.rint(DEEP / DEEP.max() * 255).astype(np.uint8)
OPAQUE = np.full_like(DEEP, 65535)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_eight_bits(tmp_path, mode, compression):
    path = tmp_path / "film.tif"
    Image.fromarray(RAMP).convert(mode).save(path, compression=compression)
    decoded = decode(path)
    np.testing.assert_allclose(decoded.pixels.astype(int), RAMP, atol=1)
    assert (decoded.format, decoded.greys) == ("TIFF", "8 bits as stored")


@pytest.mark.parametrize(
    "deep",
    [
        DEEP,
        (DEEP.astype(np.int16) - 2048).astype(np.int16),
        DEEP.astype(np.uint32) * 1000,
        DEEP.astype(np.float32) / 4096,
        DEEP.astype(np.float64) - 99,
    ],
    ids=lambda a: a.dtype.name,
)
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"bigtiff": True}, {"byteorder": ">"}])
def test_deep_greys(tmp_path, deep, options):
    tifffile.imwrite(tmp_path / "film.tif", deep, photometric="minisblack", **options)
    np.testing.assert_array_equal(decode_grey(tmp_path / "film.tif"), DEEP_GREY)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_deep_colours_keep_all_bits(tmp_path, planar):
    axis = -1 if planar == "contig" else 0
    colours = np.stack([DEEP] * 3, axis=axis)
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(decode_grey(tmp_path / "a.tif"), DEEP_GREY)
    see_through = OPAQUE.copy()
    see_through[:8] = 0
    with_alpha = np.stack([DEEP] * 3 + [see_through], axis=axis)
    options = {"photometric": "rgb", "planarconfig": planar, "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "b.tif", with_alpha, **options)
    decoded = decode_grey(tmp_path / "b.tif")
    assert (decoded[:8] == 255).all()
    np.testing.assert_array_equal(decoded[8:], DEEP_GREY[8:])


def test_min_is_white(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", DEEP, photometric="miniswhite")
    np.testing.assert_array_equal(decode_grey(tmp_path / "a.tif"), 255 - DEEP_GREY)
    tifffile.imwrite(tmp_path / "b.tif", RAMP, photometric="miniswhite")
    np.testing.assert_array_equal(decode_grey(tmp_path / "b.tif"), 255 - RAMP)


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (np.stack([RAMP] * 3), {"photometric": "minisblack"}, "several pages"),
        (np.full((32, 32), np.nan, np.float32), {}, "infinite or missing"),
        (np.stack([DEEP] * 4, axis=-1), {"photometric": "separated"}, "SEPARATED pixels"),
        (np.zeros((8, 8), np.uint8), {}, "not a radiograph"),
        (
            np.stack([DEEP] * 3, axis=-1).astype(np.float32),
            {"photometric": "rgb"},
            "several channels of float32",
        ),
    ],
)
def test_what_is_no_single_grey_image_is_refused(tmp_path, pixels, options, message):
    tifffile.imwrite(tmp_path / "film.tif", pixels, **options)
    with pytest.raises(ValueError, match=message):
        decode_grey(tmp_path / "film.tif")


@pytest.mark.parametrize("deep", [False, True])
def test_cut_file_is_refused(tmp_path, deep):
    path = tmp_path / "film.tif"
    tifffile.imwrite(path, DEEP if deep else RAMP, compression="zlib")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode_grey(path)
