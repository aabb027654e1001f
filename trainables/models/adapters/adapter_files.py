"""The files of a trained adapter: PEFT's files, the projection, and a record of the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.artifacts import about as read_about
from trainables.artifacts import atomic_directory, verify
from trainables.errors import ConfigError
from trainables.models.adapters.adaptation import Adaptation
from trainables.models.encoders.dual_encoder import DualEncoder
from trainables.models.torchvision_import import import_peft

PEFT_WEIGHTS, PEFT_SETTINGS, EXTRA = "adapter_model.safetensors", "adapter_config.json", "extra.safetensors"
PEFT_PREFIX = "base_model.model."  # the prefix that PeftModel adds to the names of the wrapped model


def save_adapter(
    encoder: DualEncoder, adaptation: Adaptation, folder: Path, *, about: dict[str, Any]
) -> None:
    """Writes the folder of an adapter atomically.

    `adapter_model.safetensors` and `adapter_config.json` are PEFT's, relative to `encoder.adapter_root`;
    `extra.safetensors` holds the other trained tensors and the logit scale; `about.json` names its encoder.

    `about` contains what predict and export need (classes, prompts); the facts of the encoder are added.
    """
    with atomic_directory(folder) as aside:
        if adaptation.targets:
            root: Any = encoder.adapter_root
            weights = import_peft().get_peft_model_state_dict(root)
            save_file(
                {PEFT_PREFIX + name: _stored(tensor) for name, tensor in weights.items()},
                aside / PEFT_WEIGHTS,
            )
            root.peft_config["default"].save_pretrained(aside)
        extra = {name: p for name, p in adaptation.parameters.items() if ".lora_" not in name}
        extra["log_logit_scale"] = encoder.log_logit_scale
        save_file({name: _stored(parameter) for name, parameter in extra.items()}, aside / EXTRA)
        facts = {
            **about,
            "encoder": encoder.name,
            "encoder_fingerprint": encoder.fingerprint,
            "precision": str(encoder.dtype).removeprefix("torch."),
            "preprocessing": encoder.preprocessing.model_dump(mode="json"),
            "method": adaptation.method,
        }
        (aside / "about.json").write_text(json.dumps(facts, indent=1, sort_keys=True))


def load_adapter(encoder: DualEncoder, folder: Path) -> None:
    """Loads an adapter from a folder into an encoder; attaches adapters first if the encoder has none."""
    verify(folder)
    facts = read_about(folder)
    precision = str(encoder.dtype).removeprefix("torch.")
    if facts.get("encoder_fingerprint") != encoder.fingerprint:
        raise ConfigError(
            f"Adapter {folder.name} was trained on {facts.get('encoder')} "
            f"({facts.get('encoder_fingerprint')}, {facts.get('precision', 'float32')}); this run loads "
            f"{encoder.name} ({encoder.fingerprint}, {precision}). Load the matching encoder, image size and "
            "encoder.precision, or retrain."
        )
    if (folder / PEFT_WEIGHTS).is_file():
        _load_peft(encoder, folder)
    parameters = dict(encoder.named_parameters())
    parameters["log_logit_scale"] = encoder.log_logit_scale
    with torch.no_grad():
        for name, tensor in load_file(folder / EXTRA).items():
            parameters[name].copy_(tensor)


def _load_peft(encoder: DualEncoder, folder: Path) -> None:
    peft, root = import_peft(), encoder.adapter_root
    if not hasattr(root, "peft_config"):
        peft.inject_adapter_in_model(peft.PeftConfig.from_pretrained(folder, local_files_only=True), root)
    tensors = {name.removeprefix(PEFT_PREFIX): t for name, t in load_file(folder / PEFT_WEIGHTS).items()}
    expected = {name: tensor.shape for name, tensor in peft.get_peft_model_state_dict(root).items()}
    if expected != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ConfigError(
            f"Adapter {folder.name} has other modules or another rank than the adapters on this encoder; "
            "load it onto a fresh encoder or use the configuration it was trained with"
        )
    peft.set_peft_model_state_dict(root, tensors)


def _stored(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
