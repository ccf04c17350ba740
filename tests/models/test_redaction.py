"""If these fail, a redacted text still shows what it should hide, or cannot be restored."""

import random
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InputError
from models.redaction import Span, redact
from models.tagging import Tag
from tests.models.test_tagging import LABELS, logits_of, pieces_of, tag

TYPES = ["PER", "LOC", "A B", "A_B", "]x[", "日本", ""]
# Texts that already hold placeholders, whole or in parts that an entity could complete.
PARTS = ["Anna", "Berlin", " ", "[PER_1]", "[PER_2]", "[LOC_1]", "[PER_", "1]", "PER_1", "[", "]", "_", "1", "[A_B_1]"]
TEXTS = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PARTS), max_size=12).map("".join))


@st.composite
def texts_with_spans(draw: st.DrawFn) -> tuple[str, list[Span]]:
    text = draw(TEXTS)
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=10)))
    spans: list[Span] = []
    for start, end in zip(places[::2], places[1::2], strict=False):
        kind = draw(st.sampled_from(TYPES))
        spans.append({"entity_group": kind, "score": 0.5, "word": text[start:end], "start": start, "end": end})
    return text, spans


@settings(max_examples=500)
@given(texts_with_spans(), st.randoms(use_true_random=False))
def test_a_client_restores_the_text_exactly(case: tuple[str, list[Span]], order: random.Random) -> None:
    text, spans = case
    answer = redact(text, spans)
    assert [{key: span[key] for key in span if key != "placeholder"} for span in answer["spans"]] == spans  # type: ignore[literal-required]
    originals = {span["placeholder"]: span["word"] for span in answer["spans"]}
    one_by_one = answer["text"]
    for placeholder in order.sample(sorted(originals), len(originals)):
        one_by_one = one_by_one.replace(placeholder, originals[placeholder])
    assert one_by_one == text
    pattern = "|".join(map(re.escape, originals)) or "$."
    assert re.sub(pattern, lambda match: originals[match.group()], answer["text"]) == text


@settings(max_examples=300)
@given(texts_with_spans())
def test_placeholders_stand_where_the_spans_were_and_nowhere_else(case: tuple[str, list[Span]]) -> None:
    text, spans = case
    answer = redact(text, spans)
    rest, end = answer["text"], 0
    for span in answer["spans"]:
        before = text[end : span["start"]]
        assert rest.startswith(before + span["placeholder"])
        rest, end = rest[len(before) + len(span["placeholder"]) :], span["end"]
        assert span["placeholder"] not in text
        assert answer["text"].count(span["placeholder"]) == sum(
            other["placeholder"] == span["placeholder"] for other in answer["spans"]
        )
    assert rest == text[end:]
    found = {(span["entity_group"], span["word"]): span["placeholder"] for span in answer["spans"]}
    assert len(set(found.values())) == len(found)
    assert all(found[span["entity_group"], span["word"]] == span["placeholder"] for span in answer["spans"])


@given(texts_with_spans(), st.data())
def test_nothing_of_spans_that_share_characters_remains(case: tuple[str, list[Span]], data: st.DataObject) -> None:
    text, spans = case
    wider: list[Span] = [
        {**span, "end": end, "word": text[span["start"] : end]}
        for span in spans
        for end in [data.draw(st.integers(span["end"], len(text)))]
    ]
    answer = redact(text, wider)
    kept = [not any(span["start"] <= i < span["end"] for span in wider) for i in range(len(text))]
    hidden = "|".join(re.escape(span["placeholder"]) for span in answer["spans"]) or "$."
    assert re.sub(hidden, "", answer["text"]) == "".join(char for char, keep in zip(text, kept, strict=True) if keep)
    assert all(text[span["start"] : span["end"]] == span["word"] for span in answer["spans"])


def test_a_syllable_of_several_pieces_is_one_placeholder() -> None:
    task = tag(pieces="all")
    parameters = task.parse_parameters({"redact": True})
    encoded = task.encode("a 한 b", parameters)
    labels = ["O", "B-PER", "B-PER", "B-LOC", "O"]
    answer: Any = task.decode(encoded, logits_of(*labels), parameters)
    assert answer["text"] == "a [PER_1] b" and [span["word"] for span in answer["spans"]] == ["한"]


def spans_of(text: str, *words: tuple[str, str]) -> list[Span]:
    spans: list[Span] = []
    end = 0
    for kind, word in words:
        start = text.index(word, end)
        end = start + len(word)
        spans.append({"entity_group": kind, "score": 0.9, "word": word, "start": start, "end": end})
    return spans


def test_numbers_count_the_entities_of_a_type() -> None:
    text = "Anna met Otto in Bonn. Anna likes Bonn; Paris likes Anna."
    names = [("PER", "Anna"), ("PER", "Otto"), ("LOC", "Bonn"), ("PER", "Anna"), ("LOC", "Bonn")]
    answer = redact(text, spans_of(text, *names, ("PER", "Paris"), ("PER", "Anna")))
    assert answer["text"] == "[PER_1] met [PER_2] in [LOC_1]. [PER_1] likes [LOC_1]; [PER_3] likes [PER_1]."


def test_numbers_that_stand_in_the_text_are_skipped() -> None:
    text = "[PER_1] and [PER_3] met Anna and Otto."
    answer = redact(text, spans_of(text, ("PER", "Anna"), ("PER", "Otto")))
    assert answer["text"] == "[PER_1] and [PER_3] met [PER_2] and [PER_4]."


def test_thousands_of_placeholders_in_the_text_take_linear_time() -> None:
    text = "".join(f"[PER_{number}]" for number in range(1, 20_000)) + "[" * 50_000 + " Anna"
    answer = redact(text, spans_of(text, ("PER", "Anna")))
    assert answer["text"].endswith("[ [PER_20000]")


def answer_of(task: Tag, inputs: Any, labels: list[str], **chosen: Any) -> Any:
    parameters = task.parse_parameters(chosen)
    encoded = task.encode(inputs, parameters)
    return task.decode(encoded, pieces_of(encoded, labels), parameters)


def test_a_span_below_the_threshold_stays_in_the_text() -> None:
    task = tag(pieces="joint")
    encoded = task.encode("Anna left Paris.", task.parse_parameters({}))
    logits = pieces_of(encoded, ["B-PER", "O", "B-LOC", "O"])
    logits[-2:] /= 2
    spans: Any = task.decode(encoded, logits, task.parse_parameters({}))
    low, high = sorted(span["score"] for span in spans)
    for threshold, expected in (
        (low, "[PER_1] left [LOC_1]."),
        (float(np.nextafter(low, 1)), "[PER_1] left Paris."),
        (float(np.nextafter(high, 1)), "Anna left Paris."),
    ):
        parameters = task.parse_parameters({"redact": True, "threshold": threshold})
        answer: Any = task.decode(encoded, logits, parameters)
        assert answer["text"] == expected
        assert [span["placeholder"] in expected for span in answer["spans"]] == [True] * expected.count("[")


def test_tag_answers_with_the_redacted_text() -> None:
    task = tag(pieces="joint")
    labels = ["B-PER", "I-PER", "O", "B-LOC", "O", "B-PER", "I-PER"]
    text = "Angela Merkel left Paris. Angela Merkel"
    spans = answer_of(task, text, labels)
    answer = answer_of(task, text, labels, redact=True)
    assert answer["text"] == "[PER_1] left [LOC_1]. [PER_1]"
    names = ["[PER_1]", "[LOC_1]", "[PER_1]"]
    assert answer["spans"] == [{**span, "placeholder": name} for span, name in zip(spans, names, strict=True)]
    assert answer_of(task, text, labels, redact=True, ignore_labels=["O", "PER"])["text"].count("Merkel") == 2
    assert answer_of(task, text, labels, redact=True, threshold=1.0) == {"text": text, "spans": []}


def test_given_words_are_redacted_where_they_are_joined() -> None:
    words = ["Angela", "Merkel", "left", "Paris", "."]
    labels = ["B-PER", "I-PER", "O", "B-LOC", "O"]
    answer = answer_of(tag(pieces="joint"), words, labels, redact=True, is_split_into_words=True)
    assert answer["text"] == "[PER_1] left [LOC_1] ."
    assert [words[span["index"] : span["end_index"]] for span in answer["spans"]] == [["Angela", "Merkel"], ["Paris"]]


def test_words_alone_are_not_redacted() -> None:
    task = tag()
    with pytest.raises(InputError, match='parameters.redact: is true, but aggregation_strategy "none" makes no spans'):
        task.encode("cat", task.parse_parameters({"redact": True, "aggregation_strategy": "none"}))


@settings(deadline=None, max_examples=300)
@given(st.text(min_size=1), st.sampled_from(["joint", "first", "all"]), st.integers(0, 1 << 32))
def test_spans_of_any_text_are_in_order_and_do_not_overlap(text: str, pieces: str, seed: int) -> None:
    task = tag(pieces=pieces)
    parameters = task.parse_parameters({"redact": True})
    try:
        encoded = task.encode(text, parameters)
    except InputError:
        return
    count = sum(len(row.positions) for row in encoded.rows)
    chosen = np.random.default_rng(seed).choice(LABELS, count)
    answer: Any = task.decode(encoded, logits_of(*chosen), parameters)
    ends = [0, *(span["end"] for span in answer["spans"])]
    assert all(end <= span["start"] < span["end"] for end, span in zip(ends, answer["spans"], strict=False))
    originals = {span["placeholder"]: span["word"] for span in answer["spans"]}
    restored = answer["text"]
    for placeholder, word in originals.items():
        restored = restored.replace(placeholder, word)
    assert restored == text
