"""The shape of an encoder, under the names of Hugging Face's `config.json`."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from models.errors import CheckpointError

# The only values that our encoder supports; with any other, a checkpoint would load without error but answer nonsense.
FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute"}
SAME = {"hidden_act": ("gelu_python",)}
"""Other names for the same value."""
ABSENT = {
    "is_decoder": "an encoder",
    "add_cross_attention": "an encoder",
    "quantization_config": "the weights as they were before they were quantized",
}
"""Settings that would make a different network, and what to pass instead."""
MIN_VALUES = {
    "vocab_size": 1,
    "hidden_size": 1,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 1,
    "max_position_embeddings": 1,
    "type_vocab_size": 2,
}
"""The minimum of each size; a pair needs two segments."""


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and constants of a BERT encoder (Devlin et al., 2018); the defaults are BERT-base."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    pad_token_id: int = 0
    embedding_size: int | None = None
    """Width of the embeddings, which are projected to `hidden_size` (ELECTRA); None if it equals `hidden_size`."""
    trained_length: int | None = None
    """Tokens of the longest training row; None if unknown."""

    def __post_init__(self) -> None:
        for name, least in MIN_VALUES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise CheckpointError(f"{name} is {value!r}, expected a whole number from {least} on; correct it")
        if not isinstance(self.layer_norm_eps, float | int) or not 0 < self.layer_norm_eps < 1:
            raise CheckpointError(f"layer_norm_eps is {self.layer_norm_eps!r}, expected a small number such as 1e-12")
        if self.embedding_size is not None and not (isinstance(self.embedding_size, int) and self.embedding_size > 0):
            raise CheckpointError(
                f"embedding_size is {self.embedding_size!r}, expected a whole number from 1 on; correct it"
            )
        if self.hidden_size % self.num_attention_heads:
            raise CheckpointError(
                f"hidden_size is {self.hidden_size}, which {self.num_attention_heads} attention heads do not divide; "
                "choose a multiple of num_attention_heads"
            )
        trained, positions = self.trained_length, self.max_position_embeddings
        if trained is not None and not (isinstance(trained, int) and 1 <= trained <= positions):
            raise CheckpointError(
                f"trained_length is {trained!r}, expected a whole number from 1 to {positions} as there are positions; "
                "correct it, or leave it out"
            )

    @property
    def max_length(self) -> int:
        """Maximum tokens of a row: embeddings of positions beyond the training rows are untrained."""
        return self.trained_length or self.max_position_embeddings

    @property
    def embedding_width(self) -> int:
        """Width of the word, position and segment tables."""
        return self.embedding_size or self.hidden_size

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str = "config.json") -> Self:
        """Read a config.json with BERT's names; raise CheckpointError for an unsupported network."""
        for key, expected in FIXED.items():
            found = values.get(key, expected)
            if found != expected and found not in SAME.get(key, ()):
                raise CheckpointError(f"{origin}: {key} is {found!r}, expected {expected!r}; pass such a checkpoint")
        for key, remedy in ABSENT.items():
            if values.get(key):
                raise CheckpointError(f"{origin}: {key} is {str(values[key])[:80]}, expected none; pass {remedy}")
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known and value is not None})

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `config.json`, without `architectures` and `model_type`."""
        values = FIXED | asdict(self)
        return {key: value for key, value in values.items() if value is not None}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a checkpoint's file; raise CheckpointError, which names the file."""
    try:
        values = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; pass a directory with {path.name}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); restore the file") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, expected a JSON object; restore the file")
    return values
