"""If these fail, a word is blamed for the effect of another one, or more than the word is left out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from models.errors import InputError
from models.occlusion import Occlusion, Word, left_out, shifted, word_spans
from models.predictor import Predictor
from models.tokenizer import Tokenizer
from tests.models.vocabularies import WORDS, distilbert, ours, roberta, xlm_roberta
from tests.service.bundles import write_bundle

STARTER = Path(models.__file__).parent / "starter"
CONTEXT = "Clara lives in Berlin, but Berlin is not where Clara was born. She works for Google."
QUESTIONS = [
    {"question": "Where does Clara live now?", "context": CONTEXT},
    {"question": "Who?", "context": "Angela Merkel met Tim Cook in Berlin."},
]


@pytest.fixture(scope="module")
def starter() -> Predictor:
    return Predictor(STARTER)


def without(text: str, start: int, end: int) -> str:
    """Leave a word and a blank out, in other words than the code does."""
    before, after = text[:start], text[end:]
    if after[:1].isspace() and not before[-1:].isalnum():
        return before + after[1:]
    return (before[:-1] if before[-1:].isspace() and not after[:1].isalnum() else before) + after


def variant(one: Any, word: dict[str, Any]) -> Any:
    if isinstance(one, str):
        return without(one, word["start"], word["end"])
    return one | {word["field"]: without(one[word["field"]], word["start"], word["end"])}


@pytest.mark.parametrize(
    ("text", "variants"),
    [
        (
            "A gripping film.",
            {"A": "gripping film.", "gripping": "A film.", "film": "A gripping.", ".": "A gripping film"},
        ),
        ("very very", {"very": "very"}),
        ("  good  film", {"good": "   film", "film": "  good "}),
        ("(good film)", {"(": "good film)", "good": "(film)", "film": "(good)", ")": "(good film"}),
        ("e-mail", {"e": "-mail", "-": "email", "mail": "e-"}),
        ("a 世界 b", {"a": "世界 b", "世": "a 界 b", "界": "a 世 b", "b": "a 世界"}),
        ("so\u3000gut", {"so": "gut", "gut": "so"}),
        ("one\ntwo", {"one": "two", "two": "one"}),
    ],
)
def test_a_word_takes_one_blank_with_it_and_joins_no_neighbors(
    tokenizer: Tokenizer, text: str, variants: dict[str, str]
) -> None:
    spans = word_spans(text, tokenizer.encode(text))
    cuts = [(span, left_out(text, span)) for span in spans]
    found = {text[start:end]: text[:first] + text[last:] for (start, end), (first, last) in cuts}
    assert found == variants


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Très\tbon, mon cœur!", ["Très", "bon", ",", "mon", "cœur", "!"]),
        ("cafe\u0301 noir", ["cafe\u0301", "noir"]),
        ("电影很好看。", list("电影很好看。")),
        ("good 👍🏽 film 👩\u200d👩\u200d👧", ["good", "👍🏽", "film", "👩\u200d👩\u200d👧"]),
        ("don't", ["don", "'", "t"]),
        ("  x ", ["x"]),
    ],
)
def test_words_are_those_of_the_tokenizer(tokenizer: Tokenizer, text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in word_spans(text, tokenizer.encode(text))] == words


@pytest.mark.parametrize("kind", [distilbert, roberta, xlm_roberta])
def test_words_share_no_character_and_what_is_left_is_a_text(kind: Any, tmp_path: Path) -> None:
    chosen = ours(kind(), tmp_path)
    generator = np.random.default_rng(0)
    odd = [*WORDS, "㎏", "½", "e\u0301", "ไทย", "か゚", "\u200b", "👍🏽", "\u00ad", "ﬁ", "…", "≠", "ﷺ", "\ufeff"]
    for number in range(400):
        joiner = generator.choice([" ", "", "\u3000", "  "])
        text = joiner.join(generator.choice(odd, generator.integers(2, 7)).tolist()) + "x" * (number % 2)
        try:
            pieces = chosen.encode(text)
        except InputError:
            continue  # nothing but what no tokenizer keeps
        spans = word_spans(text, pieces)
        edges = [edge for span in spans for edge in span]
        assert edges == sorted(edges) and all(start < end for start, end in spans), (text, spans)
        for span in spans if len(spans) > 1 else []:
            first, last = left_out(text, span)
            left = text[:first] + text[last:]
            assert chosen.encode(left).ids and chosen.ids(left), (text, span)


@pytest.mark.parametrize(
    ("field", "cut", "expected"),
    [
        (1, (0, 3), (7, 13)),
        (1, (16, 20), (10, 16)),
        (1, (9, 10), (9, 15)),
        (1, (10, 12), None),
        (1, (15, 16), None),
        (0, (0, 3), (10, 16)),
    ],
)
def test_an_answer_moves_with_its_context(field: int, cut: tuple[int, int], expected: tuple[int, int] | None) -> None:
    assert shifted((10, 16), Word(field, cut, cut)) == expected
    assert shifted((0, 0), Word(field, cut, cut)) == (0, 0)


@pytest.mark.parametrize("truncation", ["right", "left", "windows"])
@pytest.mark.parametrize(
    "text", ["A gripping, gripping film!", "Film 👍🏽 cafe\u0301 电影很好看。", "good " * 60 + "bad bad"]
)
def test_a_label_loses_what_it_has_without_the_word(starter: Predictor, text: str, truncation: str) -> None:
    parameters = {"truncation": truncation, "max_length": 32}
    explained = starter.explain("sentiment", text, parameters)
    (whole,) = starter.answer("sentiment", [text], parameters)
    assert explained["label"] == whole[0]["label"]
    assert explained["score"] == pytest.approx(whole[0]["score"], abs=1e-6)
    left = [variant(text, dict(word)) for word in explained["words"]]
    assert left
    for word, answer in zip(explained["words"], starter.answer("sentiment", left, parameters), strict=True):
        scores = {each["label"]: each["score"] for each in answer}
        assert word["influence"] == pytest.approx(whole[0]["score"] - scores[whole[0]["label"]], abs=1e-6)
        assert word["field"] == "inputs" and text[word["start"] : word["end"]] == word["word"]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"max_seq_len": 24, "doc_stride": 6, "max_answer_len": 10},
        {"align_to_words": False, "top_k": 3},
        {"handle_impossible_answer": True, "no_answer_threshold": -100.0},
        {"max_answer_len": 2, "handle_impossible_answer": True, "no_answer_threshold": 100.0},
    ],
)
@pytest.mark.parametrize("question", range(2))
def test_an_answer_loses_what_the_same_characters_have_without_the_word(
    starter: Predictor, question: int, parameters: dict[str, Any]
) -> None:
    one = QUESTIONS[question]
    explained = starter.explain("qa", one, parameters)
    (whole,) = starter.answer("qa", [one], parameters | {"top_k": 1})
    assert explained["label"] == whole["answer"]
    assert explained["score"] == pytest.approx(whole["score"], abs=1e-6)
    assert {word["field"] for word in explained["words"]} >= {"context"}
    left = [variant(one, dict(word)) for word in explained["words"]]
    answers = starter.answer("qa", left, parameters | {"top_k": 1000})
    for word, without_it, answer in zip(explained["words"], left, answers, strict=True):
        expected = whole["score"] - brute(one, whole, word, without_it, answer)
        assert word["influence"] == pytest.approx(expected, abs=1e-6), word


def brute(one: Any, whole: Any, word: Any, left: Any, answers: Any) -> float:
    """Return the score of the answer at its place in the context as it is now, found among all answers."""
    start, end = whole["start"], whole["end"]
    if word["field"] == "context" and whole["answer"]:
        if start <= word["start"] < end:
            return 0.0
        missing = len(one["context"]) - len(left["context"])
        start, end = (start - missing, end - missing) if word["start"] < start else (start, end)
        assert left["context"][start:end] == whole["answer"]
    return sum((float(each["score"]) for each in answers if (each["start"], each["end"]) == (start, end)), 0.0)


def test_the_only_word_of_a_text_stays(starter: Predictor) -> None:
    assert starter.explain("sentiment", " Good ")["words"] == []
    pair = starter.explain("nli", {"text": "Good", "text_pair": "Very good"})
    assert [(word["field"], word["word"]) for word in pair["words"]] == [("text_pair", "Very"), ("text_pair", "good")]


def test_the_best_label_is_explained_however_few_are_asked_for(starter: Predictor) -> None:
    usual = starter.explain("sentiment", "A gripping film")
    assert starter.explain("sentiment", "A gripping film", {"top_k": 1, "threshold": 1.0}) == usual


def test_what_the_task_refuses_is_refused(starter: Predictor) -> None:
    with pytest.raises(InputError, match=r"inputs\[0\].*room|inputs\[0\]: has .* tokens"):
        starter.explain("sentiment", "good film " * 9, {"truncation": "error", "max_length": 8})
    with pytest.raises(InputError, match=r"parameters\.top_k"):
        starter.explain("sentiment", "good", {"top_k": 99})
    with pytest.raises(InputError, match="is for /tag, whose answers have no single score"):
        starter.explain("ner", "Clara")
    with pytest.raises(InputError, match="there is no head"):
        starter.explain("none", "Clara")


def test_words_that_meet_are_cut_where_the_whole_was_accepted(starter: Predictor) -> None:
    text = "all of it this-which"
    assert [len(starter.tokenizer.ids(each)) for each in (text, text.replace("-", ""))] == [6, 7]
    explained = starter.explain("sentiment", text, {"truncation": "error", "max_length": 8})
    cut = starter.explain("sentiment", text, {"truncation": "right", "max_length": 8})
    assert explained == cut and len(explained["words"]) == 6


def test_words_and_their_length_are_bounded(starter: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Occlusion(starter.task("sentiment"), max_words=5)
    parameters = task.parse_parameters({})
    assert len(task.encode("a b c d e", parameters).source.words) == 5
    with pytest.raises(InputError, match="has 6 words, but at most 5 can be left out"):
        task.encode("a b c d e f", parameters)
    monkeypatch.setattr("models.occlusion.MAX_CHARACTERS", 5 * 9 - 1)
    assert task.encode("a bb c d", parameters)
    with pytest.raises(InputError, match="has 5 long words: .* have 45 characters, but at most 44 are read"):
        task.encode("a b c d e", parameters)


def test_rows_are_those_of_all_texts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    predictor = Predictor(write_bundle(tmp_path / "tiny", tokenizer))
    text = "The cat sat on the mat. " * 20
    own = predictor.task("topic")
    parameters = own.parse_parameters({})
    encoded = Occlusion(own).encode(text, parameters)
    left = [variant(text, dict(word)) for word in predictor.explain("topic", text)["words"]]
    assert len(left) == 140
    assert encoded.rows == [row for each in [text, *left] for row in own.encode(each, parameters).rows]
    assert encoded.truncated == own.encode(text, parameters).truncated > 0
