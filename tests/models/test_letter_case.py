"""If these fail, an imported model that was trained on capitals reads lowercased text, or the reverse."""

from pathlib import Path

import pytest
import tokenizers

from models.letter_case import letter_case

STARTER = Path(__file__).parents[2] / "models" / "starter" / "tokenizer.json"
UNCASED = list(tokenizers.Tokenizer.from_file(str(STARTER)).get_vocab())
"""That of bert-base-uncased."""


def capitalized(tokens: list[str], every: int) -> list[str]:
    return [token.title() if i % every == 0 else token for i, token in enumerate(tokens)]


def test_the_uncased_vocabulary_of_bert() -> None:
    found = letter_case(UNCASED)
    assert found.lowercase and found.strip_accents
    assert found.reason.startswith("0 of ")


def test_some_words_in_the_place_of_unused_entries_do_not_count() -> None:
    odd = ["COVID-19", "mRNA", "na\u00efve", "[E1]", "[Unused]"]
    assert letter_case(UNCASED + odd)[:2] == (True, True)


@pytest.mark.parametrize("every", [2, 4, 100])
def test_a_cased_vocabulary(every: int) -> None:
    assert letter_case(capitalized(UNCASED, every))[:2] == (False, False)


def test_entries_without_case_say_nothing_of_it() -> None:
    """A vocabulary of Chinese characters, cased, has few letters at all."""
    characters = [chr(number) for number in range(0x4E00, 0x9FA5)]
    assert letter_case([*characters, *"abcdefghij", *"ABCDEFGHIJ"])[:2] == (False, False)
    assert letter_case([*characters, *"abcdefghij"])[:2] == (True, True)
    assert letter_case(characters)[:2] == (True, True)


def test_marks_that_are_letters_stay() -> None:
    """Of uncased German, or of kana: stripped of its accents, text would never meet those entries."""
    german = ["f\u00fcr", "\u00fcber", "sch\u00f6n", "haus", "und"]
    assert letter_case(german)[:2] == (True, False)
    assert letter_case(["\u3067\u3059", "\u304c", "\u306e"])[:2] == (True, False)
