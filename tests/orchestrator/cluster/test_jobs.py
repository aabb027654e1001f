"""Sweeps as jobs of a real Ray head with token authentication, on 127.0.0.1 alone."""

import json
import os
import shutil
import stat
import sys
import threading
import time
from pathlib import Path

import pytest
from printed import without_progress
from ray_head import BIN, PROJECT, Head, running_head

from orchestrator.cli.app import execute
from orchestrator.cluster import jobs
from orchestrator.cluster.gcs_client import check_token
from orchestrator.cluster.jobs import MAX_BYTES, job_address, job_variables, pack, plain_text_host
from orchestrator.results.leaderboard import leaderboard
from orchestrator.storage.ledger import read_ledger
from trainables.errors import ClusterError, ConfigError

SPACE = """
name: tiny
fixed:
  data.dataset: phantom
  data.phantom.num_train: 24
  data.phantom.num_val: 12
  data.phantom.num_test: 12
  data.num_views: 1
  encoder.name: lite0-minilm
  encoder.image_size: 32
  adapt.method: lora
  lora.towers: image
  lora.num_blocks: 1
  loss.kind: multi_positive
  global_batch_size: 12
  num_epochs: 1
parameters:
  lora.rank: {choice: [4]}
search: {searcher: grid}
"""
ORCHESTRATOR = (sys.executable, "-m", "orchestrator")


@pytest.mark.parametrize(
    ("address", "expected"),
    [(None, "http://127.0.0.1:8265"), ("http://head:8265/", "http://head:8265"), ("https://h", "https://h")],
)
def test_addresses_of_a_dashboard(address, expected, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # of a sweep
    assert job_address(address) == expected


def test_the_dashboard_that_ray_is_told_of_is_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://a:8265")
    assert job_address(None) == "http://a:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://b:8265")
    assert job_address(None) == "http://b:8265"
    assert job_address("http://c:8265") == "http://c:8265"


@pytest.mark.parametrize(
    "address",
    ["head:8265", "ray://head:10001", "os://x", "http://", "http://u:p@head", "http://h/x", "http://h:x"],
)
def test_no_other_address_is_taken(address: str):
    """Ray would import a module of the scheme's name."""
    with pytest.raises(ConfigError, match="use http://HOST:8265"):
        job_address(address)


def test_only_named_variables_go_along(monkeypatch: pytest.MonkeyPatch):
    for name in ("MINE", "OTHER", "CLIP_ORCHESTRATOR_HOME"):
        monkeypatch.setenv(name, name.lower())
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    expected = {"MINE": "mine", "CLIP_ORCHESTRATOR_HOME": "clip_orchestrator_home"}
    assert job_variables(["MINE"]) == expected


def test_neither_tokens_nor_passwords_go_along(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    with pytest.raises(ConfigError, match="secrets are not sent"):
        job_variables(["RAY_AUTH_TOKEN"])
    with pytest.raises(ConfigError, match="this variable is not set"):
        job_variables(["NO_SUCH_VARIABLE"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow")
    with pytest.raises(ConfigError, match="contains a password") as refused:
        job_variables([])
    assert "secret" not in str(refused.value)


def test_a_job_takes_code_and_recipes_along_and_nothing_else(tmp_path: Path):
    project = tmp_path / "project"
    for name in (
        "orchestrator/sweep.py",
        "orchestrator/__pycache__/sweep.pyc",
        "trainables/models/structures.json",
        "trainables/notes.parquet",
        "search_spaces/demo.yaml",
        "pyproject.toml",
        ".env",
        ".git/config",
        "data/image.py",
        "tests/test.py",
    ):
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (project / "trainables" / "linked.json").symlink_to(project / ".env")
    space = tmp_path / "mine.yaml"
    space.write_text("mine")
    assert pack(space, tmp_path / "packed", project=project) == "search_spaces/mine.yaml"
    packed = {str(path.relative_to(tmp_path / "packed")) for path in (tmp_path / "packed").rglob("*.*")}
    assert packed == {
        "orchestrator/sweep.py",
        "trainables/models/structures.json",
        "search_spaces/demo.yaml",
        "search_spaces/mine.yaml",
        "pyproject.toml",
    }


def test_too_much_to_take_along_is_refused_and_named(tmp_path: Path):
    (tmp_path / "trainables").mkdir()
    with (tmp_path / "trainables" / "all_of_it.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ConfigError, match=r"The largest file is trainables/all_of_it.json \(20 MB\)"):
        pack(None, tmp_path / "packed", project=tmp_path)
    assert not (tmp_path / "packed").exists()


def test_this_code_is_packed_as_it_can_be_imported(tmp_path: Path):
    assert pack(None, tmp_path) is None
    assert (tmp_path / "orchestrator" / "cli" / "jobs.py").is_file()
    assert (tmp_path / "trainables" / "models" / "encoders" / "structures.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--wrkers", "2"], "No such option: --wrkers"),
        (["dmo"], "did you mean 'demo'?"),
        (["demo", "--set", "lora.rnk=3"], "did you mean 'lora.rank'?"),
        (["--set", "lora.rank=4", "demo"], "the search space comes first, for example: submit demo"),
        (["demo", "--out", "plan.json", "--plan"], "the job would write this file on the cluster"),
        (["--from-plan", "plan.json"], "make and run it on the head node"),
    ],
)
def test_what_sweep_would_refuse_is_never_sent(arguments, message, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "JobServer", None)  # would fail, if it were asked
    assert execute(["submit", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_token_file_of_ours_becomes_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(ClusterError, match=r"needs a token, and .* RAY_AUTH_TOKEN_PATH"):
        check_token("head:6379")
    (tmp_path / "token").write_text("0123")
    (tmp_path / "token").chmod(0o644)
    check_token("head:6379")
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_an_unencrypted_way_is_said_before_the_token_goes_it(capsys, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []

    def connect(*_: object):
        said.extend(capsys.readouterr().err.splitlines()[-1:])
        raise ClusterError("that is far enough")

    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setattr(jobs, "check_port", lambda _: None)
    monkeypatch.setattr(jobs.JobServer, "_call", connect)
    for verb in (["submit", "demo"], ["jobs", "list"], ["jobs", "logs", "x"], ["jobs", "stop", "x"]):
        assert execute([*verb, "--address", "http://head:8265"]) == 2
    assert said == ["the token is sent to head unencrypted; safer: ssh -L 8265:127.0.0.1:8265 head"] * 4


def test_only_plain_http_over_a_network_is_unencrypted():
    assert plain_text_host("http://10.0.0.7:8265") == "10.0.0.7"
    for address in ("https://head", "http://127.0.0.1:8265", "http://localhost:1", "http://[::1]:8265"):
        assert plain_text_host(address) is None


@pytest.fixture(scope="module")
def head():
    with running_head() as found:
        (found.folder / "tiny.yaml").write_text(SPACE)
        yield found


class Onlooker(threading.Thread):
    """Reads every command line on this machine, again and again, as `ps` shows them to everybody."""

    def __init__(self):
        super().__init__(daemon=True)
        self.is_over = threading.Event()
        self.seen: set[bytes] = set()

    def run(self):
        while not self.is_over.wait(0.2):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:
                    continue


@pytest.fixture(scope="module")
def done(head: Head):
    """The same space three times: on a Ray of our own, by `submit`, and by Ray's own command line."""
    onlooker = Onlooker()
    onlooker.start()
    clone = make_clone(head)
    where = ("--address", head.url)
    local = head.run(
        *ORCHESTRATOR, "sweep", "tiny.yaml", "--name", "local", variables={"CLIP_ORCHESTRATOR_HOME": "here"}
    )
    ours = head.run(*ORCHESTRATOR, "submit", "tiny.yaml", "--name", "ours", *where, "--follow")
    command = ["python", "-m", "orchestrator", "sweep", "tiny", "--name", "theirs"]
    submit = (str(BIN / "ray"), "job", "submit", *where, "--working-dir", str(clone), "--")
    theirs = head.run(*submit, *command, variables={"RAY_AUTH_MODE": "token"})
    onlooker.is_over.set()
    onlooker.join()
    return {"local": local, "ours": ours, "theirs": theirs, "seen": onlooker.seen}


def make_clone(head: Head) -> Path:
    """As a clone lies on a disk after `make setup` and some work, with one more space."""
    clone = head.folder / "clone"
    for name in ("orchestrator", "trainables", "search_spaces"):
        shutil.copytree(PROJECT / name, clone / name)
    for name in ("pyproject.toml", ".rayignore", ".gitignore"):
        shutil.copy(PROJECT / name, clone / name)
    shutil.copy(head.folder / "tiny.yaml", clone / "search_spaces" / "tiny.yaml")
    for name in (".git/objects/pack", ".venv/bin/python3", "data/image.png", "tests/test.py"):
        (clone / name).parent.mkdir(parents=True)
        (clone / name).write_text("stays at home")
    return clone


def sweep_of(head: Head, name: str):
    home = head.folder / "here" if name == "local" else head.home / ".clip-orchestrator"
    return read_ledger(home / "sweeps" / name)


@pytest.mark.ray
@pytest.mark.slow
class TestSweepsAsJobs:
    @pytest.mark.parametrize("name", ["local", "ours", "theirs"])
    def test_each_ends_well(self, done, head: Head, name: str):
        assert done[name].returncode == 0, done[name].stdout + done[name].stderr
        assert sweep_of(head, name).finished.exit_code == 0

    @pytest.mark.parametrize("name", ["ours", "theirs"])
    def test_a_job_has_the_leaderboard_of_a_local_sweep(self, done, head: Head, name: str):
        expected, found = (json.loads(leaderboard(sweep_of(head, who)).to_json()) for who in ("local", name))
        assert [row["name"] for row in found["rows"]] == [row["name"] for row in expected["rows"]]
        assert len(expected["rows"]) >= 2
        local = {trial.name: trial.metrics for trial in sweep_of(head, "local").trials.values()}
        for trial in sweep_of(head, name).trials.values():
            science = {key: value for key, value in trial.metrics.items() if not key.startswith("perf/")}
            assert len(science) > 10
            # Two steps, on the same kernels: what memory has room for may cut the batch another way.
            assert science == {key: pytest.approx(local[trial.name][key], abs=1e-4) for key in science}

    def test_what_it_prints_is_followed(self, done):
        assert "cluster at 127.0.0.1:" in done["ours"].stdout
        assert "2 of 2 trials" in done["ours"].stdout
        assert "job raysubmit_" in done["ours"].stderr

    def test_neither_history_nor_environment_nor_data_are_uploaded(self, done, head: Head):
        packages = list(head.folder.glob("ray/session_2*/runtime_resources/working_dir_files/_ray_pkg_*"))
        folders = [path for path in packages if path.is_dir()]
        assert len(folders) == 2
        for folder in folders:
            assert (folder / "orchestrator" / "driver" / "sweep.py").is_file()
            assert not {".git", ".venv", "data", "tests"} & {path.name for path in folder.iterdir()}

    def test_jobs_are_listed_and_their_logs_shown(self, done, head: Head):
        listed = head.run(*ORCHESTRATOR, "jobs", "list", "--json", "--address", head.url)
        found = json.loads(listed.stdout)
        assert [(job["status"], job["exit_code"]) for job in found[:2]] == [("SUCCEEDED", 0)] * 2
        logs = head.run(*ORCHESTRATOR, "jobs", "logs", found[0]["job_id"], "--address", head.url)
        assert logs.stdout in done["ours"].stdout + "\n"
        unknown = head.run(*ORCHESTRATOR, "jobs", "logs", found[0]["job_id"] + "x", "--address", head.url)
        assert unknown.returncode == 2
        assert f"did you mean '{found[0]['job_id']}'" in unknown.stderr

    def test_follow_leaves_with_the_exit_status_of_the_driver(self, head: Head):
        job = head.run(*ORCHESTRATOR, "submit", "--resume", "none", "--address", head.url, "--follow")
        assert job.returncode == 2  # of `sweep` over there
        assert "error: " in job.stdout
        assert "'none'" in job.stdout

    @pytest.mark.faults
    def test_a_job_that_is_stopped_can_be_resumed(self, head: Head):
        longer = ("--set", "num_epochs=200", "--name", "stopped")
        submitted = head.run(*ORCHESTRATOR, "submit", "tiny.yaml", *longer, "--address", head.url)
        job_id = submitted.stdout.split()[1]
        ledger = head.home / ".clip-orchestrator" / "sweeps" / "stopped"
        until = time.monotonic() + 120
        while time.monotonic() < until and not has_placed(ledger):
            time.sleep(0.2)
        stopped = head.run(*ORCHESTRATOR, "jobs", "stop", job_id, "--address", head.url)
        assert f"asked job {job_id} to end" in stopped.stdout
        followed = head.run(*ORCHESTRATOR, "jobs", "logs", job_id, "--follow", "--address", head.url)
        assert followed.returncode == 130
        assert "Resume: python -m orchestrator sweep --resume stopped" in followed.stdout
        state = sweep_of(head, "stopped")
        assert (state.finished.exit_code, state.finished.is_cut_short) == (143, True)
        assert not state.is_complete


def has_placed(folder: Path) -> bool:
    return folder.is_dir() and any(b"trial_placed" in path.read_bytes() for path in folder.glob("ledger/*"))


@pytest.mark.ray
@pytest.mark.slow
class TestWhoHasNoToken:
    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/api/version"), ("GET", "/api/jobs/"), ("POST", "/api/jobs/"), ("GET", "/nodes")],
    )
    def test_is_refused_by_the_dashboard(self, head: Head, method: str, path: str):
        assert head.ask(path, token=None, method=method) == 401
        assert head.ask(path, token="0" * 64, method=method) == 403

    def test_a_page_in_a_browser_starts_no_job(self, head: Head):
        """As after a rebound DNS name: the page's script reaches 127.0.0.1, and says so in its headers."""
        page = {
            "User-Agent": "Mozilla/5.0 Firefox/140.0",
            "Origin": "http://evil.example",
            "Host": "evil.example",
        }
        assert head.ask("/api/jobs/", token=None, method="POST", **page) in (401, 405)
        assert head.ask("/api/jobs/", token=head.token, method="POST", **page) == 405

    @pytest.mark.parametrize("how", ["sweep", "submit"])
    def test_gets_one_message_and_starts_nothing(self, head: Head, how: str):
        where = head.address if how == "sweep" else head.url
        command = (*ORCHESTRATOR, how, "tiny.yaml", "--name", "refused", "--address", where)
        none = head.run(*command, variables={"RAY_AUTH_TOKEN_PATH": ""})
        wrong = head.run(*command, variables={"RAY_AUTH_TOKEN": "0" * 64})
        for found, said in ((none, "needs a token"), (wrong, "refuses this token")):
            assert found.returncode == 2
            assert said in found.stderr
            assert len(without_progress(found.stderr).splitlines()) == 1
        assert not (head.home / ".clip-orchestrator" / "sweeps" / "refused").exists()

    def test_never_sees_one(self, done, head: Head):
        secret = head.token.encode()
        assert stat.S_IMODE(head.token_file.stat().st_mode) == 0o600
        assert not [line for line in done["seen"] if secret in line]  # `ps`
        told = [done[name].stdout + done[name].stderr for name in ("local", "ours", "theirs")]
        told.append(head.run(*ORCHESTRATOR, "jobs", "list", "--json", "--address", head.url).stdout)
        assert not [text for text in told if head.token in text]
        # Logs, ledgers, packages and MLflow's database, of the cluster and of its users.
        files = [path for path in head.folder.rglob("*") if path.is_file() and path != head.token_file]
        assert any(path.name == "mlflow.db" for path in files)
        assert any("jobs" in path.name or "job-driver" in path.name for path in files)
        assert not [path for path in files if secret in path.read_bytes()]

    def test_finds_nothing_of_it_in_what_the_cluster_tells_of_jobs(self, done, head: Head):
        import urllib.request

        request = urllib.request.Request(
            head.url + "/api/jobs/", headers={"Authorization": f"Bearer {head.token}"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            told = answer.read().decode()
        assert "raysubmit_" in told
        assert head.token not in told


@pytest.mark.ray
@pytest.mark.slow
def test_the_head_listens_on_this_machine_alone(head: Head):
    from toy_sweep import LOOPBACK, descendants, listening

    found = listening(descendants(os.getpid()))
    assert found
    assert found <= set(LOOPBACK)
