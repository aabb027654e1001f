"""`models`: which encoders there are, what is known of them, and how their weights get here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, out, print_json
from trainables.shell import command

app = typer.Typer(
    help="Which encoders there are, what is known of them, and how their weights get here.",
    no_args_is_help=True,
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="An encoder, as in encoder.name.")]


@app.command("list")
def list_systems(as_json: JsonOption = False) -> None:
    """List every system: whether it can be used here now, its licence, size, dimensions and LoRA presets."""
    from orchestrator.cli.model_table import describe_all

    systems = describe_all()
    if as_json:
        print_json([system.to_dict() for system in systems])
        return
    for system in systems:
        _print(f"{system.name}: {system.standing}")
        _print(f"    {system.summary}")
    _print(f"How to get weights that are not here: {command('models show NAME')}")


@app.command()
def show(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show all that is known of one system, and how its weights get here."""
    from orchestrator.cli.model_table import describe

    system = describe(name)
    if as_json:
        print_json(system.to_dict())
        return
    width = max(len(label) for label, _ in system.lines())
    for label, text in system.lines():
        _print(f"{label:{width}}  {text}")


@app.command()
def fetch(
    name: NameArgument,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="COMMIT", help="None = the pinned one.")
    ] = None,
) -> None:
    """Download an encoder's safetensors from the Hub, at a pinned revision, and check their hashes."""
    from orchestrator.cli.model_table import find
    from trainables.models.files.fetch import fetch as fetch_weights

    known, spec = find(name)
    folder = fetch_weights(known, spec, revision=revision)
    _print(f"{known} is in {folder}")
    if spec.revision not in (None, folder.name):  # the Hub's cache names a folder by its commit
        _print(f"trials use {spec.revision}; set encoder.revision={folder.name} to use this one")


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint as published, or vocab.txt.")],
    to: Annotated[str, typer.Option("--to", metavar="NAME|FOLDER", help="An encoder, or a new folder.")],
    part: Annotated[
        str | None, typer.Option("--part", metavar="PART", help="Of an encoder that is published in parts.")
    ] = None,
    trusted: Annotated[
        str | None,
        typer.Option(
            "--trust-sha256", metavar="HASH", help="Vouch for exactly this file, where no hash is known."
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite what was converted before.")] = False,
) -> None:
    """Turn a foreign checkpoint into safetensors; pickles are opened in quarantine, once vouched for."""
    from orchestrator.cli.model_table import ENCODERS, find
    from trainables.errors import ConfigError
    from trainables.models.convert import convert_file, convert_part
    from trainables.models.files.weights import missing_parts

    if to not in ENCODERS and ("/" in to or Path(to).is_dir()):
        if part is not None:
            raise ConfigError(f"--part {part}: only encoders have parts, and --to {to} is a folder")
        converted = convert_file(file, Path(to).expanduser(), trusted=trusted)
        _print(f"{converted.num_tensors} tensors in {converted.folder}")
        return
    name, spec = find(to)
    converted = convert_part(file, name, spec, part=part, trusted=trusted, replace=replace)
    what = f"the {converted.part}" if converted.num_tensors is None else f"{converted.num_tensors} tensors"
    _print(f"{what} in {converted.folder}")
    num_weights = converted.num_weights
    if num_weights is None:
        _print(f"still to come: {' and '.join(missing_parts(name, spec))}")
    else:
        is_published = spec.num_parameters in (None, num_weights)
        other = (
            "" if is_published else f"; the published one has {spec.num_parameters:,}, this is another one"
        )
        _print(f"{name} is ready: {num_weights:,} weights, each where it belongs{other}")


@app.command()
def recommend(
    data: Annotated[str | None, typer.Option("--data", metavar="NAME", help="A data set.")] = None,
    need: Annotated[
        str | None, typer.Option("--need", metavar="NEED", help="zero-shot, few-shot, general or speed.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which encoder to try first, why, and whether it has seen that data in training."""
    from orchestrator.cli.model_table import recommendations

    found = recommendations(data, need)
    if as_json:
        print_json([each.to_dict() for each in found])
        return
    for each in found:
        _print(f"{each.purpose}: {each.reason}")
        for choice in each.choices:
            _print(f"  {choice.name}  [{choice.status}]  {choice.licence}")
            for mark in choice.overlaps:
                _print(f"    not external: {mark}")
    _print("Advice of published comparisons, not a result on your images: `sweep` measures that.")


def _print(text: str) -> None:
    out.print(text, soft_wrap=True, highlight=False, markup=False)
