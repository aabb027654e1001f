"""`models`: lists and describes encoders, and installs their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, doing, print_json, print_line
from trainables.shell import command

app = typer.Typer(
    help="List and describe encoders, and install their weights.",
    no_args_is_help=True,
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of an encoder, as in encoder.name.")]


@app.command("list")
def list_systems(as_json: JsonOption = False) -> None:
    """List every encoder and baseline: availability, licence, size, dimensions and LoRA presets."""
    from orchestrator.cli.model_table import describe_all

    systems = describe_all()
    if as_json:
        print_json([system.to_dict() for system in systems])
        return
    for system in systems:
        print_line(f"{system.name}: {system.standing}")
        print_line(f"    {system.summary}")
    print_line(f"How to install missing weights: {command('models show NAME')}")


@app.command()
def show(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show all properties of one encoder or baseline, and how to install its weights."""
    from orchestrator.cli.model_table import describe

    system = describe(name)
    if as_json:
        print_json(system.to_dict())
        return
    width = max(len(label) for label, _ in system.lines())
    for label, text in system.lines():
        print_line(f"{label:{width}}  {text}")


@app.command()
def fetch(
    name: NameArgument,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="COMMIT", help="Commit on the Hub. Default: the pinned commit."),
    ] = None,
) -> None:
    """Download the weights of an encoder from the Hub at a pinned commit, and check the hashes."""
    from orchestrator.cli.model_table import find
    from trainables.models.files.fetch import fetch as fetch_weights

    known, spec = find(name)
    with doing(f"downloading {known}"):
        folder = fetch_weights(known, spec, revision=revision)
    print_line(f"{known} is in {folder}")
    if spec.revision not in (None, folder.name):  # the Hub's cache names a folder by its commit
        print_line(f"trials use {spec.revision}; set encoder.revision={folder.name} to use these weights")


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Published checkpoint, or vocab.txt.")],
    to: Annotated[str, typer.Option("--to", metavar="NAME|FOLDER", help="Name of an encoder, or a folder.")],
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="PART", help="Part to convert, if the encoder has several."),
    ] = None,
    trusted: Annotated[
        str | None,
        typer.Option(
            "--trust-sha256",
            metavar="HASH",
            help="SHA-256 of the file, to confirm that you trust it.",
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite an earlier conversion.")] = False,
) -> None:
    """Convert a published checkpoint to safetensors. A pickle is read without running code from it."""
    from orchestrator.cli.model_table import ENCODERS, find
    from trainables.errors import ConfigError
    from trainables.models.convert import convert_file, convert_part
    from trainables.models.files.weights import missing_parts

    if to not in ENCODERS and ("/" in to or Path(to).is_dir()):
        if part is not None:
            raise ConfigError(f"--part {part}: only possible if --to names an encoder, but {to} is a folder")
        converted = convert_file(file, Path(to).expanduser(), trusted=trusted)
        print_line(f"{converted.num_tensors} tensors in {converted.folder}")
        return
    name, spec = find(to)
    converted = convert_part(file, name, spec, part=part, trusted=trusted, replace=replace)
    what = f"the {converted.part}" if converted.num_tensors is None else f"{converted.num_tensors} tensors"
    print_line(f"{what} in {converted.folder}")
    num_weights = converted.num_weights
    if num_weights is None:
        print_line(f"still missing: {' and '.join(missing_parts(name, spec))}")
    else:
        print_line(f"{name} is ready: {num_weights:,} parameters")
        if spec.num_parameters not in (None, num_weights):
            print_line(f"note: the published encoder has {spec.num_parameters:,}, so this one differs")


@app.command()
def recommend(
    data: Annotated[str | None, typer.Option("--data", metavar="NAME", help="Name of a data set.")] = None,
    need: Annotated[
        str | None,
        typer.Option("--need", metavar="NEED", help="Purpose: zero-shot, few-shot, general, speed."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Recommend encoders. Show the reason, and which parts of the data set each was trained on."""
    from orchestrator.cli.model_table import recommendations

    found = recommendations(data, need)
    if as_json:
        print_json([each.to_dict() for each in found])
        return
    for each in found:
        print_line(f"{each.purpose}: {each.reason}")
        for choice in each.choices:
            print_line(f"  {choice.name}  [{choice.status}]  {choice.licence}")
            for mark in choice.overlaps:
                print_line(f"    not external: {mark}")
    print_line("This advice comes from published comparisons. `sweep` compares the encoders on your images.")
