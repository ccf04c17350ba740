"""The cost of a request: characters to tokenize, tokens to encode, logits to keep and to decode."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from models.row import Encoded
from service.errors import FieldError, Unprocessable
from service.queue import Logits

if TYPE_CHECKING:
    from service.inference import Call

MAX_ANSWERED = 4_000_000
"""Maximum tokens of input text that an answer may repeat: about 20 MB."""


class Size:
    """Sums the tokens of one request; raises Unprocessable as soon as they exceed a limit."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.tokens = self.answered = 0

    def add(self, tokens: int, answered: int) -> None:
        """Count an input's tokens, and the tokens of text that its answer repeats."""
        self.tokens += tokens
        self.answered += answered
        if self.tokens > self.max_tokens:
            message = f"makes more than {self.max_tokens} tokens, windows included, which is the limit; send less"
        elif self.answered > MAX_ANSWERED:
            message = f"asks for more than {MAX_ANSWERED} tokens of text; send fewer texts, or lower top_k"
        else:
            return
        raise Unprocessable([FieldError("inputs", message)])


def all_texts(calls: Sequence["Call"]) -> list[str]:
    return [text for call in calls for item in call.inputs for text in texts_of(item)]


def count_characters(calls: Sequence["Call"]) -> int:
    """Return the number of characters that must be tokenized."""
    return sum(map(len, all_texts(calls))) + sum(call.parameters.characters for call in calls)


def texts_of(item: Any) -> list[str]:
    """Return the texts of one input: itself, its words, or the fields of its model."""
    if isinstance(item, str):
        return [item]
    return item if isinstance(item, list) else [getattr(item, name) for name in type(item).model_fields]


def count_tokens(item: Encoded[Any]) -> int:
    return sum(len(row.input_ids) for row in item.rows)


def count_decoded(call: "Call", encoded: list[Encoded[Any]], logits: list[Logits]) -> int:
    """Return the cost of decoding, in logits; a token counts as ten."""
    answered = sum(call.task.answer_tokens(item, call.parameters) for item in encoded)
    return sum(each.size for each in logits) + 10 * sum(map(count_tokens, encoded)) + answered


def count_logits(calls: Sequence["Call"], encoded: Sequence[list[Encoded[Any]]]) -> int:
    return sum(
        call.head.width * sum(len(row.positions) for item in of_call for row in item.rows)
        for call, of_call in zip(calls, encoded, strict=True)
    )
