"""Converts foreign checkpoints to safetensors, after a hash check, in a quarantined process."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.artifacts import ABOUT, atomic_directory, file_sha256, is_whole, put_in_place
from trainables.config import EncoderConfig
from trainables.errors import ConfigError, DataError
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.files.weights import (
    COMMAND,
    MODEL_FILE,
    TEXT_PARTS,
    VOCABULARY,
    encoder_folder,
    missing_parts,
    needed_parts,
    on_trial,
    text_parts,
)

# Imports inside functions: torch takes seconds to load, and checks do not need it.

MEMORY_BYTES, MEMORY_PER_BYTE = 6 * 2**30, 6
"""The limit of address space: a base, mostly for torch's libraries, plus a multiple of the file size."""
MAX_BYTES = 16 * 2**30
WAIT_SECONDS = 1800


@dataclass(frozen=True)
class Converted:
    """The result of a conversion."""

    folder: Path
    part: str | None
    num_tensors: int | None  # None for a text file
    num_weights: int | None = None  # of the whole encoder; None if a part is missing, or without an encoder


def convert_part(
    file: Path, name: str, spec: EncoderSpec, *, part: str | None, trusted: str | None, replace: bool = False
) -> Converted:
    """Converts a published file into a part of a registered encoder, and loads the encoder as a check.

    The part is kept, or replaces an earlier one, only if the encoder loads. If another part is missing, this
    check follows when the last part is converted.

    `file` is a pickle, safetensors, `vocab.txt` or `open_clip_config.json`. Without `part`,
    the part is the only one of the encoder, or the one published under this file name. `trusted` is a SHA-256
    that the user trusts, for files without a published hash.
    """
    part = _which(file, name, spec, part)
    folder = encoder_folder(name) / part
    if is_whole(folder) and not replace:
        raise ConfigError(f"{name}: its {part} exists already ({folder}); add --replace to overwrite it")
    aside, num_tensors = folder.with_name(f".{part}.{os.getpid()}"), None
    try:
        if part in TEXT_PARTS:
            _copy_text(file, aside, part)
        else:
            num_tensors = _convert(file, aside, md5=spec.parts[part].md5, trusted=trusted)
        with on_trial(name, part, aside):
            num_weights = _count_weights(name, spec)
        put_in_place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Converted(folder, part, num_tensors, num_weights)


def _count_weights(name: str, spec: EncoderSpec) -> int | None:
    """Returns the number of weights of an encoder, or None if a part of it is still missing."""
    from trainables.models.encoders.load import load_dual_encoder

    if missing_parts(name, spec):
        return None
    try:
        encoder = load_dual_encoder(EncoderConfig(name=name))
    except ConfigError:
        raise
    except (LookupError, ValueError, RuntimeError) as error:
        raise ConfigError(  # errors of the libraries for impossible shapes
            f"{name}: cannot be built from these tensors ({type(error).__name__}: {error})"
        ) from error
    return sum(parameter.numel() for parameter in encoder.parameters())


def convert_file(file: Path, folder: Path, *, trusted: str | None) -> Converted:
    """Converts any checkpoint into `folder`/model.safetensors; other files in the folder do not change."""
    if any(folder.glob("*.safetensors")):
        raise ConfigError(f"--to {folder}: already contains safetensors; choose another folder")
    place = folder.resolve()  # "." has neither a name nor a parent
    aside = place.parent / f"{place.name}.converted"
    num_tensors = _convert(file, aside, md5=None, trusted=trusted)
    folder.mkdir(parents=True, exist_ok=True)
    for written in sorted(aside.iterdir()):
        written.replace(folder / written.name)
    aside.rmdir()
    return Converted(folder, None, num_tensors)


def _which(file: Path, name: str, spec: EncoderSpec, part: str | None) -> str:
    known = needed_parts(spec)
    if not spec.parts:
        raise ConfigError(f"--to {name}: its weights need no conversion; see '{COMMAND} show {name}'")
    if part is not None:
        if part not in known:
            raise ConfigError(f"--part {part}: {name} has no such part (it has: {', '.join(known)})")
        return part
    of_text = [part for part in text_parts(spec) if TEXT_PARTS[part] == file.name]
    if of_text:
        return of_text[0]
    named = [p for p, published in spec.parts.items() if published.file == file.name]
    if len(named) == 1:
        return named[0]
    if len(spec.parts) == 1:
        return next(iter(spec.parts))
    raise ConfigError(
        f"{file.name}: state which part of {name} this file is: --part {' or --part '.join(spec.parts)}"
    )


def _convert(file: Path, folder: Path, *, md5: str | None, trusted: str | None) -> int:
    """Converts a file into a new folder, and returns the number of tensors."""
    _check_file(file)
    sha256 = file_sha256(file)
    _check_hash(file, sha256, md5=md5, trusted=trusted)
    with atomic_directory(folder) as aside:
        target = aside / MODEL_FILE
        if file.suffix == ".safetensors":
            shutil.copyfile(file, target)
            said = {"num_tensors": count_tensors(target)}
        else:
            said = _quarantined(file, target)
        about = {"converted_from": file.name, "sha256": sha256, **said}
        (aside / ABOUT).write_text(json.dumps(about, indent=1, sort_keys=True))
    return said["num_tensors"]


def _check_file(file: Path) -> None:
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    if not 0 < file.stat().st_size <= MAX_BYTES:
        raise DataError(f"{file}: has {file.stat().st_size} bytes; expected 1 to {MAX_BYTES:,}")


def _check_hash(file: Path, sha256: str, *, md5: str | None, trusted: str | None) -> None:
    if trusted is not None:
        if not re.fullmatch("[0-9a-f]{64}", trusted):
            raise ConfigError(f"--trust-sha256 {trusted}: not a SHA-256, which has 64 hexadecimal digits")
        if trusted != sha256:
            raise ConfigError(
                f"--trust-sha256: the hash of {file.name} is {sha256}, not {trusted}; it was not opened"
            )
        return
    if md5 is not None:
        found = _md5(file)
        if found != md5:
            raise DataError(f"{file}: its MD5 is {found}, published is {md5}; download it again")
        return
    if file.suffix != ".safetensors":  # safetensors cannot contain code
        raise ConfigError(
            f"{file.name}: its hash is not known, and the file can contain code; if you trust "
            f"its origin, add --trust-sha256 {sha256}"
        )


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()


def _quarantined(file: Path, target: Path) -> dict[str, Any]:
    memory = MEMORY_BYTES + MEMORY_PER_BYTE * file.stat().st_size
    command = [
        *(sys.executable, "-I", "-X", "faulthandler", str(Path(__file__).parent / "files" / "unpickle.py")),
        *(str(file.resolve()), str(target.resolve()), str(memory)),
    ]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(target.parent.resolve())}
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=WAIT_SECONDS, env=environment, cwd=target.parent,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{file}: refused: not read within {WAIT_SECONDS} s") from error
    try:
        said: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        why = f"signal {-ended.returncode}" if ended.returncode < 0 else ended.stderr.strip()[-300:]
        raise DataError(
            f"{file}: refused: the process that read it ended without a result ({why})"
        ) from error
    if "refused" in said:
        raise DataError(f"{file}: refused: {said['refused']}; no code in it was run, and nothing was written")
    return said


def count_tensors(file: Path) -> int:
    """Returns the number of tensors in a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            return len(list(opened.keys()))
    except SafetensorError as error:
        raise DataError(f"{file}: not a safetensors file ({error})") from error


def _copy_text(file: Path, folder: Path, part: str) -> None:
    """Copies a vocabulary or a configuration, after a check of its format."""
    _check_file(file)
    try:
        text = file.read_text(encoding="utf-8")
        if part == VOCABULARY:
            _check_vocabulary(text, file)
        elif "model_cfg" not in json.loads(text):
            raise DataError(f"{file}: not a configuration of open_clip: 'model_cfg' is missing")
    except ValueError as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text or JSON ({error})") from error
    with atomic_directory(folder) as aside:
        shutil.copyfile(file, aside / TEXT_PARTS[part])


def _check_vocabulary(text: str, file: Path) -> None:
    words = text.splitlines()
    absent = [word for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if word not in words]
    if absent:
        raise DataError(
            f"{file}: not a BERT vocabulary, {', '.join(absent)} is missing; it must have one word per line"
        )
