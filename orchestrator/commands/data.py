"""`data`: look at a data set before anything is trained on it."""

from __future__ import annotations

import typer

from orchestrator.commands.options import JsonOption, SetOption, out, print_json

app = typer.Typer(help="Look at a data set before anything is trained on it.", no_args_is_help=True)


@app.command()
def prepare(overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Decode every image once, at the size that the encoder wants."""
    from orchestrator.fields import build_trial, read_overrides
    from orchestrator.home import store
    from trainables.data.cache import open_image_cache
    from trainables.data.datasets import load_dataset
    from trainables.models.registry import preprocessing_of

    config = build_trial(read_overrides(overrides or []), where="--set")
    dataset, preprocessing = load_dataset(config.data), preprocessing_of(config.encoder)
    cache = open_image_cache(dataset, preprocessing, store())
    prepared = {
        "num_images": len(cache),
        "size": preprocessing.size,
        "folder": str(store() / "images" / cache.fingerprint),
    }
    if as_json:
        print_json(prepared)
    else:
        out.print(
            "{num_images} images at {size} px in {folder}".format(**prepared), soft_wrap=True, highlight=False
        )
