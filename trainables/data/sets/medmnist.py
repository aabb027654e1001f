"""MedMNIST (Yang et al. 2023): PneumoniaMNIST and ChestMNIST, whose images are arrays in one `.npz` file."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import get_args

import numpy as np

from trainables.config import DataConfig, Split
from trainables.data.paths import confined
from trainables.data.records import ImageRecord
from trainables.data.sets.description import Row, SetDescription
from trainables.data.sets.folder import SetFolder
from trainables.errors import DataError

PNEUMONIA, CHEST = "pneumoniamnist", "chestmnist"
FINDINGS: dict[str, str] = {
    "atelectasis": "Atelectasis",
    "cardiomegaly": "Cardiomegaly",
    "effusion": "Pleural Effusion",
    "infiltration": "Infiltration",
    "mass": "Mass",
    "nodule": "Nodule",
    "pneumonia": "Pneumonia",
    "pneumothorax": "Pneumothorax",
    "consolidation": "Consolidation",
    "edema": "Edema",
    "emphysema": "Emphysema",
    "fibrosis": "Fibrosis",
    "pleural": "Pleural Thickening",
    "hernia": "Hernia",
}
"""Label of ChestMNIST, in the order of its columns → finding. `pleural` is NIH's Pleural_Thickening."""
MAX_BYTES = 2**30
"""Limit of a file, and of an array after decompression. PneumoniaMNIST of 224 px has 236 MB, ChestMNIST of
64 px 321 MB. Larger files of ChestMNIST are refused, because each process keeps the arrays in memory.
"""
_NOTES = {
    PNEUMONIA: "PneumoniaMNIST's val split was drawn by image, so it shares patients with train: "
    "scores on val are optimistic",
    CHEST: "ChestMNIST has no patient ids, so nobody can check that its splits share no patient",
}


def rows(folder: SetFolder) -> Iterator[Row]:
    """Yields a row for each image of PneumoniaMNIST or ChestMNIST.

    In the published arrays some images of train are also in val. They are left out of train, because copies
    in two splits are a leak.
    """
    path = _archive(folder)
    folder.tables.append(path)
    is_chest = _is_one_of(path.name, CHEST)
    folder.notes.append(_NOTES[CHEST if is_chest else PNEUMONIA])
    held_out: set[str] = set()
    for split in reversed(get_args(Split)):  # test, val, train
        images, labels = read_split(path, split)
        digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
        for number, (digest, of_image) in enumerate(zip(digests, labels.tolist(), strict=True)):
            if digest in held_out:
                folder.leave_out(f"images of {split} that are identical to an image of val or test")
                continue
            image = Row(f"{path.stem}/{split}/{number:05d}", split=split, digest=digest)
            if is_chest:
                yield replace(image, labels=dict(zip(FINDINGS, of_image, strict=True)))
            else:
                yield replace(image, label=str(of_image[0]))
        held_out.update(digests)


def _archive(folder: SetFolder) -> Path:
    """Returns the file of the arrays: `data.manifest`, or the only one in the folder."""
    archives = [name for name in folder.files if name.lower().endswith(".npz")]
    name = folder.config.manifest
    if name == DataConfig.model_fields["manifest"].default:
        fitting = [name for name in archives if _is_one_of(name, PNEUMONIA, CHEST)]
        if len(fitting) > 1:
            raise DataError(
                f"medmnist: {folder.base} has {', '.join(fitting)}; choose one: "
                f"--set data.manifest={fitting[0]}"
            )
        name = next(iter([*fitting, *archives]), f"{PNEUMONIA}.npz")
    if not _is_one_of(name, PNEUMONIA, CHEST):
        raise DataError(
            f"medmnist: {name} is neither PneumoniaMNIST nor ChestMNIST; give a folder with {PNEUMONIA}.npz "
            f"or {CHEST}.npz"
        )
    try:
        return confined(name, root=folder.base, max_bytes=MAX_BYTES)
    except ValueError as error:
        raise DataError(f"medmnist: {error}; {MEDMNIST.layout} is expected in {folder.base}") from error


def _is_one_of(name: str, *stems: str) -> bool:
    return PurePosixPath(name).name.lower().startswith(stems)


@lru_cache(maxsize=3)
def read_split(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of a split, uint8 [N, H, W], and their labels, int [N, 1] or [N, 14].

    A process reads each split once and keeps it, which takes up to 300 MB in all (ChestMNIST of 64 px: 460).

    Raises:
        DataError: the file is damaged, too large, or has other arrays.
    """
    try:
        for part in ("images", "labels"):
            _check_size(path, f"{split}_{part}")
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({error}); download the file again") from error
    if images.dtype != np.uint8 or images.ndim != 3:
        raise DataError(
            f"{path}: {split}_images is {images.dtype} {list(images.shape)}; grey images are expected, "
            "uint8 [N, H, W]"
        )
    num_labels = len(FINDINGS) if _is_one_of(path.name, CHEST) else 1
    if labels.dtype.kind not in "iu" or labels.size != len(images) * num_labels:
        numbers = "one whole number" if num_labels == 1 else f"{num_labels} numbers"
        raise DataError(
            f"{path}: {split}_labels is {labels.dtype} {list(labels.shape)}; {numbers} for each of "
            f"the {len(images)} images is expected"
        )
    return images, labels.reshape(len(images), num_labels)


def _check_size(path: Path, name: str) -> None:
    """Raises ValueError if an array is too large or needs pickle. Only its header is read."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} has version {version} of the format")
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{name} has Python objects, which are not loaded")
    if (num_bytes := int(np.prod(shape, dtype=object)) * dtype.itemsize) > MAX_BYTES:
        raise ValueError(f"{name} has {num_bytes:,} bytes, the limit is {MAX_BYTES:,}")


@dataclass(frozen=True)
class ArrayDecoder:
    """Returns images of the arrays in a file."""

    path: Path

    def __call__(self, record: ImageRecord) -> np.ndarray:
        """Returns the image, uint8 [H, W]."""
        _, split, number = record.image_id.rsplit("/", 2)
        images, _ = read_split(self.path, split)
        return images[int(number)].copy()


def decoder(folder: SetFolder) -> ArrayDecoder:
    """Returns the decoder of the images whose rows were read."""
    return ArrayDecoder(folder.tables[0])


MEDMNIST = SetDescription(
    name="medmnist",
    title="MedMNIST: PneumoniaMNIST and ChestMNIST",
    rows=rows,
    labels={"0": "Normal", "1": "Pneumonia"},
    task=None,
    findings=FINDINGS,
    decoder=decoder,
    has_patients=False,
    words="pneumonia",
    layout=f"{PNEUMONIA}.npz or {CHEST}.npz, or another size such as {PNEUMONIA}_224.npz; with several, name "
    "one by data.manifest",
    size="PneumoniaMNIST: 5,856 images of 28, 64, 128 or 224 px: Normal 1,583, Pneumonia 4,273; given splits "
    "4,708 / 524 / 624. ChestMNIST: 112,120 images of 28 or 64 px with 14 findings; given splits "
    "78,468 / 11,219 / 22,433",
    licence="CC BY 4.0",
    url="https://zenodo.org/records/10519652",
    citation="Yang et al. 2023, doi 10.1038/s41597-022-01721-8",
    traps=(
        "PneumoniaMNIST: the images are of children, from one hospital (Kermany et al. 2018).",
        "ChestMNIST: the images are NIH's (ChestX-ray14), and `pleural` is Pleural_Thickening.",
        "No patient ids are published. PneumoniaMNIST's val shares patients with train.",
        "Some images of train are also in val. They are left out of train.",
        "PneumoniaMNIST's published figures at 224 px are of enlarged 28 px images.",
        "ChestMNIST of 128 or 224 px is too large to be kept in memory; nih14 has the same images.",
    ),
)
