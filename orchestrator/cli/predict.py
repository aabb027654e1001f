"""`predict`: applies the model of a finished trial to images."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import doing, err, print_line

BAD_FILES = 3
MAX_DIFFERENCE = 1e-3


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Name of a sweep (the first row of its leaderboard), SWEEP/ROW, or the folder of a model.",
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Image files, folders (with subfolders), quoted patterns such as 'films/*.png', or CSV "
            "tables with a column path. PNG, JPEG, TIFF and DICOM are read.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="Table to write: a .csv or a .parquet file.")
    ],
    system: Annotated[
        str | None,
        typer.Option(
            "--system", metavar="NAME", help="System of the model, such as probe_joint. Default: the row's."
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write probabilities before calibration, as in the leaderboard.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="cpu, or cuda for the first GPU.")
    ] = "cpu",
) -> int:
    """Apply the model of a finished trial to images, and write a table of probabilities.

    Research only. Exit status: 0 if every image has a prediction, 3 if some images could not be read.
    """
    from orchestrator.results.find_model import find_model
    from trainables import load_model
    from trainables.deploy.inputs import find_images
    from trainables.deploy.predict_files import check_output, predict_files
    from trainables.errors import ConfigError, DataError

    if device not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device}: use cpu or cuda")
    check_output(output, resumes=resume)
    found = find_model(model)
    files = find_images(inputs)
    with doing("loading the model"):
        loaded = load_model(found.folder, device=device)
        chosen = loaded.check_system(system or found.system)
        if loaded.facts.weights["precision"] == "float32" and (differs := loaded.check()) > MAX_DIFFERENCE:
            raise DataError(
                f"{found.folder}: its golden phantoms get other scores on this machine (by {differs:.2g}); "
                "compare the versions of torch, or use --device cpu"
            )
    print_line(f"model: {found.origin}; system: {chosen}", err)
    began = time.perf_counter()
    with images_bar(len(files)) as progress:
        outcome = predict_files(loaded, files, output, system=chosen, is_raw=raw, progress=progress)
    rate = outcome.num_files / (time.perf_counter() - began)
    print_line(f"{outcome.num_files:,} images in {output} ({rate:,.0f} a second)")
    if outcome.num_bad:
        print_line(f"{outcome.num_bad:,} of them could not be read; see the column problem", err)
        return BAD_FILES
    return 0


@contextmanager
def images_bar(num_images: int) -> Generator[Callable[[int], None]]:
    """Shows a bar with images a second on standard error. Yields a function for the number of new images."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    what = f"predicting {num_images:,} images"
    if not err.is_terminal:
        print_line(f"{what} …", err)
        yield lambda num_done: None
        return
    speed = TextColumn("{task.fields[rate]:,.0f} images/s")
    columns = [TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), speed]
    began, num_done = time.perf_counter(), 0
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True) as bar:
        task = bar.add_task("predicting", total=num_images, rate=0.0)

        def advance(num_new: int) -> None:
            nonlocal num_done
            num_done += num_new
            bar.update(task, completed=num_done, rate=num_done / max(time.perf_counter() - began, 1e-9))

        yield advance
