"""LoRA adapters on an encoder: target modules, a check that adapters have an effect, files, precision."""
