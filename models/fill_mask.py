"""Fills the masks of a text. The head reads only the masked positions, so only these are scored.

Answers are those of Hugging Face's fill-mask: a list for one mask, a list of lists for several masks. Each mask is
scored alone, and the others stay masked in `sequence`. Two rules are stricter: a target must be a single token of the
vocabulary, and texts are never cut.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, with_config
from typing_extensions import TypedDict

from models.errors import InputError
from models.row import Encoded
from models.task import ANSWER, Logits, Scores, Strict, Task
from models.tokenizer import MASK

MAX_CHOICES = 1000
# Maximum of top_k times masks: the answer repeats the whole text for each choice.
MAX_SEQUENCES = 5000
MAX_CHARACTERS = 100  # of a target
BLOCK = 64
"""Number of columns in a block of `_best`."""
Best = tuple[NDArray[np.int64], Scores]
"""Tokens, best first, and their probabilities."""


class FillMaskParameters(Strict):
    """Parameters of fill-mask."""

    top_k: int = Field(default=5, ge=1, le=MAX_CHOICES)
    """Number of tokens to return for each mask, best first."""
    targets: list[Annotated[str, Field(max_length=MAX_CHARACTERS)]] | None = Field(
        default=None, min_length=1, max_length=MAX_CHOICES
    )
    """Words to choose from, each a single token of the vocabulary. Their scores are still probabilities over the whole
    vocabulary."""
    _target_ids: NDArray[np.int64] | None = PrivateAttr(None)
    """The token ids of the targets, after they were looked up."""

    @property
    def characters(self) -> int:
        return sum(map(len, self.targets or ()))


@with_config(ANSWER)
class Choice(TypedDict):
    """A token for a mask."""

    score: float
    """The probability of the token."""
    token: int
    """The number of the token in the vocabulary."""
    token_str: str
    """The token as text, as transformers writes it: a piece that continues a word begins with "##" in a vocabulary of
    BERT; one that begins a word begins with a blank in one of RoBERTa."""
    sequence: str
    """The text with the token in place of the mask, as the tokenizer writes it."""


@dataclass(frozen=True, slots=True)
class FillMaskSource:
    """What decode needs of a text with masks."""

    input_ids: list[int]
    columns: list[int]
    """Columns of the masks."""
    targets: NDArray[np.int64] | None
    """Token ids to choose from; None for the whole vocabulary."""


class FillMask(Task[str, FillMaskParameters, FillMaskSource, list[Choice] | list[list[Choice]]]):
    """Fill each mask of a text: [MASK] for every model, or what its vocabulary calls it."""

    inputs = str
    parameters = FillMaskParameters

    def encode(self, inputs: str, parameters: FillMaskParameters) -> Encoded[FillMaskSource]:
        ids = self.tokenizer.ids_with_masks(inputs)
        columns = [column for column, token in enumerate(ids, start=1) if token == self.tokenizer.mask_id]
        self._check(ids, columns, parameters)
        row, targets = self.tokenizer.single_row(ids, columns), self._target_ids(parameters)
        source = FillMaskSource(row.input_ids, columns, targets)
        return Encoded([replace(row, wanted=_wanted(source, parameters.top_k))], source, 0)

    def answer_tokens(self, encoded: Encoded[FillMaskSource], parameters: FillMaskParameters) -> int:
        """Return the tokens of the answer: every choice for every mask repeats the text."""
        source = encoded.source
        return parameters.top_k * len(source.columns) * len(source.input_ids)

    def decode(
        self, encoded: Encoded[FillMaskSource], logits: Logits, parameters: FillMaskParameters
    ) -> list[Choice] | list[list[Choice]]:
        source, count = encoded.source, parameters.top_k
        single, chosen = len(source.columns) == 1, len(logits) == 2 * len(source.columns)
        best = _chosen(logits, count) if chosen else self._best_of_all(source, logits, count)
        answers = [
            self._choices(source, column, tokens.tolist(), scores.tolist(), single)
            for column, (tokens, scores) in zip(source.columns, best, strict=True)
        ]
        return answers[0] if single else answers

    def _best_of_all(self, source: FillMaskSource, logits: Logits, count: int) -> Iterator[Best]:
        """Yield the best tokens of each mask, from the logits of the whole vocabulary."""
        scaled = logits / np.float32(self.head.temperature)
        candidates = scaled if source.targets is None else scaled[:, source.targets]
        for row, every in zip(candidates, _log_partition(scaled).tolist(), strict=True):
            best = _best(row, count)
            tokens = best if source.targets is None else source.targets[best]
            yield tokens, np.exp(row[best].astype(np.float64) - every)

    def _choices(
        self, source: FillMaskSource, column: int, tokens: list[int], scores: list[float], single: bool
    ) -> list[Choice]:
        # As transformers: special tokens are left out of a sequence, except where that would hide the other masks.
        before, after = source.input_ids[:column], source.input_ids[column + 1 :]
        filled = [[i for i in (*before, token, *after) if i != self.tokenizer.pad_id] for token in tokens]
        sequences = self.tokenizer.decode_batch(filled, skip_special_tokens=single)
        return [
            {"score": score, "token": token, "token_str": self.tokenizer.decode([token]), "sequence": sequence}
            for score, token, sequence in zip(scores, tokens, sequences, strict=True)
        ]

    def _check(self, ids: list[int], columns: list[int], parameters: FillMaskParameters) -> None:
        room = self.max_length - 2
        if not columns:
            raise InputError("inputs", f"holds no {MASK}; write {MASK} where a word is to be filled in")
        if len(ids) > room:
            raise InputError(
                "inputs", f"has {len(ids)} tokens, but this model takes {room} beside the two special ones; shorten it"
            )
        most = min(self.tokenizer.vocab_size, MAX_SEQUENCES // len(columns))
        if parameters.top_k > most:
            raise InputError(
                "parameters.top_k",
                f"is {parameters.top_k}, but with {len(columns)} masks and {self.tokenizer.vocab_size} tokens in the "
                f"vocabulary it may be {most} at most; pass less",
            )

    def _target_ids(self, parameters: FillMaskParameters) -> NDArray[np.int64] | None:
        """Return the ids of the targets; they are looked up once for all texts with these parameters."""
        if parameters.targets is not None and parameters._target_ids is None:
            found = dict.fromkeys(self._target_id(target) for target in parameters.targets)
            parameters._target_ids = np.array(list(found), dtype=np.int64)
        return parameters._target_ids

    def _target_id(self, target: str) -> int:
        """Return the id of a target, as it is in the vocabulary (including "##ing") or after the tokenizer's rules.

        "Paris" becomes "paris" in an uncased vocabulary; " Paris" and "Paris" are different tokens in RoBERTa's.
        Raises InputError if it is not a single token.
        """
        exact = self.tokenizer.token_id(target)
        if exact is not None and exact not in self.tokenizer.special_ids:
            return exact
        pieces = self.tokenizer.ids(target, "parameters.targets")
        if len(pieces) == 1 and pieces[0] != self.tokenizer.unk_id:
            return pieces[0]
        split = " ".join(self.tokenizer.token(piece) for piece in pieces)
        raise InputError(
            "parameters.targets",
            f"{target[:40]!r} is not a single token of the vocabulary, but {split[:200]}; pass another word",
        )


def _wanted(source: FillMaskSource, count: int) -> tuple[int, ...]:
    """Return the tokens to select on a GPU, or () for all logits if there are more targets than tokens.

    The queue is limited by tokens of rows, so a request for targets must not be larger than its row.
    """
    targets = () if source.targets is None else source.targets.tolist()
    return (count, *targets) if len(targets) <= len(source.input_ids) else ()


def _chosen(choices: Logits, count: int) -> Iterator[Best]:
    """Yield the best tokens of each mask among those that models.choices selected on the GPU."""
    for tokens, scores in zip(*np.split(choices, 2), strict=True):
        best = np.argsort(-scores, kind="stable")[:count]
        yield tokens[best].astype(np.int64), scores[best].astype(np.float64)


def _log_partition(logits: Logits) -> Scores:
    """Return the log-sum-exp of each row: the normalizer of softmax, without computing the score of every token."""
    largest = logits.max(axis=1, keepdims=True)
    shifted = logits - largest
    sums = np.exp(shifted, out=shifted).sum(axis=1, dtype=np.float64)
    result: Scores = largest[:, 0] + np.log(sums)
    return result


def _best(row: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the columns of the `count` highest values (or all), best first; among equals, the lower column first.

    At least `count` values reach the count-th highest block maximum, so it is a lower bound of the wanted values. Only
    the few values above it are sorted. Finding this bound takes a fifth of the time of partitioning the vocabulary.
    """
    blocks = len(row) // BLOCK
    # Block i has the columns i, i + blocks, i + 2 * blocks …, so that the maxima are computed along contiguous memory.
    highest = row[: blocks * BLOCK].reshape(BLOCK, blocks).max(axis=0) if count < blocks else row
    count = min(count, len(row))
    some = np.flatnonzero(row >= np.partition(highest, -count)[-count])
    best: NDArray[np.int64] = some[np.argsort(-row[some], kind="stable")[:count]]
    return best
