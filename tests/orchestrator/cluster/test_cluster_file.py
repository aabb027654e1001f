from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli.app import execute
from orchestrator.cluster.cluster_commands import COMMAND_FIELDS, commands_of
from orchestrator.cluster.cluster_file import check_cluster, read_cluster
from trainables.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[3]
SHIPPED = PROJECT / "cluster.yaml"


def with_block(name: str) -> str:
    """The shipped file with a commented block in place of that of AWS, as a user would edit it."""
    blocks: dict[str, list[str]] = {}
    current = blocks.setdefault("start", [])
    for line in SHIPPED.read_text().splitlines():
        if line.startswith("# ---- "):
            current = blocks.setdefault(line.strip("# -"), [])
        else:
            current.append(line)
    chosen = [line[1:] for line in blocks[name] if line.startswith("#") and not is_remark(line)]
    return "\n".join([*blocks["start"], *chosen, *blocks["everywhere"]])


def is_remark(line: str) -> bool:
    return line.startswith("# ") and not line.startswith("#  ")


def with_storage(kind: str) -> str:
    ending = f" # storage: {kind}"
    lines = SHIPPED.read_text().splitlines()
    return "\n".join(
        line.replace("#- ", "- ").removesuffix(ending) if line.endswith(ending) else line for line in lines
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(PROJECT / "constraints.txt", tmp_path)
    return tmp_path


def check(folder: Path, text: str) -> tuple[list[str], list[str]]:
    path = folder / "cluster.yaml"
    path.write_text(text)
    found = check_cluster(path)
    return [str(problem) for problem in found.problems], [note.where for note in found.notes]


def test_the_shipped_file_has_no_problem() -> None:
    assert check_cluster(SHIPPED).problems == ()


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        (with_block("gcp"), "provider.type", "gcp"),
        (with_block("local"), "provider.type", "local"),
        (with_storage("nfs"), "docker.run_options", "--volume=/mnt/clip:/mnt/clip"),
        (with_storage("s3"), "docker.run_options", "--env=CLIP_ORCHESTRATOR_STORAGE=s3://BUCKET/clip"),
    ],
    ids=["gcp", "local", "nfs", "s3"],
)
def test_each_alternative_in_the_shipped_file_has_no_problem(
    folder: Path, text: str, key: str, value: str
) -> None:
    section, field = key.split(".")
    found = yaml.safe_load(text)[section][field]
    assert value == found or value in found  # it was taken in
    problems, notes = check(folder, text)
    assert problems == []
    assert ("docker.run_options" in notes) == (section == "provider")  # without shared storage it says so


def test_the_alternatives_differ_in_nothing_else_but_their_own_sections() -> None:
    sections = {"provider", "auth", "available_node_types", "head_node_type"}
    aws, gcp, local = (
        yaml.safe_load(text) for text in (SHIPPED.read_text(), with_block("gcp"), with_block("local"))
    )
    assert set(aws) == set(gcp)
    assert set(aws) - set(local) == {"available_node_types", "head_node_type"}  # Ray allows none there
    assert {k: v for k, v in aws.items() if k not in sections} == {
        k: v for k, v in gcp.items() if k not in sections
    }


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets a field, or removes it where the value is none."""
    *parents, last = path.split(".")

    def apply(config: dict[str, Any]) -> None:
        for parent in parents:
            config = config[parent]
        if value is None:
            del config[last]
        else:
            config[last] = value

    return apply


HEAD_START = "head_start_ray_commands"
START = "RAY_AUTH_MODE=token ray start --head --num-cpus=0 --dashboard-host=127.0.0.1"
OPEN_RULE = {"FromPort": 8265, "ToPort": 8265, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("cluster_name", None, ["cluster_name: missing", "unique identifier"]),
        ("cluster_nam", "x", ["cluster_nam: no such field", "did you mean 'cluster_name'?"]),
        ("max_workers", "four", ["max_workers: 'four'", "integer"]),
        ("available_node_types.head.resource", {}, ["head.resource: no such", "'resources'"]),
        ("head_node_type", "chief", ["provider.type=aws", "head_node_type"]),
        ("provider", {"type": "local"}, ["provider.type=local", "available_node_types"]),
        ("provider", {"type": "cloud"}, ["provider.type=cloud", "Unsupported node provider"]),
        ("idle_timeout_minutes", None, ["idle_timeout_minutes: missing", "write 10"]),
        (HEAD_START, ["ray start --head"], ["head_start_ray_commands[0]", "RAY_AUTH_MODE=token"]),
        (HEAD_START, ["export RAY_AUTH_MODE=disabled; ray start"], ["RAY_AUTH_MODE=disabled", "=token"]),
        (HEAD_START, ["ray stop"], ["head_start_ray_commands: no command starts Ray"]),
        (HEAD_START, [START.replace("127.0.0.1", "0.0.0.0")], ["--dashboard-host: 0.0.0.0", "127.0.0.1"]),
        (HEAD_START, ["RAY_AUTH_TOKEN=abc " + START], ["head_start_ray_commands: a token on a command line"]),
        (HEAD_START, None, ["head_start_ray_commands[1]", "RAY_AUTH_MODE=token"]),  # Ray's own default
        ("docker.run_options", ["--env=RAY_AUTH_TOKEN=abc"], ["docker.run_options: a token", "auth_token"]),
        ("docker.run_options", ["-p 8265:8265"], ["docker.run_options[0]: -p 8265:8265"]),
        ("docker.head_image", "rayproject/ray", ["docker.head_image", "no version", "2.60.0"]),
        ("docker.head_image", "rayproject/ray:latest-py311", ["docker.head_image", "no version"]),
        ("docker.head_image", "rayproject/ray:2.59.0-py311", ["docker.head_image: Ray 2.59.0", "2.60.0"]),
        ("docker.head_image", "rayproject/ray:2.60.0-py310", ["docker.head_image: Python 3.10", "py311"]),
        ("docker.head_image", "rayproject/ray:2.60.0-py312", ["Python 3.11 and 3.12", "use one"]),
        ("file_mounts", {"~/.ray/auth_token": "x"}, ["~/clip-orchestrator/constraints.txt", "file_mounts"]),
        ("setup_commands", ["true", "pip install ray"], ["setup_commands[1] (pip install ray)"]),
        ("setup_commands", ["python -m pip install -U 'ray[default]==2.50.0'"], ["not the tested", "2.60.0"]),
        ("setup_commands", ["true"], ["setup_commands: other users can read the token", "chmod 600"]),
        ("head_setup_commands", None, ["head_setup_commands[0] (pip install boto3>="]),  # Ray's own default
        ("available_node_types.head.resources", {"CPU": 4}, ["head.resources.CPU: 4: trials may run on"]),
        ("available_node_types.head.resources", {}, ["head.resources.CPU: missing", "write 0"]),
        ("available_node_types.head.max_workers", 2, ["available_node_types.head.max_workers: 2"]),
        ("available_node_types.gpu_worker.max_workers", 0, ["no worker may start"]),
        ("provider.security_group", {"IpPermissions": [OPEN_RULE]}, ["[0]", "0.0.0.0/0", "8265"]),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_what_to_write(
    folder: Path, path: str, value: Any, expected: list[str]
) -> None:
    config: dict[str, Any] = copy.deepcopy(read_cluster(SHIPPED))
    change(path, value)(config)
    problems, _ = check(folder, yaml.safe_dump(config))
    assert any(all(part in problem for part in expected) for problem in problems), problems
    assert all(": " in problem and "; " in problem for problem in problems)


def test_a_local_cluster_whose_head_takes_trials_is_refused(folder: Path) -> None:
    problems, _ = check(folder, with_block("local").replace(" --num-cpus=0", ""))
    assert [
        problem
        for problem in problems
        if "trials may run on the head" in problem and "--num-cpus=0" in problem
    ]


def test_every_problem_is_said_at_once(folder: Path) -> None:
    config = read_cluster(SHIPPED)
    for field in ("idle_timeout_minutes", "file_mounts"):
        del config[field]
    config["docker"]["head_image"] = "rayproject/ray"
    problems, _ = check(folder, yaml.safe_dump(config))
    for where in ("idle_timeout_minutes", "file_mounts", "docker.head_image", "setup_commands[1]"):
        assert [problem for problem in problems if problem.startswith(where)], (where, problems)


def test_commands_are_found_behind_variables_exports_and_other_commands() -> None:
    lines = ["ulimit -n 9; A=1 /opt/ray start --head --port 6379", "export A=2 && true && B=3 ray stop"]
    first, start, true, stop = commands_of({"head_start_ray_commands": lines}, "head_start_ray_commands")
    assert (first.words, true.words) == (("ulimit", "-n", "9"), ("true",))
    assert start.runs("ray", "start")
    assert (dict(start.variables), start.option("--port")) == ({"A": "1"}, "6379")
    assert (dict(stop.variables), stop.where) == ({"A": "2", "B": "3"}, "head_start_ray_commands[1]")


def test_defaults_of_ray_are_looked_at_where_the_file_is_silent() -> None:
    prepared = check_cluster(SHIPPED).config
    assert all(name in prepared for name in COMMAND_FIELDS)
    assert prepared["worker_setup_commands"] == prepared["setup_commands"]


def test_the_command_says_what_it_found(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    text = SHIPPED.read_text()
    Path("cluster.yaml").write_text(text)
    assert execute(["cluster", "check"]) == 0
    assert "cluster.yaml can be used" in capsys.readouterr().out
    Path("cluster.yaml").write_text(text.replace("idle_timeout_minutes: 10", "idle_timeout_minute: 10"))
    assert execute(["cluster", "check", "--json"]) == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [problem["where"] for problem in problems] == ["idle_timeout_minute"]
    assert execute(["cluster", "check"]) == 2
    assert "did you mean 'idle_timeout_minutes'?" in capsys.readouterr().err
    assert execute(["cluster", "k8s", "--image", "x:1"]) == 2
    assert "idle_timeout_minute" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: !!python/object:os.system x"])
def test_what_is_no_cluster_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"cluster\.yaml"):
        check_cluster(path)
    with pytest.raises(ConfigError, match="no such file"):
        check_cluster(tmp_path / "other.yaml")
