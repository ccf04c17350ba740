"""Labeled examples and documents, from records of any file.

Data is checked when it is read: a broken line is a DataError that names file and line. So no run fails an hour later
because a label is a number, or an answer is not at its offset.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, overload

from training.errors import DataError
from training.run.json_lines import Line, kind_of, visible
from training.run.text_lines import checked
from training.text.columns import Columns
from training.text.notes import Notes
from training.text.rows import rows_of

Label = str | tuple[str, ...] | float
"""A class, a tuple of the true labels (which may be empty), or a number."""


@dataclass(frozen=True, slots=True)
class TextExample:
    """A text and its label."""

    text: str
    label: Label


@dataclass(frozen=True, slots=True)
class PairExample:
    """Two texts and the label of the pair."""

    text_a: str
    text_b: str
    label: Label


@dataclass(frozen=True, slots=True)
class TaggedExample:
    """The words of a sentence and one tag per word: BIO for spans, or plain tags (parts of speech)."""

    tokens: list[str]
    tags: list[str]


@dataclass(frozen=True, slots=True)
class SpannedText:
    """A text as written, and its spans in order: first character, character after the last, type."""

    text: str
    spans: list[tuple[int, int, str]]


@dataclass(frozen=True, slots=True)
class QuestionExample:
    """A question, its context, and the accepted answers; none if the context does not answer it.

    `starts` counts characters: `context[starts[i] : starts[i] + len(answers[i])] == answers[i]`.
    """

    id: str
    context: str
    question: str
    answers: list[str]
    starts: list[int]


@dataclass(frozen=True, slots=True)
class Document:
    """A text for pretraining and masked-token evaluation; paragraphs are separated by a line break."""

    text: str


Example = TextExample | PairExample | TaggedExample | SpannedText | QuestionExample | Document


def _text_example(line: Line) -> TextExample:
    return TextExample(line.string("text"), _label(line))


def _pair_example(line: Line) -> PairExample:
    return PairExample(line.string("text_a"), line.string("text_b"), _label(line))


def _label(line: Line) -> Label:
    """Return a class, a tuple for a list, or a number for a number with a fraction."""
    value = line.value("label")
    if isinstance(value, list):
        return tuple(dict.fromkeys(_class(line, each, f'"label"[{index}]') for index, each in enumerate(value)))
    if isinstance(value, float):
        if not math.isfinite(value):
            line.fail(f'"label" is {value}, expected a finite number; correct the line')
        return value
    return _class(line, value, '"label"')


def _class(line: Line, value: Any, name: str) -> str:
    """Return the name of a class; an integer or a boolean is a name too: "3", "true"."""
    if isinstance(value, int):
        return str(value).lower()
    if not isinstance(value, str):
        inner = "a string" if name != '"label"' else "a string, a number, or a list of strings"
        line.fail(f"{name} is {kind_of(value)}, expected {inner}; correct the line")
    return line.check_string(value, name)


def _tagged_example(line: Line) -> TaggedExample | SpannedText:
    if "tokens" not in line.record and "spans" in line.record:
        return _spanned_text(line)
    example = TaggedExample(line.strings("tokens"), line.strings("tags"))
    if not example.tokens:
        line.fail('"tokens" is empty, expected one word or more; remove the line')
    if len(example.tokens) != len(example.tags):
        counts = f"{len(example.tokens)} tokens but {len(example.tags)} tags"
        line.fail(f"{counts}, expected one tag per token; correct the line")
    if is_bio(example.tags):
        _check_bio(line, example.tags)
    return example


def _spanned_text(line: Line) -> SpannedText:
    text, given = line.string("text"), line.value("spans")
    if not isinstance(given, list):
        line.fail(f'"spans" is {kind_of(given)}, expected a list of [start, end, type]; correct the line')
    spans = sorted(_span(line, text, index, span) for index, span in enumerate(given))
    for (_, before, _), (start, end, name) in zip(spans, spans[1:], strict=False):
        if start < before:
            line.fail(f'"spans" has {name} at {start} to {end} inside another span, expected none to overlap; keep one')
    return SpannedText(text, spans)


def _span(line: Line, text: str, index: int, span: Any) -> tuple[int, int, str]:
    if not isinstance(span, list) or [type(part) for part in span] != [int, int, str] or not span[2].strip():
        line.fail(f'"spans"[{index}] is {str(span)[:60]}, expected [start, end, type]; correct it')
    start, end, name = span
    if not (0 <= start < end <= len(text) and any(map(visible, text[start:end]))):
        line.fail(
            f'"spans"[{index}] is characters {start} to {end} of a text of {len(text)}, expected a part of it with '
            "visible characters; correct it"
        )
    return start, end, name


def is_bio(tags: Iterable[str]) -> bool:
    """Tell whether tags are span tags (B-PER, I-PER, O) or plain ones (NOUN, VERB)."""
    return any(tag[:2] in ("B-", "I-") for tag in tags)


def _check_bio(line: Line, tags: list[str]) -> None:
    previous = "O"
    for index, tag in enumerate(tags):
        if tag != "O" and (tag[:2] not in ("B-", "I-") or not tag[2:]):
            line.fail(f'"tags"[{index}] is {tag!r}, expected O, B-TYPE or I-TYPE; correct the tag')
        if tag.startswith("I-") and previous[2:] != tag[2:]:
            expected = f"expected it after B-{tag[2:]} or I-{tag[2:]}; make it B-{tag[2:]}"
            line.fail(f'"tags"[{index}] is {tag!r} after {previous!r}, {expected}')
        previous = tag


def _question_example(line: Line) -> QuestionExample:
    context, question = line.string("context"), line.string("question")
    answers = line.value("answers")
    if not isinstance(answers, dict):
        line.fail(
            f'"answers" is {kind_of(answers)}, expected {{"text": [...], "answer_start": [...]}}; correct the line'
        )
    inner = Line(line.path, line.number, answers)
    texts, starts = inner.strings("text"), inner.value("answer_start")
    if not isinstance(starts, list) or any(type(start) is not int for start in starts):
        line.fail('"answer_start" is not a list of whole numbers, expected one character offset per answer; correct it')
    if len(texts) != len(starts):
        line.fail(f"{len(texts)} answer texts but {len(starts)} offsets, expected one per answer; correct the line")
    for text, start in zip(texts, starts, strict=True):
        _check_answer(line, context, text, start)
    return QuestionExample(line.string("id"), context, question, texts, starts)


def _check_answer(line: Line, context: str, text: str, start: int) -> None:
    found = context[start : start + len(text)] if start >= 0 else ""
    if found != text:
        place = context.find(text)
        remedy = f"its first occurrence is at {place}" if place >= 0 else "the context does not contain it, remove it"
        line.fail(f"the context has {found!r} at character {start}, expected the answer {text!r}; {remedy}")


def _document(line: Line) -> Document:
    return Document(line.string("text"))


PARSERS: dict[str, Callable[[Line], Example]] = {
    "classify": _text_example,
    "pair": _pair_example,
    "fill-mask": _document,
    "tag": _tagged_example,
    "qa": _question_example,
}


@overload
def read_examples(path: Path, task: Literal["classify"], limit: int | None = None) -> list[TextExample]: ...
@overload
def read_examples(path: Path, task: Literal["pair"], limit: int | None = None) -> list[PairExample]: ...
@overload
def read_examples(path: Path, task: Literal["tag"], limit: int | None = None) -> list[TaggedExample | SpannedText]: ...
@overload
def read_examples(path: Path, task: Literal["qa"], limit: int | None = None) -> list[QuestionExample]: ...
@overload
def read_examples(path: Path, task: Literal["fill-mask"], limit: int | None = None) -> list[Document]: ...
def read_examples(path: Path, task: str, limit: int | None = None) -> Any:
    """Read the examples of a task (the first `limit`) from one file of any format.

    Raise DataError for a broken line or an empty file. `training.text.data_files` reads several files.
    """
    notes = Notes()
    examples = [PARSERS[task](line) for line in checked(rows_of(path, Columns(task), notes, limit))]
    notes.tell(str(path))
    if not examples:
        raise DataError(f"{path} has no examples, expected one or more; pass another file")
    return examples


def labels_in(example: Example) -> list[str]:
    """Return the labels of an example, a span as its B- and I-; none for a number, question or document."""
    if isinstance(example, SpannedText):
        return ["O", *(f"{prefix}-{name}" for _, _, name in example.spans for prefix in "BI")]
    if isinstance(example, TaggedExample):
        return example.tags
    if not isinstance(example, TextExample | PairExample) or isinstance(example.label, float):
        return []
    return [example.label] if isinstance(example.label, str) else list(example.label)


def labels_of(examples: Iterable[Example]) -> list[str]:
    """Return the labels in a stable order: sorted; for BIO tags O first, then B- and I- of each type."""
    found = set(chain.from_iterable(map(labels_in, examples)))
    if not is_bio(found):
        return sorted(found)
    types = sorted({tag[2:] for tag in found - {"O"}})
    return ["O", *chain.from_iterable((f"B-{name}", f"I-{name}") for name in types)]
