"""If these fail, fill-mask is measured on other tokens than the report says, or HTTP and in-process figures differ."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tokenizer import MASK, SPECIALS, Tokenizer
from training.evaluation.masked_passages import LENGTH, PER_DOCUMENT, Passage, masked_passages
from training.text.examples import Document

WORDS = ["the", "cat", "sat", "play", "##ing", "##er", "un", "una", "##able", "##ble", ".", ",", "e", "##e", "x", "##x"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return read_tokenizer(tmp_path_factory.mktemp("vocabulary"))


def read_tokenizer(directory: Path) -> Tokenizer:
    (directory / "vocab.txt").write_text(
        "".join(f"{token}\n" for token in [*SPECIALS.values(), *WORDS]), encoding="utf8"
    )
    return Tokenizer.read(directory)


def masked(tokenizer: Tokenizer, *texts: str, seed: int = 0) -> list[Passage]:
    return masked_passages([Document(text) for text in texts], tokenizer, seed)


def check(tokenizer: Tokenizer, passage: Passage) -> None:
    """Filling the masks gives back the ids of the text."""
    read = tokenizer.ids_with_masks(passage.text)
    gold = iter(passage.gold)
    assert [next(gold) if token == tokenizer.mask_id else token for token in read] == passage.ids
    assert next(gold, None) is None


@given(text=st.text(alphabet=st.sampled_from([*"playingerunablexe .,\n", "é", "é", "😀", "中"]), max_size=300))
def test_the_text_with_masks_is_cut_as_the_text_was(tokenizer: Tokenizer, text: str) -> None:
    for passage in masked(tokenizer, text):
        check(tokenizer, passage)
        assert tokenizer.unk_id not in passage.gold


def test_masks_fifteen_percent_of_passages_of_full_length(tokenizer: Tokenizer) -> None:
    passages = masked(tokenizer, "the cat sat , playing . " * 300)
    assert len(passages) == PER_DOCUMENT
    for passage in passages[:-1]:
        assert LENGTH - 1 <= len(passage.ids) <= LENGTH  # words are whole, and the longest is two pieces
        assert len(passage.gold) == round(0.15 * len(passage.ids))
        check(tokenizer, passage)


def test_passages_are_spread_over_the_document(tokenizer: Tokenizer) -> None:
    text = "the " * LENGTH + "cat " * LENGTH * 8 + "sat " * LENGTH
    contents = [{tokenizer.token(token) for token in passage.ids} for passage in masked(tokenizer, text)]
    assert contents == [{"the"}, {"cat"}, {"cat"}, {"sat"}]


def test_the_masks_depend_on_seed_and_place_only(tokenizer: Tokenizer) -> None:
    texts = ["the cat sat playing . " * 40, "un able , play . " * 40]
    assert masked(tokenizer, *texts) == masked(tokenizer, *texts)
    assert masked(tokenizer, texts[0]) == masked(tokenizer, *texts)[: len(masked(tokenizer, texts[0]))]
    assert masked(tokenizer, *texts) != masked(tokenizer, *texts, seed=1)


def test_only_pieces_that_a_text_can_ask_for_are_masked(tokenizer: Tokenizer) -> None:
    found = {
        (passage.text, tokenizer.token(passage.gold[0]))
        for seed in range(30)
        for passage in masked(tokenizer, "playing", seed=seed)
    }
    assert found == {(f"play{MASK}", "##ing")}
    # "unable" is una + ##ble, so what is left of it is cut as it was; of "unx" (un + ##x) too
    assert {p.text for p in masked(tokenizer, "unable", "unx")} == {f"una{MASK}", f"un{MASK}"}


def test_a_document_that_says_mask_or_has_no_known_word_is_left_out(tokenizer: Tokenizer) -> None:
    assert masked(tokenizer, f"the cat {MASK} sat", "猫 zzz", "\N{ZERO WIDTH SPACE}") == []
