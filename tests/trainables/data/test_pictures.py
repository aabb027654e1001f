import base64
import io
from dataclasses import replace

import numpy as np
from PIL import Image

from trainables.config import DataConfig, PhantomConfig
from trainables.data import survey as survey_module
from trainables.data.datasets import load_dataset
from trainables.data.pictures import data_uri, median_picture, pictures
from trainables.data.survey import THUMBNAIL, open_survey
from trainables.data.transforms import fit

SMALL = DataConfig(phantom=PhantomConfig(num_train=12, num_val=6, num_test=6))


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")))))


def test_pictures_show_the_images_that_were_asked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(survey_module, "SHARD_IMAGES", 5)
    dataset = load_dataset(SMALL)
    survey = open_survey(dataset, tmp_path)
    found = pictures(survey, [17, 3, 3])
    assert sorted(found) == [3, 17]
    for index, picture in found.items():
        thumbnail = fit(dataset.decode(dataset.records[index]), THUMBNAIL)
        assert np.abs(pixels_of(picture.uri).astype(int) - thumbnail).mean() < 3  # JPEG
        assert (picture.width, picture.height) == (112, 112)
    assert pixels_of(median_picture(survey, [3, 4, 5]).uri).shape == (64, 64)


def test_a_picture_has_the_proportions_of_its_image(tmp_path) -> None:
    dataset = load_dataset(SMALL)
    sizes = {"height": np.full(24, 100), "width": np.full(24, 400)}
    survey = replace(open_survey(dataset, tmp_path), **sizes)
    assert (pictures(survey, [0])[0].width, pictures(survey, [0])[0].height) == (112, 28)


def test_a_data_uri_is_a_jpeg() -> None:
    assert pixels_of(data_uri(np.full((8, 8), 77, np.uint8))).tolist() == [[77] * 8] * 8
