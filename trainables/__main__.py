"""Runs one trial without Ray, in one process or over ranks with `torchrun -m trainables TRAINABLE TRIAL`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from trainables import TRAINABLES
from trainables.config import TrialConfig, flatten
from trainables.config.fields import build_trial, check_value, did_you_mean, read_overrides
from trainables.errors import ConfigError, DataError, UserError
from trainables.launch import ALLOCATOR, LOOPBACK, Place, RecordingContext, process_group, run_recorded
from trainables.plain_yaml import read_yaml
from trainables.shell import command

# Imports inside functions: torch takes seconds to load, and checks do not need it.

DONE, FAILED, INVALID = 0, 1, 2
LATEST = "latest"
LAUNCHED = [name for name in TRAINABLES if name != "evaluate"]
"""The trainables that can run on ranks. `python -m orchestrator run` runs `evaluate`, for the test labels."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the trial, and prints at most one error. Returns 0 (complete), 1 (failed) or 2 (invalid input)."""
    for name, value in ALLOCATOR.items():  # torch reads these variables when it first uses a GPU
        os.environ.setdefault(name, value)
    place = Place()
    try:
        place = Place.from_environment()
        options = read_options(arguments)
        config = read_trial(options.trial, options.set)
        resume_from = find_checkpoint(options.resume_from, options.workdir)
        kind = place.device_kind(config.execution.device)
        make_folders(options.workdir, options.store)
    except UserError as error:  # every rank raises the same error
        return say(error, INVALID, aloud=place.local_rank == 0)
    execution = {"num_workers": place.world_size, "device": kind}
    config = config.model_copy(update={"execution": config.execution.model_copy(update=execution)})
    context = RecordingContext(
        workdir=options.workdir,
        store=options.store,
        device=place.device(kind),
        rank=place.rank,
        world_size=place.world_size,
        resume_from=resume_from,
    )
    if place.rank == 0:
        start = f"from {resume_from}" if resume_from else "from the beginning"
        print(f"{options.trainable} on {place.world_size} × {kind}, {start}", file=sys.stderr)
    if not place.is_launched:
        return attempt(lambda: run_recorded(options.trainable, config, context), is_first=lambda: True)
    return run_as_rank(options.trainable, config, context, place)


def run_as_rank(trainable: str, config: TrialConfig, context: RecordingContext, place: Place) -> int:
    """Runs the trial as one of torchrun's ranks. Collective."""
    import torch.distributed as distributed

    if place.local_world_size == place.world_size:
        for name, value in LOOPBACK.items():
            os.environ.setdefault(name, value)
    store, rank, world_size = next(distributed.rendezvous("env://"))

    def run() -> None:
        group = distributed.PrefixStore("group", store)
        with process_group(context.device, store=group, rank=rank, world_size=world_size):
            run_recorded(trainable, config, context)

    def is_first() -> bool:
        try:
            return store.add("refusals", 1) == 1
        except distributed.DistError:  # the rank with the store has ended, and reported its error
            return False

    return attempt(run, is_first)


def attempt(run: Callable[[], None], is_first: Callable[[], bool]) -> int:
    """Calls `run`, and returns the exit status.

    `is_first` returns whether this rank is the first to report an error. It is called at most once.
    """
    try:
        run()
    except UserError as error:
        return say(error, INVALID, aloud=is_first())
    except Exception as error:
        from trainables.losses.collectives import PeerFailed
        from trainables.losses.global_batch import NonFiniteLoss, OutOfMemory

        if isinstance(error, PeerFailed):  # the other rank reports the error
            return FAILED
        if isinstance(error, NonFiniteLoss | FloatingPointError | OutOfMemory):  # the same on every rank
            return say(error, FAILED, aloud=is_first())
        raise
    return DONE


def say(error: Exception, status: int, *, aloud: bool) -> int:
    """Prints an error as one message if `aloud` is true, and returns the status."""
    if aloud:
        print(f"error: {error}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    """A parser that raises an error, because `argparse` would print it on every rank."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See `python -m trainables --help`")


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = _Parser(prog="python -m trainables", description=__doc__, allow_abbrev=False)
    parser.add_argument("trainable", metavar="TRAINABLE", help=f"one of {', '.join(LAUNCHED)}")
    parser.add_argument(
        "trial", metavar="TRIAL", type=Path, help="YAML or JSON file with fields of a trial, flat or nested"
    )
    parser.add_argument(
        "--store", type=Path, required=True, help="folder of the caches and adapters of all trials"
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder for the files of this run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="set a field; may be repeated"
    )
    parser.add_argument(
        "--resume-from",
        metavar="CHECKPOINT",
        help=f"folder of a checkpoint, or `{LATEST}` for the newest one in the workdir, if there is one",
    )
    options = parser.parse_args(arguments)
    if options.trainable not in LAUNCHED:
        hint = did_you_mean(options.trainable, LAUNCHED) or f" (known: {', '.join(LAUNCHED)})"
        raise ConfigError(f"no trainable '{options.trainable}'{hint}")
    return options


def read_trial(path: Path, overrides: Sequence[str]) -> TrialConfig:
    """Returns the configuration in a trial file, with the values of `--set`."""
    content: Any = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a mapping of fields, such as {{lora: {{rank: 8}}}}")
    trial: dict[str, Any] = {}
    for key, value in content.items():
        for field, inner in flatten({key: value}).items():
            if field in trial:
                raise ConfigError(f"{path}: '{field}' is set twice")
            trial[field] = inner
    for field, value in trial.items():
        check_value(field, value, where=f"{path}.{field}")
    config = build_trial(trial | read_overrides(overrides), where=str(path))
    if config.encoder.precision == "auto":
        raise ConfigError(
            f"{path}.encoder.precision: auto is chosen by timing, which may differ between ranks; use "
            f"float32 or bfloat16 (or let `{command('sweep')}` choose)"
        )
    return config


def find_checkpoint(wanted: str | None, workdir: Path) -> Path | None:
    """Returns the folder of the checkpoint that `--resume-from` names, or None for a new start."""
    if wanted is None:
        return None
    from trainables.training.checkpoint import latest_checkpoint, newest_first

    if wanted == LATEST:
        folder = workdir / "checkpoints"
        try:
            newest, damages = latest_checkpoint(folder)
        except DataError:  # only this machine may see the damage; when it is restored, all ranks learn of it
            return newest_first(folder)[0]
        for damage in damages:
            print(f"resuming from an earlier checkpoint: {damage}", file=sys.stderr)
        return newest
    if not Path(wanted).is_dir():
        raise ConfigError(
            f"--resume-from {wanted}: no such folder; write one like {workdir}/checkpoints/step-NNNNNNNN, "
            f"or write `{LATEST}`"
        )
    return Path(wanted)


def make_folders(*folders: Path) -> None:
    """Creates the folders that do not exist."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot create this folder ({error.strerror})") from error


if __name__ == "__main__":
    sys.exit(main())
