"""The joint space of `lite0-minilm` before any training: images find their ImageNet classes by name.

Zero-shot recognition needs a map from pooled features into text space. ConSE (Norouzi et al. 2014) averages
the text embeddings of the classes that the ImageNet classifier believes in, which is not linear, while
adapters need a projection that trains. So the projection asks for the same thing linearly: text embeddings of
the class names, multiplied with an image's embedding, shall give the classifier's logits back. That is a
ridge regression over the 1000 classes (the text half of ESZSL, Romera-Paredes and Torr 2015) and depends on
no image, so frozen and adapted rows of every data set, fold and trial share one start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.artifacts import build_once, fingerprint
from trainables.models.encoders.dual import SentenceEncoder

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.

FILE = "projection.safetensors"
# Of 75 crops of three photographs, 45 % have the classifier's own class as the nearest name, 87 % among the
# ten nearest; linear fits of ConSE itself reach 3-16 %. Chance: 0.1 %.
RIDGE = 0.01  # relative to the mean variance of the names' coordinates
LOGIT = 0.05  # how far one logit moves an embedding away from the mean name


def name_projection(lite0: Any, text: SentenceEncoder, *, weights: object, store: Path | None) -> nn.Linear:
    """Returns the projection from pooled features [B, 1280] to text space [B, 384].

    The class names take seconds to embed; `store` keeps the result under what identifies the `weights` of
    both.
    """
    if store is None:
        return _fit(lite0, text)
    key = fingerprint("name projection", weights, RIDGE, LOGIT)
    folder = build_once(store / "projections" / key, lambda aside: _save(_fit(lite0, text), aside))
    tensors = load_file(folder / FILE)
    projection = nn.Linear(tensors["weight"].shape[1], tensors["weight"].shape[0])
    projection.load_state_dict(tensors)
    return projection


def _save(projection: nn.Linear, folder: Path) -> None:
    save_file({name: tensor.detach() for name, tensor in projection.state_dict().items()}, folder / FILE)


@torch.no_grad()
def _fit(lite0: Any, text: SentenceEncoder) -> nn.Linear:
    return solve(class_embeddings(text), lite0.classifier)


def class_embeddings(text: SentenceEncoder) -> Tensor:
    """Returns embeddings of "a photo of a {class name}" of ImageNet's classes [1000, D], unit length."""
    from timm.data import ImageNetInfo

    names = ImageNetInfo().label_descriptions(detailed=False)
    prompts = [f"a photo of a {name.split(',')[0]}" for name in names]
    by_length = sorted(range(len(prompts)), key=lambda k: len(prompts[k]))  # hardly any padding
    embeddings = torch.empty(len(prompts), text.width)
    for chunk in torch.tensor(by_length).split(50):
        embeddings[chunk] = text(text.tokenize([prompts[k] for k in chunk.tolist()]))
    return embeddings


def solve(names: Tensor, classifier: nn.Linear) -> nn.Linear:
    """Returns the projection whose products with `names` [K, D] come nearest to the classifier's logits.

    Names and logits are centred over the classes: what all share tells nothing apart. The mean name is added
    as the bias, so that embeddings start among the texts.
    """
    mean = names.double().mean(0)
    centred = names.double() - mean
    covariance = centred.T @ centred / len(centred)
    covariance.diagonal().add_(RIDGE * covariance.diagonal().mean())
    onto_names = LOGIT * torch.linalg.solve(covariance, centred.T / len(centred))  # [D, K]
    weight, bias = classifier.weight.double(), classifier.bias.double()
    projection = nn.Linear(weight.shape[1], names.shape[1])
    projection.weight.copy_(onto_names @ (weight - weight.mean(0)))
    projection.bias.copy_(mean + onto_names @ (bias - bias.mean()))
    return projection
