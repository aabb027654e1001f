import numpy as np
import pytest
from dicom_files import write_dicom
from PIL import Image

from trainables.data.formats.content import is_dicom, is_image, named_as_image
from trainables.data.formats.decode import decode, decode_grey

PIXELS = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))


@pytest.mark.parametrize(("format_name", "shown"), [("PNG", "PNG"), ("JPEG", "JPEG"), ("TIFF", "TIFF")])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom", ".JPG"])
def test_the_content_decides_and_a_wrong_suffix_is_told(tmp_path, format_name, shown, suffix):
    path = tmp_path / f"film{suffix}"
    Image.fromarray(PIXELS).save(path, format_name)
    decoded = decode(path)
    np.testing.assert_allclose(decoded.pixels.astype(int), PIXELS, atol=3)
    assert decoded.format == shown
    is_right = (
        suffix.lower() in {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "TIFF": (".tif", ".tiff")}[shown]
    )
    assert [shown in warning and "name" in warning for warning in decoded.warnings] == [True] * (not is_right)


@pytest.mark.parametrize("name", ["film", "film.dcm", "film.dicom", "film.DCM", "1.2.276.0.7230010.3.850819"])
def test_dicom_files_may_have_any_name(tmp_path, name):
    decoded = decode(write_dicom(tmp_path / name))
    assert (decoded.format, decoded.warnings) == ("DICOM", ())
    assert is_dicom(tmp_path / name)


def test_dicom_file_with_the_name_of_a_picture(tmp_path):
    (warning,) = decode(write_dicom(tmp_path / "film.png")).warnings
    assert warning == "its name says PNG, but its content is DICOM; it was read as DICOM"


def test_dicom_file_whose_preamble_is_a_tiff_header(tmp_path):
    content = write_dicom(tmp_path / "film").read_bytes()
    (tmp_path / "film").write_bytes(b"II*\0" + content[4:])
    assert decode(tmp_path / "film").format == "DICOM"


def test_git_lfs_pointer_is_refused_with_the_command(tmp_path):
    path = tmp_path / "film.png"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4567\n")
    with pytest.raises(ValueError, match=r"git-lfs pointer.*git lfs pull"):
        decode_grey(path)
    assert not is_dicom(path)


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        decode_grey(tmp_path / "none.png")
    assert not is_dicom(tmp_path / "none.png")


def test_names_say_what_may_be_an_image(tmp_path):
    assert all(map(named_as_image, ["a/film.PNG", "film.jpeg", "film.tiff", "film.dicom", "1.2.840.dcm"]))
    assert not any(map(named_as_image, ["notes.txt", "film.gif", "table.csv"]))
    assert [named_as_image(name) for name in ("film", "1.2.276.0.7230010.3.850819", "DICOMDIR")] == [None] * 3


def test_without_a_suffix_the_content_says_it(tmp_path):
    assert is_image(write_dicom(tmp_path / "1.2.276.0.850819"))
    (tmp_path / "LICENSE").write_text("free")
    assert not is_image(tmp_path / "LICENSE")
    assert not is_image(write_dicom(tmp_path / "DICOMDIR"))
