"""If these fail, words that a client divided are divided again, lost, or get the tags of their neighbors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from transformers import BertForTokenClassification, BertTokenizer, pipeline

from models.errors import InputError
from models.tagging import Tag
from models.task import Trained
from models.tokenizer import SPECIALS
from tests.models import tiny
from tests.models.test_tagging import LABELS, UNCASED, decode, logits_of, pieces_of, tag

GIVEN = {"is_split_into_words": True}
EVERY = {**GIVEN, "aggregation_strategy": "none", "ignore_labels": []}
ODD = [
    "U.N.",
    "don't",
    "unwantedly",
    "cafe\u0301s",
    "\u03a9",
    "東京",
    "New York",
    "\u200b",
    "",
    " ",
    "\ufeff",
    "İ",
    "##s",
]
WORDS = st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=8)), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizer:
    return tiny.their_tokenizer(UNCASED, tmp_path_factory.mktemp("words"))


@settings(deadline=None, max_examples=200)
@given(words=WORDS.filter(lambda words: not any(special in word for word in words for special in SPECIALS.values())))
def test_words_are_cut_as_by_transformers(theirs: BertTokenizer, words: list[str]) -> None:
    task = tag(512, pieces="joint")
    expected = theirs(words, is_split_into_words=True)
    numbers = [number for number in expected.word_ids() if number is not None]
    unusable = [n for n, word in enumerate(words) if n not in numbers or "\0" in word]
    if unusable:
        with pytest.raises(InputError) as error:
            task.encode(words, task.parse_parameters(GIVEN))
        assert error.value.field in {f"inputs[{n}]" for n in unusable}
    else:
        encoded = task.encode(words, task.parse_parameters(GIVEN))
        assert [row.input_ids for row in encoded.rows] == [expected["input_ids"]]
        firsts = [numbers.index(number) for number in range(len(words))]
        assert encoded.source.firsts == firsts


@pytest.mark.parametrize("pieces", ["joint", "first", "all"])
@settings(deadline=None, max_examples=60)
@given(words=st.lists(st.sampled_from(["cat", "U.N.", "unwantedly", "New York", "don't", "a" * 60]), min_size=1))
def test_each_word_has_one_answer_of_its_own(pieces: str, words: list[str]) -> None:
    task = tag(16, pieces=pieces)
    parameters = task.parse_parameters(EVERY)
    encoded = task.encode(words, parameters)
    labels = [LABELS[:4][number % 4] for number in range(len(words))]
    answer = decode(task, encoded, pieces_of(encoded, labels), parameters)
    text = " ".join(words)
    assert [item["entity"] for item in answer] == labels
    assert [item["index"] for item in answer] == list(range(len(words)))
    assert [item["word"] for item in answer] == words
    assert all(text[item["start"] : item["end"]] == item["word"] for item in answer)


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_spans_say_which_words_they_hold(strategy: str) -> None:
    words = ["Angela", "Merkel", "met", "the", "U.N.", "in", "New York", "."]
    task = tag(pieces="joint")
    parameters = task.parse_parameters({**GIVEN, "aggregation_strategy": strategy})
    encoded = task.encode(words, parameters)
    labels = ["B-PER", "I-PER", "O", "O", "B-LOC", "O", "B-LOC", "O"]
    answer = decode(task, encoded, pieces_of(encoded, labels), parameters)
    assert [(span["entity_group"], span["word"]) for span in answer] == [
        ("PER", "Angela Merkel"),
        ("LOC", "U.N."),
        ("LOC", "New York"),
    ]
    assert [words[span["index"] : span["end_index"]] for span in answer] == [
        ["Angela", "Merkel"],
        ["U.N."],
        ["New York"],
    ]
    text = " ".join(words)
    assert all(text[span["start"] : span["end"]] == span["word"] for span in answer)


@pytest.mark.parametrize("pieces", ["first", "all"])
def test_plain_labels_are_those_of_transformers(tmp_path: Path, pieces: str) -> None:
    labels = ["O", "PER", "LOC"]
    model = tiny.random_model(BertForTokenClassification, tiny.config(UNCASED, labels))
    other = pipeline("token-classification", model=model, tokenizer=tiny.their_tokenizer(UNCASED, tmp_path))
    task = tag(labels=labels, pieces=pieces)
    parameters = task.parse_parameters({**GIVEN, "aggregation_strategy": "first", "ignore_labels": []})
    words = "George Washington unwantedly filmed the bankers in London and Paris".split()
    encoded = task.encode(words, parameters)
    answer = decode(task, encoded, tiny.run(model, encoded.rows), parameters)
    inputs: Any = [words]
    expected: list[dict[str, Any]]
    (expected,) = other(inputs, is_split_into_words=True, delimiter=" ", aggregation_strategy="first", ignore_labels=[])
    keys = ("entity_group", "start", "end")
    assert [[span[key] for key in keys] for span in answer] == [[span[key] for key in keys] for span in expected]
    scores = [float(span["score"]) for span in expected]
    assert [span["score"] for span in answer] == pytest.approx(scores, abs=1e-5)


def test_ten_thousand_words_slide_windows() -> None:
    task = tag(64, pieces="joint")
    parameters = task.parse_parameters(EVERY)
    words = ["cat", "unwantedly", "U.N.", "Paris"] * 2500
    encoded = task.encode(words, parameters)
    assert len(encoded.rows) > 100 and max(len(row.input_ids) for row in encoded.rows) == 64
    answer = decode(task, encoded, pieces_of(encoded, ["O", "B-PER", "B-LOC", "B-LOC"] * 2500), parameters)
    assert [item["word"] for item in answer] == words
    assert [item["entity"] for item in answer] == ["O", "B-PER", "B-LOC", "B-LOC"] * 2500


@pytest.mark.parametrize("pieces", ["joint", "first"])
def test_a_head_of_single_sentences_takes_given_words_for_one(pieces: str) -> None:
    task = tag(trained=Trained(sentences="one"), pieces=pieces)
    words = ["The", "end", ".", "Anna", "ran", "!"]
    assert len(task.encode(" ".join(words), task.parse_parameters({})).rows) == 2
    assert len(task.encode(words, task.parse_parameters(GIVEN)).rows) == 1


@pytest.mark.parametrize(
    ("inputs", "chosen", "several"),
    [
        ("a", {}, False),
        (["a", "b"], {}, True),
        (["a", "b"], GIVEN, False),
        ([["a", "b"], ["c"]], GIVEN, True),
        ([["a", "b"]], {}, True),
        ([["a"], "b"], GIVEN, True),
        ([], GIVEN, False),
        ([[]], GIVEN, True),
    ],
)
def test_the_parameter_tells_a_list_of_inputs_from_one_of_words(
    inputs: Any, chosen: dict[str, Any], several: bool
) -> None:
    task = tag()
    assert task.is_list(inputs, task.parse_parameters(chosen)) is several
    for one in inputs if several else [inputs]:
        assert TypeAdapter(Tag.inputs).validate_python(one, strict=True) == one


@pytest.mark.parametrize(
    ("inputs", "chosen", "message"),
    [
        ("Angela", GIVEN, "inputs: is a text, but with is_split_into_words it must be a list of words"),
        (["Angela"], {}, "inputs: is a list of words, but expected a text; set parameters.is_split_into_words to true"),
        ([], GIVEN, "inputs: holds 0 words, but expected 1 to 100000; send them in parts"),
        ([""] * 100_001, GIVEN, "inputs: holds 100001 words, but expected 1 to 100000"),
        (["a", ""], GIVEN, r"inputs\[1\]: '' has no visible character; leave the word out"),
        (["a", "b", " \n"], GIVEN, r"inputs\[2\]: ' \\n' has no visible character"),
        (["\u03a9", "\u200b"], GIVEN, r"inputs\[1\]: '\\u200b' has no visible"),
        (["a", "b\0"], GIVEN, r"inputs\[1\]: character 1 is U\+0000"),
        (["\ud800"], GIVEN, r"inputs\[0\]: character 0 is U\+D800"),
        (["a. " * 3000] * 100, {**GIVEN, "stride": 125}, "inputs: has 600000 tokens, which makes .* windows"),
    ],
)
def test_words_that_cannot_be_tagged_are_named(inputs: Any, chosen: dict[str, Any], message: str) -> None:
    task = tag()
    with pytest.raises(InputError, match=message):
        task.encode(inputs, task.parse_parameters(chosen))


@pytest.mark.parametrize("pieces", ["joint", "first", "all"])
def test_a_threshold_leaves_out_what_scores_lower(pieces: str) -> None:
    task = tag(pieces=pieces)
    logits = logits_of("B-PER", "O", "B-LOC", height=2.0)
    logits[2] *= 2
    for strategy in ("none", "simple"):
        every = task.parse_parameters({"aggregation_strategy": strategy})
        encoded = task.encode("cat met paris", every)
        answer = decode(task, encoded, logits, every)
        low, high = sorted(item["score"] for item in answer)
        for threshold, kept in ((low, 2), (np.nextafter(low, 1), 1), (high, 1), (1.0, 0)):
            chosen = task.parse_parameters({"aggregation_strategy": strategy, "threshold": float(threshold)})
            found = decode(task, encoded, logits, chosen)
            assert found == [item for item in answer if item["score"] >= threshold] and len(found) == kept
    with pytest.raises(InputError, match="parameters.threshold: is 1.5, but input should be less than or equal to 1"):
        task.parse_parameters({"threshold": 1.5})
