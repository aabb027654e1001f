"""The BERT text towers of medical dual encoders, with a pooling for each encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import EncoderConfig
from trainables.errors import ConfigError, WeightsUnavailable
from trainables.models.encoder_spec import EncoderSpec
from trainables.models.encoders.dual_encoder import Tokens
from trainables.models.files.state_dicts import Shapes, numbered
from trainables.models.files.weights import VOCABULARY, how_to_get, is_here, part_file
from trainables.models.torchvision_import import declare_missing_operators

# Imports inside functions: only encoders of this library need it, and torchvision must be ready first.

HEAD_WIDTH = 64
UNUSED = ("position_ids", "pooler.")  # a buffer of old releases, and layers that our poolings do not use

Pool = Callable[[tuple[Tensor, ...], Tensor], Tensor]
"""Function of the states [B, L, width] of the embeddings and after each layer, and the mask [B, L, 1]."""


def class_token(states: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """Returns the last state of the first token."""
    del mask
    return states[-1][:, 0]


def mean_of_three(states: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """Returns the mean over the first, second and last layer, and over the tokens without padding (MedCLIP).

    The authors also average over padding, so a prompt's embedding depends on the lengths of other prompts.
    This function returns their result for a single prompt.
    """
    mean = torch.stack([states[1], states[2], states[-1]]).mean(0)
    return (mean * mask).sum(1) / mask.sum(1)


def sum_of_four(states: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """Returns the sum of the last four layers over all tokens (GLoRIA, which adds word pieces to words).

    The authors divide by 97 positions, which makes no difference at unit length.
    """
    return (torch.stack(states[-4:]).sum(0) * mask).sum(1)


class BertText(nn.Module):
    """A BERT with its vocabulary. Without a vocabulary, the model cannot encode texts."""

    def __init__(
        self,
        model: Any,
        pool: Pool,
        *,
        tokenizer: Any,
        max_length: int,
        clean: Callable[[str], str],
        reason: str,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.pool = pool
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.clean = clean
        self.reason = reason

    @property
    def width(self) -> int:
        """Returns the length of a pooled state."""
        return self.model.config.hidden_size

    def tokenize(self, texts: list[str]) -> Tokens:
        """Returns tokens padded to the longest text."""
        if self.tokenizer is None:
            raise WeightsUnavailable(self.reason)
        cleaned = [self.clean(text) for text in texts]
        encoded = self.tokenizer(
            cleaned, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return Tokens(encoded["input_ids"], encoded["attention_mask"])

    def forward(self, tokens: Tokens) -> Tensor:
        """Returns pooled states [B, width]."""
        states = self.model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True
        ).hidden_states
        return self.pool(states, tokens.attention_mask.unsqueeze(-1).to(states[-1].dtype))


def build_bert(
    shapes: Shapes,
    config: EncoderConfig,
    spec: EncoderSpec,
    pool: Pool,
    *,
    num_words: int,
    max_length: int,
    clean: Callable[[str], str] = str,
) -> BertText:
    """Builds a BERT with random weights; `shapes` give width and depth (default: BERT-base)."""
    declare_missing_operators()
    from transformers import BertConfig, BertModel

    num_words, width = shapes.get("embeddings.word_embeddings.weight", (num_words, 768))
    model = BertModel(
        BertConfig(
            vocab_size=num_words,
            hidden_size=width,
            num_hidden_layers=numbered(shapes, "encoder.layer.") or 12,
            num_attention_heads=max(1, width // HEAD_WIDTH),
            intermediate_size=shapes.get("encoder.layer.0.intermediate.dense.bias", (4 * width,))[0],
            max_position_embeddings=shapes.get("embeddings.position_embeddings.weight", (512,))[0],
        ),
        add_pooling_layer=False,
    )
    return BertText(
        model,
        pool,
        tokenizer=read_vocabulary(config, spec, num_words=num_words),
        max_length=min(max_length, model.config.max_position_embeddings),
        clean=clean,
        reason=f"{config.name}: no vocabulary on this machine; {'; '.join(how_to_get(config.name, spec))}",
    )


def read_vocabulary(config: EncoderConfig, spec: EncoderSpec, *, num_words: int) -> Any:
    """Returns the tokenizer of an encoder's `vocab.txt`, or None if the file is not on this machine.

    All texts are lower-cased, also for ClinicalBERT's cased vocabulary: its repository does not specify the
    case, so the authors of the encoders trained with lower-casing, the default of transformers.
    """
    if not is_here(config.name, VOCABULARY):
        return None
    from transformers import BertTokenizer

    file = part_file(config.name, spec, VOCABULARY)
    words = file.read_text(encoding="utf-8").splitlines()
    if len(words) != num_words:
        raise ConfigError(
            f"{config.name}: its vocabulary has {len(words):,} words, its weights were trained with "
            f"{num_words:,}; get the vocabulary of {spec.vocabulary}"
        )
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)}, do_lower_case=True)
