"""`data`: describes, decodes and checks a data set before anything is trained on it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.data_prompts import prompts
from orchestrator.cli.data_sets import list_sets, show
from orchestrator.cli.options import (
    JsonOption,
    SetOption,
    decode_with_bar,
    doing,
    err,
    examine_with_bar,
    fraction_bar,
    out,
    print_json,
    print_line,
)
from trainables.shell import command

if TYPE_CHECKING:
    from orchestrator.results.data_report import DataReport
    from trainables.config import TrialConfig
    from trainables.data.records import Dataset

app = typer.Typer(help="Describe, decode and check data sets before training on them.", no_args_is_help=True)
app.command("list")(list_sets)
app.command()(show)
app.command()(prompts)


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
def check(
    overrides: SetOption = None,
    write_bad: Annotated[
        Path | None,
        typer.Option("--write-bad", metavar="FILE", help="File for the list of images that cannot be used."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", metavar="FILE", help="File for the page. Default: a file in the home folder."),
    ] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Write a page without images.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Show what a data set contains: classes, splits, sources, copies, leaks, images that look inverted.

    Exit status: 0 if nothing was found, 1 if something was found, 2 if a sweep would refuse the data.
    """
    from orchestrator.results.bad_files import check_bad_file
    from orchestrator.results.data_page import check_page, write_page

    config = _configure(overrides)
    if write_bad:
        check_bad_file(write_bad)
    if page:
        check_page(page)
    with doing("reading the data set"):
        from orchestrator.planning.checks import check_trials
        from trainables.data.datasets import load_dataset

        check_trials([config])
        # A person who checks the data sees the labels of test too. Nothing is trained or chosen here.
        dataset = load_dataset(config.data, with_test_labels=True)
    report = _examine(dataset, write_bad, overrides or [], as_json=as_json)
    page = page or _place_of_page(dataset)
    write_page(report, page, has_images=not no_images, seed=config.data.seed)
    if as_json:
        print_json(report.to_dict() | {"page": str(page)})
    else:
        _show(report)
        print_line(f"page: {page} (open it in a browser on this machine)")
    return 0 if report.audit.is_clean else 1


def _examine(dataset: Dataset, write_bad: Path | None, overrides: list[str], *, as_json: bool) -> DataReport:
    """Returns what was found in a data set.

    Raises:
        UnusableImages: some images cannot be decoded. They are written to `write_bad`, and printed as JSON.
    """
    from orchestrator.results.bad_files import write_bad_file
    from orchestrator.results.data_report import DataReport
    from orchestrator.storage.paths import store
    from trainables.data.problems import UnusableImages
    from trainables.data.summary import summarise
    from trainables.data.survey import open_survey
    from trainables.scoring.audit import audit

    try:
        survey = open_survey(dataset, store(), examine_with_bar)
    except UnusableImages as error:
        bad = {dataset.records[image].image_id: reason for image, reason in error.reasons.items()}
        if as_json:
            listed = [{"file": name, "reason": reason} for name, reason in bad.items()]
            print_json({"num_images": len(dataset.records), "bad_images": listed})
        if write_bad:
            num_new = write_bad_file(write_bad, bad)
            settings = [*overrides, f"data.exclude={write_bad.absolute()}"]
            without = command(f"data check {' '.join(f'--set {shlex.quote(each)}' for each in settings)}")
            print_line(f"{num_new} images were added to {write_bad}. Leave them out: {without}", err)
        raise
    if write_bad:
        write_bad_file(write_bad, {})  # an empty list, so that `data.exclude` may name it
    with fraction_bar("comparing all pairs of images") as on_progress:
        found = audit(dataset, survey, on_progress)
    return DataReport(dataset, summarise(dataset), survey, found)


def _place_of_page(dataset: Dataset) -> Path:
    from orchestrator.storage.paths import home

    folder = home() / "pages"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"data-{dataset.name}-{dataset.fingerprint}.html"


def _show(report: DataReport) -> None:
    """Prints what was found: a table of the classes, and sentences."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from orchestrator.results.data_report import counts_with_patients

    images, patients = report.summary.images, report.summary.patients
    table = Table(
        title=f"{report.dataset.name}: {len(report.dataset.records):,} images"
        + (" (patients)" if patients else ""),
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column(report.words.label)
    for heading in images.columns:
        table.add_column(heading, justify="right")
    for row in counts_with_patients(images, patients):
        table.add_row(*map(Text, row))
    out.print(table)
    for line in report.lines():
        print_line(line)


def _configure(overrides: list[str] | None) -> TrialConfig:
    from trainables.config.fields import build_trial, read_overrides

    return build_trial(read_overrides(overrides or []), where="--set")
