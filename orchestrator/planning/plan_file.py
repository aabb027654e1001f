"""A plan on disk: what a sweep will stand on, with a checksum, so that it runs as planned or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, cast

from pydantic import Field, ValidationError

from orchestrator.planning import provenance
from orchestrator.planning.checks import check_trials
from orchestrator.planning.plan import Plan
from orchestrator.search.space import SearchSpace
from orchestrator.search.space_file import read_space
from trainables.artifacts import fingerprint
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
MEND = f"write it again: {command('sweep SPACE --plan --out FILE')}"


class PlannedData(Config):
    """One data set, and what was in it."""

    config: DataConfig
    fingerprint: str


class PlannedEncoder(Config):
    """One encoder, and which weights it had."""

    config: EncoderConfig
    fingerprint: str


class PlannedCaptioner(Config):
    """One captioner, and which weights it had; None where they were not here."""

    config: CaptionerConfig
    fingerprint: str | None


class PlannedSpace(Config):
    """The file that a space was read from; no other is looked at when the plan is run."""

    path: str
    fingerprint: str = Field(description="Of its values: comments do not count.")


class PlanFile(Config):
    """What a plan says. All but `versions`, `max_concurrent` and `estimates` binds."""

    space: dict[str, Any] = Field(description="With every override in it.")
    space_fingerprint: str
    source: PlannedSpace | None = None
    num_trials: int
    num_baselines: int
    data: tuple[PlannedData, ...]
    encoders: tuple[PlannedEncoder, ...]
    captioners: tuple[PlannedCaptioner, ...] = ()
    code_fingerprint: str
    versions: dict[str, str]
    max_concurrent: int
    estimates: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Returns what identifies a plan: planned twice on the same, it is the same."""
        return fingerprint(self.space, self.data, self.encoders, self.captioners, self.code_fingerprint)


def describe_plan(plan: Plan, source: Path | None) -> PlanFile:
    """Returns what a plan says, with fingerprints of all that it stands on."""
    configs = list(plan.space.trials_to_check())
    check_trials(configs)
    inputs = {config.data_to_read.model_dump_json(): config.data_to_read for config in configs}
    different = {_fingerprint_of(data): data for data in reversed(inputs.values())}
    encoders = dict.fromkeys(config.encoder for config in configs)
    captioners = dict.fromkeys(config.captioner for config in configs if config.needs_captioner)
    return PlanFile(
        space=plan.space.to_dict(),
        space_fingerprint=plan.space.fingerprint,
        source=PlannedSpace(path=str(source.absolute()), fingerprint=fingerprint(read_yaml(source)))
        if source
        else None,
        num_trials=plan.num_trials,
        num_baselines=plan.num_baselines,
        data=tuple(PlannedData(config=c, fingerprint=found) for found, c in reversed(different.items())),
        encoders=tuple(PlannedEncoder(config=c, fingerprint=encoder_fingerprint(c)) for c in encoders),
        captioners=tuple(PlannedCaptioner(config=c, fingerprint=known_captioner(c)) for c in captioners),
        code_fingerprint=provenance.code_fingerprint(),
        versions=provenance.versions(),
        max_concurrent=plan.concurrency.max_concurrent,
        estimates=plan.estimates(),
    )


def check_place(path: Path) -> None:
    """Says before a plan is made that it could not be written.

    Raises:
        ConfigError: no such folder, or something else of this name.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.parent}; make it: mkdir -p {path.parent}")
    if path.exists() and not path.is_file():
        raise ConfigError(f"--out {path}: is a {'folder' if path.is_dir() else 'device'}, not a file")
    if path.exists():
        try:
            read_plan(path)
        except DataError as error:
            raise ConfigError(f"--out {path}: exists, and is not written over ({error})") from error


def write_plan(path: Path, content: PlanFile) -> None:
    """Writes a plan in one step, readable by its user alone. The same plan is renewed, with its estimates.

    Raises:
        ConfigError: another plan lies there.
        DataError: the disk refuses.
    """
    check_place(path)
    if path.exists() and (there := read_plan(path)).fingerprint != content.fingerprint:
        raise ConfigError(
            f"--out {path}: holds another plan (of '{there.space.get('name')}', {there.num_trials} trials); "
            "choose another name, or delete it first"
        )
    try:
        descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(_to_text(content))
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            os.unlink(aside)
            raise
    except OSError as error:
        raise DataError(f"--out {path}: cannot be written ({error.strerror or error})") from error


def read_plan(path: Path) -> PlanFile:
    """Returns a plan, whole and as it was written.

    Raises:
        DataError: no file, too large, damaged, of a newer version, or no plan; says which.
    """
    values = _parse(path, _read(path))
    checksum = values.pop("sha256", None)
    if values.get("format") != FORMAT or not isinstance(checksum, str):
        raise DataError(f"plan {path}: is no plan (its format is not '{FORMAT}'); {MEND}")
    if checksum != _checksum(values):
        raise DataError(
            f"plan {path}: its checksum does not match, so it was changed or damaged after it was written; "
            f"restore it, or {MEND}"
        )
    if values.pop("schema", None) != SCHEMA:
        raise DataError(
            f"plan {path}: was written by a newer version, this one reads schema {SCHEMA}; update the "
            f"orchestrator, or {MEND}"
        )
    del values["format"]
    try:
        return PlanFile.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise DataError(f"plan {path}: is no plan ({explain(error)}); {MEND}") from error


def space_of_plan(path: Path, content: PlanFile) -> SearchSpace:
    """Returns the space of a plan, after comparing all that it stands on with what is here now.

    Raises:
        DataError: lists everything that changed since.
    """
    drifted: list[str] = []
    space: SearchSpace | None = None
    try:
        space = read_space(content.space)
        drifted += _changed(
            "the space, as this version reads it", content.space_fingerprint, space.fingerprint
        )
    except UserError as error:
        drifted.append(f"the space no longer holds ({error})")
    drifted += _source_drift(content.source)
    drifted += _changed("the code in trainables/", content.code_fingerprint, provenance.code_fingerprint())
    for data in content.data:
        drifted += _input_drift(
            _name(data.config), data.fingerprint, lambda c=data.config: _fingerprint_of(c)
        )
    for encoder in content.encoders:
        name = f"the weights of {encoder.config.name}"
        drifted += _input_drift(name, encoder.fingerprint, lambda c=encoder.config: encoder_fingerprint(c))
    for captioner in content.captioners:
        name = f"the weights of {captioner.config.name}"
        drifted += _input_drift(name, captioner.fingerprint, lambda c=captioner.config: known_captioner(c))
    if drifted or space is None:
        listed = "".join(f"\n  - {what}" for what in drifted)
        raise DataError(
            f"plan {path}: what it stands on changed since it was written, so nothing was started:{listed}\n"
            f"Put it back, or plan again under another name: {MEND.partition(': ')[2]}"
        )
    return space


def other_versions(content: PlanFile) -> list[str]:
    """Returns the packages that have another version than when the plan was written: said, not refused."""
    now = provenance.versions()
    names = sorted(content.versions.keys() | now.keys())
    pairs = {name: (content.versions.get(name, "none"), now.get(name, "none")) for name in names}
    return [f"{name} {then} then, {new} now" for name, (then, new) in pairs.items() if then != new]


def _source_drift(source: PlannedSpace | None) -> list[str]:
    """A plan stands alone: the file of its space may be gone, but may not say something else."""
    if source is None or not Path(source.path).is_file():
        return []
    return _input_drift(
        f"the space in {source.path}", source.fingerprint, lambda: fingerprint(read_yaml(Path(source.path)))
    )


def _input_drift(what: str, then: str | None, look: Any) -> list[str]:
    try:
        return _changed(what, then, look())
    except UserError as error:
        return [f"{what} cannot be read ({error})"]


def _changed(what: str, then: str | None, now: str | None) -> list[str]:
    return [] if then == now else [f"{what} ({then or 'none'} then, {now or 'none'} now)"]


def _fingerprint_of(config: DataConfig) -> str:
    return with_masks(load_dataset(config).fingerprint, config)


def _name(config: DataConfig) -> str:
    fold = "" if config.fold is None else f", fold {config.fold}"
    return f"the data set {config.dataset}{fold}"


def _read(path: Path) -> bytes:
    if not path.is_file():
        kind = "is not a file" if path.exists() else "there is no such file"
        raise DataError(f"plan {path}: {kind}; {MEND}")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"plan {path}: cannot be read ({error.strerror or error})") from error
    if len(content) > MAX_BYTES:
        raise DataError(f"plan {path}: is larger than {MAX_BYTES:,} bytes, so it is no plan; {MEND}")
    return content


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise DataError(f"plan {path}: is damaged: not UTF-8 text at byte {error.start}; {MEND}") from error
    except json.JSONDecodeError as error:
        is_cut = not content.rstrip().endswith(b"}")
        how = "it ends in the middle" if is_cut else f"no JSON at line {error.lineno}, column {error.colno}"
        raise DataError(f"plan {path}: is damaged: {how}; {MEND}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"plan {path}: is no plan (not plain JSON); {MEND}") from error
    if not isinstance(values, dict):
        raise DataError(f"plan {path}: is no plan (its format is not '{FORMAT}'); {MEND}")
    return cast("dict[str, Any]", values)


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _to_text(content: PlanFile) -> str:
    values = {"format": FORMAT, "schema": SCHEMA, **content.model_dump(mode="json")}
    return json.dumps(values | {"sha256": _checksum(values)}, indent=1, ensure_ascii=False) + "\n"


def _checksum(values: dict[str, Any]) -> str:
    """Of the values in canonical form, so that line ends and indentation do not count."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
