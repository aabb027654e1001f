"""Rules for cluster files that Ray does not check, such as open ports, versions, or trials on the head."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
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
HEAD_STARTS, WORKER_STARTS = STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
_RAY_IMAGE = re.compile(r"(?:.*/)?ray:(?P<ray>\d+\.\d+\.\d+)(?:-py(?P<major>\d)(?P<minor>\d+))?(?:-.*)?")
_PUBLISHED = re.compile(r"(?:-p|--publish)(?:[ =](?P<what>.*))?$")


@dataclass(frozen=True)
class PreparedFile:
    """A cluster file that Ray's schema accepts, completed with Ray's defaults.

    Attributes:
        config: values of the file.
        folder: folder of the file. Paths of mounted files are relative to this folder.
    """

    config: Mapping[str, Any]
    folder: Path

    @cached_property
    def commands(self) -> list[Command]:
        """The simple commands of all shell lines in the file."""
        return [command for name in COMMAND_FIELDS for command in commands_of(self.config, name)]

    def starts(self, name: str) -> list[Command]:
        """Returns the `ray start` commands of one field."""
        return [each for each in self.commands if each.is_in(name) and each.runs("ray", "start")]

    @cached_property
    def docker(self) -> Mapping[str, Any]:
        """The section `docker`; empty if the file has none."""
        return self.config.get("docker") or {}

    @cached_property
    def run_options(self) -> list[str]:
        """The options of `docker run` for each container."""
        options: list[Any] = self.docker.get("run_options") or []
        return [str(option) for option in options]

    @cached_property
    def mounts(self) -> dict[str, str]:
        """The files that are copied to every node: path on the node → path on this machine."""
        mounts: dict[str, Any] = self.config.get("file_mounts") or {}
        return {remote: str(local) for remote, local in mounts.items()}

    @cached_property
    def pinned(self) -> dict[str, str]:
        """The version of each package in the first `constraints.txt` that is mounted."""
        for local in self.mounts.values():
            path = self.folder / Path(local).expanduser()
            if path.name == "constraints.txt" and path.is_file():
                lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
                return {
                    name.lower(): version for name, _, version in (line.partition("==") for line in lines)
                }
        return {}

    @property
    def provider(self) -> Mapping[str, Any]:
        """The section `provider`, which describes the cloud."""
        return self.config["provider"]

    @property
    def types(self) -> Mapping[str, Any]:
        """The node types, by name."""
        return self.config["available_node_types"]


def problems(file: PreparedFile) -> Iterator[Finding]:
    """Yields all problems that must be solved before a cluster is started."""
    for rule in (_token, _head, _ports, _packages, _images, _ray_version):
        yield from rule(file)


def notes(file: PreparedFile) -> Iterator[Finding]:
    """Yields findings that only the user can judge."""
    for rule in (_note_token, _note_storage, _note_image, _note_ssh):
        yield from rule(file)


def _token(file: PreparedFile) -> Iterator[Finding]:
    """Checks that every `ray start` uses a token, from a file that only the user can read."""
    for name in STARTS:
        if not file.starts(name):
            yield Finding(name, "no command starts Ray", "write `RAY_AUTH_MODE=token ray start …`")
        for command in file.starts(name):
            mode = command.variables.get("RAY_AUTH_MODE")
            if mode != "token":
                found = "missing" if mode is None else f"RAY_AUTH_MODE={mode}"
                mend = "write `RAY_AUTH_MODE=token` before `ray start`"
                yield Finding(f"{command.where} (`ray start`)", found, mend)
    texts = {name: lines_of(file.config, name) for name in COMMAND_FIELDS}
    for name, lines in (texts | {"docker.run_options": file.run_options}).items():
        if any("RAY_AUTH_TOKEN=" in line for line in lines):
            found = "a token on a command line, which every process can read"
            yield Finding(name, found, f"mount {TOKEN_FILE} instead")
    if not any(remote.endswith(TOKEN_FILE) for remote in file.mounts):
        yield Finding(
            "file_mounts", "no token is copied to the nodes", f'add "~/{TOKEN_FILE}": "~/{TOKEN_FILE}"'
        )
    protects = (each.words for each in file.commands if each.runs("chmod", "600"))
    if not any(word.endswith(TOKEN_FILE) for words in protects for word in words):
        yield Finding("setup_commands", "other users can read the token", f"add `chmod 600 ~/{TOKEN_FILE}`")


def _head(file: PreparedFile) -> Iterator[Finding]:
    """Checks that trials do not run on the head: if the head fails, all drivers end."""
    if file.provider["type"] == "local":  # this provider has no node types
        if any(command.option("--num-cpus") != "0" for command in file.starts(HEAD_STARTS)):
            yield Finding(HEAD_STARTS, "trials may run on the head", "add --num-cpus=0 to `ray start`")
        return
    name = file.config["head_node_type"]
    head, where = file.types[name], f"available_node_types.{name}"
    for resource in ("CPU", "GPU"):
        amount = head.get("resources", {}).get(resource)
        if amount or (resource == "CPU" and amount is None):
            found = "missing: all cores" if amount is None else f"{amount}: trials may run on the head"
            yield Finding(f"{where}.resources.{resource}", found, "write 0")
    if most := head.get("max_workers"):
        yield Finding(f"{where}.max_workers", str(most), "write 0, as there is one head")
    if not any(kind.get("max_workers") for other, kind in file.types.items() if other != name):
        yield Finding("available_node_types", "no worker may start", "set `max_workers: 4` for one type")


def _ports(file: PreparedFile) -> Iterator[Finding]:
    """Checks that the dashboard listens on loopback, and that no port is open to the world."""
    for command in file.commands:
        host = command.option("--dashboard-host")
        if command.runs("ray", "start") and host is not None and host not in LOOPBACK_HOSTS:
            mend = "write 127.0.0.1, and open the dashboard with `ray dashboard cluster.yaml`"
            yield Finding(f"{command.where} --dashboard-host", host, mend)
    for number, rule in enumerate(file.provider.get("security_group", {}).get("IpPermissions", [])):
        where, text = f"provider.security_group.IpPermissions[{number}]", json.dumps(rule, default=str)
        for network in (network for network in EVERYWHERE if f'"{network}"' in text):
            found = f"{network} may reach port {rule.get('FromPort', 'any')}"
            yield Finding(where, found, "name your own network, such as 203.0.113.0/24")
    for number, option in enumerate(file.run_options):
        match = _PUBLISHED.match(option)
        if match and not (match["what"] or "").startswith("127.0.0.1:"):
            mend = "remove this option: Ray's containers use the host's network"
            yield Finding(f"docker.run_options[{number}]", option, mend)


def _packages(file: PreparedFile) -> Iterator[Finding]:
    """Checks that the constraints file fixes the version of every package."""
    for command in file.commands:
        for name in (files := command.pip_files()):
            local = file.mounts.get(name)
            if local is None or not (file.folder / Path(local).expanduser()).is_file():
                found = "is not among file_mounts" if local is None else f"{local}: no such file"
                mend = f'add "{name}": "constraints.txt" to file_mounts'
                yield Finding(f"{command.where} ({name})", found, mend)
        for package in command.pip_packages():
            if not files and "==" not in package:
                mend = "add --constraint with constraints.txt, or ==VERSION"
                yield Finding(f"{command.where} (pip install {package})", "no version", mend)


def _images(file: PreparedFile) -> Iterator[Finding]:
    """Checks that images have a version, and that images of Ray have the tested version."""
    ray = file.pinned.get("ray")
    images = {f"docker.{name}": file.docker.get(name) for name in ("image", "head_image", "worker_image")}
    for name, kind in file.types.items():
        where = f"available_node_types.{name}.docker.worker_image"
        images[where] = kind.get("docker", {}).get("worker_image")
    images = {where: image for where, image in images.items() if image}
    for where, image in images.items():
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and (not tag or tag.startswith(("latest", "nightly"))):
            yield Finding(where, f"{image} has no version", f"write rayproject/ray:{ray or 'VERSION'}-py311")
        elif match := _RAY_IMAGE.fullmatch(image):
            if ray and match["ray"] != ray:
                yield Finding(
                    where, f"Ray {match['ray']}", f"constraints.txt has {ray}: write the same version"
                )
            python = (int(match["major"]), int(match["minor"])) if match["major"] else None
            if python is None or python < LEAST_PYTHON:
                found = "the tag names no Python" if python is None else f"Python {python[0]}.{python[1]}"
                yield Finding(where, found, "write -py311 or newer, the same on head and workers")
    pythons = {match["minor"] for image in images.values() if (match := _RAY_IMAGE.fullmatch(image))}
    if len(pythons) > 1:
        yield Finding(
            "docker", f"images of Python 3.{' and 3.'.join(sorted(map(str, pythons)))}", "use one version"
        )


def _ray_version(file: PreparedFile) -> Iterator[Finding]:
    """Checks that commands with `pip install ray==…` install the tested version."""
    for command in file.commands:
        for word in command.pip_packages():
            match = re.fullmatch(r"ray(?:\[.*\])?==(.+)", word)
            if match and match[1] != file.pinned.get("ray", match[1]):
                mend = f"constraints.txt has {file.pinned['ray']}"
                yield Finding(f"{command.where} ({word})", "not the tested version", mend)


def _note_token(file: PreparedFile) -> Iterator[Finding]:
    for remote, local in file.mounts.items():
        if remote.endswith(TOKEN_FILE) and not Path(local).expanduser().is_file():
            yield Finding(f"file_mounts.{remote}", f"there is no {local} on this machine", MAKE_TOKEN)


def _note_storage(file: PreparedFile) -> Iterator[Finding]:
    texts = [*file.run_options, *(line for name in STARTS for line in lines_of(file.config, name))]
    if not any(STORAGE_VARIABLE in text for text in texts):
        found = "no storage that all nodes share, so no trial can resume on another node"
        yield Finding("docker.run_options", found, "use the lines marked `storage: nfs` or `storage: s3`")


def _note_image(file: PreparedFile) -> Iterator[Finding]:
    for name, kind in file.types.items() if file.provider["type"] == "aws" else ():
        if kind["resources"].get("GPU") and not kind["node_config"].get("ImageId"):
            yield Finding(
                f"available_node_types.{name}.node_config.ImageId",
                "not set; Ray uses an image of 2023, whose driver is too old for CUDA 13",
                "docs/cluster.md has the command that finds one for your region",
            )


def _note_ssh(file: PreparedFile) -> Iterator[Finding]:
    configs = [kind["node_config"] for kind in file.types.values()]
    if file.provider["type"] == "aws" and not all("SecurityGroupIds" in config for config in configs):
        yield Finding(
            "available_node_types.*.node_config.SecurityGroupIds",
            "not set; the group that Ray makes opens port 22 to the world",
            "name your own security group, which allows SSH only from your network",
        )
