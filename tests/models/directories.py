"""Directories as users of transformers have them: a random network with its tokenizer, and changes to their files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification

from models.bundle import Bundle
from models.session import Session
from models.task_registry import TASKS
from models.tokenizer import Tokenizer
from tests.models import tiny

LABELS = ["bad", "so-so", "good"]
TAGS = ["O", "B-PER", "I-PER"]
OUTPUTS = {
    BertForSequenceClassification: LABELS,
    BertForTokenClassification: TAGS,
    BertForQuestionAnswering: ["start", "end"],
}
Weights = dict[str, torch.Tensor]


def save(kind: Any, tokenizer: Tokenizer, directory: Path, **changes: Any) -> Path:
    """Write a random model whose biases show too, and its tokenizer."""
    configuration = tiny.config(tokenizer, OUTPUTS.get(kind, []))
    configuration.update(changes)
    model = tiny.random_model(kind, configuration)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory)
    tiny.their_tokenizer(tokenizer, directory)
    return directory


def rewrite(directory: Path, change: Callable[[Weights], Weights]) -> None:
    weights = change(load_file(directory / "model.safetensors"))
    clones = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
    save_file(clones, directory / "model.safetensors", {"format": "pt"})


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


def only_vocabulary(directory: Path, tokens: list[str]) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink(missing_ok=True)
    (directory / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), "utf8")
    return directory


def entries(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.token(i) for i in range(tokenizer.vocab_size)]


def answer(bundle: Bundle, name: str, inputs: Any, **given: Any) -> Any:
    """What a head of a bundle answers to one input, as the service would."""
    head = bundle.manifest.heads[name]
    task = TASKS[head.task](bundle.tokenizer, head.spec, bundle.manifest.encoder.max_length)
    parameters = task.parse_parameters(given)
    encoded = task.encode(inputs, parameters)
    logits = Session(bundle).run([(name, row) for row in encoded.rows])
    return task.decode(encoded, np.concatenate(logits), parameters)
