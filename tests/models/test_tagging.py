"""If these fail, entities get wrong borders, labels or scores, or words of a long text are lost, doubled or misread."""

from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import BertForTokenClassification, pipeline

from models.bio import Sequences
from models.errors import InputError
from models.row import Encoded
from models.scripts import word_numbers
from models.tagging import Tag, TagParameters, TagSource, Token
from models.task import HeadSpec, Trained
from models.tokenizer import Pieces, Tokenizer
from models.windows import MAX_WINDOWS, owners, slide
from tests.models import tiny

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
UNKNOWN = Trained()
FIXTURES = Path(__file__).parents[1] / "fixtures"
UNCASED = Tokenizer.read(FIXTURES)
MERKEL = "Angela Merkel visited Paris, London and the U.N. in New York."


def tag(max_length: int = 128, labels: list[str] = LABELS, trained: Trained = UNKNOWN, **defaults: object) -> Tag:
    return Tag(UNCASED, HeadSpec("tag", labels, defaults, trained=trained), max_length)


def logits_of(*labels: str, height: float = 9.0) -> NDArray[np.float32]:
    return height * np.eye(len(LABELS), dtype=np.float32)[[LABELS.index(label) for label in labels]]


def pieces_of(encoded: Encoded[TagSource], labels: list[str]) -> NDArray[np.float32]:
    """Logits that say for the pieces of each word what is said of the word."""
    firsts, count = encoded.source.firsts, sum(len(row.positions) for row in encoded.rows)
    each = []
    for label, first, stop in zip(labels, firsts, [*firsts[1:], count], strict=True):
        each += [label, *[label.replace("B-", "I-")] * (stop - first - 1)]
    return logits_of(*each)


def decode(
    task: Tag, encoded: Encoded[TagSource], logits: NDArray[np.float32], parameters: TagParameters
) -> list[dict[str, Any]]:
    answer: Any = task.decode(encoded, logits, parameters)
    assert isinstance(answer, list)
    return answer


def words_of(encoded: Encoded[TagSource]) -> list[str]:
    return [encoded.source.text[start:end] for start, end in encoded.source.spans]


def read_tokens(encoded: Encoded[TagSource]) -> list[str]:
    return [UNCASED.token(row.input_ids[column]) for row in encoded.rows for column in row.positions]


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("labels", [LABELS, ["O", "PER", "LOC"]])
def test_all_pieces_are_aggregated_as_by_transformers(tmp_path: Path, strategy: str, labels: list[str]) -> None:
    model = tiny.random_model(BertForTokenClassification, tiny.config(UNCASED, labels))
    theirs = pipeline("token-classification", model=model, tokenizer=tiny.their_tokenizer(UNCASED, tmp_path))
    task = tag(labels=labels, pieces="all")
    for text in (
        MERKEL,
        "Unwantedly, George Washingtons bankers' filmings: \u03a9 日本 caf\u00e9s don't!",
        "caf\u00e9",
    ):
        for ignored in (["O"], [], ["O", "PER", "B-LOC"]):
            parameters = task.parse_parameters({"aggregation_strategy": strategy, "ignore_labels": ignored})
            encoded = task.encode(text, parameters)
            answer = decode(task, encoded, tiny.run(model, encoded.rows), parameters)
            expected = theirs(text, aggregation_strategy=strategy, ignore_labels=ignored)
            assert len(answer) == len(expected)
            for item, other in zip(answer, expected, strict=True):
                assert item["score"] == pytest.approx(float(other["score"]), abs=1e-5)
                assert item["word"] == text[item["start"] : item["end"]]
                assert set(item) == set(other)
                same = set(item) - {"score", "word"}
                assert {key: item[key] for key in same} == {key: other[key] for key in same}


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
@pytest.mark.parametrize("pieces", ["first", "joint"])
def test_spans_of_a_sentence_hold_no_punctuation_that_is_not_theirs(strategy: str, pieces: str) -> None:
    task = tag(pieces=pieces)
    parameters = task.parse_parameters({"aggregation_strategy": strategy})
    encoded = task.encode(MERKEL, parameters)
    tags = dict.fromkeys(words_of(encoded), "O") | {"Angela": "B-PER", "Merkel": "I-PER", "Paris": "B-LOC"}
    tags |= {"London": "B-LOC", "New": "B-LOC", "York": "I-LOC"}
    labels = [tags[word] for word in words_of(encoded)]
    labels[8:12] = ["B-LOC", "I-LOC", "I-LOC", "I-LOC"]  # U . N .
    answer = decode(task, encoded, pieces_of(encoded, labels), parameters)
    assert [(span["entity_group"], span["word"]) for span in answer] == [
        ("PER", "Angela Merkel"),
        ("LOC", "Paris"),
        ("LOC", "London"),
        ("LOC", "U.N."),
        ("LOC", "New York"),
    ]
    assert all(MERKEL[span["start"] : span["end"]] == span["word"] for span in answer)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ann's dog", ["Ann", "'", "s", "dog"]),
        ("AT&T, e.g. 4.6", ["AT", "&", "T", ",", "e", ".", "g", ".", "4", ".", "6"]),
        ("cafe\u0301s. \U0001f642\U0001f642 東京", ["cafe\u0301s", ".", "\U0001f642\U0001f642", "東", "京"]),
        ('"Paris"...\n(London)', ['"', "Paris", '"', ".", ".", ".", "(", "London", ")"]),
        ("unwantedly", ["unwantedly"]),
    ],
)
def test_words_of_free_text_are_those_of_the_pre_tokenizer(text: str, words: list[str]) -> None:
    for pieces in ("first", "joint"):
        task = tag(pieces=pieces)
        assert words_of(task.encode(text, task.parse_parameters({}))) == words


def test_where_no_blank_divides_words_each_token_is_one() -> None:
    # The vocabulary of the fixtures has no kana: pieces are made by hand, as a Japanese vocabulary would give them.
    text = "カタナとKatanas"
    pieces = Pieces.of([5] * 5, [(0, 2), (2, 3), (3, 4), (4, 10), (10, 11)], [0] * 5)
    assert word_numbers(text, pieces).tolist() == [0, 1, 2, 3, 3]
    korean = "대한민국 서울"
    assert word_numbers(korean, Pieces.of([5] * 3, [(0, 2), (2, 4), (5, 7)], [0, 0, 1])).tolist() == [0, 0, 1]
    assert word_numbers("の", Pieces.of([5], [(0, 1)], [0])).tolist() == [0]
    assert word_numbers("の", Pieces.of([], [], [])).tolist() == []


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1 << 32), sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_joint_tags_are_the_likeliest_that_divide_no_word(seed: int, sizes: list[int]) -> None:
    scores = np.random.default_rng(seed).dirichlet(np.full(len(LABELS), 0.5), sum(sizes))
    firsts = np.cumsum([0, *sizes[:-1]])
    go_on = {"O": "O", "B-PER": "I-PER", "I-PER": "I-PER", "B-LOC": "I-LOC", "I-LOC": "I-LOC"}

    def likelihood(tags: tuple[str, ...]) -> float:
        if any(t.startswith("I-") and b[2:] != t[2:] for b, t in zip(("O", *tags), tags, strict=False)):
            return -np.inf
        pieces = [go_on[t] if k else t for t, size in zip(tags, sizes, strict=True) for k in range(size)]
        return float(np.log([scores[i, LABELS.index(t)] for i, t in enumerate(pieces)]).sum())

    found = tuple(LABELS[t] for t in Sequences(LABELS).of_words(scores, firsts).tolist())
    assert likelihood(found) == pytest.approx(max(map(likelihood, product(LABELS, repeat=len(sizes)))))


def test_the_score_of_a_span_is_what_its_words_deserve() -> None:
    """A word whose pieces all say PER scores high, though none is sure whether it begins or goes on."""
    task = tag(pieces="joint")
    parameters = task.parse_parameters({})
    encoded = task.encode("unwantedly cat", parameters)
    logits = np.zeros((len(read_tokens(encoded)), len(LABELS)), np.float32)
    logits[:, LABELS.index("B-PER")] = 8.0
    logits[:, LABELS.index("I-PER")] = 7.9
    answer = decode(task, encoded, logits, parameters)
    assert [span["word"] for span in answer] == ["unwantedly", "cat"]
    assert all(span["score"] > 0.99 for span in answer)


def test_pieces_of_a_word_agree_on_a_plain_tag_too() -> None:
    task = tag(labels=["NOUN", "VERB"], pieces="joint")
    parameters = task.parse_parameters({"aggregation_strategy": "none", "ignore_labels": []})
    encoded = task.encode("unwantedly cat", parameters)
    logits = np.log(np.array([[0.6, 0.4], [0.1, 0.9], [0.5, 0.5], [0.8, 0.2]], np.float32)[: len(read_tokens(encoded))])
    answer = decode(task, encoded, logits, parameters)
    assert [(unit["word"], unit["entity"]) for unit in answer] == [("unwantedly", "VERB"), ("cat", "NOUN")]


def test_rows_are_as_long_as_those_that_the_head_learned_from() -> None:
    def longest(task: Tag, **parameters: int) -> int:
        rows = task.encode("the cat " * 200, task.parse_parameters(parameters)).rows
        return max(len(row.input_ids) for row in rows)

    trained = Trained(max_length=32, sentences="several")
    assert longest(tag(max_length=512, trained=trained)) == 32
    assert longest(tag(max_length=512, trained=trained), max_seq_len=200) == 200
    assert longest(tag(max_length=16, trained=trained)) == 16
    assert longest(tag(max_length=128)) == 128


def test_a_head_of_single_sentences_reads_one_at_a_time() -> None:
    task = tag(trained=Trained(max_length=64, sentences="one"), pieces="joint")
    text = "The cat met Dr. Smith of St. Louis. Anna ran!\n- New York\nthe end"
    encoded = task.encode(text, task.parse_parameters({}))
    rows = [" ".join(UNCASED.token(i) for i in row.input_ids[1:-1]).replace(" ##", "") for row in encoded.rows]
    assert [row.split()[0] for row in rows] == ["the", "anna", "-", "the"]
    assert sum(len(row.positions) for row in encoded.rows) == len(UNCASED.encode(text))
    longer = tag(trained=Trained(max_length=8, sentences="one"), pieces="joint")
    assert all(len(row.input_ids) <= 8 for row in longer.encode(text, longer.parse_parameters({})).rows)


def tags_of_words(task: Tag, encoded: Encoded[TagSource], logits: NDArray[np.float32]) -> list[str]:
    asked = {"is_split_into_words": True, "aggregation_strategy": "none", "ignore_labels": []}
    return [item["entity"] for item in decode(task, encoded, logits, task.parse_parameters(asked))]


def test_given_words_are_read_at_their_first_piece() -> None:
    task = tag(pieces="all")
    encoded = task.encode_words(["U.N.", "unwantedly", "\u200b", "don't"], task.parse_parameters({}))
    assert read_tokens(encoded) == ["u", "unwanted", "[UNK]", "don"]
    assert words_of(encoded) == ["U.N.", "unwantedly", "\u200b", "don't"]
    labels = ["B-LOC", "O", "B-PER", "O"]
    assert tags_of_words(task, encoded, logits_of(*labels)) == labels
    _, second, third, _ = tags_of_words(task, encoded, logits_of("B-LOC", "I-LOC", "I-PER", "O"))
    assert second[2:] == third[2:]  # one of the two gave way, so that both are of one span
    with pytest.raises(InputError, match="inputs: holds no word"):
        task.encode_words([], task.parse_parameters({}))


def test_given_words_are_read_whole_by_a_head_of_all_pieces() -> None:
    task = tag(pieces="joint")
    encoded = task.encode_words(["U.N.", "unwantedly", "\u200b", "don't"], task.parse_parameters({}))
    assert words_of(encoded) == ["U.N.", "unwantedly", "\u200b", "don't"]
    assert read_tokens(encoded)[:4] == ["u", ".", "n", "."] and read_tokens(encoded)[-3:] == ["don", "'", "t"]
    labels = ["B-LOC", "I-LOC", "B-PER", "O"]
    assert tags_of_words(task, encoded, pieces_of(encoded, labels)) == labels


def test_free_text_reads_what_its_words_would() -> None:
    task = tag(pieces="joint")
    parameters = task.parse_parameters({})
    words = "The U.N. met Ann 's Corp. , in the unwantedly 4.6 films .".split()
    text = "The U.N. met Ann's Corp., in the unwantedly 4.6 films."
    assert task.encode(text, parameters).rows == task.encode_words(words, parameters).rows


def test_imported_groups_begin_at_b_and_at_another_entity() -> None:
    task = tag(ignore_labels=[], pieces="all")
    parameters = task.parse_parameters({})
    text = "a b c d e f g h i"
    labels = ["I-PER", "I-PER", "B-PER", "I-PER", "I-LOC", "B-LOC", "O", "I-LOC", "O"]
    answer = decode(task, task.encode(text, parameters), logits_of(*labels), parameters)
    assert [(span["entity_group"], span["word"]) for span in answer] == [
        ("PER", "a b"),
        ("PER", "c d"),
        ("LOC", "e"),
        ("LOC", "f"),
        ("O", "g"),
        ("LOC", "h"),
        ("O", "i"),
    ]


def test_none_answers_one_item_a_word() -> None:
    task = tag()
    parameters = task.parse_parameters({"aggregation_strategy": "none"})
    answer = decode(task, task.encode("the washingtons", parameters), logits_of("O", "B-PER"), parameters)
    score = float(np.exp(9) / (np.exp(9) + 4))
    assert answer[0]["score"] == pytest.approx(score)
    item: Token = {"entity": "B-PER", "score": score, "index": 2, "word": "washingtons", "start": 4, "end": 15}
    assert answer == [item | {"score": answer[0]["score"]}]


@given(st.integers(1, 200), st.integers(1, 30), st.data())
def test_windows_cover_all_and_own_each_token_where_it_has_most_context(
    length: int, room: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, room - 1))
    starts = slide(length, room, overlap, "inputs").tolist()
    stops = [min(start + room, length) for start in starts]
    context = [
        [min(t - start, stop - 1 - t) if start <= t < stop else -1 for start, stop in zip(starts, stops, strict=True)]
        for t in range(length)
    ]
    assert owners(np.array(starts), room, length).tolist() == [row.index(max(row)) for row in context]
    assert all(max(row) >= 0 for row in context)
    assert all(after - before <= room - overlap for before, after in zip(starts, starts[1:], strict=False))


@given(st.lists(st.sampled_from(["cat", "unwantedly", "U.N.", "washingtonss,"]), min_size=1, max_size=40), st.data())
def test_each_unit_of_a_long_text_is_read_once_and_in_order(words: list[str], data: st.DataObject) -> None:
    text = " ".join(words)
    task = tag(max_length=data.draw(st.integers(6, 24)))
    stride = data.draw(st.integers(0, task.max_length - 3))
    for pieces in ("first", "all", "joint"):
        long = task.encode(text, task.parse_parameters({"stride": stride, "pieces": pieces}))
        short = tag(max_length=1000).encode(text, task.parse_parameters({"pieces": pieces}))
        assert len(short.rows) == 1
        assert read_tokens(long) == read_tokens(short)
        assert long.source == short.source
        assert all(len(row.input_ids) <= task.max_length for row in long.rows)
        assert all(row.positions == sorted(set(row.positions)) for row in long.rows)


def test_the_pieces_of_a_word_come_from_one_window_where_one_holds_them() -> None:
    task = tag(max_length=12, pieces="all")
    parameters = task.parse_parameters({"stride": 6})
    encoded = task.encode("unwantedly " * 20, parameters)
    window = [number for number, row in enumerate(encoded.rows) for _ in row.positions]
    assert len(encoded.rows) > 3
    assert all(window[i] == window[i - 1] for i, goes_on in enumerate(encoded.source.continues) if goes_on)


def test_a_span_in_the_overlap_of_windows_appears_once() -> None:
    task = tag(max_length=8)
    parameters = task.parse_parameters({"stride": 4})
    words = ["the"] * 30
    words[9:11] = ["New", "York"]
    encoded = task.encode(" ".join(words), parameters)
    labels = ["O"] * 30
    labels[9:11] = ["B-LOC", "I-LOC"]
    answer = decode(task, encoded, logits_of(*labels), parameters)
    assert [span["word"] for span in answer] == ["New York"]


@pytest.mark.parametrize(
    ("text", "given_parameters", "message"),
    [
        ("", {}, "inputs: '' has no visible character"),
        ("a\ud800", {}, r"inputs: character 1 is U\+D800"),
        ("cat", {"stride": 126}, "parameters.stride: is 126, but a window has 126 tokens"),
        ("cat", {"stride": -1}, "parameters.stride: is -1"),
        ("cat", {"stride": 1.0}, "parameters.stride: is 1.0"),
        ("cat", {"max_seq_len": 129}, "parameters.max_seq_len: is 129, but this model takes 128; pass less"),
        ("cat", {"max_seq_len": 2}, "parameters.max_seq_len: is 2"),
        ("cat", {"aggregation_strategy": "best"}, "parameters.aggregation_strategy: is 'best'"),
        ("cat", {"ignore_labels": "O"}, "parameters.ignore_labels: is 'O'"),
        ("a " * 3000, {"stride": 125}, f"inputs: has 3000 tokens, .* at most {MAX_WINDOWS}"),
    ],
)
def test_what_cannot_be_answered_is_refused(text: str, given_parameters: dict[str, object], message: str) -> None:
    task = tag()
    with pytest.raises(InputError, match=message):
        task.encode(text, task.parse_parameters(given_parameters))


@pytest.mark.parametrize(
    "text", ["a" * 300_000, "a." * 100_000, "A. " * 100_000, "A." + " " * 300_000 + "b", "'s" * 100_000]
)
def test_finding_words_takes_linear_time(text: str) -> None:
    # A quadratic pattern would take minutes here.
    task = tag(max_length=512, pieces="joint")
    assert task.encode(text, task.parse_parameters({})).rows
    single = tag(max_length=512, trained=Trained(max_length=512, sentences="one"), pieces="joint")
    with suppress(InputError):  # too many sentences
        assert single.encode(text, single.parse_parameters({})).rows
