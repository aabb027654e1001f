"""Montgomery, Shenzhen and TBX11K."""

from collections import Counter

import pytest
from PIL import Image

from trainables.config import DataConfig
from trainables.data.sets.nlm_tuberculosis import MONTGOMERY
from trainables.data.sets.reader import read_set
from trainables.data.sets.tbx11k import TBX11K
from trainables.errors import DataError


def name(prefix, number, label):
    return f"{prefix}_{number:04d}_{label}"


def montgomery(release, numbers=tuple(range(1, 25)), *, outer="MontgomerySet"):
    stems = [name("MCUCXR", number, number % 2) for number in numbers]
    masks = [f"{outer}/ManualMask/{side}Mask/{stem}.png" for stem in stems[:2] for side in ("left", "right")]
    readings = {
        f"{outer}/ClinicalReadings/{stem}.txt": f"Patient's Sex: {'F' if i % 2 else 'M'}\r\n"
        f"Patient's Age: {20 + i:03d}Y\r\nnormal\r\n"
        for i, stem in enumerate(stems)
    }
    return release([*(f"{outer}/CXR_png/{stem}.png" for stem in stems), *masks], readings)


def test_montgomery_has_label_sex_and_age_of_each_image(release, read):
    dataset = read("montgomery", montgomery(release))
    assert dataset.classes == ("Normal", "Tuberculosis")
    assert len(dataset.records) == 24
    for i, record in enumerate(dataset.records):
        assert record.labels["Tuberculosis"] == (i + 1) % 2
        assert record.sex == ("F" if i % 2 else "M")
        assert record.age == 20 + i
        assert record.mask_path is None
    assert dataset.notes == ()  # the masks are no images


def test_montgomery_keeps_the_images_of_one_patient_together(release, tmp_path):
    root = montgomery(release, (113, 117, 162, 166, 170, 171), outer="NLM-MontgomeryCXRSet/MontgomerySet")
    images = read_set(MONTGOMERY, DataConfig(dataset="montgomery", root=root))
    patients = [record.patient_id for record in images.records]
    assert patients == ["0113", "0113", "0162", "0162", "0162", "0171"]
    assert images.has_patients


SHENZHEN = {
    1: ("male 45yrs\nnormal", "M", 45),
    2: ("femal 32yrs\nnormal", "F", 32),
    3: ("female24yrs\r\nnormal", "F", 24),
    4: ("male 16month\nnormal", "M", 16 / 12),
    5: ("female 64days\nnormal", "F", 64 / 365.25),
    6: ("Female, 28yrs\nSTB", "F", 28),
    7: ("normal", None, None),
    8: ("", None, None),
}


def test_shenzhen_reads_sex_and_age_in_every_spelling(release, read):
    stems = {number: name("CHNCXR", number, number % 2) for number in range(1, 25)}
    readings = {f"ClinicalReadings/{stems[number]}.txt": text for number, (text, *_) in SHENZHEN.items()}
    root = release([f"CXR_png/{stem}.png" for stem in stems.values()], readings)
    dataset = read("shenzhen", root)
    assert len(dataset.records) == 24
    assert not dataset.has_patients
    for number, record in enumerate(dataset.records, start=1):
        _, sex, age = SHENZHEN.get(number, (None, None, None))
        assert (record.sex, record.age) == (sex, pytest.approx(age))


def test_a_reading_that_is_a_link_out_of_the_root_is_refused(release, read, tmp_path):
    stem = name("CHNCXR", 1, 1)
    root = release([f"CXR_png/{stem}.png"], {"ClinicalReadings/other.txt": "male 3yrs"})
    (tmp_path / "secret.txt").write_text("female 80yrs")
    (root / "ClinicalReadings" / f"{stem}.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DataError, match=r"CHNCXR_0001_1\.txt' is a link that leads out"):
        read("shenzhen", root)


def test_shenzhen_palette_and_colour_images_become_grey(release, read):
    root = release([f"CXR_png/{name('CHNCXR', i, i % 2)}.png" for i in range(1, 25)])
    first, second = sorted((root / "CXR_png").iterdir())[:2]
    grey = Image.open(first).copy()
    grey.convert("P").save(first)
    Image.open(second).convert("RGB").save(second)
    dataset = read("shenzhen", root)
    decoded = [dataset.decode(record) for record in dataset.records[:2]]
    assert [image.shape for image in decoded] == [(20, 24)] * 2
    assert decoded[0].tolist() == list(map(list, zip(*[iter(grey.tobytes())] * 24, strict=True)))


def tbx11k(release, **lists):
    kinds = ("health", "sick", "tb")
    letters = {"health": "h", "sick": "s", "tb": "tb"}
    names = {kind: [f"{kind}/{letters[kind]}{i:04d}.png" for i in range(12)] for kind in kinds}
    images = [f"TBX11K/imgs/{path}" for paths in names.values() for path in paths]
    unread = [f"TBX11K/imgs/{path}" for path in ("test/test_0001.png", "extra/da+db/MCUCXR_0001_0.png")]
    published = {
        "TBX11K_train.txt": "\n".join(path for paths in names.values() for path in paths[:9]),
        "TBX11K_val.txt": "\n".join(path for paths in names.values() for path in paths[9:]) + "\n",
        "all_val.txt": "extra/da+db/MCUCXR_0001_0.png\n",
    }
    texts = {f"TBX11K/lists/{file}": text for file, text in (published | lists).items()}
    return release([*images, *unread], texts)


def test_tbx11k_tests_on_the_published_val_and_draws_val_from_train(release, read):
    dataset = read("tbx11k", tbx11k(release))
    assert dataset.classes == ("Normal", "sick", "Tuberculosis")
    assert len(dataset.indices("train", "val")) == 27
    assert len(dataset.indices("val")) in (3, 4)
    for record in dataset.records:
        number = int(record.image_id[-8:-4])
        assert (record.split == "test") == (number >= 9)
    assert not any("test_0001" in record.image_id or "extra" in record.image_id for record in dataset.records)
    assert "2 images in" in dataset.details[0]
    assert any("published val split is the test split" in note for note in dataset.notes)


def test_tbx11k_names_the_line_of_a_missing_image_and_a_missing_list(release, read):
    root = tbx11k(release, **{"TBX11K_val.txt": "tb/tb0009.png\ntb/tb9999.png\n"})
    with pytest.raises(DataError, match=r"TBX11K_val\.txt line 2: 'imgs/tb/tb9999\.png' cannot be read"):
        read("tbx11k", root)
    (root / "TBX11K/lists/TBX11K_val.txt").unlink()
    with pytest.raises(DataError, match=r"no lists/TBX11K_val\.txt"):
        read("tbx11k", root, seed=1)


def test_real_tbx11k_images_are_read_by_their_lists(tb_mini_root):
    images = read_set(TBX11K, DataConfig(dataset="tbx11k", root=tb_mini_root))
    assert Counter(record.split for record in images.records) == {"train": 3, "test": 1}
    ill = sorted(record.image_id for record in images.records if record.labels["Tuberculosis"])
    assert ill == ["imgs/tb/tb0005.png", "imgs/tb/tb0007.png"]
    assert {images.decode(record).shape for record in images.records} == {(256, 256)}
