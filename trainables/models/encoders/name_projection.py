"""Computes the projection of `lite0-minilm` before training, which maps images to names of ImageNet classes.

Zero-shot scores need a map from pooled features to text space. ConSE (Norouzi et al. 2014) averages the text
embeddings of the classes that the ImageNet classifier predicts. This map is not linear, but adapters need a
linear projection. The projection is therefore chosen so that the products of an image embedding with the text
embeddings of the class names give the classifier's logits. This is a ridge regression over the 1000 classes
(the text half of ESZSL, Romera-Paredes and Torr 2015). It uses no image, so all data sets, folds and trials
have the same initial projection.
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
# For 75 crops of three photographs, the nearest name is the classifier's class in 45 % of cases, and among
# the ten nearest in 87 %. Linear fits of ConSE reach 3-16 %; chance is 0.1 %.
RIDGE = 0.01  # relative to the mean variance of the names' coordinates
LOGIT = 0.05  # how far one logit moves an embedding away from the mean name


def name_projection(lite0: Any, text: SentenceEncoder, *, weights: object, store: Path | None) -> nn.Linear:
    """Returns the projection from pooled features [B, 1280] to text space [B, 384].

    Embedding the class names takes seconds, so the result is saved in `store` under the identity of the
    `weights` of both encoders.
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
    by_length = sorted(range(len(prompts)), key=lambda k: len(prompts[k]))  # little padding
    embeddings = torch.empty(len(prompts), text.width)
    for chunk in torch.tensor(by_length).split(50):
        embeddings[chunk] = text(text.tokenize([prompts[k] for k in chunk.tolist()]))
    return embeddings


def solve(names: Tensor, classifier: nn.Linear) -> nn.Linear:
    """Returns the projection whose products with `names` [K, D] best fit the classifier's logits.

    Names and logits are centred over the classes, because a common part does not separate classes. The bias
    is the mean name, so that image embeddings start near the texts.
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
