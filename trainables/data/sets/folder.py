"""The opened folder of a data set: its files, by name and without regard to spelling."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from trainables.config import DataConfig
from trainables.data.formats.content import is_image, named_as_image
from trainables.data.identifiers import text_key
from trainables.data.paths import confined, regular_file
from trainables.data.tables import Columns, Table, read_table
from trainables.errors import DataError

MASKS = {
    *("mask", "masks", "lung masks", "infection masks", "segmentation", "segmentations"),
    *("manualmask", "leftmask", "rightmask"),
}
MAX_TEXT_BYTES = 16 * 2**20
MAX_COMPARED = 2000
"""With more images, no similar name is suggested for a missing one, because comparing takes too long."""
_SKIPPED_FOLDERS = {"__MACOSX"}


@dataclass
class SetFolder:
    """The folder of a data set, and what the reader of the set has to tell the user.

    Attributes:
        root: real path of `data.root`; no file outside it is opened.
        base: folder below `root` that has the files of the set.
        config: settings of the data.
    """

    root: Path
    base: Path
    config: DataConfig
    tables: list[Path] = field(default_factory=list[Path])
    notes: list[str] = field(default_factory=list[str])  # for the board: no path, no id
    details: list[str] = field(default_factory=list[str])  # for this machine alone
    left_out: Counter[str] = field(default_factory=Counter[str])
    _cached: dict[str, Any] = field(default_factory=dict[str, Any])

    @cached_property
    def files(self) -> list[str]:
        """Every file below `base`, as a sorted relative path, without hidden files and linked folders."""
        found: list[str] = []
        for place, folders, names in os.walk(self.base, onerror=_refuse_folder):
            folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in _SKIPPED_FOLDERS)
            inside = PurePosixPath(Path(place).relative_to(self.base))
            found += [(inside / name).as_posix() for name in names if not name.startswith(".")]
        return sorted(found)

    @cached_property
    def images(self) -> list[str]:
        """The files that may be images, by suffix or else by content. Folders of masks are left out."""
        return [path for path in self.files if not _is_mask(path) and self._may_be_image(path)]

    def _may_be_image(self, path: str) -> bool:
        if (said := named_as_image(path)) is not None:
            return said
        try:
            return is_image(regular_file(self.base / path, root=self.root))
        except ValueError:
            return False

    def __contains__(self, path: str) -> bool:
        """Returns whether there is a file of exactly this relative path."""
        return path in self._exact

    def cached(self, name: str, compute: Callable[[SetFolder], Any]) -> Any:
        """Returns what `compute` makes of the folder; it is computed once."""
        if name not in self._cached:
            self._cached[name] = compute(self)
        return self._cached[name]

    def read_table(self, names: Sequence[str], columns: Columns) -> Table:
        """Reads the first of these tables that exists, and tells the user what was detected."""
        name = next((name for name in names if (self.base / name).exists()), names[0])
        try:
            path = confined(name, root=self.base)
        except ValueError as error:
            raise DataError(f"table {error}; it belongs into {self.base}") from error
        table = read_table(path, columns)
        self.tables.append(path)
        self.details += table.notes
        return table

    def read_text(self, name: str) -> str | None:
        """Returns the text of a file below `base`, or None if there is none."""
        if name not in self:
            return None
        try:
            path = confined(name, root=self.base, max_bytes=MAX_TEXT_BYTES)
        except ValueError as error:
            raise DataError(f"{self.base}: {error}") from error
        self.tables.append(path)
        return path.read_bytes().decode("utf-8-sig", errors="replace")

    def from_root(self, path: str) -> str:
        """Returns a path below `base` as a path below `data.root`."""
        return (PurePosixPath(self.base.relative_to(self.root).as_posix()) / path).as_posix()

    def leave_out(self, why: str, count: int = 1) -> None:
        """Counts images that are left out, for the user."""
        self.left_out[why] += count

    def find(self, name: str, *, by_name: bool = False, suggests: bool = True) -> Path:
        """Returns the real path of an image that a row names.

        Case, Unicode composition and, with `by_name`, the folder may differ. Without a suffix, any suffix of
        an image fits. With `suggests`, the message offers a similar name, which takes milliseconds.

        Raises:
            ValueError: there is no such file, or it is no regular file inside `data.root`.
        """
        path = self._inside(name)
        if path is None:
            return regular_file(Path(name), root=self.root)
        if (found := self._match(path, by_name=by_name)) is not None:
            return regular_file(self.base / found, root=self.root)
        try:
            return confined(path, root=self.base)
        except ValueError as error:
            near = (
                difflib.get_close_matches(path, self.images, n=1, cutoff=0.8)
                if suggests and len(self.images) <= MAX_COMPARED
                else []
            )
            raise ValueError(f"{error}{f'; did you mean {near[0]!r}?' if near else ''}") from None

    def has_image(self, name: str, *, by_name: bool = False) -> bool:
        """Returns whether `find` has a file for this name, or several, without a look at the disk."""
        path = self._inside(name)
        try:
            return path is None or self._match(path, by_name=by_name) is not None
        except ValueError:
            return True

    def _inside(self, name: str) -> str | None:
        """Returns a path relative to `base`, or None for an absolute path elsewhere inside the root."""
        if name.startswith("/"):
            real = os.path.realpath(name)
            if real.startswith(os.path.join(self.base, "")):
                return os.path.relpath(real, self.base)
            if real.startswith(os.path.join(self.root, "")):
                return None
        return name

    def _match(self, name: str, *, by_name: bool) -> str | None:
        if name in self._exact:
            return name
        path = PurePosixPath(name)
        wanted = text_key(path.name if by_name else path.as_posix())
        indexes = [self._by_name, self._by_stem] if by_name else [self._by_path, self._by_path_stem]
        for index in indexes:
            found = index.get(wanted, [])
            if len(found) > 1:
                raise ValueError(f"{name!r} may be {' or '.join(map(repr, found[:2]))}; rename one of them")
            if found:
                return found[0]
        return None

    @cached_property
    def _exact(self) -> frozenset[str]:
        return frozenset(self.files)

    @cached_property
    def _by_path(self) -> Mapping[str, list[str]]:
        return _index(self.files, str)

    @cached_property
    def _by_path_stem(self) -> Mapping[str, list[str]]:
        return _index(self.images, _without_suffix)

    @cached_property
    def _by_name(self) -> Mapping[str, list[str]]:
        return _index(self.files, os.path.basename)

    @cached_property
    def _by_stem(self) -> Mapping[str, list[str]]:
        return _index(self.images, lambda path: _without_suffix(os.path.basename(path)))


def find_base(root: Path, *, folders: Sequence[str], contains: Sequence[str]) -> Path | None:
    """Returns the folder that contains these files: `root`, or a folder NAME or NAME/NAME in it."""
    candidates = [root, *(root / name for name in folders), *(root / name / name for name in folders)]
    for base in candidates:
        if base.is_dir() and all((base / name).exists() for name in contains):
            return base
    return None


def _refuse_folder(error: OSError) -> None:
    """Raises DataError for a folder that cannot be listed: its images would be missing silently."""
    raise DataError(f"{error.filename}: this folder cannot be read ({error.strerror})") from error


def is_skipped(folder: str) -> bool:
    """Returns whether a folder of this name is left out silently: hidden, or of masks."""
    return folder.startswith(".") or folder in _SKIPPED_FOLDERS or text_key(folder) in MASKS


def _is_mask(path: str) -> bool:
    return any(text_key(part) in MASKS for part in path.split("/")[:-1])


def _index(paths: Iterable[str], key: Callable[[str], str]) -> Mapping[str, list[str]]:
    index: dict[str, list[str]] = {}
    for path in paths:
        index.setdefault(text_key(key(path)), []).append(path)
    return index


def _without_suffix(path: str) -> str:
    return os.path.splitext(path)[0]
