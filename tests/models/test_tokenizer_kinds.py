"""If these fail, RoBERTa, XLM-RoBERTa, CamemBERT or DistilBERT read other tokens than they were trained on."""

import json
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from models.errors import InputError
from models.pieces import BLANKS, NO_WORD
from models.tokenizer import Tokenizer
from tests.models import vocabularies

Pair = tuple[Tokenizer, PreTrainedTokenizerBase]
KINDS = ["roberta", "xlm-roberta", "camembert"]
PARTS = [
    *("a", "the ", "Paris", " ", "  ", "\t", "\n", "\r\n", "\u3000", "\xa0", "\u2028", "\x85", "\x1c", "don't", "'s"),
    *(
        "é",
        "e\u0301",
        "\u0301",
        "ﬁ",
        "½",
        "…",
        "日本",
        "カ",
        "가",
        "ไท",
        "🙂",
        "👩\u200d👧",
        "\u200b",
        "\u00ad",
        "\ufeff",
    ),
    *("<", "s", ">", "<s", "/", "pad", "▁", "Ġ", "_", "##", ".", "...", "?!", "U.S.", "3.14", "B2B", "\x07", "\ud7ff"),
]
# What SentencePiece's table maps to nothing.
REMOVED = "".join(map(chr, [*range(1, 9), 11, *range(14, 32), 0x7F, 0x8F, 0x9F]))
ANY = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
TEXTS = st.lists(st.sampled_from(PARTS) | ANY, max_size=9).map("".join)
MANY = settings(deadline=None, max_examples=150)


@pytest.fixture(scope="module", params=[*KINDS, "distilbert"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    directory = tmp_path_factory.mktemp(request.param)
    vocabularies.save(vocabularies.CLASSES[request.param](), directory, request.param)
    return Tokenizer.read(directory), AutoTokenizer.from_pretrained(directory)


def makes_no_special(theirs: PreTrainedTokenizerBase, text: str, ids: list[int]) -> bool:
    """Whether transformers read no special token out of a text; the unknown one may stand for unknown letters."""
    allowed = {theirs.unk_token_id} if theirs.unk_token not in text else set()
    return not set(theirs.all_special_ids) - allowed & set(ids)


@MANY
@given(text=TEXTS)
def test_text_is_cut_as_by_transformers(pair: Pair, text: str) -> None:
    tokenizer, theirs = pair
    expected = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
    assume(makes_no_special(theirs, text, expected["input_ids"]))
    (pieces,) = tokenizer.encode_batch([text])
    assert pieces.ids == expected["input_ids"] == tokenizer.encode_ids([text])[0]
    for (start, end), (first, last) in zip(pieces.offsets, true_offsets(pair, text), strict=True):
        if not text[first:last].strip(BLANKS):
            assert start == end
        else:
            assert text[start:end].startswith(text[first:last].strip(BLANKS))
            assert first <= start < end
            assert text[start] not in BLANKS and text[end - 1] not in BLANKS
    assert pieces.offsets.tolist() == sorted(pieces.offsets.tolist())
    visible = [word for word in pieces.words if word != NO_WORD]
    assert visible == sorted(visible)


def true_offsets(pair: Pair, text: str) -> list[tuple[int, int]]:
    """Return transformers' offsets; they are one too small behind what SentencePiece's table removes at the start."""
    removed = len(text) - len(text.lstrip(REMOVED)) if pair[0].kind == "Unigram" else 0
    offsets = pair[1](text[removed:], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [(removed + first, removed + last) for first, last in offsets]


@pytest.mark.parametrize("before", ["\x07", "\x07\r", "\x01\x02\x7f ", "\ufeff"])
def test_characters_that_the_rules_remove_move_no_span(pair: Pair, before: str) -> None:
    text = f"{before}Paris is"
    (pieces,) = pair[0].encode_batch([text])
    is_at = [text[start:end] for start, end in pieces.offsets if start >= text.index("is", len(before) + 5)]
    assert "".join(is_at) in ("is", "iis")  # Unigram has a piece for the blank before a word, with the word's start
    assert tuple(pieces.offsets[-1]) == (len(text) - len(is_at[-1]), len(text))
    given = pair[0].encode_words(["the", text])
    assert given.offsets[-1][1] == len("the ") + len(text)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u3000\u2028"])
def test_blanks_alone_are_refused(pair: Pair, text: str) -> None:
    for cut in (pair[0].encode, pair[0].ids):
        with pytest.raises(InputError, match="no visible character"):
            cut(text)


@MANY
@example(words=["a", "\x1f ", "b"])
@example(words=["\x1f", "\x07\x1f \x07"])
@given(words=st.lists(st.sampled_from(PARTS) | ANY, min_size=1, max_size=5))
def test_given_words_are_cut_as_by_transformers(pair: Pair, words: list[str]) -> None:
    """Which divides words with add_prefix_space where a vocabulary is RoBERTa's."""
    tokenizer, theirs = pair
    if tokenizer.kind == "BPE":
        theirs = vocabularies.roberta(add_prefix_space=True)
    expected = theirs(words, add_special_tokens=False, is_split_into_words=True)
    assume(makes_no_special(theirs, " ".join(words), expected["input_ids"]))
    pieces = tokenizer.encode_words(words)
    assert sorted(set(pieces.words)) == list(range(len(words)))
    found = [(i, word) for i, word in zip(pieces.ids, pieces.words, strict=True) if word in expected.word_ids()]
    assert found == list(zip(expected["input_ids"], expected.word_ids(), strict=True))
    starts = [sum(len(word) + 1 for word in words[:number]) for number in range(len(words))]
    for (start, end), number in zip(pieces.offsets, pieces.words, strict=True):
        assert starts[number] <= start <= end <= starts[number] + len(words[number])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("token", ["<s>", "</s>", "<pad>", "<unk>", "<mask>", "<s>NOTUSED", "＜s＞", "＜pad>"])
def test_text_never_makes_a_special_token(kind: str, token: str, tmp_path: Path) -> None:
    """Unigram has them as pieces of the best score, and its table makes them of wide letters."""
    tokenizer = vocabularies.ours(vocabularies.CLASSES[kind](), tmp_path)
    theirs = vocabularies.CLASSES[kind]()
    text = f"the {token}a {token}"
    allowed = {tokenizer.unk_id}  # for letters that the vocabulary lacks
    for ids in (tokenizer.ids(text), tokenizer.encode_words(["the", token]).ids, tokenizer.encode_ids([text])[0]):
        assert not set(theirs.all_special_ids) - allowed & set(ids)
    masked = set(tokenizer.ids_with_masks(text)) & set(theirs.all_special_ids) - allowed
    assert masked == ({tokenizer.mask_id} if token == "<mask>" else set())
    assert tokenizer.decode(tokenizer.ids("the s>")) == "the s>"


@MANY
@given(parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=4), mask=st.sampled_from(["own", "[MASK]"]))
def test_masks_take_the_blank_before_them_as_in_transformers(pair: Pair, parts: list[str], mask: str) -> None:
    tokenizer, theirs = pair
    own = tokenizer.specials["mask_token"]
    expected = theirs(own.join(parts), add_special_tokens=False)["input_ids"]
    assume(makes_no_special(theirs, "".join(parts), [i for i in expected if i != theirs.mask_token_id]))
    assert tokenizer.ids_with_masks((own if mask == "own" else mask).join(parts)) == expected
    assert expected.count(tokenizer.mask_id) == len(parts) - 1


def test_tokens_are_written_as_in_transformers(pair: Pair) -> None:
    tokenizer, theirs = pair
    numbers = range(tokenizer.vocab_size)
    assert tokenizer.vocab_size == len(theirs)
    assert [tokenizer.token(i) for i in numbers] == theirs.convert_ids_to_tokens(list(numbers))
    assert [tokenizer.token_id(tokenizer.token(i)) for i in numbers] == list(numbers)
    assert tokenizer.decode_batch([[i] for i in numbers]) == [theirs.decode([i]) for i in numbers]
    row = [tokenizer.cls_id, *tokenizer.ids_with_masks("the capital of [MASK], don't."), tokenizer.sep_id]
    for skip in (True, False):
        assert tokenizer.decode(row, skip) == theirs.decode(row, skip_special_tokens=skip)


def test_rows_are_those_of_transformers(pair: Pair) -> None:
    tokenizer, theirs = pair
    first, second = "Paris is the capital", "of France, don't"
    row = tokenizer.pair_row(tokenizer.ids(first), tokenizer.ids(second), [0])
    encoded = theirs(first, second, return_token_type_ids=True)
    assert (row.input_ids, row.token_type_ids) == (encoded["input_ids"], encoded["token_type_ids"])
    begin = tokenizer.second_column(len(tokenizer.ids(first)))
    assert row.input_ids[begin:-1] == tokenizer.ids(second)
    assert len(row.input_ids) == len(tokenizer.ids(first) + tokenizer.ids(second)) + tokenizer.layout.specials
    assert tokenizer.single_row(tokenizer.ids(first), [0]).input_ids == theirs(first)["input_ids"]
    assert (tokenizer.pad_id, tokenizer.unk_id) == (theirs.pad_token_id, theirs.unk_token_id)


@pytest.mark.parametrize("prefix", [None, True])
def test_a_bundle_needs_tokenizer_json_alone(pair: Pair, prefix: bool | None, tmp_path: Path) -> None:
    """And transformers reads what is written as it reads what it was made of."""
    tokenizer, theirs = pair
    if prefix and tokenizer.kind == "BPE":
        theirs = vocabularies.roberta(add_prefix_space=True)
        tokenizer = vocabularies.ours(theirs, tmp_path / "prefix")
    tokenizer.write(tmp_path, 64)
    again = Tokenizer.parse((tmp_path / "tokenizer.json").read_bytes(), tmp_path)
    back = AutoTokenizer.from_pretrained(tmp_path)
    assert back.model_max_length == 64
    assert again.lowercase == tokenizer.lowercase == (tokenizer.kind == "WordPiece")
    mask = tokenizer.specials["mask_token"]
    for text in ("Paris  is the\n capital, don't", f"the {mask} of <s> e\u0301 日本", "a"):
        assert again.encode(text) == tokenizer.encode(text) == Tokenizer.read(tmp_path).encode(text)
        assert again.ids_with_masks(text) == tokenizer.ids_with_masks(text)
        if "<s>" not in text:
            assert back(text)["input_ids"] == theirs(text)["input_ids"]
    assert back("a", "b")["input_ids"] == again.pair_row(again.ids("a"), again.ids("b"), [0]).input_ids
    assert json.loads((tmp_path / "tokenizer.json").read_text("utf8"))["padding"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_running_text_are_those_of_bert(kind: str, tmp_path: Path) -> None:
    text = "Angela  Merkel, B2B (see 3.14)\n日本 🙂!"
    pieces = vocabularies.ours(vocabularies.CLASSES[kind](), tmp_path).encode(text)
    words = [
        text[min(start for start, _ in spans) : max(end for _, end in spans)]
        for word in range(max(pieces.words) + 1)
        for spans in [[span for span, of in zip(pieces.offsets, pieces.words, strict=True) if of == word]]
    ]
    assert words == ["Angela", "Merkel", ",", "B2B", "(", "see", "3", ".", "14", ")", "日本", "🙂", "!"]


def test_whether_a_token_goes_on_with_a_word(pair: Pair) -> None:
    tokenizer, _ = pair
    pieces = tokenizer.encode("a unhappilynational reader")
    begins = [word != before for word, before in zip(pieces.words, [NO_WORD, *pieces.words], strict=False)]
    assert begins.count(True) == 3 and begins.count(False)
    # The first word of a text has no blank by which a vocabulary of RoBERTa could tell it.
    assert [not tokenizer.continues(token) for token in pieces.ids][1:] == begins[1:]
    assert not any(tokenizer.continues(token) for token in tokenizer.special_ids)
