"""If these fail, RoBERTa, XLM-RoBERTa or CamemBERT heads give other spans or scores than transformers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    pipeline,
)

from models.errors import InputError
from models.fill_mask import FillMask
from models.qa import QuestionAnswering, QuestionInput
from models.tagging import Tag
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from models.zero_shot import ZeroShot
from tests.models import tiny, vocabularies
from tests.models.test_tokenizer_kinds import KINDS, TEXTS
from training.evaluation.masked_passages import masked_passages
from training.parity.made_texts import made_texts
from training.text.examples import Document

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TEXT = "Angela Merkel's  city, Berlin (日本 🙂)\nis\tnot in cafe\u0301 France… "


class Vocabulary:
    """Our tokenizer, that of transformers, and random networks on it."""

    def __init__(self, kind: str, directory: Path, **changes: Any) -> None:
        vocabularies.save(vocabularies.CLASSES[kind](**changes), directory, kind)
        self.ours = Tokenizer.read(directory)
        self.theirs = AutoTokenizer.from_pretrained(directory)

    def model(self, kind: Any, labels: list[str]) -> Any:
        configuration = RobertaConfig(
            vocab_size=self.ours.vocab_size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=130,
            type_vocab_size=1,
            pad_token_id=self.ours.pad_id,
            initializer_range=0.5,
            id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
        )
        return tiny.random_model(kind, configuration)


@pytest.fixture(scope="module", params=KINDS)
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return Vocabulary(request.param, tmp_path_factory.mktemp(request.param))


def tag(tokenizer: Tokenizer, **defaults: Any) -> Tag:
    return Tag(tokenizer, HeadSpec("tag", TAGS, defaults), 128)


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_all_pieces_are_aggregated_as_by_transformers(vocabulary: Vocabulary, strategy: str) -> None:
    """Except for blanks at the ends of answers."""
    model = vocabulary.model(RobertaForTokenClassification, TAGS)
    theirs = pipeline("token-classification", model=model, tokenizer=vocabulary.theirs)
    task = tag(vocabulary.ours, pieces="all", aggregation_strategy=strategy, ignore_labels=[])
    parameters = task.parse_parameters({})
    for text in (TEXT, "Paris", "  a  b", "see U.S. e-mail 3.14 B2B"):
        encoded = task.encode(text, parameters)
        answer: Any = task.decode(encoded, tiny.run(model, encoded.rows), parameters)
        expected: Any = theirs(text, aggregation_strategy=strategy, ignore_labels=[])
        expected = [item for item in expected if text[item["start"] : item["end"]].strip()]
        assert len(answer) == len(expected)
        for item, other in zip(answer, expected, strict=True):
            assert item["score"] == pytest.approx(float(other["score"]), abs=1e-5)
            assert item["word"] == text[item["start"] : item["end"]] == item["word"].strip()
            assert item["word"].startswith(text[other["start"] : other["end"]].strip())
            assert other["start"] <= item["start"] <= item["end"]
            same = set(item) - {"score", "word", "start", "end"}
            assert {key: item[key] for key in same} == {key: other[key] for key in same}


@settings(deadline=None, max_examples=100)
@given(text=TEXTS, reading=st.sampled_from(["first", "joint", "all"]), seed=st.integers(0, 9))
@example(text="\x07\r0", reading="first", seed=0)
def test_spans_hold_no_blanks_and_the_text_comes_back(
    vocabulary: Vocabulary, text: str, reading: str, seed: int
) -> None:
    task = tag(vocabulary.ours, pieces=reading)
    for chosen in ({}, {"redact": True}, {"aggregation_strategy": "none", "ignore_labels": []}):
        parameters = task.parse_parameters(chosen)
        try:
            encoded = task.encode(text, parameters)
        except InputError:
            assert not vocabulary.ours.encode_batch([text])[0].ids or not text.strip() or "NUL" in text
            return
        count = sum(len(row.positions) for row in encoded.rows)
        logits = np.random.default_rng(seed).normal(0, 3, (count, len(TAGS))).astype(np.float32)
        answer: Any = task.decode(encoded, logits, parameters)
        spans = answer["spans"] if "redact" in chosen else answer
        assert all(text[span["start"] : span["end"]] == span["word"] for span in spans)
        assert all(span["word"] and span["word"][0] != " " and span["word"][-1] != " " for span in spans)
        if "redact" in chosen:
            restored = answer["text"]
            for span in spans:
                restored = restored.replace(span["placeholder"], span["word"], 1)
            assert restored == text


def test_given_words_are_read_at_the_first_pieces_of_transformers(tmp_path: Path) -> None:
    words = ["Angela", "Merkel's", "café", "日本", ",", "unhappilynational"]
    for kind, changes in (("roberta", {"add_prefix_space": True}), ("xlm-roberta", {}), ("camembert", {})):
        vocabulary = Vocabulary(kind, tmp_path / kind, **changes)
        task = tag(vocabulary.ours)
        encoded = task.encode(words, task.parse_parameters({"is_split_into_words": True}))
        expected = vocabulary.theirs(words, is_split_into_words=True)
        assert [row.input_ids for row in encoded.rows] == [expected["input_ids"]]
        assert encoded.rows[0].positions == [expected.word_ids().index(number) for number in range(len(words))]
        assert encoded.source.spans == [(0, 6), (7, 15), (16, 20), (21, 23), (24, 25), (26, 43)]
        with pytest.raises(InputError, match="no visible character"):
            task.encode(["a", " "], task.parse_parameters({"is_split_into_words": True}))


def test_free_text_reads_the_words_that_were_given(vocabulary: Vocabulary) -> None:
    """Where each stands behind a blank."""
    for reading in ("first", "joint"):
        task = tag(vocabulary.ours, pieces=reading)
        parameters = task.parse_parameters({})
        words = "Angela Merkel xyz unhappilynational ελλάδα".split()
        given = task.encode_words(words, parameters)
        free = task.encode(" " + " ".join(words), parameters)
        assert free.rows == given.rows
        assert [(a - 1, b - 1) for a, b in free.source.spans] == given.source.spans


@settings(deadline=None, max_examples=100)
@given(text=TEXTS, align=st.booleans(), seed=st.integers(0, 9))
def test_answers_hold_no_blanks(vocabulary: Vocabulary, text: str, align: bool, seed: int) -> None:
    task = QuestionAnswering(vocabulary.ours, HeadSpec("qa", []), 64)
    parameters = task.parse_parameters({"align_to_words": align, "top_k": 20})
    context = f"Paris  {text} the\n"
    encoded = task.encode(QuestionInput(question="the capital?", context=context), parameters)
    count = sum(len(row.positions) for row in encoded.rows)
    logits = np.random.default_rng(seed).normal(0, 3, (count, 2)).astype(np.float32)
    answers: Any = task.decode(encoded, logits, parameters)
    assert answers
    for answer in answers:
        assert answer["answer"] == context[answer["start"] : answer["end"]] == answer["answer"].strip(" \n\t")
        assert answer["answer"]


def test_rows_of_questions_are_those_of_transformers(vocabulary: Vocabulary) -> None:
    task = QuestionAnswering(vocabulary.ours, HeadSpec("qa", []), 128)
    inputs = QuestionInput(question="Where is Angela?", context=TEXT)
    encoded = task.encode(inputs, task.parse_parameters({}))
    assert encoded.rows[0].input_ids == vocabulary.theirs(inputs.question, TEXT)["input_ids"]
    first = vocabulary.theirs(inputs.question)["input_ids"]
    assert encoded.rows[0].positions[:2] == [0, len(first) + 1]
    answer = (TEXT.index("Berlin"), TEXT.index("Berlin") + 6)
    ((row, start, end),) = task.encode_training(inputs, answer, task.parse_parameters({}))
    tokens = [row.input_ids[row.positions[index]] for index in range(start, end + 1)]
    assert vocabulary.ours.decode(tokens).strip() == "Berlin"


def test_a_row_of_a_pair_is_never_too_long(vocabulary: Vocabulary) -> None:
    task = QuestionAnswering(vocabulary.ours, HeadSpec("qa", []), 32)
    encoded = task.encode(QuestionInput(question="Where?", context=9 * TEXT), task.parse_parameters({}))
    assert {len(row.input_ids) for row in encoded.rows} == {32}


@pytest.mark.parametrize("text", ["Paris is the {} of France.", "{}", "The {} of {}, isn't it? {}"])
def test_masks_are_filled_as_by_transformers(vocabulary: Vocabulary, text: str) -> None:
    model = vocabulary.model(RobertaForMaskedLM, [])
    theirs = pipeline("fill-mask", model=model, tokenizer=vocabulary.theirs)
    task = FillMask(vocabulary.ours, HeadSpec("fill-mask", []), 128)
    known = [vocabulary.ours.token(i) for i in vocabulary.ours.ids("the of France")]
    for chosen in ({"top_k": 100}, {"targets": ["the", "of", *known], "top_k": 3}):
        expected: Any = theirs(text.replace("{}", "<mask>"), **chosen)
        for mask in ("[MASK]", "<mask>"):
            parameters = task.parse_parameters(chosen)
            encoded = task.encode(text.replace("{}", mask), parameters)
            answer: Any = task.decode(encoded, tiny.run(model, encoded.rows), parameters)
            for choices, others in zip(_lists(answer), _lists(expected), strict=True):
                assert [choice["token"] for choice in choices] == [other["token"] for other in others]
                for choice, other in zip(choices, others, strict=True):
                    assert math.isclose(choice["score"], other["score"], abs_tol=1e-5)
                    assert (choice["token_str"], choice["sequence"]) == (other["token_str"], other["sequence"])


def _lists(answer: Any) -> Any:
    return answer if isinstance(answer[0], list) else [answer]


def test_targets_of_roberta_have_their_blank(tmp_path: Path) -> None:
    tokenizer = Vocabulary("roberta", tmp_path).ours
    task = FillMask(tokenizer, HeadSpec("fill-mask", []), 128)
    encoded = task.encode("the [MASK]", task.parse_parameters({"targets": [" the", "Ġof", "a"]}))
    assert encoded.source.targets is not None
    assert [tokenizer.token(i) for i in encoded.source.targets.tolist()] == ["Ġthe", "Ġof", "a"]
    for target in ("<s>", "<pad>", "Ġunhappilynational"):
        with pytest.raises(InputError, match="not a single token"):
            task.encode("[MASK]", task.parse_parameters({"targets": [target]}))


def test_hypotheses_are_rated_as_by_transformers(vocabulary: Vocabulary) -> None:
    labels = ["contradiction", "neutral", "entailment"]
    model = vocabulary.model(RobertaForSequenceClassification, labels)
    theirs = pipeline("zero-shot-classification", model=model, tokenizer=vocabulary.theirs)
    task = ZeroShot(vocabulary.ours, HeadSpec("pair", labels), 128)
    for many in (True, False):
        parameters = task.parse_parameters({"candidate_labels": ["Berlin", "music", "river"], "multi_label": many})
        encoded = task.encode(TEXT, parameters)
        answer = task.decode(encoded, tiny.run(model, encoded.rows), parameters)
        expected: Any = theirs(TEXT, ["Berlin", "music", "river"], multi_label=many)
        assert [item["label"] for item in answer] == expected["labels"]
        assert [item["score"] for item in answer] == pytest.approx(expected["scores"], abs=1e-5)


def test_passages_are_masked_where_masks_can_be_written(vocabulary: Vocabulary) -> None:
    text = 12 * "Paris is the capital of France, but  Berlin that of Germany.\nit's unhappilynational. "
    passages = masked_passages([Document(text)], vocabulary.ours)
    assert len(passages) > 1
    for passage in passages:
        ids = vocabulary.ours.ids_with_masks(passage.text)
        masked = [n for n, token in enumerate(ids) if token == vocabulary.ours.mask_id]
        assert [passage.ids[n] for n in masked] == passage.gold
        assert len(ids) == len(passage.ids)


def test_texts_are_made_of_whole_words(vocabulary: Vocabulary) -> None:
    words = {word for text in made_texts(vocabulary.ours, 40) for word in text.split()}
    assert words
    assert all(word.isalpha() and "Ġ" not in word for word in words)
