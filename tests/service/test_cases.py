"""If this breaks, the shipped bundle loses names or answers in text as people write it.

Each text is one that a client may send as it is: blanks are missing, lists have no sentences, documents are long.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from service.settings import STARTER
from tests.service.serving import Served, serving

NAMES: dict[str, set[tuple[str, str]]] = {
    "I met Mr.Smith and Dr.Miller in Paris.": {("PER", "Smith"), ("PER", "Miller"), ("LOC", "Paris")},
    "He left.Angela Merkel came to Paris.": {("PER", "Angela Merkel"), ("LOC", "Paris")},
    "Source:Reuters.Paris, Monday.": {("ORG", "Reuters"), ("LOC", "Paris")},
    "He works for Google.The office is new.": {("ORG", "Google")},
    "the Jones'London trip": {("PER", "Jones"), ("LOC", "London")},
    "Contact:John Smith,Berlin": {("PER", "John Smith"), ("LOC", "Berlin")},
    "Obama@Berlin yesterday": {("PER", "Obama"), ("LOC", "Berlin")},
    "- Paris\n- London\n- Rome": {("LOC", "Paris"), ("LOC", "London"), ("LOC", "Rome")},
    "PARIS.LONDON.ROME": {("LOC", "PARIS"), ("LOC", "LONDON"), ("LOC", "ROME")},
    "Sinead O'Connor sang in Dublin.": {("PER", "Sinead O'Connor"), ("LOC", "Dublin")},
}
TITLES = ("Mr.", "Dr.")
SENTENCE = "Angela Merkel met Barack Obama in Berlin. "


@pytest.fixture(scope="module")
def starter() -> Iterator[Served]:
    with serving(STARTER) as served:
        yield served


def spans(served: Served, text: str, **parameters: Any) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = served.answer("/tag/ner", text, **parameters)
    return answer


def without_title(word: str) -> str:
    for title in TITLES:
        word = word.removeprefix(title)
    return word.strip()


@pytest.mark.parametrize("text", NAMES)
def test_names_are_found_where_spaces_are_missing(starter: Served, text: str) -> None:
    found = spans(starter, text)
    assert {(span["entity_group"], without_title(span["word"])) for span in found} == NAMES[text]
    assert all(span["score"] > 0.3 for span in found), found


def test_abbreviations_stay_whole(starter: Served) -> None:
    found = spans(starter, "U.N. and AT&T met in St. Louis.")  # it takes the United Nations for a place
    assert [(span["word"], span["entity_group"]) for span in found][1:] == [("AT&T", "ORG"), ("St. Louis", "LOC")]
    assert found[0]["word"] == "U.N."


@pytest.mark.parametrize("copies", [1, 20, 50])
def test_a_long_text_loses_no_name_of_its_sentences(starter: Served, copies: int) -> None:
    text = SENTENCE * copies
    expected = [
        (kind, start + number * len(SENTENCE), end + number * len(SENTENCE))
        for number in range(copies)
        for kind, start, end in [("PER", 0, 13), ("PER", 18, 30), ("LOC", 34, 40)]
    ]
    assert [(span["entity_group"], span["start"], span["end"]) for span in spans(starter, text)] == expected


@pytest.mark.parametrize(
    ("question", "context"),
    [
        (
            "Who painted the ceiling?",
            "The library was built in 1743. It holds forty thousand volumes, among them the chronicle of the abbey.",
        ),
        ("How many people live there?", "The village lies in a valley between two rivers."),
    ],
)
def test_a_question_without_an_answer_gets_none(starter: Served, question: str, context: str) -> None:
    inputs = {"question": question, "context": context}
    answer = starter.answer("/qa", inputs, handle_impossible_answer=True)
    assert (answer["answer"], answer["start"], answer["end"]) == ("", 0, 0)
    assert starter.answer("/qa", inputs)["answer"]  # without leave to refuse, the best span


def test_a_question_with_an_answer_gets_it_though_the_head_may_refuse(starter: Served) -> None:
    context = "The tower is 324 metres tall, about the height of a building of 81 storeys. Its base is square."
    inputs = {"question": "How tall is the tower?", "context": context}
    assert "324 metres" in starter.answer("/qa", inputs, handle_impossible_answer=True)["answer"]


def test_the_last_of_many_sentences_is_read(starter: Served) -> None:
    harmless, bad = "It was shown in a cinema on a Monday. ", "This is the worst, most boring and terrible film."
    answer = starter.answer("/classify/sentiment", harmless * 60 + bad, truncation="windows", window_scores="maximum")
    scores = {item["label"]: item["score"] for [one] in [answer] for item in one}
    alone = {item["label"]: item["score"] for [one] in [starter.answer("/classify/sentiment", bad)] for item in one}
    assert scores["negative"] > 0.9 * alone["negative"]
