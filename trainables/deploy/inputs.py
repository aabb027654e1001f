"""The images that a user names: files, folders, patterns such as `films/*.png`, and tables of paths."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.data.formats.content import is_image, named_as_image
from trainables.data.paths import MAX_FILE_BYTES, confined
from trainables.data.sets.manifest import COLUMNS
from trainables.data.tables import Columns, read_table
from trainables.errors import DataError

TABLES = (".csv", ".tsv", ".csv.gz")
_PATH = Columns(required={"path": COLUMNS.required["path"]}, optional={})


@dataclass(frozen=True)
class ImageFile:
    """A file that the user named.

    Attributes:
        name: its path for the output.
        root: the real folder of the table that lists it, or None.
        listed: its path in this table.
    """

    name: str
    root: Path | None = None
    listed: str = ""

    def checked(self) -> Path:
        """Returns the path of a regular file within the size limit.

        Raises:
            ValueError: says what is wrong with the file.
            OSError: the file cannot be read.
        """
        if self.root is not None:
            try:
                return confined(self.listed, root=self.root)
            except ValueError as error:
                raise ValueError(str(error).replace("data.root", "the folder of the table")) from error
        status = os.stat(self.name)
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would block forever
            raise ValueError("is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise ValueError(f"has {status.st_size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
        return Path(self.name)


def find_images(inputs: Sequence[str]) -> list[ImageFile]:
    """Returns the named images, each once, in the order of the inputs; the files of a folder are sorted.

    Raises:
        DataError: an input does not exist, or holds no image.
    """
    found: dict[ImageFile, None] = {}
    for name in inputs:
        images = list(_expand(name))
        if not images:
            raise DataError(f"{name}: no image in it; name a file, a folder, a pattern or a table of paths")
        found |= dict.fromkeys(images)
    return list(found)


def _expand(name: str) -> Iterator[ImageFile]:
    path = Path(name)
    if path.is_dir():
        yield from _in_folder(path)
    elif path.exists():
        yield from _in_table(path) if name.lower().endswith(TABLES) else [ImageFile(name)]
    elif glob.has_magic(name):
        for each in sorted(glob.glob(name, recursive=True)):
            yield from _in_folder(Path(each)) if Path(each).is_dir() else [ImageFile(each)]
    else:
        raise DataError(f"{name}: no such file or folder; check the path")


def _in_folder(folder: Path) -> Iterator[ImageFile]:
    """Yields the images of a folder and its subfolders, by suffix, or by content if there is no suffix."""
    for top, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            is_named = named_as_image(name)
            if is_named or (is_named is None and is_image(Path(top, name))):
                yield ImageFile(os.path.join(top, name))


def _in_table(path: Path) -> Iterator[ImageFile]:
    root = path.parent.resolve()
    for _, values in read_table(path, _PATH).rows:
        yield ImageFile(os.path.join(path.parent, values["path"]), root, values["path"])
