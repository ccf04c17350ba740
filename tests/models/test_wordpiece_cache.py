"""If these fail, cached tokens differ from those that the tokenizer makes of the text."""

import threading
from pathlib import Path

import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.tokenizer import MAX_REMEMBERED, UNUSABLE, Tokenizer
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


@settings(deadline=None)
@given(st.one_of(st.text(max_size=20), st.lists(st.sampled_from(PARTS)).map("".join)).map(lambda text: f"{text}a"))
def test_pieces_stand_where_the_text_has_them(text: str) -> None:
    assume(not UNUSABLE.search(text))
    (expected,) = TOKENIZER.encode_batch([text])
    assert TOKENIZER.encode(text) == expected
    assert TOKENIZER.ids(text) == expected.ids


@pytest.mark.parametrize("count", [200, 5000])
def test_long_texts_have_the_same_pieces_word_by_word_or_not(count: int) -> None:
    text = " ".join(f"caf\u00e9 cat{number}, {number:x}!\u0301" for number in range(count))
    assert (len(text) > MAX_REMEMBERED) == (count == 5000)
    (expected,) = TOKENIZER.encode_batch([text])
    for _ in range(2):  # with new words, and with known ones
        assert TOKENIZER.encode(text) == expected


def test_known_words_are_not_cut_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, text = Tokenizer.read(FIXTURES), "the cat runs, the dog (a cat) sees."
    before, ids = tokenizer.encode(text), tokenizer.ids(text)
    monkeypatch.setattr(tokenizer, "_backend", None)
    monkeypatch.setattr(tokenizer._known, "_cut", None)
    assert tokenizer.encode(text) == before and tokenizer.ids(f"{text} ") == ids


def test_words_are_not_remembered_where_tokens_were_added(tmp_path: Path) -> None:
    """Such a token is found across blanks and punctuation."""
    TOKENIZER.write(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.add_tokens(["cat. dog", "the-cat"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer, text = Tokenizer.read(tmp_path), "the-cat sees a cat. dog!"
    (expected,) = tokenizer.encode_batch([text])
    added = {tokenizer.token_id("cat. dog"), tokenizer.token_id("the-cat")}
    assert tokenizer.encode(text) == expected and added <= set(tokenizer.ids(text))


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
