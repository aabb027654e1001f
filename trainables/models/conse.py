"""The joint space of `lite0-minilm` before any training: ConSE, made linear (arXiv:1312.5650).

ConSE (Norouzi et al. 2014) puts an image into text space as the mean of the text embeddings of the classes
that an ImageNet classifier believes in. That is not linear, and adapters need a projection that trains, so a
ridge regression stands in for it. It is fitted on pooled features drawn around the classifier's own class
prototypes, so the projection depends on no image and is the same for every data set, fold and trial: frozen
rows and adapted rows share one start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.artifacts import build_once, fingerprint
from trainables.models.dual import SentenceEncoder

FILE = "projection.safetensors"
NUM_BELIEVED = 10  # classes that ConSE averages over
NUM_DRAWS = 6_000
RIDGE = 1e-2  # relative to the mean variance of a feature


def conse_projection(lite0: Any, text: SentenceEncoder, *, weights: object, store: Path | None) -> nn.Linear:
    """Returns the projection from pooled features [B, 1280] to text space [B, 384].

    Args:
        lite0: with its classifier and its last BatchNorm, before folding.
        text: encodes the class names, which takes seconds.
        weights: what identifies both, plainly.
        store: keeps the result; None computes it every time.
    """
    if store is None:
        return _fit(lite0, text)
    folder = build_once(
        store / "projections" / fingerprint("conse", weights), lambda aside: _save(_fit(lite0, text), aside)
    )
    tensors = load_file(folder / FILE)
    projection = nn.Linear(tensors["weight"].shape[1], tensors["weight"].shape[0])
    projection.load_state_dict(tensors)
    return projection


def _save(projection: nn.Linear, folder: Path) -> None:
    save_file({name: tensor.detach() for name, tensor in projection.state_dict().items()}, folder / FILE)


@torch.no_grad()
def _fit(lite0: Any, text: SentenceEncoder) -> nn.Linear:
    features = draw_features(lite0)
    targets = conse(lite0.classifier(features), class_embeddings(text))
    return ridge(features, targets)


def draw_features(lite0: Any) -> Tensor:
    """Returns plausible pooled features [NUM_DRAWS, 1280] of natural images, from the weights alone.

    Their mean follows from the last BatchNorm, whose shift and scale are the mean and spread of the
    activations before ReLU6. Around it, a class's features lie along its row of the classifier (neural
    collapse, Papyan et al. 2020, PNAS 117(40), property NC3): each draw mixes three classes, at a random
    exposure, with non-negative noise.
    """
    random = torch.Generator().manual_seed(0)
    norm, rows = lite0.bn2, lite0.classifier.weight
    before = norm.bias + norm.weight * torch.randn(4096, 1, generator=random)
    mean = before.clamp(0, 6).mean(0)
    directions = nn.functional.normalize(rows - rows.mean(0), dim=-1)
    mixture = torch.zeros(NUM_DRAWS, len(rows))
    classes = torch.randint(len(rows), (NUM_DRAWS, 3), generator=random)
    mixture.scatter_add_(1, classes, 6 * torch.rand(NUM_DRAWS, 3, generator=random))
    exposure = 0.5 + 2 * torch.rand(NUM_DRAWS, 1, generator=random)
    noise = 0.3 * torch.randn(NUM_DRAWS, rows.shape[1], generator=random).abs()
    return (exposure * mean + mixture @ directions + noise).clamp(min=0)


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


def conse(logits: Tensor, classes: Tensor) -> Tensor:
    """Returns ConSE embeddings [B, D]: the ten most probable classes', weighted by probability."""
    top = logits.softmax(-1).topk(NUM_BELIEVED)
    weights = top.values / top.values.sum(-1, keepdim=True)
    return torch.einsum("bk,bkd->bd", weights, classes[top.indices])


def ridge(features: Tensor, targets: Tensor) -> nn.Linear:
    """Returns the linear map of least squares with an L2 penalty on its weights, solved in float64."""
    x, y = features.double(), targets.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x / len(x)
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, x.T @ y / len(x)).T
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight.copy_(weight)
    linear.bias.copy_(y_mean - weight @ x_mean)
    return linear
