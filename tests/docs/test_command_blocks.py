"""The command blocks of the tutorial and the how-to guides, run as they stand where they need no download.

- A block marked `<!-- run -->` runs. The blocks of a page share a folder.
- The marker may hold options that are appended to each command to keep it small. `tiny` and `tiny-data` stand
  for the options below.
- The marker may also hold the allowed exit codes: `<!-- run: exit 0 or 1 -->`.
- A block marked `<!-- file: NAME -->` is written to a file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROJECT = Path(__file__).resolve().parents[2]
DOCS = PROJECT / "docs"
BLOCK = re.compile(r"<!-- (run|file)(?:: (.*?))? -->\n```\w+\n(.*?)```", re.DOTALL)
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "<!-- run" in page.read_text()]
TINY_DATA = "--set encoder.image_size=32 --set data.phantom.num_train=60 --set data.phantom.num_val=30 "
TINY_DATA += "--set data.phantom.num_test=30"
TINY = f"{TINY_DATA} --set num_epochs=1 --trials 1"
SWEPT = "example"

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


class Shell:
    """Runs commands as a reader would, in an empty folder beside a private home."""

    def __init__(self, folder: Path, home: Path, images: Path) -> None:
        self.folder = folder
        self.words = {"FOLDER": str(images), "NAME": SWEPT, "DIR": str(folder / "dir")}
        (folder / "dir").mkdir(parents=True)
        for shared in ("search_spaces", "cluster.yaml", "constraints.txt"):
            (folder / shared).symlink_to(PROJECT / shared)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {
            "PATH": path,
            "PYTHONPATH": str(PROJECT),
            "CLIP_ORCHESTRATOR_HOME": str(home),
            "HF_HUB_OFFLINE": "1",
        }
        for variable in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "CLIP_ORCHESTRATOR_STORAGE"):
            self.environment.pop(variable, None)

    def run(self, command: str, *, allowed: tuple[int, ...] = (0,)) -> str:
        for word, value in self.words.items():
            command = re.sub(rf"\b{word}\b", value, command)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in allowed, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest: 60 images of 30 patients; the classes differ in brightness."""
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    lines = ["path,label,patient_id"]
    for number in range(60):
        label = number // 2 % 3
        pixels = noise.integers(0, 160, (64, 64)) + 30 * label
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")
        lines.append(f"{number:02}.png,{('COVID-19', 'Non-COVID', 'Normal')[label]},p{number // 2}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A home with one small sweep in it, which the how-to guides call NAME."""
    home = tmp_path_factory.mktemp("home")
    shell = Shell(tmp_path_factory.mktemp("first") / "cwd", home, images)
    shell.run(f"python -m orchestrator sweep demo --name {SWEPT} {TINY}")
    return home


def blocks_of(page: Path) -> list[tuple[str, str, str]]:
    """Returns the marked blocks as (kind, what the marker says, text)."""
    text = page.read_text()
    found = BLOCK.findall(text)
    assert len(found) == len(
        re.findall(r"^<!-- (?:run|file)", text, re.MULTILINE)
    )  # none is cut off from its block
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_blocks_run(page: Path, tmp_path: Path, home: Path, images: Path) -> None:
    shell = Shell(tmp_path / "cwd", home, images)
    for kind, more, text in blocks_of(page):
        if kind == "file":
            (shell.folder / more).write_text(text)
            continue
        exits = re.fullmatch(r"exit (\d) or (\d)", more)
        allowed = tuple(int(code) for code in exits.groups()) if exits else (0,)
        options = "" if exits else more.replace("tiny-data", TINY_DATA).replace("tiny", TINY)
        for command in text.strip().splitlines():
            shell.run(f"{command} {options}", allowed=allowed)
