"""Joins several data sets of findings into one: `data.dataset: union`, `data.union: [nih14, chexpert]`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trainables.config import DataConfig
from trainables.config.fields import nearest_or_all
from trainables.data.copies import groups
from trainables.data.datasets import DATASETS
from trainables.data.formats.decode import FileDecoder
from trainables.data.identifiers import one_line, text_key
from trainables.data.paths import open_root
from trainables.data.records import ImageRecord, LabelledImages
from trainables.data.sets.description import SetDescription
from trainables.data.sets.excluded import Excluded, read_excluded
from trainables.data.sets.reader import read_set
from trainables.data.shared_findings import WORDS, SharedFindings, spellings
from trainables.data.splits import given_or_drawn
from trainables.errors import ConfigError, DataError
from trainables.references import resolve

SAME_PATIENTS = ({"nih14", "medmnist"},)
"""Sets that have images of the same patients, whom their files do not let us recognise."""


def union(config: DataConfig) -> LabelledImages:
    """Reads each data set of `data.union` from the folder of its name, and joins their images and findings.

    Labels that have the same words are one finding. A finding that a set does not have is unknown (-1) in its
    images; `No Finding` is as each set states it. Splits are kept, or drawn for each set.
    The name of its set is the source of an image, and begins its id and the id of its patient.

    Raises:
        ConfigError: a name is no data set of findings.
        DataError: a set cannot be read.
    """
    described = [(name, _described(name)) for name in _names(config)]
    root = open_root(config.root, dataset="union")
    for name, _ in described:
        if not (root / name).is_dir():
            raise DataError(
                f"data.root: {root} has no folder '{name}'; a union reads each data set from the folder of "
                f"its name ({', '.join(each for each, _ in described)}). Move it there, or link it: "
                f"ln -s FOLDER {root / name}"
            )
    excluded = read_excluded(config.exclude, root=root)
    parts: dict[str, LabelledImages] = {}
    for name, description in described:
        of_set = excluded.below(name)
        parts[name] = _read(description, config, root=root / name, excluded=of_set)
        excluded.met.update(f"{text_key(name)}/{path}" for path in of_set.met)
    excluded.check_all_used(config.name)
    return _join(parts, config)


def _names(config: DataConfig) -> tuple[str, ...]:
    names = config.union
    if not names:  # `data.adapt_on` has no such list
        raise ConfigError("data.adapt_on.dataset: a union cannot be adapted on; name one data set")
    for name in names:
        if name not in DATASETS:
            raise ConfigError(f"data.union: no data set '{name}'{nearest_or_all(name, DATASETS)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"data.union: {', '.join(twice)} is named twice; name each data set once")
    for same in SAME_PATIENTS:
        if same <= set(names):
            raise ConfigError(
                f"data.union: {' and '.join(sorted(same))} have images of the same patients, which would be "
                "in several splits; join only one of them"
            )
    return names


def _described(name: str) -> SetDescription:
    found = resolve(DATASETS[name])
    if not isinstance(found, SetDescription) or found.task == "multiclass":
        raise ConfigError(
            f"data.union: {name} has no findings of the kind that can be joined; data sets with several "
            f"findings per image can: {', '.join(_joinable())}"
        )
    return found


def _joinable() -> Iterable[str]:
    for name, where in DATASETS.items():
        found = resolve(where)
        if isinstance(found, SetDescription) and found.task != "multiclass":
            yield name


def _read(
    description: SetDescription, config: DataConfig, *, root: Path, excluded: Excluded
) -> LabelledImages:
    """Returns the images of one set, with splits. Findings are renamed after the sets are joined."""
    of_set = {"dataset": description.name, "root": root, "exclude": None, "rename": ()}
    if not isinstance(config.uncertain, str):
        of_set["uncertain"] = tuple(
            (label, policy) for name, policy in config.uncertain for label in spellings(one_line(name))
        )
    images = read_set(description, config.model_copy(update=of_set), excluded=excluded)
    if images.task != "multilabel":
        raise DataError(f"data.union: {description.name} in {root} has one class per image, not findings")
    records = sorted(images.records, key=lambda record: record.image_id)
    records, notes = given_or_drawn(
        records,
        groups(records, images.content),
        task=images.task,
        has_splits=images.has_splits,
        seed=config.seed,
    )
    return replace(images, records=records, split_notes=tuple(notes))


def _join(parts: Mapping[str, LabelledImages], config: DataConfig) -> LabelledImages:
    joined = SharedFindings({name: images.classes for name, images in parts.items()}, config)
    records: list[ImageRecord] = []
    content: dict[str, str] = {}
    owner: dict[str, str] = {}  # content of an image → the set that has it
    notes: list[str] = []
    for name, images in parts.items():
        copies = Counter[str]()
        for record in images.records:
            pixels = images.content[record.image_id]
            if (first := owner.setdefault(pixels, name)) != name:
                copies[first] += 1
                continue
            image_id = f"{name}/{record.image_id}"
            content[image_id] = pixels
            records.append(
                replace(
                    record,
                    image_id=image_id,
                    patient_id=f"{name}/{record.patient_id}",
                    labels=joined.labels(name, record.labels),
                    train_labels=record.train_labels and joined.labels(name, record.train_labels),
                    source=name,
                )
            )
        notes += [f"{name}: {note}" for note in images.notes]
        notes += [
            f"{name}: left out: {count:,} images that {first} also has" for first, count in copies.items()
        ]
    numbers = Counter(record.source for record in records)
    about = ", ".join(f"{name} {numbers[name]:,}" for name in parts)
    without = [name for name, images in parts.items() if not images.has_patients]
    if 0 < len(without) < len(parts):
        notes.append(f"no patient ids in {' and '.join(without)}: each image counts as one patient")
    return LabelledImages(
        classes=joined.names,
        records=records,
        content=content,
        decode=_decoder(parts),
        tables=[table for images in parts.values() for table in images.tables],
        notes=(f"images of {len(parts)} data sets are joined: {about}", *joined.notes(), *notes),
        split_notes=tuple(f"{name}: {note}" for name, images in parts.items() for note in images.split_notes),
        details=tuple(f"{name}: {detail}" for name, images in parts.items() for detail in images.details),
        has_patients=not without,
        words=WORDS,
        task="multilabel",
    )


@dataclass(frozen=True)
class UnionDecoder:
    """Decodes the images of each set with the decoder of that set."""

    decoders: Mapping[str, Callable[[ImageRecord], np.ndarray]]

    def __call__(self, record: ImageRecord) -> np.ndarray:
        """Returns the image, uint8 [H, W]."""
        name, _, image_id = record.image_id.partition("/")
        return self.decoders[name](replace(record, image_id=image_id))


def _decoder(parts: Mapping[str, LabelledImages]) -> Callable[[ImageRecord], np.ndarray]:
    """Returns a decoder of files if every set has files: `data check` asks it for more than pixels."""
    decoders = {name: images.decode for name, images in parts.items()}
    places: dict[str, str] = {}
    for name, decoder in decoders.items():
        if not isinstance(decoder, FileDecoder):
            return UnionDecoder(decoders)
        places |= {f"{name}/{image_id}": place for image_id, place in decoder.rows.items()}
    return FileDecoder(places)
