"""If these fail, the encoder reads other tokens than it was trained on, or an answer points at the wrong characters."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from models.errors import CheckpointError, InputError
from models.tokenizer import FEW, LONG, Pieces, Tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
UNCASED = Tokenizer.read(FIXTURES)


def tokens(pieces: Pieces, tokenizer: Tokenizer = UNCASED) -> list[str]:
    return [tokenizer.token(i) for i in pieces.ids]


def slices(text: str, pieces: Pieces) -> list[str]:
    return [text[start:end] for start, end in pieces.offsets]


def vocabulary(directory: Path, *words: str, config: str = "{}") -> Path:
    (directory / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n", "utf8"
    )
    (directory / "tokenizer_config.json").write_text(config)
    return directory


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # the cases of Google's tokenization_test.py, with the pieces of our vocabulary
        ("UNwantéd,running", ["unwanted", ",", "running"]),
        (" \tHeLLo!how  \n Are yoU?  ", ["he", "##l", "##l", "##o", "!", "how", "are", "you", "?"]),
        ("H\u00e9llo", ["he", "##l", "##l", "##o"]),
        ("people日本the", ["people", "日", "本", "the"]),
        ("unwantedx running", ["unwanted", "##x", "running"]),
        ("$1.50+2<3", ["$", "1", ".", "5", "##0", "+", "2", "<", "3"]),
        ("a\u200bb\ufffd", ["a", "##b"]),
        ("한", ["ᄒ", "##ᅡ", "##ᆫ"]),
        ("Ω the", ["[UNK]", "the"]),
    ],
)
def test_golden_cases(text: str, expected: list[str]) -> None:
    assert tokens(UNCASED.encode(text)) == expected


def test_google_word_piece_cases(tmp_path: Path) -> None:
    tokenizer = Tokenizer.read(vocabulary(tmp_path, "want", "##want", "##ed", "wa", "un", "runn", "##ing"))
    assert tokens(tokenizer.encode("unwanted running"), tokenizer) == ["un", "##want", "##ed", "runn", "##ing"]
    assert tokens(tokenizer.encode("unwantedX running"), tokenizer) == ["[UNK]", "runn", "##ing"]


def test_a_word_of_more_than_100_characters_is_unknown() -> None:
    assert tokens(UNCASED.encode("a" * 100))[:2] == ["a", "##a"]
    assert tokens(UNCASED.encode("a" * 101 + " cat")) == ["[UNK]", "cat"]


def test_a_cased_vocabulary_keeps_case_and_accents(tmp_path: Path) -> None:
    directory = vocabulary(tmp_path, "Caf\u00e9", "cafe", config='{"do_lower_case": false}')
    tokenizer = Tokenizer.read(directory)
    assert not tokenizer.lowercase
    assert tokens(tokenizer.encode("Caf\u00e9 cafe"), tokenizer) == ["Caf\u00e9", "cafe"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris \U0001f642 London", ["Paris", "\U0001f642", "London"]),
        ("\U0001f469\u200d\U0001f469\u200d\U0001f467 cat", ["\U0001f469\u200d\U0001f469\u200d\U0001f467", "cat"]),
        ("cafe\u0301 re\u0301sume\u0301.", ["cafe\u0301", "re\u0301sume\u0301", "."]),
        ("日本 the", ["日", "本", "the"]),
        ("caf\u00e9\u00a0UNWANT\u00c9D", ["caf\u00e9", "UNWANT\u00c9D"]),
    ],
)
def test_offsets_are_characters_of_the_original(text: str, expected: list[str]) -> None:
    assert slices(text, UNCASED.encode(text)) == expected


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_offsets_hold_for_any_text(text: str) -> None:
    (pieces,) = UNCASED.encode_batch([text])
    assert len(pieces.ids) == len(pieces.offsets) == len(pieces.words)
    assert all(0 <= start < end <= len(text) for start, end in pieces.offsets)
    assert pieces.offsets.tolist() == sorted(pieces.offsets.tolist())
    assert pieces.words.tolist() == sorted(pieces.words)
    assert pieces.ids == UNCASED.encode_ids([text])[0]


def test_many_are_cut_and_joined_as_each_alone() -> None:
    """On all cores beyond FEW of them, on one up to there."""
    texts = ["the caf\u00e9", "", "unwanted runn ##ing", "[SEP] cat"] * FEW
    alone = [UNCASED.encode_batch([text])[0] for text in texts]
    assert UNCASED.encode_batch(texts) == alone
    ids = [[UNCASED.cls_id, *pieces.ids] for pieces in alone]
    for skip in (False, True):
        assert UNCASED.decode_batch(ids, skip) == [UNCASED.decode(each, skip) for each in ids]


@pytest.mark.parametrize("special", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
def test_text_never_makes_a_special_token(special: str) -> None:
    for pieces in (UNCASED.encode(f"the {special}cat"), UNCASED.encode_words(["the", special])):
        assert not UNCASED.special_ids & set(pieces.ids)
        assert tokens(pieces)[1] == "["
    assert not UNCASED.special_ids & set(UNCASED.encode_ids([special])[0])


def test_masks_are_made_only_where_asked() -> None:
    text = "the[MASK]cat [CLS] [MASK][MASK]\u00e9. [mask]"
    ids = UNCASED.ids_with_masks(text)
    parts = [UNCASED.encode_ids([part])[0] for part in text.split("[MASK]")]
    assert ids == [*parts[0], UNCASED.mask_id, *parts[1], UNCASED.mask_id, UNCASED.mask_id, *parts[3]]
    assert UNCASED.special_ids & set(ids) == {UNCASED.mask_id}
    assert UNCASED.ids_with_masks(100 * text) == 100 * ids
    assert UNCASED.ids_with_masks("") == []


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_ids_alone_are_those_of_the_pieces(text: str) -> None:
    text = f"the {text}"
    for length in (len(text), LONG + 1):
        whole = text * -(-length // len(text))
        assert UNCASED.ids(whole) == UNCASED.encode(whole).ids


def test_added_tokens_are_found_across_punctuation(tmp_path: Path) -> None:
    """As transformers does, which marks entities by them: "[E1] Bill Gates [/E1]"."""
    UNCASED.write(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.add_tokens(["[E1]", "the-cat", tokenizers.AddedToken("runs on", single_word=True)])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer, theirs = Tokenizer.read(tmp_path), BertTokenizer.from_pretrained(tmp_path)
    for text in ("[E1] the cat", "the[E1]cat runs on.", "a the-cat, runs one", "[E1]" * 600):
        ids = tokenizer.ids(text)
        assert ids == tokenizer.encode(text).ids == theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == tokenizer.words(1000).encode([text])[0] == tokenizer.ids_with_masks(text)


def test_long_texts_are_cut_where_other_threads_may_run() -> None:
    """The library's `encode` holds the interpreter, for 80 ms of 100,000 characters; its batches do not."""
    tokenizer = Tokenizer.read(FIXTURES)
    backend, called = tokenizer._backend, list[str]()

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            called.append(name)
            return getattr(backend, name)

    tokenizer._backend = Recorder()  # type: ignore[assignment]
    cuts: list[Callable[[str], Any]] = [tokenizer.encode, tokenizer.ids, tokenizer.ids_with_masks]
    cuts += [lambda text: tokenizer.encode_words([text]), lambda text: tokenizer.encode_ids([text])]
    for cut in cuts:
        called.clear()
        cut("the cat " * LONG)
        assert called and "encode" not in called


def test_given_words_keep_a_piece_each() -> None:
    words = ["U.N.", "unwantedx", "\u200b", "cafe\u0301"]
    pieces = UNCASED.encode_words(words)
    assert tokens(pieces) == ["u", ".", "n", ".", "unwanted", "##x", "[UNK]", "cafe"]
    assert pieces.words.tolist() == [0, 0, 0, 0, 1, 1, 2, 3]
    assert slices(" ".join(words), pieces) == ["U", ".", "N", ".", "unwanted", "x", "\u200b", "cafe\u0301"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no visible character"),
        (" \n\t", "no visible character"),
        ("\u200b\u0301", "no visible character"),
        ("a\0b", r"character 1 is U\+0000"),
        ("ab\ud800", r"character 2 is U\+D800"),
    ],
)
def test_unusable_text_is_refused_by_field(text: str, message: str) -> None:
    for cut in (UNCASED.encode, UNCASED.ids):
        with pytest.raises(InputError, match=message) as error:
            cut(text, "inputs.context")
        assert error.value.field == "inputs.context"


def test_unusable_characters_are_refused_everywhere() -> None:
    with pytest.raises(InputError, match=r"character 7 is U\+D83D"):
        UNCASED.ids_with_masks("[MASK] \ud83d")
    with pytest.raises(InputError, match=r"U\+0000"):
        UNCASED.encode_words(["a", "\0"])


def test_rows_are_built_as_in_the_paper() -> None:
    row = UNCASED.pair_row([7, 8], [9], [0])
    assert row.input_ids == [UNCASED.cls_id, 7, 8, UNCASED.sep_id, 9, UNCASED.sep_id]
    assert row.token_type_ids == [0, 0, 0, 0, 1, 1]
    assert UNCASED.single_row([7], [0, 1]).token_type_ids == [0, 0, 0]


def test_transformers_reads_what_is_written(tmp_path: Path) -> None:
    UNCASED.write(tmp_path)
    theirs = BertTokenizer.from_pretrained(tmp_path)
    assert theirs.vocab_size == UNCASED.vocab_size
    assert theirs.model_max_length == 512
    for text in ("UNwant\u00e9d,running", "日本 \U0001f642 the $1.50", "a" * 101, "unwantedX"):
        encoded = theirs(text, return_offsets_mapping=True)
        pieces = UNCASED.encode(text)
        assert encoded["input_ids"] == [UNCASED.cls_id, *pieces.ids, UNCASED.sep_id]
        assert encoded["offset_mapping"][1:-1] == list(map(tuple, pieces.offsets.tolist()))
    pair = theirs("the cat", "a dog")
    row = UNCASED.pair_row(UNCASED.encode("the cat").ids, UNCASED.encode("a dog").ids, [0])
    assert (pair["input_ids"], pair["token_type_ids"]) == (row.input_ids, row.token_type_ids)
    assert theirs.decode(row.input_ids) == UNCASED.decode(row.input_ids)


def test_what_is_written_has_no_padding_or_truncation_and_reads_back(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(written(UNCASED, tmp_path) / "tokenizer.json"))
    backend.enable_padding(length=16)
    backend.enable_truncation(4)
    backend.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.read(tmp_path)
    text = "the cat sat on the mat and the dog"
    assert again.encode(text) == UNCASED.encode(text)
    assert Tokenizer.read(tmp_path / "tokenizer.json").encode(text) == UNCASED.encode(text)
    again.write(tmp_path)
    saved = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert saved.padding is None
    assert saved.truncation is None
    (tmp_path / "tokenizer.json").unlink()
    assert Tokenizer.read(tmp_path).encode(text) == UNCASED.encode(text)


def test_special_tokens_of_a_file_that_does_not_mark_them_stay_out_of_text(tmp_path: Path) -> None:
    file = written(UNCASED, tmp_path) / "tokenizer.json"
    file.write_text(file.read_text("utf8").replace('"special": true', '"special": false'), "utf8")
    assert tokens(Tokenizer.read(file).encode("[SEP]")) == ["[", "s", "##e", "##p", "]"]


def test_damaged_vocabularies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither tokenizer.json nor vocab.txt"):
        Tokenizer.read(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        Tokenizer.read(tmp_path / "absent")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    with pytest.raises(CheckpointError, match=r"has no token \[MASK\]"):
        Tokenizer.read(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not a tokenizers file"):
        Tokenizer.read(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(CheckpointError, match=r"vocab.txt cannot be read \(.*\); restore the file, in UTF-8"):
        Tokenizer.read(tmp_path)


LINES = st.lists(
    st.sampled_from(["cat", "dog", "##s", "sat ", "sat", "on\u3000", "\u2028", "", "na\u00efve"]), max_size=12
)


@settings(deadline=None, max_examples=50)
@given(LINES)
def test_lines_that_repeat_or_end_in_blanks_have_the_ids_of_transformers(lines: list[str]) -> None:
    with TemporaryDirectory() as directory:
        tokenizer = Tokenizer.read(vocabulary(Path(directory), *lines, config='{"do_lower_case": false}'))
        theirs = BertTokenizer.from_pretrained(directory)
        tokenizer.write(Path(directory) / "written")
        (Path(directory) / "written/tokenizer.json").unlink()
        again = Tokenizer.read(Path(directory) / "written")
    text = "cat dogs sat on na\u00efve dog"
    assert tokenizer.ids(text) == again.ids(text) == theirs(text, add_special_tokens=False)["input_ids"]
    numbers = range(tokenizer.vocab_size)
    assert [tokenizer.token(i) for i in numbers] == [theirs.convert_ids_to_tokens(i) or "" for i in numbers]
    assert [tokenizer.decode([i]) for i in numbers] == [theirs.decode([i]) for i in numbers]
    assert again.vocab_size == tokenizer.vocab_size == 1 + max(i for token, i in theirs.get_vocab().items() if token)


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = written(UNCASED, tmp_path) / "tokenizer.json"
    file.write_text(file.read_text("utf8").replace('"BertPreTokenizer"', '"Whitespace"'), "utf8")
    with pytest.raises(CheckpointError, match="pre_tokenizer is Whitespace, expected BertPreTokenizer"):
        Tokenizer.read(file)


def written(tokenizer: Tokenizer, directory: Path) -> Path:
    tokenizer.write(directory)
    return directory
