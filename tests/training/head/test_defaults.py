"""If these fail, the default recipe no longer fits its base and its data."""

from dataclasses import replace
from pathlib import Path

import pytest

from models.tokenizer import Tokenizer
from training.errors import DataError, RecipeError
from training.finetuning.finetune_recipe import FinetuneRecipe, HeadRecipe
from training.head.base import STARTER, Base
from training.head.data import divide, keep, labels_told, record
from training.head.defaults import epochs_of, rate_of, recipe_of, row_length
from training.head.recipe_file import recipe_text
from training.head.worth import bag_of_words, worth
from training.run.recipe import read_recipe
from training.text.examples import (
    Example,
    PairExample,
    QuestionExample,
    SpannedText,
    TaggedExample,
    TextExample,
    read_examples,
)


@pytest.fixture(scope="module")
def base(tokenizer: Tokenizer) -> Base:
    return replace(Base.read(STARTER), tokenizer=tokenizer, max_length=128)


def test_rates_follow_width_and_depth() -> None:
    """The starter's was measured; BERT-base's is within what its authors searched (Devlin et al., 2018, A.3)."""
    assert rate_of(384, 6) == 3e-4
    assert 2e-5 <= rate_of(768, 12) <= 5e-5
    assert rate_of(1024, 24) < rate_of(768, 12) < rate_of(384, 12) < rate_of(128, 2)


def test_few_rows_are_seen_more_often() -> None:
    counts = [epochs_of(rows) for rows in (10, 100, 1000, 10_000, 100_000)]
    assert counts == sorted(counts, reverse=True) and counts[0] == 10 and counts[-1] == 4


def test_rows_hold_98_of_100_examples(base: Base) -> None:
    short, long = TextExample("the cat", "a"), TextExample("the cat " * 100, "a")
    assert row_length("classify", [short] * 99 + [long], base) == 64
    assert row_length("classify", [short] * 90 + [long] * 10, base) == 128
    pair = PairExample("the cat runs in the city", "the dog runs in the house", "a")
    assert row_length("pair", [pair] * 10, base) == 64
    assert row_length("tag", [], base) == 128


def test_the_recipe_that_is_written_is_the_recipe_that_is_read(base: Base, tmp_path: Path) -> None:
    examples: list[Example] = [TextExample(f"the cat {number}", "ab"[number % 2]) for number in range(40)]
    recipe = recipe_of("my.head", "classify", base, tmp_path / 'a "b"', examples, examples, 3.5, seed=7)
    odd = replace(recipe.heads["my.head"], labels=["é", "b\n"], defaults={"top_k": 1, "truncation": "left"})
    for one in (recipe, replace(recipe, heads={"my.head": odd})):
        (tmp_path / "head.toml").write_text(recipe_text(one, "run it"), encoding="utf8")
        assert read_recipe(FinetuneRecipe, tmp_path / "head.toml") == one


def test_examples_that_are_kept_are_read_as_they_were(tmp_path: Path) -> None:
    sets: dict[str, list[Example]] = {
        "classify": [TextExample("the cât", "a")],
        "pair": [PairExample("a", "b", "c")],
        "tag": [TaggedExample(["the", "cat"], ["O", "B-X"]), SpannedText("the cat", [(4, 7, "X")])],
        "qa": [QuestionExample("1", "the cat", "who?", ["cat"], [4]), QuestionExample("2", "the cat", "who?", [], [])],
    }
    for task, examples in sets.items():
        path = tmp_path / f"{task}.jsonl"
        keep(examples, path)
        keep(examples, path)  # the same again is no mistake
        assert read_examples(path, task) == examples  # type: ignore[call-overload]
        with pytest.raises(DataError, match="the run started with other examples"):
            keep([*examples, *examples], path)
    assert set(record(sets["qa"][0])) == {"id", "context", "question", "answers"}


def test_what_is_held_out_is_seeded_and_of_every_label() -> None:
    examples: list[Example] = [TextExample(f"text {number}", "abcd"[number % 4]) for number in range(200)]
    training, validation = divide(examples, [], 0.1, 0)
    assert (training, validation) == divide(examples, [], 0.1, 0) != divide(examples, [], 0.1, 1)
    assert len(validation) == 20 and not set(training) & set(validation)
    assert divide(examples, validation, 0.1, 0) == (examples, validation)


def test_a_head_is_told_beside_chance_and_a_bag_of_words() -> None:
    rows: list[Example] = [TextExample(f"{word} {number}", word) for number in range(30) for word in ("yes", "no")]
    pairs: list[Example] = [
        PairExample(left, right, f"{left}{right}") for left in ("a", "b") for right in ("a", "b") for _ in range(20)
    ]
    assert bag_of_words(rows, rows) == bag_of_words(pairs, pairs) == 1.0
    assert bag_of_words(rows, []) is None
    scores = {"accuracy": 0.9, "accuracy_chance": 0.5, "examples": 60.0}
    told = worth(scores, 0.95)
    assert told[0] == "result: accuracy 0.900 on 60 validation examples (chance 0.500, a bag of words 0.950)"
    assert told[1].startswith("note: 60 validation examples are few, so accuracy is known to ± 0.08 (95 %)")
    assert "a bag of words does as well" in told[2]
    assert len(worth(scores | {"accuracy": 1.0}, 1.0)) == 2  # no head is better than that
    assert "on 1 validation example (" in worth(scores | {"examples": 1.0}, None)[0]
    assert "so pearson is uncertain" in worth({"pearson": 0.9, "examples": 60.0}, None)[1]
    assert len(worth(scores | {"examples": 500.0}, None)) == 1
    assert "--validation" in worth({}, None)[0]
    assert "--validation" in worth({"training_examples": 60.0}, None)[0]


def test_a_column_of_labels_that_do_not_repeat_is_refused_and_labels_are_told() -> None:
    free: list[Example] = [TextExample(f"text {number}", f"f{number // 2 * 2}") for number in range(9)]
    assert labels_told(free) == ["5 labels: f0 (2), f2 (2), f4 (2), f6 (2), f8 (1); with only one example: 1"]
    divide(free, [], 0.1, 0)
    alone: list[Example] = [TextExample(f"text {number}", f"id {number}") for number in range(9)]
    with pytest.raises(DataError, match="9 of 9 examples have a label that no other has .*--columns label=COLUMN"):
        divide(alone, [], 0.1, 0)
    assert divide(alone, alone[:2], 0.1, 0) == (alone, alone[:2])
    assert labels_told([TextExample("a", 1.25), TextExample("b", 5.0)]) == ["labels: numbers from 1.25 to 5"]
    assert labels_told([QuestionExample("1", "a", "b", [], [])]) == []


def test_validation_that_was_learned_from_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Example] = [TextExample(f"text {number}", "ab"[number % 2]) for number in range(9)]
    divide(rows[:6], rows[4:], 0.1, 0)
    assert "2 of 5 validation examples are also in the training data" in capsys.readouterr().err
    divide(rows[:6], rows[6:], 0.1, 0)
    divide(rows, [], 0.1, 0)
    assert not capsys.readouterr().err


def test_epochs_exclude_a_corpus() -> None:
    with pytest.raises(RecipeError, match="epochs is 2, but a corpus has no epochs here"):
        FinetuneRecipe("base", {"mine": HeadRecipe("classify", ["a"])}, corpus="corpus", epochs=2.0)
