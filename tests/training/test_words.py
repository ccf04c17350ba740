"""If this breaks, a corpus holds other tokens than the tokenizer makes of its text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tokenizer import Tokenizer
from tests.training.corpora import FIXTURES
from training import words
from training.words import Words

TOKENIZER = Tokenizer.read(FIXTURES)
KNOWN = Words(TOKENIZER)  # of all examples together: what was met before must not matter
# what splits, joins or vanishes: blanks of every kind, controls, marks that combine, CJK, punctuation, special tokens
PARTS = ["the", "cat", "runs", " ", "  ", "\t", "\n", "\x1c", "\x85", "\xa0", "\u2003", "\u2028", "\u3000", "\x00"]
PARTS += ["\x07", "\u0301", "é", "É", "ΑΣ", "Σ", "İ", "ß", "中", "。", "[MASK]", "[SEP]", "-", ".", "'", "\u200d"]
PARTS += ["\ufeff", "\U0001f600", "x" * 120]


@given(st.lists(st.one_of(st.text(max_size=20), st.lists(st.sampled_from(PARTS)).map("".join)), max_size=5))
def test_words_have_the_ids_that_the_text_has(texts: list[str]) -> None:
    assert KNOWN.encode(texts) == TOKENIZER.encode_ids(texts)


def test_a_full_memory_is_emptied_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST", 10)
    known = Words(TOKENIZER)
    texts = [f"the cat {number} runs ." for number in range(40)]
    for text in texts:
        assert known.encode([text]) == TOKENIZER.encode_ids([text])
        assert len(known._known) <= 10
    assert known.encode(texts) == TOKENIZER.encode_ids(texts)
