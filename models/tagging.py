"""Tags for the words of a text, and the spans they make.

`pieces` says what the head reads, which is what it learned from (training writes it into the defaults of a head):

    joint    every piece; a word has the tags that are likeliest for all its pieces together
    first    the first piece of each word
    all      every piece by itself, aggregated exactly as by transformers' TokenClassificationPipeline (imported heads)

A word is what the pre-tokenizer splits ("U.N." is four), and in scripts without blanks each token (models/scripts.py).
With "joint" and "first", BIO tags are the likeliest sequence that makes spans (models/bio.py): the tags alone say which
words belong together, so no rule about abbreviations of any language is needed, and all aggregation strategies except
"none" agree. Offsets are characters of the text as given, and `word` is that slice of it.
A text that is longer than the rows that the head learned from slides windows, and each word is read where it has most
context.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict

from models.bio import Sequences, split_label
from models.errors import InputError
from models.row import Encoded, Row
from models.scripts import word_numbers
from models.sentences import sentence_starts
from models.task import HeadSpec, Logits, Scores, Strict, Task, softmax
from models.tokenizer import Pieces, Tokenizer
from models.windows import MOST_WINDOWS, owners, slide, usual_overlap

Strategy = Literal["none", "simple", "first", "average", "max"]

Reading = Literal["joint", "first", "all"]

MOST_LABELS = 1000
"""That a request may name."""
LEAST_ROW = 3
"""Tokens of a row that holds one word."""


class TagParameters(Strict):
    """Parameters of tag."""

    aggregation_strategy: Strategy = "simple"
    stride: int | None = Field(default=None, ge=0)
    """Tokens that two windows share: a quarter of a window, at most 64."""
    max_seq_len: int | None = Field(default=None, ge=LEAST_ROW)
    """Tokens of a window with its two special ones: as many as the rows had that the head learned from."""
    ignore_labels: list[str] = Field(default=["O"], max_length=MOST_LABELS)
    pieces: Reading = "first"


class Token(TypedDict):
    """A tagged word or piece, under "none"."""

    entity: str
    score: float
    index: int
    word: str
    start: int
    end: int


class Span(TypedDict):
    """Neighbouring words of one entity."""

    entity_group: str
    score: float
    word: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TagSource:
    """What decode needs of a text: its units, which are words, or with "all" pieces."""

    text: str
    spans: list[tuple[int, int]]
    """Start and end of each unit, in characters."""
    continues: list[bool]
    """Whether a unit goes on with the word of the unit before it."""
    columns: list[int]
    """Where a unit would stand if its text were one row."""
    firsts: list[int]
    """The first of the positions that are read of a unit."""


class Tagged(NamedTuple):
    """A unit or a word with its most likely label."""

    label: str
    score: float
    start: int
    end: int


class Tag(Task[str, TagParameters, TagSource, list[Token] | list[Span]]):
    """text → spans with a label; given words → a label each."""

    inputs = str
    parameters = TagParameters

    def __init__(self, tokenizer: Tokenizer, head: HeadSpec, max_length: int) -> None:
        super().__init__(tokenizer, head, max_length)
        self._sequences = Sequences(head.labels)

    def encode(self, inputs: str, parameters: TagParameters) -> Encoded[TagSource]:
        pieces = self.tokenizer.encode(inputs)
        numbers = np.asarray(pieces.words) if parameters.pieces == "all" else word_numbers(inputs, pieces)
        firsts = np.flatnonzero(np.diff(numbers, prepend=-1))  # the first piece of each word
        sentences = self._sentences(inputs, pieces, firsts)
        return self._encode(inputs, pieces, sentences, firsts, parameters)

    def encode_words(self, words: Sequence[str], parameters: TagParameters) -> Encoded[TagSource]:
        """Encode words as a data set has them; with "all" the head reads the first piece of each, as with "first"."""
        if not words:
            raise InputError("inputs", "holds no word; pass at least one")
        pieces = self.tokenizer.encode_words(words)
        if parameters.pieces == "all":
            parameters = parameters.model_copy(update={"pieces": "first"})
        firsts = np.flatnonzero(np.diff(pieces.words, prepend=-1))
        return self._encode(" ".join(words), pieces, np.zeros(1, np.int64), firsts, parameters)

    def decode(
        self, encoded: Encoded[TagSource], logits: Logits, parameters: TagParameters
    ) -> list[Token] | list[Span]:
        scores = softmax(logits, self.head.temperature)  # (positions, labels)
        source, strategy = encoded.source, parameters.aggregation_strategy
        if parameters.pieces != "all":
            words = self._tag_words(source, scores, strategy)
        elif strategy in ("none", "simple"):
            words = [self._tagged(row, span) for row, span in zip(scores, source.spans, strict=True)]
        else:
            words = self._words(source, scores, strategy)
        if strategy == "none":
            return _tokens(source, words, parameters.ignore_labels)
        spans = [_span(source.text, group) for group in _groups(words)]
        return [span for span in spans if span["entity_group"] not in parameters.ignore_labels]

    def decode_tags(self, encoded: Encoded[TagSource], logits: Logits) -> list[str]:
        """Return the tag of each word of `encode_words`; windows cover all words, so none is missing."""
        scores = softmax(logits, self.head.temperature)
        tags = self._sequences.of_words(scores, np.asarray(encoded.source.firsts))
        return [self.head.labels[tag] for tag in tags.tolist()]

    def _tag_words(self, source: TagSource, scores: Scores, strategy: Strategy) -> list[Tagged]:
        """Tag words by the likeliest sequence; the score is that of the entity, under "none" that of the tag alone."""
        firsts = np.asarray(source.firsts)
        tags = self._sequences.of_words(scores, firsts)
        shown = scores if strategy == "none" else self._sequences.kinds(scores)
        means = self._sequences.means(shown, firsts)[np.arange(len(tags)), tags]
        return [
            Tagged(self.head.labels[tag], score, *span)
            for tag, score, span in zip(tags.tolist(), means.tolist(), source.spans, strict=True)
        ]

    def _encode(
        self,
        text: str,
        pieces: Pieces,
        sentences: NDArray[np.int64],
        firsts: NDArray[np.int64],
        parameters: TagParameters,
    ) -> Encoded[TagSource]:
        every = np.arange(len(pieces))
        read = firsts if parameters.pieces == "first" else every
        rows = self._rows(pieces, sentences, firsts, read, parameters)
        if parameters.pieces == "all":
            continues = np.isin(every, firsts, invert=True).tolist()
            return Encoded(rows, TagSource(text, pieces.offsets, continues, (every + 1).tolist(), every.tolist()), 0)
        lasts = [*(firsts[1:] - 1).tolist(), len(pieces) - 1]
        spans = [(pieces.offsets[a][0], pieces.offsets[b][1]) for a, b in zip(firsts.tolist(), lasts, strict=True)]
        begins = firsts if parameters.pieces == "joint" else every[: len(firsts)]
        return Encoded(rows, TagSource(text, spans, [False] * len(spans), (firsts + 1).tolist(), begins.tolist()), 0)

    def _rows(
        self,
        pieces: Pieces,
        sentences: NDArray[np.int64],
        firsts: NDArray[np.int64],
        read: NDArray[np.int64],
        parameters: TagParameters,
    ) -> list[Row]:
        """Lay out rows for the `read` pieces; no row holds pieces of two `sentences`, given by their first pieces."""
        if len(sentences) > MOST_WINDOWS:
            raise InputError(
                "inputs", f"has {len(sentences)} sentences, expected at most {MOST_WINDOWS}; send its parts"
            )
        room = self._row_length(parameters) - 2
        stride = self._stride(parameters, room)
        rows: list[Row] = []
        for start, stop in zip(sentences.tolist(), [*sentences[1:].tolist(), len(pieces)], strict=True):
            mine = read[np.searchsorted(read, start) : np.searchsorted(read, stop)]
            starts = start + slide(stop - start, room, stride, "inputs")
            window = owners(starts - start, room, stop - start)
            # A word is read in the window of its first piece where that holds it: its pieces then saw the same text.
            of_word = window[firsts[np.searchsorted(firsts, mine, side="right") - 1] - start]
            chosen = np.where(mine < starts[of_word] + room, of_word, window[mine - start])
            numbers, changes = np.unique(chosen, return_index=True)  # a window in which nothing is read is not run
            rows += [
                self.tokenizer.single_row(pieces.ids[first : min(first + room, stop)], (tokens - first + 1).tolist())
                for first, tokens in zip(starts[numbers].tolist(), np.split(mine, changes[1:]), strict=True)
            ]
        return rows

    def _sentences(self, text: str, pieces: Pieces, firsts: NDArray[np.int64]) -> NDArray[np.int64]:
        """First pieces of the sentences of a text, for a head that learned from single ones; else 0 alone."""
        if self.head.trained.sentences != "one":
            return np.zeros(1, np.int64)
        begins = np.searchsorted([pieces.offsets[first][0] for first in firsts.tolist()], sentence_starts(text))
        return np.unique(firsts[np.minimum(begins, len(firsts) - 1)])

    def _row_length(self, parameters: TagParameters) -> int:
        length = parameters.max_seq_len or min(self.head.trained.max_length or self.max_length, self.max_length)
        if length > self.max_length:
            raise InputError(
                "parameters.max_seq_len", f"is {length}, but this model takes {self.max_length}; pass less"
            )
        return length

    def _stride(self, parameters: TagParameters, room: int) -> int:
        if parameters.stride is None:
            return usual_overlap(room)
        if parameters.stride >= room:
            raise InputError(
                "parameters.stride",
                f"is {parameters.stride}, but a window has {room} tokens; pass less, so that windows advance",
            )
        return parameters.stride

    def _tagged(self, scores: Scores, span: tuple[int, int]) -> Tagged:
        best = int(scores.argmax())
        return Tagged(self.head.labels[best], float(scores[best]), *span)

    def _words(self, source: TagSource, scores: Scores, strategy: Strategy) -> list[Tagged]:
        """Make the pieces of each word agree on one label."""
        firsts = [unit for unit, continues in enumerate(source.continues) if not continues]
        words = []
        for first, stop in zip(firsts, [*firsts[1:], len(source.spans)], strict=True):
            span = (source.spans[first][0], source.spans[stop - 1][1])
            words.append(self._tagged(_word_scores(scores[first:stop], strategy), span))
        return words


def _tokens(source: TagSource, units: list[Tagged], ignored: list[str]) -> list[Token]:
    return [
        {"entity": label, "score": score, "index": column, "word": source.text[start:end], "start": start, "end": end}
        for (label, score, start, end), column in zip(units, source.columns, strict=True)
        if label not in ignored
    ]


def _word_scores(scores: Scores, strategy: Strategy) -> Scores:
    """Label scores of a word from those of its pieces [pieces, labels]."""
    if strategy == "average":
        mean: Scores = scores.mean(axis=0)
        return mean
    best: Scores = scores[scores.max(axis=1).argmax() if strategy == "max" else 0]
    return best


def _groups(words: list[Tagged]) -> list[list[Tagged]]:
    """Join neighbours of one entity: B- begins one, I- continues one of its type, or begins one where there is none."""
    groups: list[list[Tagged]] = []
    last = None
    for word in words:
        begins, entity = split_label(word.label)
        if begins or entity != last:
            groups.append([])
        groups[-1].append(word)
        last = entity
    return groups


def _span(text: str, words: list[Tagged]) -> Span:
    start, end = words[0].start, words[-1].end
    return {
        "entity_group": words[0].label.split("-", 1)[-1],
        "score": sum(word.score for word in words) / len(words),
        "word": text[start:end],
        "start": start,
        "end": end,
    }
