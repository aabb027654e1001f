"""`data`: decodes and checks a data set before anything is trained on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from orchestrator.cli.options import (
    JsonOption,
    SetOption,
    decode_with_bar,
    doing,
    print_json,
    print_line,
)

if TYPE_CHECKING:
    from trainables.config import TrialConfig
    from trainables.data.records import Dataset

app = typer.Typer(help="Decode and check a data set before training on it.", no_args_is_help=True)


@app.command()
def prepare(overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Decode every image once, at the size that the encoder needs, and store the result."""
    from orchestrator.storage.paths import store
    from trainables.data.cache import open_image_cache
    from trainables.data.datasets import load_dataset
    from trainables.models.catalogue.registry import preprocessing_of

    config = _configure(overrides)
    preprocessing = preprocessing_of(config.encoder)
    cache = open_image_cache(load_dataset(config.data), preprocessing, store(), decode_with_bar)
    folder = store() / "images" / cache.fingerprint
    if as_json:
        print_json({"num_images": len(cache), "size": preprocessing.size, "folder": str(folder)})
    else:
        print_line(f"{len(cache)} images at {preprocessing.size} px in {folder}")


@app.command()
def check(overrides: SetOption = None, as_json: JsonOption = False) -> int:
    """List unreadable images, patients in two splits, copies in two splits, and the classes of each source.

    Exit status: 0 if nothing was found, 1 if something was found, 2 if the data cannot be used.
    """
    from orchestrator.storage.paths import store
    from trainables.data.cache import open_image_cache
    from trainables.data.datasets import load_dataset
    from trainables.models.catalogue.registry import preprocessing_of
    from trainables.scoring.audit import audit

    config = _configure(overrides)
    dataset = load_dataset(config.data)  # raises DataError for bad rows and for patients in two splits
    with doing(f"reading {len(dataset.records):,} images"):
        bad = bad_images(dataset)
    if bad:
        return _show({"num_images": len(dataset.records), "bad_images": bad}, bad, as_json=as_json, status=2)
    cache = open_image_cache(dataset, preprocessing_of(config.encoder), store(), decode_with_bar)
    with doing("comparing images"):
        report = audit(dataset, cache)
    found: dict[str, Any] = {"num_images": len(dataset.records), "bad_images": [], **report.to_dict()}
    lines = [f"{len(dataset.records)} images, all can be decoded", *report.lines()]
    lines += [f"{source}: {counts}" for source, counts in report.class_sources.items()]
    return _show(found, lines, as_json=as_json, status=0 if report.is_clean else 1)


def bad_images(dataset: Dataset) -> list[str]:
    """Returns one message for each image that cannot be decoded, with the file and the row of the image."""
    from trainables.data.decode import bombs_are_errors
    from trainables.errors import DataError

    problems: list[str] = []
    with bombs_are_errors():
        for record in dataset.records:
            if record.path is None:
                continue  # a generated image has no file
            try:
                dataset.decode(record)
            except DataError as error:
                problems.append(str(error))
    return problems


def _configure(overrides: list[str] | None) -> TrialConfig:
    from trainables.config.fields import build_trial, read_overrides

    return build_trial(read_overrides(overrides or []), where="--set")


def _show(found: dict[str, Any], lines: list[str], *, as_json: bool, status: int) -> int:
    if as_json:
        print_json(found)
    else:
        for line in lines:
            print_line(line)
    return status
