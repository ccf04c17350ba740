"""If these fail, a service counts its traffic by other rules than its reference figures."""

from typing import Any

import numpy as np
import pytest

from models.observation import MIN_INPUTS, Bins, Observed, measure, observe
from models.qa import QuestionInput
from models.reference import OTHER
from models.row import Encoded, Row
from models.task import HeadSpec
from models.task_registry import TASKS, AnyTask
from models.tokenizer import Tokenizer

TAGS = ["O", "B-PER", "B-LOC"]
MULTI = HeadSpec("classify", ["a", "b", "c"], {"threshold": {"b": 0.2}}, problem_type="multi_label_classification")


def observed(task: AnyTask, answer: Any, inputs: Any = "the cat") -> Observed:
    return observe(task, task.encode(inputs, task.parse_parameters({})), answer)


def task_of(head: HeadSpec, tokenizer: Tokenizer) -> AnyTask:
    return TASKS[head.task](tokenizer, head, 16)


def ranked(**scores: float) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in scores.items()]


def entity(kind: str, score: float = 0.5) -> dict[str, Any]:
    return {"entity_group": kind, "score": score, "word": "x", "start": 0, "end": 1}


@pytest.mark.parametrize(
    ("head", "answer", "label", "confidence"),
    [
        (HeadSpec("classify", ["a", "b"]), ranked(b=0.7, a=0.3), ["b"], 0.7),
        (HeadSpec("classify", ["a", "b"], {"threshold": 0.9}), [], ["none"], 0.0),
        (MULTI, ranked(a=0.5, b=0.2, c=0.49), ["a", "b"], 0.5),
        (MULTI, ranked(a=0.4, c=0.3, b=0.1), ["none"], 0.4),
        (HeadSpec("tag", TAGS), [entity("PER", 0.6), entity("LOC"), entity("PER")], ["PER", "LOC"], 0.6),
        (HeadSpec("tag", ["O", "B-PER"]), [], ["none"], 0.0),
        (HeadSpec("tag", ["O", "B-PER"]), {"text": "x", "spans": [entity("PER")]}, ["PER"], 0.5),
        (HeadSpec("tag", ["O", "B-PER"]), [{"entity": "B-PER", "score": 0.8}], ["PER"], 0.8),
        (HeadSpec("fill-mask", []), [[{"token_str": "a", "score": 0.9}], [{"token_str": "b", "score": 0.1}]], [], 0.9),
    ],
)  # fmt: skip
def test_what_was_answered(
    head: HeadSpec, answer: Any, label: list[str], confidence: float, tokenizer: Tokenizer
) -> None:
    inputs = "the [MASK]" if head.task == "fill-mask" else "the cat"
    found = observed(task_of(head, tokenizer), answer, inputs)
    assert (list(found.label), found.confidence, found.number) == (label, confidence, None)


def test_an_answer_or_none(tokenizer: Tokenizer) -> None:
    task = task_of(HeadSpec("qa", [], {"handle_impossible_answer": True}), tokenizer)
    asked = QuestionInput(question="who?", context="the cat")
    for text, label in (("cat", "answered"), ("", "no answer")):
        answer = {"answer": text, "score": 0.4, "start": 0, "end": 3}
        assert observed(task, answer, asked).label == (label,) == observed(task, [answer, answer], asked).label


def test_a_regression_has_a_number_and_no_confidence(tokenizer: Tokenizer) -> None:
    task = task_of(HeadSpec("classify", ["stars"], problem_type="regression"), tokenizer)
    found = observed(task, ranked(stars=4.25))
    assert (found.number, found.confidence) == (4.25, None)


def test_tokens_are_those_before_the_cut(tokenizer: Tokenizer) -> None:
    task = task_of(HeadSpec("classify", ["a", "b"]), tokenizer)
    whole, cut = observed(task, ranked(a=1.0), "cat " * 4), observed(task, ranked(a=1.0), "cat " * 40)
    assert (whole.tokens, whole.truncated, cut.tokens, cut.truncated) == (6, False, 42, True)


def test_unknown_tokens_are_a_share(tokenizer: Tokenizer) -> None:
    task = task_of(HeadSpec("classify", ["a", "b"]), tokenizer)
    assert observed(task, ranked(a=1.0), "cat ☃ cat").unknown == pytest.approx(1 / 5)
    assert observed(task, ranked(a=1.0), "cat cat").unknown == 0.0


def test_a_vocabulary_of_bytes_has_no_unknown_tokens(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(HeadSpec("classify", ["a", "b"]), tokenizer)
    monkeypatch.setattr(task.tokenizer, "kind", "BPE")
    assert observe(task, Encoded([Row([1, 2], [0, 0], [0])], None, 0), ranked(a=1.0)).unknown is None


# ---- shares ----------------------------------------------------------------------------------------------------------


def drawn(count: int, labels: list[str], seed: int = 0) -> list[Observed]:
    generator = np.random.default_rng(seed)
    return [
        Observed(
            label=list(dict.fromkeys(generator.choice(labels, generator.integers(1, 3)).tolist())),
            number=None,
            confidence=float(generator.beta(8, 1)),
            tokens=int(generator.integers(3, 60)),
            truncated=bool(generator.random() < 0.1),
            unknown=float(generator.choice([0.0, 0.03, 0.1, 0.5])),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("labels", [3, 20, 40])
def test_shares_are_what_counting_the_same_inputs_gives(labels: int) -> None:
    names = [f"label {number}" for number in range(labels)]
    inputs = drawn(500, names)
    reference = measure(HeadSpec("classify", names), inputs)
    assert reference
    reference.check(HeadSpec("classify", names))
    counts = {figure: dict.fromkeys(shares, 0.0) for figure, shares in reference.shares.items()}
    for one in inputs:
        for figure, name, amount in Bins(reference).of(one):
            counts[figure][name] += amount
    for figure, shares in reference.shares.items():
        assert sum(counts[figure].values()) == pytest.approx(500)
        assert {name: count / 500 for name, count in counts[figure].items()} == pytest.approx(shares, abs=1e-6)


def test_numbers_have_about_as_many_inputs_in_each_bin() -> None:
    inputs = drawn(2000, ["a"])
    reference = measure(HeadSpec("classify", ["a", "b"]), inputs)
    assert reference and reference.confidence
    assert len(reference.confidence.shares) == 10
    assert reference.confidence.shares == pytest.approx([0.1] * 10, abs=0.01)
    expected = np.quantile([one.confidence for one in inputs if one.confidence], [0.1, 0.5, 0.9])
    assert [reference.confidence.edges[place] for place in (0, 4, 8)] == pytest.approx(expected, abs=1e-3)


def test_equal_numbers_share_a_bin() -> None:
    inputs = [one._replace(tokens=7) for one in drawn(MIN_INPUTS, ["a"])]
    reference = measure(HeadSpec("classify", ["a"]), inputs)
    assert reference and reference.tokens.by_name == {"<=7": 1.0, ">7": 0.0}


def test_rare_labels_share_a_bin_and_new_ones_join_it() -> None:
    names = [f"label {number}" for number in range(30)]
    inputs = drawn(MIN_INPUTS, names[:25])
    reference = measure(HeadSpec("classify", names), inputs)
    assert reference and reference.label and len(reference.label) == 21
    new = inputs[0]._replace(label=["label 29"])
    assert next(Bins(reference).of(new)) == ("label", OTHER, 1.0)


def test_few_inputs_are_no_reference() -> None:
    assert measure(HeadSpec("classify", ["a"]), drawn(MIN_INPUTS - 1, ["a"])) is None
