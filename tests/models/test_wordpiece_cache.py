"""If this breaks, what is served or trained on has other tokens than the tokenizer makes of its text."""

import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from models.tokenizer import Tokenizer
from models.wordpiece_cache import size
from tests.training.corpora import FIXTURES

TOKENIZER = Tokenizer.read(FIXTURES)
KNOWN = TOKENIZER.words(1_000_000)  # of all examples together: what was met before must not matter
# what splits, joins or vanishes: blanks of every kind, controls, marks that combine, CJK, punctuation, special tokens
PARTS = ["the", "cat", "runs", " ", "  ", "\t", "\n", "\x1c", "\x85", "\xa0", "\u2003", "\u2028", "\u3000", "\x00"]
PARTS += ["\x07", "\u0301", "é", "É", "ΑΣ", "Σ", "İ", "ß", "中", "。", "[MASK]", "[SEP]", "-", ".", "'", "\u200d"]
PARTS += ["\ufeff", "\U0001f600", "x" * 120]


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(max_size=20), st.lists(st.sampled_from(PARTS)).map("".join)), max_size=5))
def test_words_have_the_ids_that_the_text_has(texts: list[str]) -> None:
    assert KNOWN.encode(texts) == TOKENIZER.encode_ids(texts)


def test_a_full_memory_is_emptied_and_changes_nothing() -> None:
    known = TOKENIZER.words(90)
    texts = [f"the cat {number} runs ." for number in range(40)]
    for text in texts:
        assert known.encode([text]) == TOKENIZER.encode_ids([text])
        assert size(known._known) <= 90
    assert known.encode(texts) == TOKENIZER.encode_ids(texts)


def test_a_memory_that_others_empty_meanwhile_changes_nothing() -> None:
    known = TOKENIZER.words(120)
    texts = [f"the cat {number} runs {number + 1}" for number in range(300)]
    expected = {text: TOKENIZER.encode_ids([text])[0] for text in texts}
    wrong: list[str] = []

    def ask(turn: int) -> None:
        for text in texts[turn:] + texts[:turn]:
            if known.encode([text])[0] != expected[text]:
                wrong.append(text)

    threads = [threading.Thread(target=ask, args=(40 * turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
