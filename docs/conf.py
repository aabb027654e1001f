"""How Sphinx builds the documentation: `make docs`."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

project = "clip-orchestrator"
html_title = "clip-orchestrator"
html_theme = "furo"
html_copy_source = False
extensions = ["myst_parser"]
myst_heading_anchors = 3
nitpicky = True
linkcheck_anchors = False


def setup(app: Sphinx) -> None:
    """Has the generated pages written before any page is read."""
    from generate import write_pages

    app.connect("builder-inited", lambda _: write_pages(HERE / "reference" / "generated"))
