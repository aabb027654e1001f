"""Runs `toy_sweep.py` as a driver of its own: started, waited for, killed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
STARTED: list[subprocess.Popen] = []
"""The drivers of the test that runs; `conftest` kills those that it leaves."""


SMALL = {
    "data.phantom.num_train": 12,
    "data.phantom.num_val": 6,
    "data.phantom.num_test": 6,
    "encoder.image_size": 32,
    "adapt.method": "lora",
    "num_epochs": 2,
}


def space_of(*ranks: int, **blocks) -> dict:
    parameters = {"lora.rank": {"choice": list(ranks)}}
    return {"name": "toy", "fixed": SMALL, "parameters": parameters, "search": {"searcher": "grid"}} | blocks


def plain_environment() -> dict[str, str]:
    """Returns this process's variables without what it set for a Ray of its own: a token, how Tune works."""
    own = ("RAY_", "TUNE_")
    return {k: v for k, v in os.environ.items() if k == "RAY_TMPDIR" or not k.startswith(own)}


def start_driver(
    home: Path, space: dict, *, within: Sequence[str] = (), variables: dict | None = None, **options
) -> subprocess.Popen:
    """`within`: a command that runs the driver as its last argument, in another environment."""
    environment = plain_environment() | (variables or {})
    environment |= {"CLIP_ORCHESTRATOR_HOME": str(home), "PYTHONPATH": f"{HERE.parents[1]}:{HERE}"}
    arguments = [json.dumps(space), json.dumps({"trainable": "toy_trainable:toy"} | options)]
    driver = subprocess.Popen(
        [*within, sys.executable, str(HERE / "toy_sweep.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        cwd=home.parent,
        start_new_session=True,
    )
    STARTED.append(driver)
    return driver


def run_driver(home: Path, space: dict, **options) -> dict:
    driver = start_driver(home, space, **options)
    out, err = driver.communicate(timeout=500)
    assert driver.returncode == 0, err
    assert err == ""  # Ray, Tune and the trainable print; nothing of it reaches the terminal
    return json.loads(out)  # as above: one line of JSON is all there is


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists() and cmdline(pid)]


def cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def wait_for(condition, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)
    return bool(condition())
