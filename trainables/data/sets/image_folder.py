"""A folder of images in one folder per class, with or without folders for the splits."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from trainables.data.identifiers import split_named
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.folder import SetFolder, is_skipped
from trainables.errors import DataError

LEAST_PATIENTS = 10
"""The fewest folders below each class that count as patients. With fewer, no good split can be drawn."""


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each image in CLASS/…, SPLIT/CLASS/… or CLASS/SPLIT/…, inside common outer folders.

    Raises:
        DataError: there are fewer than two classes, or only some of the folders name a split.
    """
    paths = [PurePosixPath(path) for path in folder.images]
    others = Counter(PurePosixPath(path).suffix for path in set(folder.files) - set(folder.images))
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        folder.details.append(f"ignored: masks, and files that are no images ({kinds})")
    outer = _common(paths)
    inside = [PurePosixPath(*path.parts[outer:]) for path in paths]
    split_at, class_at = _places(inside)
    least = class_at + 2 if split_at is None else 3
    placed = [(path, i.parts) for path, i in zip(paths, inside, strict=True) if len(i.parts) >= least]
    if len({parts[class_at] for _, parts in placed}) < 2:
        split = "" if split_at is None else "train/"
        raise DataError(
            f"image_folder: {folder.base} has no folders of two or more classes, such as "
            f"{split}Normal/ and {split}Tuberculosis/; "
            "for images with a table use --set data.dataset=manifest"
        )
    if loose := len(paths) - len(placed):
        folder.leave_out("images outside the folders of the classes", loose)
    _tell_of_unread(folder, [path.parts[: outer + depth] for path, _ in placed for depth in range(1, least)])
    below = [(parts[class_at], *parts[least - 1 :]) for _, parts in placed]
    by_folder = _has_patient_folders(below)
    folder.notes += _notes(below, by_folder=by_folder)
    for path, parts in placed:
        yield Row(
            path=path.as_posix(),
            label=parts[class_at],
            split=None if split_at is None else parts[split_at],
            patient=parts[least - 1] if by_folder else None,
        )


def _places(paths: Sequence[PurePosixPath]) -> tuple[int | None, int]:
    """Returns which folder of a path is the split (None = no folder is), and which is the class."""
    for split_at, class_at in ((0, 1), (1, 0)):
        names = {path.parts[split_at] for path in paths if len(path.parts) > split_at + 1}
        splits = {name for name in names if split_named(name)}
        if splits and (others := sorted(names - splits)):
            raise DataError(
                f"image_folder: the folder '{min(splits)}' names a split, but '{others[0]}' beside it does "
                "not; use SPLIT/CLASS/image.png or CLASS/image.png for every image, and move others away"
            )
        if splits:
            return split_at, class_at
    return None, 0


def _tell_of_unread(folder: SetFolder, read: Iterable[tuple[str, ...]]) -> None:
    """Tells the user of folders that were not read: without readable images, or linked from elsewhere."""
    known = {PurePosixPath(*parts) for parts in read}
    unread = [
        (parent / entry.name).as_posix()
        for parent in sorted({path.parent for path in known})
        for entry in sorted(os.scandir(folder.base / parent), key=lambda entry: entry.name)
        if entry.is_dir() and parent / entry.name not in known and not is_skipped(entry.name)
    ]
    if unread:
        folder.leave_out("folders without an image that can be read, or linked from elsewhere", len(unread))
        folder.details.append(f"no image was read in: {', '.join(unread)} (links are not followed)")


def _notes(below: Sequence[tuple[str, ...]], *, by_folder: bool) -> list[str]:
    """Returns what the folders below the classes mean. `below` has class, folders and name of each image."""
    folders = {parts[:2] for parts in below if len(parts) > 2}
    per_class, per_name = (Counter(folder[i] for folder in folders) for i in (0, 1))
    shared = sum(count > 1 for count in per_name.values())
    notes: list[str] = []
    if by_folder:
        notes.append("patients: each folder below the folder of a class counts as one patient")
        if shared:
            notes.append(f"patients: {shared:,} of these folders have the same name in several classes")
    elif max(per_class.values(), default=0) > 1:
        notes.append(
            "folders below the folders of the classes are not taken as patients: "
            f"each class needs {LEAST_PATIENTS} or more, and no image beside them"
        )
        if shared > 1:
            notes.append(f"{shared} folders have the same name in several classes; are they the classes?")
    return notes


def _common(paths: Sequence[PurePosixPath]) -> int:
    """Returns the number of outer folders that all images share, and that are no split."""
    depth = 0
    while len({path.parts[depth] for path in paths if len(path.parts) > depth + 1}) == 1 and all(
        len(path.parts) > depth + 2 for path in paths
    ):
        depth += 1
    return depth


def _has_patient_folders(parts: Sequence[tuple[str, ...]]) -> bool:
    """Returns whether every image is in a folder below its class, and each class has many such folders."""
    if any(len(part) < 3 for part in parts):
        return False
    folders = {part[:2] for part in parts}
    per_class = Counter(name for name, _ in folders)
    return min(per_class.values()) >= LEAST_PATIENTS


IMAGE_FOLDER = SetDescription(
    name="image_folder",
    title="Your images, in one folder per class",
    rows=rows,
    has_patients=None,
    layout="CLASS/image.png, SPLIT/CLASS/image.png or CLASS/SPLIT/image.png with splits such as train, val "
    "and test",
    traps=(
        "Patients are read from DICOM headers, or from folders below each class if every class has "
        f"{LEAST_PATIENTS} or more.",
        "Folders of masks are left out.",
    ),
)
