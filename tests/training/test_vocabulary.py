"""What would break: a vocabulary that cuts text otherwise than BERT, or that does not know its own script."""

from pathlib import Path

import pytest
import transformers

from models.tokenizer import Tokenizer
from tests.training.corpora import write_documents
from training.__main__ import main
from training.errors import DataError
from training.vocabulary import train_vocabulary

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
    with pytest.raises(DataError, match="--size is 10, expected 100 or more"):
        train_vocabulary([source], tmp_path / "out", 10, True)
    with pytest.raises(DataError, match="--size is 1000000000000, expected .* up to 10,000,000"):
        train_vocabulary([source], tmp_path / "out", 10**12, True)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists; remove it"):
        train_vocabulary([source], tmp_path / "out", 300, True)
    source.write_text("   \n")
    with pytest.raises(DataError, match="no word was found"):
        train_vocabulary([source], tmp_path / "new", 300, True)
