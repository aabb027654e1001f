import numpy as np
import pytest
from PIL import Image

from trainables.artifacts import verify
from trainables.config import DataConfig, PhantomConfig
from trainables.data import survey as survey_module
from trainables.data.datasets import load_dataset
from trainables.data.problems import UnusableImages
from trainables.data.survey import THUMBNAIL, facts_of, open_survey
from trainables.data.transforms import fit

SMALL = DataConfig(phantom=PhantomConfig(num_train=12, num_val=6, num_test=6))


def test_facts_are_those_of_the_decoded_images_in_order(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(survey_module, "SHARD_IMAGES", 5)  # an uneven last batch
    dataset = load_dataset(SMALL)
    survey = open_survey(dataset, tmp_path)
    images = [dataset.decode(record) for record in dataset.records]
    assert survey.height.tolist() == [128] * 24
    assert survey.mean == pytest.approx([image.mean() for image in images], rel=1e-6)
    expected = np.stack([fit(image, THUMBNAIL) for image in images])
    np.testing.assert_array_equal(np.concatenate(list(survey.thumbnails())), expected)
    assert len(set(survey.digests)) == len(survey) == 24
    verify(survey.file.parent)


def test_what_the_decoder_says_is_stored(write_manifest, reread, tmp_path) -> None:
    reread()
    root = write_manifest()
    Image.open(root / "film-07.png").save(root / "other.jpg")
    (root / "film-07.png").write_bytes((root / "other.jpg").read_bytes())
    dataset = load_dataset(DataConfig(dataset="manifest", root=root))
    survey = open_survey(dataset, tmp_path / "store")
    assert survey.formats[6:9] == ["PNG", "JPEG", "PNG"]
    assert survey.warnings[6:9] == [
        [],
        ["its name says PNG, but its content is JPEG; it was read as JPEG"],
        [],
    ]
    assert survey.greys[6] == dataset.decode.image(dataset.records[6]).greys  # type: ignore[attr-defined]
    phantoms = open_survey(load_dataset(SMALL), tmp_path / "store")
    assert set(phantoms.formats) == {None}


def test_border_and_centre_are_told_apart() -> None:
    image = np.full((100, 200), 50, np.uint8)
    image[10:90, 10:190] = 100  # inside the border of 10 px
    image[33:67, 67:133] = 200  # the middle third
    facts = facts_of(image)
    assert (facts["height"], facts["width"]) == (100, 200)
    assert facts["border"] == pytest.approx(50)
    assert facts["centre"] == pytest.approx(200, abs=3)


def test_equal_pixels_in_another_shape_have_another_digest() -> None:
    image = np.full((20, 40), 7, np.uint8)
    assert facts_of(image)["digest"] == facts_of(image.copy())["digest"]
    assert facts_of(image)["digest"] != facts_of(image.reshape(40, 20))["digest"]


def test_second_opening_decodes_nothing(tmp_path, monkeypatch) -> None:
    dataset = load_dataset(SMALL)
    first = open_survey(dataset, tmp_path)
    monkeypatch.setattr(survey_module, "_try_examine", None)
    assert open_survey(dataset, tmp_path).digests == first.digests


def test_unusable_images_are_listed_by_position_and_nothing_is_stored(
    write_manifest, reread, tmp_path
) -> None:
    reread()
    root = write_manifest()
    (root / "film-07.png").write_bytes(b"")
    Image.new("L", (4, 4)).save(root / "film-09.png")
    dataset = load_dataset(DataConfig(dataset="manifest", root=root))
    with pytest.raises(UnusableImages, match=r"data\.exclude=FILE") as caught:
        open_survey(dataset, tmp_path / "store")
    assert {dataset.records[i].image_id for i in caught.value.reasons} == {"film-07.png", "film-09.png"}
    assert "film-09.png (manifest.csv line 11): 4 × 4 is not a radiograph" in str(caught.value)
    assert not list((tmp_path / "store").glob("surveys/*/*"))
