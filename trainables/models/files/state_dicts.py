"""Reads the tensors of published checkpoints, and loads them strictly, so that no weight stays random."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainables.config import EncoderConfig
from trainables.errors import ConfigError, DataError
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.files.weights import MODEL_FILE, is_here, part_file, part_folder

# Imports inside functions: torch takes seconds to load, and checks do not need it.

Shapes = Mapping[str, tuple[int, ...]]


def open_parts(
    config: EncoderConfig, spec: EncoderSpec, *, weights: bool
) -> tuple[dict[str, Tensor], Shapes]:
    """Returns the tensors of an encoder's parts ({} without `weights`), and the known shapes."""
    if not weights:
        return {}, shapes_of_parts(config, spec)
    tensors = read_parts(config, spec)
    return tensors, {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def read_parts(config: EncoderConfig, spec: EncoderSpec) -> dict[str, Tensor]:
    """Returns the tensors of all parts of an encoder, in float32."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for part in spec.parts:
        found = load_file(part_file(config.name, spec, part))
        if twice := sorted(tensors.keys() & found.keys()):
            raise ConfigError(f"{config.name}: '{twice[0]}' is in more than one of {', '.join(spec.parts)}")
        tensors |= {name: t.float() if t.is_floating_point() else t for name, t in found.items()}
    return tensors


def shapes_of_parts(config: EncoderConfig, spec: EncoderSpec) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the tensors in the parts on this machine, without reading values."""
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for part in spec.parts:
        if not is_here(config.name, part):
            continue
        file = part_folder(config.name, part) / MODEL_FILE
        try:
            with safe_open(file, framework="pt") as opened:
                names = list(opened.keys())
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in names}
        except SafetensorError as error:
            raise DataError(
                f"{file}: this file is missing or has changed since it was converted ({error})"
            ) from error
    return shapes


def below(named: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Returns the entries whose names have a prefix, under names without the prefix."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def numbered(names: Iterable[str], prefix: str) -> int:
    """Returns the number of layers in a stack: the count of different numbers after a prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})


def load_strictly(
    module: nn.Module, tensors: Mapping[str, Tensor], *, where: str | Path, ignorable: Iterable[str] = ()
) -> None:
    """Loads tensors into a module; every tensor must fit, and every parameter must get a tensor.

    `ignorable` are beginnings or ends of names that the module does not need. Messages begin with `where`,
    and name the first tensor of each kind that does not fit.
    """
    beginnings_or_ends = tuple(ignorable)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {
        name: tensor
        for name, tensor in tensors.items()
        if name in wanted or not (name.startswith(beginnings_or_ends) or name.endswith(beginnings_or_ends))
    }
    missing = sorted(wanted.keys() - found.keys())
    unexpected = sorted(found.keys() - wanted.keys())
    others = sorted(n for n in wanted.keys() & found.keys() if wanted[n] != tuple(found[n].shape))
    if missing or unexpected or others:
        problems = {"missing": missing, "not expected": unexpected, "of another shape": others}
        said = "; ".join(
            f"{len(names)} {kind} (first: {names[0]})" for kind, names in problems.items() if names
        )
        raise ConfigError(f"{where}: the checkpoint does not fit {type(module).__name__}: {said}")
    module.load_state_dict(found)
