"""Patients, labels, copies and excluded images, by way of a manifest."""

import shutil
import unicodedata

import pytest

from trainables.config import DataConfig
from trainables.data.datasets import load_dataset
from trainables.errors import DataError

SPLITS = ["train", "train", "val", "val", "test", "test"] * 10


def read(root, **options):
    return load_dataset(DataConfig(dataset="manifest", root=root, **options), with_test_labels=True)


def patients(**respelt):
    """One patient per split and number: train0, val0, …, with some ids written otherwise."""
    names = [f"{split}{i // 6}" for i, split in enumerate(SPLITS)]
    for place, name in respelt.items():
        names[int(place.removeprefix("row"))] = name
    return names


def test_one_patient_in_two_spellings_across_splits_is_a_leak_that_names_both(write_manifest):
    root = write_manifest(split=SPLITS, patient_id=patients(row0="3", row2="3.0", row4="03"))
    with pytest.raises(DataError, match="leak, because their ids are equal as numbers") as error:
        read(root)
    assert "'3' and '3.0' are one patient (train: film-00.png; val: film-02.png)" in str(error.value)
    assert "'3' and '03' are one patient (train: film-00.png; test: film-04.png)" in str(error.value)


def test_two_spellings_in_one_split_are_unified_and_counted(write_manifest):
    root = write_manifest(split=SPLITS, patient_id=patients(row0="3", row1="3.0"))
    dataset = read(root)
    assert [r.patient_id for r in dataset.records][:2] == ["3", "3"]
    assert "1 patient ids with two spellings were unified" in dataset.notes


def test_drawn_splits_keep_spellings_of_a_patient_together(write_manifest):
    root = write_manifest(patient_id=[f"{i // 2}{'.0' if i % 2 else ''}" for i in range(60)])
    split_of = {}
    for record in read(root).records:
        assert split_of.setdefault(record.patient_id, record.split) == record.split
    assert len(split_of) == 30


def test_clean_ids_give_no_note(write_manifest):
    assert read(write_manifest(split=SPLITS, patient_id=patients())).notes == ()


def test_without_a_patient_column_each_image_is_a_patient(write_manifest):
    root = write_manifest()
    table = root / "manifest.csv"
    table.write_text("\n".join(line.rpartition(",")[0] for line in table.read_text().splitlines()))
    dataset = read(root)
    assert not dataset.has_patients
    assert len({r.patient_id for r in dataset.records}) == 60


def test_a_blank_patient_among_others_is_refused_by_row(write_manifest):
    with pytest.raises(DataError, match="line 2: the patient is empty"):
        read(write_manifest(patient_id=["nan", *(f"p{i}" for i in range(59))]))


@pytest.mark.parametrize("name", ["None", "unknown", "NA"])
def test_a_placeholder_is_no_patient(write_manifest, name):
    with pytest.raises(DataError, match=f"line 2: '{name}' is no patient"):
        read(write_manifest(patient_id=[name, name, *(f"p{i}" for i in range(58))]))


@pytest.mark.parametrize("name", ["nan", "#N/A"])
def test_a_missing_label_is_no_class(write_manifest, name):
    with pytest.raises(DataError, match="line 2: the label is empty"):
        read(write_manifest(label=labels(name)))


def test_a_line_break_in_a_label_is_a_blank(write_manifest):
    root = write_manifest(label=labels("Lung\n opacity"))
    assert read(root).classes == ("COVID-19", "Lung opacity", "Normal")


def test_two_classes_can_swap_their_names_and_a_blank_name_is_refused(write_manifest):
    root = write_manifest()
    before = read(root).records[0].labels
    after = read(root, rename={"Normal": "COVID-19", "COVID-19": "Normal"}).records[0].labels
    assert after == {"Normal": before["COVID-19"], "COVID-19": before["Normal"]}
    with pytest.raises(DataError, match="new name of 'Normal' is blank"):
        read(root, rename={"Normal": " "})


def test_a_label_that_names_another_label_and_more_is_refused(write_manifest):
    with pytest.raises(DataError, match="line 2: column 'label': 'Normal; Effusion' names several"):
        read(write_manifest(label=labels("Normal; Effusion")))


def labels(name):
    return [name if i % 4 == 0 else "Normal" if i % 4 < 2 else "COVID-19" for i in range(60)]


@pytest.mark.parametrize("other", ["covid-19", "COVID 19", "COVID_19"])
def test_a_class_in_two_spellings_is_refused_with_the_command_that_joins_them(write_manifest, other):
    root = write_manifest(label=labels(other))
    with pytest.raises(DataError) as error:
        read(root)
    assert f"'{other}' (15) and 'COVID-19' (30): one class?" in str(error.value)
    assert f'data.rename={{"{other}": "COVID-19"}}' in str(error.value)
    assert read(root, rename={other: "COVID-19"}).classes == ("COVID-19", "Normal")


def test_labels_composed_otherwise_are_one_class(write_manifest):
    composed, apart = "Silicos\u00e9", unicodedata.normalize("NFD", "Silicosé")
    root = write_manifest(label=labels(composed))
    table = root / "manifest.csv"
    table.write_text(table.read_text().replace(composed, apart, 3))
    assert read(root).classes == ("COVID-19", "Normal", composed)


def test_classes_are_renamed_and_an_unknown_label_is_answered_with_the_nearest(write_manifest):
    root = write_manifest()
    assert read(root, rename={"Normal": "Healthy"}).classes == ("COVID-19", "Healthy")
    with pytest.raises(DataError, match="no image has the label 'Normla'; did you mean 'Normal'"):
        read(root, rename={"Normla": "Healthy"})


def test_copies_with_other_labels_are_refused_and_named(write_manifest):
    root = write_manifest()
    shutil.copy(root / "film-00.png", root / "film-02.png")  # Normal and COVID-19
    with pytest.raises(DataError, match="identical images with different labels") as error:
        read(root)
    assert "film-00.png is 'Normal', and its copy film-02.png is 'COVID-19'" in str(error.value)
    (root / "wrong.txt").write_text("# looked at\nfilm-02.png\n")
    dataset = read(root, exclude=root / "wrong.txt")
    assert len(dataset.records) == 59
    assert "excluded: 1 images listed in an exclude file" in dataset.notes


def test_drawn_splits_keep_copies_and_their_patients_together(write_manifest):
    root = write_manifest()
    for one in (0, 4, 8):  # each image of class Normal is copied to another patient of this class
        shutil.copy(root / f"film-{one:02d}.png", root / f"film-{one + 16:02d}.png")
    dataset = read(root)
    split_of = {r.image_id: r.split for r in dataset.records}
    for one in (0, 4, 8):
        names = {split_of[f"film-{i:02d}.png"] for i in (one, one + 1, one + 16, one + 17)}
        assert len(names) == 1
    assert any(note.startswith("copies: 3 images") for note in dataset.notes)


def test_excluded_images_change_the_fingerprint_and_a_line_that_names_none_is_refused(write_manifest):
    root = write_manifest()
    (root / "bad.txt").write_text(f"./film-04.png\r\nFILM-05.PNG  # cut\n\n# a remark\n{root}/film-05.png\n")
    fewer = read(root, exclude=root / "bad.txt")
    assert len(fewer.records) == 58
    assert fewer.content_fingerprint != read(root).content_fingerprint
    (root / "film-06.png").rename(root / "film #6.png")  # "#" without a blank is part of a name
    table = root / "manifest.csv"
    table.write_text(table.read_text().replace("film-06.png", "film #6.png"))
    (root / "marked.txt").write_text("film #6.png\n")
    assert len(read(root, exclude=root / "marked.txt").records) == 59
    (root / "worse.txt").write_text("film-04.png\nfilm-99.png\n")
    with pytest.raises(DataError, match=r"line 2: 'film-99\.png'"):
        read(root, exclude=root / "worse.txt")
    with pytest.raises(DataError, match=r"data\.exclude: .*none\.txt cannot be read"):
        read(root, exclude=root / "none.txt")


def test_files_are_found_without_case_and_composition_and_a_near_name_is_offered(write_manifest):
    root = write_manifest()
    (root / "film-07.png").rename(root / unicodedata.normalize("NFD", "filmé-07.PNG"))
    table = root / "manifest.csv"
    table.write_text(table.read_text().replace("film-07.png", "filmé-07.png"))
    assert len(read(root).records) == 60
    table.write_text(table.read_text().replace("film-08.png", "flim-08.png"))
    with pytest.raises(DataError, match=r"line 10: 'flim-08.png' cannot be read.*did you mean 'film-08.png'"):
        read(root, seed=1, rename={"Normal": "Healthy"})


def test_absolute_paths_inside_the_root_and_paths_without_suffix_are_understood(write_manifest):
    root = write_manifest()
    table = root / "manifest.csv"
    text = table.read_text().replace("film-00.png", str(root / "film-00.png"))
    table.write_text(text.replace("film-01.png", "film-01"))
    assert [r.image_id for r in read(root).records][:2] == ["film-00.png", "film-01.png"]


def test_optional_columns_are_read(write_manifest):
    root = write_manifest(
        View=["PA", "AP Supine"] * 30, Gender=["female", "M"] * 30, **{"Patient Age": ["058Y", "18M"] * 30},
        source=["A", "nan"] * 30, report=["Clear lungs.", ""] * 30,
    )  # fmt: skip
    one, other = read(root).records[:2]
    assert (one.view, one.sex, one.age, one.source, one.report_text) == ("PA", "F", 58.0, "A", "Clear lungs.")
    assert (other.view, other.sex, other.age, other.source, other.report_text) == ("AP", "M", 1.5, None, None)


def test_views_that_are_not_frontal_are_left_out_unless_asked_for(write_manifest):
    root = write_manifest(view=[["PA", "LL", ""][i % 3] for i in range(60)])
    dataset = read(root)
    assert len(dataset.records) == 40
    assert any(note.startswith("left out: 20 images that are not frontal") for note in dataset.notes)
    assert len(read(root, frontal_only=False).records) == 60


def test_a_set_without_a_frontal_view_is_refused_with_the_reason(write_manifest):
    with pytest.raises(DataError, match=r"no labelled image in .*left out: 60 images that are not frontal"):
        read(write_manifest(view=["LL"] * 60))


def test_columns_that_are_not_read_are_named(write_manifest):
    assert (
        "manifest.csv: columns that are not read: folds, ward"
        in read(write_manifest(folds=["1"] * 60, ward=["B"] * 60)).details
    )


def test_a_split_for_some_images_alone_is_refused(write_manifest):
    root = write_manifest(split=["train", ""] * 30)
    with pytest.raises(DataError, match="30 images have a split and 30 have none"):
        read(root)


def test_no_note_names_an_image_a_patient_or_a_path(write_manifest, tmp_path):
    root = write_manifest(patient_id=[f"{1000 + i // 2}{'.0' if i % 2 else ''}" for i in range(60)])
    (root / "bad.txt").write_text("film-04.png\n")
    notes = " ".join(read(root, exclude=root / "bad.txt").notes)
    assert "unified" in notes
    assert not any(text in notes for text in ("film", "1000", str(tmp_path), "bad.txt"))


def test_empty_files_are_no_copies_of_each_other_but_unreadable(write_manifest):
    root = write_manifest(split=SPLITS, patient_id=patients())
    for i in (0, 3, 4):  # of both classes and all splits
        (root / f"film-{i:02d}.png").write_bytes(b"")
    dataset = read(root)
    with pytest.raises(DataError, match=r"film-03\.png.*0 bytes"):
        dataset.decode(dataset.records[3])
