import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trainables.config import DataConfig, PhantomConfig
from trainables.data import phantom_image
from trainables.data.datasets import load_dataset
from trainables.data.phantom import CLASSES, SPLIT_INDICES, lesion_of, render, report, who

SEED = 200


@pytest.fixture(scope="module")
def phantoms():
    return [render(SEED, index) for index in range(240)]


def of_class(phantoms, name):
    return [(index, phantom) for index, phantom in enumerate(phantoms) if phantom.class_name == name]


def test_a_phantom_is_a_pure_function_of_seed_and_index(phantoms):
    np.testing.assert_array_equal(render(SEED, 7).image, phantoms[7].image)
    assert len({p.image.tobytes() for p in phantoms} | {render(SEED + 1, 7).image.tobytes()}) == 241
    assert phantoms[7].image.dtype == np.uint8
    assert phantoms[7].lung_mask.shape == phantoms[7].image.shape == (128, 128)


def test_more_train_images_leave_the_others_as_they_were():
    small, large = (
        load_dataset(DataConfig(phantom=PhantomConfig(num_train=n, num_val=6, num_test=6))) for n in (12, 60)
    )
    for split in ("val", "test"):
        a, b = ([d.records[i] for i in d.indices(split)] for d in (small, large))
        assert a == b


@pytest.mark.parametrize("images_per_patient", [1, 2, 3])
def test_patients_have_one_class_and_at_most_so_many_images(images_per_patient):
    images = {}
    for index in range(600):
        patient, name = who(SEED, index, images_per_patient=images_per_patient)
        images.setdefault(patient, []).append(name)
    assert {len(set(names)) for names in images.values()} == {1}
    assert {len(names) for names in images.values()} == set(range(1, images_per_patient + 1))
    patients = np.bincount([CLASSES.index(names[0]) for names in images.values()])
    assert np.ptp(patients) <= 1


def test_patients_of_two_splits_differ():
    train, val = (who(SEED, split * SPLIT_INDICES, images_per_patient=2)[0] for split in (0, 1))
    assert train != val


def test_images_of_one_patient_share_the_anatomy(phantoms):
    """Upright and centred, the lungs on two films of a patient are the same, those of others differ."""
    still = {"angle": 0.0, "scale": 1.0, "shift": (0.0, 0.0), "inspiration": 0.0, "is_ap": False}
    draw, films = phantom_image.Exposure.of, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom_image.Exposure, "of", lambda rng: replace(draw(rng), **still))
        films = [render(SEED, index) for index in range(60)]
    same, other = [], []
    for a, b in pairwise(films):
        (same if a.patient == b.patient else other).append(np.array_equal(a.lung_mask, b.lung_mask))
    assert all(same)
    assert len(same) == 20
    assert not any(other)


def test_the_lesion_is_all_that_the_class_changes(phantoms):
    for index, phantom in enumerate(phantoms[:60]):
        healthy = render(SEED, index, lesion_amplitude=0)
        np.testing.assert_array_equal(healthy.lung_mask, phantom.lung_mask)
        changed = (
            np.abs(healthy.image.astype(int) - phantom.image) > 4
        )  # a soft edge reaches a little further
        assert changed.any() == (phantom.class_name != "Normal")
        assert not (changed & ~grown(phantom.lung_mask)).any()


def grown(mask, by=4):
    padded = np.pad(mask, by)
    return np.any(
        [np.roll(padded, (dy, dx), (0, 1)) for dy in range(-by, by + 1) for dx in range(-by, by + 1)], axis=0
    )[by:-by, by:-by]


def opacity_of_sides(index, phantom):
    """How much brighter the right and the left lung are than without the lesion."""
    added = phantom.image.astype(float) - render(SEED, index, lesion_amplitude=0).image
    middle = np.arange(128) < np.average(np.arange(128), weights=phantom.lung_mask.sum(0))
    return added[:, middle].sum(), added[:, ~middle].sum()


def test_covid_is_bilateral_and_other_pneumonia_one_sided(phantoms):
    for index, phantom in of_class(phantoms, "COVID-19")[:25]:
        right, left = opacity_of_sides(index, phantom)
        assert min(right, left) > 0.15 * max(right, left)
    for index, phantom in of_class(phantoms, "Non-COVID")[:25]:
        right, left = opacity_of_sides(index, phantom)
        assert min(right, left) < 0.15 * max(right, left)
        assert (lesion_of(SEED, index, class_name="Non-COVID").side == "right") == (right > left)


def test_lungs_are_of_human_size_and_clear_of_the_border(phantoms):
    for phantom in phantoms:
        assert 0.10 < phantom.lung_mask.mean() < 0.45
        assert not np.pad(np.zeros((116, 116), bool), 6, constant_values=True)[phantom.lung_mask].any()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # noise has no optimum to find
@pytest.mark.parametrize("shortcut", ["border", "histogram"])
def test_shortcuts_tell_little(phantoms, shortcut):
    """A linear model on 6 px of border, or on the grey values, stays near one in three (n = 240, ± .06)."""
    border = np.pad(np.zeros((116, 116), bool), 6, constant_values=True)
    features = {
        "border": lambda image: image[border],
        "histogram": lambda image: np.histogram(image, 32, (0, 256))[0],
    }[shortcut]
    values = np.array([features(p.image) for p in phantoms], dtype=float)
    model = make_pipeline(StandardScaler(), PCA(20, random_state=0), LogisticRegression(C=0.1))
    groups = [p.patient for p in phantoms]
    accuracy = cross_val_score(
        model, values, [p.class_name for p in phantoms], groups=groups, cv=GroupKFold(5)
    ).mean()
    assert accuracy < 0.47


def test_reports_say_what_is_drawn():
    said = {report(lesion_of(SEED, index, class_name=name)) for index in range(60) for name in CLASSES}
    assert "Clear lungs, normal heart." in said
    for index in range(30):
        lesion = lesion_of(SEED, index, class_name="Non-COVID")
        text = report(lesion).lower()
        assert f"{lesion.side} " in text
        assert ("consolidation" in text) == lesion.has_consolidation
        assert ("effusion" in text) == lesion.has_effusion


@pytest.mark.slow
def test_two_hundred_phantoms_a_second_on_one_core():
    """CPU time, so that a busy machine hardly counts; 230 to 340 a second were measured."""
    render(SEED, 0)
    start = time.process_time()
    for index in range(400):
        render(SEED, index)
    assert 400 / (time.process_time() - start) > 200
