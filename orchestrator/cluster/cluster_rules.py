"""What Ray accepts in a cluster file and we do not: open doors, versions that differ, a head that trains."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.cluster.cluster_commands import COMMAND_FIELDS, Command, commands_of, lines_of
from orchestrator.cluster.finding import Finding
from orchestrator.cluster.nodes import LOOPBACK_HOSTS
from orchestrator.storage.uri import STORAGE_VARIABLE

TOKEN_FILE = ".ray/auth_token"
EVERYWHERE = ("0.0.0.0/0", "::/0")
LEAST_PYTHON = (3, 11)
MAKE_TOKEN = "(umask 077; ray get-auth-token --generate > /dev/null)"

STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
_RAY_IMAGE = re.compile(r"(?:.*/)?ray:(?P<ray>\d+\.\d+\.\d+)(?:-py(?P<major>\d)(?P<minor>\d+))?(?:-.*)?")


def problems(config: Mapping[str, Any], prepared: Mapping[str, Any], *, folder: Path) -> Iterator[Finding]:
    """Yields every problem of a file that Ray's schema takes.

    Args:
        config: as written.
        prepared: with Ray's defaults, whose commands run where the file has none.
        folder: of the file; what it mounts is relative to it.
    """
    commands = [command for name in COMMAND_FIELDS for command in commands_of(prepared, name)]
    pinned = read_constraints(prepared, folder)
    if not config.get("idle_timeout_minutes"):
        yield Finding("idle_timeout_minutes", "missing", "write 10, or idle workers cost money for ever")
    yield from check_token(prepared, commands)
    yield from check_head(prepared, commands)
    yield from check_ports(prepared, commands)
    yield from check_packages(prepared, commands, folder)
    yield from check_images(prepared, pinned)
    yield from check_ray_version(commands, pinned)


def notes(prepared: Mapping[str, Any]) -> Iterator[Finding]:
    """Yields what only the user can judge."""
    for rule in (_note_token, _note_storage, _note_image, _note_ssh):
        yield from rule(prepared)


def check_token(prepared: Mapping[str, Any], commands: Sequence[Command]) -> Iterator[Finding]:
    """Token authentication, set before every `ray start`, its token in a file that nobody else can read."""
    for name in STARTS:
        starts = [command for command in commands if command.is_in(name) and command.runs("ray", "start")]
        if not starts:
            yield Finding(name, "starts no Ray", "write `RAY_AUTH_MODE=token ray start …`")
        for command in starts:
            mode = command.variables.get("RAY_AUTH_MODE")
            if mode != "token":
                found = "missing" if mode is None else f"RAY_AUTH_MODE={mode}"
                yield Finding(
                    f"{command.where} (`ray start`)", found, "write `RAY_AUTH_MODE=token` before `ray start`"
                )
    texts = {name: lines_of(prepared, name) for name in COMMAND_FIELDS}
    texts["docker.run_options"] = run_options_of(prepared)
    for name, lines in texts.items():
        if any("RAY_AUTH_TOKEN=" in line for line in lines):
            yield Finding(
                name, "a token on a command line, where every process reads it", f"mount {TOKEN_FILE} instead"
            )
    mounts = mounts_of(prepared)
    if not any(remote.endswith(TOKEN_FILE) for remote in mounts):
        yield Finding(
            "file_mounts", "brings no token to the nodes", f'add "~/{TOKEN_FILE}": "~/{TOKEN_FILE}"'
        )
    if not any(
        command.runs("chmod", "600") and any(word.endswith(TOKEN_FILE) for word in command.words)
        for command in commands
    ):
        yield Finding("setup_commands", "leave the token readable", f"add `chmod 600 ~/{TOKEN_FILE}`")


def check_head(prepared: Mapping[str, Any], commands: Sequence[Command]) -> Iterator[Finding]:
    """A head that takes no trials: it holds the drivers, and its death ends all of them."""
    types: Mapping[str, Any] = prepared["available_node_types"]
    head = prepared["head_node_type"]
    if prepared["provider"]["type"] == "local":  # which has no types of nodes
        starts = [
            command for command in commands if command.is_in(STARTS[0]) and command.runs("ray", "start")
        ]
        if any(command.option("--num-cpus") != "0" for command in starts):
            yield Finding(STARTS[0], "the head takes trials", "add --num-cpus=0 to `ray start`")
        return
    resources = types[head].get("resources", {})
    for resource in ("CPU", "GPU"):
        amount = resources.get(resource)
        if amount or (resource == "CPU" and amount is None):
            found = "missing, so all its cores" if amount is None else f"{amount}: the head takes trials"
            yield Finding(f"available_node_types.{head}.resources.{resource}", found, "write 0")
    if types[head].get("max_workers"):
        yield Finding(
            f"available_node_types.{head}.max_workers", str(types[head]["max_workers"]), "write 0: one head"
        )
    if not any(kind.get("max_workers") for name, kind in types.items() if name != head):
        yield Finding("available_node_types", "no type of worker may start", "give one `max_workers: 4`")


def check_ports(prepared: Mapping[str, Any], commands: Sequence[Command]) -> Iterator[Finding]:
    """Nothing listens for strangers: dashboard on loopback, no port open to the world."""
    for command in commands:
        host = command.option("--dashboard-host")
        if command.runs("ray", "start") and host is not None and host not in LOOPBACK_HOSTS:
            yield Finding(
                f"{command.where} --dashboard-host",
                host,
                "write 127.0.0.1 and reach it with `ray dashboard cluster.yaml`, over SSH",
            )
    rules = prepared["provider"].get("security_group", {}).get("IpPermissions", [])
    for number, rule in enumerate(rules):
        text = json.dumps(rule, default=str)
        for network in (network for network in EVERYWHERE if f'"{network}"' in text):
            port = rule.get("FromPort", "any")
            yield Finding(
                f"provider.security_group.IpPermissions[{number}]",
                f"{network} may reach port {port}",
                "name your own network, such as 203.0.113.0/24",
            )
    published = re.compile(r"(?:-p|--publish)(?:[ =](?P<what>.*))?$")
    for number, option in enumerate(run_options_of(prepared)):
        if (match := published.match(option)) and not (match["what"] or "").startswith("127.0.0.1:"):
            yield Finding(
                f"docker.run_options[{number}]",
                option,
                "leave it out: Ray's containers use the host's network",
            )


def check_packages(
    prepared: Mapping[str, Any], commands: Sequence[Command], folder: Path
) -> Iterator[Finding]:
    """Every package has one version, that of the constraints file."""
    mounts = mounts_of(prepared)
    for command in commands:
        files = command.pip_files()
        for name in files:
            local = mounts.get(name)
            if local is None or not (folder / Path(local).expanduser()).is_file():
                found = "is not among file_mounts" if local is None else f"{local}: no such file"
                yield Finding(
                    f"{command.where} ({name})", found, f'add "{name}": "constraints.txt" to file_mounts'
                )
        for package in command.pip_packages():
            if not files and "==" not in package:
                yield Finding(
                    f"{command.where} (pip install {package})",
                    "no version",
                    "add --constraint with constraints.txt, or ==VERSION",
                )


def check_images(prepared: Mapping[str, Any], pinned: Mapping[str, str]) -> Iterator[Finding]:
    """Images carry a version, and Ray's own carry the tested one."""
    docker, ray = docker_of(prepared), pinned.get("ray")
    images = {
        f"docker.{name}": docker[name] for name in ("image", "head_image", "worker_image") if docker.get(name)
    }
    for name, kind in prepared["available_node_types"].items():
        if image := kind.get("docker", {}).get("worker_image"):
            images[f"available_node_types.{name}.docker.worker_image"] = image
    for where, image in images.items():
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and (not tag or tag.startswith(("latest", "nightly"))):
            yield Finding(where, f"{image} has no version", f"write rayproject/ray:{ray or 'VERSION'}-py311")
        elif match := _RAY_IMAGE.fullmatch(image):
            if ray and match["ray"] != ray:
                yield Finding(where, f"Ray {match['ray']}", f"constraints.txt has {ray}: write the same here")
            python = (int(match["major"]), int(match["minor"])) if match["major"] else None
            if python is None or python < LEAST_PYTHON:
                found = "the tag names no Python" if python is None else f"Python {python[0]}.{python[1]}"
                yield Finding(where, found, "write -py311 or newer, the same on head and workers")
    pythons = {match["minor"] for image in images.values() if (match := _RAY_IMAGE.fullmatch(image))}
    if len(pythons) > 1:
        yield Finding("docker", f"images of Python 3.{' and 3.'.join(sorted(map(str, pythons)))}", "use one")


def check_ray_version(commands: Sequence[Command], pinned: Mapping[str, str]) -> Iterator[Finding]:
    """A Ray that is installed by name is the tested one."""
    for command in commands:
        for word in command.pip_packages():
            match = re.fullmatch(r"ray(?:\[.*\])?==(.+)", word)
            if match and match[1] != pinned.get("ray", match[1]):
                mend = f"constraints.txt has {pinned['ray']}"
                yield Finding(f"{command.where} ({word})", "another Ray", mend)


def docker_of(prepared: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the Docker section, empty where there is none."""
    return prepared.get("docker") or {}


def run_options_of(prepared: Mapping[str, Any]) -> list[str]:
    """Returns what every container is started with."""
    options: list[Any] = docker_of(prepared).get("run_options") or []
    return [str(option) for option in options]


def mounts_of(prepared: Mapping[str, Any]) -> dict[str, str]:
    """Returns the files that are copied to every node: place there → place here."""
    mounts: dict[str, Any] = prepared.get("file_mounts") or {}
    return {remote: str(local) for remote, local in mounts.items()}


def read_constraints(prepared: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Returns the versions of the first mounted `constraints.txt`, by package; empty where there is none."""
    for local in mounts_of(prepared).values():
        path = folder / Path(local).expanduser()
        if path.name == "constraints.txt" and path.is_file():
            lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
            return {name.lower(): version for name, _, version in (line.partition("==") for line in lines)}
    return {}


def _note_token(prepared: Mapping[str, Any]) -> Iterator[Finding]:
    for remote, local in mounts_of(prepared).items():
        if remote.endswith(TOKEN_FILE) and not Path(local).expanduser().is_file():
            yield Finding(f"file_mounts.{remote}", f"there is no {local} on this machine", MAKE_TOKEN)


def _note_storage(prepared: Mapping[str, Any]) -> Iterator[Finding]:
    texts = [*run_options_of(prepared), *(line for name in STARTS for line in lines_of(prepared, name))]
    if not any(STORAGE_VARIABLE in text for text in texts):
        yield Finding(
            "docker.run_options",
            "no storage that all nodes share, so a trial cannot go on on another node",
            "take in the lines marked `storage: nfs` or `storage: s3`",
        )


def _note_image(prepared: Mapping[str, Any]) -> Iterator[Finding]:
    if prepared["provider"]["type"] != "aws":
        return
    for name, kind in prepared["available_node_types"].items():
        if kind["resources"].get("GPU") and not kind["node_config"].get("ImageId"):
            yield Finding(
                f"available_node_types.{name}.node_config.ImageId",
                "not set; Ray takes one of 2023, whose driver is too old for CUDA 13",
                "docs/how-to/ray-up.md has the command that finds one for your region",
            )


def _note_ssh(prepared: Mapping[str, Any]) -> Iterator[Finding]:
    configs = [kind["node_config"] for kind in prepared["available_node_types"].values()]
    is_aws = prepared["provider"]["type"] == "aws"
    if is_aws and not all("SecurityGroupIds" in config for config in configs):
        yield Finding(
            "available_node_types.*.node_config.SecurityGroupIds",
            "not set; the group that Ray makes lets all the world knock at port 22",
            "name a group of your own to keep SSH to your network",
        )
