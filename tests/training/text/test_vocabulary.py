"""If these fail, a vocabulary cuts text differently than BERT, misses its own script, or merges two words."""

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import transformers

from models.tokenizer import Tokenizer
from tests.training.corpora import write_documents
from training.__main__ import main
from training.errors import DataError
from training.text.alphabet import changes
from training.text.examples import Document
from training.text.vocabulary import lines_of, train_vocabulary

TEXTS = {
    "Japanese": "これはペンです。ガラスのがくふをみた。カタナはナタのもの",
    "Hindi": "शुक्रवार को दिल्ली में बारिश हुई। हिन्दी की किताबें पढ़ीं",
    "Ukrainian": "їжа і вода, її й його, Київ – їхній дім",
    "Vietnamese": "Tôi mua ma, má, mà, mả, mã và mạ ở Việt Nam",
    "German": "Wir essen in Essen, schon schön, die Masse und die Maße",
}
"""Of languages where a capital or a mark makes another word."""
CHINESE = "我们今天去学校学习中文。天气很好，学生们都很高兴。老师在教室里教中文课。"


def test_words_that_are_frequent_become_one_piece_and_nothing_is_unknown(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 20, 10)
    tokenizer = train_vocabulary([source], tmp_path / "out", 300, lowercase=True)
    assert tokenizer.vocab_size <= 300
    assert [tokenizer.token(i) for i in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (ids,) = tokenizer.encode_ids(["The HOUSE, the woman"])
    assert [tokenizer.token(i) for i in ids if tokenizer.token(i) != "[UNK]"] == ["the", "house", "the", "woman"]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "the small dog runs. 17 rivers"
    assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode_ids([text])[0]
    assert Tokenizer.read(tmp_path / "out").vocab_size == tokenizer.vocab_size


def test_chinese_characters_are_words_of_their_own(tmp_path: Path) -> None:
    source = tmp_path / "chinese.txt"
    source.write_text(CHINESE)
    tokenizer = train_vocabulary([source], tmp_path / "out", 400, lowercase=True)
    (ids,) = tokenizer.encode_ids(["中文学习很好"])
    assert [tokenizer.token(i) for i in ids] == list("中文学习很好")


def test_cased_keeps_capitals_and_the_command_says_how_large_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "text.txt"
    source.write_text("Österreich und Bern sind Länder. " * 20)
    main(["vocab", str(source), "--out", str(tmp_path / "out"), "--size", "120", "--cased"])
    tokenizer = Tokenizer.read(tmp_path / "out")
    assert not tokenizer.lowercase
    assert [tokenizer.token(i) for i in tokenizer.encode_ids(["Österreich Länder"])[0]] == ["Österreich", "Länder"]
    assert f"{tokenizer.vocab_size} entries" in capsys.readouterr().out


def test_words_stand_in_the_order_of_letters_and_nothing_else_is_left(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 20, 10)
    tokenizer = train_vocabulary([source], tmp_path / "out", 200, lowercase=True)
    words = [tokenizer.token(i) for i in range(5, tokenizer.vocab_size)]
    assert words == sorted(words) and len(words) > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents.jsonl", "out"]


def test_what_gives_no_vocabulary_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "text.txt"
    source.write_text("a b c. d e f.")
    with pytest.raises(DataError, match="--size is 10, expected 100 to 10,000,000"):
        train_vocabulary([source], tmp_path / "out", 10, True)
    with pytest.raises(DataError, match="--size is 1000000000000, expected 100 to 10,000,000"):
        train_vocabulary([source], tmp_path / "out", 10**12, True)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists; remove it"):
        train_vocabulary([source], tmp_path / "out", 300, True)
    source.write_text("   \n")
    with pytest.raises(DataError, match="no word was found"):
        train_vocabulary([source], tmp_path / "new", 300, True)


@pytest.fixture(scope="module", params=TEXTS)
def of_language(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A text, and the vocabulary that the command makes of it where nothing else is asked for."""
    directory, text = tmp_path_factory.mktemp(request.param), TEXTS[request.param]
    (directory / "text.txt").write_text(f"{text}\n" * 20, encoding="utf8")
    main(["vocab", str(directory / "text.txt"), "--out", str(directory / "out"), "--size", "400"])
    return text, directory / "out"


def test_nothing_of_a_text_is_lost_by_default(of_language: tuple[str, Path]) -> None:
    """The characters of its tokens are those of the text, every one of them."""
    text, out = of_language
    tokenizer = Tokenizer.read(out)
    [ids] = tokenizer.encode_ids([text])
    assert "".join(tokenizer.token(i).removeprefix("##") for i in ids) == "".join(text.split())


def test_transformers_reads_the_same_ids(of_language: tuple[str, Path]) -> None:
    """From tokenizer.json, and from vocab.txt with the settings beside it."""
    text, out = of_language
    expected = Tokenizer.read(out).encode_ids([text, text.upper()])
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    assert theirs([text, text.upper()], add_special_tokens=False)["input_ids"] == expected
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert (settings["do_lower_case"], settings["strip_accents"]) == (False, False)
    vocabulary = {line: number for number, line in enumerate((out / "vocab.txt").read_text("utf8").splitlines())}
    slow = transformers.BertTokenizer(vocabulary, do_lower_case=False, strip_accents=False)
    assert slow([text, text.upper()], add_special_tokens=False)["input_ids"] == expected


@pytest.mark.parametrize(
    ("options", "pieces", "said"),
    [
        ([], ["Öl", "öl", "Ол", "їжа"], ["case and accents are kept, so words remain distinct"]),
        (["--lowercase"], ["öl", "öl", "ол", "їжа"], ["--lowercase changes 80 characters (2 distinct): "]),
        (
            ["--strip-accents"],
            ["Ol", "ol", "Ол", "іжа"],
            ["--strip-accents changes 120 characters (3 distinct): "],
        ),
        (["--lowercase", "--strip-accents"], ["ol", "ol", "ол", "іжа"], ["--lowercase", "--strip-accents"]),
    ],
)
def test_case_and_accents_are_choices_of_their_own_and_what_goes_is_said(
    options: list[str], pieces: list[str], said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("Öl öl Ол їжа\n" * 40, encoding="utf8")
    out = tmp_path / "out"
    main(["vocab", str(tmp_path / "text.txt"), "--out", str(out), "--size", "120", *options])
    tokenizer = Tokenizer.read(out)
    assert [tokenizer.token(i) for i in tokenizer.encode_ids(["Öl öl Ол їжа"])[0]] == pieces
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    assert theirs("Öl öl Ол їжа", add_special_tokens=False)["input_ids"] == tokenizer.encode_ids(["Öl öl Ол їжа"])[0]
    lines = capsys.readouterr().out.splitlines()[:-1]
    for line, start in zip(lines, said, strict=True):
        assert line.startswith(start)


def test_what_is_removed_is_counted_with_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("です शु می\u200cخواهم\n" * 10, encoding="utf8")
    out = tmp_path / "out"
    main(["vocab", str(tmp_path / "text.txt"), "--out", str(out), "--size", "200", "--strip-accents"])
    assert capsys.readouterr().out.splitlines()[:-1] == [
        "--strip-accents changes 20 characters (2 distinct): で → て (10), ◌ु → nothing (10)",
        "BERT's cleaning removes 10 characters (1 distinct): U+200C → nothing (10)",
    ]


def test_characters_without_room_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rare = "".join(chr(0x4E00 + number) for number in range(60))
    (tmp_path / "text.txt").write_text(f"{'the cat ' * 50}\n{rare}", encoding="utf8")
    main(["vocab", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out"), "--size", "100"])
    assert "the vocabulary has no room for 15 characters (15 distinct): " in capsys.readouterr().out


@pytest.mark.parametrize("block", [(0, 0x530), (0x900, 0x980), (0x1E00, 0x1F00), (0x3040, 0x3100), (0xAC00, 0xAD00)])
def test_a_character_is_told_exactly_where_its_text_changes(block: tuple[int, int]) -> None:
    """By Unicode's own database: a mark is what NFD splits off; what has another small letter is a capital."""
    characters = Counter(map(chr, range(*block)))
    marked = {
        one for one in characters if any(unicodedata.category(c) == "Mn" for c in unicodedata.normalize("NFD", one))
    }
    assert {one for one, _ in changes(characters, strip_accents=True)} == marked
    assert {one for one, _ in changes(characters, lowercase=True)} == {one for one in characters if one.lower() != one}


def test_cased_says_the_default_and_contradicts_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["vocab", __file__, "--out", str(tmp_path / "out"), "--cased", "--lowercase"])
    assert "--cased keeps capitals and accents, expected no --lowercase" in capsys.readouterr().err


def test_text_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "text.txt"
    source.write_text("The cat sat.\n" * 20)

    def growing(documents: Iterable[Document]) -> Iterator[str]:
        yield from lines_of(documents)
        with source.open("a") as file:
            file.write("The dog ran.\n")
        os.utime(source, ns=(0, 0))

    monkeypatch.setattr("training.text.vocabulary.lines_of", growing)
    with pytest.raises(DataError, match=r"text\.txt changed while it was read \(260 bytes at first, 273 now\)"):
        train_vocabulary([source], tmp_path / "out", 200)
    assert not (tmp_path / "out").exists()
