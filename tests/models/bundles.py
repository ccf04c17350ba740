"""A small random checkpoint with a head of every task, and bundles of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.architectures import NSP_LABELS
from models.bundle import Bundle
from models.checkpoint import Checkpoint, Head
from models.config import EncoderConfig
from models.encoder import Encoder
from models.heads import build_head
from models.onnx_runtime import Precision
from models.row import Row
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from training.exporting.export import ExportOptions, export
from training.parity.evidence import TEXTS

HEADS = {
    "sentiment": HeadSpec("classify", ["negative", "positive"], {"top_k": 1}, 1.5),
    "nli": HeadSpec("pair", ["entailment", "neutral", "contradiction"]),
    "nsp": HeadSpec("pair", NSP_LABELS),
    "ner": HeadSpec("tag", ["O", "B-PER", "I-PER"]),
    "qa": HeadSpec("qa", []),
    "fill-mask": HeadSpec("fill-mask", []),
}
ANY_LOSS = 100.0
"""A budget in points: random weights choose among near equals, so that int8 often chooses another."""


def checkpoint(
    tokenizer: Tokenizer, heads: dict[str, HeadSpec] | None = None, config: EncoderConfig | None = None
) -> Checkpoint:
    """Two layers of 32, weights wide enough that logits differ; the encoder has ids that the tokenizer lacks."""
    torch.manual_seed(0)
    config = config or EncoderConfig(
        vocab_size=tokenizer.vocab_size + 7,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    encoder = Encoder(config)
    made = Checkpoint(config, encoder, tokenizer)
    for name, spec in (heads or HEADS).items():
        made.heads[name] = Head(spec, build_head(spec.task, len(spec.labels), config, encoder.embeddings.word))
    for module in (encoder, *(head.module for head in made.heads.values())):
        shake(module)
    return made


def shake(module: nn.Module) -> None:
    """Move biases and LayerNorms off their start, where a forgotten one would not show."""
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.2)


ALL_TEXTS = dict(TEXTS)


@contextmanager
def few_texts() -> Iterator[None]:
    """Let exports compare logits on a tenth of the texts: enough where no test judges the comparison."""
    with pytest.MonkeyPatch.context() as patched:
        for task, count in ALL_TEXTS.items():
            patched.setitem(TEXTS, task, count // 10)
        yield


def make(tokenizer: Tokenizer, directory: Path, precisions: tuple[Precision, ...]) -> Bundle:
    options = ExportOptions("tiny", precisions=precisions, budget=ANY_LOSS)
    with few_texts():
        return export(checkpoint(tokenizer), directory, options)


def random_row(bundle: Bundle, generator: np.random.Generator, length: int) -> Row:
    """A row of ordinary tokens that reads up to five of its columns."""
    ids = generator.integers(5, bundle.tokenizer.vocab_size, length).tolist()
    columns = generator.permutation(length)[: generator.integers(1, 6)]
    return Row(ids, [int(column > length // 2) for column in range(length)], sorted(columns.tolist()))
