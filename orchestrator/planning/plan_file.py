"""Plan files. They contain the fingerprints of all inputs, so a sweep runs as planned or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pydantic import Field, ValidationError

from orchestrator.planning import provenance
from orchestrator.planning.checks import check_trials
from orchestrator.planning.plan import Plan
from orchestrator.search.space import SearchSpace
from orchestrator.search.space_file import read_space
from trainables.artifacts import fingerprint, write_privately
from trainables.config import CaptionerConfig, Config, DataConfig, EncoderConfig
from trainables.config.fields import explain
from trainables.data.datasets import load_dataset, with_masks
from trainables.errors import ConfigError, DataError, UserError
from trainables.models.catalogue.captioners import known_captioner
from trainables.models.catalogue.registry import encoder_fingerprint
from trainables.plain_yaml import read_yaml
from trainables.shell import command

FORMAT = "clip-orchestrator plan"
SCHEMA = 1
MAX_BYTES = 8_000_000
MEND = f"write the plan again: {command('sweep SPACE --plan --out FILE')}"


ConfigT = TypeVar("ConfigT", bound=Config)


class Planned(Config, Generic[ConfigT]):
    """A data set, its words, an encoder or a captioner, and its fingerprint.

    None: the weights were not on this machine.
    """

    config: ConfigT
    fingerprint: str | None


class PlannedSpace(Config):
    """The file that a space was read from."""

    path: str
    fingerprint: str = Field(description="Fingerprint of the values in the file, without comments.")


class PlanFile(Config):
    """The content of a plan file. Only `versions`, `max_concurrent` and `estimates` may differ when run."""

    space: dict[str, Any] = Field(description="The search space, with all overrides.")
    space_fingerprint: str
    source: PlannedSpace | None = None
    num_trials: int
    num_baselines: int
    data: tuple[Planned[DataConfig], ...]
    encoders: tuple[Planned[EncoderConfig], ...]
    captioners: tuple[Planned[CaptionerConfig], ...] = ()
    words: tuple[Planned[DataConfig], ...] = ()
    code_fingerprint: str
    versions: dict[str, str]
    max_concurrent: int
    estimates: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the plan. Plans of the same space with the same inputs have equal fingerprints."""
        inputs = self.data, self.encoders, self.captioners, self.words
        return fingerprint(self.space, *inputs, self.code_fingerprint)


def describe_plan(plan: Plan, source: Path | None) -> PlanFile:
    """Returns the content of a plan, with the fingerprints of its inputs."""
    configs = list(plan.space.trials_to_check())
    check_trials(configs)
    inputs = {config.data_to_read.model_dump_json(): config.data_to_read for config in configs}
    different = {_fingerprint_of(data): data for data in reversed(inputs.values())}
    words = {_words_of(config.data): config.data for config in reversed(configs) if config.reads_words}
    encoders = dict.fromkeys(config.encoder for config in configs)
    captioners = dict.fromkeys(config.captioner for config in configs if config.needs_captioner)
    origin = None
    if source is not None:
        origin = PlannedSpace(path=str(source.absolute()), fingerprint=fingerprint(read_yaml(source)))
    return PlanFile(
        space=plan.space.to_dict(),
        space_fingerprint=plan.space.fingerprint,
        source=origin,
        num_trials=plan.num_trials,
        num_baselines=plan.num_baselines,
        data=tuple(Planned(config=c, fingerprint=found) for found, c in reversed(different.items())),
        encoders=tuple(Planned(config=c, fingerprint=encoder_fingerprint(c)) for c in encoders),
        captioners=tuple(Planned(config=c, fingerprint=known_captioner(c)) for c in captioners),
        words=tuple(Planned(config=c, fingerprint=found) for found, c in reversed(words.items())),
        code_fingerprint=provenance.code_fingerprint(),
        versions=provenance.versions(),
        max_concurrent=plan.concurrency.max_concurrent,
        estimates=plan.estimates(),
    )


def check_place(path: Path) -> None:
    """Checks that a plan can be written to a path, before the plan is made."""
    if not path.parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.parent}; make it: mkdir -p {path.parent}")
    if path.exists():
        try:
            read_plan(path)
        except DataError as error:
            raise ConfigError(
                f"--out {path}: this file exists and is not a plan, so it is not replaced ({error})"
            ) from error


def write_plan(path: Path, content: PlanFile) -> None:
    """Writes a plan atomically, readable only by its user. A file with the same plan gets new estimates."""
    check_place(path)
    if path.exists() and (there := read_plan(path)).fingerprint != content.fingerprint:
        raise ConfigError(
            f"--out {path}: this file has another plan (of '{there.space.get('name')}', "
            f"{there.num_trials} trials); choose another name, or delete the file first"
        )
    try:
        write_privately(path, _to_text(content))
    except OSError as error:
        raise DataError(f"--out {path}: this file cannot be written ({error.strerror or error})") from error


def read_plan(path: Path) -> PlanFile:
    """Reads a plan file, and returns the content.

    Raises:
        DataError: the file is missing, too large, damaged, of a newer version, or not a plan.
    """
    values = _read(path)
    checksum = values.pop("sha256", None)
    if values.get("format") != FORMAT or not isinstance(checksum, str):
        raise DataError(f"plan {path}: this file is not a plan (its format is not '{FORMAT}'); {MEND}")
    if checksum != _checksum(values):
        raise DataError(
            f"plan {path}: its checksum does not match, so the file was changed or damaged; "
            f"restore the file, or {MEND}"
        )
    if values.pop("schema", None) != SCHEMA:
        raise DataError(
            f"plan {path}: a newer version wrote this file, and this version reads only schema {SCHEMA}; "
            f"update the orchestrator, or {MEND}"
        )
    del values["format"]
    try:
        return PlanFile.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise DataError(f"plan {path}: this file is not a plan ({explain(error)}); {MEND}") from error


def space_of_plan(path: Path, content: PlanFile) -> SearchSpace:
    """Checks that the inputs of a plan are unchanged, and returns the search space of the plan.

    Raises:
        DataError: inputs have changed. The message lists all of them.
    """
    checks: list[tuple[str, str | None, Callable[[], str | None]]] = [
        ("the space", content.space_fingerprint, lambda: read_space(content.space).fingerprint),
        ("the code in trainables/", content.code_fingerprint, provenance.code_fingerprint),
    ]
    source = content.source
    if source is not None and (file := Path(source.path)).is_file():  # optional: the plan contains the space
        checks.append((f"the space in {file}", source.fingerprint, lambda: fingerprint(read_yaml(file))))
    for each in content.data:
        checks.append((_name(each.config), each.fingerprint, partial(_fingerprint_of, each.config)))
    for each in content.words:
        words = f"the words for {_name(each.config)}"
        checks.append((words, each.fingerprint, partial(_words_of, each.config)))
    for planned, find in ((content.encoders, encoder_fingerprint), (content.captioners, known_captioner)):
        for each in planned:
            weights = f"the weights of {each.config.name}"
            checks.append((weights, each.fingerprint, partial(cast(Any, find), each.config)))
    drifted = [line for what, then, find in checks if (line := _drift(what, then, find))]
    if drifted:
        raise DataError(
            f"plan {path}: inputs changed after the plan was written, so nothing was started:"
            + "".join(f"\n  - {line}" for line in drifted)
            + f"\nRestore these inputs, or plan again under another name: {MEND.partition(': ')[2]}"
        )
    return read_space(content.space)


def other_versions(content: PlanFile) -> list[str]:
    """Returns a line for each package whose version has changed since the plan was written."""
    now = provenance.versions()
    names = sorted(content.versions.keys() | now.keys())
    pairs = {name: (content.versions.get(name, "none"), now.get(name, "none")) for name in names}
    return [f"{name} {then} then, {new} now" for name, (then, new) in pairs.items() if then != new]


def _drift(what: str, then: str | None, find: Callable[[], str | None]) -> str:
    """Returns how an input has changed; empty if the input is the same."""
    try:
        now = find()
    except UserError as error:
        return f"{what} cannot be read ({error})"
    return "" if then == now else f"{what} ({then or 'none'} then, {now or 'none'} now)"


def _fingerprint_of(config: DataConfig) -> str:
    return with_masks(load_dataset(config).fingerprint, config)


def _words_of(config: DataConfig) -> str:
    return load_dataset(config).words.fingerprint


def _name(config: DataConfig) -> str:
    fold = "" if config.fold is None else f", fold {config.fold}"
    return f"the data set {config.dataset}{fold}"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        kind = "this path is not a file" if path.exists() else "there is no such file"
        raise DataError(f"plan {path}: {kind}; {MEND}")
    content = b""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise DataError(
                f"plan {path}: this file is larger than {MAX_BYTES:,} bytes, so it is not a plan; {MEND}"
            )
        values = json.loads(content.decode(), parse_constant=_refuse_constant)
    except OSError as error:
        raise DataError(f"plan {path}: this file cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:  # errors of UTF-8 or JSON
        is_cut = isinstance(error, json.JSONDecodeError) and (
            not content.rstrip().endswith(b"}") or error.pos >= len(error.doc.rstrip())
        )
        how = "the end is missing" if is_cut else str(error)
        raise DataError(f"plan {path}: this file is damaged, or not a plan: {how}; {MEND}") from error
    if not isinstance(values, dict):
        raise DataError(f"plan {path}: this file is not a plan (its format is not '{FORMAT}'); {MEND}")
    return cast("dict[str, Any]", values)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON")


def _to_text(content: PlanFile) -> str:
    values = {"format": FORMAT, "schema": SCHEMA, **content.model_dump(mode="json")}
    return json.dumps(values | {"sha256": _checksum(values)}, indent=1, ensure_ascii=False) + "\n"


def _checksum(values: dict[str, Any]) -> str:
    """Returns the checksum of the values. Line ends and indentation do not change the checksum."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
