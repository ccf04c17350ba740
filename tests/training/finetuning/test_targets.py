"""If these fail, targets do not fit their rows, or losses differ from those of the papers."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import kl_divergence

from models.row import Row
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from training.errors import DataError, RecipeError
from training.finetuning.targets import (
    Target,
    batch_loss,
    class_weights,
    consistency,
    joined,
    log_probabilities,
    loss,
    tags_of,
    targets,
)
from training.text.examples import QuestionExample, SpannedText, TaggedExample

CONTEXT = "the big dog eats in the red house . the small cat runs in the old city ."


def test_tags_stand_at_the_first_piece_of_their_word(tokenizer: Tokenizer) -> None:
    spec = HeadSpec("tag", ["O", "B-LOC", "I-LOC"])
    example = TaggedExample(["unbelievablez", "cat", "zzz"], ["B-LOC", "O", "I-LOC"])
    (target,) = targets([example], spec, tokenizer, 64)
    pieces = [len(tokenizer.encode(word).ids) for word in example.tokens]
    assert pieces[0] > 1
    assert target.row.positions == [1, 1 + pieces[0], 1 + pieces[0] + pieces[1]]
    assert target.labels == [1, 0, 2]


def test_answers_fall_into_their_windows(tokenizer: Tokenizer) -> None:
    example = QuestionExample("1", CONTEXT, "who runs?", ["the small cat"], [CONTEXT.index("the small cat")])
    found = targets([example], HeadSpec("qa", []), tokenizer, 20)
    assert len(found) > 1
    inside = [target for target in found if target.labels != [0, 0]]
    assert inside
    for row, (start, end), _ in inside:
        ids = [row.input_ids[column] for column in row.positions[start : end + 1]]
        assert tokenizer.decode(ids) == "the small cat"


def test_span_loss_equals_a_softmax_a_row(tokenizer: Tokenizer) -> None:
    example = QuestionExample("1", CONTEXT, "who runs?", ["the small cat"], [CONTEXT.index("the small cat")])
    other = QuestionExample("2", "a dog eats", "who?", ["a dog"], [0])
    batch = targets([example, other], HeadSpec("qa", []), tokenizer, 64)
    logits = torch.randn(sum(len(target.row.positions) for target in batch), 2)
    expected, at = [], 0
    for target in batch:
        mine = logits[at : at + len(target.row.positions)].log_softmax(0)
        expected += [-mine[target.labels[0], 0], -mine[target.labels[1], 1]]
        at += len(target.row.positions)
    torch.testing.assert_close(loss(log_probabilities("qa", logits, batch), batch), torch.stack(expected).mean())


def test_every_piece_of_a_word_has_a_label_and_those_behind_the_first_continue_it(tokenizer: Tokenizer) -> None:
    spec = HeadSpec("tag", ["O", "B-LOC", "I-LOC"], {"pieces": "joint"})
    text = "a cat, unbelievablez-land!"
    words = TaggedExample(["a", "cat", ",", "unbelievablez-land", "!"], ["O", "O", "O", "B-LOC", "O"])
    spans = SpannedText(text, [(7, 25, "LOC")])
    (from_words,), (from_text,) = (targets([one], spec, tokenizer, 64) for one in (words, spans))
    assert from_words == from_text
    assert from_words.row.positions == list(range(1, len(from_words.row.input_ids) - 1))
    pieces = tokenizer.encode(text)
    inside = [start >= 7 and end <= 25 for start, end in pieces.offsets]
    assert from_text.labels == [
        0 if not one else 2 if before else 1 for before, one in zip([False, *inside[:-1]], inside, strict=True)
    ]


@given(
    cuts=st.lists(st.integers(0, 30), min_size=2, max_size=8, unique=True),
    units=st.lists(st.integers(1, 4), min_size=1, max_size=12),
)
def test_tags_of_units_are_those_that_characters_give(cuts: list[int], units: list[int]) -> None:
    edges = np.cumsum([0, *units]).tolist()
    offsets = [(start, end) for start, end in zip(edges, edges[1:], strict=False)]
    ordered = sorted(cuts)
    spans = [(a, b, f"T{a}") for a, b in zip(ordered[::2], ordered[1::2], strict=False)]
    tags = ["O"] * len(offsets)
    for start, end, name in spans:
        touched = [unit for unit, (a, b) in enumerate(offsets) if a < end and b > start]
        for unit in touched:
            tags[unit] = f"{'B' if unit == touched[0] else 'I'}-{name}"
    assert tags_of(offsets, spans) == tags


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_joined_rows_hold_every_row_once_and_read_the_same_tokens(sizes: list[int], seed: int) -> None:
    rows, number = [], 10
    for size in sizes:
        rows.append(Target(Row([2, *range(number, number + size), 3], [0] * (size + 2), [1, size]), [number, size]))
        number += size
    found = joined(rows, 24, np.random.default_rng(seed))
    assert all(len(target.row.input_ids) <= 24 for target in found)
    assert all(target.row.input_ids[0] == 2 and target.row.input_ids[-1] == 3 for target in found)
    read = [
        (target.row.input_ids[position], label)
        for target in found
        for position, label in zip(target.row.positions, target.labels, strict=True)
    ]
    expected = [
        (target.row.input_ids[position], label)
        for target in rows
        for position, label in zip(target.row.positions, target.labels, strict=True)
    ]
    assert sorted(read) == sorted(expected)
    assert sorted(i for target in found for i in target.row.input_ids[1:-1]) == list(range(10, number))


@pytest.mark.parametrize("task", ["tag", "qa"])
def test_consistency_is_the_divergence_of_two_passes(task: Any, tokenizer: Tokenizer) -> None:
    tagged = [TaggedExample(["the", "cat"], ["O", "B-LOC"]), TaggedExample(["london"], ["B-LOC"])]
    asked = [QuestionExample("1", CONTEXT, "who runs?", ["the small cat"], [CONTEXT.index("the small cat")])]
    spec = HeadSpec("tag", ["O", "B-LOC", "I-LOC"]) if task == "tag" else HeadSpec("qa", [])
    batch = targets(tagged if task == "tag" else asked, spec, tokenizer, 64)
    count = sum(len(target.row.positions) for target in batch)
    one, other = torch.randn(2, count, 3 if task == "tag" else 2)
    lines = (one, other) if task == "tag" else (one.T, other.T)  # of one question: a line for start, one for end
    p, q = (torch.distributions.Categorical(logits=each) for each in lines)
    expected = (kl_divergence(p, q) + kl_divergence(q, p)).mean() / 2
    apart, alike = (log_probabilities(task, torch.cat(passes), batch * 2) for passes in ((one, other), (one, one)))
    torch.testing.assert_close(consistency(apart), expected)
    assert consistency(alike) == 0


def test_an_unknown_label_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="example 1 has the label 'I-LOC', expected one of O, B-LOC"):
        targets([TaggedExample(["cat"], ["I-LOC"])], HeadSpec("tag", ["O", "B-LOC"]), tokenizer, 64)


def test_class_weights_make_rare_classes_count_as_torch_weighs_them() -> None:
    spec = HeadSpec("classify", ["common", "rare", "unseen"])
    found = [Target(Row([1], [0], [0]), [label]) for label in [0] * 8 + [1] * 2]
    assert class_weights(spec, found, 0.0) is None
    for power in (0.5, 1.0):
        weights = class_weights(spec, found, power)
        assert weights is not None
        assert weights.tolist() == pytest.approx([(10 / 3 / count) ** power for count in (8, 2, 1)])
        logits = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
        expected = torch.nn.CrossEntropyLoss(weight=weights)(logits, torch.tensor([0] * 8 + [1] * 2))
        assert batch_loss(spec, logits, found, of_classes=weights).item() == pytest.approx(expected.item())
    with pytest.raises(RecipeError, match="class_weights is 1.0 for qa, expected exclusive classes"):
        class_weights(HeadSpec("qa", []), found, 1.0)
