"""Small random networks of transformers, run on our rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertConfig, BertTokenizer, PreTrainedConfig, PreTrainedModel

from models.row import Row
from models.tokenizer import Tokenizer

Model = TypeVar("Model", bound=PreTrainedModel)


def config(tokenizer: Tokenizer, labels: Sequence[str] = ()) -> BertConfig:
    """A network of two small layers, with weights wide enough that its scores differ."""
    return BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.5,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )


def random_model(kind: type[Model], configuration: PreTrainedConfig) -> Model:
    """Random weights, the same in each run, without dropout."""
    torch.manual_seed(0)
    model = kind(configuration)
    torch.nn.Module.eval(model)
    return model


def their_tokenizer(tokenizer: Tokenizer, directory: Path) -> BertTokenizer:
    tokenizer.write(directory)
    theirs: BertTokenizer = BertTokenizer.from_pretrained(directory)
    return theirs


@torch.inference_mode()
def run(model: PreTrainedModel, rows: Sequence[Row]) -> NDArray[np.float32]:
    """Logits of all positions of all rows, in order, as a head would give them."""
    return np.concatenate([_row_logits(model, row) for row in rows])


def _row_logits(model: PreTrainedModel, row: Row) -> NDArray[np.float32]:
    outputs = model(torch.tensor([row.input_ids]), token_type_ids=torch.tensor([row.token_type_ids]))
    if "start_logits" in outputs:
        logits = torch.stack([outputs.start_logits[0], outputs.end_logits[0]], dim=-1)
    else:
        logits = outputs.logits[0]
    if logits.ndim == 1:  # a classifier, which has read [CLS] already
        return logits[None].numpy()
    return logits[row.positions].numpy()
