"""Predicts many files, in batches and in constant memory, and writes one table.

Rows go to a journal beside the output, one JSON line each. An interrupted run continues from it. When every
file has a row, the journal becomes the table.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.artifacts import MANIFEST, file_sha256
from trainables.data.cache import MAX_THREADS
from trainables.data.formats.decode import decode
from trainables.data.transforms import fit
from trainables.deploy.inputs import ImageFile
from trainables.deploy.predictor import BATCH_SIZE, Model, Prediction
from trainables.errors import ConfigError, DataError

ROWS_AT_ONCE = 10_000
SUFFIXES = (".csv", ".parquet")
SAID = ("file", "label", "unlike_training", "distance")
LAST = ("warnings", "problem")


class Progress(Protocol):
    """Is told about each batch."""

    def __call__(self, num_done: int, /) -> None:
        """Records that `num_done` more files have a row."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How many files have a row, and how many of these have a problem instead of a prediction."""

    num_files: int
    num_bad: int


@dataclass(frozen=True)
class Prepared:
    """A decoded image uint8 [S, S] with warnings, or the reason why it cannot be used."""

    pixels: np.ndarray | None
    warnings: str = ""
    problem: str | None = None


def check_output(output: Path, *, resumes: bool) -> None:
    """Checks the output before a model is loaded.

    Raises:
        ConfigError: its suffix is unknown, it exists, or an interrupted run left its journal.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--output {output}: the name must end with {' or '.join(SUFFIXES)}")
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output {output}: the folder {output.parent} does not exist; create it first")
    if output.exists():
        raise ConfigError(f"--output {output}: exists already; name another file, or delete it")
    if journal_of(output).exists() and not resumes:
        raise ConfigError(
            f"--output {output}: an interrupted run left {journal_of(output).name}; continue it with "
            "--resume, or delete this file"
        )


def journal_of(output: Path) -> Path:
    """Returns the file that holds the rows until all are there."""
    return output.with_name(f"{output.name}.partial")


def predict_files(
    model: Model,
    files: Sequence[ImageFile],
    output: Path,
    *,
    system: str,
    is_raw: bool,
    progress: Progress,
) -> Outcome:
    """Writes a row for each file, and returns the counts. Files with a row in the journal are not read again.

    Raises:
        ConfigError: the journal is of another model or system, or another process is writing it.
    """
    about = {
        "model": file_sha256(model.folder / MANIFEST),
        "system": system,
        "raw": is_raw,
        "classes": list(model.facts.classes),
    }
    with journal_of(output).open("a+b") as journal:
        done = _open_journal(journal, about, output)
        left = [file for file in files if file.name not in done]
        progress(len(files) - len(left))
        with ThreadPoolExecutor(MAX_THREADS) as pool:
            pad_to = BATCH_SIZE if len(files) > BATCH_SIZE else None
            for batch, prepared in _prepared(model, left, pool):
                rows = _rows(model, batch, prepared, system=system, is_raw=is_raw, pad_to=pad_to)
                journal.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
                journal.flush()
                progress(len(batch))
        os.fsync(journal.fileno())
        outcome = _write_table(journal, output, model.facts.classes)
    journal_of(output).unlink()
    return outcome


def _open_journal(journal: BinaryIO, about: dict[str, Any], output: Path) -> set[str]:
    """Locks the journal, cuts an unfinished last line, and returns the names of the files that have a row."""
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"--output {output}: another process is writing this file; wait for it") from None
    journal.seek(0)
    length, done, is_first = 0, set[str](), True
    for line in journal:
        if not line.endswith(b"\n"):
            break
        value = json.loads(line)
        if is_first and value != about:
            raise ConfigError(
                f"--output {output}: {journal_of(output).name} is of another model, --system or --raw; name "
                "another output, or delete this file"
            )
        if not is_first:
            done.add(value["file"])
        length, is_first = length + len(line), False
    journal.truncate(length)
    if is_first:
        journal.write(json.dumps(about).encode() + b"\n")
    return done


def _prepared(
    model: Model, files: Sequence[ImageFile], pool: ThreadPoolExecutor
) -> Iterator[tuple[Sequence[ImageFile], list[Prepared]]]:
    """Yields batches of decoded files. The next batch is decoded while the model works."""
    ahead = deque[tuple[Sequence[ImageFile], list[Any]]]()
    for start in range(0, len(files), BATCH_SIZE):
        batch = files[start : start + BATCH_SIZE]
        ahead.append((batch, [pool.submit(_prepare, model, file) for file in batch]))
        if len(ahead) == 2:
            batch, futures = ahead.popleft()
            yield batch, [future.result() for future in futures]
    for batch, futures in ahead:
        yield batch, [future.result() for future in futures]


def _prepare(model: Model, file: ImageFile) -> Prepared:
    try:
        image = decode(file.checked())
        return Prepared(fit(image.pixels, model.engine.preprocessing), "; ".join(image.warnings))
    except OSError as error:
        return Prepared(None, problem=error.strerror or str(error))
    except (ValueError, DataError) as error:
        return Prepared(None, problem=str(error))


def _rows(
    model: Model,
    batch: Sequence[ImageFile],
    prepared: Sequence[Prepared],
    *,
    system: str,
    is_raw: bool,
    pad_to: int | None,
) -> Iterator[dict[str, Any]]:
    pixels = [each.pixels for each in prepared if each.pixels is not None]
    predictions = iter(model.predict_prepared(np.stack(pixels), system, pad_to=pad_to) if pixels else ())
    for file, each in zip(batch, prepared, strict=True):
        row: dict[str, Any] = {"file": file.name, "warnings": each.warnings, "problem": each.problem}
        if each.pixels is not None:
            row |= _said(next(predictions), is_raw=is_raw)
        yield row


def _said(prediction: Prediction, *, is_raw: bool) -> dict[str, Any]:
    given = prediction.raw_probabilities if is_raw else prediction.probabilities
    return {
        "label": prediction.label,
        "unlike_training": prediction.unlike_training,
        "distance": prediction.distance,
        "probabilities": list(given.values()),
    }


def _write_table(journal: BinaryIO, output: Path, classes: Sequence[str]) -> Outcome:
    """Writes the table aside, and renames it. Memory does not grow with the number of rows."""
    aside = output.with_name(f".{output.name}.{os.getpid()}")
    num_files = num_bad = 0
    try:
        with _Table(aside, classes, is_csv=output.suffix.lower() == ".csv") as table:
            for rows in _chunks(journal):
                table.write(rows, classes)
                num_files += len(rows)
                num_bad += sum(row["problem"] is not None for row in rows)
        aside.replace(output)
    finally:
        aside.unlink(missing_ok=True)
    return Outcome(num_files, num_bad)


def _chunks(journal: BinaryIO) -> Iterator[list[dict[str, Any]]]:
    journal.seek(0)
    next(journal)  # what the rows are about
    rows: list[dict[str, Any]] = []
    for line in journal:
        rows.append(json.loads(line))
        if len(rows) == ROWS_AT_ONCE:
            yield rows
            rows = []
    yield rows


class _Table:
    """A CSV or Parquet file that is written in pieces."""

    def __init__(self, path: Path, classes: Sequence[str], *, is_csv: bool) -> None:
        self.schema = pa.schema(
            [("file", pa.string()), ("label", pa.string())]
            + [("unlike_training", pa.bool_()), ("distance", pa.float64())]
            + [(f"probability {name}", pa.float64()) for name in classes]
            + [(name, pa.string()) for name in LAST]
        )
        self.file = path.open("w", newline="", encoding="utf-8") if is_csv else None
        self.parquet = None if is_csv else pq.ParquetWriter(path, self.schema)
        if self.file is not None:
            csv.writer(self.file).writerow(self.schema.names)

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in (self.file, self.parquet):
            if opened is not None:
                opened.close()

    def write(self, rows: Sequence[dict[str, Any]], classes: Sequence[str]) -> None:
        """Appends rows of the journal."""
        absent = [None] * len(classes)
        values = [
            [*(row.get(name) for name in SAID), *(row.get("probabilities") or absent), *map(row.get, LAST)]
            for row in rows
        ]
        if self.file is not None:
            csv.writer(self.file).writerows(values)
        elif self.parquet is not None and values:
            columns = zip(*values, strict=True)
            arrays = [pa.array(column, each.type) for column, each in zip(columns, self.schema, strict=True)]
            self.parquet.write_table(pa.table(arrays, self.schema))
