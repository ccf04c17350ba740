"""Tagging: labels the words of a text, and joins them into spans.

`pieces` says which pieces the head reads, as in its training (which writes it into the defaults of the head):

    joint    all pieces; a word gets the tag that is most likely for all its pieces together
    first    the first piece of each word
    all      each piece by itself, aggregated exactly as in transformers' TokenClassificationPipeline (imported heads)

Words are those of BERT's pre-tokenizer ("U.N." is four words), for every vocabulary; in scripts without spaces, each
token is a word (models/scripts.py). With "all", words are those of transformers. Blanks belong to no word.
With "joint" and "first", the tags are the most likely valid BIO sequence (models/bio.py). So the tags alone determine
which words belong together, without rules about abbreviations, and all aggregation strategies except "none" give the
same spans. Offsets count characters of the text as given, and `word` is that slice of it.
A text that is longer than the training rows is read in windows, and each word in the window where it has most context.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, with_config
from typing_extensions import TypedDict

from models.bio import Sequences, split_label
from models.errors import InputError
from models.pieces import NO_WORD, Pieces, is_blank, without_blanks
from models.redaction import Redaction, redact
from models.redaction import Span as Span
from models.row import Encoded, Row
from models.scripts import after_spaces, first_pieces, word_numbers
from models.sentences import sentence_starts
from models.task import ANSWER, HeadSpec, Logits, Scores, Strict, Task, softmax
from models.tokenizer import Tokenizer
from models.windows import MAX_WINDOWS, owners, slide, usual_overlap

Strategy = Literal["none", "simple", "first", "average", "max"]

Reading = Literal["joint", "first", "all"]

MAX_LABELS = 1000
"""Maximum labels in `ignore_labels`."""
MAX_WORDS = 100_000
"""Maximum words of one input; each one costs time even if it is empty."""
MIN_ROW = 3
"""Tokens of the shortest row: one token and two special ones."""


class TagParameters(Strict):
    """Parameters of tag."""

    aggregation_strategy: Strategy = "simple"
    """How words become spans. "none" answers one item per word, with its tag. The others join neighboring words of one
    entity, and differ only for heads that read "all" pieces: "simple" joins pieces as they are tagged; "first",
    "average" and "max" label a word by its first piece, the mean of its pieces, or the piece with the highest score."""
    stride: int | None = Field(default=None, ge=0)
    """Tokens that two neighboring windows share; by default a quarter of a window, at most 64."""
    max_seq_len: int | None = Field(default=None, ge=MIN_ROW)
    """Tokens of a window, with its two special tokens; by default as many as in training."""
    ignore_labels: list[str] = Field(default=["O"], max_length=MAX_LABELS)
    """Labels (with "none") or entities that are left out of the answer."""
    threshold: float = Field(default=0.0, ge=0, le=1)
    """Spans (with "none": words) with a lower score are left out of the answer."""
    is_split_into_words: bool = False
    """Whether an input is a list of words instead of a text. Each word then gets one tag; offsets count characters in
    the words joined by single blanks."""
    redact: bool = False
    """Whether to answer with the text itself, each span replaced by a numbered placeholder such as [PER_1]."""
    pieces: Reading = "first"
    """What the head reads: all pieces of a word together ("joint"), the first piece of each word, or each piece by
    itself ("all"). A head should be asked as it was trained, which is its default."""


@with_config(ANSWER)
class Token(TypedDict):
    """A tagged word or piece, the answer of "none"."""

    entity: str
    """The tag."""
    score: float
    """The probability of the tag."""
    index: int
    """The index of its first token, from 1. For given words: the index of the word in the list, from 0."""
    word: str
    """The characters of the text from `start` to `end`."""
    start: int
    """Index of its first character in the text."""
    end: int
    """Index after its last character."""


@dataclass(frozen=True, slots=True)
class TagSource:
    """What decode needs to know about a text: its units, which are words, or pieces with "all"."""

    text: str
    spans: list[tuple[int, int]]
    """Start and end of each unit, in characters."""
    continues: list[bool]
    """Whether a unit continues the word of the previous unit."""
    numbers: list[int]
    """The column that a unit would have if its text were one row; for given words, their index."""
    firsts: list[int]
    """Index of each unit's first row of scores."""


class Tagged(NamedTuple):
    """A unit or a word with its most likely label."""

    label: str
    score: float
    start: int
    end: int
    number: int


class Tag(Task[str | list[str], TagParameters, TagSource, list[Token] | list[Span] | Redaction]):
    """Find the entities of a text, or label each of its words."""

    inputs = str | list[str]
    parameters = TagParameters

    def __init__(self, tokenizer: Tokenizer, head: HeadSpec, max_length: int) -> None:
        super().__init__(tokenizer, head, max_length)
        self._sequences = Sequences(head.labels)

    def is_list(self, inputs: object, parameters: TagParameters) -> bool:
        """Whether `inputs` are several inputs: a list of words is one input, and a list of such lists is several."""
        if not isinstance(inputs, list) or not parameters.is_split_into_words:
            return isinstance(inputs, list)
        return any(isinstance(item, list) for item in inputs)

    def encode(self, inputs: str | list[str], parameters: TagParameters) -> Encoded[TagSource]:
        _check_redaction(parameters)
        if parameters.is_split_into_words:
            return self._encode_given(inputs, parameters)
        if not isinstance(inputs, str):
            raise InputError(
                "inputs", "is a list of words, but expected a text; set parameters.is_split_into_words to true"
            )
        pieces = self.tokenizer.encode(inputs)
        firsts = first_pieces(self._word_numbers(inputs, pieces, parameters))
        sentences = self._sentences(inputs, pieces, firsts)
        return self._encode(inputs, pieces, sentences, firsts, parameters)

    def _word_numbers(self, text: str, pieces: Pieces, parameters: TagParameters) -> NDArray[np.int64]:
        """Return the word index of each piece, divided as in the head's training; with "all", as in transformers."""
        if parameters.pieces != "all":
            return word_numbers(text, pieces)
        if self.tokenizer.kind == "WordPiece":
            return pieces.words
        unknown = np.asarray(pieces.ids) == self.tokenizer.unk_id
        return np.cumsum(unknown | after_spaces(text, pieces)) - 1

    def encode_words(self, words: Sequence[str], parameters: TagParameters) -> Encoded[TagSource]:
        """Encode the given words of a data set; a word without a visible character is read as [UNK]."""
        if not words:
            raise InputError("inputs", "holds no word; pass at least one")
        return self._encode_words(words, self.tokenizer.encode_words(words), parameters)

    def decode(
        self, encoded: Encoded[TagSource], logits: Logits, parameters: TagParameters
    ) -> list[Token] | list[Span] | Redaction:
        source, strategy = encoded.source, parameters.aggregation_strategy
        words = self._tag(source, softmax(logits, self.head.temperature), parameters)
        if strategy == "none":
            tokens = [_token(source.text, word) for word in words if _is_wanted(word.label, word.score, parameters)]
            return [token for token in tokens if not is_blank(token["word"])]
        spans = [_span(source.text, group, parameters.is_split_into_words) for group in _groups(words)]
        wanted = [span for span in spans if _is_wanted(span["entity_group"], span["score"], parameters)]
        wanted = [span for span in wanted if not is_blank(span["word"])]
        return redact(source.text, wanted) if parameters.redact else wanted

    def _tag(self, source: TagSource, scores: Scores, parameters: TagParameters) -> list[Tagged]:
        """Tag each unit or word from the scores [positions, labels]."""
        strategy = parameters.aggregation_strategy
        if _reading(parameters) != "all":
            return self._tag_words(source, scores, strategy)
        if strategy in ("none", "simple"):
            units = zip(scores, source.spans, source.numbers, strict=True)
            return [self._tagged(row, span, number) for row, span, number in units]
        return self._words(source, scores, strategy)

    def _tag_words(self, source: TagSource, scores: Scores, strategy: Strategy) -> list[Tagged]:
        """Tag words with the most likely sequence; scores are those of the entity type, or of the tag with "none"."""
        firsts = np.asarray(source.firsts)
        tags = self._sequences.of_words(scores, firsts)
        shown = scores if strategy == "none" else self._sequences.kinds(scores)
        means = self._sequences.means(shown, firsts)[np.arange(len(tags)), tags]
        return [
            Tagged(self.head.labels[tag], score, *span, number)
            for tag, score, span, number in zip(
                tags.tolist(), means.tolist(), source.spans, source.numbers, strict=True
            )
        ]

    def _encode_given(self, words: str | list[str], parameters: TagParameters) -> Encoded[TagSource]:
        if isinstance(words, str):
            raise InputError("inputs", 'is a text, but with is_split_into_words it must be a list of words: ["…", …]')
        if not 1 <= len(words) <= MAX_WORDS:
            raise InputError("inputs", f"holds {len(words)} words, but expected 1 to {MAX_WORDS}; send them in parts")
        pieces = self.tokenizer.encode_words(words)
        self._check_visible(words, pieces)
        return self._encode_words(words, pieces, parameters)

    def _check_visible(self, words: Sequence[str], pieces: Pieces) -> None:
        """Raise InputError for a word of only blanks, or without any piece (which would be read as [UNK])."""
        unknown = {n for n, i in zip(pieces.words.tolist(), pieces.ids, strict=True) if i == self.tokenizer.unk_id}
        doubtful = [n for n, word in enumerate(words) if n in unknown or is_blank(word)]
        for number, ids in zip(doubtful, self.tokenizer.encode_ids([words[n] for n in doubtful]), strict=True):
            if not ids or is_blank(words[number]):
                raise InputError(
                    f"inputs[{number}]", f"{words[number][:40]!r} has no visible character; leave the word out"
                )

    def _encode_words(self, words: Sequence[str], pieces: Pieces, parameters: TagParameters) -> Encoded[TagSource]:
        parameters = parameters.model_copy(update={"is_split_into_words": True})
        firsts = first_pieces(pieces.words)
        encoded = self._encode(" ".join(words), pieces, np.zeros(1, np.int64), firsts, parameters)
        return replace(encoded, source=replace(encoded.source, numbers=list(range(len(words)))))

    def _encode(
        self,
        text: str,
        pieces: Pieces,
        sentences: NDArray[np.int64],
        firsts: NDArray[np.int64],
        parameters: TagParameters,
    ) -> Encoded[TagSource]:
        every, reading = np.arange(len(pieces)), _reading(parameters)
        visible = np.flatnonzero(pieces.words != NO_WORD)
        read = {"first": firsts, "joint": visible, "all": every}[reading]
        rows = self._rows(pieces, sentences, firsts, read, parameters)
        if reading == "all":
            continues = np.isin(every, firsts, invert=True).tolist()
            spans = list(zip(*pieces.offsets.T.tolist(), strict=True))
            return Encoded(rows, TagSource(text, spans, continues, (every + 1).tolist(), every.tolist()), 0)
        begins = np.searchsorted(read, firsts)
        lasts = visible[[*(np.searchsorted(visible, firsts[1:]) - 1).tolist(), -1]].tolist()
        spans = list(zip(pieces.offsets[firsts, 0].tolist(), pieces.offsets[lasts, 1].tolist(), strict=True))
        return Encoded(rows, TagSource(text, spans, [False] * len(spans), (firsts + 1).tolist(), begins.tolist()), 0)

    def _rows(
        self,
        pieces: Pieces,
        sentences: NDArray[np.int64],
        firsts: NDArray[np.int64],
        read: NDArray[np.int64],
        parameters: TagParameters,
    ) -> list[Row]:
        """Build the rows for the `read` pieces; none spans several sentences. `sentences` has their first pieces."""
        if len(sentences) > MAX_WINDOWS:
            raise InputError(
                "inputs", f"has {len(sentences)} sentences, expected at most {MAX_WINDOWS}; send its parts"
            )
        room = self._row_length(parameters) - 2
        stride = self._stride(parameters, room)
        rows: list[Row] = []
        for start, stop in zip(sentences.tolist(), [*sentences[1:].tolist(), len(pieces)], strict=True):
            mine = read[np.searchsorted(read, start) : np.searchsorted(read, stop)]
            starts = start + slide(stop - start, room, stride, "inputs")
            window = owners(starts - start, room, stop - start)
            # If possible, all pieces of a word are read in the window of its first piece, so they see the same context.
            of_word = window[firsts[np.searchsorted(firsts, mine, side="right") - 1] - start]
            chosen = np.where(mine < starts[of_word] + room, of_word, window[mine - start])
            numbers, changes = np.unique(chosen, return_index=True)  # windows in which nothing is read are left out
            rows += [
                self.tokenizer.single_row(pieces.ids[first : min(first + room, stop)], (tokens - first + 1).tolist())
                for first, tokens in zip(starts[numbers].tolist(), np.split(mine, changes[1:]), strict=True)
            ]
        return rows

    def _sentences(self, text: str, pieces: Pieces, firsts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first piece of each sentence if the head was trained on single sentences, otherwise only 0."""
        if self.head.trained.sentences != "one":
            return np.zeros(1, np.int64)
        begins = np.searchsorted(pieces.offsets[firsts, 0], sentence_starts(text))
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

    def _tagged(self, scores: Scores, span: tuple[int, int], number: int) -> Tagged:
        best = int(scores.argmax())
        return Tagged(self.head.labels[best], float(scores[best]), *span, number)

    def _words(self, source: TagSource, scores: Scores, strategy: Strategy) -> list[Tagged]:
        """Give all pieces of each word one common label."""
        firsts = [unit for unit, continues in enumerate(source.continues) if not continues]
        words = []
        for first, stop in zip(firsts, [*firsts[1:], len(source.spans)], strict=True):
            span = (source.spans[first][0], source.spans[stop - 1][1])
            words.append(self._tagged(_word_scores(scores[first:stop], strategy), span, source.numbers[first]))
        return words


def _check_redaction(parameters: TagParameters) -> None:
    if parameters.redact and parameters.aggregation_strategy == "none":
        raise InputError(
            "parameters.redact",
            'is true, but aggregation_strategy "none" makes no spans to replace; leave one of the two out',
        )


def _reading(parameters: TagParameters) -> Reading:
    """Return which pieces to read. For given words, "all" becomes "first", on which transformers trains such heads."""
    return "first" if parameters.pieces == "all" and parameters.is_split_into_words else parameters.pieces


def _is_wanted(label: str, score: float, parameters: TagParameters) -> bool:
    return label not in parameters.ignore_labels and score >= parameters.threshold


def _token(text: str, unit: Tagged) -> Token:
    label, score, start, end, number = unit
    return {"entity": label, "score": score, "index": number, "word": text[start:end], "start": start, "end": end}


def _word_scores(scores: Scores, strategy: Strategy) -> Scores:
    """Return the scores of a word [labels] from those of its pieces [pieces, labels]."""
    if strategy == "average":
        mean: Scores = scores.mean(axis=0)
        return mean
    best: Scores = scores[scores.max(axis=1).argmax() if strategy == "max" else 0]
    return best


def _groups(words: list[Tagged]) -> list[list[Tagged]]:
    """Join neighbors of one entity: B- begins an entity; I- continues one of the same type, or begins one."""
    groups: list[list[Tagged]] = []
    last = None
    for word in words:
        begins, entity = split_label(word.label)
        if begins or entity != last:
            groups.append([])
        groups[-1].append(word)
        last = entity
    return groups


def _span(text: str, words: list[Tagged], given: bool) -> Span:
    first, last = words[0], words[-1]
    start, end = without_blanks(text, first.start, last.end)
    span: Span = {
        "entity_group": first.label.split("-", 1)[-1],
        "score": sum(word.score for word in words) / len(words),
        "word": text[start:end],
        "start": start,
        "end": end,
    }
    if given:
        span["index"], span["end_index"] = first.number, last.number + 1
    return span
