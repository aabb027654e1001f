from dataclasses import astuple

import numpy as np
import pytest
from dicom_files import PATIENT, write_dicom
from PIL import Image

from trainables.data.formats.dicom.facts import DicomFacts, dicom_facts
from trainables.data.formats.pseudonyms import keyed_hash

KEY = b"k" * 32


def test_facts_of_a_header(tmp_path):
    facts = dicom_facts(write_dicom(tmp_path / "a.dcm", ViewPosition="pa"), key=KEY)
    assert facts == DicomFacts(
        keyed_hash(PATIENT.casefold(), KEY), view="PA", sex="F", age=43.0, is_chest=True
    )


def test_nothing_that_identifies_the_patient_leaves(tmp_path):
    facts = dicom_facts(write_dicom(tmp_path / "a.dcm"), key=KEY)
    assert facts is not None
    shown = repr(astuple(facts)).casefold()
    for private in (PATIENT, "4711", "Müller", "Jan", "1970"):
        assert private.casefold() not in shown


def test_the_same_patient_has_the_same_hash_under_one_key_only(tmp_path):
    first = write_dicom(tmp_path / "a.dcm", PatientID="0815")
    again = write_dicom(tmp_path / "b.dcm", PatientID=" 815 ")
    other = write_dicom(tmp_path / "c.dcm", PatientID="0816")
    patients = [dicom_facts(path, key=KEY).patient for path in (first, again, other)]
    assert patients[0] == patients[1] != patients[2]
    assert dicom_facts(first, key=b"another").patient != patients[0]


@pytest.mark.parametrize(
    ("text", "years"),
    [("043Y", 43.0), ("018M", 1.5), ("052W", 52 * 7 / 365.25), ("010D", 10 / 365.25), ("62", 62.0)],
)
def test_ages_are_in_years(tmp_path, text, years):
    facts = dicom_facts(write_dicom(tmp_path / "a.dcm", PatientAge=text), key=KEY)
    assert facts.age == pytest.approx(years)


def test_missing_facts_are_none(tmp_path):
    tags = dict.fromkeys(("PatientID", "PatientAge", "ViewPosition", "BodyPartExamined"))
    path = write_dicom(tmp_path / "a.dcm", **tags, PatientSex="O")
    assert dicom_facts(path, key=KEY) == DicomFacts(None, None, None, None, None)
    path = write_dicom(tmp_path / "b.dcm", PatientID="", PatientAge="old", ViewPosition="", PatientSex="")
    assert dicom_facts(path, key=KEY) == DicomFacts(None, None, None, None, is_chest=True)


def test_a_cut_file_still_has_facts(tmp_path):
    path = write_dicom(tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:-3000])
    assert dicom_facts(path, key=KEY).view == "PA"


def test_other_files_have_no_facts(tmp_path):
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "a.dcm", "PNG")
    assert dicom_facts(tmp_path / "a.dcm", key=KEY) is None
