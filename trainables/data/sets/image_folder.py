"""A folder of images in one folder per class, with or without folders for the splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from trainables.data.identifiers import split_named
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.folder import SetFolder
from trainables.errors import DataError

LEAST_PATIENTS = 10
"""Folders below a class are taken as patients only if each class has so many: the parts of a drawn split."""


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each image in CLASS/… or SPLIT/CLASS/…, below any folders that hold nothing else."""
    paths = [PurePosixPath(path) for path in folder.images]
    others = Counter(PurePosixPath(path).suffix for path in set(folder.files) - set(folder.images))
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        folder.details.append(f"ignored: masks, and files that are no images ({kinds})")
    outer = _common(paths)
    inside = [PurePosixPath(*path.parts[outer:]) for path in paths]
    if loose := sum(len(path.parts) == 1 for path in inside):
        folder.leave_out("images outside the folders of the classes", loose)
    deep = [(p, i) for p, i in zip(paths, inside, strict=True) if len(i.parts) > 1]
    tops = {path.parts[0] for _, path in deep}
    has_splits = bool(tops) and all(split_named(top) for top in tops)
    least = 3 if has_splits else 2
    placed = [(path, i) for path, i in deep if len(i.parts) >= least]
    if len({i.parts[least - 2] for _, i in placed}) < 2:
        raise DataError(
            f"image_folder: {folder.base} has no folders of two or more classes, such as "
            f"{'train/' if has_splits else ''}Normal/ and {'train/' if has_splits else ''}Tuberculosis/; "
            "for images with a table use --set data.dataset=manifest"
        )
    by_folder = _has_patient_folders([i.parts[least - 2 :] for _, i in placed])
    if by_folder:
        folder.notes.append("patients: each folder below the folder of a class counts as one patient")
    for path, i in placed:
        yield Row(
            path=path.as_posix(),
            label=i.parts[least - 2],
            split=i.parts[0] if has_splits else None,
            patient=i.parts[least - 1] if by_folder else None,
        )


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
    layout="CLASS/image.png, or SPLIT/CLASS/image.png with splits such as train, val and test",
    traps=(
        "Patients are read from DICOM headers, or from folders below each class if every class has "
        f"{LEAST_PATIENTS} or more.",
        "Folders of masks are left out.",
    ),
)
