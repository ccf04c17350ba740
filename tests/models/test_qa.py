"""If these fail, answers have other spans, scores or offsets than the logits say."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.errors import InputError
from models.qa import Answer, QuestionAnswering, QuestionInput, QuestionSource
from models.row import Encoded
from models.task import HeadSpec, Trained
from models.tokenizer import Tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
UNCASED = Tokenizer.read(FIXTURES)
ANN = QuestionInput(question="Where does Ann live?", context="Ann lives in the city of Paris, the capital of France.")


def qa(max_length: int = 384, temperature: float = 1.0, **defaults: object) -> QuestionAnswering:
    return QuestionAnswering(UNCASED, HeadSpec("qa", [], defaults, temperature), max_length)


def random_logits(encoded: Encoded[QuestionSource], seed: int) -> NDArray[np.float32]:
    count = sum(len(row.positions) for row in encoded.rows)
    return np.random.default_rng(seed).normal(0, 3, (count, 2)).astype(np.float32)


def peak(encoded: Encoded[QuestionSource], *tokens: tuple[str, str]) -> NDArray[np.float32]:
    """Logits of one window that are high from the first to the last of each pair of tokens."""
    (row,) = encoded.rows
    names = [UNCASED.token(row.input_ids[column]) for column in row.positions]
    logits = np.zeros((len(names), 2), dtype=np.float32)
    for rank, (first, last) in enumerate(tokens):
        logits[names.index(first), 0] = logits[names.index(last), 1] = 10 - rank
    return logits


def as_list(answer: Answer | list[Answer]) -> list[Answer]:
    return answer if isinstance(answer, list) else [answer]


def brute_force(
    encoded: Encoded[QuestionSource], logits: NDArray[np.float32], longest: int
) -> tuple[dict[tuple[int, int], float], float, float]:
    """Score of every span by its characters, and score and margin of no answer, in plain loops from the rows alone."""
    source = encoded.source
    windows, begin = [], 0
    for row, start in zip(encoded.rows, source.starts.tolist(), strict=True):
        windows.append((start, logits[begin : begin + len(row.positions)].astype(float)))
        begin += len(row.positions)
    context = UNCASED.encode(source.context)
    cls = min((window[0] for _, window in windows), key=lambda pair: pair[0] + pair[1])
    starts = {token: best_window(windows, token) for token in range(len(context))}
    start_sum = np.exp(cls[0]) + sum(np.exp(windows[w][1][1 + t - windows[w][0], 0]) for t, w in starts.items())
    end_sum = np.exp(cls[1]) + sum(np.exp(window[1:, 1]).sum() for _, window in windows)
    spans: dict[tuple[int, int], float] = {}
    best = -np.inf
    for token, number in starts.items():
        first, window = windows[number]
        for end in range(token, min(token + longest, first + len(window) - 1)):
            logit = window[1 + token - first, 0] + window[1 + end - first, 1]
            best = max(best, logit)
            key = (
                word_span(context.offsets, context.words, token)[0],
                word_span(context.offsets, context.words, end)[1],
            )
            spans[key] = max(spans.get(key, 0.0), float(np.exp(logit) / start_sum / end_sum))
    return spans, float(np.exp(cls.sum()) / start_sum / end_sum), float(cls.sum() - best)


def best_window(windows: list[tuple[int, NDArray[np.float64]]], token: int) -> int:
    """_check_is_max_context of Google's run_squad.py."""
    best, best_score = 0, -1.0
    for number, (start, window) in enumerate(windows):
        length = len(window) - 1
        if start <= token < start + length:
            score = min(token - start, start + length - 1 - token) + 0.01 * length
            if score > best_score:
                best, best_score = number, score
    return best


def word_span(offsets: NDArray[np.int64], words: NDArray[np.int64], token: int) -> tuple[int, int]:
    same = [offset for offset, word in zip(offsets, words, strict=True) if word == words[token]]
    return same[0][0], same[-1][1]


def pipeline_scores(logits: NDArray[np.float32], longest: int) -> tuple[int, int, float, float]:
    """One window as in transformers' pipeline up to 5.2: the best span of positions, its score, and that of [CLS]."""
    start, end = (np.exp(column - column.max()) for column in logits.T.astype(float))
    start, end = start / start.sum(), end / end.sum()
    null = start[0] * end[0]
    start[0] = end[0] = 0
    table = np.tril(np.triu(np.outer(start, end)), longest - 1)
    first, last = np.unravel_index(table.argmax(), table.shape)
    return int(first), int(last), float(table.max()), float(null)


@pytest.mark.parametrize("asked", [{}, {"max_seq_len": 16, "doc_stride": 2}])
def test_the_score_of_each_place_is_that_of_plain_loops(asked: dict[str, int]) -> None:
    task = qa()
    parameters = task.parse_parameters({"max_answer_len": 5, **asked})
    encoded = task.encode(ANN, parameters)
    logits = random_logits(encoded, 3)
    spans, null, _ = brute_force(encoded, logits, 5)
    for start in range(len(ANN.context)):
        for end in range(start + 1, len(ANN.context) + 1):
            expected = spans.get((start, end), 0.0)
            assert task.score(encoded, logits, parameters, (start, end)) == pytest.approx(expected, rel=1e-6)
    assert task.score(encoded, logits, parameters, (0, 0)) == pytest.approx(null, rel=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_one_window_scores_as_the_pipeline_of_transformers(seed: int) -> None:
    task = qa()
    parameters = task.parse_parameters({"max_answer_len": 5, "handle_impossible_answer": True, "top_k": 1000})
    encoded = task.encode(ANN, parameters)
    logits = random_logits(encoded, seed)
    first, last, score, null = pipeline_scores(logits, 5)
    answers = as_list(task.decode(encoded, logits, parameters))
    best = next(answer for answer in answers if answer["answer"])
    assert best["score"] == pytest.approx(score, abs=1e-9)
    assert best["start"] == encoded.source.word_starts[first - 1]
    assert best["end"] == encoded.source.word_ends[last - 1]
    assert next(answer for answer in answers if not answer["answer"])["score"] == pytest.approx(null, abs=1e-9)
    assert (answers[0]["answer"] == "") == (null > score)


CONTEXT = st.lists(
    st.sampled_from(["unwantedly", "caf\u00e9", "cat", "U.N.", "東京", "\U0001f642", "Paris,"]), min_size=1
)


@settings(deadline=None)
@given(CONTEXT, st.integers(0, 1000), st.data())
def test_spans_of_any_number_of_windows_equal_brute_force(words: list[str], seed: int, data: st.DataObject) -> None:
    task = qa(max_length=20)
    room = 20 - 3 - 3
    given_parameters = {
        "doc_stride": data.draw(st.integers(0, room - 1)),
        "max_answer_len": data.draw(st.integers(1, 20)),
        "top_k": data.draw(st.integers(2, 1000)),
        "handle_impossible_answer": data.draw(st.booleans()),
        "no_answer_threshold": data.draw(st.sampled_from([-5.0, 0.0, 5.0])),
    }
    parameters = task.parse_parameters(given_parameters)
    inputs = QuestionInput(question="who is it", context="  ".join(words))
    encoded = task.encode(inputs, parameters)
    logits = random_logits(encoded, seed)
    spans, null, margin = brute_force(encoded, logits, parameters.max_answer_len)
    answers = as_list(task.decode(encoded, logits, parameters))
    assert task.no_answer_margin(encoded, logits, parameters) == pytest.approx(margin)
    assert all(answer["answer"] == inputs.context[answer["start"] : answer["end"]] for answer in answers)
    found = [answer for answer in answers if answer["answer"]]
    assert len({(answer["start"], answer["end"]) for answer in found}) == len(found)
    assert len(answers) == min(parameters.top_k, len(spans) + parameters.handle_impossible_answer)
    expected = sorted(spans.values(), reverse=True)[: len(found)]
    assert [answer["score"] for answer in found] == pytest.approx(expected)
    assert [spans[answer["start"], answer["end"]] for answer in found] == pytest.approx(expected)
    if parameters.handle_impossible_answer:
        assert (answers[0]["answer"] == "") == (margin > parameters.no_answer_threshold)
        assert all(answer["score"] == pytest.approx(null) for answer in answers if not answer["answer"])


def test_one_answer_is_an_object_and_the_first_of_several() -> None:
    task = qa()
    encoded = task.encode(ANN, task.parse_parameters({}))
    logits = peak(encoded, ("paris", "paris"), ("the", "city"))
    one = task.decode(encoded, logits, task.parse_parameters({}))
    several = task.decode(encoded, logits, task.parse_parameters({"top_k": 3}))
    assert isinstance(one, dict)
    assert isinstance(several, list)
    assert one == several[0]
    assert (one["answer"], one["start"], one["end"]) == ("Paris", 25, 30)
    assert len(several) == 3
    assert sum(answer["score"] for answer in several) <= 1


def test_answers_are_whole_words_of_the_original_text() -> None:
    task = qa()
    context = "\U0001f642\U0001f642 The cafe\u0301s of 東京 are unwantedly GREAT\u2026"
    encoded = task.encode(QuestionInput(question="what", context=context), task.parse_parameters({}))
    parameters = task.parse_parameters({})
    for tokens, answer in ((("cafe", "東"), "cafe\u0301s of 東"), (("##ly", "great"), "unwantedly GREAT")):
        assert as_list(task.decode(encoded, peak(encoded, tokens), parameters))[0]["answer"] == answer


def test_no_answer_competes_only_where_asked() -> None:
    task = qa()
    encoded = task.encode(ANN, task.parse_parameters({}))
    logits = peak(encoded, ("paris", "paris"))
    logits[0] = 11  # [CLS]: 22 against 20 of the best span

    def answers(**given_parameters: object) -> list[str]:
        parameters = task.parse_parameters(given_parameters)
        return [answer["answer"] for answer in as_list(task.decode(encoded, logits, parameters))]

    assert answers() == ["Paris"]
    assert answers(handle_impossible_answer=True) == [""]
    assert answers(handle_impossible_answer=True, no_answer_threshold=2.5) == ["Paris"]
    assert answers(handle_impossible_answer=True, top_k=2) == ["", "Paris"]
    assert answers(handle_impossible_answer=True, no_answer_threshold=2.5, top_k=2) == ["Paris", ""]
    (empty,) = as_list(task.decode(encoded, logits, task.parse_parameters({"handle_impossible_answer": True})))
    assert (empty["start"], empty["end"]) == (0, 0)
    assert 0.5 < empty["score"] < 1


def test_the_threshold_is_on_logits_as_the_head_gave_them() -> None:
    for temperature in (0.5, 1.0, 4.0):
        task = qa(temperature=temperature, handle_impossible_answer=True, no_answer_threshold=1.0)
        parameters = task.parse_parameters({})
        encoded = task.encode(ANN, parameters)
        logits = peak(encoded, ("paris", "paris"))
        logits[0] = 10.4
        assert as_list(task.decode(encoded, logits, parameters))[0]["answer"] == "Paris"
        logits[0] = 10.6
        assert as_list(task.decode(encoded, logits, parameters))[0]["answer"] == ""


def test_rows_hold_the_question_and_a_window_of_the_context() -> None:
    task = qa(max_length=16)
    parameters = task.parse_parameters({"doc_stride": 2, "max_answer_len": 5, "max_question_len": 3})
    encoded = task.encode(ANN, parameters)
    ids = UNCASED.encode(ANN.context).ids
    assert encoded.truncated == len(UNCASED.encode(ANN.question).ids) - 3
    assert encoded.source.starts.tolist() == [0, 8, len(ids) - 10] or len(encoded.rows) == 2
    for row, start in zip(encoded.rows, encoded.source.starts.tolist(), strict=True):
        assert row.input_ids[5:-1] == ids[start : start + 10]
        assert row.positions == [0, *range(5, 15)]
        assert row.token_type_ids == [0] * 5 + [1] * 11


@given(CONTEXT, st.data())
def test_training_examples_point_at_the_answer_in_every_window_that_holds_it(
    words: list[str], data: st.DataObject
) -> None:
    context = " ".join(words)
    start = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(start + 1, len(context)))
    task = qa(max_length=24)
    parameters = task.parse_parameters({"doc_stride": data.draw(st.integers(0, 17))})
    inputs = QuestionInput(question="who is it", context=context)
    pieces = UNCASED.encode(context)
    touched = [i for i, (left, right) in enumerate(pieces.offsets) if left < end and right > start]
    if not touched:
        with pytest.raises(InputError, match=f"answer: characters {start} to {end} of the context hold no token"):
            task.encode_training(inputs, (start, end), parameters)
        return
    answer_ids = [pieces.ids[i] for i in touched]
    examples = task.encode_training(inputs, (start, end), parameters)
    held = 0
    for row, first, last in examples:
        if last:
            held += 1
            assert row.input_ids[row.positions[first] : row.positions[last] + 1] == answer_ids
        else:
            assert first == 0
    assert held or len(answer_ids) > 1
    assert [row for row, _, _ in examples] == task.encode(inputs, parameters).rows
    assert all((first, last) == (0, 0) for _, first, last in task.encode_training(inputs, None, parameters))


def test_a_long_context_is_decoded_at_once() -> None:
    task = qa(max_length=512)
    parameters = task.parse_parameters({"top_k": 20})
    inputs = QuestionInput(question="who is it", context="the cat sat on unwantedly many mats, " * 1200)
    encoded = task.encode(inputs, parameters)
    assert len(encoded.rows) > 40
    assert len(as_list(task.decode(encoded, random_logits(encoded, 0), parameters))) == 20


def test_an_answer_is_rounded_to_words_unless_asked_otherwise() -> None:
    task = qa()
    inputs = QuestionInput(question="what?", context="the cat unwantedly runs")
    for align, expected in ((True, "unwantedly"), (False, "unwanted")):
        parameters = task.parse_parameters({"align_to_words": align})
        encoded = task.encode(inputs, parameters)
        answer = task.decode(encoded, peak(encoded, ("unwanted", "unwanted")), parameters)
        assert answer["answer"] == expected  # type: ignore[call-overload]


def test_where_no_blank_divides_words_an_answer_is_exact_tokens(tmp_path: Path) -> None:
    text = "カタナはナタのもの"
    characters = sorted({*text, *(f"##{character}" for character in text), *"what?"})
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]) + "\n")
    task = QuestionAnswering(Tokenizer.read(tmp_path), HeadSpec("qa", []), 64)
    parameters = task.parse_parameters({})
    encoded = task.encode(QuestionInput(question="what?", context=text), parameters)
    logits = np.zeros((len(encoded.rows[0].positions), 2), np.float32)
    logits[1 + text.index("ナタ", 3), 0] = logits[1 + text.index("ナタ", 3) + 1, 1] = 9
    answer = task.decode(encoded, logits, parameters)
    assert (answer["answer"], answer["start"], answer["end"]) == ("ナタ", 4, 6)  # type: ignore[call-overload]


def test_windows_are_as_long_as_the_rows_that_the_head_learned_from() -> None:
    inputs = QuestionInput(question="what?", context="the cat " * 100)
    for trained, length in ((Trained(max_length=64), 64), (Trained(), 200), (Trained(max_length=999), 200)):
        task = QuestionAnswering(UNCASED, HeadSpec("qa", [], trained=trained), 200)
        assert max(len(row.input_ids) for row in task.encode(inputs, task.parse_parameters({})).rows) == length


@pytest.mark.parametrize(
    ("inputs", "given_parameters", "message"),
    [
        (("", "a"), {}, "inputs.question: '' has no visible"),
        (("a", " "), {}, "inputs.context: ' ' has no visible"),
        (("a", "\udfff"), {}, r"inputs.context: character 0 is U\+DFFF"),
        (("a", "b"), {"top_k": 0}, "parameters.top_k: is 0"),
        (("a", "b"), {"max_answer_len": 0}, "parameters.max_answer_len: is 0"),
        (("a", "b"), {"max_answer_len": 385}, "parameters.max_answer_len: is 385, but max_seq_len is 384"),
        (("a", "b"), {"max_seq_len": 513}, "parameters.max_seq_len: is 513, but this model takes 512"),
        (("a b c", "b"), {"max_seq_len": 6}, "parameters.max_seq_len: is 6, which leaves no room .* 3 tokens"),
        (("a", "b"), {"doc_stride": 380}, "parameters.doc_stride: is 380, but .* a window holds 380 tokens"),
        (("a", "b"), {"doc_stride": -1}, "parameters.doc_stride: is -1"),
        (("a", "b"), {"handle_impossible_answer": 1}, "parameters.handle_impossible_answer: is 1"),
        (("a", "b"), {"align_to_words": 1}, "parameters.align_to_words: is 1"),
        (("a", "b"), {"align": True}, "parameters.align: is not a parameter of qa; it takes top_k, "),
    ],
)
def test_what_cannot_be_answered_is_refused(
    inputs: tuple[str, str], given_parameters: dict[str, object], message: str
) -> None:
    task = qa(max_length=512)
    with pytest.raises(InputError, match=message):
        task.encode(QuestionInput(question=inputs[0], context=inputs[1]), task.parse_parameters(given_parameters))
