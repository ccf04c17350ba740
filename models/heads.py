"""The heads in PyTorch: they map the vectors that a task reads to logits.

ClassificationHead   [CLS] → dense, activation → linear      classify, pair (next sentence too)
MaskedTokenHead      [MASK] → dense, GELU, LayerNorm → tied decoder + its own bias     fill-mask
TokenHead            token → linear                          tag (tags), qa (start, end)
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.architectures import Activation
from models.config import EncoderConfig
from models.encoder import initialize
from models.task import TaskName

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "gelu": F.gelu, "relu": F.relu}


class ClassificationHead(nn.Module):
    """Pooler (dense + activation; tanh in BERT) and a linear layer: vectors [n, H] → logits [n, labels]."""

    def __init__(self, config: EncoderConfig, labels: int, activation: Activation = "tanh") -> None:
        super().__init__()
        self.activation = activation
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, labels)
        self.apply(lambda module: initialize(module, config.initializer_range))

    def forward(self, vectors: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(ACTIVATIONS[self.activation](self.pooler(vectors))))
        return logits


class MaskedTokenHead(nn.Module):
    """Transform and the tied decoder: vectors [n, H] → logits [n, vocabulary].

    `embedding` is the encoder's word embedding: the same Parameter object, never a copy (run_pretraining.py:245-264).
    """

    def __init__(self, config: EncoderConfig, embedding: nn.Embedding) -> None:
        super().__init__()
        self.transform = nn.Linear(config.hidden_size, config.embedding_width)
        self.norm = nn.LayerNorm(config.embedding_width, eps=config.layer_norm_eps)
        self.apply(lambda module: initialize(module, config.initializer_range))
        self.decoder = embedding
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, vectors: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.transform(vectors))), self.decoder.weight, self.bias)


class TokenHead(nn.Module):
    """One linear layer: vectors [n, H] → logits [n, tags], or [n, 2] (start, end) for qa."""

    def __init__(self, config: EncoderConfig, labels: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, labels)
        initialize(self.classifier, config.initializer_range)

    def forward(self, vectors: Tensor) -> Tensor:
        logits: Tensor = self.classifier(vectors)
        return logits


def build_head(
    task: TaskName, labels: int, config: EncoderConfig, embedding: nn.Embedding, activation: Activation = "tanh"
) -> nn.Module:
    """Return a new head for `task`, with random weights.

    `embedding` is the encoder's word embedding, which fill-mask shares; `activation` is used by classify and pair.
    """
    if task == "fill-mask":
        return MaskedTokenHead(config, embedding)
    if task in ("tag", "qa"):
        return TokenHead(config, 2 if task == "qa" else labels)
    return ClassificationHead(config, labels, activation)


def activation_of(head: nn.Module) -> Activation | None:
    """Return the activation of a classifier; None for other heads."""
    return head.activation if isinstance(head, ClassificationHead) else None
