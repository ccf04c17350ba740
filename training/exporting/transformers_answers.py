"""The answers of transformers for a directory, in the same form as our own, and the texts to compare them on.

transformers is not a dependency; only verify needs it.
"""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.architectures import NSP_LABELS
from models.bundle import Bundle
from models.classification import PairInput
from models.qa import QuestionInput
from models.row import Row
from models.task import HeadSpec, TaskName, softmax
from models.tokenizer import MASK
from training.errors import EvaluationError
from training.parity.made_texts import made_texts
from training.text.examples import (
    Document,
    Example,
    PairExample,
    QuestionExample,
    SpannedText,
    TaggedExample,
    TextExample,
)

Choices = dict[Any, float]
"""The alternatives of one answer and their scores, the best first."""

MADE = 60
"""Texts that are generated from the vocabulary, besides the kinds below."""
KINDS = (
    "a",
    "Paris",
    "PARIS IS THE CAPITAL OF FRANCE",
    "The cat sat on the mat, didn't it? Paris is the capital of France.",
    "Angela Merkel met Mr. O'Connor in St. Louis on Jan. 3, 2026 at 10:30 a.m.",
    "state-of-the-art e-mail: john.smith@example.com, https://example.com/a?b=c#d",
    "Prices rose 3.14% to $12,000 (from €9,876.50); that's +21 % & more!",
    "He said: \"It's 'fine'\" -- well... (not) [really] {at all} <b>bold</b> a_b c|d ~ ^ `x`",
    "L'été où le garçon naïf mangea un œuf à Château-d'Œx.",
    "Größere Straßen überqueren Äpfel; señor Muñoz añade piñones.",
    "Привет, мир! Καλημέρα κόσμε. שלום עולם. مرحبا بالعالم",
    "今年上海苹果公司收入4.6亿元。カタナはナタのもの。한국어 문장입니다.",
    "हिन्दी में एक वाक्य। ประเทศไทยมีอากาศร้อน",
    "Emoji 🙂👍🏽 and flags 🇫🇷, ½ + ¼, x² ≤ y₃, № 5 ™ ©",
    "ﬁne ﬂight Ｆｕｌｌ ｗｉｄｔｈ Ⅷ ①",
    "  two  blanks   between,\tand tabs\nand\n\nlines  ",
    "donaudampfschifffahrtsgesellschaftskapitänsmütze pneumonoultramicroscopicsilicovolcanoconiosis",
    "1234567890 0x1F 1e-5 192.168.0.1 v2.0.1-rc3 +49 (0)30 12345",
    "!?.,;:",
    "no. No! NO? nO",
)
"""Kinds of text on which tokenizers differ."""
MARGIN = 4
"""Tokens that a text may gain when it is cut after a token, inside a character or a word."""
ANSWERS, EXAMINED = 3, 200
"""Spans that are compared, and spans among which they are searched: several may differ only by blanks."""
ANSWER_TOKENS = 15
"""Maximum tokens of a span; the default of transformers and of this project."""


class Theirs(ABC):
    """A network of transformers and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, length: int) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.length = length
        """Maximum tokens of a row."""
        self.strips_marks = bool(getattr(tokenizer, "do_lower_case", False))
        """Whether combining marks are stripped; transformers then leaves them out of spans."""

    @abstractmethod
    def answer(self, one: Any) -> list[Choices]:
        """Answer an input."""

    @abstractmethod
    def choices(self, answer: Any) -> list[Choices]:
        """Return an answer of our own in the same form."""

    def text(self, one: Any) -> str:
        """Return an input as readable text."""
        return " | ".join(self.texts(one))

    def texts(self, one: Any) -> list[str]:
        """Return the texts of an input, in the form of the tokenizer."""
        return [one]

    def has_tokens(self, one: Any, rows: Sequence[Row]) -> bool:
        """Tell whether rows have the tokens of transformers for the input, and its segments if it has any."""
        theirs = self.tokenizer(*self.texts(one), truncation=True, max_length=self.length)
        segments = theirs.get("token_type_ids", rows[0].token_type_ids)
        return [(row.input_ids, row.token_type_ids) for row in rows] == [(theirs["input_ids"], segments)]

    def cut(self, text: str, tokens: int) -> str:
        """Return the start of a text that is too long for one row."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in encoded["offset_mapping"]]
        return text if len(ends) <= tokens else text[: ends[max(0, tokens - MARGIN)]]


class _Classifier(Theirs):
    """classify: scores of all labels, by the same function as the head in the bundle."""

    def __init__(self, model: Any, tokenizer: Any, length: int, head: HeadSpec) -> None:
        super().__init__(model, tokenizer, length)
        self._ask = _pipeline("text-classification", self, function_to_apply=head.function)

    def answer(self, one: Any) -> list[Choices]:
        asked = {"text": one.text, "text_pair": one.text_pair} if isinstance(one, PairInput) else [one]
        found = self._ask(asked, top_k=None, truncation=True, max_length=self.length)
        return self.choices(found if isinstance(found[0], dict) else found[0])

    def choices(self, answer: Any) -> list[Choices]:
        return [{each["label"]: each["score"] for each in answer}]

    def texts(self, one: Any) -> list[str]:
        return [one.text, one.text_pair] if isinstance(one, PairInput) else [one]


class _Tagger(Theirs):
    """tag: the tag of each token, except blanks, which are tokens in some tokenizers but not in answers."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._ask = _pipeline("token-classification", self, aggregation_strategy="none", ignore_labels=[])

    def answer(self, one: Any) -> list[Choices]:
        return self.choices([each for each in self._ask(one) if one[each["start"] : each["end"]].strip()])

    def choices(self, answer: Any) -> list[Choices]:
        return [{(each["index"], each["entity"]): float(each["score"])} for each in answer]


class _Filler(Theirs):
    """fill-mask: the five best tokens of each mask."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._ask = _pipeline("fill-mask", self, top_k=5)

    def answer(self, one: Any) -> list[Choices]:
        return self.choices(self._ask(*self.texts(one)))

    def choices(self, answer: Any) -> list[Choices]:
        masks = answer if isinstance(answer[0], list) else [answer]
        return [{each["token"]: each["score"] for each in mask} for mask in masks]

    def texts(self, one: Any) -> list[str]:
        return [one.replace(MASK, self.tokenizer.mask_token)]


class _Reader(Theirs):
    """qa: the best spans of tokens, scored as transformers' pipeline did up to version 4.

    A score is the probability of the start times that of the end, both over [CLS] and the context.
    """

    @torch.inference_mode()
    def answer(self, one: Any) -> list[Choices]:
        encoded = self.tokenizer(*self.texts(one), return_tensors="pt", return_offsets_mapping=True)
        spans, sequence = encoded.pop("offset_mapping")[0].tolist(), encoded.sequence_ids(0)
        output = self.model(**encoded)
        columns = [column for column, number in enumerate(sequence) if number == 1]
        starts, ends = (
            softmax(logits[0].numpy()[[0, *columns]], 1.0)[1:] for logits in (output.start_logits, output.end_logits)
        )
        scores = np.tril(np.triu(np.outer(starts, ends)), ANSWER_TOKENS - 1)
        best = np.argsort(-scores, axis=None, kind="stable")[:EXAMINED]
        found: Choices = {}
        for first, last in zip(*np.unravel_index(best, scores.shape), strict=True):
            start, end = spans[columns[first]][0], spans[columns[last]][1]
            if one.context[start:end].strip():
                found.setdefault(stripped(one.context[start:end], start, self.strips_marks), float(scores[first, last]))
        return [dict(list(found.items())[:ANSWERS])]

    def choices(self, answer: Any) -> list[Choices]:
        answers = answer if isinstance(answer, list) else [answer]
        return [{stripped(each["answer"], each["start"], self.strips_marks): each["score"] for each in answers}]

    def texts(self, one: Any) -> list[str]:
        return [one.question, one.context]


def stripped(span: str, start: int, strips_marks: bool) -> tuple[int, int]:
    """Return the bounds of a span in its text, without parts on which tokenizers differ.

    These are the blank before it, and the combining marks that lowercasing strips from its end.
    """
    first = start + len(span) - len(span.lstrip())
    kept = span.rstrip()
    while strips_marks and kept and unicodedata.category(kept[-1]) == "Mn":
        kept = kept[:-1]
    return first, start + len(kept)


LOADING = {"dtype": torch.float32, "local_files_only": True}
READERS: dict[TaskName, tuple[type[Theirs], str]] = {
    "classify": (_Classifier, "AutoModelForSequenceClassification"),
    "pair": (_Classifier, "AutoModelForSequenceClassification"),
    "tag": (_Tagger, "AutoModelForTokenClassification"),
    "qa": (_Reader, "AutoModelForQuestionAnswering"),
    "fill-mask": (_Filler, "AutoModelForMaskedLM"),
}


def open_theirs(directory: Path, spec: HeadSpec, length: int) -> Theirs:
    """Read a directory with transformers; raise EvaluationError without transformers, or without such a head."""
    if not find_spec("transformers"):
        raise EvaluationError("verify needs transformers, which is not installed; run: pip install 'transformers>=5'")
    import transformers

    log: Any = transformers.logging  # its functions have no types
    log.set_verbosity_error()
    log.disable_progress_bar()
    reader, name = READERS[spec.task]
    follows = spec.labels == NSP_LABELS
    kind = getattr(transformers, "AutoModelForNextSentencePrediction" if follows else name)
    try:
        model, info = kind.from_pretrained(directory, output_loading_info=True, **LOADING)
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(f"{directory} cannot be read by transformers ({error}); correct --against") from None
    if missing := sorted(info["missing_keys"]):
        raise EvaluationError(
            f"{directory} has no weight {missing[0]} for a {spec.task} head, so transformers "
            "would use random values; pass the directory that this head was imported from"
        )
    if follows:
        model.config.id2label = dict(enumerate(spec.labels))  # its config names no class
    given = (model.eval(), tokenizer, length)
    return _Classifier(*given, spec) if reader is _Classifier else reader(*given)


def _pipeline(task: str, theirs: Theirs, **given: Any) -> Any:
    from transformers import pipeline

    made: Any = pipeline  # overloaded for each name of a task
    return made(task, model=theirs.model, tokenizer=theirs.tokenizer, device="cpu", **given)


# ---- texts ---------------------------------------------------------------------------------------------------------


def inputs_of(task: TaskName, bundle: Bundle, theirs: Theirs, examples: Sequence[Example]) -> list[Any]:
    """Return inputs of a task that fit one row: from examples, or from made-up texts if there are none.

    A classifier gets whole texts, because both sides cut them in the same way.
    """
    room = theirs.length - MARGIN
    given = [_input(task, example) for example in examples] or _made(task, bundle)
    if task == "pair":
        return [PairInput(text=theirs.cut(a, room // 2), text_pair=theirs.cut(b, room // 2)) for a, b in given]
    if task == "qa":
        few = min(room // 4, 60)
        return [QuestionInput(question=theirs.cut(a, few), context=theirs.cut(b, room - few)) for a, b in given]
    if task == "fill-mask":
        return [_masked(theirs.cut(text, room - 3), number) for number, text in enumerate(given)]
    return [theirs.cut(text, room) if task == "tag" else text for text in given]


def _made(task: TaskName, bundle: Bundle) -> list[Any]:
    texts = [*KINDS, *made_texts(bundle.tokenizer, MADE)]
    texts += [" ".join(made_texts(bundle.tokenizer, 40, seed=1))]  # longer than a row
    return list(zip(texts[1:], texts, strict=False)) if task in ("pair", "qa") else texts


def _input(task: TaskName, example: Example) -> Any:
    """Return the text of an example, or its two texts."""
    match example:
        case TextExample(text=text) | SpannedText(text=text) | Document(text=text):
            return text
        case PairExample(text_a=first, text_b=second) | QuestionExample(question=first, context=second):
            return first, second
        case TaggedExample(tokens=words):
            return " ".join(words)


def _masked(text: str, number: int) -> str:
    """Replace one or two words by masks, unless the text has masks."""
    if MASK in text:
        return text
    words = text.split(" ")
    for place in {number % len(words), (3 * number) % len(words)}:
        words[place] = MASK
    return " ".join(words)
