"""Tags for the words of a text, and the spans they make.

`pieces` says what the head reads. "first" (the default, and how our heads are trained): the first piece of each word,
where a word is what treebanks call one ("U.N.", "AT&T", "'s"), so that all aggregation strategies but "none" agree, and
BIO tags are the likeliest sequence that makes spans (models/bio.py).
"all": every piece, which are then aggregated exactly as by transformers' TokenClassificationPipeline; an imported head
has {"pieces": "all"} in its defaults. Offsets are characters of the text as given, and `word` is that slice of it.
Long texts slide windows, and each word is read where it has most context.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.bio import Sequences
from models.errors import InputError
from models.row import Encoded, Row
from models.task import HeadSpec, Logits, Scores, Strict, Task, softmax
from models.tokenizer import Pieces, Tokenizer
from models.windows import owners, slide

Strategy = Literal["none", "simple", "first", "average", "max"]

# BERT's pre-tokenizer splits at every punctuation mark, but data sets keep these together as one word, and a head has
# learnt to read that at its first piece. Anything else is a word of the pre-tokenizer: a comma, a bracket, or the full
# stop that ends a sentence is never part of the word before it. Of 1,441 entity words of UNER English-EWT (validation),
# 1,439 are one word by these rules; the pre-tokenizer alone splits 26 kinds of them.
COMPOUND = re.compile(
    r"""
      (?<!\w) (?:[^\W\d_]\.){2,}                                # U.N.  e.g.
    | (?<!\w) [A-Z]\. (?=\s+\w)                                 # the initial of "J. Smith"
    | (?<!\w) (?i:st|mt|ft|dr|mr|mrs|ms|jr|sr|prof|rev|gen|col|capt|sgt|lt|gov|sen|rep)\. (?=\s+\w)
    | (?<!\w) (?i:inc|corp|ltd|co|bros)\. (?=\s+\w|,)
    | (?<!\w) \w++ (?: [.&@] \w++ | ['’] (?!(?i:s|d|m|ll|re|ve)\b) \w++ )+  # 4.6  AT&T  ann@example.com  O'Keefe
    | ['’] (?i:s|d|m|ll|re|ve)\b                                # the clitic of "Ann's", a word of its own
    """,
    re.VERBOSE,
)


MOST_LABELS = 1000
"""That a request may name."""


class TagParameters(Strict):
    """Parameters of tag."""

    aggregation_strategy: Strategy = "simple"
    stride: int | None = Field(default=None, ge=0)
    """Tokens that two windows share: 64, or half a window where that is less."""
    ignore_labels: list[str] = Field(default=["O"], max_length=MOST_LABELS)
    pieces: Literal["first", "all"] = "first"


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
    """What decode needs of a text: its units, which are words ("first") or pieces ("all")."""

    text: str
    spans: list[tuple[int, int]]
    """Start and end of each unit, in characters."""
    continues: list[bool]
    """Whether a unit goes on with the word of the unit before it."""
    columns: list[int]
    """Where a unit would stand if its text were one row."""


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
        if parameters.pieces == "all":
            return self._encode(inputs, pieces, pieces.words, parameters)
        return self._encode(inputs, pieces, _compounds(inputs, pieces), parameters)

    def encode_words(self, words: Sequence[str], parameters: TagParameters) -> Encoded[TagSource]:
        """Encode words as a data set has them, of which the head reads the first piece each, whatever `pieces` says."""
        if not words:
            raise InputError("inputs", "holds no word; pass at least one")
        pieces = self.tokenizer.encode_words(words)
        return self._encode(" ".join(words), pieces, pieces.words, parameters.model_copy(update={"pieces": "first"}))

    def decode(
        self, encoded: Encoded[TagSource], logits: Logits, parameters: TagParameters
    ) -> list[Token] | list[Span]:
        scores = softmax(logits, self.head.temperature)  # (units, labels)
        source, strategy = encoded.source, parameters.aggregation_strategy
        best = self._sequences.best(scores) if parameters.pieces == "first" else scores.argmax(axis=1)
        units = [
            Tagged(self.head.labels[tag], float(row[tag]), *span)
            for tag, row, span in zip(best.tolist(), scores, source.spans, strict=True)
        ]
        if strategy == "none":
            return _tokens(source, units, parameters.ignore_labels)
        words = self._words(source, scores, strategy) if strategy != "simple" and parameters.pieces == "all" else units
        spans = [_span(source.text, group) for group in _groups(words)]
        return [span for span in spans if span["entity_group"] not in parameters.ignore_labels]

    def decode_tags(self, encoded: Encoded[TagSource], logits: Logits) -> list[str]:
        """Return the tag of each word of `encode_words`; windows cover all words, so none is missing."""
        return [self.head.labels[tag] for tag in self._sequences.best(softmax(logits, self.head.temperature)).tolist()]

    def _encode(self, text: str, pieces: Pieces, words: Sequence[int], parameters: TagParameters) -> Encoded[TagSource]:
        numbers = np.asarray(words)
        firsts = np.flatnonzero(np.diff(numbers, prepend=-1))  # the first piece of each word
        every = np.arange(len(pieces))
        rows = self._rows(pieces.ids, firsts, firsts if parameters.pieces == "first" else every, parameters)
        starts = [start for start, _ in pieces.offsets]
        ends = [end for _, end in pieces.offsets]
        if parameters.pieces == "first":
            lasts = [*(firsts[1:] - 1).tolist(), len(pieces) - 1]
            spans = [(starts[first], ends[last]) for first, last in zip(firsts.tolist(), lasts, strict=True)]
            return Encoded(rows, TagSource(text, spans, [False] * len(spans), (firsts + 1).tolist()), 0)
        continues = np.isin(every, firsts, invert=True).tolist()
        return Encoded(rows, TagSource(text, pieces.offsets, continues, (every + 1).tolist()), 0)

    def _rows(
        self, ids: list[int], firsts: NDArray[np.int64], read: NDArray[np.int64], parameters: TagParameters
    ) -> list[Row]:
        room = self.max_length - 2
        starts = slide(len(ids), room, self._stride(parameters, room), "inputs")
        window = owners(starts, room, len(ids))
        # A word stays in the window of its first piece as far as that reaches, so that its pieces saw the same text.
        of_word = window[firsts[np.searchsorted(firsts, read, side="right") - 1]]
        chosen = np.where(read < starts[of_word] + room, of_word, window[read])
        numbers, changes = np.unique(chosen, return_index=True)  # a window in which nothing is read is not run
        return [
            self.tokenizer.single_row(ids[start : start + room], (tokens - start + 1).tolist())
            for start, tokens in zip(starts[numbers].tolist(), np.split(read, changes[1:]), strict=True)
        ]

    def _stride(self, parameters: TagParameters, room: int) -> int:
        if parameters.stride is None:
            return min(64, room // 2)
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


def _compounds(text: str, pieces: Pieces) -> list[int]:
    """Number the words of pieces anew, so that a compound is one."""
    stops = {match.start(): match.end() for match in COMPOUND.finditer(text)}
    numbers: list[int] = []
    stop, before = 0, -1
    for (start, _), word in zip(pieces.offsets, pieces.words, strict=True):
        if start in stops and start >= stop:
            stop = stops[start]
            numbers.append(numbers[-1] + 1 if numbers else 0)
        elif start < stop or word == before:
            numbers.append(numbers[-1])
        else:
            numbers.append(numbers[-1] + 1 if numbers else 0)
        before = word
    return numbers


def _split_label(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and which; a label without B- or I- continues its like, as in transformers."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _groups(words: list[Tagged]) -> list[list[Tagged]]:
    """Join neighbours of one entity: B- begins anew, I- continues its like and else begins one too."""
    groups: list[list[Tagged]] = []
    last = None
    for word in words:
        begins, entity = _split_label(word.label)
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
