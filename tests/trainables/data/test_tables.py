import codecs
import gzip

import pytest

from trainables.data.tables import Columns, read_table
from trainables.errors import DataError

COLUMNS = Columns({"path": ("filename",), "label": ("class",)}, {"patient_id": ("patient",), "split": ()})
PLAIN = "path,label,patient_id\na.png,Müller,3\nb.png,Normal,4\n"


@pytest.fixture
def read(tmp_path):
    def read(content: bytes, name: str = "table.csv"):
        (tmp_path / name).write_bytes(content)
        return read_table(tmp_path / name, COLUMNS)

    return read


def values(table):
    return [tuple(row.values()) for _, row in table.rows]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1"]
)
def test_any_separator_and_encoding_gives_the_same_rows(read, separator, encoding):
    table = read(PLAIN.replace(",", separator).encode(encoding))
    assert values(table) == [("a.png", "Müller", "3"), ("b.png", "Normal", "4")]
    assert [line for line, _ in table.rows] == [2, 3]


def test_what_was_detected_is_told_and_a_clean_table_says_nothing(read):
    assert read(PLAIN.encode()).notes == ()
    (note,) = read(PLAIN.replace(",", ";").encode("cp1252")).notes
    assert note == "table.csv: semicolon-separated and encoded as Windows-1252"


def test_a_separator_inside_quotes_and_in_other_columns_does_not_mislead(read):
    table = read(b'path;label;note\n"a;1.png";Normal;one, two, three, four\n')
    assert values(table) == [("a;1.png", "Normal")]


def test_columns_are_found_by_their_usual_names_and_told(read):
    table = read(b"Unnamed: 0,FileName,Class,Patient\n0,a.png,TB,7.0\n")
    assert values(table) == [("a.png", "TB", "7.0")]
    assert table.columns == {"path": "FileName", "label": "Class", "patient_id": "Patient"}
    assert table.notes == ("table.csv: read path = 'FileName', label = 'Class', patient_id = 'Patient'",)


def test_excels_own_first_line_and_blank_lines_are_no_rows(read):
    table = read(b"sep=;\r\npath;label\r\na.png;TB\r\n;\r\n\r\nb.png;TB\r\n")
    assert values(table) == [("a.png", "TB"), ("b.png", "TB")]
    assert [line for line, _ in table.rows] == [3, 6]


def test_a_trailing_comma_is_no_value_but_a_further_value_is_one(read):
    assert values(read(b"path,label\na.png,TB,\n")) == [("a.png", "TB")]
    with pytest.raises(DataError, match="line 2: 2 values expected, not 3"):
        read(b"path,label\na.png,TB,x\n")


def test_a_compressed_table_is_read_and_a_damaged_one_is_refused(read):
    packed = gzip.compress(PLAIN.encode())
    assert len(read(packed, "table.csv.gz").rows) == 2
    with pytest.raises(DataError, match="gzip file is damaged"):
        read(packed[:-12], "cut.csv.gz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04rest", "is an Excel or ZIP file.*save it as CSV"),
        (codecs.BOM_UTF16_LE + b"a", "not a table in text"),
        (b"path,lable\na.png,TB\n", "no column 'label'; is it 'lable'"),
        (b"path,label,slit\na.png,TB,x\n", "no column 'split'; is it 'slit'"),
        (b"path,label\n", "no rows"),
        (b"", "no column 'path'"),
        (b"path,label\na.png\n", "line 2: 2 values expected, not 1"),
    ],
)
def test_what_is_no_table_is_refused_by_name(read, content, message):
    with pytest.raises(DataError, match=message) as error:
        read(content)
    assert "table.csv" in str(error.value)


def test_a_column_that_is_there_twice_is_refused_and_an_unread_one_is_named(read):
    with pytest.raises(DataError, match="several columns are named 'label'"):
        read(b"path,label,Label\na.png,TB,Normal\n")
    assert read(b"path,label,Patient Number\na.png,TB,7\n").unread == ("Patient Number",)


def test_lines_may_end_with_a_carriage_return_alone(read):
    table = read(PLAIN.replace("\n", "\r").encode())
    assert values(table) == [("a.png", "Müller", "3"), ("b.png", "Normal", "4")]
    assert [line for line, _ in table.rows] == [2, 3]
