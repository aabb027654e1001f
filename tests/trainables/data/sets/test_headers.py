"""Facts of DICOM headers in the records of a data set: patient as a hash, view, sex, age."""

import numpy as np
import pytest
from dicom_files import write_dicom
from PIL import Image

from trainables.config import DataConfig
from trainables.data.datasets import load_dataset


def write_noise(path, *, patient="", seed=0, **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 4096, size=(32, 40), dtype=np.uint16)
    unknown = dict.fromkeys(("ViewPosition", "PatientSex", "PatientAge"))
    write_dicom(path, pixels, PatientID=patient, **(unknown | tags))


def write(root, patient_of, count=24, **tags):
    for i in range(count):
        write_noise(root / "ab"[i % 2] / f"{i}.dcm", patient=patient_of(i), seed=i, **tags)
    return load_dataset(DataConfig(dataset="image_folder", root=root), with_test_labels=True)


def test_patients_of_headers_keep_their_images_together_and_are_hashed(tmp_path):
    dataset = write(tmp_path, lambda i: f"Doe-{i // 2 // 2 * 2 + i % 2}", count=48)  # two images of each
    assert dataset.has_patients
    assert len({r.patient_id for r in dataset.records}) == 24
    assert all(len(r.patient_id) == 32 and "Doe" not in r.patient_id for r in dataset.records)
    split_of = {}
    for r in dataset.records:
        assert split_of.setdefault(r.patient_id, r.split) == r.split
    again = load_dataset(DataConfig(dataset="image_folder", root=tmp_path, seed=1), with_test_labels=True)
    assert {r.image_id: r.patient_id for r in again.records} == {
        r.image_id: r.patient_id for r in dataset.records
    }


def test_view_sex_and_age_come_from_headers_and_laterals_are_left_out(tmp_path):
    write_noise(tmp_path / "a" / "side.dcm", patient="s", seed=99, ViewPosition="LL")
    dataset = write(tmp_path, lambda i: f"p{i}", ViewPosition="PA", PatientSex="F", PatientAge="018M")
    assert {(r.view, r.sex, r.age) for r in dataset.records} == {("PA", "F", 1.5)}
    assert len(dataset.records) == 24
    assert any("1 images that are not frontal" in note for note in dataset.notes)


@pytest.mark.parametrize("name", ["", "Anonymous"])
def test_one_placeholder_for_all_is_no_patient(tmp_path, name):
    assert not write(tmp_path, lambda i: name).has_patients


def test_a_blank_patient_among_others_counts_as_one_and_is_told(tmp_path):
    dataset = write(tmp_path, lambda i: f"p{i}" if i else "")
    assert dataset.has_patients
    assert any("1 images without a patient in their header" in note for note in dataset.notes)


def test_a_table_says_more_than_headers(tmp_path):
    for i in range(24):
        write_noise(tmp_path / f"{i}.dcm", patient="x", seed=i, ViewPosition="AP")
    lines = [f"{i}.dcm,{'ab'[i % 2]},p{i},PA" for i in range(24)]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,label,patient_id,view", *lines]))
    dataset = load_dataset(DataConfig(dataset="manifest", root=tmp_path), with_test_labels=True)
    assert {r.patient_id for r in dataset.records} == {f"p{i}" for i in range(24)}
    assert {r.view for r in dataset.records} == {"PA"}


def test_a_damaged_file_is_left_to_the_decoder_which_names_it(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x08\x00\x05\x00CS")
    dataset = write(tmp_path, lambda i: f"p{i}")
    record = next(r for r in dataset.records if r.image_id == "a/cut.dcm")
    with pytest.raises(Exception, match=r"cut\.dcm"):
        dataset.decode(record)


def test_files_named_by_uids_are_read_and_other_files_of_a_disc_are_not(tmp_path):
    write_noise(tmp_path / "a" / "1.2.276.0.7230010.3.850819", patient="uid", seed=99)
    write_noise(tmp_path / "DICOMDIR", patient="none", seed=98)
    (tmp_path / "LICENSE").write_text("free")
    dataset = write(tmp_path, lambda i: f"p{i}")
    assert len(dataset.records) == 25
    assert "a/1.2.276.0.7230010.3.850819" in {record.image_id for record in dataset.records}


def test_one_placeholder_beside_images_without_a_header_is_no_patient(tmp_path):
    for i in range(24):
        pixels = np.random.default_rng(100 + i).integers(0, 256, size=(32, 40), dtype=np.uint8)
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "ab"[i % 2] / f"{i}.png")
    assert not write(tmp_path, lambda i: "Anonymous").has_patients
